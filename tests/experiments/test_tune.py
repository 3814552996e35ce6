"""The search of settings: what it finds, what it looks at, and that it refuses test images."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trunk_models import needs_timm, register, write_weights
from typer.testing import CliRunner

from gpuannot import Annotator
from gpuannot.cli.main import app
from gpuannot.config import OBJECTIVES, AnnotatorConfig
from gpuannot.datasets.label_files import LabelledImages, load_benchmark
from gpuannot.errors import DataError, GpuannotError
from gpuannot.experiments.holdout import cover_holdout, covered_words
from gpuannot.experiments.tune import read_config, training_images, tune
from gpuannot.heads import calibration, projection, systems
from gpuannot.metrics import evaluate

pytestmark = pytest.mark.usefixtures("weights_read_once")
SMALL = AnnotatorConfig(
    layer="pool2+conv3_1", input_size=32, n_components=6, n_centers=3, signed_sqrt=True, l2=True, projection=4, quadratic=2,
    head="ridge", objective="words",
)  # fmt: skip
K = 3


def by_hand(scenes: LabelledImages, config: AnnotatorConfig, holdout: int, splits: int) -> tuple[float, float]:
    """Mean F1 and N+ of fits, from the pixels on, to what is not held out."""
    f1, n_plus = [], []
    for number in range(splits):
        learn, held = cover_holdout(scenes.labels, holdout, config.seed + number)
        paths = [scenes.paths[row] for row in learn]
        annotator = Annotator(config, device="cpu").fit(paths, scenes.labels[learn], vocabulary=scenes.vocabulary)
        chosen = annotator.words.head.chosen
        own = config.objective == "images" and chosen is not None and chosen.threshold is not None
        given = annotator.annotate([scenes.paths[row] for row in held], None if own else K)
        scores = evaluate(given.index, scenes.labels[held], words=covered_words(scenes.labels, held))
        f1.append(scores.image_f1 if config.objective == "images" else scores.f1)
        n_plus.append(scores.n_plus)
    return float(np.mean(f1)), float(np.mean(n_plus))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_trial_is_a_fit_without_the_held_out_images(
    objective: str, scenes: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Images are drawn by their positions, which are others where the held-out ones are missing; in order they are drawn alike.
    for module in (projection, calibration, systems):
        monkeypatch.setattr(module, "random_numbers", lambda positions, seed: positions.astype(np.uint64))
    space: dict[str, Any] = {"regularisation": (0.1, 10.0), "head": ("mean",), "n_centers": (4,)}
    config = dataclasses.replace(SMALL, objective=objective)
    found = tune(scenes, config, space, holdout=6, splits=2, k=K, cache=tmp_path, device="cpu")
    assert [(trial.setting, trial.value) for trial in found.trials] == [
        ("regularisation", None), ("regularisation", 0.1), ("regularisation", 10.0), ("head", "ridge"), ("head", "mean"),
        ("n_centers", 3), ("n_centers", 4),
    ]  # fmt: skip
    best = -1.0
    for trial in found.trials:
        candidate = dataclasses.replace(config, **{trial.setting: trial.value})
        f1, n_plus = by_hand(scenes, candidate, 6, 2)
        assert trial.f1 == pytest.approx(f1, abs=1e-9) and trial.n_plus == pytest.approx(n_plus), trial
        best = max(best, f1)
        if (chosen := getattr(found.config, trial.setting)) == trial.value:
            config = dataclasses.replace(config, **{trial.setting: chosen})
    assert found.f1 == best == max(trial.f1 for trial in found.trials)
    assert (found.holdout, found.splits, found.k) == (6, 2, K)
    first = found.trials[0]
    assert first.gain == first.gain_error == 0 and all(0 < trial.f1_error < 0.5 for trial in found.trials)
    assert all(trial.gain == pytest.approx(trial.f1 - first.f1) for trial in found.trials)


def test_what_does_not_go_with_what_was_chosen_is_left_out(scenes: LabelledImages, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, regularisation=1.0, quadratic=0, trunk_dtype="float32")  # in which moments win
    space: dict[str, Any] = {"moments": (4, 5, 6), "projection": (0, 6)}
    with pytest.warns(UserWarning, match="projection = 0 does not go with what was chosen before: moments and the layer colours"):
        found = tune(scenes, config, space, holdout=8, splits=2, k=K, cache=tmp_path, device="cpu")
    assert found.config.moments and [trial.value for trial in found.trials] == [0, 4, 5, 6, 4, 6]


def test_trunks_are_tried_each_with_its_own_features(scenes: LabelledImages, tmp_path: Path) -> None:
    """Each trial is a fit with that trunk, and what is searched next is searched with the best."""
    config = dataclasses.replace(SMALL, regularisation=1.0, projection=0, quadratic=0)
    space: dict[str, Any] = {"trunk": ("vgg16", "vgg16@pool1", "vgg16@pool2+conv3_1", "vgg16@conv3_3"), "n_centers": (3, 4)}
    found = tune(scenes, config, space, holdout=6, splits=1, k=K, cache=tmp_path, device="cpu")
    assert [trial.value for trial in found.trials] == ["vgg16@pool2+conv3_1", "vgg16@pool1", "vgg16@conv3_3", 3, 4]
    best = max(found.trials[:3], key=lambda trial: (trial.f1, trial.n_plus))
    assert len({trial.f1 for trial in found.trials[:3]}) == 3
    for trial in found.trials:
        layer = trial.value.partition("@")[2] if trial.setting == "trunk" else best.value.partition("@")[2]
        centers = trial.value if trial.setting == "n_centers" else 3
        candidate = dataclasses.replace(config, layer=layer, n_centers=centers)
        assert trial.f1 == pytest.approx(by_hand(scenes, candidate, 6, 1)[0], abs=1e-9), trial
    assert found.config.layer == best.value.partition("@")[2] and len(list((tmp_path / "labels").iterdir())) == 3
    for trunk, message in (
        ("vgg16@conv9_1", "conv9_1"),
        ("vgg17", "trunk 'vgg17' is unknown"),
        ("module:mine", "module of its user"),
    ):
        with pytest.raises(GpuannotError, match=message):
            tune(scenes, config, {"trunk": (trunk,)}, cache=tmp_path / "none", device="cpu")
    assert not (tmp_path / "none").exists(), "it is known before a trunk runs"


@needs_timm
def test_a_search_from_a_trunk_of_timm_to_the_paper_s(scenes: LabelledImages, tmp_path: Path) -> None:
    register()
    config = AnnotatorConfig(
        trunk="timm:vit_small_test", weights=write_weights("vit_small_test", tmp_path), input_size=64, n_components=6, n_centers=3,
        head="ridge", l2=True, regularisation=1.0, objective="words",
    )  # fmt: skip
    found = tune(scenes, config, {"trunk": ("vgg16@pool2",)}, holdout=6, splits=1, k=K, cache=tmp_path / "cache", device="cpu")
    assert [trial.value for trial in found.trials] == ["timm:vit_small_test@blocks.3", "vgg16@pool2"]
    for trial, candidate in zip(found.trials, (config, config.changed(trunk="vgg16@pool2")), strict=True):
        assert trial.f1 == pytest.approx(by_hand(scenes, candidate, 6, 1)[0], abs=1e-9), trial


def test_the_file_of_settings(scenes: LabelledImages, tmp_path: Path) -> None:
    found = tune(scenes, SMALL, {"balance": (0.0,)}, splits=1, k=K, cache=tmp_path, device="cpu")
    assert found.holdout == len(scenes) // 9
    path = found.write(tmp_path / "config.json")
    assert read_config(path) == found.config
    content = json.loads(path.read_text())
    assert content["search"]["trials"][1]["setting"] == "balance"
    content["config"] |= {"vote": 0.0, "vote_sharpness": 20.0}  # as files of earlier versions have it
    path.write_text(json.dumps(content))
    assert read_config(path) == found.config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ("[]", "is not a file of settings"),
        ('{"schema": "gpuannot.config/2", "config": {}}', "is not a file of settings"),
        ('{"schema": "gpuannot.config/1"}', "is not a file of settings"),
        ('{"schema": "gpuannot.config/1", "config": {"n_centres": 3}}', "unknown settings: n_centres"),
        ('{"schema": "gpuannot.config/1", "config": {"n_centers": 0}}', "n_centers must be"),
        ('{"schema": "gpuannot.config/1", "config": {"vote": 0.4}}', r"config\.json: vote = 0\.4 was removed .*fit again"),
        ('{"schema": "gpuannot.config/1", "config": {"head": "lda"}}', r"config\.json: head = 'lda' was removed .*fit again"),
    ],
)
def test_files_that_hold_no_settings(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_config(path)


@pytest.mark.parametrize(
    ("space", "splits", "holdout", "message"),
    [
        ({}, 1, 6, "nothing to search"),
        ({"zoom": (1,)}, 1, 6, "zoom cannot be searched; choose from"),
        ({"layer": ("pool2",)}, 1, 6, "layer cannot be searched"),
        ({"balance": ()}, 1, 6, "balance needs at least one value"),
        ({"balance": (2.0,)}, 1, 6, "balance must be a number in 0…1"),
        ({"balance": (0.0,)}, 0, 6, "splits = 0"),
        ({"balance": (0.0,)}, 1, 24, "a hold-out of 24 from 24 images is not possible"),
    ],
)
def test_searches_that_cannot_be(
    scenes: LabelledImages, tmp_path: Path, space: dict[str, Any], splits: int, holdout: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tune(scenes, SMALL, space, splits=splits, holdout=holdout, cache=tmp_path, device="cpu")
    assert not list(tmp_path.iterdir()), "it is known before the trunk runs"


# ---- test images


def test_a_test_split_is_refused(benchmark_folder: Path, tmp_path: Path) -> None:
    _, test = load_benchmark("corel5k", benchmark_folder)
    with pytest.raises(DataError, match="corel5k/test is a test split"):
        tune(test, SMALL, {"balance": (0.0,)}, cache=tmp_path, device="cpu")
    with pytest.raises(DataError, match="test is a test split"):
        training_images(benchmark_folder / "test.json")


@pytest.mark.parametrize("suffix", [".json", ".csv", ".tsv"])
def test_test_images_under_another_name_are_refused(benchmark_folder: Path, suffix: str) -> None:
    test = json.loads((benchmark_folder / "test.json").read_text())
    train = json.loads((benchmark_folder / "train.json").read_text())
    if suffix != ".json":
        rows = [f"{sample['image_name']},{';'.join(sample['image_labels'])}" for sample in test["samples"]]
        (benchmark_folder / f"test{suffix}").write_text("\n".join(["image,words", *rows]) + "\n")
        (benchmark_folder / "test.json").unlink()
    mixed = {**train, "samples": [*train["samples"], test["samples"][2]]}
    (benchmark_folder / "mine.json").write_text(json.dumps(mixed))
    with pytest.raises(DataError, match=rf"1 image of .*mine.json is a test image by .*test\{suffix}"):
        training_images(benchmark_folder / "mine.json")
    assert len(training_images(benchmark_folder / "train.json")) == 18


def test_the_test_images_are_never_looked_at(benchmark_folder: Path, tmp_path: Path) -> None:
    """With the test images gone, and other words for them, the command finds the same settings and trials."""
    changed = {name: value for name, value in SMALL.to_dict().items() if value != getattr(AnnotatorConfig(), name)}
    settings = [f"--set={name}={value}" for name, value in changed.items()]
    options = ["--vary=regularisation=0.1,10", "--splits=1", "-k", str(K), *settings]

    def run(name: str) -> Any:
        places = ["-o", str(tmp_path / name), "--cache", str(tmp_path / f"cache-{name}")]
        result = CliRunner().invoke(app, ["tune", str(benchmark_folder), *places, *options])
        assert result.exit_code == 0, result.output
        return json.loads((tmp_path / name).read_text())

    before = run("before.json")
    test = json.loads((benchmark_folder / "test.json").read_text())
    for sample in test["samples"]:
        (benchmark_folder / "images" / sample["image_name"]).write_bytes(b"no image at all")
        sample["image_labels"] = ["boat"]
    (benchmark_folder / "test.json").write_text(json.dumps(test))
    assert run("after.json") == before
    for sample in test["samples"]:
        (benchmark_folder / "images" / sample["image_name"]).unlink()
    assert run("without.json") == before


def test_settings_from_the_file_are_fitted_with(benchmark_folder: Path, tmp_path: Path) -> None:
    path = tune(load_benchmark("corel5k", benchmark_folder)[0], SMALL, {"balance": (0.0,)}, splits=1, k=K, cache=tmp_path).write(
        tmp_path / "config.json"
    )
    model = tmp_path / "model.safetensors"
    result = CliRunner().invoke(
        app, ["fit", str(benchmark_folder / "train.json"), "--config", str(path), "--set", "n_centers=4", "-o", str(model)]
    )
    assert result.exit_code == 0, result.output
    assert Annotator.load(model, device="cpu").config == dataclasses.replace(read_config(path), n_centers=4)
