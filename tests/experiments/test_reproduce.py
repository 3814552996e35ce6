"""The experiment end to end, on drawn scenes laid out as Corel5k is."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import sparse
from typer.testing import CliRunner

from gpuannot import Annotator
from gpuannot.cli.main import app
from gpuannot.config import AnnotatorConfig
from gpuannot.datasets import label_files as datasets
from gpuannot.datasets.scenes import WORDS
from gpuannot.errors import DataError
from gpuannot.experiments.reproduce import PAPER, reproduce
from gpuannot.metrics import evaluate

pytestmark = pytest.mark.usefixtures("weights_read_once")
SMALL = AnnotatorConfig(layer="pool2", input_size=32, n_components=8, n_centers=4)
K = 3


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


def labels_of(shared: Path, name: str) -> Path:
    folder = shared / "data" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing; set GPUANNOT_SHARED to the folder that holds it")
    return folder


def test_labels_without_images(shared: Path, tmp_path: Path) -> None:
    folder = labels_of(shared, "iaprtc12")
    result = CliRunner().invoke(app, ["reproduce", "iaprtc12", "--data", str(folder), "--cache", str(tmp_path)])
    assert result.exit_code == 2
    assert "labels alone cannot be annotated" in result.stderr


@pytest.mark.parametrize("name", ["iaprtc12", "espgame"])
def test_the_real_label_files(shared: Path, tmp_path: Path, name: str) -> None:
    """A set's images under all their names, one of a few drawn for each: the colour says which of 24 words is the image's first."""
    folder, data = labels_of(shared, name), tmp_path / "data"
    (data / "images").mkdir(parents=True)
    for file in ("train.json", "test.json", "vocabulary.txt"):
        (data / file).symlink_to(folder / file)
    splits = [json.loads((folder / f"{split}.json").read_text())["samples"] for split in ("train", "test")]
    words = (folder / "vocabulary.txt").read_text().split()
    train, test = (np.array([[word in sample["image_labels"] for word in words] for sample in split]) for split in splits)
    frequent = np.argsort(-train.sum(axis=0), kind="stable")
    shown = [words[word] for word in frequent[5:29]]
    for number in range(len(shown) + 1):
        colour = (number % 3 * 120, number // 3 % 3 * 120, number // 9 * 100)
        Image.new("RGB", (16, 16), colour).save(data / f"{number}.jpg", quality=95)
    for sample in (*splits[0], *splits[1]):
        number = next((place for place, word in enumerate(shown) if word in sample["image_labels"]), len(shown))
        (data / "images" / sample["image_name"]).hardlink_to(data / f"{number}.jpg")
    settings = ["--set=layer=pool3", "--set=input_size=16", "--set=n_components=8", "--set=n_centers=4", "--set=batch_size=512"]
    result = CliRunner().invoke(
        app, ["reproduce", name, "--data", str(data), "--cache", str(tmp_path / "cache"), "--json", *settings]
    )
    assert result.exit_code == 0, result.output
    stored = json.loads(result.stdout)
    [run] = stored["runs"]
    assert stored["images"] == {"train": len(train), "test": len(test)} and run["words"] == len(words)
    assert (
        stored["paper"] == {method: list(rows[name]) for method, rows in PAPER.items() if name in rows}
        and len(stored["paper"]) == 5
    )
    constant = evaluate(np.tile(frequent[:5], (len(test), 1)), sparse.csr_array(test.astype(np.float32)))
    assert run["f1"] > 2 * constant.f1 and run["n_plus"] > constant.n_plus


# ---- the result, measured by hand, and the cache


def run(data: Path, cache: Path, config: AnnotatorConfig = SMALL, **changes: Any) -> dict[str, Any]:
    return reproduce("corel5k", data, config, **{"k": K, "cache": cache, "device": "cpu", **changes})


def stored_in(cache: Path) -> dict[str, tuple[int, int]]:
    """Each file with its inode and time of change: both stay while nobody writes it."""
    files = [path for path in cache.rglob("*") if path.is_file()]
    return {str(path.relative_to(cache)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def test_the_result_as_json(benchmark_folder: Path, tmp_path: Path) -> None:
    result = run(benchmark_folder, tmp_path / "cache", seeds=2)
    text = json.dumps(result)
    assert json.dumps(json.loads(text)) == text and "NaN" not in text
    assert result["schema"] == "gpuannot.reproduce/1" and result["dataset"] == "corel5k" and result["k"] == K
    assert (
        AnnotatorConfig.from_dict(result["config"]) == Annotator(SMALL, device="cpu").config
        and len(result["trunk"]["weights_sha256"]) == 64
    )
    assert set(result["seconds"]) >= {"features", "fit", "annotate"} and min(result["seconds"].values()) >= 0
    assert {"date", "commit", "versions", "processor", "gpus", "platform"} <= set(result["environment"])
    assert set(result["summary"]) >= {"precision", "recall", "f1", "n_plus"}
    for measure, summary in result["summary"].items():
        values = [each[measure] for each in result["runs"]]
        expected = (statistics.mean(values), statistics.stdev(values), min(values), max(values))
        assert (summary["mean"], summary["std"], summary["min"], summary["max"]) == pytest.approx(expected, abs=1e-12)
    one = run(benchmark_folder, tmp_path / "cache")["summary"]["f1"]
    assert one["std"] == 0.0 and one["mean"] == one["min"] == one["max"] == result["runs"][0]["f1"]


def test_a_run_scores_by_the_protocol(benchmark_folder: Path, tmp_path: Path) -> None:
    [one] = run(benchmark_folder, tmp_path / "cache")["runs"]
    train, test = datasets.load_benchmark("corel5k", benchmark_folder)
    made = Annotator(SMALL, device="cpu").fit(train.paths, train.labels, vocabulary=train.vocabulary)
    given, truth = made.annotate(test.paths, K).index, test.labels.toarray() > 0
    precision, recall = [], []
    for word in range(len(WORDS)):
        chosen = (given == word).any(axis=1)
        correct = int((chosen & truth[:, word]).sum())
        precision.append(correct / chosen.sum() if chosen.any() else 0.0)
        recall.append(correct / truth[:, word].sum() if truth[:, word].any() else 0.0)
    p, r = np.mean(precision), np.mean(recall)
    assert (one["precision"], one["recall"], one["f1"]) == pytest.approx((p, r, 2 * p * r / (p + r)), abs=1e-12)
    assert one["n_plus"] == sum(value > 0 for value in recall) and one["words"] == len(WORDS)


def test_what_the_cache_is_good_for(benchmark_folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "new" / "cache"
    run(benchmark_folder, cache)
    written = stored_in(cache)
    run(
        benchmark_folder,
        cache,
        dataclasses.replace(SMALL, n_centers=5, n_components=6, metric="cosine", l2=True, seed=4, batch_size=3),
    )
    assert stored_in(cache) == written  # settings after the trunk need no trunk
    for number, change in enumerate(({"layer": "conv2_1"}, {"layer": "conv2_1", "relu": False}, {"input_size": 48}), start=2):
        before = stored_in(cache)
        run(benchmark_folder, cache, dataclasses.replace(SMALL, **change))
        assert before.items() < stored_in(cache).items() and len(stored_in(cache)) == 4 * number


def test_an_image_of_the_same_size_written_anew_is_computed_again(benchmark_folder: Path, tmp_path: Path) -> None:
    before = run(benchmark_folder, tmp_path / "cache")["runs"]
    for path in (benchmark_folder / "images").iterdir():
        size = path.stat().st_size
        Image.new("RGB", (40, 30), (size % 256, size // 256, 99)).save(path, "JPEG")
        with open(path, "ab") as file:
            file.write(b"\0" * (size - file.tell()))
        assert path.stat().st_size == size
    assert run(benchmark_folder, tmp_path / "cache", dataclasses.replace(SMALL, n_components=2, n_centers=2))["runs"] != before
    assert len(stored_in(tmp_path / "cache")) == 8


def test_a_damaged_cache_is_computed_again(benchmark_folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    before = run(benchmark_folder, cache)["runs"]
    [folder] = (cache / "corel5k-train").iterdir()
    whole = (folder / "features.bin").read_bytes()
    for damage in (
        lambda: os.truncate(folder / "features.bin", 1000),
        lambda: (folder / "features.json").unlink(),
        lambda: (folder / "features.json").write_text("[]"),
    ):
        damage()
        assert run(benchmark_folder, cache)["runs"] == before
        assert (folder / "features.bin").read_bytes() == whole


def test_not_one_readable_image_leaves_nothing_in_the_cache(benchmark_folder: Path, tmp_path: Path) -> None:
    for path in (benchmark_folder / "images").iterdir():
        path.write_bytes(b"not an image")
    with pytest.raises(DataError, match="18 images of corel5k/train cannot be read"):
        run(benchmark_folder, tmp_path / "cache")
    assert stored_in(tmp_path / "cache") == {}


def test_impossible_wishes(benchmark_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seeds = 0 must be at least 1"):
        run(benchmark_folder, tmp_path / "cache", seeds=0)
    with pytest.raises(ValueError, match="k = 99 must lie in 1…"):
        run(benchmark_folder, tmp_path / "cache", k=99)
    with pytest.raises(DataError, match="'coco' is unknown"):
        reproduce("coco", benchmark_folder, SMALL, cache=tmp_path / "cache")


def test_a_folder_of_another_size_is_not_the_benchmark(benchmark_folder: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["reproduce", "espgame", "--data", str(benchmark_folder), "--cache", str(tmp_path / "cache")])
    assert result.exit_code == 2 and "so its numbers could not be compared" in result.stderr and result.stdout == ""
    assert not (tmp_path / "cache").exists()


def test_the_output_s_folder_is_checked_before_the_work(benchmark_folder: Path, tmp_path: Path) -> None:
    arguments = ["reproduce", "corel5k", "--data", str(benchmark_folder), "--cache", str(tmp_path / "cache")]
    result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "nowhere" / "result.json")])
    assert result.exit_code == 2 and "nowhere: no such folder for the output" in result.stderr
    assert not (tmp_path / "cache").exists()


def test_the_paper_s_tables(shared: Path) -> None:
    protocol = shared / "PROTOCOL.md"
    if not protocol.is_file():
        pytest.skip(f"{protocol} is missing; set GPUANNOT_SHARED to the folder that holds it")
    rows = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in protocol.read_text(encoding="utf-8").splitlines()]
    printed = {
        cells[0].removeprefix("paper: ").partition(" (")[0]: dict(zip(("corel5k", "iaprtc12", "espgame"), cells[1:], strict=True))
        for cells in rows
        if len(cells) == 4 and cells[1].count(" / ") == 3
    }
    assert len(printed) == len(PAPER) == 7
    for method, data_sets in PAPER.items():
        for data_set, (*shares, n_plus) in data_sets.items():
            assert " / ".join([*(f"{share:.2f}" for share in shares), str(n_plus)]) == printed[method][data_set]
        assert len(data_sets) == sum(bool(cell) for cell in printed[method].values())
