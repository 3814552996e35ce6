"""The codebook: m visual words, found by K-means in a sample of descriptors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .errors import NotFittedError
from .reference import codebook as _reference


def sample_positions(total: int, size: int, seed: int) -> NDArray[np.int64]:
    """Which of ``total`` descriptors make the K-means sample: ``size`` of them, uniform without replacement, ascending.

    The choice depends on the three numbers alone, so a fit that sees the descriptors in pieces draws the same sample.

    Returns:
        (min(size, total),) int64.
    """
    if size >= total:
        return np.arange(total, dtype=np.int64)
    generator = np.random.default_rng(np.random.SeedSequence((seed, 1)))
    return np.sort(generator.choice(total, size=size, replace=False, shuffle=False)).astype(np.int64)


class Codebook:
    """K-means visual words.

    Args:
        n_centers: m. max_iterations: most Lloyd iterations. seed: of the k-means++ start.

    Attributes:
        centers_: (m, n) float32. inertia_: sum of squared distances of the sample to its nearest centres.
    """

    centers_: NDArray[np.float32]
    inertia_: float

    def __init__(self, n_centers: int = 64, *, max_iterations: int = 100, seed: int = 0) -> None:
        self.n_centers, self.max_iterations, self.seed = n_centers, max_iterations, seed

    def fit(self, descriptors: NDArray[np.floating]) -> Codebook:
        """Learn the centres of descriptors (N, n).

        Raises:
            ValueError: fewer distinct descriptors than centres, or non-finite values.
        """
        self.centers_, self.inertia_ = _reference.kmeans(
            descriptors, self.n_centers, seed=self.seed, max_iterations=self.max_iterations
        )
        return self

    @property
    def centers(self) -> NDArray[np.float32]:
        if not hasattr(self, "centers_"):
            raise NotFittedError("this Codebook has no centres yet; call fit first")
        return self.centers_
