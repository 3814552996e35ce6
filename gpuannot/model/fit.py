"""A fit, step by step: normalisation and PCA, visual words, projection, word vectors. Written once, for one process and for many.

A fit needs five things of its images (:class:`FitSteps`). :class:`InProcess` computes them here, over features that wait in a
store; :mod:`gpuannot.jobs.cluster_fit` has the workers of a Dask cluster compute them, to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from ..errors import DataError
from ..images.inputs import none_readable
from ..method.descriptors import LayerTransforms
from ..method.words import WordBank
from ..system.memory import large_arrays_apart
from ..system.partitions import by_partition, tree_sum
from ..system.progress import progress_bar
from .encoder import Encoder, to_host
from .store import FeatureStore, StoreSubset
from .word_model import WordModel


class FitSteps(Protocol):
    """What is needed of the images, wherever they are; each step uses what the encoder has learnt in the ones before."""

    def transform_sums(self) -> LayerTransforms | None:
        """The running sums of normalisation and PCA over all features; None of none."""

    def feature_sample(self) -> Tensor:
        """Features (S, ΣC) at :meth:`Encoder.patch_sample`, on the encoder's device."""

    def descriptor_sample(self, layer: int) -> Tensor:
        """Descriptors (S, n) of a layer at :meth:`Encoder.patch_sample`, on the encoder's device."""

    def vector_sample(self) -> Tensor:
        """Vectors of :meth:`Encoder.vlad` at :meth:`Encoder.vector_sample`, on the encoder's device."""

    def word_sums(self) -> WordBank | None:
        """The word vectors' sums over all images; None of none."""


def fit(model: WordModel, vocabulary: Sequence[str], steps: FitSteps) -> None:
    """Learn everything, from what the steps give.

    Args:
        model: what learns; what it knew of words is forgotten as soon as there are features to learn from.
        vocabulary: (W,) all words.
        steps: over the images.

    Raises:
        ValueError: fewer descriptors than centres, or fewer varying channels than components.
    """
    large_arrays_apart()
    learn_transform(model.encoder, steps, model.forget_all)
    fit_from_descriptors(model, vocabulary, steps)


def fit_from_descriptors(model: WordModel, vocabulary: Sequence[str], steps: FitSteps) -> None:
    """:func:`fit` where normalisation and PCA have been learnt."""
    learn_codebook(model.encoder, steps)
    model.learn(vocabulary, steps.word_sums())


def learn_transform(encoder: Encoder, steps: FitSteps, begun: Callable[[], object] | None = None) -> None:
    """Learn normalisation and PCA from their sums, and on a GPU from a sample.

    Args:
        encoder: that learns.
        steps: over the images.
        begun: called once there is something to learn from, before anything changes.
    """
    sums = steps.transform_sums()
    if begun is not None:
        begun()
    encoder.finish_transform(sums, steps.feature_sample() if encoder.extractor.on_gpu else None)


def learn_codebook(encoder: Encoder, steps: FitSteps) -> None:
    """Learn the visual words, and where there is one the projection."""
    encoder.fit_codebook(steps.descriptor_sample)
    if encoder.config.projection:
        encoder.fit_projection(steps.vector_sample())


