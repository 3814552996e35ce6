"""``gpuannot annotate`` with inputs of every kind and a folder for its output."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from runs import CHANGES, files, ledger, read
from small import RIDGE
from tars import write_tar
from typer.testing import CliRunner

from gpuannot import Annotator
from gpuannot.cli.annotate import is_folder
from gpuannot.cli.main import app
from gpuannot.datasets.label_files import LabelledImages
from gpuannot.jobs.writers import AnnotationWriter
from gpuannot.system.atomic_files import writing_alone


@pytest.fixture(autouse=True)
def warnings_as_before() -> Iterator[None]:
    """Each command replaces how warnings are shown."""
    with warnings.catch_warnings():
        yield


@pytest.fixture(scope="module")
def model(scenes: LabelledImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    annotator = Annotator(device="cpu", **CHANGES).fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary, progress=False)
    return annotator.save(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture
def pictures(drawn_scenes: Path) -> Path:
    return drawn_scenes / "images"


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["annotate", *(str(argument) for argument in arguments)])


def test_a_folder_of_parts(model: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"junk")
    out = tmp_path / "out"
    arguments = [model, pictures, tmp_path / "bad.jpg", "nowhere.jpg", "-o", out, "-k", "2", "--part-size", "10", "--threads", "3"]
    result = run(*arguments, "--json")
    assert result.exit_code == 1
    summary = json.loads(result.stdout)
    assert summary == json.loads((out / "_summary.json").read_text())
    assert (summary["inputs"], summary["rows"], summary["failures"], summary["parts"]) == (26, 24, 2, 3)
    assert summary["failures_by_stage"] == {"decode": 1, "find": 1} and summary["threads"] == 3
    assert f"{out}: 24 images annotated, 2 failed; 3 parts, 0 of them from before; " in result.stderr
    assert f"{out}/_failures: the failures and their reasons; --retry-failed tries them again\n2 inputs failed:\n" in result.stderr
    assert f"  {tmp_path}/bad.jpg: not an image" in result.stderr
    assert "  nowhere.jpg: no such file or folder\n" in result.stderr
    assert [len(row["words"]) for row in read(out)] == [2] * 24 and len(ledger(out)) == 2

    before = files(out)
    refused = run(*arguments)
    assert refused.exit_code == 2 and refused.stdout == ""
    assert f"error: {out} has results; go on with --resume, replace them with --overwrite" in refused.stderr
    resumed = run(*arguments, "--resume")
    assert resumed.exit_code == 1 and "3 parts, 3 of them from before" in resumed.stderr and files(out) == before
    assert "part_size was 10, now it is 4096" in run(model, pictures, "-k", "2", "-o", out, "--resume").stderr
    replaced = run(model, pictures, "-o", out, "--overwrite", "--format", "csv", "--vectors")
    assert replaced.exit_code == 0 and len(read(out)[0]["vector"].split(";")) == 32
    assert not list(out.glob("*.parquet")) and not ledger(out)


def test_limits_on_failures(model: Path, pictures: Path, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"")
    arguments = [model, pictures, tmp_path / "a.jpg", tmp_path / "b.jpg", "-o", f"{tmp_path}/out/"]
    for limit in (["--on-error", "stop"], ["--max-failures", "1", "--resume"]):
        result = run(*arguments, *limit)
        assert result.exit_code == 2 and result.stdout == ""
        assert result.stderr.startswith("error: ") and "empty file (0 bytes)" in result.stderr
    assert run(*arguments, "--resume", "--max-failures", "2").exit_code == 1


def test_good_inputs_are_done_beside_a_missing_one(model: Path, pictures: Path, tmp_path: Path) -> None:
    good = pictures / "scene_00000.jpg"
    printed = run(model, "missing.jpg", good, "-k", "1")
    assert printed.exit_code == 1 and printed.stdout.startswith(f"{good}\t") and printed.stdout.count("\n") == 1
    assert printed.stderr == "1 input failed:\n  missing.jpg: no such file or folder\n"
    assert run(model, "missing.jpg", good, "-o", tmp_path / "out.jsonl").exit_code == 1
    [failure] = map(json.loads, (tmp_path / "out.jsonl.failures.jsonl").read_text().splitlines())
    assert failure == {"path": "missing.jpg", "stage": "find", "reason": "no such file or folder"}
    assert run(model, "missing.jpg", "gone.jpg", "-o", tmp_path / "none").exit_code == 2
    assert len(ledger(tmp_path / "none")) == 2


@pytest.fixture(scope="module")
def rating(scenes: LabelledImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with confidences whose order of words is another one."""
    annotator = Annotator(device="cpu", **CHANGES, **RIDGE)
    annotator.fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary, progress=False)
    return annotator.save(tmp_path_factory.mktemp("rating") / "model.safetensors")


