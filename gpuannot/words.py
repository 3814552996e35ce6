"""The word-vector bank: every word's mean image vector (the paper's equation 4), kept as sums that stream and add."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from .reference import words as _reference


class WordBank:
    """v_j = (1/N_j) Σ_{I ∈ S_j} I, with the sums and N_j kept apart.

    So images can be added at any time and in any order, banks of parts can be added, and images can be taken out again; the result
    is that of one pass over all images, up to float64 rounding.

    Args:
        vocabulary: the words, in the order of the label columns.
        dimension: D, length of an image vector.

    Attributes:
        sums: (W, D) float64. counts: (W,) int64, the images that carry each word.
    """

    def __init__(self, vocabulary: Sequence[str], dimension: int) -> None:
        self.vocabulary = tuple(vocabulary)
        self._sums = np.zeros((len(self.vocabulary), dimension))
        self._device_sums: Tensor | None = None
        self.counts = np.zeros(len(self.vocabulary), dtype=np.int64)

    @property
    def dimension(self) -> int:
        return self._sums.shape[1]

    @property
    def sums(self) -> NDArray[np.float64]:
        if self._device_sums is not None:
            self._sums += self._device_sums.cpu().numpy()
            self._device_sums = None
        return self._sums

    @sums.setter
    def sums(self, sums: NDArray[np.float64]) -> None:
        self._sums, self._device_sums = sums, None

    def partial_fit(self, vectors: NDArray[np.floating] | Tensor, labels: sparse.csr_array) -> WordBank:
        """Add images: vectors (B, D), NumPy or a CUDA tensor, and labels (B, W) with a 1 where an image carries a word.

        Sums of CUDA tensors are formed, in float64, and kept on their device until :attr:`sums` is asked for.

        Raises:
            ValueError: shapes that do not fit the bank or each other, or non-finite vectors.
        """
        sums, counts = self._sums_of(vectors, labels)
        if isinstance(sums, Tensor):
            self._add_on_device(sums)
        else:
            self._sums += sums
        self.counts += counts
        return self

    def _add_on_device(self, sums: Tensor) -> None:
        self._device_sums = sums if self._device_sums is None else self._device_sums + sums

    def forget(self, vectors: NDArray[np.floating] | Tensor, labels: sparse.csr_array) -> WordBank:
        """Take out images that were added before, by their vectors (B, D) and labels (B, W).

        Raises:
            ValueError: as :meth:`partial_fit`, or a word would be left with fewer than no images.
        """
        sums, counts = self._sums_of(vectors, labels)
        if (below := np.flatnonzero(counts > self.counts)).size:
            word = below[0]
            raise ValueError(
                f"cannot forget {counts[word]} images of {self.vocabulary[word]!r}: the bank holds {self.counts[word]} of that word"
            )
        self.sums -= sums.cpu().numpy() if isinstance(sums, Tensor) else sums
        self.counts -= counts
        self.sums[self.counts == 0] = 0.0  # nothing is left of a word but rounding
        return self

    def add_words(self, words: Sequence[str]) -> WordBank:
        """Append words that the vocabulary lacks; those it has are left as they are."""
        known = set(self.vocabulary)
        new = [word for word in dict.fromkeys(words) if word not in known]
        self.vocabulary = (*self.vocabulary, *new)
        self.sums = np.concatenate([self.sums, np.zeros((len(new), self.dimension))])
        self.counts = np.concatenate([self.counts, np.zeros(len(new), dtype=np.int64)])
        return self

    def merge(self, other: WordBank) -> WordBank:
        """Add another bank of the same vocabulary and dimension, as if its images had been added here.

        Raises:
            ValueError: another vocabulary or dimension.
        """
        if other.vocabulary != self.vocabulary or other.dimension != self.dimension:
            raise ValueError("only banks of the same vocabulary, in the same order, and the same dimension can be merged")
        if other._device_sums is None:
            self.sums += other.sums
        else:
            self._add_on_device(other._device_sums)
            self._sums += other._sums
        self.counts += other.counts
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_sums": self.sums, "_device_sums": None}

    @property
    def known(self) -> NDArray[np.intp]:
        """Ascending indices of the words that have at least one image, and so a vector."""
        return np.flatnonzero(self.counts)

    def vectors(self) -> NDArray[np.float64]:
        """Word vectors (len(known), D) float64, in the order of :attr:`known`. A word with no image has none."""
        known = self.known
        return self.sums[known] / self.counts[known, None]

    def _sums_of(self, vectors: NDArray[np.floating] | Tensor, labels: sparse.csr_array) -> tuple[Any, NDArray[np.int64]]:
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise ValueError(f"vectors must have shape (B, {self.dimension}), got {tuple(vectors.shape)}")
        if labels.shape != (len(vectors), len(self.vocabulary)):
            raise ValueError(f"labels must have shape ({len(vectors)}, {len(self.vocabulary)}), got {labels.shape}")
        finite = torch.isfinite(vectors).all() if isinstance(vectors, Tensor) else np.isfinite(vectors).all()
        if not finite:
            raise ValueError("the image vectors hold NaN or infinite values")
        labels = sparse.csr_array(labels, copy=True)
        labels.sum_duplicates()
        labels.eliminate_zeros()
        if not np.all(labels.data == 1):
            raise ValueError("labels must be 0 or 1")
        return _word_sums_cuda(vectors, labels) if isinstance(vectors, Tensor) else _reference.word_sums(vectors, labels)


def _word_sums_cuda(vectors: Tensor, labels: sparse.csr_array) -> tuple[Tensor, NDArray[np.int64]]:
    """:func:`gpuannot.reference.words.word_sums` on the vectors' device: labelsᵀ as CSR times vectors, in float64."""
    transposed = labels.T.tocsr()
    entries = transposed.tocoo()
    where = torch.from_numpy(np.stack([entries.row, entries.col]).astype(np.int64))
    ones = torch.ones(entries.nnz, dtype=torch.float64)
    indicator = torch.sparse_coo_tensor(where, ones, transposed.shape, is_coalesced=True, check_invariants=True).to(vectors.device)
    return torch.sparse.mm(indicator, vectors.double()), np.diff(transposed.indptr).astype(np.int64)