class InProcess:
    """:class:`FitSteps` in this process, over stored features or descriptors.

    Args:
        model: what learns.
        features: of N images; None where ``descriptors`` are given.
        labels: (M, W) of the whole data set; positions pick the rows.
        vocabulary: (W,) all words.
        descriptors: of the same images, where they are there already; the caller closes them.
        learn_from: places in the store (ascending) of the images that are learnt from; None takes all.
        others: images that only words are learnt from: those of the data set, and the positions, ascending.
        progress: show bars; None shows them on terminals.
    """

    def __init__(
        self,
        model: WordModel,
        features: FeatureStore | None,
        labels: sparse.csr_array,
        vocabulary: Sequence[str],
        *,
        descriptors: FeatureStore | None = None,
        learn_from: NDArray[np.int64] | None = None,
        others: tuple[Sequence[Any], NDArray[np.int64]] | None = None,
        progress: bool | None = None,
    ) -> None:
        self._model, self._encoder, self._labels, self._vocabulary = model, model.encoder, labels, vocabulary
        self._features, self._learn_from, self._others, self._progress = features, learn_from, others, progress
        self._given = descriptors
        self._described: FeatureStore | None = None

    def close(self) -> None:
        """Remove the descriptors that were made here."""
        if self._described is not None:
            self._described.close()

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def descriptors(self) -> FeatureStore:
        """Of all stored images, made from their features at first use, once normalisation and PCA are learnt."""
        if self._given is None:
            assert self._features is not None
            with progress_bar("descriptors", len(self._features), self._progress) as bar:
                self._given = self._described = self._encoder.describe(self._features, advance=bar.update)
        return self._given

    def transform_sums(self) -> LayerTransforms | None:
        store = self._chosen(self._features)
        with progress_bar("normalisation and PCA", len(store), self._progress) as bar:
            blocks = _advancing(store.blocks(within_partitions=True), bar)
            return tree_sum((number, self._encoder.transform_sums(part)) for number, part in by_partition(blocks))

    def feature_sample(self) -> Tensor:
        return self._sample(self._chosen(self._features))

    def descriptor_sample(self, layer: int) -> Tensor:
        return self._sample(self._chosen(self.descriptors), self._encoder.transform_.descriptor_columns(layer))

    def vector_sample(self) -> Tensor:
        store, encoder = self._chosen(self.descriptors), self._encoder
        chosen = encoder.vector_sample(store.positions)
        vectors = (torch.as_tensor(encoder.vlad(block.to(encoder.device))) for block in store.rows(chosen))
        return self._filled(len(chosen), encoder.config.joined_dimension, torch.float32, vectors)

    def word_sums(self) -> WordBank | None:
        descriptors = self._chosen(self.descriptors)
        with progress_bar("word vectors", len(descriptors), self._progress) as bar:
            sums = self._summed(_advancing(self._encoder.encode_descriptors(descriptors), bar))
        if self._others is None:
            return sums
        sources, positions = self._others
        with progress_bar("word vectors", len(positions), self._progress) as bar:
            return both(sums, self._summed(self._encoder.encode_images(sources, positions, advance=bar.update)))

    def vectors(self) -> NDArray[np.float32]:
        """Image vectors (N, D) of all stored images."""
        return np.concatenate([to_host(vectors) for _, vectors in self._encoder.encode_descriptors(self.descriptors)])

    def _summed(self, vectors: Iterable[tuple[NDArray[np.int64], Any]]) -> WordBank | None:
        parts = by_partition(vectors)
        return tree_sum((number, self._model.word_sums(part, self._labels, self._vocabulary)) for number, part in parts)

    def _chosen(self, store: FeatureStore | None) -> FeatureStore:
        assert store is not None
        return store if self._learn_from is None else StoreSubset(store, self._learn_from)

    def _sample(self, store: FeatureStore, columns: slice = slice(None)) -> Tensor:
        chosen = self._encoder.patch_sample(len(store))
        width = len(range(store.channels)[columns])
        return self._filled(len(chosen), width, store.dtype, (block[:, columns] for block in store.patch_rows(chosen)))

    def _filled(self, count: int, width: int, dtype: torch.dtype, blocks: Iterable[Tensor]) -> Tensor:
        """One array (count, width) of blocks, each of which is let go as it is taken."""
        rows = torch.empty((count, width), dtype=dtype, device=self._encoder.device)
        taken = 0
        for block in blocks:
            rows[taken : taken + len(block)] = block.to(rows.device)
            taken += len(block)
        return rows


@contextmanager
def reading(
    model: WordModel,
    sources: Sequence[Any],
    labels: sparse.csr_array,
    vocabulary: Sequence[str],
    learn_from: NDArray[np.int64],
    others: NDArray[np.int64],
    progress: bool | None,
) -> Iterator[InProcess]:
    """The steps over images that are read here: through the trunk once, into a temporary store.

    Args:
        model: what learns; images that cannot be read are added to its failures.
        sources: the data set.
        labels: (N, W).
        vocabulary: (W,).
        learn_from: positions of the images that everything is learnt from, ascending.
        others: positions of those that only words are learnt from.
        progress: show bars; None shows them on terminals.

    Raises:
        DataError: not one of the images to learn from can be read, or the disk is full.
    """
    large_arrays_apart()
    extractor = model.encoder.extractor
    with extractor.new_store(len(learn_from)) as features:
        with progress_bar("trunk", len(learn_from), progress) as bar:
            extractor.extract(sources, features, learn_from, advance=bar.update)
        if not len(features):
            raise DataError(none_readable(len(learn_from), extractor.failures))
        with InProcess(model, features, labels, vocabulary, others=(sources, others), progress=progress) as steps:
            yield steps


def both(first: WordBank | None, second: WordBank | None) -> WordBank | None:
    """The sums over two sets of images, added into the first."""
    if first is None or second is None:
        return first or second
    return first.merge(second)


def statistics_positions(model: WordModel, images: int) -> NDArray[np.int64]:
    """Which of so many images normalisation, PCA and codebook are learnt from: ``config.statistics_images`` at most, ascending."""
    config = model.config
    if images <= config.statistics_images:
        return np.arange(images, dtype=np.int64)
    generator = np.random.default_rng(np.random.SeedSequence((config.seed, 0)))
    return np.sort(generator.choice(images, size=config.statistics_images, replace=False)).astype(np.int64)


def _advancing(blocks: Iterable[tuple[NDArray[np.int64], Any]], bar: Any) -> Iterator[tuple[NDArray[np.int64], Any]]:
    for positions, block in blocks:
        yield positions, block
        bar.update(len(positions))
