"""The whole method, top to bottom, as the paper tells it.

images → trunk (conv5_2) → Gaussian normalisation + PCA → nearest visual word → VLAD (1) → word vectors (4) → nearest words (6).
Up to VLAD it is the :class:`~gpuannot.model.encoder.Encoder`; here the words come in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import DataError
from .heads.word_head import new_bank
from .images.batches import ImageFailure
from .images.inputs import Images, Inputs, as_sequence, find_lazily, source_name, warn_of_failures
from .jobs.batch import annotate_batch
from .jobs.streaming import stream_inputs
from .method.labels import label_matrix
from .method.words import WordBank
from .model.annotations import Annotations, check_threshold
from .model.encoder import Vectors, to_host
from .model.extractor import Store
from .model.file import ModelFile
from .model.persistence import restore, to_model_file
from .model.word_model import Labels, WordLearner, check_lengths
from .system.partitions import by_partition, tree_sum
from .system.threads import one_blas_thread

if TYPE_CHECKING:
    from .model.capture import CapturedAnnotation
    from .model.explain import Explanation


class Annotator(WordLearner):
    """Learns words from labelled images and gives words to others.

    Args:
        config: an :class:`AnnotatorConfig`; None is the preset ``paper``.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:1``.
        changes: fields of the config to change: ``Annotator(n_centers=32, metric="cosine")``.

    Attributes:
        transform_: :class:`GaussianPCA`. codebook_: :class:`Codebook`. bank_: :class:`WordBank`.
        failures_: images of the last ``fit`` or ``partial_fit`` that could not be read.

    ``images`` is, wherever it appears, a sequence of paths, encoded bytes, PIL images, (H, W, 3) uint8 arrays or (3, H, W) uint8
    tensors (mixed as you like), an (N, H, W, 3) array or (N, 3, H, W) tensor, or what :class:`~gpuannot.Inputs` takes as one
    source: a folder, file, list, table, tar shard or URL.
    """

    # -- learning ---------------------------------------------------------------------------------------------------------------

    def fit(
        self,
        images: Images,
        labels: Labels,
        *,
        vocabulary: Sequence[str] | None = None,
        progress: bool | None = None,
        workers: int | None = None,
        scheduler: str | None = None,
    ) -> Annotator:
        """Learn normalisation, PCA, codebook and word vectors.

        Each image goes through the trunk once. The features of up to ``config.statistics_images`` images wait in a temporary folder
        (200 KB an image at the default settings), so memory does not grow with the number of images. Images without words count
        for normalisation, PCA and codebook, and for no word. An image that cannot be read is left out, listed in ``failures_`` and
        warned of.

        Args:
            images: N images.
            labels: the words of each image, or an (N, W) matrix of 0 and 1.
            vocabulary: all words, in the order in which annotations number them; None takes the words that occur, sorted.
            progress: show a bar; None shows one on terminals.
            workers: processes on this machine that share the work, as in :meth:`batch`; the model has the same bits for any number.
            scheduler: address of a Dask scheduler whose workers do it; they must see the images under the same paths.

        Raises:
            ClusterError: as :meth:`batch`.
            DataError: labels that do not fit the images or the vocabulary, no label at all, or not one readable image.
            ValueError: fewer descriptors than centres, or fewer varying channels than components.
        """
        sources = as_sequence(images)
        matrix, words = label_matrix(labels, vocabulary)
        check_lengths(len(sources), matrix)
        if not matrix.nnz:
            raise DataError("no image carries a word: there is nothing to learn")
        learn_from = self._statistics_positions(len(sources))
        rest = np.setdiff1d(np.arange(len(sources)), learn_from)
        self.failures_ = []
        if workers is not None or scheduler is not None:
            from .jobs.cluster_fit import fit_on_cluster

            fit_on_cluster(self, sources, matrix, words, learn_from, rest, workers, scheduler, progress)
            self._settle()
        else:
            with self.new_store(len(learn_from)) as store:
                self.extract(sources, store, positions=learn_from, progress=progress)
                self.fit_features(store, matrix, words, progress=progress)
                blocks = by_partition(self.vectors_of(sources, rest, progress=progress))
                sums = tree_sum((number, self.word_sums(part, matrix, words)) for number, part in blocks)
            if sums is not None:
                self.bank_.merge(sums)
                self._settle()
        self.bank_.sample = None
        warn_of_failures(len(sources), self.failures_)
        return self

    def fit_features(
        self, features: Store, labels: Labels, vocabulary: Sequence[str], *, progress: bool | None = None
    ) -> Annotator:
        """``fit`` from features that the trunk has computed already (:meth:`extract`).

        Args:
            features: of some or all images of a data set.
            labels: of the whole data set, (N, W); the features' positions pick the rows.
        """
        self._forget_bank()
        self.learn_transform(features, progress=progress)
        with self.describe(features, progress=progress) as descriptors:
            return self.fit_descriptors(descriptors, labels, vocabulary)

    def fit_descriptors(self, descriptors: Store, labels: Labels, vocabulary: Sequence[str]) -> Annotator:
        """``fit`` from stored descriptors, with the ``transform_`` that made them: codebook, projection and words."""
        self.learn_codebook(descriptors)
        self.learn_projection(descriptors)
        return self.fit_words(descriptors, labels, vocabulary)

    def fit_words(self, descriptors: Store, labels: Labels, vocabulary: Sequence[str]) -> Annotator:
        """``fit`` from stored descriptors, when all that is learnt without labels is there: the words."""
        matrix, words = label_matrix(labels, vocabulary)
        blocks = by_partition(self.encode_descriptors(descriptors))
        self.set_bank(words, tree_sum((number, self.word_sums(part, matrix, words)) for number, part in blocks))
        self._settle()
        return self

    def word_sums(self, vectors: Iterable[tuple[NDArray[np.int64], Vectors]], labels: Any, vocabulary: Sequence[str]) -> WordBank:
        """The word vectors' sums over a partition: positions (B,) and VLAD vectors (B, m·n), and ``labels[positions]`` (B, W)."""
        bank = new_bank(self.config, tuple(vocabulary), self.dimension, self.device)
        with one_blas_thread():
            for positions, part in vectors:
                rows = labels[positions]
                bank.partial_fit(part, rows)
                if bank.sample is not None:
                    bank.sample.add(positions, part, rows)
        # A GPU's sums go through the host when workers add them, and products are formed where the vectors are.
        return bank.flush() if self._on_gpu else bank

    def set_bank(self, vocabulary: Sequence[str], sums: WordBank | None) -> None:
        """Take the word vectors from the sums of all partitions; None leaves every word without an image."""
        bank = new_bank(self.config, tuple(vocabulary), self.dimension, self.device) if sums is None else sums
        self.bank_ = bank.to(self.device).flush()
        self._changed()

    def reseeded(self, seed: int) -> Annotator:
        """An annotator with the same trunk, normalisation and PCA, and another seed; codebook and words are still to be learnt."""
        other = Annotator(dataclasses.replace(self.config, seed=seed), device=self.device)
        other._trunk, other._weights, other.transform_ = self._trunk, self._weights, self.transform_
        return other

    def partial_fit(self, images: Images, labels: Labels, *, progress: bool | None = None) -> Annotator:
        """:meth:`WordLearner.partial_fit`; without an earlier ``fit`` this is ``fit``."""
        if not hasattr(self, "bank_"):
            return self.fit(images, labels, progress=progress)
        return super().partial_fit(images, labels, progress=progress)

    # -- annotating -------------------------------------------------------------------------------------------------------------

    def annotate(self, images: Images, k: int = 5, *, threshold: float | None = None, progress: bool | None = None) -> Annotations:
        """The k nearest words of each image. Images that cannot be read are listed in the result's ``failures``.

        Args:
            threshold: give of the k words only those with at least this confidence, but one at least
                (:meth:`Annotations.likely`); None gives k.

        Raises:
            ValueError: k outside 1…number of words with an image, or a threshold outside 0…1 or without confidences.
            NotFittedError: before ``fit``.
        """
        parts = self.stream(as_sequence(images), k, threshold=threshold, progress=progress)
        return Annotations.joined(list(parts), self.vocabulary, k)

    def stream(
        self, images: Images, k: int = 5, *, threshold: float | None = None, progress: bool | None = None
    ) -> Iterator[Annotations]:
        """``annotate`` batch by batch, in input order: memory does not grow with the number of images, nor with a folder's."""
        self.check_k(k, threshold)
        if isinstance(images, (str, Path, Inputs)):
            parts = stream_inputs(self, find_lazily(images), k, progress)
        else:
            parts = self._stream(as_sequence(images), k, progress)
        return parts if threshold is None else (part.likely(threshold) for part in parts)

    def _stream(self, sources: Sequence[Any], k: int, progress: bool | None) -> Iterator[Annotations]:
        failures: list[ImageFailure] = []
        for positions, features in self._features(sources, np.arange(len(sources)), "annotate", progress, failures):
            index, distance = (to_host(part) for part in self._rank(self._vectors(features), k))
            yield self._annotations(sources, positions, index, distance, failures)
            failures.clear()
        if failures:
            none = np.empty((0, k))
            yield self._annotations(sources, np.empty(0, np.int64), none.astype(np.int64), none.astype(np.float32), failures)

    def _annotations(
        self,
        sources: Sequence[Any],
        positions: NDArray[np.int64],
        index: NDArray[np.int64],
        distance: NDArray[np.float32],
        failures: Sequence[ImageFailure],
    ) -> Annotations:
        names = tuple(source_name(sources, position) for position in positions)
        confidence = self.confidence(index, distance)
        return Annotations(names, positions, index, distance, self.vocabulary, tuple(failures), confidence=confidence)

    batch = annotate_batch

    def annotate_tensor(self, images: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
        """The k nearest words of a decoded batch.

        Args:
            images: (B, 3, S, S) uint8, RGB, S = ``config.input_size``, on this annotator's device.

        Returns:
            index (B, k) int64 into ``vocabulary`` and distance (B, k) float32, nearest first.

        Raises:
            TypeError: not uint8. ValueError: another shape or size, or k outside 1…number of words with an image.
        """
        self.check_k(k)
        return self.nearest_words(self.encode_tensor(images), k)

    def nearest_words(self, vectors: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
        """The k nearest words of VLAD vectors (B, m·n) float32 on this annotator's device; returns as :meth:`annotate_tensor`."""
        index, distance = self._rank(vectors if self._on_gpu else vectors.numpy(), k)
        return torch.as_tensor(index), torch.as_tensor(distance)

    def capture(self, batch_shape: tuple[int, int, int, int], k: int = 5) -> CapturedAnnotation:
        """:meth:`annotate_tensor` for batches of one shape (B, 3, S, S) as a CUDA graph.

        Raises:
            DeviceError: not on a CUDA device. ValueError: as :meth:`annotate_tensor`.
        """
        from .model.capture import CapturedAnnotation

        return CapturedAnnotation(self, batch_shape, k)

    def annotate_descriptors(
        self, descriptors: Store, k: int = 5
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """``annotate`` from stored descriptors: positions (T,), index (T, k), distance (T, k)."""
        self.check_k(k)
        ranked = [[to_host(part) for part in self._rank(vectors, k)] for _, vectors in self.encode_descriptors(descriptors)]
        index, distance = (np.concatenate(part) for part in zip(*ranked, strict=True))
        return descriptors.positions, index, distance

    def explain(
        self, images: Images, words: Sequence[str] | None = None, k: int = 5, *, progress: bool | None = None
    ) -> list[Explanation]:
        """Where in the images words were seen: each score as the sum of what the patches add to it.

        Images that cannot be read are left out, listed in ``failures_`` and warned of.

        Args:
            words: these words for every image, given or not; None explains the k words that each is given.

        Raises:
            ValueError: a word that the vocabulary lacks, or k out of range. DataError: a word without an image.
        """
        from .model.explain import explain

        return explain(self, images, words, k, progress=progress)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The words, in the order that annotations number them."""
        self._require_fit()
        return self.bank_.vocabulary

    def check_k(self, k: int, threshold: float | None = None) -> None:
        """Raise ValueError unless k words can be given to every image: 1…number of words that have at least one image.

        With a threshold, also unless it is one that this model's confidences can be compared with.
        """
        self._require_fit()
        check_threshold(threshold)
        if threshold is not None and not self.has_confidence:
            raise ValueError("this model gives no confidences to compare with a threshold; the head 'ridge' does")
        known = len(self.bank_.known)
        if not 1 <= k <= known:
            without = len(self.vocabulary) - known
            detail = f"; {without} words of the vocabulary have no image" if without else ""
            raise ValueError(f"k = {k} must lie in 1…{known}, the number of words that can be given{detail}")

    # -- files ------------------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, *, sums: bool = True) -> Path:
        """Write the fitted annotator to one ``.safetensors`` file.

        Args:
            sums: with the sums that words are learnt from, so that the loaded model can go on learning: for the head ``ridge``
                4·D² bytes, D = m·n. Without them, a model with that head annotates and can no longer change.

        Raises:
            NotFittedError: before ``fit``. ModelFileError: the file cannot be written. ValueError: ``sums=False`` with the heads
                ``mean`` and ``demixed``, which rank by the sums.
        """
        return self.to_model_file(sums=sums).write(path)

    def to_model_file(self, *, sums: bool = True) -> ModelFile:
        """The fitted annotator's tensors and metadata, as :meth:`save` writes them; its ``sha256`` is the model's identity."""
        self._require_fit()
        return to_model_file(self, sums=sums)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        weights: str | Path | None = None,
        weights_convention: str | None = None,
        device: str | torch.device = "auto",
    ) -> Annotator:
        """Read an annotator from its file.

        Args:
            weights: where the trunk's weights are now, if not where they were at ``fit``. They must be the same weights.

        Raises:
            ModelFileError: a missing, cut, edited or foreign file, another schema, or other trunk weights than at ``fit``.
            WeightsError: the weights cannot be read.
        """
        return restore(cls, path, weights, weights_convention, device)

    def _settle(self) -> None:
        """What the head learns once, when all images of a fit are in."""
        self._changed()._head.settle(self.bank_)

    def _forget_bank(self) -> None:
        """If a fit fails half-way, nothing may rank by what an earlier one learnt."""
        vars(self).pop("bank_", None)
