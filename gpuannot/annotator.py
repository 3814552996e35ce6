"""The whole method, top to bottom, as the paper tells it.

images → trunk (conv5_2) → Gaussian normalisation + PCA → nearest visual word → VLAD (1) → word vectors (4) → nearest words (6).
Up to VLAD it is the :class:`~gpuannot.model.encoder.Encoder`; the words are the :class:`~gpuannot.model.word_model.WordModel`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .config import AnnotatorConfig
from .errors import DataError
from .images.batches import ImageFailure
from .images.inputs import Images, as_sequence, warn_of_failures
from .jobs.batch import annotate_batch
from .jobs.stream import annotate_stream
from .method.labels import check_lengths, label_matrix
from .method.words import WordBank
from .model.annotations import Annotations
from .model.display import model_html, model_text
from .model.encoder import Encoder, Vectors
from .model.fit import FitSteps, fit, reading, statistics_positions
from .model.persistence import restore
from .model.word_model import Labels, WordModel

if TYPE_CHECKING:
    from .method.trunks.protocol import LoadedTrunk, LocalFeatures
    from .model.capture import CapturedAnnotation
    from .model.explain import Explanation
    from .model.file import ModelFile

P = ParamSpec("P")
R = TypeVar("R")


def _of_words(function: Callable[Concatenate[WordModel, P], R]) -> Callable[Concatenate[Annotator, P], R]:
    """A function of a word model as a method."""

    @wraps(function)
    def method(self: Annotator, *arguments: P.args, **options: P.kwargs) -> R:
        return function(self.words, *arguments, **options)

    return method


class Annotator:
    """Learns words from labelled images and gives words to others.

    ``images`` is, wherever it appears, one image or a sequence of them (mixed as you like): paths, encoded bytes, PIL images,
    (H, W, 3) uint8 arrays, (3, H, W) uint8 tensors; an (N, H, W, 3) array or (N, 3, H, W) tensor; or what
    :class:`~gpuannot.Inputs` takes as one source: a folder, file, list, table, tar shard or URL. It can be copied, pickled and
    cloned as scikit-learn does (:func:`sklearn.base.clone`).

    Args:
        config: an :class:`AnnotatorConfig`; None is the preset ``paper``.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:1``.
        loaded: the trunk's weights, where they are loaded already; None loads what the config names at first use.
        changes: fields of the config to change: ``Annotator(n_centers=32, metric="cosine")``; ``trunk`` can be one of your own.

    Attributes:
        words: :class:`~gpuannot.model.word_model.WordModel`, what is known of words.
    """

    def __init__(
        self,
        config: AnnotatorConfig | None = None,
        *,
        device: str | torch.device = "auto",
        loaded: LoadedTrunk | None = None,
        **changes: Any,
    ) -> None:
        self.words = WordModel(Encoder(config, device=device, loaded=loaded, new=True, **changes))
        self._device = device

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """What the constructor takes to make an annotator like this one: every setting, and the device as it was given."""
        return {**self.config.to_dict(), "device": self._device}

    def clone(self) -> Self:
        """One with the same settings and weights that has learnt nothing."""
        return type(self)(self.config, device=self._device, loaded=self.encoder.extractor.loaded)

    __repr__ = _of_words(model_text)
    _repr_html_ = _of_words(model_html)

    @property
    def encoder(self) -> Encoder:
        """From images to vectors: trunk, ``transform_``, ``codebook_``, ``projection_``."""
        return self.words.encoder

    @property
    def config(self) -> AnnotatorConfig:
        """The settings."""
        return self.encoder.config

    @property
    def device(self) -> torch.device:
        """Where images are learnt from and annotated."""
        return self.encoder.device

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """(W,) the words, in the order that annotations number them."""
        return self.words.vocabulary

    @property
    def bank_(self) -> WordBank:
        """The word vectors' sums and counts."""
        self.words.require_fit()
        return self.words.bank_

    @property
    def failures_(self) -> list[ImageFailure]:
        """Images that the last ``fit``, ``partial_fit``, ``explain`` or other call that learns or encodes could not read."""
        return self.encoder.failures_

    # -- learning -----------------------------------------------------------------------------------------------------------------

    def fit(
        self,
        images: Images,
        labels: Labels,
        *,
        vocabulary: Sequence[str] | None = None,
        progress: bool | None = None,
        workers: int | None = None,
        scheduler: str | None = None,
        dashboard: bool = False,
    ) -> Self:
        """Learn normalisation, PCA, codebook and word vectors.

        Each image goes through the trunk once. The features of up to ``config.statistics_images`` images wait in a temporary folder
        (200 KB an image at the default settings), so memory does not grow with the number of images. Images without words count
        for normalisation, PCA and codebook, and for no word. An image that cannot be read is left out, listed in ``failures_`` and
        warned of.

        Args:
            images: N images.
            labels: the words of each image, or an (N, W) matrix of 0 and 1.
            vocabulary: all words, in the order in which annotations number them; None takes the words that occur, sorted.
            progress: show a bar; None shows one on terminals, elsewhere lines.
            workers, scheduler, dashboard: as in :meth:`batch`: processes that share the work; the model has the same bits for any
                number. The workers of a scheduler must see the images under the same paths.

        Raises:
            ClusterError: as :meth:`batch`.
            DataError: labels that do not fit the images or the vocabulary, no label at all, or not one readable image.
            ValueError: fewer descriptors than centres, or fewer varying channels than components.
        """
        sources = as_sequence(images)
        matrix, all_words = label_matrix(labels, vocabulary)
        check_lengths(len(sources), matrix)
        if not matrix.nnz:
            raise DataError("no image carries a word: there is nothing to learn")
        learn_from = statistics_positions(self.words, len(sources))
        others = np.setdiff1d(np.arange(len(sources)), learn_from)
        self.encoder.extractor.failures = []
        where: AbstractContextManager[FitSteps]
        if workers is None and scheduler is None and not dashboard:
            where = reading(self.words, sources, matrix, all_words, learn_from, others, progress)
        else:
            from .jobs.cluster_fit import on_cluster

            where = on_cluster(self.words, sources, matrix, all_words, learn_from, others, workers, scheduler, dashboard, progress)
        with where as steps:
            fit(self.words, all_words, steps)
        warn_of_failures(len(sources), self.failures_)
        return self

    def partial_fit(self, images: Images, labels: Labels, *, progress: bool | None = None) -> Self:
        """Add labelled images, and any new words they bring: :meth:`WordModel.partial_fit`. Before a ``fit`` this is ``fit``."""
        if not hasattr(self.words, "bank_"):
            return self.fit(images, labels, progress=progress)
        self.words.partial_fit(images, labels, progress=progress)
        return self

    def forget(self, images: Images, labels: Labels, *, progress: bool | None = None) -> Self:
        """Take out images that were learnt from, by the labels they were learnt with: :meth:`WordModel.forget`."""
        self.words.forget(images, labels, progress=progress)
        return self

    def add_word(self, word: str, images: Images, *, progress: bool | None = None) -> Self:
        """Add a word by images that show it and no other word: :meth:`WordModel.add_word`."""
        self.words.add_word(word, images, progress=progress)
        return self

    def remove_words(self, words: Sequence[str]) -> Self:
        """Take words out of the vocabulary, as if no label had named them: :meth:`WordModel.remove_words`."""
        self.words.remove_words(words)
        return self

    def rename_word(self, word: str, name: str) -> Self:
        """Give a word another name: :meth:`WordModel.rename_word`."""
        self.words.rename_word(word, name)
        return self

    def merge_words(
        self, word: str, into: str, both: Images | None = None, labels: Labels | None = None, *, progress: bool | None = None
    ) -> Self:
        """Make one word of two, ``both`` being the images that carry both: :meth:`WordModel.merge_words`."""
        self.words.merge_words(word, into, both, labels, progress=progress)
        return self

    # -- annotating ---------------------------------------------------------------------------------------------------------------

    def annotate(
        self, images: Images, k: int | None = None, *, threshold: float | None = None, progress: bool | None = None
    ) -> Annotations:
        """The words of each image. Images that cannot be read are listed in the result's ``failures`` and warned of.

        Args:
            images: N images.
            k: the k nearest for each. None gives, in order of confidence, those that pass the threshold which the fit chose, one
                at least (``words.head.chosen``); with a model that chose none, 5, or as many as have an image.
            threshold: give of these only those with at least this confidence, but one at least (:meth:`Annotations.likely`).
            progress: show a bar; None shows one on terminals, elsewhere lines.

        Raises:
            ValueError: k outside 1…number of words with an image, or a threshold outside 0…1 or without confidences.
            NotFittedError: before ``fit``.
        """
        k, threshold = self.words.check_giving(k, threshold)
        sources = as_sequence(images)
        found = Annotations.joined(list(self.stream(sources, k, threshold=threshold, progress=progress)), self.vocabulary, k)
        warn_of_failures(len(sources), found.failures, "failures")
        return found

    def stream(
        self,
        images: Images,
        k: int | None = None,
        *,
        threshold: float | None = None,
        decode: str = "cpu",
        progress: bool | None = None,
    ) -> Iterator[Annotations]:
        """``annotate`` batch by batch, in input order: memory does not grow with the number of images, nor with a folder's.

        Args:
            images: N images; of a folder, list or table of any length only what is at work is held.
            k, threshold, progress: as in :meth:`annotate`.
            decode: ``cpu``, or ``auto`` and ``gpu`` as in :meth:`batch`.

        Raises:
            DeviceError: the GPU cannot decode. Otherwise as :meth:`annotate`.
        """
        return annotate_stream(self.words, images, k, threshold=threshold, decode=decode, progress=progress)

    batch = _of_words(annotate_batch)

    def annotate_tensor(self, images: Tensor, k: int | None = None) -> tuple[Tensor, Tensor]:
        """The k nearest words of a decoded batch (B, 3, S, S) uint8 on this device: :meth:`WordModel.annotate_tensor`."""
        return self.words.annotate_tensor(images, k)

    def encode_tensor(self, images: Tensor) -> Tensor:
        """VLAD vectors (B, D) float32 of a decoded batch (B, 3, S, S) uint8: :meth:`Encoder.encode_tensor`."""
        return self.encoder.encode_tensor(images)

    def confidence(self, index: NDArray[np.int64] | Tensor, distance: Vectors) -> Any:
        """How likely each word that was given is right, 0…1: :meth:`WordModel.confidence`."""
        return self.words.confidence(index, distance)

    def capture(self, batch_shape: tuple[int, int, int, int], k: int | None = None) -> CapturedAnnotation:
        """:meth:`annotate_tensor` for batches of one shape (B, 3, S, S) as a CUDA graph.

        Args:
            batch_shape: of the batches. k: words for each image, as in :meth:`annotate`.

        Raises:
            DeviceError: not on a CUDA device. ValueError: as :meth:`annotate_tensor`.
        """
        from .model.capture import CapturedAnnotation

        return CapturedAnnotation(self.words, batch_shape, k)

    def explain(
        self, images: Images, words: Sequence[str] | None = None, k: int | None = None, *, progress: bool | None = None
    ) -> list[Explanation]:
        """Where in the images words were seen: each score as the sum of what the patches add to it.

        Images that cannot be read are left out, listed in ``failures_`` and warned of.

        Args:
            images: N images.
            words: these words for every image, given or not; None explains the k words that each is given.
            k: words for each image, as in :meth:`annotate`.
            progress: show a bar; None shows one on terminals, elsewhere lines.

        Raises:
            ValueError: a word that the vocabulary lacks, or k out of range. DataError: a word without an image.
        """
        from .model.explain import explain

        return explain(self.words, images, words, k, progress=progress)

    # -- files --------------------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, *, sums: bool = True) -> Path:
        """Write the fitted annotator to one ``.safetensors`` file.

        Args:
            sums: with the sums that words are learnt from, so that the loaded model can go on learning: for the head ``ridge``
                2·D² bytes, Σxxᵀ in float32. Without them, a model with that head annotates and can no longer change.

        Raises:
            NotFittedError: before ``fit``. ModelFileError: the file cannot be written.
            ValueError: ``sums=False`` with the heads ``mean`` and ``demixed``, which rank by the sums.
        """
        return self.to_model_file(sums=sums).write(path)

    def to_model_file(self, *, sums: bool = True) -> ModelFile:
        """What :meth:`save` writes; its ``sha256`` is the model's identity."""
        return self.words.to_model_file(sums=sums)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        weights: str | Path | None = None,
        weights_convention: str | None = None,
        trunk: LocalFeatures | None = None,
        device: str | torch.device = "auto",
    ) -> Self:
        """Read an annotator from its file.

        Args:
            weights, weights_convention: where the trunk's weights are now. trunk: one given to the fit. device: where to run.

        Raises:
            ModelFileError: a missing, cut, edited or foreign file, another schema, or another trunk than at ``fit``.
            WeightsError: the weights cannot be read.
        """
        return cls.of(restore(path, weights, weights_convention, device, trunk))

    @classmethod
    def of(cls, words: WordModel) -> Self:
        """The annotator of a word model."""
        annotator = cls.__new__(cls)
        annotator.words, annotator._device = words, str(words.device)
        return annotator
