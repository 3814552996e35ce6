"""Large products, factors and eigenvectors in blocks against NumPy's own, and the same bits whoever makes the blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gpuannot.heads import products
from gpuannot.heads.products import add_gram, gram, inverse, leading_eigenvectors, product
from gpuannot.system import threads


@pytest.fixture(params=[(512, 256), (4, 2), (1, 1), (7, 3)], ids=str)
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_BLOCK", request.param[0])
    monkeypatch.setattr(products, "_PANEL", request.param[1])


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(shape[0]).standard_normal(shape)).to(dtype)


def positive(size: int) -> Tensor:
    rows = drawn(size + 3, size)
    return rows.T @ rows + torch.eye(size, dtype=torch.float64)


def summed_gram(*parts: Tensor) -> Tensor:
    found = torch.zeros(parts[0].shape[1], parts[0].shape[1], dtype=torch.float64)
    for part in parts:
        add_gram(found, part)
    return found


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 1), (1, 3, 5), (13, 4, 29), (29, 4, 13), (0, 3, 4), (3, 0, 2)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_in_blocks(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    left, right = drawn(*shape[:2], dtype=dtype), drawn(shape[2], shape[1], dtype=dtype).T  # which is not contiguous
    found = product(left, right)
    assert found.dtype == dtype and found.shape == (shape[0], shape[2])
    np.testing.assert_allclose(found, left.double().numpy() @ right.double().numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("size", [1, 2, 5, 33])
def test_the_lower_triangle_of_a_gram_matrix(size: int) -> None:
    rows = drawn(size, 6)
    np.testing.assert_allclose(np.tril(gram(rows)), np.tril(rows.numpy() @ rows.numpy().T), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("size", [1, 2, 5, 33])
def test_the_lower_triangle_of_a_sum_of_gram_matrices(size: int) -> None:
    parts = [drawn(6, size), drawn(9, size)]
    expected = sum(part.numpy().T @ part.numpy() for part in parts)
    np.testing.assert_allclose(np.tril(summed_gram(*parts)), np.tril(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("size", [1, 2, 5, 33, 257])
def test_an_inverse_in_blocks(size: int) -> None:
    system = positive(size)
    found = inverse(system.clone()).numpy()
    np.testing.assert_allclose(found, np.linalg.inv(system.numpy()), rtol=1e-9, atol=1e-12)
    assert np.array_equal(found, found.T)


@pytest.mark.parametrize("size", [2, 300])
def test_what_stands_above_the_diagonal_says_nothing(size: int) -> None:
    """Memory that nobody has written may hold numbers that a processor complains about when they are touched."""
    system = positive(size)
    signalling = np.full((size, size), 0x7FF0000000000001, np.uint64).view(np.float64)
    held = torch.from_numpy(np.where(np.triu(np.ones((size, size), bool), 1), signalling, system.numpy()))
    assert torch.equal(inverse(held), inverse(system))


def test_what_is_not_positive_definite_has_no_factor() -> None:
    with pytest.raises(np.linalg.LinAlgError):
        inverse(torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64)))


@pytest.mark.parametrize(("size", "count"), [(1, 1), (6, 1), (6, 6), (40, 13)])
def test_leading_eigenvectors_are_numpys(size: int, count: int) -> None:
    system = positive(size)
    below = system.tril()  # the rest is not read
    values, vectors = leading_eigenvectors(below, count)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(system.numpy())[::-1][:count], rtol=1e-10)
    np.testing.assert_allclose(system.numpy() @ vectors.numpy(), vectors.numpy() * values.numpy(), atol=1e-8)
    np.testing.assert_allclose(vectors.numpy().T @ vectors.numpy(), np.eye(count), atol=1e-10)


@pytest.mark.parametrize(
    "compute",
    [
        lambda: product(drawn(700, 90), drawn(90, 1100)),
        lambda: gram(drawn(1100, 90)).tril(),
        lambda: summed_gram(drawn(90, 1100)).tril(),
        lambda: inverse(positive(600)),
        lambda: torch.cat([part.flatten() for part in leading_eigenvectors(positive(300), 40)]),
    ],
)
def test_the_number_of_threads_does_not_change_a_bit(compute: Callable[[], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    for cores in (1, 2):
        monkeypatch.setattr(threads, "cpus", lambda cores=cores: cores)
        found.append(compute())
    assert torch.equal(*found)
