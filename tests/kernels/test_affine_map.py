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
    out = affine_map(features, matrix, offset, padding, seed=rows)
    exact, bound = mapped(features.values, matrix.values, offset)
    assert (np.abs(out - exact) <= bound).all()


def test_rows_that_are_not_numbers_stay_by_themselves() -> None:
    rng = np.random.default_rng(5)
    features, matrix = random_stored(rng, (40, 24), "bfloat16"), random_stored(rng, (2, 9, 24), "bfloat16")
    clean = affine_map(features, matrix, np.zeros(9, np.float32))
    features.bits[7, 23] = 0x7FC0
    out = affine_map(features, matrix, np.zeros(9, np.float32))
    assert np.isnan(out[7]).all()
    assert np.array_equal(np.delete(out, 7, 0), np.delete(clean, 7, 0))


def test_affine_map_takes_columns_and_fills_columns(launched: list[Launch]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-4, 5, (3, 50, 40), generator=generator).bfloat16()
    matrix = torch.randint(-4, 5, (2, 5, 16), generator=generator).bfloat16()
    offset, out = torch.arange(5.0), torch.full((3, 50, 12), -7.0)
    part = kernels.affine_map(x[..., 8:24], matrix, offset, out=out[..., 4:9])
    assert torch.equal(part, x[..., 8:24].float() @ matrix.float().sum(0).T + offset)
    assert torch.equal(part, out[..., 4:9]) and (out[..., :4] == -7).all() and (out[..., 9:] == -7).all()
    assert torch.equal(
        kernels.affine_map(x[1, ::2, :16], matrix, offset), x[1, ::2, :16].float() @ matrix.float().sum(0).T + offset
    )
    assert [plan.options[-1] for plan in launched] == ["-DVECTOR=8"] * 2
    assert kernels.affine_map(x[:0, :, :16], matrix, offset).shape == (0, 50, 5) and len(launched) == 2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": torch.zeros(2, 4)}, TypeError, "features is torch.float32: expected torch.float16 or torch.bfloat16"),
        ({"features": torch.zeros(4, 2).bfloat16().T}, ValueError, "features has strides .*contiguous"),
        ({"features": torch.zeros(2, 3, 8).bfloat16()[:, :2, :4]}, ValueError, "rows must be evenly spaced; pass features.contig"),
        ({"matrix": torch.zeros(2, 3, 5).bfloat16()}, ValueError, r"matrix has shape \(2, 3, 5\): expected \(2, 3, 4\)"),
        ({"matrix": torch.zeros(2, 3, 4)}, TypeError, "matrix is torch.float32"),
        ({"matrix": torch.zeros(2, 0, 4).bfloat16()}, ValueError, "n must be 1"),
        ({"offset": torch.zeros(4)}, ValueError, r"offset has shape \(4,\)"),
        ({"out": torch.zeros(2, 4)}, ValueError, r"out has shape \(2, 4\): expected \(2, 3\)"),
        ({}, DeviceError, "CUDA"),
    ],
)
def test_wrong_features_are_named(
    change: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if change:
        monkeypatch.setattr(checks, "_check_devices", lambda **tensors: None)
    right = {"features": torch.zeros(2, 4).bfloat16(), "matrix": torch.zeros(2, 3, 4).bfloat16(), "offset": torch.zeros(3)}
    with pytest.raises(error, match=message):
        kernels.affine_map(**{**right, **change})
