"""What annotating gives: for each image its words, their distances and how likely they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceError, InvalidArgumentError
from ..images.decode_task import ImageFailure

if TYPE_CHECKING:
    from pandas import DataFrame

DEFAULT_K = 5  # words of an image, as the field counts them


@dataclass(frozen=True, repr=False)
class Annotations:
    """Words of the images that could be read, in input order.

    Attributes:
        names: the images' paths, or ``image 3`` for the fourth one given as pixels.
        positions: (T,) int64, each image's place in the input.
        index: (T, k) int64 into ``vocabulary``, nearest word first. distance: (T, k) float32.
            With the heads ``ridge`` and ``kernel`` the negative score, so that smaller is better here too.
        failures: the images that got no row, with the reason. Rows + failures = inputs.
        vectors: (T, m·n) float32, the images' VLAD vectors, where they were asked for.
        confidence: (T, k) float32, how likely each word is right (:meth:`Annotator.confidence`); None where the model does not say.
            NaN, as ``distance``, where a table that was read lacks those of an image.
        weak_below: the confidence under which a word is shown as weak: what the fit chose, or else a half.

    Where images get as many words as they deserve, ``index`` is −1 after an image's last word, ``distance`` infinite there and
    ``confidence`` 0.
    """

    names: tuple[str, ...]
    positions: NDArray[np.int64]
    index: NDArray[np.int64]
    distance: NDArray[np.float32]
    vocabulary: tuple[str, ...]
    failures: tuple[ImageFailure, ...] = field(default=())
    vectors: NDArray[np.float32] | None = None
    confidence: NDArray[np.float32] | None = None
    weak_below: float | None = None

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
            confidence=_joined([part.confidence for part in parts], k),
            vectors=_joined([part.vectors for part in parts]),
            weak_below=next((part.weak_below for part in parts), None),
        )

    def __len__(self) -> int:
        return len(self.names)

    def at(self, rows: Sequence[int]) -> Annotations:
        """Those of some rows, in that order, without failures."""
        order = np.asarray(rows, dtype=np.int64)
        return replace(
            self,
            names=tuple(self.names[row] for row in rows),
            positions=self.positions[order],
            index=self.index[order],
            distance=self.distance[order],
            failures=(),
            vectors=None if self.vectors is None else self.vectors[order],
            confidence=None if self.confidence is None else self.confidence[order],
        )

    def likely(self, threshold: float) -> Annotations:
        """Of each image's words those of a confidence of at least ``threshold``, but always the one of the highest.

        Raises:
            ValueError: a threshold outside 0…1, or there are no confidences.
        """
        self.require_confidences()
        check_threshold(threshold)
        assert self.confidence is not None
        kept = given_words(self.confidence, threshold)
        order = np.argsort(~kept, axis=1, kind="stable")

        def compacted(values: NDArray[Any], missing: float) -> NDArray[Any]:
            return np.take_along_axis(np.where(kept, values, values.dtype.type(missing)), order, axis=1)

        return replace(
            self,
            index=compacted(self.index, -1),
            distance=compacted(self.distance, np.inf),
            confidence=compacted(self.confidence, 0),
        )

    def by_confidence(self) -> Annotations:
        """The words of each image in order of confidence, as people are shown them; without confidences as they are."""
        if self.confidence is None:
            return self
        order = np.argsort(np.where(self.index < 0, np.inf, -np.nan_to_num(self.confidence)), axis=1, kind="stable")
        return replace(
            self,
            index=np.take_along_axis(self.index, order, axis=1),
            distance=np.take_along_axis(self.distance, order, axis=1),
            confidence=np.take_along_axis(self.confidence, order, axis=1),
        )

    def to_dicts(self) -> list[dict[str, Any]]:
        """For each image plain Python values: ``path``, ``words``, ``distances`` and, where there are any, ``confidences``.

        An image's distances or confidences are an empty list where it lacks them.
        """
        columns = {"distances": self.values_given(self.distance)}
        if self.confidence is not None:
            columns["confidences"] = self.values_given(self.confidence)
        rows = zip(self.names, self.words, *columns.values(), strict=True)
        return [
            {"path": name, "words": list(words), **{column: of.tolist() for column, of in zip(columns, values, strict=True)}}
            for name, words, *values in rows
        ]

    def values_given(self, values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The values (T, k) of the words that each image was given; none where one is NaN, as in a table that was read without."""
        given = [row[index >= 0] for row, index in zip(values, self.index, strict=True)]
        return [row[:0] if np.isnan(row).any() else row for row in given]

    def require_confidences(self) -> None:
        """Raise InvalidArgumentError unless each word that was given has a confidence to compare with a threshold."""
        if self.confidence is None:
            raise InvalidArgumentError(
                "these annotations have no confidences to compare with a threshold; those of presets best and kernel have them"
            )
        if (lacking := np.flatnonzero((np.isnan(self.confidence) & (self.index >= 0)).any(axis=1))).size:
            raise InvalidArgumentError(
                f"{self.names[lacking[0]]} has words without confidences to compare with a threshold; give them confidences, or no "
                "threshold"
            )

    def to_pandas(self) -> DataFrame:
        """A data frame with a row an image and the columns of :meth:`to_dicts`; ``explode("words")`` makes it one of a row a word.

        Raises:
            DeviceError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise DeviceError("to_pandas needs pandas: pip install pandas; to_dicts gives the same without it") from error
        columns = ["path", "words", "distances", *(() if self.confidence is None else ("confidences",))]
        return pandas.DataFrame(self.to_dicts(), columns=columns)

    def __repr__(self) -> str:
        from .display import annotations_text

        return annotations_text(self)

    def _repr_html_(self) -> str:
        from .display import annotations_html

        return annotations_html(self)

    @property
    def words(self) -> list[tuple[str, ...]]:
        """For each image its words, nearest first."""
        return [tuple(self.vocabulary[word] for word in row if word >= 0) for row in self.index]


def given_words(confidence: NDArray[np.floating], threshold: float) -> NDArray[np.bool_]:
    """Which words (T, k) pass a threshold of confidence, or are the one of the highest of their image."""
    kept = confidence >= threshold
    if kept.size:
        kept[np.arange(len(kept)), confidence.argmax(axis=1)] = True
    return kept


def _joined(parts: Sequence[NDArray[np.float32] | None], width: int | None = None) -> NDArray[np.float32] | None:
    """The rows of all; None where some have none."""
    found = [part for part in parts if part is not None]
    if not parts or len(found) < len(parts):
        return None
    return np.concatenate([*([np.empty((0, width), np.float32)] if width is not None else ()), *found])


def check_threshold(threshold: float | None) -> None:
    """Raise ValueError unless ``threshold`` is None or lies in 0…1."""
    if threshold is not None and not 0 <= threshold <= 1:
        raise InvalidArgumentError(f"threshold = {threshold} must lie in 0…1")
