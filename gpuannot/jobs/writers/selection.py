"""Which of the words that a model gave are written."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ...errors import InvalidArgumentError
from ...model.annotations import Annotations, check_threshold


@dataclass(frozen=True)
class Selection:
    """Words by their confidence, and without some.

    Attributes:
        threshold: confidence that a word needs. Where none of an image's words has it, the likeliest that has no threshold of its
            own is kept.
        of_words: thresholds of single words, in place of that.
        exclude: words that are never written.
    """

    threshold: float | None = None
    of_words: Mapping[str, float] = field(default_factory=dict)
    exclude: Collection[str] = ()

    def __bool__(self) -> bool:
        return self.threshold is not None or bool(self.of_words) or bool(self.exclude)

    @property
    def least(self) -> float | None:
        """The lowest confidence with which a word may be written; None where any may."""
        return None if self.threshold is None else min(self.threshold, *self.of_words.values(), 1)

    def check(self, vocabulary: Sequence[str], confident: bool) -> None:
        """Raise InvalidArgumentError for a word that is not in the vocabulary, a threshold outside 0…1, or one without confidences.

        Args:
            confident: whether there are confidences to compare with a threshold.
        """
        for word in (*self.of_words, *self.exclude):
            if word not in vocabulary:
                close = difflib.get_close_matches(word, vocabulary, 1)
                raise InvalidArgumentError(f"{word!r} is no word of the model" + (f"; is {close[0]!r} meant?" if close else ""))
        for value in (self.threshold, *self.of_words.values()):
            check_threshold(value)
        if not confident and (self.threshold is not None or self.of_words):
            raise InvalidArgumentError(
                "there are no confidences to compare with a threshold; those of presets best and kernel have them"
            )

    def __call__(self, annotations: Annotations) -> Annotations:
        """The annotations with the words that are left.

        Raises:
            InvalidArgumentError: thresholds, and there are no confidences, or an image lacks them.
        """
        if not self:
            return annotations
        index, vocabulary = annotations.index, annotations.vocabulary
        excluded = np.array([word in self.exclude for word in vocabulary], bool)
        kept = (index >= 0) & ~excluded[index]
        if self.threshold is not None or self.of_words:
            annotations.require_confidences()
            assert annotations.confidence is not None
            own = np.array([word in self.of_words for word in vocabulary], bool)[index]
            needed = np.array([self.of_words.get(word, self.threshold or 0.0) for word in vocabulary], np.float32)[index]
            passing = kept & (annotations.confidence >= needed)
            likeliest = np.where(kept & ~own, annotations.confidence, -1)
            if index.shape[1]:
                none = ~passing.any(axis=1) & (likeliest.max(axis=1) >= 0)
                passing[none, likeliest[none].argmax(axis=1)] = True
            kept = passing
        order = np.argsort(~kept, axis=1, kind="stable")
        kept = np.take_along_axis(kept, order, axis=1)
        confidence = annotations.confidence
        return replace(
            annotations,
            index=np.where(kept, np.take_along_axis(index, order, axis=1), -1),
            distance=np.where(kept, np.take_along_axis(annotations.distance, order, axis=1), np.float32(np.inf)),
            confidence=None if confidence is None else np.where(kept, np.take_along_axis(confidence, order, axis=1), np.float32(0)),
        )
