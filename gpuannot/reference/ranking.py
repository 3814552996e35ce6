"""The k nearest words of each image (the paper's equation 6), or the k that a linear head scores highest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidArgumentError
from ..system.threads import even_block, for_blocks

# Images that a thread ranks at once: enough for a product at its full rate.
_IMAGES = 512
# Scores that a thread holds at once, at most.
_SCORES = 1 << 25
# Pairs of image and word compared at once: 24 of 4,096 values in float64 stay in a core's second-level cache.
_PAIRS = 24
# Sets of words in whose minima the k-th smallest score is bounded.
_SETS = 64

_OfPairs: TypeAlias = Callable[
    [NDArray[np.floating], NDArray[np.floating], NDArray[np.intp], NDArray[np.intp]], NDArray[np.float64]
]


def nearest_words(
    vectors: NDArray[np.floating],
    word_vectors: NDArray[np.floating],
    k: int,
    half_norms: NDArray[np.floating] | None = None,
    *,
    exact: _OfPairs | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k word vectors nearest to each image in L2, nearest first, ties to the lowest word index.

    Candidates come from a matrix product, ``‖v‖²/2 − x·v``; their order and distance from ‖x − v‖ itself in float64. So two words
    with the same vector tie exactly, whatever the product rounded to.

    Args:
        vectors: (T, D).
        word_vectors: (W, D).
        half_norms: (W,), :func:`half_norms_of` the word vectors, where many calls share them; None computes them.
        exact: another way to :func:`squared_distances`.

    Returns:
        index (T, k) int64 and distance (T, k) float64.

    Raises:
        ValueError: k outside 1…W, or a non-finite value.
    """
    _check_k(k, len(word_vectors))
    halves = half_norms_of(word_vectors) if half_norms is None else half_norms
    if not (np.isfinite(halves).all() or np.isfinite(word_vectors).all()):
        raise InvalidArgumentError("the word vectors hold NaN or infinite values")
    norm_bound = float(np.sqrt(2 * halves.max()))

    def rounding(norms: NDArray[np.floating]) -> NDArray[np.floating]:
        return norm_bound * (norms + norm_bound / 2)

    index, squared = _lowest(vectors, word_vectors, halves, k, rounding, exact or squared_distances)
    return index, np.sqrt(squared)