def test_words_in_order_of_confidence_everywhere(rating: Path, pictures: Path, tmp_path: Path) -> None:
    found = Annotator.load(rating, device="cpu").annotate(pictures, k=6)
    ordered = found.by_confidence()
    assert ordered.words != found.words
    printed = run(rating, pictures, "-k", "6")
    assert [line.split("\t")[1].split(", ") for line in printed.stdout.splitlines()] == list(map(list, ordered.words))
    for to in (["--json"], ["-o", tmp_path / "w.jsonl"], ["-o", tmp_path / "parts", "--format", "jsonl"]):
        result = run(rating, pictures, "-k", "6", *to)
        lines = result.stdout if to == ["--json"] else (tmp_path / "w.jsonl").read_text() if "w.j" in str(to[1]) else None
        rows = read(tmp_path / "parts") if lines is None else list(map(json.loads, lines.splitlines()))
        assert [tuple(row["words"]) for row in rows] == ordered.words
        assert all(row["confidences"] == sorted(row["confidences"], reverse=True) for row in rows)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such terminals")
def test_a_terminal_shows_weak_words_dimmed(rating: Path, pictures: Path) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "gpuannot", "annotate", str(rating), str(pictures / "scene_00000.jpg"), "-k", "6"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, text=True, env=environment) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                more = os.read(ours, 4096)
            except OSError:  # as Linux says that nobody writes there any more
                break
            if not more:
                break
            shown += more
        assert process.stderr is not None
        told = process.stderr.read()
    os.close(ours)
    found = Annotator.load(rating, device="cpu").annotate(pictures / "scene_00000.jpg", k=6).by_confidence()
    assert found.confidence is not None and found.weak_below == 0.5 and "words of a confidence below 0.50 are dimmed" in told
    words = shown.decode().rstrip().split("\t")[1].split(", ")
    dimmed = [word.startswith("\x1b[2m") and word.endswith("\x1b[0m") for word in words]
    assert dimmed == (found.confidence[0] < 0.5).tolist() and True in dimmed
    assert [word.removeprefix("\x1b[2m").removesuffix("\x1b[0m") for word in words] == list(found.words[0])


