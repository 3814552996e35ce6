"""The experiment end to end, on drawn scenes laid out as Corel5k is."""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpuannot import Annotator, datasets
from gpuannot.cli import app
from gpuannot.config import AnnotatorConfig
from gpuannot.errors import DataError
from gpuannot.metrics import evaluate
from gpuannot.reproduce import PAPER, reproduce

SMALL = AnnotatorConfig(layer="pool2", input_size=32, n_components=8, n_centers=4)
K = 3


@pytest.fixture
def benchmark_folder(drawn_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """18 training and 6 test scenes in the benchmark's layout, and the benchmark declared to be of that size."""
    folder = tmp_path / "data"
    shutil.copytree(drawn_scenes / "images", folder / "images")
    content = json.loads((drawn_scenes / "labels.json").read_text())
    for name, part in (("train", content["samples"][:18]), ("test", content["samples"][18:])):
        (folder / f"{name}.json").write_text(json.dumps({"samples": part, "labels": content["labels"]}))
    (folder / "vocabulary.txt").write_text("\n".join(content["labels"]) + "\n")
    monkeypatch.setitem(datasets.BENCHMARKS, "corel5k", (18, 6, len(content["labels"])))
    return folder


def test_seeds_scores_and_their_summary(benchmark_folder: Path, tmp_path: Path) -> None:
    result = reproduce("corel5k", benchmark_folder, SMALL, seeds=3, k=K, cache=tmp_path / "cache", device="cpu")
    json.dumps(result)
    assert [run["seed"] for run in result["runs"]] == [0, 1, 2]
    assert len({run["model_sha256"] for run in result["runs"]}) == 3
    values = [run["f1"] for run in result["runs"]]
    summary = result["summary"]["f1"]
    assert summary["mean"] == pytest.approx(statistics.mean(values))
    assert summary["std"] == pytest.approx(statistics.stdev(values))
    assert (summary["min"], summary["max"]) == (min(values), max(values))
    assert result["paper"]["conv5_2 + VLAD + positive mean"] == (26.93, 41.43, 32.64, 161)
    assert result["images"] == {"train": 18, "test": 6}

    # The row is what fit and annotate give: the cache and the shared steps change nothing.
    train, test = datasets.load_benchmark("corel5k", benchmark_folder)
    annotator = Annotator(SMALL, seed=1, device="cpu").fit(train.paths, train.labels, vocabulary=train.vocabulary)
    scores = evaluate(annotator.annotate(test.paths, K).index, test.labels)
    assert annotator.to_model_file().sha256 == result["runs"][1]["model_sha256"]
    assert scores.f1 == result["runs"][1]["f1"]


def test_features_are_computed_once_and_again_for_other_images(benchmark_folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def stored() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in cache.rglob("features.*")}

    def run(config: AnnotatorConfig = SMALL) -> float:
        result = reproduce("corel5k", benchmark_folder, config, k=K, cache=cache, device="cpu")
        return float(result["summary"]["f1"]["mean"])

    first = run()
    kept = stored()
    assert len(kept) == 4  # two files a split
    assert run() == first
    assert stored() == kept
    run(AnnotatorConfig(**{**SMALL.to_dict(), "interpolation": "bilinear"}))
    assert len(stored()) == 8
    image = sorted((benchmark_folder / "images").iterdir())[0]
    image.write_bytes(image.read_bytes() + b" ")
    run()
    assert len(stored()) == 10  # the training split's, once more
    assert kept.items() <= stored().items()


def test_an_image_that_cannot_be_read_stops_the_experiment(benchmark_folder: Path, tmp_path: Path) -> None:
    sorted((benchmark_folder / "images").iterdir())[20].write_bytes(b"junk")
    with pytest.raises(DataError, match=r"1 images of corel5k/test cannot be read; the first: .*scene_00020"):
        reproduce("corel5k", benchmark_folder, SMALL, cache=tmp_path / "cache", device="cpu")
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_command(benchmark_folder: Path, tmp_path: Path) -> None:
    settings = [f"--set={name}={getattr(SMALL, name)}" for name in ("layer", "input_size", "n_components", "n_centers")]
    arguments = ["reproduce", "corel5k", "--data", str(benchmark_folder), "--cache", str(tmp_path / "c"), "-k", "3", *settings]
    result = CliRunner().invoke(app, [*arguments, "--seeds", "2", "-o", str(tmp_path / "result.json")])
    assert result.exit_code == 0, result.output
    for method in PAPER:
        assert f"paper: {method}" in result.stdout
    stored = json.loads((tmp_path / "result.json").read_text())
    f1 = stored["summary"]["f1"]
    assert f"{100 * f1['mean']:.2f} ± {100 * f1['std']:.2f}" in result.stdout
    again = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(again.stdout)["runs"][0]["f1"] == stored["runs"][0]["f1"]


def test_labels_without_images(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "iaprtc12"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing; set GPUANNOT_SHARED to the folder that holds it")
    result = CliRunner().invoke(app, ["reproduce", "iaprtc12", "--data", str(folder), "--cache", str(tmp_path)])
    assert result.exit_code == 2
    assert "labels alone cannot be annotated" in result.stderr
