"""The kernels around the trunk's convolutions on a GPU, against torch there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from trunk_cases import normalised

from gpuannot import kernels
from gpuannot.method.trunk import Trunk

pytestmark = pytest.mark.gpu

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 3, 2, 2), (3, 64, 224, 224), (2, 512, 29, 15), (1100, 8, 130, 4)])
def test_max_pool_gives_torchs_bits(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to("cuda", dtype, memory_format=torch.channels_last)
    pixels[0, :, 1, 1] = torch.nan
    for part in (pixels, pixels[:, 1:]):
        expected = torch.nn.functional.max_pool2d(part, 2)
        assert torch.equal(kernels.max_pool(part).nan_to_num(7), expected.nan_to_num(7))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [4, 8])
@pytest.mark.parametrize("width", [224, 225])
def test_pixels_are_rounded_once(width: int, channels: int, dtype: torch.dtype) -> None:
    images = torch.randint(0, 256, (3, 3, 64, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    scale, offset = torch.tensor([0.017, 1.0, 1 / 57.4]), torch.tensor([-2.1, -123.68, 1e-3])
    expected = normalised(images.numpy(), scale.numpy(), offset.numpy(), channels, str(dtype).removeprefix("torch."))
    for stored in (images, images.contiguous(memory_format=torch.channels_last)):
        out = kernels.normalise_pixels(stored.cuda(), scale.cuda(), offset.cuda(), channels=channels, dtype=dtype)
        assert np.array_equal(out.float().permute(0, 2, 3, 1).cpu().numpy(), expected)


def test_a_trunk_with_kernels_gives_what_one_without_gives() -> None:
    images = torch.randint(0, 256, (5, 3, 96, 130), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).cuda()
    plain = Trunk(device="cuda")(images)
    assert torch.equal(Trunk(device="cuda", kernel_pooling=True)(images), plain)
    for channels in (4, 8):
        features = Trunk(device="cuda", kernel_pooling=True, pixel_channels=channels)(images)
        assert (features - plain).abs().max() <= 0.02 * plain.abs().max()


def test_calls_can_be_captured_in_a_cuda_graph() -> None:
    pixels = torch.randn(2, 64, 28, 28, device="cuda").contiguous(memory_format=torch.channels_last)
    expected = kernels.max_pool(pixels)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = kernels.max_pool(pixels)
    graph.replay()
    assert torch.equal(out, expected)