def test_which_files(model: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in" / "s.tar", {"x.jpg": (pictures / "scene_00000.jpg").read_bytes()})
    (tmp_path / "in" / "skip.tar").write_bytes(b"")
    (tmp_path / "t.csv").write_text(f"id,photo\n1,{pictures}/scene_00001.jpg\n")
    shards = run(model, tmp_path / "in", "--glob", "*.tar", "--exclude", "skip*", "--json")
    assert shards.exit_code == 0 and json.loads(shards.stdout)["path"] == f"{tmp_path}/in/s.tar/x.jpg"
    table = run(model, tmp_path / "t.csv", "--column", "photo", "--json")
    assert table.exit_code == 0 and json.loads(table.stdout)["path"] == f"{pictures}/scene_00001.jpg"
    assert json.loads(table.stdout)["model"] == Annotator.load(model, device="cpu").to_model_file().sha256
    url = run(model, f"file://{pictures}/scene_00001.jpg", "--json")
    assert json.loads(url.stdout)["words"] == json.loads(table.stdout)["words"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--resume"], "--resume needs a folder for the output"),
        (["-o", "out.csv", "--part-size", "5"], "--part-size needs a folder"),
        (["-o", "out.csv", "--vectors"], "--vectors needs a folder"),
        (["--format", "csv"], "--format needs a folder"),
        (["--max-failures", "0"], "--max-failures needs a folder"),
        (["--on-error", "stop"], "--on-error needs a folder"),
        (["--threads", "2"], "--threads needs a folder"),
        (["-o", "out.v2"], "suffix must be one of .parquet, .jsonl, .csv"),
        (["-o", "out", "--resume", "--overwrite"], "choose one"),
        (["-o", "no/out"], "no: no such folder for the output"),
        (["-o", "file"], "file is a file"),
        (["-o", "taken"], "taken holds other files"),
        (["-o", "out", "-k", "1000"], "k = 1000 must lie in"),
        (["-o", "out", "--part-size", "0"], "--part-size"),
        (["-o", "out", "--format", "xlsx"], "xlsx"),
        (["-o", "out", "--on-error", "panic"], "panic"),
        (["-o", "out", "--max-failures", "-1"], "--max-failures"),
    ],
)
def test_wrong_calls(
    model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("taken").mkdir()
    Path("taken", "a.jpg").touch()
    result = run(model, pictures, *arguments)
    assert result.exit_code == 2 and result.stdout == "" and "Traceback" not in result.stderr
    assert expected in " ".join(result.stderr.replace("│", " ").split())
    assert sorted(os.listdir()) == ["file", "taken"]


def test_what_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "there.v2").mkdir()
    (tmp_path / "there.csv").mkdir()
    folders = ("out", "out/", "out.csv/", str(tmp_path / "there.v2"), ".hidden")
    assert [is_folder(name) for name in folders] == [True] * 5
    assert [is_folder(name) for name in ("out.csv", "a/out.parquet", "out.v2", str(tmp_path / "there.csv"))] == [False] * 4


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_and_resumed(model: Path, pictures: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Stopped once the first part is whole: the message says how to go on, and that is all it takes."""
    (tmp_path / "list.txt").write_text(f"{pictures}/scene_00000.jpg\n{pictures}/gone.jpg\n" * 400)
    arguments = ["annotate", model, tmp_path / "list.txt", "-o", tmp_path / "out", "--part-size", "20"]
    command = [sys.executable, "-m", "gpuannot", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        marker = tmp_path / "out" / "_gpuannot" / "done" / "00000.json"
        while not marker.exists() and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    whole = len(list(marker.parent.glob("*.json")))
    assert process.returncode == code, stderr
    assert stdout == "" and "Traceback" not in stderr
    assert f"{tmp_path}/out: {whole} of 40 parts are whole; go on with --resume\nstopped\n" in stderr
    assert 1 <= whole < 40 and not list((tmp_path / "out").rglob("*.part"))
    resumed = CliRunner().invoke(app, [*map(str, arguments), "--resume"])
    assert resumed.exit_code == 1 and f"40 parts, {whole} of them from before" in resumed.stderr
    assert "400 inputs failed, the first 10:" in resumed.stderr
    assert pq.read_table(tmp_path / "out").num_rows == len(ledger(tmp_path / "out")) == 400


def test_the_ledger_of_a_file_is_there_before_its_rows(
    model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop between the two must not leave rows without the failures that complete them. Its reasons may hold any bytes."""
    (tmp_path / "latin.csv").write_bytes("Gr\xf6\xdfe;Datei\n3;x.jpg\n".encode("latin-1"))
    out, ledger_path = tmp_path / "o.jsonl", tmp_path / "o.jsonl.failures.jsonl"
    with monkeypatch.context() as patched:
        patched.setattr(AnnotationWriter, "commit", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(model, pictures, tmp_path / "latin.csv", "-o", out).exit_code == 130
    assert not out.exists() and len(ledger_path.read_text("utf-8").splitlines()) == 1
    assert run(model, pictures, tmp_path / "latin.csv", "-o", out).exit_code == 1
    [entry] = [json.loads(line) for line in ledger_path.read_text("utf-8").splitlines()]
    assert "\\udcf6" in entry["reason"] and len(out.read_text().splitlines()) == 24
    assert run(model, pictures, "-o", out, "--overwrite").exit_code == 0 and not ledger_path.exists()


def test_reasons_of_any_bytes_in_a_folder(model: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("Gr\xf6\xdfe;Datei\n3;x.jpg\n".encode("latin-1"))
    result = run(model, pictures, tmp_path / "latin.csv", "-o", tmp_path / "out")
    assert result.exit_code == 1 and len(read(tmp_path / "out")) == 24
    assert "\\udcf6" in ledger(tmp_path / "out")[0]["reason"]
    assert run(model, pictures, tmp_path / "latin.csv", "-o", tmp_path / "out", "--resume").exit_code == 1


def test_one_run_at_a_time_writes_a_file(model: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "words.csv"
    with writing_alone(out):
        refused = run(model, pictures, "-o", out)
    assert refused.exit_code == 2 and f"error: another run is writing to {out}; wait for it" in refused.stderr
    assert not list(tmp_path.iterdir())
    assert run(model, pictures, "-o", out).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["words.csv"]


def test_names_and_words_move_no_cursor(model: Path, pictures: Path, tmp_path: Path) -> None:
    name = "a\x1b[2Jb\n\tc.jpg"
    (tmp_path / name).write_bytes(next(pictures.iterdir()).read_bytes())
    (tmp_path / "bad\x07.jpg").write_bytes(b"junk")
    result = run(model, tmp_path, "-k", "1")
    assert result.stdout.startswith(f"{tmp_path}/a\\x1b[2Jb\\n\\tc.jpg\t") and result.stdout.count("\n") == 1
    assert "bad\\x07.jpg: not an image" in result.stderr and "\x07" not in result.stderr
    assert json.loads(run(model, tmp_path, "-k", "1", "--json").stdout)["path"] == f"{tmp_path}/{name}"


@pytest.mark.parametrize("output", [[], ["--json"], ["-o", "words.csv"], ["-o", "words.csv", "--json"], ["-o", "words/", "--json"]])
def test_a_closed_standard_output(model: Path, pictures: Path, tmp_path: Path, output: list[str]) -> None:
    command = [sys.executable, "-m", "gpuannot", "annotate", str(model), str(next(pictures.iterdir())), *output]
    result = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command], cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=False
    )
    assert result.returncode == 0 and "Traceback" not in result.stderr


def test_fewer_words_than_the_default(scenes: LabelledImages, pictures: Path, tmp_path: Path) -> None:
    labels = [["one"] if number % 2 else ["two"] for number in range(len(scenes))]
    annotator = Annotator(device="cpu", **CHANGES).fit(scenes.paths, labels, progress=False)
    model = annotator.save(tmp_path / "two.safetensors")
    result = run(model, pictures)
    assert result.exit_code == 0 and {line.count(",") for line in result.stdout.splitlines()} == {1}
    assert run(model, pictures, "-o", tmp_path / "out/").exit_code == 0
    assert {len(row["words"]) for row in read(tmp_path / "out")} == {2}
    refused = run(model, pictures, "-k", "5")
    assert refused.exit_code == 2 and "k = 5 must lie in 1…2" in refused.stderr
    assert annotator.annotate([next(pictures.iterdir())]).index.shape == (1, 2)
    assert len(annotator.explain([next(pictures.iterdir())])[0].words) == 2


def test_the_rest_of_a_folder_some_of_which_is_labelled(
    model: Path, scenes: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names mean what they mean to fit, as 'a 2' does 'a 2.jpg' here; an image whose row holds no word is one of the rest."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    names = ["Düne.JPG", "a 2.jpg", "empty.jpg", "rest 1.jpg", "rest.JPEG"]
    for name, path in zip(names, scenes.paths, strict=False):
        shutil.copy(path, Path("photos") / name)
    Path("tags.csv").write_bytes(
        "Photo,Keywords\r\nphotos/Düne.JPG,sky;sea\r\n./photos/a 2,sky\r\nphotos/empty.jpg,\r\n".encode("cp1252")
    )
    rest = [f"photos/{name}" for name in names[2:]]
    skip = ["--skip-labelled", "tags.csv", "-k", "2"]
    printed = run(model, "photos", *skip)
    assert printed.exit_code == 0 and [line.partition("\t")[0] for line in printed.stdout.splitlines()] == rest
    assert "2 images with words in tags.csv left out" in printed.stderr
    assert run(model, "photos", "-o", "rest.parquet", *skip).exit_code == 0
    assert pq.read_table("rest.parquet")["path"].to_pylist() == rest
    written = run(model, *sorted(map(str, Path("photos").iterdir())), "-o", "rest/", *skip)
    assert written.exit_code == 0 and sorted(row["path"] for row in read(Path("rest"))) == rest
    assert "2 images with words in tags.csv left out" in written.stderr
    assert "now it is 'photos/Düne.JPG'" in run(model, "photos", "-o", "rest/", "-k", "2", "--resume").stderr

    page = CliRunner().invoke(app, ["report", str(model), "photos", "-o", "a.html", *skip])
    assert page.exit_code == 0 and "a.html: 3 images" in page.stderr and "2 images with words" in page.stderr, page.output
    text = Path("a.html").read_text()
    assert "rest 1.jpg" in text and "a 2.jpg" not in text
    refused = CliRunner().invoke(app, ["report", "rest.parquet", "-o", "b.html", *skip[:2]])
    assert refused.exit_code == 2 and "--skip-labelled goes with a model" in refused.stderr

    Path("other").mkdir()
    shutil.copy(scenes.paths[9], "other/x.jpg")
    assert "not one of these images has words in tags.csv, so none is left out" in run(model, "other", *skip).stderr
    for output in ([], ["-o", "none/"], ["-o", "none.csv"]):
        nothing = run(model, "photos/a 2.jpg", *skip, *output)
        assert nothing.exit_code == 2 and ("1 image found, and each has words in tags.csv" in nothing.stderr or "none/" in output)
        assert not Path("none.csv").exists()
    assert run(model, "photos", "--skip-labelled", "gone.csv").exit_code == 2


def test_what_fit_says_of_the_rest_runs(scenes: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(scenes.paths[0].parent, "my photos")
    rows = [f"my photos/{path.name},{['sky', 'sea'][number % 2]}" for number, path in enumerate(scenes.paths[:10])]
    Path("tags.csv").write_text("\n".join(["image,words", *rows, f"my photos/{scenes.paths[10].name},"]))
    settings = [f"--set={name}={value}" for name, value in CHANGES.items()]
    fitted = CliRunner().invoke(app, ["fit", "tags.csv", *settings])
    assert fitted.exit_code == 0 and f"{len(scenes) - 11} images beside the label file" in fitted.stderr
    assert "1 image has no word and was learnt as showing none" in fitted.stderr
    [following] = re.findall(r"^next: .*?gpuannot (annotate .*)$", fitted.stderr, re.M)
    done = CliRunner().invoke(app, shlex.split(following))
    assert done.exit_code == 0 and len(done.stdout.splitlines()) == len(scenes) - 10, done.output
