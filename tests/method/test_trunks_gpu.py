"""Trunks other than VGG-16 on a CUDA device: exactness, determinism, a model from fit to graph, and larger batches than fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gpuannot import Annotator
from gpuannot.method.trunk import Preprocessing, Trunk
from gpuannot.method.trunks.base import LocalTrunk

pytestmark = pytest.mark.gpu
SIZE, K = 64, 2
PIXELS = Preprocessing("0…1", mean=(0, 0, 0), std=(255, 255, 255), input_size=SIZE)
SMALL: dict[str, Any] = {"n_components": 16, "n_centers": 4, "l2": True}
WORDS = [["red"], ["green", "red"], ["green"], ["blue"], ["blue", "red"]]


def network() -> nn.Module:
    """Convolutions long enough for TF32 to show, attention's products, and a normalisation; with the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(3, 64, 4, 4), nn.BatchNorm2d(64), nn.SiLU(), nn.Conv2d(64, 64, 3, padding=1), nn.Flatten(2),
            _Tokens(), nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0),
        )  # fmt: skip


class _Tokens(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def trunk(device: str, dtype: str) -> LocalTrunk:
    return Trunk.from_module(network(), "6", PIXELS, dtype=dtype, device=device)


def images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-5), ("bfloat16", 0.03), ("float16", 0.005)])
def test_features_are_as_exact_as_their_arithmetic(dtype: str, error: float) -> None:
    batch = images(9)
    expected, found = trunk("cpu", "float32")(batch), trunk("cuda", dtype)(batch.to("cuda"))
    assert (found.float().cpu() - expected).norm() <= error * expected.norm()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_batch_has_the_same_bits_whatever_the_caller_chose(dtype: str) -> None:
    made, batch = trunk("cuda", dtype), images(9).to("cuda")
    expected = made(batch)
    choices = [(torch.backends, "tf32"), (torch.backends.cudnn.conv, "tf32"), (torch.backends.cudnn.conv, "ieee")]  # type: ignore[attr-defined]
    for chosen, value in choices:
        before = chosen.fp32_precision
        try:
            chosen.fp32_precision = value
            assert torch.equal(made(batch), expected) and chosen.fp32_precision == value
        finally:
            chosen.fp32_precision = before


@pytest.mark.filterwarnings("ignore:cuML is not usable")
def test_a_model_from_fit_to_graph() -> None:
    """The words of the CPU's model; a graph's bits are those of the same call without it."""
    photographs = images(5).permute(0, 2, 3, 1).numpy()
    on_cpu, on_gpu = (
        Annotator(trunk=trunk(device, "float32"), device=device, trunk_dtype="float32", **SMALL).fit(photographs, WORDS)
        for device in ("cpu", "cuda")
    )
    batch = images(6).to("cuda")
    assert np.array_equal(on_gpu.annotate(photographs, K).index, on_cpu.annotate(photographs, K).index)
    index, distance = on_gpu.annotate_tensor(batch, K)
    replayed = on_gpu.capture(tuple(batch.shape), K)(batch)  # type: ignore[arg-type]
    assert torch.equal(replayed[0], index) and torch.equal(replayed[1], distance)
