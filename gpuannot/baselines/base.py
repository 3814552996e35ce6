"""What all baselines share: checked features and labels on one device, scores block by block, the k best words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from ..errors import DataError, InvalidArgumentError, NotFittedError
from ..method.labels import label_matrix
from ..system.device import resolve_device

Features: TypeAlias = NDArray[Any] | Tensor | Mapping[str, NDArray[Any] | Tensor]
Labels: TypeAlias = sparse.csr_array | NDArray[Any] | Sequence[Any]


class WordScorer(ABC):
    """Gives an image the k words that its ``scores`` put first.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Attributes:
        vocabulary_: the W words, in the order of the score columns; set at the end of ``fit``.
        counts_: (W,) float32, training images that carry each word. Words with none score −∞ and are never given.
    """

    vocabulary_: tuple[str, ...]
    counts_: Tensor

    def __init__(self, *, device: str | torch.device = "auto") -> None:
        self.device = resolve_device(device)

    @abstractmethod
    def scores(self, inputs: Any) -> Tensor:
        """How well each word fits each image: (T, W) float32 on the estimator's device, higher fits better."""

    def annotate(self, inputs: Any, k: int = 5) -> tuple[Tensor, Tensor]:
        """The k best words of each input, ties to the lowest index.

        Returns:
            index (T, k) int64 and score (T, k) float32, best first.

        Raises:
            ValueError: k outside 1…number of words with a training image. Otherwise as :meth:`scores`.
        """
        self.check_k(k)
        return best_words(self.scores(inputs), k)

    def check_k(self, k: int) -> None:
        """Refuse a number of words that cannot be given.

        Raises:
            ValueError: k outside 1…number of words with a training image.
            NotFittedError: before ``fit``.
        """
        self._require_fit()
        known = int((self.counts_ > 0).sum())
        if not 1 <= k <= known:
            raise InvalidArgumentError(f"k = {k} must lie in 1…{known}, the number of words that can be given")

    def _require_fit(self) -> None:
        if not hasattr(self, "vocabulary_"):
            raise NotFittedError(f"this {type(self).__name__} has learnt nothing yet; call fit first")


