"""The word-vector bank: every word's mean image vector (the paper's equation 4), kept as sums that stream and add."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from ..heads.moments import Moments
from ..reference import words as _reference

if TYPE_CHECKING:
    from ..heads.calibration import SampledImages


class WordBank:
    """v_j = (1/N_j) Σ_{I ∈ S_j} I, with the sums and N_j kept apart.

    So images can be added at any time and in any order, banks of parts can be added, and images can be taken out again; the result
    is that of one pass over all images, up to float64 rounding.

    Args:
        vocabulary: the words, in the order of the label columns.
        dimension: D, length of an image vector.
        moments: to be kept with the word sums, for heads that need more than those: sums over all images, with words or without.

    Attributes:
        sums: (W, D) float64. counts: (W,) int64, the images that carry each word.
        moments: as given. cooccurrence: YᵀY (W, W) int64 CSR, how many images carry both words; None where moments are.
        sample: of the images, while a fit goes on whose head learns from one; only :meth:`merge` looks at it.
    """

    cooccurrence: sparse.csr_array | None = None
    sample: SampledImages | None = None

    def __init__(self, vocabulary: Sequence[str], dimension: int, moments: Moments | None = None) -> None:
        self.vocabulary = tuple(vocabulary)
        self.moments = moments
        if moments is not None:
            self.cooccurrence = sparse.csr_array((len(self.vocabulary),) * 2, dtype=np.int64)
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
        labels = self.checked_labels(vectors, labels)
        sums, counts = _sums_of(vectors, labels)
        if isinstance(sums, Tensor):
            self._add_on_device(sums)
        else:
            self._sums += sums
        self.counts += counts
        if self.moments is not None:
            self.moments.add(vectors)
            self.cooccurrence = self.cooccurrence + _pairs(labels)
        return self

    def _add_on_device(self, sums: Tensor) -> None:
        self._device_sums = sums if self._device_sums is None else self._device_sums + sums

    def forget(self, vectors: NDArray[np.floating] | Tensor, labels: sparse.csr_array) -> WordBank:
        """Take out images that were added before, by their vectors (B, D) and labels (B, W).

        Raises:
            ValueError: as :meth:`partial_fit`, or a word would be left with fewer than no images.
        """
        labels = self.checked_labels(vectors, labels)
        sums, counts = _sums_of(vectors, labels)
        if (below := np.flatnonzero(counts > self.counts)).size:
            word = below[0]
            raise ValueError(
                f"cannot forget {counts[word]} images of {self.vocabulary[word]!r}: the bank holds {self.counts[word]} of that word"
            )
        if self.moments is not None:
            self.moments.add(vectors, -1)
            self.cooccurrence = self.cooccurrence - _pairs(labels)
            self.cooccurrence.eliminate_zeros()
        self.sums -= sums.cpu().numpy() if isinstance(sums, Tensor) else sums
        self.counts -= counts
        self.sums[self.counts == 0] = 0.0  # nothing is left of a word but rounding
        return self

    def merge(self, other: WordBank) -> WordBank:
        """Add another bank of the same vocabulary and dimension, as if its images had been added here.

        Raises:
            ValueError: another vocabulary or dimension, or only one of the two keeps moments.
        """
        if other.vocabulary != self.vocabulary or other.dimension != self.dimension:
            raise ValueError("only banks of the same vocabulary, in the same order, and the same dimension can be merged")
        if (self.moments is None) != (other.moments is None):
            raise ValueError("one of the banks keeps moments and the other does not: they were made for different heads")
        if self.moments is not None and other.moments is not None:
            self.moments.merge(other.moments)
            assert self.cooccurrence is not None
            self.cooccurrence = self.cooccurrence + other.cooccurrence
        if self.sample is not None and other.sample is not None:
            self.sample.merge(other.sample)
        if other._device_sums is None:
            self.sums += other.sums
        else:
            self._add_on_device(other._device_sums)
            self._sums += other._sums
        self.counts += other.counts
        return self

    def to(self, device: torch.device | str) -> WordBank:
        """This bank, with its moments on ``device``."""
        if self.moments is not None:
            self.moments = self.moments.to(device)
        return self

    def flush(self) -> WordBank:
        """Form the products that wait for more images (:meth:`Moments.flush`)."""
        if self.moments is not None:
            self.moments.flush()
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_sums": self.sums, "_device_sums": None}

    # -- words ------------------------------------------------------------------------------------------------------------------

    def add_words(self, words: Sequence[str]) -> WordBank:
        """Append words that the vocabulary lacks; those it has are left as they are."""
        known = set(self.vocabulary)
        new = [word for word in dict.fromkeys(words) if word not in known]
        self.vocabulary = (*self.vocabulary, *new)
        self.sums = np.concatenate([self.sums, np.zeros((len(new), self.dimension))])
        self.counts = np.concatenate([self.counts, np.zeros(len(new), dtype=np.int64)])
        if self.cooccurrence is not None:
            self.cooccurrence = self.cooccurrence.copy()
            self.cooccurrence.resize((len(self.vocabulary),) * 2)
        return self

    def number(self, word: str) -> int:
        """The number of a word of the vocabulary.

        Raises:
            ValueError: the vocabulary lacks it.
        """
        if word not in self.vocabulary:
            close = get_close_matches(word, self.vocabulary, 1)
            raise ValueError(f"the vocabulary lacks {word!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        return self.vocabulary.index(word)

    def remove_words(self, words: Sequence[str]) -> WordBank:
        """Take words out of the vocabulary, as if no label had named them. Their images stay, with their other words or none.

        Raises:
            ValueError: a word that the vocabulary lacks.
        """
        gone = {self.number(word) for word in words}
        kept = [number for number in range(len(self.vocabulary)) if number not in gone]
        self._keep(kept)
        return self

    def rename_word(self, word: str, name: str) -> WordBank:
        """Give a word another name, with its number and images unchanged.

        Raises:
            ValueError: the vocabulary lacks the word, or has the name already.
        """
        number = self.number(word)
        if name in self.vocabulary and name != word:
            raise ValueError(f"the vocabulary has {name!r} already; to make one word of both, merge them")
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"the new name is {name!r}, expected a non-empty word")
        self.vocabulary = (*self.vocabulary[:number], name, *self.vocabulary[number + 1 :])
        return self

    def merge_words(
        self, word: str, into: str, vectors: NDArray[np.floating] | Tensor | None = None, labels: sparse.csr_array | None = None
    ) -> WordBank:
        """Make ``into`` the word of every image that carries ``word`` or ``into``, and remove ``word``.

        Args:
            vectors, labels: (B, D) and (B, W) of the images that carry both, which the sums of the two words hold twice; None where
                no image does.

        Raises:
            ValueError: the vocabulary lacks a word, the two are one, or the images given are not those that carry both (where
                the bank knows how many do: with moments).
        """
        first, second = self.number(word), self.number(into)
        if first == second:
            raise ValueError(f"{word!r} cannot be merged with itself")
        if vectors is None or labels is None:
            vectors, labels = np.empty((0, self.dimension)), sparse.csr_array((0, len(self.vocabulary)))
        labels = self.checked_labels(vectors, labels)
        both = labels.shape[0]
        if not (labels[:, [first]].sum() == labels[:, [second]].sum() == both):
            raise ValueError(f"an image was given to merge {word!r} with {into!r} that does not carry both")
        if self.cooccurrence is not None and self.cooccurrence[first, second] != both:
            raise ValueError(
                f"{self.cooccurrence[first, second]} images carry both {word!r} and {into!r}, and {both} of them were given; "
                "all are needed, because the sums hold them twice"
            )
        sums, _ = _sums_of(vectors, labels[:, [first]])
        self.sums[second] += self.sums[first] - (sums.cpu().numpy() if isinstance(sums, Tensor) else sums)[0]
        self.counts[second] += self.counts[first] - both
        if self.cooccurrence is not None:
            pairs = self.cooccurrence.tolil()
            row = pairs[[second]] + pairs[[first]] - sparse.csr_array(labels.sum(axis=0)[None].astype(np.int64))
            pairs[[second]], pairs[:, [second]] = row, row.T
            pairs[second, second] = self.counts[second]
            self.cooccurrence = pairs.tocsr()
        self._keep([number for number in range(len(self.vocabulary)) if number != first])
        return self

    def _keep(self, numbers: Sequence[int]) -> None:
        self.vocabulary = tuple(self.vocabulary[number] for number in numbers)
        self.sums = self.sums[numbers]
        self.counts = self.counts[numbers]
        if self.cooccurrence is not None:
            self.cooccurrence = self.cooccurrence[numbers][:, numbers]

    # -- what they give ---------------------------------------------------------------------------------------------------------

    @property
    def known(self) -> NDArray[np.intp]:
        """Ascending indices of the words that have at least one image, and so a vector."""
        return np.flatnonzero(self.counts)

    def vectors(self) -> NDArray[np.float64]:
        """Word vectors (len(known), D) float64, in the order of :attr:`known`. A word with no image has none."""
        known = self.known
        return self.sums[known] / self.counts[known, None]

    def checked_labels(self, vectors: NDArray[np.floating] | Tensor, labels: sparse.csr_array) -> sparse.csr_array:
        """The labels without stored zeros, if they and the vectors are such as :meth:`partial_fit` takes; else ValueError."""
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
        return labels


def _sums_of(vectors: NDArray[np.floating] | Tensor, labels: sparse.csr_array) -> tuple[Any, NDArray[np.int64]]:
    return _word_sums_cuda(vectors, labels) if isinstance(vectors, Tensor) else _reference.word_sums(vectors, labels)


def _pairs(labels: sparse.csr_array) -> sparse.csr_array:
    """YᵀY of labels (B, W): (W, W) int64."""
    indicator = labels.astype(np.int64)
    return sparse.csr_array(indicator.T @ indicator)


def _word_sums_cuda(vectors: Tensor, labels: sparse.csr_array) -> tuple[Tensor, NDArray[np.int64]]:
    """:func:`gpuannot.reference.words.word_sums` on the vectors' device: labelsᵀ as CSR times vectors, in float64."""
    transposed = labels.T.tocsr()
    entries = transposed.tocoo()
    where = torch.from_numpy(np.stack([entries.row, entries.col]).astype(np.int64))
    ones = torch.ones(entries.nnz, dtype=torch.float64)
    indicator = torch.sparse_coo_tensor(where, ones, transposed.shape, is_coalesced=True, check_invariants=True).to(vectors.device)
    return torch.sparse.mm(indicator, vectors.double()), np.diff(transposed.indptr).astype(np.int64)
