"""Gaussian normalisation and PCA of local features: the paper's second step, as one affine map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .errors import NotFittedError
from .reference import descriptors as _reference


class GaussianPCA:
    """Zero mean and unit variance for each channel, then the leading principal components.

    Learnt from running sums (count, Σx, Σx·xᵀ in float64), so that fitting streams: memory does not grow with the number of images,
    sums of parts can be added, and the result does not depend on how the images were batched beyond float64 rounding.

    Args:
        n_components: n, dimensions of a descriptor.

    Attributes:
        matrix_: (C, n) float32 and offset_: (n,) float32, with ``descriptor = feature @ matrix_ + offset_``.
        explained_variance_ratio_: (n,) float64.
        constant_channels_: channels that did not vary over the training images; they get weight 0.
    """

    matrix_: NDArray[np.float32]
    offset_: NDArray[np.float32]
    explained_variance_ratio_: NDArray[np.float64]

    def __init__(self, n_components: int = 64) -> None:
        self.n_components = n_components
        self.count_ = 0
        self._total: NDArray[np.float64] | None = None
        self._outer: NDArray[np.float64] | None = None

    def accumulate(self, features: NDArray[np.floating]) -> GaussianPCA:
        """Add the features (..., C) of some images to the running sums.

        Raises:
            ValueError: C differs from what came before.
        """
        flat = features.reshape(-1, features.shape[-1])
        count, total, outer = _reference.feature_sums(flat)
        if self._total is None or self._outer is None:
            self._total, self._outer = np.zeros_like(total), np.zeros_like(outer)
        if total.shape != self._total.shape:
            raise ValueError(f"features have {len(total)} channels, those before had {len(self._total)}")
        self.count_ += count
        self._total += total
        self._outer += outer
        return self

    def finish(self) -> GaussianPCA:
        """Learn the map from the sums accumulated so far.

        Raises:
            ValueError: no or too few features, too few channels that vary, or non-finite features.
        """
        if self._total is None or self._outer is None:
            raise ValueError("no features were accumulated: not one image could be read")
        matrix, offset, self.explained_variance_ratio_ = _reference.normalisation_pca(
            self.count_, self._total, self._outer, self.n_components
        )
        self.matrix_, self.offset_ = matrix.astype(np.float32), offset.astype(np.float32)
        return self

    def fit(self, features: NDArray[np.floating]) -> GaussianPCA:
        """Learn the map from features (..., C) that fit in memory."""
        self.count_, self._total, self._outer = 0, None, None
        return self.accumulate(features).finish()

    @property
    def constant_channels_(self) -> NDArray[np.intp]:
        self._require_fit()
        return np.flatnonzero(~self.matrix_.any(axis=1))

    def transform(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Descriptors (..., n) float32 of features (..., C) float32."""
        self._require_fit()
        return _reference.transform(features, self.matrix_, self.offset_)

    def _require_fit(self) -> None:
        if not hasattr(self, "matrix_"):
            raise NotFittedError("this GaussianPCA has learnt nothing yet; call fit, or accumulate and finish, first")
