"""Settings: every default is the paper's, every wrong value is refused by name, and a file's settings come back as they were."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from gpuannot import AnnotatorConfig
from gpuannot.config import CONSTRAINTS, PRESETS
from gpuannot.errors import GpuannotError, InvalidArgumentError

MOST = {"input_size": "4096, or auto", "batch_size": "65536"}
COUNTS = (
    "input_size", "n_components", "n_centers", "codebook_sample", "kmeans_iterations", "statistics_images", "projection_sample",
    "batch_size",
)  # fmt: skip
OTHERS: dict[str, Any] = {
    "trunk": "timm:resnet18",
    "weights": "vgg16.pth", "weights_convention": "torchvision", "layer": "conv4_3", "relu": False, "trunk_dtype": "float32",
    "interpolation": "bilinear", "mass": True, "intra": True, "signed_sqrt": True, "l2": True, "metric": "cosine", "seed": 7,
    "head": "ridge", "kernel_width": 1.5, "objective": "words", "regularisation": 3.0, "balance": 0.5, "calibration": "odds",
    "moments": 3, "projection": 5, "quadratic": 2, "quadratic_weight": 0.75,
    **dict.fromkeys(COUNTS, 3),
}  # fmt: skip


def test_defaults_are_the_paper() -> None:
    config = AnnotatorConfig()
    assert config == AnnotatorConfig.preset("paper")
    assert (config.layer, config.relu, config.input_size, config.weights, config.weights_convention) == (
        "conv5_2", True, 224, "embedded", None
    )  # fmt: skip
    assert (config.n_components, config.n_centers, config.metric) == (64, 64, "l2")
    assert not (config.mass or config.intra or config.signed_sqrt or config.l2)


def test_settings_cannot_be_changed_in_place() -> None:
    config = AnnotatorConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.n_centers = 32  # type: ignore[misc]
    assert hash(config) == hash(AnnotatorConfig()) and config != AnnotatorConfig(n_centers=32)


# ---- presets


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name: str) -> None:
    assert AnnotatorConfig.preset(name) == AnnotatorConfig(**PRESETS[name])
    changed = AnnotatorConfig.preset(name, n_centers=5, metric="cosine")
    assert (changed.n_centers, changed.metric) == (5, "cosine")
    assert dataclasses.replace(changed, **{key: getattr(AnnotatorConfig.preset(name), key) for key in ("n_centers", "metric")}) == (
        AnnotatorConfig.preset(name)
    )


@pytest.mark.parametrize("name", ["", "Paper", "fast"])
def test_unknown_preset(name: str) -> None:
    with pytest.raises(ValueError, match=f"preset '{name}' is unknown; choose one of paper"):
        AnnotatorConfig.preset(name)


def test_preset_with_wrong_changes() -> None:
    with pytest.raises(ValueError, match="n_centers must be"):
        AnnotatorConfig.preset("paper", n_centers=0)
    with pytest.raises(TypeError, match="n_centres"):
        AnnotatorConfig.preset("paper", n_centres=5)


# ---- what is left to the trunk


def test_a_trunk_brings_what_settings_leave_to_it() -> None:
    own = ("weights", "layer", "input_size", "interpolation")
    config = AnnotatorConfig.preset("best", trunk="timm:resnet18", n_centers=9)
    assert [getattr(config, name) for name in own] == ["pretrained", None, None, None]
    assert (config.n_centers, config.n_components, config.layer_count) == (9, 128, 1)
    assert AnnotatorConfig(trunk="timm:resnet18@layer2+layer3", input_size=64).layer_count == 2
    back = config.changed(trunk="vgg16")
    assert [getattr(back, name) for name in own] == ["embedded", "conv5_2", 224, "bicubic"]
    assert back.changed(trunk="vgg16", layer="pool4") == dataclasses.replace(back, layer="pool4")
    with pytest.raises(InvalidArgumentError, match="names one layer, and layer = 'layer1' another"):
        AnnotatorConfig(trunk="timm:resnet18@layer2", layer="layer1")


# ---- wrong values


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -1, 1.0, 2.5, "64", True, float("nan")])
def test_counts_are_whole_numbers_of_at_least_1(name: str, value: Any) -> None:
    expected = f"in 1…{MOST[name]}" if name in MOST else "of at least 1"
    with pytest.raises(ValueError, match=f"{name} must be a whole number {expected}, got {value!r}"):
        AnnotatorConfig(**{name: value})
    assert getattr(AnnotatorConfig(**{name: 1}), name) == 1


@pytest.mark.parametrize("name", MOST)
def test_sizes_that_no_memory_holds(name: str) -> None:
    most = int(MOST[name].partition(",")[0])
    assert getattr(AnnotatorConfig(**{name: most}), name) == most
    with pytest.raises(ValueError, match=f"{name} must be a whole number in 1…{MOST[name]}, got {10**6}"):
        AnnotatorConfig(**{name: 10**6})


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("regularisation", [1e-9, 1, 1e9, None], [0, -1.0, float("inf"), float("nan"), "1", "auto", True]),
        ("balance", [0, 0.5, 1, None], [-0.1, 1.1, float("nan"), "0", "auto", False]),
        ("quadratic_weight", [1e-9, 1, 1e9], [0, -1.0, float("inf"), float("nan"), "1", None, True]),
        ("projection", [0, 1, 64 * 64], [-1, 64 * 64 + 1, 1.0, "1", None, True]),
    ],
)
def test_numbers_of_the_heads(name: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert getattr(AnnotatorConfig(**{name: value}), name) == value
    for value in bad:
        with pytest.raises(ValueError, match=rf"{name} must be a .*, got {value!r}"):
            AnnotatorConfig(**{name: value})


def test_products_of_more_components_than_there_are() -> None:
    assert AnnotatorConfig(projection=6, quadratic=6).quadratic == 6
    with pytest.raises(ValueError, match=r"quadratic must be a whole number in 0…6, got 7"):
        AnnotatorConfig(projection=6, quadratic=7)


def test_several_layers_make_longer_vectors() -> None:
    config = AnnotatorConfig(layer="pool4+conv5_1+conv5_3", n_centers=4, n_components=8)
    assert (config.layer_count, config.vlad_dimension) == (3, 96)


@pytest.mark.parametrize("value", [-1, 2**32, 0.0, "0", None])
def test_seed(value: Any) -> None:
    with pytest.raises(ValueError, match=f"seed must be a whole number in 0…2³²−1, got {value!r}"):
        AnnotatorConfig(seed=value)
    assert AnnotatorConfig(seed=0).seed == 0 and AnnotatorConfig(seed=2**32 - 1).seed == 2**32 - 1


@pytest.mark.parametrize(
    ("name", "value", "known"),
    [
        ("metric", "L2", "l2, cosine"),
        ("metric", None, "l2, cosine"),
        ("head", "means", "mean, demixed, ridge"),
        ("calibration", "gauss", "none, odds"),
        ("interpolation", "nearest", "bicubic, bilinear"),
        ("weights_convention", "keras", "caffe, torchvision"),
        ("weights_convention", "", "caffe, torchvision"),
    ],
)
def test_choices(name: str, value: Any, known: str) -> None:
    with pytest.raises(ValueError, match=f"{name} {value!r} is unknown; choose one of {known}"):
        AnnotatorConfig(**{name: value})


@pytest.mark.parametrize("value", ["uint8", "Auto", "", None, "bf16"])
def test_the_trunks_arithmetic_is_checked_before_a_trunk_is_built(value: Any) -> None:
    with pytest.raises(ValueError, match=f"trunk_dtype {value!r} is unknown; choose one of auto, float32, bfloat16, float16"):
        AnnotatorConfig(trunk_dtype=value)


@pytest.mark.parametrize("name", ["relu", "mass", "intra", "signed_sqrt", "l2"])
@pytest.mark.parametrize("value", [1, 0, "true", None])
def test_switches_are_true_or_false(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be true or false, got {value!r}"):
        AnnotatorConfig(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("layer", 5), ("trunk", None), ("trunk", 5), ("weights", 1.5)])
def test_texts(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be .*, got {value!r}"):
        AnnotatorConfig(**{name: value})


@pytest.mark.parametrize("wrong", [{"n_centers": 0}, {"head": "means"}, {"projection": 10**6}, {"l2": 2}])
def test_a_wrong_setting_is_an_error_of_the_user_and_a_value_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        AnnotatorConfig(**wrong)
    assert isinstance(caught.value, GpuannotError) and isinstance(caught.value, ValueError)


# ---- the table of constraints


def test_every_setting_has_a_constraint_that_its_default_meets() -> None:
    config = AnnotatorConfig()
    assert list(CONSTRAINTS) == [field.name for field in dataclasses.fields(AnnotatorConfig)]
    for name, constraint in CONSTRAINTS.items():
        constraint.check(name, getattr(config, name), config)
        assert constraint.most is None or hasattr(config, constraint.most)


@pytest.mark.parametrize("name", OTHERS)
def test_a_setting_written_as_text_is_read_back(name: str) -> None:
    """What ``gpuannot info`` prints of a setting can be given to ``--set``."""
    value = CONSTRAINTS[name].convert(str(OTHERS[name]))
    assert value == OTHERS[name] and type(value) is type(OTHERS[name])


@pytest.mark.parametrize("name", ["regularisation", "balance", "calibration"])
def test_what_a_fit_chooses_is_spelled_auto(name: str) -> None:
    assert getattr(AnnotatorConfig(), name) is None and CONSTRAINTS[name].convert("auto") is None
    assert str(CONSTRAINTS[name]).endswith(", or auto")


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("n_centers", "three", "a whole number of at least 1"),
        ("n_centers", "2.0", "a whole number of at least 1"),
        ("quadratic", "", "a whole number in 0…projection"),
        ("seed", "x", "a whole number in 0…2³²−1"),
        ("balance", "half", "a number in 0…1, or auto"),
        ("regularisation", "1,5", "a finite number above 0, or auto"),
        ("relu", "yes", "true or false"),
    ],
)
def test_texts_that_are_no_value(name: str, given: str, expected: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"^expected {expected}$"):
        CONSTRAINTS[name].convert(given)


def test_constraints_say_what_they_allow() -> None:
    said = {name: str(constraint) for name, constraint in CONSTRAINTS.items()}
    assert said["metric"] == "one of l2, cosine" and said["projection"] == "a whole number in 0…joined_dimension"
    assert all(said.values()) and not any("{" in text for text in said.values())


@pytest.mark.parametrize(("name", "value"), [("metric", "cosine"), ("interpolation", "bilinear"), ("weights_convention", "caffe")])
def test_good_choices(name: str, value: str) -> None:
    assert getattr(AnnotatorConfig(**{name: value}), name) == value


def test_a_path_of_weights_becomes_text() -> None:
    config = AnnotatorConfig(weights=Path("folder") / "vgg16.pth")  # type: ignore[arg-type]
    assert config.weights == str(Path("folder") / "vgg16.pth") and json.dumps(config.to_dict())


# ---- to and from a file


def test_round_trip_of_every_setting() -> None:
    names = {field.name for field in dataclasses.fields(AnnotatorConfig)}
    assert names == OTHERS.keys(), "a new setting belongs into OTHERS, with a value that is not its default"
    config = AnnotatorConfig(**OTHERS)
    assert all(value != getattr(AnnotatorConfig(), name) for name, value in config.to_dict().items())
    assert config.to_dict() == OTHERS
    for one in (config, AnnotatorConfig()):
        assert AnnotatorConfig.from_dict(one.to_dict()) == one
        assert AnnotatorConfig.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_what_a_file_leaves_out_has_its_default() -> None:
    assert AnnotatorConfig.from_dict({"n_centers": 5}) == AnnotatorConfig(n_centers=5)
    assert AnnotatorConfig.from_dict({}) == AnnotatorConfig()


def test_unknown_settings_are_named() -> None:
    with pytest.raises(ValueError, match="unknown settings: n_centres, zoom"):
        AnnotatorConfig.from_dict({"zoom": 1, "n_centers": 5, "n_centres": 5})


@pytest.mark.parametrize("off", [{"vote": 0.0, "vote_sharpness": 20.0}, {"vote": 0}, {"vote_sharpness": 7.0}])
def test_a_vote_that_was_off_is_left_out(off: dict[str, Any]) -> None:
    best = AnnotatorConfig.preset("best")
    given = {**best.to_dict(), **off}
    assert AnnotatorConfig.from_dict(given) == best and given.items() >= off.items()


@pytest.mark.parametrize(
    ("name", "value"), [("vote", 0.45), ("vote", "on"), ("head", "lda"), ("head", "centred"), ("calibration", "spread")]
)
def test_what_was_removed_is_named(name: str, value: Any) -> None:
    given = {**AnnotatorConfig.preset("best").to_dict(), "vote": 0.0, "vote_sharpness": 20.0, name: value}
    with pytest.raises(ValueError, match=f"^{name} = {value!r} was removed from gpuannot: fit again .* --preset best, or use the"):
        AnnotatorConfig.from_dict(given)


def test_wrong_values_in_a_file() -> None:
    with pytest.raises(ValueError, match="n_centers must be a whole number of at least 1, got 0"):
        AnnotatorConfig.from_dict({"n_centers": 0})
