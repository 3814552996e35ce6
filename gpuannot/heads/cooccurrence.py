"""How many images carry two words at once: the system of the paper's equation 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..errors import InvalidArgumentError
from ..method.words import BankExtra, Vectors


class Cooccurrence(BankExtra):
    """YᵀY over the labels Y (N, W) of all images, kept current as images and words come and go.

    Args:
        words: W.

    Attributes:
        counts: YᵀY (W, W) int64 CSR.
    """

    def __init__(self, words: int) -> None:
        self.counts = sparse.csr_array((words, words), dtype=np.int64)

    def check_forget(self, labels: sparse.csr_array, vocabulary: Sequence[str]) -> None:
        pairs = _pairs(labels)
        excess = sparse.coo_array(pairs - self.counts)
        if (places := np.flatnonzero(excess.data > 0)).size:
            first, second = (int(axis[places[0]]) for axis in (excess.row, excess.col))
            raise InvalidArgumentError(
                f"cannot forget {pairs[first, second]} images that carry both {vocabulary[first]!r} and {vocabulary[second]!r}: "
                f"the bank holds {self.counts[first, second]} that do"
            )

    def update(self, vectors: Vectors, labels: sparse.csr_array, sign: int, positions: NDArray[np.int64] | None) -> None:
        pairs = _pairs(labels)
        self.counts = self.counts + pairs if sign > 0 else self.counts - pairs
        if sign < 0:
            self.counts.eliminate_zeros()

    def merge(self, other: Any) -> Self:
        self.counts = self.counts + other.counts
        return self

    def add_words(self, count: int) -> None:
        self.counts = self.counts.copy()
        self.counts.resize((self.counts.shape[0] + count,) * 2)

    def keep_words(self, numbers: Sequence[int]) -> None:
        self.counts = self.counts[numbers][:, numbers]

    def merge_words(self, word: int, into: int, labels: sparse.csr_array) -> None:
        pairs = self.counts.tolil()
        row = pairs[[into]] + pairs[[word]] - sparse.csr_array(labels.sum(axis=0)[None].astype(np.int64))
        carry = pairs[into, into] + pairs[word, word] - labels.shape[0]
        pairs[[into]], pairs[:, [into]] = row, row.T
        pairs[into, into] = carry
        self.counts = pairs.tocsr()

    def with_both(self, word: int, into: int) -> int | None:
        return int(self.counts[word, into])


def _pairs(labels: sparse.csr_array) -> sparse.csr_array:
    """How many images carry two words (W, W)."""
    indicator = labels.astype(np.int64)
    return sparse.csr_array(indicator.T @ indicator)
