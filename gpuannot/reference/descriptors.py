"""Gaussian normalisation and PCA of local features, as one affine map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidArgumentError

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


def normalisation(
    count: int,
    total: NDArray[np.float64],
    outer: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Gaussian normalisation from running sums: each channel to zero mean and unit (population) variance.

    A channel that is constant over the training set has no scale to be normalised by: its scale is 0.

    Args:
        count: N.
        total: Σx (C,).
        outer: Σx·xᵀ (C, C).

    Returns:
        ``mean (C,)``, ``scale (C,)`` (1/standard deviation) and ``correlation (C, C)`` in float64.

    Raises:
        ValueError: fewer than two features, or non-finite sums.
    """
    if count < 2:
        raise InvalidArgumentError(f"normalisation and PCA need at least 2 local features, got {count}")
    if not (np.isfinite(total).all() and np.isfinite(outer).all()):
        raise InvalidArgumentError("the local features hold NaN or infinite values")
    mean = total / count
    covariance = outer / count - np.outer(mean, mean)
    variance = np.diag(covariance).copy()
    # A constant channel's variance is a difference of two equal numbers: judge it by their size.
    varies = variance > _CONSTANT * np.maximum(np.diag(outer) / count, variance.max(initial=0.0))
    scale = np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1.0)), 0.0)
    return mean, scale, covariance * np.outer(scale, scale)


def principal_components(
    correlation: NDArray[np.float64],
    n_components: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The leading eigenvectors of the correlation matrix, and their shares of its trace.

    Args:
        correlation: (C, C).
        n_components: n.

    Returns:
        eigenvectors (C, n) and shares (n,).
    """
    eigenvalues, eigenvectors = np.linalg.eigh(correlation)
    order = np.argsort(-eigenvalues, kind="stable")[:n_components]
    return eigenvectors[:, order], eigenvalues[order] / eigenvalues.sum()


def fold(
    mean: NDArray[np.float64],
    scale: NDArray[np.float64],
    components: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Normalisation and projection as one affine map: ``descriptor = feature @ matrix + offset``.

    A component's sign is fixed so that its entry of largest magnitude is positive.

    Args:
        mean: (C,).
        scale: (C,).
        components: (C, n).

    Returns:
        ``matrix (C, n), offset (n,)`` in float64.
    """
    components = components * np.sign(components[np.abs(components).argmax(axis=0), np.arange(components.shape[1])])
    matrix = scale[:, None] * components
    return matrix, -mean @ matrix


def normalisation_pca(
    count: int,
    total: NDArray[np.float64],
    outer: NDArray[np.float64],
    n_components: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Gaussian normalisation, then PCA, from running sums, as one affine map.

    Args:
        count: N.
        total: Σx (C,).
        outer: Σx·xᵀ (C, C).
        n_components: n.

    Returns:
        ``matrix (C, n), offset (n,), explained_variance_ratio (n,)`` in float64.

    Raises:
        ValueError: fewer than two features, non-finite sums, or more components than channels that vary.
    """
    mean, scale, correlation = normalisation(count, total, outer)
    check_components(scale, n_components)
    components, ratio = principal_components(correlation, n_components)
    return (*fold(mean, scale, components), ratio)


def check_components(scale: NDArray[np.float64], n_components: int) -> None:
    """Refuse a number of components that the channels do not have.

    Raises:
        ValueError: less than one component, or more than channels that vary.
    """
    if n_components < 1:
        raise InvalidArgumentError(f"n_components = {n_components} must be at least 1")
    varying = int(np.count_nonzero(scale))
    if n_components > varying:
        raise InvalidArgumentError(
            f"n_components = {n_components} is more than the {varying} of {len(scale)} channels that vary over the training "
            "images; use fewer components, or more and more varied images"
        )


def transform(features: NDArray[np.floating], matrix: NDArray[np.floating], offset: NDArray[np.floating]) -> NDArray[np.floating]:
    """Descriptors of local features: ``features @ matrix + offset``, all of one dtype.

    Args:
        features: (..., C).
        matrix: (C, n).
        offset: (n,).

    Returns:
        (..., n) of that dtype.
    """
    # One product an image: that of a batch would round an image's rows by where in the batch they are.
    descriptors = features @ matrix
    descriptors += offset
    return descriptors
