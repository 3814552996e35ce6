"""The programs that train networks, and that give words by thresholds, on drawn scenes and by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from benchmarks import collapse, common, networks, thresholds
from gpuannot.baselines.end_to_end import EndToEnd
from gpuannot.datasets.label_files import load_benchmark
from gpuannot.metrics import evaluate


def called(module: Any, monkeypatch: pytest.MonkeyPatch, results: Path, *arguments: str) -> Any:
    monkeypatch.setattr(common, "RESULTS", results)
    monkeypatch.setattr(sys, "argv", [module.__name__, *arguments, "--write", "result"])
    module.main()
    return json.loads((results / "result.json").read_text())


def test_a_network_is_trained_twice_and_scored(benchmark_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "training.safetensors"
    command = ["corel5k", str(benchmark_folder), f"--checkpoint={path}", "--width=0.05", "--size=64", "--device=cpu", "--rate=0.01"]
    first = called(networks, monkeypatch, tmp_path / "first", *command, "--epochs=3", "--patience=2", "--batch=4")
    best = first["epochs"]
    history, everything = first["holdout"]["history"], first["all"]["history"]
    assert len(everything) == best == max(history, key=lambda entry: (entry["holdout_f1"], -entry["holdout_loss"]))["epoch"]
    assert first["images"] == {"train": 18, "test": 6, "held": 2}
    assert first["all"]["seconds_an_epoch"] > 0 and str(tmp_path) not in first["command"]
    [row] = first["rows"]
    assert (row["method"], row["features"]) == ("AlexNet, from scratch", "pixels")

    # Its scores are those of a network trained on all images for so many epochs.
    train, test = load_benchmark("corel5k", benchmark_folder)
    plain = EndToEnd(
        "alexnet", "scratch", epochs=best, holdout=0, learning_rate=0.01, width=0.05, input_size=64, batch_size=4, device="cpu"
    ).fit(train.paths, train.labels, train.vocabulary)
    assert row["scores"]["f1"] == evaluate(plain.annotate(test.paths, 5)[0].numpy(), test.labels).f1

    # The same command again trains nothing: it goes on from the last epoch.
    written = [file.stat().st_mtime_ns for file in sorted(tmp_path.glob("training.*"))]
    again = called(networks, monkeypatch, tmp_path / "again", *command, "--epochs=3", "--patience=2", "--batch=4")
    assert again["rows"] == first["rows"] and again["all"] == first["all"]
    assert [file.stat().st_mtime_ns for file in sorted(tmp_path.glob("training.*"))] == written


def test_a_constant_answer_is_known_as_one(benchmark_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that are too long leave a small VGG-16 with one answer; its loss is then about that of the frequencies alone."""
    settings = ["corel5k", str(benchmark_folder), "--width=0.05", "--size=32", "--epochs=1", "--device=cpu"]
    found = called(collapse, monkeypatch, tmp_path, *settings, "--rate=1e-9")
    train, test = load_benchmark("corel5k", benchmark_folder)
    counts = {word: int(count) for word, count in zip(train.vocabulary, train.labels.sum(axis=0), strict=True)}
    assert [counts[word] for word in found["constant"]["words"]] == sorted(counts.values(), reverse=True)[:5]
    network = found["network"]
    # No step was taken: the last layer is zero and its bias the frequencies.
    assert network["answers"] == 1 and network["most_given"]["images"] == len(test) and network["spread_over_images"] < 1e-4
    assert sorted(network["most_given"]["words"]) == sorted(found["constant"]["words"])
    assert network["scores"]["f1"] == pytest.approx(found["constant"]["scores"]["f1"])
    assert found["history"][0]["loss"] == pytest.approx(found["loss_of_frequencies"], rel=1e-3)


def test_silent_units_are_those_that_answer_no_image(benchmark_folder: Path) -> None:
    train, test = load_benchmark("corel5k", benchmark_folder)
    settings: dict[str, Any] = {"width": 0.05, "input_size": 32, "epochs": 1, "holdout": 0, "learning_rate": 1e-9, "device": "cpu"}
    estimator = EndToEnd("vgg16", "scratch", **settings).fit(train.paths, train.labels, train.vocabulary)
    assert collapse.of_network(estimator, test)["silent_units"] < 0.5
    hidden = [layer for layer in estimator.network_.classifier if isinstance(layer, torch.nn.Linear)][-2]
    hidden.bias.data[::2] = -1e9
    assert 0.5 <= collapse.of_network(estimator, test)["silent_units"] < 1
    hidden.bias.data[:] = -1e9
    found = collapse.of_network(estimator, test)
    assert found["silent_units"] == 1 and found["answers"] == 1


def test_thresholds_by_trying_all() -> None:
    generator = np.random.default_rng(0)
    predictions = generator.integers(0, 12, (40, 6)).astype(np.float64)  # with equal ones
    truth = generator.random((40, 6)) < np.linspace(0, 0.6, 6)
    found = thresholds.best_thresholds(predictions, sparse.csr_array(truth.astype(np.float32)))
    assert np.isinf(found[0]) and not truth[:, 0].any()
    for word in range(1, 6):

        def f1(threshold: float, word: int = word) -> float:
            given = predictions[:, word] >= threshold
            return float(2 * (given & truth[:, word]).sum() / (given.sum() + truth[:, word].sum()))

        assert f1(found[word]) == max(f1(value) for value in np.unique(predictions[:, word]))


def test_measures_of_words_by_thresholds_are_the_protocols() -> None:
    generator = np.random.default_rng(1)
    truth = sparse.csr_array((generator.random((30, 8)) < 0.3).astype(np.float32))
    index = torch.rand(30, 8, generator=torch.Generator().manual_seed(0)).topk(3, dim=1).indices.numpy()
    given = np.zeros((30, 8), bool)
    np.put_along_axis(given, index, True, axis=1)
    words = np.array([0, 2, 3, 7])
    found, expected = thresholds.scores_of(given, truth, words), evaluate(index, truth, words=words)
    for name in ("precision", "recall", "f1", "n_plus"):
        assert found[name] == pytest.approx(getattr(expected, name))
    assert found["words_an_image"] == 3 and found["images_without_a_word"] == 0
    given[4] = False
    assert thresholds.scores_of(given, truth, words)["images_without_a_word"] == 1
