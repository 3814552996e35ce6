"""The word-vector bank: every word's mean image vector (the paper's equation 4), kept as sums that stream and add."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from ..errors import InvalidArgumentError
from ..reference import words as _reference
from .labels import is_word, known_number, spelled

Vectors: TypeAlias = NDArray[np.floating] | Tensor


class BankExtra:
    """What a head needs of the images beside the words' sums, and a bank keeps current with them.

    Each method but the first is told what happened to the bank; this class ignores it all.
    """

    def check(self, vectors: Vectors) -> None:
        """Raise InvalidArgumentError unless image vectors (B, D), which are finite, are such as this extra keeps."""

    def check_forget(self, labels: sparse.csr_array, vocabulary: Sequence[str]) -> None:
        """Raise InvalidArgumentError unless images of these labels (B, W) can be among those that were added."""

    def update(self, vectors: Vectors, labels: sparse.csr_array, sign: int, positions: NDArray[np.int64] | None) -> None:
        """Images were added (``sign`` 1) or taken out (−1): vectors (B, D), labels (B, W), and where known their positions (B,)."""

    def merge(self, other: Any) -> Self:
        """Another bank, whose extra of this kind is ``other``, was added."""
        return self

    def add_words(self, count: int) -> None:
        """So many words without images were appended."""

    def keep_words(self, numbers: Sequence[int]) -> None:
        """The words of these numbers are left, in this order."""

    def merge_words(self, word: int, into: int, labels: sparse.csr_array) -> None:
        """``into`` stands for ``word`` too, which :meth:`keep_words` removes next; labels (B, W) of the images that carry both."""

    def with_both(self, word: int, into: int) -> int | None:
        """How many images carry both words; None where it does not know."""
        return None

    def images_with_both(self, word: int, into: int) -> tuple[Vectors, sparse.csr_array] | None:
        """The images that carry both words, vectors (B, D) and labels (B, W); None where it does not keep them."""
        return None

    def to(self, device: torch.device | str) -> Self:
        """This extra on ``device``."""
        return self

    def flush(self) -> None:
        """Form the products that wait for more images."""


E = TypeVar("E", bound=BankExtra)


class WordBank:
    """v_j = (1/N_j) Σ_{I ∈ S_j} I, with the sums and N_j kept apart.

    So images can be added at any time and in any order, banks of parts can be added, and images can be taken out again; the result
    is that of one pass over all images, up to float64 rounding.

    Args:
        vocabulary: the words, in the order of the label columns.
        dimension: D, length of an image vector.
        extras: what a head needs beside the sums, empty; at most one of a kind.

    Attributes:
        vocabulary: (W,) the words.
        sums: (W, D) float64.
        counts: (W,) int64, the images that carry each word.
        extras: as given, kept current.
    """

    def __init__(self, vocabulary: Sequence[str], dimension: int, extras: Sequence[BankExtra] = ()) -> None:
        self.vocabulary = tuple(vocabulary)
        self.extras = list(extras)
        self._sums = np.zeros((len(self.vocabulary), dimension))
        self._device_sums: Tensor | None = None
        self.counts = np.zeros(len(self.vocabulary), dtype=np.int64)

    def extra(self, kind: type[E]) -> E | None:
        """The extra of that kind, None without one."""
        return next((extra for extra in self.extras if isinstance(extra, kind)), None)

    def drop(self, kind: type[BankExtra]) -> WordBank:
        """Let go of the extra of that kind, if there is one."""
        self.extras = [extra for extra in self.extras if not isinstance(extra, kind)]
        return self

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

    def partial_fit(self, vectors: Vectors, labels: sparse.csr_array, positions: NDArray[np.int64] | None = None) -> WordBank:
        """Add images. Sums of CUDA tensors are formed, in float64, and kept on their device until :attr:`sums` is asked for.

        Args:
            vectors: (B, D), NumPy or a CUDA tensor.
            labels: (B, W), with a 1 where an image carries a word.
            positions: (B,) of the images in their data set, for extras that tell them apart.

        Raises:
            ValueError: shapes that do not fit the bank or each other, or vectors that are not finite, or not such as an
                extra keeps; nothing is added then.
        """
        labels = self.checked_labels(vectors, labels)
        sums, counts = _sums_of(vectors, labels)
        if isinstance(sums, Tensor):
            self._add_on_device(sums)
        else:
            self._sums += sums
        self.counts += counts
        for extra in self.extras:
            extra.update(vectors, labels, 1, positions)
        return self

    def _add_on_device(self, sums: Tensor) -> None:
        self._device_sums = sums if self._device_sums is None else self._device_sums + sums

    def forget(self, vectors: Vectors, labels: sparse.csr_array) -> WordBank:
        """Take out images that were added before, by their vectors (B, D) and labels (B, W).

        Raises:
            ValueError: as :meth:`partial_fit`, or a word, or two that an extra counts together, would be left with fewer than no
                images; nothing is taken out then.
        """
        labels = self.checked_labels(vectors, labels)
        sums, counts = _sums_of(vectors, labels)
        if (below := np.flatnonzero(counts > self.counts)).size:
            word = below[0]
            raise InvalidArgumentError(
                f"cannot forget {counts[word]} images of {self.vocabulary[word]!r}: the bank holds {self.counts[word]} of that word"
            )
        for extra in self.extras:
            extra.check_forget(labels, self.vocabulary)
        for extra in self.extras:
            extra.update(vectors, labels, -1, None)
        self.sums -= sums.cpu().numpy() if isinstance(sums, Tensor) else sums
        self.counts -= counts
        self.sums[self.counts == 0] = 0.0  # nothing is left of a word but rounding
        return self

    def merge(self, other: WordBank) -> WordBank:
        """Add another bank of the same vocabulary and dimension, as if its images had been added here.

        Raises:
            ValueError: another vocabulary or dimension, or the two keep different extras.
        """
        if other.vocabulary != self.vocabulary or other.dimension != self.dimension:
            raise ValueError("only banks of the same vocabulary, in the same order, and the same dimension can be merged")
        if [type(extra) for extra in self.extras] != [type(extra) for extra in other.extras]:
            raise ValueError("one of the banks keeps sums that the other does not: they were made for different heads")
        for mine, added in zip(self.extras, other.extras, strict=True):
            mine.merge(added)
        if other._device_sums is None:
            self.sums += other.sums
        else:
            self._add_on_device(other._device_sums)
            self._sums += other._sums
        self.counts += other.counts
        return self

    def to(self, device: torch.device | str) -> WordBank:
        """This bank, with its extras on ``device``."""
        self.extras = [extra.to(device) for extra in self.extras]
        return self

    def flush(self) -> WordBank:
        """Form the products that wait for more images."""
        for extra in self.extras:
            extra.flush()
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
        for extra in self.extras:
            extra.add_words(len(new))
        return self

    def number(self, word: str) -> int:
        """The number of a word of the vocabulary, as :func:`~gpuannot.method.labels.number_of` finds it.

        Raises:
            ValueError: the vocabulary lacks it.
        """
        return known_number(word, self.vocabulary)

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
        """Give a word another name (:func:`~gpuannot.method.labels.spelled`), with its number and images unchanged.

        Raises:
            ValueError: the vocabulary lacks the word, or has the name already.
        """
        number = self.number(word)
        if not is_word(name):
            raise InvalidArgumentError(f"the new name is {name!r}, expected a non-empty word")
        name = spelled(name)
        if name in self.vocabulary and name != self.vocabulary[number]:
            raise InvalidArgumentError(f"the vocabulary has {name!r} already; to make one word of both, merge them")
        self.vocabulary = (*self.vocabulary[:number], name, *self.vocabulary[number + 1 :])
        return self

    def merge_words(self, word: str, into: str, vectors: Vectors | None = None, labels: sparse.csr_array | None = None) -> WordBank:
        """Make ``into`` the word of every image that carries ``word`` or ``into``, and remove ``word``.

        Args:
            vectors, labels: (B, D) and (B, W) of the images that carry both, which the sums of the two words hold twice; None where
                no image does, or the bank keeps them.

        Raises:
            ValueError: the vocabulary lacks a word, the two are one, or the images given are not those that carry both (where
                the bank knows how many do: with :class:`~gpuannot.heads.cooccurrence.Cooccurrence`).
        """
        first, second = self.number(word), self.number(into)
        if first == second:
            raise InvalidArgumentError(f"{word!r} cannot be merged with itself")
        if vectors is None or labels is None or not len(vectors):
            kept = (extra.images_with_both(first, second) for extra in self.extras)
            vectors, labels = next((found for found in kept if found is not None), (None, None))
        if vectors is None or labels is None:
            vectors, labels = np.empty((0, self.dimension)), sparse.csr_array((0, len(self.vocabulary)))
        labels = self.checked_labels(vectors, labels)
        both = labels.shape[0]
        if not (labels[:, [first]].sum() == labels[:, [second]].sum() == both):
            raise InvalidArgumentError(f"an image was given to merge {word!r} with {into!r} that does not carry both")
        for extra in self.extras:
            if (known := extra.with_both(first, second)) not in (None, both):
                raise InvalidArgumentError(
                    f"{known} images carry both {word!r} and {into!r}, and {both} of them were given; all are needed, because the "
                    "sums hold them twice"
                )
        for extra in self.extras:
            extra.merge_words(first, second, labels)
        sums, _ = _sums_of(vectors, labels[:, [first]])
        self.sums[second] += self.sums[first] - (sums.cpu().numpy() if isinstance(sums, Tensor) else sums)[0]
        self.counts[second] += self.counts[first] - both
        self._keep([number for number in range(len(self.vocabulary)) if number != first])
        return self

    def _keep(self, numbers: Sequence[int]) -> None:
        self.vocabulary = tuple(self.vocabulary[number] for number in numbers)
        self.sums = self.sums[numbers]
        self.counts = self.counts[numbers]
        for extra in self.extras:
            extra.keep_words(numbers)

    # -- what they give ---------------------------------------------------------------------------------------------------------

    @property
    def known(self) -> NDArray[np.intp]:
        """Ascending indices of the words that have at least one image, and so a vector."""
        return np.flatnonzero(self.counts)

    def vectors(self) -> NDArray[np.float64]:
        """Word vectors (len(known), D) float64, in the order of :attr:`known`. A word with no image has none."""
        known = self.known
        return self.sums[known] / self.counts[known, None]

    def checked_labels(self, vectors: Vectors, labels: sparse.csr_array) -> sparse.csr_array:
        """The labels without stored zeros, if they and the vectors are such as :meth:`partial_fit` takes; else ValueError."""
        self.check_vectors(vectors)
        if labels.shape != (len(vectors), len(self.vocabulary)):
            raise ValueError(f"labels must have shape ({len(vectors)}, {len(self.vocabulary)}), got {labels.shape}")
        labels = sparse.csr_array(labels, copy=True)
        labels.sum_duplicates()
        labels.eliminate_zeros()
        if not np.all(labels.data == 1):
            raise ValueError("labels must be 0 or 1")
        return labels

    def check_vectors(self, vectors: Vectors) -> None:
        """Raise ValueError unless image vectors (B, D) are such as :meth:`partial_fit` takes."""
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise ValueError(f"vectors must have shape (B, {self.dimension}), got {tuple(vectors.shape)}")
        finite = torch.isfinite(vectors).all() if isinstance(vectors, Tensor) else np.isfinite(vectors).all()
        if not finite:
            raise ValueError("the image vectors hold NaN or infinite values")
        for extra in self.extras:
            extra.check(vectors)


def _sums_of(vectors: Vectors, labels: sparse.csr_array) -> tuple[Any, NDArray[np.int64]]:
    return _word_sums_cuda(vectors, labels) if isinstance(vectors, Tensor) else _reference.word_sums(vectors, labels)


def _word_sums_cuda(vectors: Tensor, labels: sparse.csr_array) -> tuple[Tensor, NDArray[np.int64]]:
    """:func:`gpuannot.reference.words.word_sums` on the vectors' device: labelsᵀ as CSR times vectors, in float64."""
    transposed = labels.T.tocsr()
    entries = transposed.tocoo()
    where = torch.from_numpy(np.stack([entries.row, entries.col]).astype(np.int64)).to(vectors.device)
    ones = torch.ones(entries.nnz, dtype=torch.float64, device=vectors.device)
    # SciPy keeps the invariants. A copy of a sparse tensor to the device leaves open whether they are checked, and torch warns.
    indicator = torch.sparse_coo_tensor(where, ones, transposed.shape, is_coalesced=True, check_invariants=False)
    return torch.sparse.mm(indicator, vectors.double()), np.diff(transposed.indptr).astype(np.int64)
