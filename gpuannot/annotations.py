"""What annotating gives: for each image its k words and their distances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .image_batches import ImageFailure


@dataclass(frozen=True)
class Annotations:
    """Words of the images that could be read, in input order.

    Attributes:
        names: the images' paths, or ``image 3`` for the fourth one given as pixels.
        positions: (T,) int64, each image's place in the input.
        index: (T, k) int64 into ``vocabulary``, nearest word first. distance: (T, k) float32.
        failures: the images that got no row, with the reason. Rows + failures = inputs.
        vectors: (T, m·n) float32, the images' VLAD vectors, where they were asked for.
    """

    names: tuple[str, ...]
    positions: NDArray[np.int64]
    index: NDArray[np.int64]
    distance: NDArray[np.float32]
    vocabulary: tuple[str, ...]
    failures: tuple[ImageFailure, ...] = field(default=())
    vectors: NDArray[np.float32] | None = None

    @classmethod
    def joined(cls, parts: Sequence[Annotations], vocabulary: tuple[str, ...], k: int) -> Annotations:
        """Parts of one input, in its order, as one; without parts, no row."""
        return cls(
            names=tuple(name for part in parts for name in part.names),
            positions=np.concatenate([np.empty(0, np.int64), *(part.positions for part in parts)]),
            index=np.concatenate([np.empty((0, k), np.int64), *(part.index for part in parts)]),
            distance=np.concatenate([np.empty((0, k), np.float32), *(part.distance for part in parts)]),
            vocabulary=vocabulary,
            failures=tuple(failure for part in parts for failure in part.failures),
        )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def words(self) -> list[tuple[str, ...]]:
        """For each image its k words, nearest first."""
        return [tuple(self.vocabulary[word] for word in row) for row in self.index]
