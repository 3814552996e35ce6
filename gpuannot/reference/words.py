"""Word vectors: the sums behind equation 4."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


def word_sums(
    vectors: NDArray[np.floating],
    labels: sparse.csr_array,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """``Σ_{I ∈ S_j} I`` and ``N_j`` of a batch: the sparse product labelsᵀ · vectors, in float64.

    Args:
        vectors: (B, D).
        labels: (B, W), 1 where the image carries the word.

    Returns:
        sums (W, D) float64 and counts (W,) int64. Sums of batches add up to the sums of the whole.
    """
    indicator = labels.astype(np.float64)
    counts = np.asarray(indicator.sum(axis=0)).ravel().astype(np.int64)
    return indicator.T @ vectors.astype(np.float64), counts
