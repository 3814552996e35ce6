"""Progress where nobody watches: a line now and then, and none where it is not wanted."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gpuannot.system.progress import ProgressLines

SMALL = [f"--set={setting}" for setting in ("layer=pool2", "input_size=32", "n_components=8", "n_centers=4")]


def test_a_line_every_so_often(capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    with ProgressLines("trunk", 2000, initial=200, every=30, clock=lambda: now) as bar:
        for _ in range(10):
            now += 10
            bar.set_postfix(limit="decode", refresh=False)
            bar.update(20)
    assert capsys.readouterr().err.splitlines() == [
        "trunk: 260 of 2000 img (13%), 2 img/s, 14 min left, limit decode",
        "trunk: 320 of 2000 img (16%), 2 img/s, 14 min left, limit decode",
        "trunk: 380 of 2000 img (19%), 2 img/s, 14 min left, limit decode",
    ]
    assert bar.n == 400


def test_a_line_where_nobody_knows_how_many(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    bar = ProgressLines("annotate", None, every=0, clock=lambda: now)
    bar.update(3)  # at once: no rate yet
    now = 4
    bar.update()
    assert capsys.readouterr().err == "annotate: 3 img, 0 img/s\nannotate: 4 img, 1 img/s\n"


def command(every: float, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = (
        f"import sys\nfrom gpuannot.system import progress\nprogress.EVERY = {every}\nfrom gpuannot.cli.main import main\nmain()"
    )
    return subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_what_a_log_holds(drawn_scenes: Path, tmp_path: Path) -> None:
    """Each line begins with what it is about; short work has no line of progress, and quiet work none at all."""
    model = tmp_path / "m.safetensors"
    fitted = command(0, "fit", drawn_scenes, "-o", model, *SMALL)
    assert fitted.returncode == 0 and fitted.stdout == ""
    *progress, result, following = fitted.stderr.splitlines()
    assert {line.partition(":")[0] for line in progress} >= {"trunk", "normalisation and PCA", "descriptors", "word vectors"}
    assert all(re.fullmatch(r"[\w ]+: \d+ of 24 img \(\d+%\), \S+ img/s, \S+ s left", line) for line in progress)
    assert result.startswith(f"{model}: ") and following.startswith("next: ")
    short = command(30, "annotate", model, drawn_scenes, "-o", tmp_path / "w.csv")
    assert short.stderr == f"{tmp_path}/w.csv: 24 images annotated, 0 failed\nleft out because of their names: 1 .json\n"
    (tmp_path / "bad.jpg").touch()
    quiet = command(0, "annotate", "-q", model, drawn_scenes / "images", tmp_path / "bad.jpg", "-o", tmp_path / "q.csv")
    assert quiet.returncode == 1 and quiet.stderr == f"1 input failed:\n  {tmp_path}/bad.jpg: empty file (0 bytes)\n"
    assert (tmp_path / "q.csv").read_bytes() == (tmp_path / "w.csv").read_bytes()
    words = command(0, "words", "remove", model, "sky", "--overwrite", "--quiet")
    assert (words.returncode, words.stdout, words.stderr) == (0, "", "")
