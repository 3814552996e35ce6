"""Trunk weights: both conventions and every source load exactly, and a wrong, cut or foreign file says what is wrong with it."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import subprocess
import sys
from collections import OrderedDict
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from trunk_models import NO_TORCHVISION, needs_torchvision

from gpuannot.errors import WeightsError
from gpuannot.method.embed_weights import METADATA, embed
from gpuannot.method.weights import EMBEDDED_FILE, PREPROCESSING, TrunkWeights, load_weights, quantize_int8

# Configuration D of Simonyan and Zisserman: torchvision's number, input channels, output channels of its 13 convolutions.
CONFIGURATION_D = (
    (0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128), (10, 128, 256), (12, 256, 256), (14, 256, 256),
    (17, 256, 512), (19, 512, 512), (21, 512, 512), (24, 512, 512), (26, 512, 512), (28, 512, 512),
)  # fmt: skip
OXFORD_DESCRIPTION = "pixels 0..255, channel order BGR, minus (103.939, 116.779, 123.68), no scaling"
HALF_A_STEP = 0.5 + 127 * 2**-23  # plus the float32 rounding of the scale and of the division by it


@pytest.fixture(scope="module")
def embedded() -> TrunkWeights:
    return load_weights()


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    """The package's file as it lies on disk: int8 weights, scales and biases."""
    return load_file(str(files("gpuannot") / "data" / EMBEDDED_FILE))


