"""The affine map of features, unchanged, on the CPU, against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cuda_on_cpu import compiler
from kernel_cases import random_stored
from vector_cases import affine_map, mapped

from gpuannot import kernels
from gpuannot.errors import DeviceError
from gpuannot.kernels import checks
from gpuannot.kernels.plan import Launch

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler (g++, or the one named in CXX)")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("rows", "channels", "components", "padding"),
    [(0, 8, 3, 0), (1, 1, 1, 0), (2, 33, 65, 1), (31, 64, 64, 8), (257, 40, 130, 0), (197, 512, 64, 0), (34, 31, 7, 3)],
)
def test_rows_are_mapped_as_in_float64(rows: int, channels: int, components: int, padding: int, dtype: str) -> None:
    rng = np.random.default_rng([rows, channels])
    features, matrix = random_stored(rng, (rows, channels), dtype), random_stored(rng, (2, components, channels), dtype)
    offset = rng.standard_normal(components, np.float32)
    out = affine_map([features], [matrix], offset[None], padding, seed=rows)
    exact, bound = mapped(features.values, matrix.values, offset)
    assert (np.abs(out - exact) <= bound).all()


@pytest.mark.parametrize("channels", [(8, 40), (31, 8, 5), (16, 1, 64, 33)])
def test_layers_are_mapped_by_themselves(channels: tuple[int, ...]) -> None:
    rng = np.random.default_rng(channels)
    features = [random_stored(rng, (70, size), "bfloat16") for size in channels]
    matrices = [random_stored(rng, (2, 9, size), "bfloat16") for size in channels]
    offset = rng.standard_normal((len(channels), 9), np.float32)
    out = affine_map(features, matrices, offset, 1).reshape(70, -1, 9)
    for layer, (own, matrix) in enumerate(zip(features, matrices, strict=True)):
        exact, bound = mapped(own.values, matrix.values, offset[layer])
        assert (np.abs(out[:, layer] - exact) <= bound).all()


def test_rows_that_are_not_numbers_stay_by_themselves() -> None:
    rng = np.random.default_rng(5)
    features, matrix = random_stored(rng, (40, 24), "bfloat16"), random_stored(rng, (2, 9, 24), "bfloat16")
    clean = affine_map([features], [matrix], np.zeros((1, 9), np.float32))
    features.bits[7, 23] = 0x7FC0
    out = affine_map([features], [matrix], np.zeros((1, 9), np.float32))
    assert np.isnan(out[7]).all()
    assert np.array_equal(np.delete(out, 7, 0), np.delete(clean, 7, 0))


def test_affine_map_takes_columns_and_fills_columns(launched: list[Launch]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-4, 5, (3, 50, 40), generator=generator).bfloat16()
    matrices = [torch.randint(-4, 5, (2, 5, size), generator=generator).bfloat16() for size in (16, 8)]
    offset, out = torch.arange(10.0).view(2, 5), torch.full((3, 50, 17), -7.0)
    layers = [x[..., 8:24], x[..., 32:]]
    pairs = zip(layers, matrices, offset, strict=True)
    expected = torch.cat([own.float() @ matrix.float().sum(0).T + added for own, matrix, added in pairs], dim=2)
    assert torch.equal(kernels.affine_map(layers, matrices, offset), expected)
    part = kernels.affine_map(layers, matrices, offset, out=out[..., 4:14])
    assert torch.equal(part, expected)
    assert torch.equal(part, out[..., 4:14]) and (out[..., :4] == -7).all() and (out[..., 14:] == -7).all()
    assert torch.equal(kernels.affine_map([x[1, ::2, 8:24]], matrices[:1], offset[:1]), expected[1, ::2, :5])
    assert [plan.options[-1] for plan in launched] == ["-DVECTOR=8"] * 3
    assert kernels.affine_map([x[:0, :, :16]], matrices[:1], offset[:1]).shape == (0, 50, 5) and len(launched) == 3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": torch.zeros(2, 4)}, TypeError, "features is torch.float32: expected torch.float16 or torch.bfloat16"),
        ({"features": torch.zeros(4, 2).bfloat16().T}, ValueError, "features has strides .*contiguous"),
        ({"features": torch.zeros(2, 3, 8).bfloat16()[:, :2, :4]}, ValueError, "rows must be evenly spaced; pass features.contig"),
        ({"matrix": torch.zeros(2, 3, 5).bfloat16()}, ValueError, r"matrix has shape \(2, 3, 5\): expected \(2, 3, 4\)"),
        ({"matrix": torch.zeros(2, 3, 4)}, TypeError, "matrix is torch.float32"),
        ({"matrix": torch.zeros(2, 0, 4).bfloat16()}, ValueError, "n must be 1"),
        ({"offset": torch.zeros(1, 4)}, ValueError, r"offset has shape \(1, 4\): expected \(1, 3\)"),
        ({"out": torch.zeros(2, 4)}, ValueError, r"out has shape \(2, 4\): expected \(2, 3\)"),
        ({}, DeviceError, "CUDA"),
    ],
)
def test_wrong_features_are_named(
    change: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if change:
        monkeypatch.setattr(checks, "_check_devices", lambda **tensors: None)
    right = {"features": torch.zeros(2, 4).bfloat16(), "matrix": torch.zeros(2, 3, 4).bfloat16(), "offset": torch.zeros(1, 3)}
    given = {**right, **change}
    with pytest.raises(error, match=message):
        kernels.affine_map([given.pop("features")], [given.pop("matrix")], given.pop("offset"), **given)


def test_wrong_layers_are_named(launched: list[Launch]) -> None:
    x, matrix, offset = torch.zeros(2, 4).bfloat16(), torch.zeros(2, 3, 4).bfloat16(), torch.zeros(2, 3)
    with pytest.raises(ValueError, match="features has 5 layers, matrices 5: expected as many, 1 … 4"):
        kernels.affine_map([x] * 5, [matrix] * 5, offset)
    with pytest.raises(ValueError, match="features has 2 layers, matrices 1"):
        kernels.affine_map([x] * 2, [matrix], offset)
    with pytest.raises(ValueError, match=r"features has shape \(1, 4\): expected \(2, 4\)"):
        kernels.affine_map([x, x[:1]], [matrix] * 2, offset)
    with pytest.raises(ValueError, match=r"matrix has shape \(2, 2, 4\): expected \(2, 3, 4\)"):
        kernels.affine_map([x] * 2, [matrix, matrix[:, :2]], offset)
