"""Labels of images, as people write them and as a sparse (N, W) matrix."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
from scipy import sparse

from ..errors import DataError, InvalidArgumentError, counted, shown


def label_matrix(
    labels: Sequence[Iterable[str]] | sparse.sparray | sparse.spmatrix | np.ndarray,
    vocabulary: Sequence[str] | None = None,
    *,
    extend: bool = False,
    known: bool = False,
) -> tuple[sparse.csr_array, tuple[str, ...]]:
    """Labels as a sparse indicator matrix, in which every spelling of a word (:func:`spelled`) is that word.

    Args:
        labels: for each image its words, or an (N, W) matrix of 0 and 1 (then ``vocabulary`` names the columns).
        vocabulary: the words in column order; None takes every word that occurs, sorted.
        extend: ``vocabulary`` is ``known``; append words that it lacks (in sorted order) instead of refusing them.
        known: ``vocabulary`` is a model's, whose words keep the spelling that they were learnt in: a label means the word that is
            written as it is, or else the one that is spelled so.

    Returns:
        labels (N, W) float32 CSR with entries 1, and the vocabulary, spelled unless ``known``.

    Raises:
        DataError: a word outside the vocabulary, a vocabulary with a repeated or empty word, words given as one string or not as a
            list, or a matrix of another width or with other values than 0 and 1.
    """
    words = _checked_vocabulary(vocabulary, known or extend) if vocabulary is not None else None
    if sparse.issparse(labels) or (isinstance(labels, np.ndarray) and labels.ndim == 2):
        return _from_matrix(labels, words)
    column = _columns(words or ())
    rows = [_checked_words(position, given, column) for position, given in enumerate(labels)]
    occurring = set().union(*rows) if rows else set()
    unknown = sorted(word for word in occurring if word not in column)
    if words is not None and unknown and not extend:
        some = ", ".join(shown(word) for word in unknown[:5]) + (" …" if len(unknown) > 5 else "")
        are = counted(len(unknown), "word is", "words are")
        raise DataError(f"{are} not in the vocabulary: {some}; add them to it, or remove them from the labels")
    words = (*(words or ()), *unknown)
    column |= {word: number for number, word in enumerate(words[len(words) - len(unknown) :], len(words) - len(unknown))}
    indices = [sorted({column[word] for word in row}) for row in rows]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in indices], dtype=np.int64)])
    flat = np.array([index for row in indices for index in row], dtype=np.int64)
    return sparse.csr_array((np.ones(len(flat), np.float32), flat, indptr), shape=(len(rows), len(words))), words


def spelled(word: str) -> str:
    """A word as it is compared and learnt: without outer spaces, and in Unicode's composed form (NFC).

    Two words that look the same on paper, such as ``é`` as one sign and as ``e`` with an accent, are one. Capitals count.
    """
    stripped = word.strip()
    return stripped if stripped.isascii() else unicodedata.normalize("NFC", stripped)


def is_word(given: Any) -> bool:
    """Whether this is text that a model file can hold: not empty, and without bytes or halves of characters that are no Unicode."""
    if not isinstance(given, str) or not given.strip():
        return False
    try:
        given.encode()
    except UnicodeEncodeError:
        return False
    return True


def number_of(word: str, vocabulary: Sequence[str]) -> int | None:
    """The number of a word in a model's vocabulary: of the one written as it is, or else spelled as it is; None without either."""
    if word in vocabulary:
        return list(vocabulary).index(word)
    return _columns(vocabulary).get(spelled(word))


def known_number(word: str, vocabulary: Sequence[str]) -> int:
    """:func:`number_of` a word that the vocabulary has.

    Raises:
        ValueError: it lacks it; the message names the word of the nearest spelling.
    """
    number = number_of(word, vocabulary) if isinstance(word, str) else None
    if number is None:
        alike = {other.casefold(): other for other in reversed(vocabulary)}
        close = get_close_matches(str(word).casefold(), alike, 1)
        raise InvalidArgumentError(f"the vocabulary lacks {word!r}" + (f"; did you mean {alike[close[0]]!r}?" if close else ""))
    return number


def check_lengths(images: int, labels: sparse.csr_array) -> None:
    """Raise DataError unless each image has labels."""
    if images != labels.shape[0]:
        raise DataError(f"{images} images but labels for {labels.shape[0]}; give the labels of each image, in the same order")


def _columns(vocabulary: Sequence[str]) -> dict[str, int]:
    """The number of each word, under its own spelling and, where no other word has that, the usual one."""
    column: dict[str, int] = {}
    for number, word in enumerate(vocabulary):
        column.setdefault(spelled(word), number)
    return column | {word: number for number, word in enumerate(vocabulary)}


def _checked_vocabulary(vocabulary: Sequence[str], known: bool) -> tuple[str, ...]:
    if isinstance(vocabulary, str):
        raise DataError(f"the vocabulary is the string {shown(vocabulary)}; give a list of words, such as [{shown(vocabulary)}]")
    words: dict[str, str] = {}
    for given in vocabulary:
        if not is_word(given):
            raise DataError(f"the vocabulary holds {shown(given)}, expected a non-empty word")
        word = given if known else spelled(given)
        if word in words:
            other = f", as {shown(words[word])} and {shown(given)}" if words[word] != given else ""
            raise DataError(f"the vocabulary holds {shown(word)} twice{other}")
        words[word] = given
    return tuple(words)


def _checked_words(position: int, given: Any, column: dict[str, int]) -> set[str]:
    if isinstance(given, str):
        raise DataError(
            f"labels[{position}] is the string {shown(given)}; give a list of words for each image, such as [{shown(given)}]"
        )
    try:
        words = list(given)
    except TypeError:
        raise DataError(f"labels[{position}] is {shown(given)}, expected a list of words") from None
    for word in words:
        if not is_word(word):
            raise DataError(f"labels[{position}] holds {shown(word)}, expected a non-empty word")
    return {word if word in column else spelled(word) for word in words}


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
