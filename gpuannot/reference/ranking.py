"""The k nearest words of each image (the paper's equation 6), or the k that a linear head scores highest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Images whose scores are held at once.
_BLOCK = 1024
# Candidates beyond k that are compared by exact distance, so that ties at the cut are seen.
_MARGIN = 8


def nearest_words(
    vectors: NDArray[np.floating],  # (T, D)
    word_vectors: NDArray[np.floating],  # (W, D)
    k: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k word vectors nearest to each image in L2, nearest first, ties to the lowest word index.

    Candidates come from a matrix product, ``‖v‖²/2 − x·v``; their order and distance from ‖x − v‖ itself in float64. So two words
    with the same vector tie exactly, whatever the product rounded to.

    Returns:
        index (T, k) int64 and distance (T, k) float64.

    Raises:
        ValueError: k outside 1…W, or a non-finite value.
    """
    words = len(word_vectors)
    if not 1 <= k <= words:
        raise ValueError(f"k = {k} must lie in 1…{words}, the number of words that can be given")
    if not np.isfinite(word_vectors).all():
        raise ValueError("the word vectors hold NaN or infinite values")
    half_norms = 0.5 * np.einsum("ij,ij->i", word_vectors, word_vectors)
    norm_bound = float(np.sqrt(2 * half_norms.max()))
    index = np.empty((len(vectors), k), dtype=np.int64)
    distance = np.empty((len(vectors), k))
    for start in range(0, len(vectors), _BLOCK):
        rows = vectors[start : start + _BLOCK]
        if not np.isfinite(rows).all():
            raise ValueError("the image vectors hold NaN or infinite values")
        scores = rows @ word_vectors.T
        np.subtract(half_norms, scores, out=scores)
        for offset, (row, score) in enumerate(zip(rows, scores, strict=True)):
            candidates = _candidates(score, k, _rounding(row, norm_bound))
            # Float64 differences: exact for float32 input, and the same for equal word vectors.
            exact = word_vectors[candidates].astype(np.float64) - row
            squared = np.einsum("ij,ij->i", exact, exact)
            best = np.argsort(squared, kind="stable")[:k]  # candidates ascend, so a stable sort gives ties to the lowest index
            index[start + offset] = candidates[best]
            distance[start + offset] = np.sqrt(squared[best])
    return index, distance


def best_words(
    vectors: NDArray[np.floating],  # (T, D)
    weights: NDArray[np.floating],  # (W, D)
    bias: NDArray[np.floating],  # (W,)
    k: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k words of the highest score x·v + b for each image, highest first, ties to the lowest word index.

    Candidates come from a matrix product; their order and score from float64, so that words of equal weights and bias tie exactly.

    Returns:
        index (T, k) int64 and score (T, k) float64.

    Raises:
        ValueError: k outside 1…W, or a non-finite value.
    """
    words = len(weights)
    if not 1 <= k <= words:
        raise ValueError(f"k = {k} must lie in 1…{words}, the number of words that can be given")
    if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
        raise ValueError("the word weights hold NaN or infinite values")
    norm_bound = float(np.sqrt(np.einsum("ij,ij->i", weights, weights).max()))
    bias_bound = float(np.abs(bias).max())
    index = np.empty((len(vectors), k), dtype=np.int64)
    best = np.empty((len(vectors), k))
    for start in range(0, len(vectors), _BLOCK):
        rows = vectors[start : start + _BLOCK]
        if not np.isfinite(rows).all():
            raise ValueError("the image vectors hold NaN or infinite values")
        negative = -(rows @ weights.T + bias)
        for offset, (row, score) in enumerate(zip(rows, negative, strict=True)):
            epsilon = float(np.finfo(row.dtype).eps)
            rounding = 10 * np.sqrt(len(row)) * epsilon * (norm_bound * float(np.linalg.norm(row)) + bias_bound)
            candidates = _candidates(score, k, rounding)
            exact = (weights[candidates].astype(np.float64) * row).sum(axis=1) + bias[candidates]
            chosen = np.argsort(-exact, kind="stable")[:k]
            index[start + offset], best[start + offset] = candidates[chosen], exact[chosen]
    return index, best


def _rounding(row: NDArray[np.floating], norm_bound: float) -> float:
    """How far a comparison of two scores can be off: 2·5·√D·ε·(‖x‖·‖v‖ + ‖v‖²/2).

    √D rather than D: rounding errors of a sum are as good as independent, and the probabilistic bound with factor 5 fails once in
    10⁵ at worst (Higham and Mary, 2019), where the bound by D would make every word a candidate.
    """
    epsilon = float(np.finfo(row.dtype).eps)
    return 10 * np.sqrt(len(row)) * epsilon * norm_bound * (float(np.linalg.norm(row)) + norm_bound / 2)


def _candidates(score: NDArray[np.floating], k: int, rounding: float) -> NDArray[np.intp]:
    """Ascending indices of every word that could be among the k nearest, given that scores are off by ``rounding`` at most."""
    take = min(k + _MARGIN, len(score))
    nearest = np.argpartition(score, take - 1)[:take]
    limit = np.partition(score[nearest], k - 1)[k - 1] + rounding
    if take < len(score) and score[nearest].max() <= limit:
        return np.flatnonzero(score <= limit)
    return np.sort(nearest[score[nearest] <= limit])
