"""The k nearest words of each image (the paper's equation 6)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .threads import for_blocks

# Images whose scores are held at once.
_BLOCK = 1024
# Of those, images whose candidates are chosen at once.
_IMAGES = 8
# Differences of image and word vector held at once: 24 of 4,096 values stay in a core's second-level cache.
_PAIRS = 24
# Lanes in whose minima the k-th smallest score is bounded.
_LANES = 64


def nearest_words(
    vectors: NDArray[np.floating],  # (T, D)
    word_vectors: NDArray[np.floating],  # (W, D)
    k: int,
    half_norms: NDArray[np.floating] | None = None,  # (W,)
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k word vectors nearest to each image in L2, nearest first, ties to the lowest word index.

    Candidates come from a matrix product, ``‖v‖²/2 − x·v``; their order and distance from ‖x − v‖ itself in float64. So two words
    with the same vector tie exactly, whatever the product rounded to.

    Args:
        half_norms: :func:`half_norms_of` the word vectors, where many calls share them; None computes them.

    Returns:
        index (T, k) int64 and distance (T, k) float64.

    Raises:
        ValueError: k outside 1…W, or a non-finite value.
    """
    words = len(word_vectors)
    if not 1 <= k <= words:
        raise ValueError(f"k = {k} must lie in 1…{words}, the number of words that can be given")
    halves = half_norms_of(word_vectors) if half_norms is None else half_norms
    if not (np.isfinite(halves).all() or np.isfinite(word_vectors).all()):
        raise ValueError("the word vectors hold NaN or infinite values")
    norm_bound = float(np.sqrt(2 * halves.max()))
    index = np.empty((len(vectors), k), dtype=np.int64)
    distance = np.empty((len(vectors), k))

    def rank_block(first: int) -> None:
        rows = vectors[first : first + _BLOCK]
        norms = np.linalg.norm(rows, axis=1)
        if not (np.isfinite(norms).all() or np.isfinite(rows).all()):
            raise ValueError("the image vectors hold NaN or infinite values")
        rounding = _rounding(norms, norm_bound, rows)
        scores = rows @ word_vectors.T

        def rank(start: int, stop: int) -> None:
            part = np.subtract(halves, scores[start:stop], out=scores[start:stop])
            image, word = np.divmod(np.flatnonzero(_candidates(part, k, rounding[start:stop])), words)
            squared = _squared_distances(rows[start:stop], word_vectors, image, word)
            order = np.lexsort((word, squared, image))  # ties to the lowest index
            nearest = order[np.searchsorted(image, np.arange(stop - start))[:, None] + np.arange(k)]
            index[first + start : first + stop] = word[nearest]
            distance[first + start : first + stop] = np.sqrt(squared[nearest])

        for_blocks(rank, len(rows), _IMAGES)

    for first in range(0, len(vectors), _BLOCK):
        rank_block(first)
    return index, distance


def half_norms_of(word_vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    """‖v‖²/2 of word vectors (W, D)."""
    return 0.5 * np.einsum("ij,ij->i", word_vectors, word_vectors)


def _rounding(norms: NDArray[np.floating], norm_bound: float, rows: NDArray[np.floating]) -> NDArray[np.floating]:
    """How far a comparison of two scores of each image can be off: 2·5·√D·ε·(‖x‖·‖v‖ + ‖v‖²/2).

    √D rather than D: rounding errors of a sum are as good as independent, and the probabilistic bound with factor 5 fails once in
    10⁵ at worst (Higham and Mary, 2019), where the bound by D would make every word a candidate.
    """
    return 10 * np.sqrt(rows.shape[1]) * float(np.finfo(rows.dtype).eps) * norm_bound * (norms + norm_bound / 2)


def _candidates(scores: NDArray[np.floating], k: int, rounding: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which words (images, W) could be among the k nearest of each image, given that scores are off by ``rounding`` at most.

    The k-th smallest minimum of disjoint sets of words is at least the k-th smallest score, and close to it where sets are many.
    """
    lanes = max(_LANES, 4 * k)
    sets = scores
    if (depth := scores.shape[1] // lanes) > 1:
        sets = scores[:, : depth * lanes].reshape(len(scores), depth, lanes).min(axis=1)
    limit = np.partition(sets, k - 1, axis=1)[:, k - 1] + rounding
    return ~(scores > limit[:, None])  # an overflow to NaN is a candidate too


def _squared_distances(
    rows: NDArray[np.floating],  # (B, D)
    word_vectors: NDArray[np.floating],  # (W, D)
    image: NDArray[np.intp],  # (pairs,)
    word: NDArray[np.intp],  # (pairs,)
) -> NDArray[np.float64]:
    """‖x − v‖² of pairs, from differences in float64: exact for float32 input, and the same for equal word vectors."""
    exact = rows.astype(np.float64)
    squared = np.empty(len(image))
    for start in range(0, len(image), _PAIRS):
        pairs = slice(start, start + _PAIRS)
        difference = exact[image[pairs]]
        difference -= word_vectors[word[pairs]]
        squared[pairs] = np.einsum("ij,ij->i", difference, difference)
    return squared
