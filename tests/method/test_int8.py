"""The trunk in int8 against its arithmetic written out in float64, and against the trunk in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small import small_annotator
from torch.nn import functional

from gpuannot import Annotator
from gpuannot.datasets.label_files import LabelledImages
from gpuannot.method import int8
from gpuannot.method.int8 import Int8Layers, found_ranges, ranges
from gpuannot.method.trunk import Trunk
from gpuannot.method.weights import CONVOLUTIONS, PREPROCESSING, TrunkWeights, load_weights, quantize_int8
from gpuannot.system import threads

BEST = "pool4+conv5_1+conv5_2+conv5_3"
needs_int8 = pytest.mark.skipif(not int8.supported(), reason="this processor has no int8 instructions")


@pytest.fixture(scope="module")
def weights() -> TrunkWeights:
    return load_weights()


def drawn(convention: str) -> TrunkWeights:
    """A network of random weights that keeps its signal."""
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for _, module, inputs, outputs in CONVOLUTIONS:
        tensors[f"{module}.weight"] = torch.randn((outputs, inputs, 3, 3), generator=generator) * (2 / (9 * inputs)) ** 0.5
        tensors[f"{module}.bias"] = 0.1 * torch.randn(outputs, generator=generator)
    return TrunkWeights(tensors, PREPROCESSING[convention], "drawn")


def pictures(count: int, height: int, width: int) -> torch.Tensor:
    return int8.drawn_pictures(count, 256)[:, :, 7 : 7 + height, 11 : 11 + width].contiguous()


def written_out(weights: TrunkWeights, images: torch.Tensor, stop: str) -> tuple[torch.Tensor, float]:
    """The bytes after layer ``stop`` and their scale: convolutions of whole numbers, in float64."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (weights.preprocessing.mean, weights.preprocessing.std))
    x = functional.pad(images.double() - mean.round(), (1, 1, 1, 1)) + mean.round()  # around it the mean, in bytes
    scale = 1.0
    for (name, module, _, _), largest in zip(CONVOLUTIONS, ranges(weights), strict=True):
        weight, bias = weights.tensors[f"{module}.weight"], weights.tensors[f"{module}.bias"]
        if name == "conv1_1":
            weight = weight / std
            bias = bias - (weight * mean).sum(dim=(1, 2, 3))
        rounded, scales = quantize_int8(weight)
        sums = functional.conv2d(x, rounded.double(), padding=0 if name == "conv1_1" else 1)
        values = (sums * scales.double().view(1, -1, 1, 1) * scale + bias.double().view(1, -1, 1, 1)).relu()
        scale = largest / 255
        x = (values / scale).round().clamp(max=255)
        if name == stop:
            return x, scale
        if name in int8.POOLS_AFTER:
            x = functional.max_pool2d(x, 2)
    raise AssertionError(stop)


def test_the_known_ranges_are_those_of_the_embedded_weights(weights: TrunkWeights) -> None:
    np.testing.assert_allclose(ranges(weights), found_ranges(weights), rtol=0.02)


@needs_int8
@pytest.mark.parametrize("convention", ["caffe", "torchvision"])
def test_each_layer_is_the_arithmetic_written_out(convention: str) -> None:
    made, images = drawn(convention), pictures(2, 35, 50)
    for layer in ("conv1_1", "conv1_2", "conv2_1", "conv3_1"):
        steps = Int8Layers(made, (layer, "conv3_2") if layer == "conv3_1" else (layer, "conv4_1"))
        found = steps(images)[0].double()
        expected, scale = written_out(made, images, layer)
        off = (found / scale - expected).abs()
        # A sum that lies between two bytes may be rounded to the other, and passes that on; bfloat16 keeps 8 bits.
        assert float(off.max()) <= 2 + 255 / 256 and float((off > 0.51 + 255 / 512).double().mean()) < 2e-3, layer


@needs_int8
@pytest.mark.parametrize("layer", ["conv5_2", "pool3", BEST])
def test_features_are_near_those_in_float32(weights: TrunkWeights, layer: str) -> None:
    images = pictures(3, 224, 224)
    exact, found = (Trunk(weights, layer, dtype=dtype)(images).float() for dtype in ("float32", "int8"))
    assert found.shape == exact.shape
    assert float((found - exact).norm() / exact.norm()) < 0.05


@needs_int8
@pytest.mark.parametrize("convention", ["caffe", "torchvision"])
def test_other_weights_and_sizes(convention: str) -> None:
    made = drawn(convention)
    for (height, width), layer, relu in (((16, 16), "conv3_3", False), ((61, 47), BEST, True), ((33, 90), "pool4", True)):
        exact, found = (
            Trunk(made, layer, relu=relu, dtype=dtype)(pictures(2, height, width)).float() for dtype in ("float32", "int8")
        )
        assert found.shape == exact.shape
        assert float((found - exact).norm() / exact.norm()) < 0.1, (height, width, layer)
        assert relu or (found < 0).any()


@needs_int8
def test_an_image_has_the_same_bits_in_any_batch_and_on_any_threads(weights: TrunkWeights) -> None:
    images, trunk = pictures(19, 64, 48), Trunk(weights, BEST, dtype="int8")
    whole = trunk(images)
    assert trunk(images[:0]).shape == (0, *whole.shape[1:])
    for start, stop in ((0, 1), (3, 8), (2, 19)):
        assert torch.equal(trunk(images[start:stop]), whole[start:stop])
    assert torch.equal(trunk(images.contiguous(memory_format=torch.channels_last)), whole)
    with threads.one_torch_thread():
        assert torch.equal(trunk(images), whole)


@needs_int8
def test_what_it_says_of_itself(weights: TrunkWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = Trunk(weights, dtype="int8")
    assert (trunk.arithmetic, trunk.dtype) == ("int8", torch.bfloat16)
    assert not list(trunk.parameters())  # of floats, which nothing would read
    monkeypatch.setattr(int8, "supported", lambda: False)
    other, auto = Trunk(weights, dtype="int8"), Trunk(weights)
    images = pictures(2, 48, 48)
    assert other.arithmetic == auto.arithmetic != "int8" and torch.equal(other(images), auto(images))


@needs_int8
def test_a_model_keeps_it(scenes: LabelledImages, tmp_path: Path) -> None:
    made = small_annotator(trunk_dtype="int8").fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary)
    loaded = Annotator.load(made.save(tmp_path / "model"), device="cpu")
    assert loaded.config.trunk_dtype == "int8" and loaded.encoder.trunk.arithmetic == "int8"
    before, after = (each.annotate(scenes.paths, k=3) for each in (made, loaded))
    np.testing.assert_array_equal(before.index, after.index)
    np.testing.assert_array_equal(before.distance, after.distance)
