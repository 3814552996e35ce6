"""The comparison on drawn scenes: every row, the choices, and what is missing."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from gpuannot import Annotator
from gpuannot.baselines import benchmark_features, comparison
from gpuannot.baselines.benchmark_features import KINDS, LAYERS, BenchmarkFeatures
from gpuannot.baselines.comparison import ROWS, Row, compare
from gpuannot.baselines.end_to_end import EndToEnd
from gpuannot.baselines.global_features import GlobalFeatures
from gpuannot.baselines.two_pass_knn import TwoPassKNN
from gpuannot.cli.main import app
from gpuannot.config import AnnotatorConfig
from gpuannot.datasets.label_files import load_benchmark
from gpuannot.errors import DeviceError
from gpuannot.experiments.reproduce import PAPER
from gpuannot.metrics import evaluate
from gpuannot.model.encoder import Encoder
from gpuannot.reference.vlad import nearest_center

pytestmark = pytest.mark.usefixtures("weights_read_once")
SMALL = AnnotatorConfig(layer="pool2", input_size=32, n_components=8, n_centers=4)


def test_every_row_of_the_paper_and_every_kind_is_there() -> None:
    answered = {row.paper for row in ROWS}
    assert answered - {None} == set(PAPER)
    assert {row.features for row in ROWS} <= set(KINDS)
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_all_rows_run(benchmark_folder: Path, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    rows = [
        dataclasses.replace(row, grid={name: values[:2] for name, values in row.grid.items()})
        for row in ROWS
        if row.features != "images"
    ]
    result = compare("corel5k", benchmark_folder, SMALL, k=3, splits=1, rows=rows, cache=tmp_path, device="cpu", report=seen.append)
    json.dumps(result)
    assert result["rows"] == seen and len(seen) == len(rows)
    for row, outcome in zip(rows, result["rows"], strict=True):
        assert "missing" not in outcome, outcome
        assert set(outcome["chosen"]) == set(row.grid)
        assert 0 < outcome["scores"]["f1"] <= 1 and outcome["scores"]["mean_average_precision"] > 0
        assert outcome["paper_row"] == row.paper
    ours = next(outcome for outcome in seen if outcome["paper_row"] == "conv5_2 + VLAD + positive mean")
    train, test = load_benchmark("corel5k", benchmark_folder)
    annotator = Annotator(SMALL, device="cpu").fit(train.paths, train.labels, vocabulary=train.vocabulary)
    assert ours["scores"]["f1"] == evaluate(annotator.annotate(test.paths, 3).index, test.labels).f1


def test_the_choice_is_the_holdouts(benchmark_folder: Path, tmp_path: Path) -> None:
    row = Row("2PKNN", "vlad", TwoPassKNN, {"nearest_per_word": (1, 2, 3), "beta": (0.0, 5.0)})
    (outcome,) = compare("corel5k", benchmark_folder, SMALL, k=3, rows=[row], cache=tmp_path, device="cpu")["rows"]
    trials = outcome["search"]["trials"]
    assert len(trials) == 6 and outcome["search"]["splits"] == 2
    assert outcome["chosen"] == max(trials, key=lambda trial: trial["f1"])["values"]
    train, test = load_benchmark("corel5k", benchmark_folder)
    train_vectors, test_vectors = BenchmarkFeatures(train, test, SMALL, cache=tmp_path, device="cpu").get("vlad")
    again = TwoPassKNN(**outcome["chosen"], device="cpu").fit(train_vectors, train.labels, train.vocabulary)
    index, _ = again.annotate(test_vectors, 3)
    assert outcome["scores"]["f1"] == evaluate(index.numpy(), test.labels).f1


def test_vlad_features_are_the_annotators(benchmark_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = load_benchmark("corel5k", benchmark_folder)
    features = BenchmarkFeatures(train, test, SMALL, cache=tmp_path, device="cpu")
    annotator = Annotator(SMALL, device="cpu").fit(train.paths, train.labels, vocabulary=train.vocabulary)
    _, vectors = annotator.encoder.encode(test.paths)
    np.testing.assert_array_equal(features.get("vlad")[1], vectors)
    normalised = Encoder(annotator.config, signed_sqrt=True, l2=True, device="cpu")
    normalised.transform_, normalised.codebook_ = annotator.encoder.transform_, annotator.encoder.codebook_
    np.testing.assert_allclose(features.get("vlad-normalised")[1], normalised.encode(test.paths)[1], rtol=1e-6, atol=1e-7)
    counts = features.get("visual-words")[1]
    assert counts.sum() == len(test) * 64
    extractor = annotator.encoder.extractor
    with extractor.new_store(len(test)) as store:
        extractor.extract(test.paths, store, np.arange(len(test)))
        with annotator.encoder.describe(store) as descriptors:
            _, block = next(iter(descriptors.blocks()))
    first = nearest_center(block[0].numpy(), annotator.encoder.codebook_.centers[0])
    np.testing.assert_array_equal(counts[0], [(first == center).sum() for center in range(4)])
    # A second time nothing is computed.
    again = BenchmarkFeatures(train, test, SMALL, cache=tmp_path, device="cpu")
    monkeypatch.setattr(Encoder, "describe", None)  # the way to any vector or count
    np.testing.assert_array_equal(again.get("vlad")[1], vectors)
    with pytest.raises(ValueError, match="unknown"):
        features.get("fc9")


def test_features_of_each_layer(benchmark_folder: Path, tmp_path: Path) -> None:
    train, test = load_benchmark("corel5k", benchmark_folder)
    config = dataclasses.replace(SMALL, trunk_dtype="float32")  # in int8 a layer is rounded where others follow it
    features = BenchmarkFeatures(train, test, config, cache=tmp_path, device="cpu").get("layers")[1]
    assert tuple(features) == LAYERS and {part.shape for part in features.values()} == {(len(test), 512)}
    for layer, pooling in (("conv5_1", "root"), ("pool5", "max")):
        alone = GlobalFeatures(layer, pooling, input_size=SMALL.input_size, dtype="float32", device="cpu").encode(test.paths)
        np.testing.assert_array_equal(features[layer], alone)


def test_features_that_cannot_be_had(benchmark_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*arguments: object, **options: object) -> None:
        raise DeviceError("scikit-image is not installed: pip install '.[baselines]'")

    monkeypatch.setattr(benchmark_features, "grid_features", lacking)
    rows = [row for row in ROWS if row.method in ("MBRM", "positive mean")][:2]
    result = compare("corel5k", benchmark_folder, SMALL, k=3, rows=rows, cache=tmp_path, device="cpu")
    assert "scikit-image" in result["rows"][0]["missing"] and "scores" in result["rows"][1]


def test_command_line(benchmark_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row("2PKNN", "vlad", TwoPassKNN, {"beta": (1.0, 5.0)}, "2PKNN, VGG-16 end-to-end features")
    absent = Row("JEC", "fc7", TwoPassKNN)
    monkeypatch.setattr(comparison, "ROWS", (row, absent))
    command = ["reproduce", "corel5k", "--data", str(benchmark_folder), "--table", "--cache", str(tmp_path / "cache"), "-k", "3"]
    for name in ("layer", "input_size", "n_components", "n_centers"):
        command += ["--set", f"{name}={getattr(SMALL, name)}"]
    outcome = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "table.json")], env={"COLUMNS": "200"})
    assert outcome.exit_code == 0, outcome.output
    result = json.loads((tmp_path / "table.json").read_text())
    assert result["schema"] == "gpuannot.comparison/1"
    assert f"{100 * result['rows'][0]['scores']['f1']:.2f}" in outcome.output
    assert "33.00 / 30.00 / 32.00 / 160" in outcome.output
    assert f"beta = {result['rows'][0]['chosen']['beta']}" in outcome.output
    assert "not run" in outcome.output
    assert CliRunner().invoke(app, [*command, "--seeds", "2"]).exit_code == 2
    chosen = CliRunner().invoke(app, [*command, "--only", "jec", "--json"])
    assert [row["method"] for row in json.loads(chosen.stdout)["rows"]] == ["JEC"]
    wrong = CliRunner().invoke(app, [*command, "--only", "JEK"])
    assert wrong.exit_code == 2 and "'JEK'" in wrong.output and "2PKNN, VLAD" in wrong.output


def test_networks_run_where_they_are_asked_for(benchmark_folder: Path, tmp_path: Path) -> None:
    small = functools.partial(EndToEnd, "alexnet", "scratch", input_size=64, width=0.05, epochs=1, holdout=0)
    trained = Row("AlexNet", "images", small, paper="AlexNet, end to end", network="trained")
    fixed = dataclasses.replace(trained, method="AlexNet, fixed", paper=None, network="fixed")

    def run(networks: comparison.Networks) -> list[dict[str, Any]]:
        rows = [trained, fixed]
        result = compare("corel5k", benchmark_folder, SMALL, k=3, rows=rows, networks=networks, cache=tmp_path, device="cpu")
        return result["rows"]  # type: ignore[no-any-return]

    assert ["--networks all" in run("none")[0]["missing"], "--networks fixed" in run("none")[1]["missing"]] == [True, True]
    assert ["scores" in row for row in run("fixed")] == [False, True]
    for row in run("all"):
        assert row["scores"]["images"] == 6 and row["seconds"]["fit"] > 0
