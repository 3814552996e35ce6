"""The k nearest words (the paper's equation 6)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .reference import ranking as _reference


class WordRanking:
    """Word vectors made ready for ranking: converted, and for ``cosine`` normalised, once.

    Args:
        word_vectors: (W, D).
        metric: ``l2``, or ``cosine`` for 1 − cosine similarity. An all-zero vector has similarity 0 to everything.
    """

    def __init__(self, word_vectors: NDArray[np.floating], metric: str = "l2") -> None:
        self.metric = metric
        prepared = self._prepare(np.asarray(word_vectors, dtype=np.float64)).astype(np.float32)
        # On the unit sphere L2 and cosine rank alike, but an all-zero vector is not on it: a coordinate of its own puts it there,
        # at a right angle to every image.
        zero: NDArray[np.bool_] = ~np.any(prepared, axis=1) if metric == "cosine" else np.zeros(len(prepared), dtype=bool)
        self._extra = bool(zero.any())
        self.word_vectors = np.hstack([prepared, zero[:, None].astype(np.float32)]) if self._extra else prepared

    def nearest(self, vectors: NDArray[np.floating], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k nearest words of image vectors (T, D): index (T, k) int64 and distance (T, k) float32, nearest first.

        Ties go to the lowest word index. Equation 6 writes "sim" for this distance: smaller is better.

        Raises:
            ValueError: k outside 1…W, or non-finite vectors.
        """
        prepared = self._prepare(vectors.astype(np.float32, copy=False))
        if self._extra:
            prepared = np.hstack([prepared, np.zeros((len(prepared), 1), dtype=np.float32)])
        index, distance = _reference.nearest_words(prepared, self.word_vectors, k)
        if self.metric == "cosine":
            # ‖x − v‖² = ‖x‖² + 1 − 2·cos, where ‖x‖ is 1, or 0 for an image vector of zeros.
            squared_norm = np.square(prepared, dtype=np.float64).sum(axis=1, keepdims=True)
            distance = np.maximum(0.0, 1.0 - (squared_norm + 1.0 - distance**2) / 2)
        return index, distance.astype(np.float32)

    def _prepare(self, vectors: NDArray[np.floating]) -> NDArray[np.floating]:
        if self.metric == "l2":
            return vectors
        norm = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.where(norm > 0, norm, norm.dtype.type(1))
