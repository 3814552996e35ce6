"""Gaussian normalisation and PCA of local features, as one affine map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Below this share of the largest channel variance, a channel's variance is rounding of float64 running sums.
_CONSTANT = 1e-12


def feature_sums(features: NDArray[np.floating]) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
    """Count, sum and sum of outer products of local features, in float64.

    Args:
        features: (N, C) floating point.

    Returns:
        ``(N, Σx (C,), Σx·xᵀ (C, C))``: all that normalisation and PCA need. Sums of parts add up to the sums of the whole.
    """
    exact = features.astype(np.float64)
    return len(exact), exact.sum(axis=0), exact.T @ exact


def normalisation_pca(
    count: int,
    total: NDArray[np.float64],  # (C,)
    outer: NDArray[np.float64],  # (C, C)
    n_components: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Gaussian normalisation and PCA from running sums, folded: ``descriptor = feature @ matrix + offset``.

    Each channel is brought to zero mean and unit variance (population variance, training statistics) and the result projected on
    the ``n_components`` leading eigenvectors of its covariance, which is the channels' correlation matrix. An eigenvector's sign is
    fixed so that its entry of largest magnitude is positive. A channel that is constant over the training set has no scale to be
    normalised by: it gets weight 0.

    Returns:
        ``matrix (C, n), offset (n,), explained_variance_ratio (n,)`` in float64.

    Raises:
        ValueError: fewer than two features, non-finite sums, or more components than channels that vary.
    """
    channels = len(total)
    if count < 2:
        raise ValueError(f"normalisation and PCA need at least 2 local features, got {count}")
    if not (np.isfinite(total).all() and np.isfinite(outer).all()):
        raise ValueError("the local features hold NaN or infinite values")
    mean = total / count
    covariance = outer / count - np.outer(mean, mean)
    variance = np.diag(covariance).copy()
    # A constant channel's variance is a difference of two equal numbers: judge it by their size.
    varies = variance > _CONSTANT * np.maximum(np.diag(outer) / count, variance.max(initial=0.0))
    if n_components > varies.sum():
        raise ValueError(
            f"n_components = {n_components} is more than the {int(varies.sum())} of {channels} channels that vary over the "
            "training images; use fewer components, or more and more varied images"
        )
    scale = np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1.0)), 0.0)
    eigenvalues, eigenvectors = np.linalg.eigh(covariance * np.outer(scale, scale))
    order = np.argsort(-eigenvalues, kind="stable")[:n_components]
    components = eigenvectors[:, order]
    components = components * np.sign(components[np.abs(components).argmax(axis=0), np.arange(n_components)])
    matrix = scale[:, None] * components
    return matrix, -mean @ matrix, eigenvalues[order] / eigenvalues.sum()


def transform(features: NDArray[np.floating], matrix: NDArray[np.floating], offset: NDArray[np.floating]) -> NDArray[np.floating]:
    """Descriptors of local features: ``features @ matrix + offset``.

    Args:
        features: (..., C). matrix: (C, n). offset: (n,). All of one dtype.

    Returns:
        (..., n) of that dtype.
    """
    descriptors = features.reshape(-1, features.shape[-1]) @ matrix
    descriptors += offset
    return descriptors.reshape(*features.shape[:-1], matrix.shape[1])