def best_words(
    vectors: NDArray[np.floating],
    weights: NDArray[np.floating],
    bias: NDArray[np.floating],
    k: int,
    *,
    exact: _OfPairs | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k words of the highest score x·v + b for each image, highest first, ties to the lowest word index.

    Candidates come from a matrix product; their order and score from float64, so that words of equal weights and bias tie exactly.

    Args:
        vectors: (T, D).
        weights: (W, D).
        bias: (W,).
        exact: another way to :func:`products`.

    Returns:
        index (T, k) int64 and score (T, k) float64.

    Raises:
        ValueError: k outside 1…W, or a non-finite value.
    """
    _check_k(k, len(weights))
    if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
        raise InvalidArgumentError("the word weights hold NaN or infinite values")
    norm_bound = float(np.sqrt(np.einsum("ij,ij->i", weights, weights).max()))
    bias_bound = float(np.abs(bias).max())

    def negative_scores(
        rows: NDArray[np.floating], weights: NDArray[np.floating], image: NDArray[np.intp], word: NDArray[np.intp]
    ) -> NDArray[np.float64]:
        return -((exact or products)(rows, weights, image, word) + bias[word])

    def rounding(norms: NDArray[np.floating]) -> NDArray[np.floating]:
        return norm_bound * norms + bias_bound

    index, negative = _lowest(vectors, weights, -bias, k, rounding, negative_scores)
    return index, -negative


def squared_distances(
    vectors: NDArray[np.floating], word_vectors: NDArray[np.floating], image: NDArray[np.intp], word: NDArray[np.intp]
) -> NDArray[np.float64]:
    """‖x − v‖² (pairs,) in float64 of image vectors (T, D) and word vectors (W, D), of which pairs are given by their numbers."""

    def squared(images: NDArray[np.float64], words: NDArray[np.floating]) -> NDArray[np.float64]:
        images -= words  # exact for float32 input, and the same for equal word vectors
        return np.einsum("ij,ij->i", images, images)

    return _of_pairs(squared, vectors, word_vectors, image, word)


def products(
    vectors: NDArray[np.floating], weights: NDArray[np.floating], image: NDArray[np.intp], word: NDArray[np.intp]
) -> NDArray[np.float64]:
    """x·v (pairs,) in float64, arguments as for :func:`squared_distances`."""

    def product(images: NDArray[np.float64], words: NDArray[np.floating]) -> NDArray[np.float64]:
        images *= words
        return images.sum(axis=1)

    return _of_pairs(product, vectors, weights, image, word)


def _of_pairs(
    of: Callable[[NDArray[np.float64], NDArray[np.floating]], NDArray[np.float64]],
    vectors: NDArray[np.floating],
    word_vectors: NDArray[np.floating],
    image: NDArray[np.intp],
    word: NDArray[np.intp],
) -> NDArray[np.float64]:
    values = np.empty(len(image))
    for first in range(0, len(image), _PAIRS):
        pairs = slice(first, first + _PAIRS)
        values[pairs] = of(vectors[image[pairs]].astype(np.float64), word_vectors[word[pairs]])
    return values


def half_norms_of(word_vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    """‖v‖²/2 of word vectors (W, D)."""
    return 0.5 * np.einsum("ij,ij->i", word_vectors, word_vectors)


def _check_k(k: int, words: int) -> None:
    if not 1 <= k <= words:
        raise InvalidArgumentError(f"k = {k} must lie in 1…{words}, the number of words that can be given")


def _lowest(
    vectors: NDArray[np.floating],  # (T, D)
    word_vectors: NDArray[np.floating],  # (W, D)
    base: NDArray[np.floating],  # (W,)
    k: int,
    rounding: Callable[[NDArray[np.floating]], NDArray[np.floating]],
    exact: _OfPairs,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Each image's k words of lowest ``exact`` value, in order, and the values, which base − x·v is near.

    Args:
        rounding: of the norms of images (B,), how large the terms of base − x·v are at most.
        exact: of image vectors, word vectors, and the numbers of pairs, ascending by image.
    """
    index = np.empty((len(vectors), k), dtype=np.int64)
    value = np.empty((len(vectors), k))

    def rank(start: int, stop: int) -> None:
        rows = vectors[start:stop]
        with np.errstate(over="ignore"):
            norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        if not (np.isfinite(norms).all() or np.isfinite(rows).all()):
            raise InvalidArgumentError("the image vectors hold NaN or infinite values")
        scores = rows @ word_vectors.T
        np.subtract(base, scores, out=scores)
        image, word = np.divmod(np.flatnonzero(_candidates(scores, k, _relative_rounding(rows) * rounding(norms))), len(base))
        values = exact(rows, word_vectors, image, word)
        order = np.lexsort((word, values, image))  # ties to the lowest index
        chosen = order[np.searchsorted(image, np.arange(stop - start))[:, None] + np.arange(k)]
        index[start:stop], value[start:stop] = word[chosen], values[chosen]

    for_blocks(rank, len(vectors), even_block(len(vectors), min(_IMAGES, max(64, _SCORES // len(base)))))
    return index, value


def _relative_rounding(rows: NDArray[np.floating]) -> float:
    """How far a comparison of two products can be off, relative to their factors' norms: 2·5·√D·ε.

    √D rather than D: rounding errors of a sum are as good as independent, and the probabilistic bound with factor 5 fails once in
    10⁵ at worst (Higham and Mary, 2019), where the bound by D would make every word a candidate.
    """
    return 10 * float(np.sqrt(rows.shape[1])) * float(np.finfo(rows.dtype).eps)


def _candidates(scores: NDArray[np.floating], k: int, rounding: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which words (B, W) could be among the k lowest of each image, given that scores are off by ``rounding`` at most.

    The k-th smallest minimum of disjoint sets of words is at least the k-th smallest score, and close to it where sets are many.
    """
    minima, sets = scores, max(_SETS, 4 * k)
    if (depth := scores.shape[1] // sets) > 1:
        minima = scores[:, : depth * sets].reshape(len(scores), depth, sets).min(axis=1)
    limit = np.partition(minima, k - 1, axis=1)[:, k - 1] + rounding
    return ~(scores > limit[:, None])  # an overflow to NaN is a candidate too
