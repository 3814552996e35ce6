"""The images of a bank themselves, by vector and labels: what a kernel head is solved from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from ..errors import InvalidArgumentError
from ..method.words import BankExtra, Vectors
from .products import product

# Keys of images whose positions are not known begin here: they come after all others, in order of arrival.
_LATER = 1 << 62
# Kept images that are compared at once.
_ROWS = 1024
# Squared distance below which two unit vectors are one image's: a cosine of 1 − 10⁻³. Rounding to 16 bits moves one by far less.
_NEAR = 2e-3
# How far from 1 a squared norm may be.
_UNIT = 1e-2


class KeptImages(BankExtra):
    """Vectors u (N, d) of unit length, rounded to float16, and labels (N, W) 0/1 of all images of a bank.

    The order is that of the images' positions; images without positions come after those with, in order of arrival. So it does not
    depend on the batches of a fit, nor on which worker encoded what. 2·N·d bytes on one device.

    Args:
        words: W.
        dimension: d.
        device: where the vectors are kept.
    """

    def __init__(self, words: int, dimension: int, device: torch.device | str = "cpu") -> None:
        self._keys = np.empty(0, np.int64)
        self._vectors = torch.empty((0, dimension), dtype=torch.float16, device=device)
        self._labels = sparse.csr_array((0, words), dtype=np.float32)
        self._waiting: list[tuple[NDArray[np.int64], Tensor, sparse.csr_array]] = []
        self._later = 0

    def __len__(self) -> int:
        return len(self._keys) + sum(len(keys) for keys, _, _ in self._waiting)

    @property
    def device(self) -> torch.device:
        return self._vectors.device

    @property
    def keys(self) -> NDArray[np.int64]:
        """What the images are ordered by (N,): their positions, or of later ones numbers above all positions."""
        self.flush()
        return self._keys

    @property
    def vectors(self) -> Tensor:
        """u (N, d) float16, on the device. Changes put another tensor in its place."""
        self.flush()
        return self._vectors

    @property
    def labels(self) -> sparse.csr_array:
        """Y (N, W) float32 CSR with sorted columns. Changes put another array in its place."""
        self.flush()
        return self._labels

    def restore(self, keys: NDArray[np.int64], vectors: Tensor, labels: sparse.csr_array) -> Self:
        """Take images that were kept before, in their order: keys (N,), vectors (N, d) float16, labels (N, W)."""
        self._keys, self._vectors, self._labels = keys, vectors.to(self.device), _canonical(labels)
        self._later = max(0, int(keys[-1]) - _LATER + 1) if len(keys) else 0
        return self

    def copy(self) -> KeptImages:
        """The same images, in the same memory until one of the two changes."""
        self.flush()
        made = KeptImages(self._labels.shape[1], self._vectors.shape[1], self.device)
        made._keys, made._vectors, made._labels, made._later = self._keys, self._vectors, self._labels, self._later
        return made

    def check(self, vectors: Vectors) -> None:
        """Raise unless the vectors (B, d) have length 1, or 0."""
        rows = torch.as_tensor(vectors).float()
        lengths = torch.linalg.vecdot(rows, rows)
        wrong = ((lengths - 1).abs().minimum(lengths) >= _UNIT).nonzero().flatten()
        if len(wrong):
            row = int(wrong[0])
            raise InvalidArgumentError(
                f"the head kernel takes image vectors of length 1, as encode gives them; number {row} of those given has length "
                f"{float(lengths[row].sqrt()):.3g}"
            )

    def update(self, vectors: Vectors, labels: sparse.csr_array, sign: int, positions: NDArray[np.int64] | None) -> None:
        """Add images (``sign`` 1), or take out images that were added before (−1).

        Args:
            vectors: (B, d) of length 1, or 0.
            labels: (B, W) 0/1.
            positions: (B,) of the images in their data set, below 2⁶²; None puts them after all others.

        Raises:
            ValueError: shapes that do not fit.
            InvalidArgumentError: an image to take out was not added; nothing is changed then.
        """
        if sign < 0:
            self.remove(self.rows_of(vectors, labels))
            return
        rounded, labels = self._checked(vectors, labels)
        if positions is None:
            positions = _LATER + self._later + np.arange(len(rounded), dtype=np.int64)
            self._later += len(rounded)
        self._waiting.append((np.array(positions, dtype=np.int64), rounded, labels))

    def rows_of(self, vectors: Vectors, labels: sparse.csr_array) -> NDArray[np.int64]:
        """The rows (B,) of these images, each another: of the same vector in 16 bits, else the nearest, and of the same labels.

        Args:
            vectors: (B, d).
            labels: (B, W) 0/1.

        Raises:
            ValueError: as :meth:`update`.
            InvalidArgumentError: no such image was added, with the places of those that it concerns.
        """
        given, labels = self._checked(vectors, labels)
        self.flush()
        near = self._near(given)
        found, free = np.full(len(given), -1, np.int64), np.ones(len(self), bool)
        same_labels = [
            [row for row in candidates if np.array_equal(_columns(labels, number), _columns(self._labels, row))]
            for number, candidates in enumerate(near)
        ]
        for exact in (True, False):  # an image whose vector was rounded otherwise must not take the place of another
            for number in np.flatnonzero(found < 0):
                rows = [row for row in same_labels[number] if free[row]]
                differences = (self._vectors[rows].double() - given[number].double()).square().sum(dim=1).tolist()
                best = min(zip(differences, rows, strict=True), default=None)
                if best is not None and (best[0] == 0 or not exact):
                    found[number], free[best[1]] = best[1], False
        if (missing := np.flatnonzero(found < 0)).size:
            named = ", ".join(map(str, missing[:10])) + (", …" if len(missing) > 10 else "")
            raise InvalidArgumentError(
                f"cannot forget {len(missing)} of the {len(given)} images given (number {named}): none that was learnt from has "
                "that vector with those labels; give each with the labels it was learnt with, and no more often"
            )
        return found

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Take out the images of these rows."""
        kept = np.delete(np.arange(len(self)), rows)
        self.flush()
        self._keys, self._labels = self._keys[kept], self._labels[kept]
        self._vectors = self._vectors[torch.from_numpy(kept).to(self.device)]

    def merge(self, other: Any) -> Self:
        """Add the images of another part of the data set, of the same words and dimension."""
        other.flush()
        later = other._keys >= _LATER
        # Whole tensors wait, rather than being appended: a sum of many parts copies each once.
        self._waiting.append((other._keys + later * self._later, other._vectors.to(self.device), other._labels))
        self._later += other._later
        return self

    def add_words(self, count: int) -> None:
        self.flush()
        self._labels = self._labels.copy()
        self._labels.resize((len(self), self._labels.shape[1] + count))

    def keep_words(self, numbers: Sequence[int]) -> None:
        self.flush()
        self._labels = _canonical(self._labels[:, list(numbers)])

    def merge_words(self, word: int, into: int, labels: sparse.csr_array | None = None) -> None:
        self.flush()
        columns = self._labels.tocsc()
        carry = columns[:, [word]].maximum(columns[:, [into]])
        parts = [columns[:, :into], carry, columns[:, into + 1 :]]
        self._labels = _canonical(sparse.hstack(parts))

    def with_both(self, word: int, into: int) -> int | None:
        return len(self.rows_with_both(word, into))

    def images_with_both(self, word: int, into: int) -> tuple[Vectors, sparse.csr_array] | None:
        rows = self.rows_with_both(word, into)
        return self._vectors[torch.from_numpy(rows).to(self.device)].float().cpu().numpy(), self._labels[rows]

    def rows_with_both(self, word: int, into: int) -> NDArray[np.int64]:
        """The rows of the images that carry both words."""
        columns = self.labels.tocsc()
        return np.intersect1d(_columns(columns, word), _columns(columns, into)).astype(np.int64)

    def to(self, device: torch.device | str) -> Self:
        """These images on ``device``, in the same memory where they are there."""
        if self.device == torch.device(device):
            return self
        made = type(self)(self._labels.shape[1], self._vectors.shape[1], device)
        return made.merge(self)

    def flush(self) -> None:
        """Put the images that wait in their places."""
        if not self._waiting:
            return
        parts = [(self._keys, self._vectors, self._labels), *self._waiting]
        keys = np.concatenate([part[0] for part in parts])
        order = np.argsort(keys, kind="stable")
        vectors, labels = torch.cat([part[1] for part in parts]), sparse.csr_array(sparse.vstack([part[2] for part in parts]))
        if not np.array_equal(order, np.arange(len(order))):
            keys, vectors, labels = keys[order], vectors[torch.from_numpy(order).to(vectors.device)], labels[order]
        self._keys, self._vectors, self._labels = keys, vectors, _canonical(labels)
        self._waiting = []

    def __getstate__(self) -> dict[str, Any]:
        self.flush()
        return {**vars(self), "_vectors": self._vectors.cpu(), "_waiting": []}

    def _checked(self, vectors: Vectors, labels: sparse.csr_array) -> tuple[Tensor, sparse.csr_array]:
        rows = torch.as_tensor(vectors).to(self.device)
        if rows.ndim != 2 or rows.shape[1] != self._vectors.shape[1] or labels.shape != (len(rows), self._labels.shape[1]):
            raise ValueError(
                f"expected vectors (B, {self._vectors.shape[1]}) and labels (B, {self._labels.shape[1]}), got {tuple(rows.shape)} "
                f"and {labels.shape}"
            )
        return rows.to(torch.float16, copy=True), _canonical(labels)

    def _near(self, given: Tensor) -> list[list[int]]:
        """For each of the vectors (B, d) float16, the rows that could be the same image's, ascending."""
        found: list[list[int]] = [[] for _ in given]
        rows = given.float()
        for start in range(0, len(self._keys), _ROWS):
            kept = self._vectors[start : start + _ROWS].float()
            lengths = torch.linalg.vecdot(rows, rows)[:, None] + torch.linalg.vecdot(kept, kept)
            pairs = (lengths - 2 * product(rows, kept.T) < _NEAR).nonzero().cpu().numpy()
            for number, row in pairs:
                found[number].append(start + int(row))
        return found


def _canonical(labels: Any) -> sparse.csr_array:
    """0/1 labels in float32 CSR of their own, without zeros, columns sorted."""
    found = sparse.csr_array(labels, dtype=np.float32, copy=True)
    found.sum_duplicates()
    found.eliminate_zeros()
    return found


def _columns(labels: sparse.csr_array, row: int) -> NDArray[np.int32]:
    """Where a row of CSR labels, or a column of CSC labels, is not 0, ascending."""
    return labels.indices[labels.indptr[row] : labels.indptr[row + 1]]
