"""The examples run on drawn scenes, and what they print is what the library finds."""

from __future__ import annotations

import csv
import math
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from gpuannot import Annotator
from gpuannot.datasets.label_files import LabelledImages

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Run an example as its command line would; returns its lines."""

    def called(name: str, *arguments: str | Path) -> list[str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return called


@pytest.fixture(scope="module")
def model(scenes: LabelledImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    annotator = Annotator(layer="pool3", input_size=64, n_components=16, n_centers=8, device="cpu")
    annotator.fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary)
    return annotator.save(tmp_path_factory.mktemp("model") / "model.safetensors")


def test_every_example_is_tested_here() -> None:
    text = Path(__file__).read_text()
    assert [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in text] == []


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_without_arguments_it_says_what_they_are(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(path)])
    with pytest.raises(SystemExit, match=f"python examples/{path.name} "):
        runpy.run_path(str(path), run_name="__main__")


def test_annotate_a_folder(call: Callable[..., list[str]], drawn_scenes: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    for word in ("sea", "sky"):
        (tmp_path / "labelled" / word).mkdir(parents=True)
    scenes = sorted((drawn_scenes / "images").glob("*.jpg"))
    for number, scene in enumerate(scenes[:4]):
        shutil.copy(scene, tmp_path / "labelled" / ("sea", "sky")[number % 2])
    pictures.mkdir()
    shutil.copy(scenes[5], pictures / "holiday.jpg")
    (pictures / "broken.jpg").write_bytes(b"no image")
    printed = call("annotate_folder.py", tmp_path / "labelled", pictures, tmp_path / "words.csv")
    (row,) = csv.DictReader((tmp_path / "words.csv").read_text().splitlines())
    assert row["path"] == str(pictures / "holiday.jpg") and set(row["words"].split(";")) == {"sea", "sky"}
    assert f"holiday.jpg: {row['words'].replace(';', ', ')}" in printed
    assert f"1 images annotated in {tmp_path}/words.csv, 1 failed" in printed and "broken.jpg: not an image" in printed[-1]


def test_torch_pipeline(call: Callable[..., list[str]], model: Path, drawn_scenes: Path) -> None:
    printed = call("torch_pipeline.py", model, drawn_scenes / "images")
    paths = sorted((drawn_scenes / "images").glob("*.jpg"))
    expected = Annotator.load(model, device="cpu").annotate(paths, k=3)
    assert [line.split()[0] for line in printed] == [path.name for path in paths]
    assert [tuple(line.split()[1::2]) for line in printed] == expected.words


def test_add_words(call: Callable[..., list[str]], model: Path, drawn_scenes: Path, tmp_path: Path) -> None:
    scenes = sorted((drawn_scenes / "images").glob("*.jpg"))
    (tmp_path / "labels.csv").write_text(f"image,words\n{scenes[0]},sky;lighthouse\n{scenes[1]},lighthouse\n")
    printed = call("add_words.py", model, tmp_path / "labels.csv", tmp_path / "new.safetensors")
    before, after = (Annotator.load(path, device="cpu") for path in (model, tmp_path / "new.safetensors"))
    assert after.vocabulary == (*before.vocabulary, "lighthouse") and "new words: lighthouse" in printed
    sky = before.vocabulary.index("sky")
    assert after.bank_.counts[sky] == before.bank_.counts[sky] + 1 and after.bank_.counts[-1] == 2
    both = after.encoder.encode(scenes[:2])[1].astype("float64").sum(axis=0)
    assert after.bank_.sums[-1] == pytest.approx(both, rel=1e-12)


def test_own_trunk(call: Callable[..., list[str]], drawn_scenes: Path, scenes: LabelledImages) -> None:
    printed = call("own_trunk.py", drawn_scenes)
    assert printed[::2] == ["module:edges, 8 channels at (8, 8)", "module:own-network, 16 channels at (8, 8)"]
    assert all(set(line.strip().split(", ")) <= set(scenes.vocabulary) for line in printed[1::2])

    edges = runpy.run_path(str(EXAMPLES / "own_trunk.py"))["Edges"]()
    ramp = torch.arange(64, dtype=torch.uint8).expand(1, 3, 64, 64).contiguous()  # 1 brighter with each pixel to the right
    expected = torch.tensor([math.cos(number * math.pi / 4) / 255 for number in range(8)]).clamp(min=0)
    torch.testing.assert_close(edges(ramp), expected.expand(1, 64, 8), rtol=1e-4, atol=1e-7)
    upright = ramp.transpose(2, 3).contiguous()
    assert torch.allclose(edges(upright), edges(ramp).roll(2, dims=2), atol=1e-7)


def test_dask_cluster(tmp_path: Path, drawn_scenes: Path) -> None:
    scenes = sorted((drawn_scenes / "images").glob("*.jpg"))[:6]
    for number, scene in enumerate(scenes):
        place = tmp_path / "labelled" / ("sea", "sky", "tree")[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(scene, place)
    command = [sys.executable, str(EXAMPLES / "dask_cluster.py"), "labelled", "labelled/sea", "words"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "learnt 3 words from 6 images\nwords: 2 images annotated, 0 failed, by " in done.stdout
    assert pq.read_table(tmp_path / "words").column("path").to_pylist() == [f"labelled/sea/{scenes[at].name}" for at in (0, 3)]