class Baseline(WordScorer):
    """An annotator over features (N, …): one row an image, or several arrays of them by name.

    Attributes:
        query_parameters: arguments of the constructor that ``fit`` does not look at: they may be changed after it.
        block_bytes: bytes that scoring a block of images may take. It decides how many are scored at a time, and no score.
        labels_: (N, W) float32 0/1, the training labels, for the baselines that look at every training image.
    """

    query_parameters: ClassVar[tuple[str, ...]] = ()
    block_bytes: int = 256 << 20
    labels_: Tensor

    def fit(self, features: Features, labels: Labels, vocabulary: Sequence[str] | None = None) -> Self:
        """Learn from N labelled images.

        Args:
            features: (N, …) float array or tensor, or a dictionary of them.
            labels: the words of each image, or an (N, W) matrix of 0 and 1.
            vocabulary: the W words in column order; None takes the words that occur, sorted, or numbers a matrix's columns.

        Raises:
            DataError: labels and features of different length, no label at all, or non-finite features.
            ValueError: wrong shapes.
        """
        matrix, words = numbered_labels(labels, vocabulary)
        prepared = self._checked(features)
        if _length(prepared) != matrix.shape[0]:
            raise DataError(f"features of {_length(prepared)} images and labels of {matrix.shape[0]}: each image needs both")
        if not matrix.nnz:
            raise DataError("no image carries a word: there is nothing to learn")
        vars(self).pop("vocabulary_", None)  # if this fails half-way, nothing may rank by what an earlier fit learnt
        self.labels_ = torch.from_numpy(matrix.toarray()).to(self.device)
        self.counts_ = self.labels_.sum(dim=0)
        self._shapes = {name: array.shape[1:] for name, array in prepared.items()}
        self._fit(prepared)
        self.vocabulary_ = words
        return self

    @torch.inference_mode()
    def scores(self, features: Features) -> Tensor:
        """How well each word fits each image: (T, W) float32 on this baseline's device, higher fits better, −∞ for untrained words.

        Raises:
            NotFittedError: before ``fit``.
            ValueError: other features than at ``fit``.
            DataError: non-finite features.
        """
        self._require_fit()
        prepared = self._checked(features)
        shapes = {name: array.shape[1:] for name, array in prepared.items()}
        if shapes != self._shapes:
            raise ValueError(f"features have the form {_form(shapes)}, this was fitted with {_form(self._shapes)}")
        rows = _length(prepared)
        scores = torch.empty((rows, len(self.vocabulary_)), device=self.device)
        step = max(1, self.block_bytes // max(1, self._bytes_per_image()))
        for start in range(0, rows, step):
            block = {name: array[start : start + step] for name, array in prepared.items()}
            scores[start : start + step] = self._scores(block)
        scores[:, self.counts_ == 0] = -torch.inf
        return scores

    @abstractmethod
    def _fit(self, features: dict[str, Tensor]) -> None:
        """Learn from checked features; ``labels_`` and ``counts_`` are there. A lone array is named ``""``."""

    @abstractmethod
    def _scores(self, features: dict[str, Tensor]) -> Tensor:
        """(B, W) scores of one block."""

    def _bytes_per_image(self) -> int:
        """Bytes that ``_scores`` needs for each image of a block."""
        return 4 * (len(self.labels_) + self.labels_.shape[1])

    def _checked(self, features: Features) -> dict[str, Tensor]:
        named = dict(features) if isinstance(features, Mapping) else {"": features}
        if not named:
            raise ValueError("features are an empty dictionary; give at least one array")
        prepared = {}
        for name, values in named.items():
            label = f"feature {name!r}" if name else "features"
            if not isinstance(values, Tensor):
                values = np.asarray(values)
            numbers = values.dtype.kind in "iuf" if isinstance(values, np.ndarray) else _is_real(values.dtype)
            if values.ndim < 2 or not numbers:
                raise ValueError(f"{label}: expected numbers of shape (N, D), got {values.dtype} of shape {tuple(values.shape)}")
            if isinstance(values, np.ndarray):
                with np.errstate(over="ignore"):  # what does not fit float32 becomes infinite, and is refused below
                    values = torch.from_numpy(np.require(values, np.float32, ["C", "W"]))
            array = values.to(self.device, torch.float32)
            if not bool(torch.isfinite(array).all()):
                raise DataError(f"{label} holds NaN, infinite, or values beyond float32")
            prepared[name] = array
        if len({len(array) for array in prepared.values()}) > 1:
            raise ValueError(f"features differ in length: {', '.join(f'{name!r} {len(a)}' for name, a in prepared.items())}")
        return prepared


def numbered_labels(labels: Labels, vocabulary: Sequence[str] | None) -> tuple[sparse.csr_array, tuple[str, ...]]:
    """:func:`~gpuannot.method.labels.label_matrix`, in which a matrix without a vocabulary has words named by their numbers."""
    if vocabulary is None and (sparse.issparse(labels) or (isinstance(labels, np.ndarray) and labels.ndim == 2)):
        vocabulary = [str(word) for word in range(labels.shape[1])]  # type: ignore[union-attr]
    return label_matrix(labels, vocabulary)


def best_words(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest of each row: index (T, k) int64 and score (T, k), highest first, ties to the lowest index."""
    values, index = scores.sort(dim=1, descending=True, stable=True)
    return index[:, :k].contiguous(), values[:, :k].contiguous()


def _is_real(dtype: torch.dtype) -> bool:
    return not dtype.is_complex and dtype != torch.bool


def lone_array(features: Mapping[str, Tensor], owner: str) -> Tensor:
    """The array of features that consist of one.

    Args:
        owner: the baseline that asks, for the error.

    Raises:
        ValueError: there are several.
    """
    if len(features) != 1:
        raise InvalidArgumentError(
            f"{owner} takes one feature array, got {len(features)}: {', '.join(map(repr, features))}; give one, or join them"
        )
    return next(iter(features.values()))


def _length(features: Mapping[str, Tensor]) -> int:
    return len(next(iter(features.values())))


def _form(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name or 'features'} (N, {', '.join(map(str, shape))})" for name, shape in shapes.items())