def tiny_state(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A complete state dict of a few bytes: layer i holds i + 1, its bias −(i + 1); the first layer's input channels 1, 2, 3."""
    state = OrderedDict()
    for position, (number, inputs, outputs) in enumerate(CONFIGURATION_D):
        value = torch.tensor(float(position + 1), dtype=dtype)
        state[f"features.{number}.weight"] = value.expand(outputs, inputs, 3, 3)
        state[f"features.{number}.bias"] = (-value).expand(outputs)
    state["features.0.weight"] = torch.arange(1.0, 4.0, dtype=dtype).view(1, 3, 1, 1).expand(64, 3, 3, 3)
    return state


def save_pth(path: Path, state: Any, **options: Any) -> Path:
    torch.save(state, path, **options)
    return path


# ---- the embedded weights


def test_embedded_has_every_layer_of_configuration_d(embedded: TrunkWeights) -> None:
    expected = {}
    for number, inputs, outputs in CONFIGURATION_D:
        expected[f"features.{number}.weight"] = (outputs, inputs, 3, 3)
        expected[f"features.{number}.bias"] = (outputs,)
    assert {key: tuple(tensor.shape) for key, tensor in embedded.tensors.items()} == expected
    for tensor in embedded.tensors.values():
        assert tensor.dtype == torch.float32 and tensor.is_contiguous() and tensor.device.type == "cpu"
        assert torch.isfinite(tensor).all() and tensor.std() > 0
    assert embedded.source == "embedded"
    assert embedded.preprocessing == PREPROCESSING["caffe"]
    assert embedded.preprocessing.mean == (123.68, 116.779, 103.939) and embedded.preprocessing.std == (1.0, 1.0, 1.0)


def test_embedded_hash_is_the_one_that_model_files_carry(embedded: TrunkWeights) -> None:
    assert embedded.sha256 == "5fa3faa3d02e8994e323a2ddae6cc72af3279c2645041538c81181c17afe984d"
    assert load_weights("embedded", "caffe").sha256 == embedded.sha256


def test_embedded_values_are_int8_times_scale(embedded: TrunkWeights, stored: dict[str, Tensor]) -> None:
    for number, *_ in CONFIGURATION_D:
        integers, scale = stored[f"features.{number}.weight"], stored[f"features.{number}.scale"]
        assert integers.dtype == torch.int8 and scale.dtype == torch.float32
        exact = integers.numpy().astype(np.float64) * scale.numpy().astype(np.float64)[:, None, None, None]
        if number == 0:
            exact = exact[:, ::-1]
        assert np.array_equal(embedded.tensors[f"features.{number}.weight"].numpy(), exact.astype(np.float32))
        assert torch.equal(embedded.tensors[f"features.{number}.bias"], stored[f"features.{number}.bias"])


def test_int8_is_within_half_a_step_of_the_oxford_weights(oxford_weights: Path, stored: dict[str, Tensor]) -> None:
    oxford = load_file(str(oxford_weights))
    for number, *_ in CONFIGURATION_D:
        scale = stored[f"features.{number}.scale"].double().view(-1, 1, 1, 1)
        exact = oxford[f"features.{number}.weight"].double()
        error = (stored[f"features.{number}.weight"].double() * scale - exact).abs()
        assert bool((error <= HALF_A_STEP * scale).all())
        assert torch.allclose(exact.abs().amax((1, 2, 3), keepdim=True), 127 * scale, rtol=1e-6, atol=0)
        assert torch.equal(stored[f"features.{number}.bias"], oxford[f"features.{number}.bias"].float())


def test_embedding_again_gives_the_same_tensors(oxford_weights: Path, stored: dict[str, Tensor], tmp_path: Path) -> None:
    again = load_file(str(embed(oxford_weights, tmp_path / "again.safetensors")))
    assert again.keys() == stored.keys()
    assert all(again[key].dtype == stored[key].dtype and torch.equal(again[key], stored[key]) for key in stored)


def test_embedding_gives_the_same_bytes_in_every_process(stored: dict[str, Tensor], tmp_path: Path) -> None:
    # From the package's own weights: what is written does not matter here, and every machine has them.
    source = tmp_path / "source.safetensors"
    save_file(stored, source, metadata={"convention": "caffe"})
    script = "import sys; from gpuannot.method.embed_weights import embed; [embed(sys.argv[1], target) for target in sys.argv[2:]]"
    targets = [tmp_path / f"{name}.safetensors" for name in "abcdef"]
    for seed, pair in (("1", targets[:2]), ("2", targets[2:4]), ("3", targets[4:])):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-c", script, source, *pair], check=True, env=environment)
    assert len({target.read_bytes() for target in targets}) == 1


def test_embedded_file_names_its_authors_and_licence() -> None:
    with safe_open(str(files("gpuannot") / "data" / EMBEDDED_FILE), framework="pt") as file:
        metadata = json.loads(file.metadata()["gpuannot"])
    assert metadata == METADATA and metadata["convention"] == "caffe"
    assert "Simonyan" in metadata["author"] and "CC BY 4.0; changed" in metadata["licence"]


def test_embedding_refuses_the_other_convention(stored: dict[str, Tensor], tmp_path: Path) -> None:
    source = tmp_path / "other.safetensors"
    save_file(stored, source, metadata={"convention": "torchvision"})
    with pytest.raises(WeightsError, match=r"'torchvision' convention, not 'caffe'"):
        embed(source, tmp_path / "target.safetensors")
    assert not (tmp_path / "target.safetensors").exists()


# ---- rounding to int8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (5, 3, 3, 3), (64, 7, 3, 1)])
def test_quantize_int8(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    integers, scale = quantize_int8(weight)
    assert integers.dtype == torch.int8 and scale.dtype == torch.float32 and scale.shape == (shape[0],)
    for row, whole, step in zip(weight.double().flatten(1).tolist(), integers.flatten(1).tolist(), scale.tolist(), strict=True):
        largest = max(abs(value) for value in row)
        assert step == pytest.approx(largest / 127, rel=1e-6)
        assert max(abs(value) for value in whole) == 127
        assert all(abs(value - integer * step) <= HALF_A_STEP * step for value, integer in zip(row, whole, strict=True))


def test_quantize_int8_of_a_channel_of_zeros() -> None:
    weight = torch.zeros(3, 2, 3, 3)
    weight[1, 0, 1, 1] = -0.5
    integers, scale = quantize_int8(weight)
    assert not integers[0].any() and not integers[2].any() and scale.tolist() == [1.0, pytest.approx(0.5 / 127), 1.0]
    assert integers[1, 0, 1, 1] == -127 and integers.count_nonzero() == 1


# ---- which convention


def test_a_file_that_does_not_say_its_convention_needs_to_be_told(stored: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "silent.safetensors"
    save_file(stored, path)
    with pytest.raises(WeightsError) as caught:
        load_weights(path)
    assert str(path) in str(caught.value) and "'caffe'" in str(caught.value) and "'torchvision'" in str(caught.value)
    caffe, torchvision = load_weights(path, "caffe"), load_weights(str(path), "torchvision")
    assert caffe.preprocessing == PREPROCESSING["caffe"] and torchvision.preprocessing == PREPROCESSING["torchvision"]
    assert caffe.source == torchvision.source == str(path)
    first, *rest = caffe.tensors
    assert torch.equal(caffe.tensors[first][:, [2, 1, 0]], torchvision.tensors[first])
    assert all(torch.equal(caffe.tensors[key], torchvision.tensors[key]) for key in rest)
    assert caffe.sha256 != torchvision.sha256


@pytest.mark.parametrize(("stated", "other"), [("caffe", "torchvision"), ("torchvision", "caffe")])
def test_metadata_decides_and_may_not_be_contradicted(stored: dict[str, Tensor], tmp_path: Path, stated: str, other: str) -> None:
    path = tmp_path / "stated.safetensors"
    save_file(stored, path, metadata={"convention": stated})
    assert load_weights(path).preprocessing == load_weights(path, stated).preprocessing == PREPROCESSING[stated]
    with pytest.raises(WeightsError, match=f"'{stated}' convention, not '{other}'"):
        load_weights(path, other)


def test_a_description_in_words_is_understood(stored: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "described.safetensors"
    save_file(stored, path, metadata={"preprocessing": OXFORD_DESCRIPTION})
    assert load_weights(path).preprocessing == PREPROCESSING["caffe"]
    with pytest.raises(WeightsError, match=r"'caffe' convention, not 'torchvision'"):
        load_weights(path, "torchvision")


@pytest.mark.parametrize("value", ["", "not JSON", "[1]", "null", '"caffe"'])
def test_metadata_that_cannot_be_read_is_the_files_fault(stored: dict[str, Tensor], tmp_path: Path, value: str) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({"features.0.weight": stored["features.0.weight"]}, path, metadata={"gpuannot": value})
    for convention in (None, "caffe"):
        with pytest.raises(WeightsError) as caught:
            load_weights(path, convention)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("left_out", ["BGR", "103.939", "no scaling"])
def test_half_a_description_decides_nothing(stored: dict[str, Tensor], tmp_path: Path, left_out: str) -> None:
    path = tmp_path / "described.safetensors"
    save_file(stored, path, metadata={"preprocessing": OXFORD_DESCRIPTION.replace(left_out, "?")})
    with pytest.raises(WeightsError, match="does not say which convention"):
        load_weights(path)


def test_oxford_file_loads_without_being_told(oxford_weights: Path, embedded: TrunkWeights) -> None:
    weights = load_weights(oxford_weights)
    assert weights.preprocessing == PREPROCESSING["caffe"]
    raw = load_file(str(oxford_weights))
    assert torch.equal(weights.tensors["features.0.weight"], raw["features.0.weight"].float()[:, [2, 1, 0]])
    assert torch.equal(weights.tensors["features.26.weight"], raw["features.26.weight"].float())
    assert weights.sha256 != embedded.sha256


def test_unknown_conventions(stored: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="'keras' is unknown; choose one of caffe, torchvision"):
        load_weights("embedded", "keras")
    path = tmp_path / "keras.safetensors"
    save_file(stored, path, metadata={"convention": "keras"})
    for convention in (None, "caffe"):
        with pytest.raises(WeightsError, match=r"keras.*caffe, torchvision"):
            load_weights(path, convention)


def test_preprocessing_of_torchvision() -> None:
    preprocessing = PREPROCESSING["torchvision"]
    assert preprocessing.mean == pytest.approx((123.675, 116.28, 103.53)) and not preprocessing.bgr_weights
    assert preprocessing.std == pytest.approx((58.395, 57.12, 57.375))


# ---- state dicts


@pytest.mark.parametrize(("dtype", "suffix"), [(torch.float32, ".pth"), (torch.float16, ".pt"), (torch.bfloat16, ".pth")])
def test_state_dict_of_torchvisions_whole_network(tmp_path: Path, dtype: torch.dtype, suffix: str) -> None:
    state = tiny_state(dtype)
    for number, width in ((0, 4096), (3, 4096), (6, 1000)):
        state[f"classifier.{number}.weight"] = torch.zeros(1, dtype=dtype).expand(width, 4096)
        state[f"classifier.{number}.bias"] = torch.zeros(1, dtype=dtype).expand(width)
    path = save_pth(tmp_path / f"vgg16{suffix}", state)
    weights = load_weights(path, "torchvision")
    assert len(weights.tensors) == 26
    for position, (number, *_) in enumerate(CONFIGURATION_D):
        weight, bias = weights.tensors[f"features.{number}.weight"], weights.tensors[f"features.{number}.bias"]
        assert weight.dtype == bias.dtype == torch.float32 and weight.is_contiguous() and bias.is_contiguous()
        assert (bias == -(position + 1)).all() and (number == 0 or bool((weight == position + 1).all()))
    assert weights.tensors["features.0.weight"][7, :, 2, 1].tolist() == [1, 2, 3]
    with pytest.raises(WeightsError, match="does not say which convention"):
        load_weights(path)


def test_state_dict_in_torchs_old_format(tmp_path: Path) -> None:
    weights = load_weights(save_pth(tmp_path / "old.pth", tiny_state(), _use_new_zipfile_serialization=False), "caffe")
    assert weights.tensors["features.0.weight"][7, :, 2, 1].tolist() == [3, 2, 1]  # stored as blue, green, red
    for position, (number, *_) in enumerate(CONFIGURATION_D[1:], start=2):
        assert (weights.tensors[f"features.{number}.weight"] == position).all()


def test_hash_covers_preprocessing_and_every_layer(tmp_path: Path) -> None:
    weights = load_weights(save_pth(tmp_path / "a.pth", tiny_state()), "torchvision")
    tensors = dict(weights.tensors)
    assert TrunkWeights(tensors, weights.preprocessing, "another source").sha256 == weights.sha256
    # Through a view with other strides, as a trunk holds them.
    strided = {**tensors, "features.2.weight": tensors["features.2.weight"].to(memory_format=torch.channels_last)}
    assert TrunkWeights(strided, weights.preprocessing, "").sha256 == weights.sha256
    hashes = {weights.sha256, TrunkWeights(tensors, PREPROCESSING["caffe"], "").sha256}
    for key in ("features.0.weight", "features.0.bias", "features.28.bias"):
        changed = tensors[key].clone()
        changed.view(-1)[-1] = torch.nextafter(changed.view(-1)[-1], torch.tensor(torch.inf))
        hashes.add(TrunkWeights({**tensors, key: changed}, weights.preprocessing, "").sha256)
    assert len(hashes) == 5


# ---- wrong files


@pytest.mark.parametrize("number", [0, 10, 28])
@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_missing_layer(tmp_path: Path, number: int, kind: str) -> None:
    state = tiny_state()
    del state[f"features.{number}.{kind}"]
    path = save_pth(tmp_path / "a.pth", state)
    with pytest.raises(WeightsError, match=rf"lacks features\.{number}\.{kind} \(conv\d_\d of VGG-16\)") as caught:
        load_weights(path, "caffe")
    assert str(path) in str(caught.value)


def test_another_network(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"layer1.weight": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match=r"lacks features\.0\.weight.*holds 1 tensors"):
        load_weights(path, "caffe")
    empty = tmp_path / "empty.safetensors"
    save_file({}, empty)
    with pytest.raises(WeightsError, match=r"lacks features\.0\.weight.*holds 0 tensors"):
        load_weights(empty, "caffe")


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("features.0.weight", (64, 1, 3, 3)),
        ("features.2.weight", (64, 64, 1, 1)),
        ("features.28.weight", (512, 512, 3)),
        ("features.5.bias", (64,)),
        ("features.7.bias", (1,)),
        ("features.7.bias", ()),
    ],
)
def test_wrong_shape(tmp_path: Path, key: str, shape: tuple[int, ...]) -> None:
    path = save_pth(tmp_path / "a.pth", {**tiny_state(), key: torch.zeros(shape)})
    with pytest.raises(WeightsError) as caught:
        load_weights(path, "torchvision")
    assert f"{key} has shape {shape}" in str(caught.value) and "VGG-16 has" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["features.5.weight", "features.28.bias"])
def test_non_finite_values(tmp_path: Path, key: str, value: float) -> None:
    state = tiny_state()
    broken = state[key].clone()
    broken.view(-1)[-1] = value
    with pytest.raises(WeightsError, match=f"{key} holds non-finite values"):
        load_weights(save_pth(tmp_path / "a.pth", {**state, key: broken}), "torchvision")


@pytest.mark.parametrize("scale", [None, torch.ones(7), torch.full((128,), torch.nan)], ids=["missing", "short", "NaN"])
def test_int8_layer_with_a_wrong_scale(stored: dict[str, Tensor], tmp_path: Path, scale: Tensor | None) -> None:
    state = {**tiny_state(), "features.7.weight": stored["features.7.weight"]}
    if scale is not None:
        state["features.7.scale"] = scale
    with pytest.raises(WeightsError, match=r"features\.7"):
        load_weights(save_pth(tmp_path / "a.pth", state), "torchvision")


def test_not_a_file(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.safetensors", tmp_path / "absent.pth", tmp_path):
        with pytest.raises(WeightsError, match="no such file of trunk weights") as caught:
            load_weights(path, "caffe")
        assert str(path) in str(caught.value)


def test_truncated_safetensors(stored: dict[str, Tensor], tmp_path: Path) -> None:
    whole = (files("gpuannot") / "data" / EMBEDDED_FILE).read_bytes()
    for length in (0, 1, 7, 8, 9, 1000, len(whole) // 2, len(whole) - 1):
        path = tmp_path / "cut.safetensors"
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="not a readable safetensors file") as caught:
            load_weights(path, "caffe")
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
def test_truncated_or_damaged_state_dict(tmp_path: Path, zipped: bool) -> None:
    buffer = io.BytesIO()
    torch.save({"features.0.weight": torch.zeros(4, 3, 3, 3)}, buffer, _use_new_zipfile_serialization=zipped)
    whole = buffer.getvalue()
    random_source = random.Random(0)
    candidates = [whole[:length] for length in range(0, len(whole), max(1, len(whole) // 100))]
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[random_source.randrange(len(whole))] = random_source.randrange(256)
        candidates.append(bytes(damaged))
    path = tmp_path / "damaged.pth"
    for content in candidates:
        path.write_bytes(content)
        with pytest.raises(WeightsError) as caught:  # whole or damaged: this file holds no VGG-16
            load_weights(path, "caffe")
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x80", b"PK\x03\x04", b"not a pickle", b"0.", "ü".encode()], ids=repr)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ""])
def test_foreign_file(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"foreign{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="not a readable") as caught:
        load_weights(path, "caffe")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


class Malicious:
    """Unpickling this makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("name", ["plain.pth", "torch.pth", "old.pth", "in a dict.pth", "renamed.safetensors"])
def test_a_pickle_runs_no_code(tmp_path: Path, name: str) -> None:
    path, made = tmp_path / name, tmp_path / "made"
    if name in ("plain.pth", "renamed.safetensors"):
        path.write_bytes(pickle.dumps(Malicious(made), protocol=2))
    elif name == "in a dict.pth":
        torch.save({**tiny_state(), "extra": Malicious(made)}, path)
    else:
        torch.save(Malicious(made), path, _use_new_zipfile_serialization=name == "torch.pth")
    with pytest.raises(WeightsError) as caught:
        load_weights(path, "caffe")
    assert not made.exists() and str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("value", "kind"), [([1, 2], "list"), (torch.zeros(3), "Tensor"), (7, "int"), (None, "NoneType")])
def test_a_state_dict_is_a_dict(tmp_path: Path, value: object, kind: str) -> None:
    with pytest.raises(WeightsError, match=f"holds a {kind}, expected a state dict"):
        load_weights(save_pth(tmp_path / "a.pth", value), "caffe")


def test_a_dict_of_other_things(tmp_path: Path) -> None:
    path = save_pth(tmp_path / "checkpoint.pth", {"epoch": 3, "state_dict": tiny_state(), 5: torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"lacks features\.0\.weight.*holds 1 tensors"):
        load_weights(path, "caffe")


# ---- torchvision


@pytest.mark.parametrize("source", ["torchvision", "torchvision:IMAGENET1K_V1"])
def test_torchvision_has_its_own_convention(source: str) -> None:
    with pytest.raises(WeightsError, match="its own convention, not 'caffe'"):
        load_weights(source, "caffe")


@pytest.mark.skipif(NO_TORCHVISION is None, reason="torchvision is here")
@pytest.mark.parametrize("source", ["torchvision", "torchvision:IMAGENET1K_FEATURES"])
def test_without_torchvision_the_error_says_what_to_install(source: str) -> None:
    with pytest.raises(
        WeightsError, match=r'torchvision cannot be imported.*pip install "\.\[cuda13\]" or "\.\[cuda12\]".*embedded'
    ):
        load_weights(source)


@needs_torchvision
def test_torchvision_names_its_weights() -> None:
    with pytest.raises(WeightsError, match=r"no VGG-16 weights 'NEWEST'.*IMAGENET1K_V1"):
        load_weights("torchvision:NEWEST")
