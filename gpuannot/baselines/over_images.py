"""A baseline that takes images: what turns an image into features, and the estimator that looks at them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..annotator import Labels
from ..errors import DataError, ImageError
from ..images.decode_task import ImageFailure
from ..images.inputs import Images, as_sequence, none_readable, source_name, warn_of_failures
from ..method.labels import label_matrix
from ..model.annotations import Annotations
from ..system.progress import progress_bar
from .base import Baseline, Features

# Images described at a time: enough to keep a trunk busy, few enough to hold.
_CHUNK = 256


class ImageBaseline:
    """``fit``, ``annotate`` and ``stream`` over images, as :class:`~gpuannot.Annotator` has them, for any baseline.

    Args:
        describe: images → their features, a row an image, such as ``GlobalFeatures("conv5_3").encode`` or ``handmade_features``. It
            raises :class:`~gpuannot.errors.ImageError` for an image that it cannot read.
        baseline: the estimator.

    Attributes:
        failures_: images of the last ``fit`` that could not be read.
    """

    def __init__(self, describe: Callable[[Sequence[Any]], Features], baseline: Baseline) -> None:
        self.describe, self.baseline = describe, baseline
        self.failures_: list[ImageFailure] = []

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The words, in the order that annotations number them."""
        self.baseline.check_k(1)
        return self.baseline.vocabulary_

    def fit(
        self, images: Images, labels: Labels, *, vocabulary: Sequence[str] | None = None, progress: bool | None = None
    ) -> ImageBaseline:
        """Learn from labelled images; those that cannot be read are left out, listed in ``failures_`` and warned of.

        Args:
            images: as for :class:`~gpuannot.Annotator`.
            labels: the words of each image, or an (N, W) matrix of 0 and 1, which needs a vocabulary.
            vocabulary: the W words in column order; None takes the words that occur, sorted.
            progress: show a bar; None shows one on terminals, elsewhere lines.

        Raises:
            DataError: labels that do not fit the images, no label at all, or not one readable image.
        """
        sources = as_sequence(images)
        matrix, words = label_matrix(labels, vocabulary)
        if matrix.shape[0] != len(sources):
            raise DataError(f"{len(sources)} images and labels of {matrix.shape[0]}: each image needs both")
        parts, read, failures = [], [np.empty(0, np.int64)], []
        for positions, features, failed in self._described(sources, progress):
            failures.extend(failed)
            if features is not None:
                parts.append(features)
                read.append(positions)
        self.failures_ = failures
        if not parts:
            raise DataError(none_readable(len(sources), failures))
        self.baseline.fit(_joined(parts), matrix[np.concatenate(read)], words)
        warn_of_failures(len(sources), failures)
        return self

    def scores(self, images: Images, *, progress: bool | None = None) -> Tensor:
        """(T, W) scores, higher fits better.

        Raises:
            ImageError: an image cannot be read. Otherwise as :meth:`Baseline.scores`.
        """
        parts = []
        for _, features, failed in self._described(as_sequence(images), progress):
            if failed:
                raise ImageError(failed[0].path, failed[0].reason, failed[0].stage)
            assert features is not None
            parts.append(self.baseline.scores(features))
        return torch.cat(parts) if parts else torch.empty((0, len(self.vocabulary)), device=self.baseline.device)

    def annotate(self, images: Images, k: int = 5, *, progress: bool | None = None) -> Annotations:
        """The k best words of each image; ``distance`` is the negative score, so that smaller is better.

        Raises:
            ValueError: k outside 1…number of words with a training image.
            NotFittedError: before ``fit``.
        """
        return Annotations.joined(list(self.stream(images, k, progress=progress)), self.vocabulary, k)

    def stream(self, images: Images, k: int = 5, *, progress: bool | None = None) -> Iterator[Annotations]:
        """:meth:`annotate` in blocks, in input order: memory does not grow with the number of images."""
        sources = as_sequence(images)
        self.baseline.check_k(k)
        return self._stream(sources, k, progress)

    def _stream(self, sources: Sequence[Any], k: int, progress: bool | None) -> Iterator[Annotations]:
        for positions, features, failed in self._described(sources, progress):
            index = np.empty((0, k), np.int64)
            distance = np.empty((0, k), np.float32)
            if features is not None:
                best, score = self.baseline.annotate(features, k)
                index, distance = best.cpu().numpy(), -score.cpu().numpy()
            names = tuple(source_name(sources, position) for position in positions.tolist())
            yield Annotations(names, positions, index, distance, self.vocabulary, tuple(failed))

    def _described(
        self, sources: Sequence[Any], progress: bool | None
    ) -> Iterator[tuple[NDArray[np.int64], Features | None, list[ImageFailure]]]:
        """Positions that could be read, their features (None for no image) and the failures, chunk by chunk."""
        with progress_bar("annotate", len(sources), progress) as bar:
            for start in range(0, len(sources), _CHUNK):
                positions = np.arange(start, min(start + _CHUNK, len(sources)), dtype=np.int64)
                try:
                    yield positions, self.describe([sources[position] for position in positions.tolist()]), []
                except ImageError:
                    yield self._one_by_one(sources, positions)
                bar.update(len(positions))

    def _one_by_one(
        self, sources: Sequence[Any], positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], Features | None, list[ImageFailure]]:
        """A chunk with an unreadable image in it: which one, and the features of the others."""
        parts, read, failures = [], [], []
        for position in positions.tolist():
            try:
                parts.append(self.describe([sources[position]]))
                read.append(position)
            except ImageError as error:
                failures.append(ImageFailure(source_name(sources, position), error.stage, error.reason))
        return np.array(read, dtype=np.int64), _joined(parts) if parts else None, failures


def _joined(parts: Sequence[Features]) -> Features:
    """Features of consecutive images as one."""
    if isinstance(parts[0], Mapping):
        named = [part for part in parts if isinstance(part, Mapping)]
        return {name: np.concatenate([np.asarray(part[name]) for part in named]) for name in parts[0]}
    return np.concatenate([np.asarray(part) for part in parts])
