"""The kernels around the trunk's convolutions, unchanged, on the CPU, against torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cuda_on_cpu import compiler
from kernel_cases import DTYPES, random_stored, store
from torch import Tensor
from trunk_cases import max_pool, normalise_pixels, normalised, pooled

from gpuannot import kernels
from gpuannot.errors import DeviceError
from gpuannot.kernels.plan import Launch
from gpuannot.kernels.trunk_plan import plan_max_pool, plan_normalise_pixels
from gpuannot.method import trunk_layers
from gpuannot.method.trunks import vgg16 as method_trunk

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler (g++, or the one named in CXX)")

SHAPES = [(1, 2, 2, 1), (2, 5, 7, 3), (1, 4, 4, 8), (3, 9, 6, 64), (1, 2, 33, 24), (1, 3, 2, 516), (2, 28, 28, 128)]
SCALE, OFFSET = np.array([0.017, 1.0, 1 / 57.4], np.float32), np.array([-2.1, -123.68, 1e-3], np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", [0, 1, 8])
def test_max_pool_gives_torchs_bits(padding: int, dtype: str) -> None:
    for seed, shape in enumerate(SHAPES):
        pixels = random_stored(np.random.default_rng(seed), shape, dtype)
        assert np.array_equal(max_pool(pixels, padding, seed), pooled(pixels.values))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [3, 16])
def test_max_pool_of_nan_infinities_and_zeros(channels: int, dtype: str) -> None:
    rng = np.random.default_rng(1)
    values = rng.choice(np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0], np.float32), (4, 10, 10, channels))
    assert np.array_equal(max_pool(store(values, dtype)), pooled(values), equal_nan=True)
    first = np.zeros((1, 2, 4, channels), np.float32)
    first[0, 0, 0] = -0.0  # the first of a tie: -0 of the left square, +0 of the right
    first[0, 1, 3] = -0.0
    assert np.signbit(max_pool(store(first, dtype)))[0, 0, :, 0].tolist() == [True, False]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [4, 8])
@pytest.mark.parametrize("planes", [True, False])
def test_normalised_pixels_are_rounded_once(planes: bool, channels: int, dtype: str) -> None:
    for seed, (batch, height, width) in enumerate(((1, 1, 1), (2, 3, 5), (1, 2, 514), (3, 16, 18))):
        images = np.random.default_rng(seed).integers(0, 256, (batch, 3, height, width), np.uint8)
        out = normalise_pixels(images, SCALE, OFFSET, channels, dtype, planes, seed)
        assert np.array_equal(out, normalised(images, SCALE, OFFSET, channels, dtype))


def test_every_byte_in_every_channel() -> None:
    images = np.tile(np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16), (1, 3, 1, 1))
    half_way = np.ones(3, np.float32), np.array([256, 2048, -511], np.float32)
    for scale, offset in ((SCALE, OFFSET), half_way):
        for dtype in DTYPES:
            out = normalise_pixels(images, scale, offset, 4, dtype, True)
            assert np.array_equal(out, normalised(images, scale, offset, 4, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_max_pool_takes_channels_last_tensors_and_parts_of_their_channels(dtype: torch.dtype, launched: list[Launch]) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 48, 7, 6, generator=generator).to(dtype).contiguous(memory_format=torch.channels_last)
    for part in (pixels, pixels[:, 16:32], pixels[:, 3:8], pixels[1:, :, 2:6, 1:]):
        out = kernels.max_pool(part)
        assert torch.equal(out, torch.nn.functional.max_pool2d(part, 2)) and out.dtype == dtype
        assert out.is_contiguous(memory_format=torch.channels_last)
    widths = [next(option for option in plan.options if "VECTOR" in option) for plan in launched]
    vector = f"-DVECTOR={16 // dtype.itemsize}"
    assert widths == [vector, vector, "-DVECTOR=1", vector]
    assert kernels.max_pool(pixels[:0]).shape == (0, 48, 3, 3) and len(launched) == 4


def test_normalise_pixels_takes_any_strides(launched: list[Launch]) -> None:
    images = torch.randint(0, 256, (2, 3, 12, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    scale, offset = torch.from_numpy(SCALE), torch.from_numpy(OFFSET)
    for part in (images, images.contiguous(memory_format=torch.channels_last), images[:, :, 1:10, 2:9], images.flip(1)[1:]):
        out = kernels.normalise_pixels(part, scale, offset)
        assert out.dtype == torch.bfloat16 and out.is_contiguous(memory_format=torch.channels_last)
        expected = normalised(part.numpy(), SCALE, OFFSET, 4, "bfloat16")
        assert np.array_equal(out.float().permute(0, 2, 3, 1).numpy(), expected)
    assert kernels.normalise_pixels(images, scale, offset, channels=8, dtype=torch.float16).shape == (2, 8, 12, 20)
    assert kernels.normalise_pixels(images[:0], scale, offset).shape == (0, 4, 12, 20) and len(launched) == 5


@pytest.mark.parametrize("layer", ["pool1", "conv2_1"])
@pytest.mark.parametrize("fused", [True, False])
def test_a_trunk_with_kernels_gives_what_one_without_gives(
    fused: bool, layer: str, launched: list[Launch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trunk_layers, "KERNEL_DEVICES", ("cpu",))
    if not fused:
        monkeypatch.setattr(method_trunk, "fuse_layers", lambda *arguments: None)
    images = torch.randint(0, 256, (2, 3, 18, 23), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    plain = method_trunk.Vgg16(layer=layer, dtype="float32")
    pooling = method_trunk.Vgg16(layer=layer, dtype="float32", kernel_pooling=True)
    assert torch.equal(pooling(images), plain(images))
    assert [plan.kernel for plan in launched] == ["max_pool"]
    for channels in (4, 8):
        both = method_trunk.Vgg16(layer=layer, dtype="float32", kernel_pooling=True, pixel_channels=channels)
        torch.testing.assert_close(both(images), plain(images), rtol=1e-4, atol=1e-3)
    assert [plan.kernel for plan in launched[1:]] == ["normalise_pixels", "max_pool"] * 2


def test_a_trunk_has_kernels_on_cuda_only() -> None:
    with pytest.raises(DeviceError, match="kernel_pooling and pixel_channels 4 are CUDA kernels, the trunk is on cpu"):
        method_trunk.Vgg16(layer="conv1_1", pixel_channels=4)
    with pytest.raises(DeviceError, match="the trunk is on cpu"):
        method_trunk.Vgg16(layer="conv1_1", kernel_pooling=True)
    with pytest.raises(ValueError, match="pixel_channels is 5; choose 3, 4 or 8"):
        method_trunk.Vgg16(layer="conv1_1", pixel_channels=5)


def test_stores_are_of_16_bytes_where_a_row_allows() -> None:
    def pixels(width: int, channels: int, dtype: str) -> str:
        return plan_normalise_pixels(1, 2, width, channels, dtype, (0, 0, 0, 0)).options[-1]

    assert pixels(224, 4, "bfloat16") == "-DPIXELS=2"
    assert pixels(225, 4, "bfloat16") == pixels(224, 8, "float16") == pixels(224, 4, "float32") == "-DPIXELS=1"


def test_grids_reach_every_row_and_pixel() -> None:
    plan = plan_max_pool(2**20, 512, 224, 224, "bfloat16", (224 * 224 * 512, 224 * 512, 512))
    assert plan.grid == (2**20 * 112, 28, 1) and plan.arguments[1] == np.int64(224 * 224 * 512)
    assert plan_normalise_pixels(1, 1, 2**27, 4, "bfloat16", (0, 0, 0, 1)).grid == (1, 65535, 1)


@pytest.mark.parametrize(
    ("pixels", "error", "message"),
    [
        (torch.zeros(1, 4, 4, 4), ValueError, r"pixels has strides .*channels must be contiguous; pass pixels.contiguous"),
        (torch.zeros(1, 1, 1, 4), ValueError, "H and W at least 2"),
        (torch.zeros(4, 4), ValueError, r"pixels has shape \(4, 4\): expected a \(B, C, H, W\)"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.int32), TypeError, "pixels is torch.int32"),
        (torch.zeros(1, 1, 4, 4), DeviceError, "CUDA"),
    ],
)
def test_wrong_pixels_are_named(pixels: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kernels.max_pool(pixels)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": torch.zeros(1, 4, 2, 2, dtype=torch.uint8)}, ValueError, r"expected \(B, 3, H, W\)"),
        ({"images": torch.zeros(1, 3, 2, 2)}, TypeError, "images is torch.float32"),
        ({"scale": torch.zeros(4)}, ValueError, r"scale has shape \(4,\)"),
        ({"offset": torch.zeros(3).double()}, TypeError, "offset is torch.float64"),
        ({"channels": 3}, ValueError, "channels is 3: expected 4 or 8"),
        ({"dtype": torch.int8}, TypeError, "dtype is torch.int8"),
        ({"images": torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(1, 3, 1, 2**29)}, ValueError, "values of 4 channels a row"),
        ({}, DeviceError, "CUDA"),
    ],
)
def test_wrong_images_are_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    right = {"images": torch.zeros(1, 3, 2, 2, dtype=torch.uint8), "scale": torch.ones(3), "offset": torch.zeros(3)}
    with pytest.raises(error, match=message):
        kernels.normalise_pixels(**{**right, **change})
