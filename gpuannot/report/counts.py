"""What a report says: words right, missed and wrong, each word's counts, and what was given in place of a missed word."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import commonprefix
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..metrics import WordCounts, harmonic_mean

NO_WORD = -1  # in an index matrix: this image was given fewer words than others


def given_matrix(index: NDArray[np.integer], words: int) -> sparse.csr_array:
    """Word indices as an indicator matrix (T, W) int64.

    Args:
        index: (T, k), `NO_WORD` where there is none.
        words: W.

    Raises:
        ValueError: an index outside −1…W − 1, or a word given twice to one image.
    """
    if index.size and not (index.min() >= NO_WORD and index.max() < words):
        raise ValueError(f"annotations hold word indices outside 0…{words - 1}")
    rows, columns = np.nonzero(index != NO_WORD)
    flat = index[rows, columns].astype(np.int64)
    given = sparse.csr_array((np.ones(len(flat), np.int64), (rows, flat)), shape=(len(index), words))
    if given.nnz and given.data.max() > 1:
        raise ValueError("an image was given the same word twice")
    return given


def word_totals(given: sparse.csr_array, truth: sparse.csr_array | None) -> WordCounts:
    """c, p and g of every word.

    Args:
        given: (T, W) indicators.
        truth: (T, W) indicators; without it c and g are 0.
    """
    correct = given.multiply(truth) if truth is not None else sparse.csr_array(given.shape)
    carried = truth if truth is not None else sparse.csr_array(given.shape)
    return WordCounts(*(np.asarray(matrix.sum(axis=0)).ravel().astype(np.int64) for matrix in (correct, given, carried)))


def scores(totals: WordCounts) -> dict[str, float | int]:
    """The protocol's four numbers, and how many words were given at all."""
    precision, recall = float(totals.precision.mean()), float(totals.recall.mean())
    return {
        "precision": precision,
        "recall": recall,
        "f1": harmonic_mean(precision, recall),
        "n_plus": int((totals.correct > 0).sum()),
        "words_given": int((totals.given > 0).sum()),
    }


def confusion(given: sparse.csr_array, truth: sparse.csr_array, most: int = 8) -> list[tuple[int, int, list[tuple[int, int]]]]:
    """What images got in place of a word they carry.

    Args:
        given: (T, W) indicators.
        truth: (T, W) indicators.
        most: how many words to list for a missed one.

    Returns:
        For each word that some image carries and was not given, those missed most often first: the word, in how many images it was
        missed, and [(wrong word, in how many of those images)], most frequent first, ties by the lower index.
    """
    correct = given.multiply(truth)
    missed = sparse.csr_array((truth != correct).astype(np.int64))
    wrong = sparse.csr_array((given != correct).astype(np.int64))
    together = sparse.csr_array(missed.T @ wrong)
    times = np.asarray(missed.sum(axis=0)).ravel()
    found = []
    for word in np.flatnonzero(times)[np.argsort(-times[times > 0], kind="stable")]:
        row = slice(together.indptr[word], together.indptr[word + 1])
        instead, counts = together.indices[row], together.data[row]
        order = np.lexsort((instead, -counts))[:most]
        found.append((int(word), int(times[word]), [(int(instead[i]), int(counts[i])) for i in order]))
    return found


def as_lists(matrix: sparse.csr_array) -> list[list[int]]:
    """The columns of each row's entries, ascending."""
    return [sorted(matrix.indices[start:stop].tolist()) for start, stop in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)]


def truths(truth: sparse.csr_array, labelled: NDArray[np.bool_]) -> list[list[int] | None]:
    """The words that each image carries; None where nobody knows."""
    return [words if known else None for words, known in zip(as_lists(truth), labelled.tolist(), strict=True)]


def padded(index: NDArray[np.integer]) -> list[list[int]]:
    """Each row's words without the padding, in the order given."""
    return [[word for word in row if word != NO_WORD] for row in index.tolist()]


def folder_of(names: Sequence[str]) -> str:
    """The folder that all names lie in, with its ``/``; empty where they share none."""
    prefix: str = commonprefix(list(names))  # noqa: RUF071 - cut at a slash below
    return prefix[: prefix.rfind("/") + 1]


def rounded(values: NDArray[np.floating], digits: int = 4) -> list[list[float]]:
    """Rows of values with so many significant digits: a page needs no more, and they weigh. What is not finite is left out."""
    return [[float(f"{value:.{digits}g}") for value in row if np.isfinite(value)] for row in values.tolist()]


def table(totals: WordCounts, training: NDArray[np.integer] | None) -> dict[str, Any]:
    """Each word's counts, in the order of the vocabulary; precision and recall follow from them."""
    return {
        "given": totals.given.tolist(),
        "right": totals.correct.tolist(),
        "true": totals.true.tolist(),
        "training": None if training is None else [int(count) for count in training],
    }
