"""Labels of images, as people write them and as a sparse (N, W) matrix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from ..errors import DataError


def label_matrix(
    labels: Sequence[Iterable[str]] | sparse.sparray | sparse.spmatrix | np.ndarray,
    vocabulary: Sequence[str] | None = None,
    *,
    extend: bool = False,
) -> tuple[sparse.csr_array, tuple[str, ...]]:
    """Labels as a sparse indicator matrix.

    Args:
        labels: for each image its words, or an (N, W) matrix of 0 and 1 (then ``vocabulary`` names the columns).
        vocabulary: the words in column order; None takes every word that occurs, sorted.
        extend: append words that ``vocabulary`` lacks (in sorted order) instead of refusing them.

    Returns:
        labels (N, W) float32 CSR with entries 1, and the vocabulary.

    Raises:
        DataError: a word outside the vocabulary, a vocabulary with a repeated or empty word, words given as one string or not as a
            list, or a matrix of another width or with other values than 0 and 1.
    """
    words = _checked_vocabulary(vocabulary) if vocabulary is not None else None
    if sparse.issparse(labels) or (isinstance(labels, np.ndarray) and labels.ndim == 2):
        return _from_matrix(labels, words)
    rows = [_checked_words(position, given) for position, given in enumerate(labels)]
    occurring = sorted(set().union(*rows)) if rows else []
    if words is None:
        words = tuple(occurring)
    elif unknown := sorted(set(occurring) - set(words)):
        if not extend:
            shown = ", ".join(repr(word) for word in unknown[:5]) + (" …" if len(unknown) > 5 else "")
            raise DataError(
                f"{len(unknown)} words are not in the vocabulary: {shown}; add them to it, or remove them from the labels"
            )
        words = (*words, *unknown)
    column = {word: index for index, word in enumerate(words)}
    indices = [sorted(column[word] for word in row) for row in rows]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in indices], dtype=np.int64)])
    flat = np.array([index for row in indices for index in row], dtype=np.int64)
    return sparse.csr_array((np.ones(len(flat), np.float32), flat, indptr), shape=(len(rows), len(words))), words


def check_lengths(images: int, labels: sparse.csr_array) -> None:
    """Raise DataError unless each image has labels."""
    if images != labels.shape[0]:
        raise DataError(f"{images} images but labels for {labels.shape[0]}; give the labels of each image, in the same order")


def _checked_vocabulary(vocabulary: Sequence[str]) -> tuple[str, ...]:
    if isinstance(vocabulary, str):
        raise DataError(f"the vocabulary is the string {vocabulary!r}; give a list of words, such as [{vocabulary!r}]")
    words = tuple(vocabulary)
    seen: set[str] = set()
    for word in words:
        if not isinstance(word, str) or not word.strip():
            raise DataError(f"the vocabulary holds {word!r}, expected a non-empty word")
        if word in seen:
            raise DataError(f"the vocabulary holds {word!r} twice")
        seen.add(word)
    return words


def _checked_words(position: int, given: Any) -> set[str]:
    if isinstance(given, str):
        raise DataError(f"labels[{position}] is the string {given!r}; give a list of words for each image, such as [{given!r}]")
    try:
        words = list(given)
    except TypeError:
        raise DataError(f"labels[{position}] is {given!r}, expected a list of words") from None
    for word in words:
        if not isinstance(word, str) or not word.strip():
            raise DataError(f"labels[{position}] holds {word!r}, expected a non-empty word")
    return set(words)


def _from_matrix(labels: Any, words: tuple[str, ...] | None) -> tuple[sparse.csr_array, tuple[str, ...]]:
    if labels.dtype.kind not in "biuf":
        raise DataError(f"a label matrix may hold 0 and 1 only, got {labels.dtype}; give words as a list for each image")
    matrix = sparse.csr_array(labels)
    if words is None:
        raise DataError(f"labels are a matrix of {matrix.shape[1]} columns: give the vocabulary that names them")
    if matrix.shape[1] != len(words):
        raise DataError(f"labels have {matrix.shape[1]} columns, the vocabulary has {len(words)} words")
    matrix = matrix.astype(np.float32)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    if matrix.nnz and not np.all(matrix.data == 1):
        raise DataError("a label matrix may hold 0 and 1 only")
    return matrix, words
