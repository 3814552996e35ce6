"""The kernels of image vectors, unchanged, on the CPU, against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cuda_on_cpu import compiler
from vector_cases import multiplied, rank_candidates, ranked, ranking_case, unit_products

from gpuannot import kernels
from gpuannot.errors import DeviceError
from gpuannot.kernels import checks
from gpuannot.kernels.plan import Launch

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler (g++, or the one named in CXX)")

SCORES = ("l2", "cosine", "linear")


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    ("images", "words", "dims", "take", "k"),
    [(1, 1, 1, 1, 1), (3, 20, 31, 16, 5), (2, 40, 33, 17, 17), (5, 300, 257, 13, 5), (1, 600, 2, 513, 300)],
)
def test_candidates_are_ranked_as_in_float64(images: int, words: int, dims: int, take: int, k: int, score: str) -> None:
    vectors, rows, candidates, bias = ranking_case(images, words, dims, take, score)
    index, distance = rank_candidates(vectors, rows, candidates, k, score, bias, padding=dims % 2, seed=dims)
    expected, exact = ranked(vectors, rows, candidates, k, score, bias)
    assert np.array_equal(index, expected)
    np.testing.assert_allclose(distance, exact, rtol=2.0**-23, atol=1e-15)


@pytest.mark.parametrize("score", SCORES)
def test_candidates_of_vectors_that_are_zero_or_not_numbers(score: str) -> None:
    vectors, rows, candidates, bias = ranking_case(3, 40, 9, 12, score)
    vectors[0] = 0
    vectors[1, 4] = np.nan
    rows[candidates[2, 3], 0] = np.nan  # of one word of an image: it comes last
    index, distance = rank_candidates(vectors, rows, candidates, 12, score, bias)
    with np.errstate(invalid="ignore"):
        expected, exact = ranked(vectors, rows, candidates, 12, score, bias)
    assert np.array_equal(index, expected)
    assert np.array_equal(np.isnan(distance), np.isnan(exact) if score != "cosine" else np.isnan(distance))
    assert index[2, -1] == 2 * candidates[2, 3] + 3


def test_rank_candidates_takes_parts_of_rows(launched: list[Launch]) -> None:
    vectors, rows, candidates, bias = ranking_case(4, 30, 20, 9, "linear")
    x = torch.randn(4, 25)
    x[:, :20] = torch.from_numpy(vectors)
    given = torch.from_numpy(rows), torch.arange(30), torch.from_numpy(candidates)
    index, distance = kernels.rank_candidates(x[:, :20], *given, 4, score="linear", bias=torch.from_numpy(bias))
    expected, exact = ranked(vectors, rows, candidates, 4, "linear", bias)
    assert np.array_equal(2 * index + 3, expected) and np.allclose(distance, exact, rtol=1e-6)
    assert len(launched) == 1
    index, distance = kernels.rank_candidates(x[:0, :20], given[0], given[1], given[2][:0], 4)
    assert index.shape == distance.shape == (0, 4) and len(launched) == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"vectors": torch.zeros(2, 4).double()}, TypeError, "vectors is torch.float64"),
        ({"vectors": torch.zeros(4, 2).T}, ValueError, "vectors has strides"),
        ({"word_vectors": torch.zeros(5, 3)}, ValueError, "word_vectors has 3 dimensions and vectors 4"),
        ({"known": torch.zeros(4).long()}, ValueError, r"known has shape \(4,\)"),
        ({"candidates": torch.zeros(3, 2).long()}, ValueError, r"candidates has shape \(3, 2\): expected \(2, 2\)"),
        ({"candidates": torch.zeros(2, 2, dtype=torch.int32)}, TypeError, "candidates is torch.int32"),
        ({"k": 3}, ValueError, "k is 3 of 2 candidates: expected 1 ≤ k"),
        ({"k": 0}, ValueError, "k is 0 of 2"),
        ({"score": "dot"}, ValueError, "score is 'dot', bias left out: expected l2 or cosine, or linear with a bias"),
        ({"score": "linear"}, ValueError, "score is 'linear', bias left out"),
        ({"bias": torch.zeros(5)}, ValueError, "score is 'l2', bias given"),
        ({"bias": torch.zeros(4), "score": "linear"}, ValueError, r"bias has shape \(4,\)"),
        ({}, DeviceError, "CUDA"),
    ],
)
def test_wrong_candidates_are_named(
    change: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if change:
        monkeypatch.setattr(checks, "_check_devices", lambda **tensors: None)
    right = {
        "vectors": torch.zeros(2, 4), "word_vectors": torch.zeros(5, 4), "known": torch.zeros(5).long(),
        "candidates": torch.zeros(2, 2).long(), "k": 1,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        kernels.rank_candidates(**{**right, **change})


@pytest.mark.parametrize(
    ("shape", "quadratic"),
    [((1, 0, 1, 3), 2), ((1, 1, 1, 1), 1), ((2, 3, 2, 2), 2), ((2, 2, 1, 257), 33), ((1, 3, 2, 300), 0), ((2, 2, 2, 31), 31)],
)
def test_projections_are_brought_to_unit_length_and_multiplied(shape: tuple[int, int, int, int], quadratic: int) -> None:
    rng = np.random.default_rng(shape)
    product, offset = rng.standard_normal(shape, np.float32), rng.standard_normal(shape[3], np.float32)
    out = unit_products(product, offset, quadratic, 0.3, seed=quadratic)
    np.testing.assert_allclose(out, multiplied(product, offset, quadratic, 0.3), rtol=1e-5, atol=2.0**-22)


def test_projections_that_are_zero_huge_or_not_numbers() -> None:
    product = np.random.default_rng(0).standard_normal((1, 4, 1, 40), np.float32)
    product[0, 0], product[0, 1, 0, 7], product[0, 2] = 0, np.nan, 1e30
    out = unit_products(product, np.zeros(40, np.float32), 5, 0.5)
    assert not out[0].any() and np.isnan(out[1]).all()
    np.testing.assert_allclose(out[2, :40], 40**-0.5, rtol=1e-6)
    assert np.array_equal(out[3], unit_products(product[:, 3:], np.zeros(40, np.float32), 5, 0.5)[0])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"product": torch.zeros(1, 2, 1, 4).double()}, TypeError, "product is torch.float64"),
        ({"product": torch.zeros(1, 2, 1, 8)[..., ::2]}, ValueError, "product has strides"),
        ({"offset": torch.zeros(3)}, ValueError, r"offset has shape \(3,\)"),
        ({"quadratic": 5}, ValueError, "quadratic is 5 of d = 4: expected 0 ≤ quadratic ≤ d"),
        ({"product": torch.zeros(1, 2, 1, 0), "offset": torch.zeros(0)}, ValueError, "quadratic is 0 of d = 0"),
        ({}, DeviceError, "CUDA"),
    ],
)
def test_wrong_products_are_named(
    change: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if change:
        monkeypatch.setattr(checks, "_check_devices", lambda **tensors: None)
    with pytest.raises(error, match=message):
        kernels.unit_products(**{"product": torch.zeros(1, 2, 1, 4), "offset": torch.zeros(4), **change})


@pytest.mark.parametrize("count", [0, 1, 255, 257, 1000])
def test_kernel_values_are_those_of_the_same_steps(count: int, launched: list[Launch]) -> None:
    products = torch.rand(count, generator=torch.Generator().manual_seed(count)) * 2 - 1
    for width in (0.25, 2.0, 100.0):
        found = kernels.kernel_values(products, width)
        exact = torch.exp(width * (products.double() - 1)) / -np.expm1(-width)
        assert found.dtype == torch.float64 and torch.equal(found, found.float().double())
        # (x - 1)·γ is rounded twice, which the exponential multiplies by up to 2γ.
        assert bool(((found - exact).abs() <= exact * 2.0**-23 * (4 * width + 3) + 1e-45).all())
    assert bool(kernels.kernel_values(torch.tensor([torch.nan]), 2.0).isnan().all())
    assert len(launched) == 3 * (count > 0) + 1


def test_wrong_inner_products_are_named() -> None:
    for products, error, message in (
        (torch.zeros(2).double(), TypeError, "products is torch.float64: expected torch.float32"),
        (torch.zeros(4, 4)[:, ::2], ValueError, r"products has strides \(4, 2\)"),
        (torch.zeros(2), DeviceError, "CUDA"),
    ):
        with pytest.raises(error, match=message):
            kernels.kernel_values(products, 2.0)
