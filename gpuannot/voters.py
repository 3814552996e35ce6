"""The neighbour vote: every image that was learnt from votes for its words, the louder the more it is like the image at hand."""

from __future__ import annotations

from math import isqrt
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from .reference.threads import for_blocks
from .ridge import LeftOut

#: Images whose own votes, each without itself, say how far the votes of a word can be trusted, at most.
MEASURED_IMAGES = 5000

# How far the unit vectors of one image can be apart, as it is encoded with other images.
_SAME = 0.01
# Likenesses of images and voters that a thread holds at once, in bytes.
_BLOCK_BYTES = 32 << 20


def leading_coordinates(dimension: int, quadratic: int) -> int:
    """d of image vectors with d + t(t + 1)/2 values, t being ``quadratic`` or d, if that is smaller."""
    kept = dimension - quadratic * (quadratic + 1) // 2
    return kept if kept >= quadratic else (isqrt(9 + 8 * dimension) - 3) // 2


class Voters:
    """Vectors of unit length and labels of the images that were learnt from.

    With u the vector of an image and u_i, y_i those of N voters and their labels, word w gets

        vote_w(u) = Σ_i exp(β·⟨u, u_i⟩)·y_iw / Σ_i exp(β·⟨u, u_i⟩),

    the share of votes that name it: Nadaraya–Watson regression, and 2PKNN
    (:class:`~gpuannot.baselines.two_pass_knn.TwoPassKNN`) with every image in its first pass. It costs
    O(N·d) an image, and 4·N·d bytes here, half of that in a file.

    Args:
        dimension: d. words: W. sharpness: β.

    Attributes:
        vectors: (N, d) float32, rounded to float16, as a file keeps them. labels: (N, W) float32 CSR of 0 and 1.
    """

    def __init__(self, dimension: int, words: int, sharpness: float) -> None:
        self.dimension, self.sharpness = dimension, sharpness
        self._vectors = [np.empty((0, dimension), np.float32)]
        self._labels = [sparse.csr_array((0, words), dtype=np.float32)]
        self._transposed: tuple[sparse.csr_array, sparse.csr_array] | None = None

    @property
    def vectors(self) -> NDArray[np.float32]:
        if len(self._vectors) > 1:
            self._vectors = [np.concatenate(self._vectors)]
        return self._vectors[0]

    @property
    def labels(self) -> sparse.csr_array:
        if len(self._labels) > 1:
            self._labels = [sparse.csr_array(sparse.vstack(self._labels, format="csr"))]
        return self._labels[0]

    @property
    def _by_word(self) -> sparse.csr_array:
        """The labels as (W, N), made once for as long as they stay."""
        labels = self.labels
        if self._transposed is None or self._transposed[0] is not labels:
            self._transposed = labels, labels.T.tocsr()
        return self._transposed[1]

    def __len__(self) -> int:
        return sum(map(len, self._vectors))

    # -- images and words that come and go --------------------------------------------------------------------------------------

    def add(self, vectors: NDArray[np.floating] | Tensor, labels: sparse.csr_array) -> None:
        """Add images: vectors (B, D), of which the first d values count, and labels (B, W)."""
        self._vectors.append(self.rounded(vectors))
        self._labels.append(labels.astype(np.float32))

    def merge(self, other: Voters) -> None:
        """Add another part's images."""
        self._vectors += other._vectors
        self._labels += other._labels

    def places(self, vectors: NDArray[np.floating] | Tensor, labels: sparse.csr_array) -> NDArray[np.int64]:
        """Which voters images (B, D) with labels (B, W) are, each another one, (B,) ascending.

        Raises:
            ValueError: one that was not learnt from, with these labels.
        """
        alike: dict[bytes, list[int]] = {}
        for place in range(len(self)):
            alike.setdefault(_words(self.labels, place), []).append(place)
        found = []
        for number, row in enumerate(self.rounded(vectors)):
            places = alike.get(_words(labels, number), [])
            away = np.linalg.norm(self.vectors[places] - row, axis=1)
            if not len(places) or away.min() > _SAME:
                raise ValueError(
                    f"image {number} was not learnt from with these labels: the model keeps the vectors of its images to vote, and "
                    "has none like it"
                )
            found.append(places.pop(int(away.argmin())))
        return np.sort(np.array(found, dtype=np.int64))

    def remove(self, places: NDArray[np.int64]) -> None:
        """Take out voters."""
        kept = np.setdiff1d(np.arange(len(self)), places)
        self._vectors, self._labels = [self.vectors[kept]], [self.labels[kept]]

    def add_words(self, words: int) -> None:
        """Append words that no image carries."""
        labels = self.labels
        self._labels = [sparse.csr_array((labels.data, labels.indices, labels.indptr), shape=(len(self), labels.shape[1] + words))]

    def keep_words(self, numbers: list[int]) -> None:
        """Keep the words of these numbers, in this order."""
        self._labels = [self.labels[:, numbers]]

    def merge_words(self, word: int, into: int) -> None:
        """Let ``into`` be the word of the images that carry it or ``word``."""
        labels = self.labels.tolil()
        labels[:, [into]] = self.labels[:, [into]].maximum(self.labels[:, [word]])
        self._labels = [labels.tocsr()]

    # -- votes ------------------------------------------------------------------------------------------------------------------

    def rounded(self, vectors: NDArray[np.floating] | Tensor) -> NDArray[np.float32]:
        """The vectors of images (B, D) as a voter keeps them: (B, d)."""
        host = vectors.cpu().numpy() if isinstance(vectors, Tensor) else vectors
        return host[:, : self.dimension].astype(np.float16).astype(np.float32)

    def votes(self, vectors: NDArray[np.floating], own: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """The share of votes of each word for images (B, D): (B, W) float32.

        Args:
            own: (B,) which voter an image is, whose vote for itself does not count; −1 for none. None: none is a voter.
        """
        voters, by_word = self.vectors, self._by_word
        shares = np.zeros((len(vectors), by_word.shape[0]), np.float32)

        def vote(start: int, stop: int) -> None:
            likeness = vectors[start:stop, : self.dimension].astype(np.float32, copy=False) @ voters.T
            likeness *= np.float32(self.sharpness)
            if own is not None:
                row = np.flatnonzero(own[start:stop] >= 0)
                likeness[row, own[start:stop][row]] = -np.inf
            largest = likeness.max(axis=1, keepdims=True)
            likeness -= np.where(np.isfinite(largest), largest, np.float32(0))
            weights = np.exp(likeness, out=likeness)
            total = weights.sum(axis=1, keepdims=True)
            shares[start:stop] = (by_word @ weights.T).T / np.where(total > 0, total, np.float32(1))

        if len(self):
            for_blocks(vote, len(vectors), max(1, min(256, _BLOCK_BYTES // (4 * len(self)))))
        return shares

    def own_places(self, vectors: NDArray[np.floating]) -> NDArray[np.int64]:
        """Which voter each of some images that were learnt from is, (B,); −1 where none has its vector."""
        places = {row.tobytes(): place for place, row in enumerate(self.vectors)}
        return np.array([places.get(row.tobytes(), -1) for row in self.rounded(vectors)], dtype=np.int64)

    def left_out(self) -> tuple[LeftOut, Tensor]:
        """Statistics of the votes for the voters themselves, each without its own vote, and how many of them carry each word.

        Of all voters, or of :data:`MEASURED_IMAGES` spread evenly among them: O(N·d) each.
        """
        measured = np.unique(np.linspace(0, len(self) - 1, min(len(self), MEASURED_IMAGES)).round().astype(np.int64))
        words = self.labels.shape[1]
        total, squares, with_word = (np.zeros(words) for _ in range(3))
        for places in np.array_split(measured, max(1, len(measured) // 512)):
            votes = self.votes(self.vectors[places], places).astype(np.float64)
            total += votes.sum(axis=0)
            squares += np.square(votes).sum(axis=0)
            with_word += self.labels[places].multiply(votes).sum(axis=0)
        images = max(1, len(measured))
        counts = np.asarray(self.labels[measured].sum(axis=0), dtype=np.float64)
        without = (total - with_word) / np.maximum(images - counts, 0.5)
        variance = np.maximum(squares / images - np.square(total / images), 0.0)
        # A word that none of them carries has no mean of its own: gaussian_odds gives it the separation of the others.
        parts = np.sqrt(variance), np.where(counts > 0, with_word / np.maximum(counts, 1), without), without
        return LeftOut(*(torch.from_numpy(part) for part in parts)), torch.from_numpy(counts)

    def on(self, device: torch.device) -> DeviceVoters:
        """The voters on ``device``."""
        entries = self.labels.tocoo()
        where = torch.from_numpy(np.stack([entries.col, entries.row]).astype(np.int64))
        shape = self.labels.shape[::-1]
        labels = torch.sparse_coo_tensor(where, torch.from_numpy(entries.data), shape, check_invariants=True).coalesce()
        return DeviceVoters(torch.from_numpy(self.vectors).to(device), labels.to(device), self.sharpness)


class DeviceVoters(NamedTuple):
    """:class:`Voters` on a device: ``vectors`` (N, d) float32 and ``labels`` (W, N) float32 COO."""

    vectors: Tensor
    labels: Tensor
    sharpness: float

    def votes(self, vectors: Tensor) -> Tensor:
        """The share of votes of each word for images (B, D): (B, W) float32."""
        if not len(vectors):
            return vectors.new_zeros((0, self.labels.shape[0]))
        rows = vectors[:, : self.vectors.shape[1]]
        return torch.cat([self._votes(part) for part in rows.split(max(1, _BLOCK_BYTES // (4 * len(self.vectors))))])

    def _votes(self, rows: Tensor) -> Tensor:
        weights = torch.softmax(self.sharpness * (rows @ self.vectors.T), dim=1)
        return torch.sparse.mm(self.labels, weights.T.contiguous()).T


def _words(labels: sparse.csr_array, row: int) -> bytes:
    return np.sort(labels.indices[labels.indptr[row] : labels.indptr[row + 1]]).astype(np.int64).tobytes()
