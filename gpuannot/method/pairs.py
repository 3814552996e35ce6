"""Products and distances in float64 of some pairs of image and word, by torch: what ranking orders its candidates by on a CPU.

The same as :func:`gpuannot.reference.ranking.products` and :func:`~gpuannot.reference.ranking.squared_distances`, several times as
fast: no pair's vectors are copied side by side.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray

from ..reference import ranking as _reference
from ..system.threads import one_torch_thread

# A squared distance below this share of the vectors' squared norms is computed from their difference, as rounding of three terms
# that cancel would be more than 64 times as large in it.
_NEAR = 1 / 64


def products(
    vectors: NDArray[np.float32], word_vectors: NDArray[np.float32], image: NDArray[np.intp], word: NDArray[np.intp]
) -> NDArray[np.float64]:
    """x·v (pairs,) in float64: a pair's is the same whatever else is asked for, and equal vectors have equal products.

    Args:
        vectors: (T, D). word_vectors: (W, D). image: (pairs,) ascending. word: (pairs,).
    """
    used, column = np.unique(word, return_inverse=True)
    return _products(torch.from_numpy(vectors).double(), word_vectors[used].astype(np.float64), image, column)


def squared_distances(
    vectors: NDArray[np.float32], word_vectors: NDArray[np.float32], image: NDArray[np.intp], word: NDArray[np.intp]
) -> NDArray[np.float64]:
    """‖x − v‖² (pairs,) in float64: ‖x‖² + ‖v‖² − 2·x·v, or from the difference of near vectors; arguments as :func:`products`."""
    used, column = np.unique(word, return_inverse=True)
    exact, words = torch.from_numpy(vectors).double(), word_vectors[used].astype(np.float64)
    norms = _squared_norms(exact.numpy())[image] + _squared_norms(words)[column]
    squared = norms - 2 * _products(exact, words, image, column)
    near = np.flatnonzero(squared < _NEAR * norms)
    squared[near] = _reference.squared_distances(vectors, word_vectors, image[near], word[near])
    return squared


def _squared_norms(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.einsum("ij,ij->i", vectors, vectors)


def _products(
    exact: torch.Tensor, words: NDArray[np.float64], image: NDArray[np.intp], column: NDArray[np.intp]
) -> NDArray[np.float64]:
    starts = torch.from_numpy(np.searchsorted(image, np.arange(len(exact) + 1)))
    wanted = _pattern(starts, torch.from_numpy(column), (len(exact), len(words)))
    with one_torch_thread():
        return torch.sparse.sampled_addmm(wanted, exact, torch.from_numpy(words).T, beta=0).values().numpy()


def _pattern(starts: torch.Tensor, columns: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    values = torch.zeros(len(columns), dtype=torch.float64)
    return torch.sparse_csr_tensor(starts, columns, values, size=size, check_invariants=False)


# torch says once a process that its CSR tensors are in beta: now, to nobody.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    _pattern(torch.zeros(2, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), (1, 1))
