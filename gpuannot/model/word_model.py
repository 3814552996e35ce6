"""What an annotator knows of words: learnt image by image, changed word by word, without a fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import expit
from torch import Tensor

from ..config import AnnotatorConfig
from ..errors import DataError, NotFittedError
from ..heads.word_head import WordHead
from ..images.inputs import Images, as_sequence, none_readable, warn_of_failures
from ..method.labels import label_matrix
from ..method.ranking import DeviceLinearRanking, DeviceRanking, LinearRanking, WordRanking
from ..method.words import WordBank
from ..system.threads import one_blas_thread
from .encoder import Encoder, Vectors, to_host

Labels: TypeAlias = Sequence[Iterable[str]] | NDArray[Any] | Any  # Any: a SciPy sparse matrix


class WordLearner(Encoder):
    """An encoder with a bank of words: images are added and taken out, words added, removed, renamed and merged.

    After each change the words are ranked as a fit to the images and labels that are left would rank them, with codebook, PCA and λ
    of the first fit. The images of a call are those of :class:`Encoder`, or their VLAD vectors: an (N, D) float array or tensor.

    Attributes:
        bank_: :class:`WordBank`.
    """

    bank_: WordBank
    _ranking: WordRanking | LinearRanking | None = None
    _device_ranking: DeviceRanking | DeviceLinearRanking | None = None
    _curves: NDArray[np.float32] | Literal[False] | None = None
    _device_curves: Tensor | None = None

    def __init__(self, config: AnnotatorConfig | None = None, *, device: str | torch.device = "auto", **changes: Any) -> None:
        super().__init__(config, device=device, **changes)
        self._head = WordHead(self.config)

    def add_word(self, word: str, images: Images, *, progress: bool | None = None) -> Self:
        """Add a word by images that show it, a few or many; they carry no other word.

        Raises:
            ValueError: the vocabulary has the word, with images. DataError: as :meth:`partial_fit`.
        """
        self._require_sums()
        if word in self.bank_.vocabulary and self.bank_.counts[self.bank_.number(word)]:
            raise ValueError(f"the vocabulary has {word!r} already; give it more images with partial_fit")
        sources = _sources(images)
        return self._learn(sources, [[word]] * len(sources), progress)

    def remove_words(self, words: Sequence[str]) -> Self:
        """Take words out of the vocabulary, as if no label had named them; their images stay, with their other words or none.

        Raises:
            ValueError: a word that the vocabulary lacks, or none would be left.
        """
        self._require_sums()
        gone = {self.bank_.number(word) for word in ([words] if isinstance(words, str) else words)}
        kept = [number for number in range(len(self.bank_.vocabulary)) if number not in gone]
        if not kept:
            raise ValueError("these are all the words that there are; one has to be left")
        self.bank_.remove_words([self.bank_.vocabulary[number] for number in sorted(gone)])
        self._head.keep_words(kept)
        return self._changed()

    def rename_word(self, word: str, name: str) -> Self:
        """Give a word another name.

        Raises:
            ValueError: the vocabulary lacks the word, or has the name already.
        """
        self._require_fit()
        self.bank_.rename_word(word, name)
        return self

    def merge_words(
        self, word: str, into: str, both: Images | None = None, labels: Labels | None = None, *, progress: bool | None = None
    ) -> Self:
        """Make ``into`` the word of every image that carries it or ``word``, and remove ``word``.

        Args:
            both: the images that carry both words, which the sums of the two hold twice; None where there is none. With another
                head than ``mean``, an error says how many they are.
            labels: all words of these images; None where they carry no others.

        Raises:
            ValueError: a word that the vocabulary lacks, or ``both`` are not the images that carry both. DataError: one of them
                cannot be read.
        """
        self._require_sums()
        vectors, matrix = self._whole([] if both is None else both, labels, [word, into], progress)
        numbers = self.bank_.number(word), self.bank_.number(into)
        self.bank_.merge_words(word, into, vectors, matrix)
        self._head.merge_words(*numbers, vectors)
        return self._changed()

    def partial_fit(self, images: Images, labels: Labels, *, progress: bool | None = None) -> Self:
        """Add labelled images, and any new words they bring.

        Normalisation, PCA and codebook stay as ``fit`` learnt them; the words become those of one ``fit`` over all images.
        New words are appended to the vocabulary, so known words keep their numbers.

        Raises:
            DataError: as ``fit``.
        """
        self._require_sums()
        return self._learn(_sources(images), labels, progress)

    def forget(self, images: Images, labels: Labels, *, progress: bool | None = None) -> Self:
        """Take out images that were learnt from, by the labels they were learnt with. Words stay, even those left without image.

        Raises:
            ValueError: more images of a word than there are. DataError: labels that do not fit, or an image that cannot be read;
                then nothing is taken out.
        """
        self._require_sums()
        vectors, matrix = self._whole(images, labels, None, progress)
        self.bank_.forget(vectors, matrix)
        self._head.changed(vectors, matrix, -1)
        return self._changed()

    # -- ranking ----------------------------------------------------------------------------------------------------------------

    def _rank(self, vectors: Vectors, k: int) -> tuple[Vectors, Vectors]:
        """Nearest words of VLAD vectors (T, m·n), where those are: index (T, k) int64 into the vocabulary, distance (T, k)."""
        ranking = self._words_ranking()
        if isinstance(vectors, Tensor):
            if self._device_ranking is None:
                self._device_ranking = ranking.on(self.device, self.bank_.known)
            return self._device_ranking.nearest(vectors, k)
        with one_blas_thread():
            index, distance = ranking.nearest(vectors, k)
        return self.bank_.known[index].astype(np.int64), distance

    def _words_ranking(self) -> WordRanking | LinearRanking:
        if self._ranking is None:
            self._ranking = self._head.ranking(self.bank_)
        return self._ranking

    def confidence(self, index: NDArray[np.int64] | Tensor, distance: Vectors) -> Any:
        """How likely each word that was given is right, 0…1 float32, by its number and distance as ``annotate_tensor`` gives them.

        Learnt at ``fit`` from the words that training images would be given, each scored as if left out; it holds for words that
        are among the first few of an image. Arrays give an array, tensors a tensor on their device, without a wait for it. None
        where the model has no such calibration: with other heads than ``ridge``, or when all or none of those words were right.
        """
        curves = self._confidence_curves()
        if curves is None:
            return None
        if isinstance(distance, Tensor):
            if self._device_curves is None or self._device_curves.device != distance.device:
                self._device_curves = torch.from_numpy(curves).to(distance.device)
            slope, offset = self._device_curves[:, torch.as_tensor(index)]
            return torch.sigmoid(offset - slope * distance)
        slope, offset = curves[:, index]
        return expit(offset - slope * distance)

    @property
    def has_confidence(self) -> bool:
        """Whether :meth:`confidence` says anything."""
        self._require_fit()
        return self._confidence_curves() is not None

    def _confidence_curves(self) -> NDArray[np.float32] | None:
        """Slope and offset of each word's confidence, (2, W); None where there are none."""
        if self._curves is None:
            found = self._head.confidence(self.bank_)
            self._curves = False
            if found is not None:
                self._curves = np.zeros((2, len(self.bank_.vocabulary)), np.float32)
                self._curves[:, self.bank_.known] = found
        return None if self._curves is False else self._curves

    def _changed(self) -> Self:
        self._ranking = self._device_ranking = self._curves = self._device_curves = None
        return self

    # -- sums -------------------------------------------------------------------------------------------------------------------

    def _learn(self, sources: Sequence[Any], labels: Labels, progress: bool | None) -> Self:
        matrix, words = label_matrix(labels, self.bank_.vocabulary, extend=True)
        check_lengths(len(sources), matrix)
        self.failures_ = []
        self._head.add_words(len(words) - len(self.bank_.vocabulary))
        self.bank_.add_words(words)
        self._changed()
        self._add_images(sources, np.arange(len(sources)), matrix, progress)
        if len(self.failures_) == len(sources) and len(sources):
            raise DataError(none_readable(len(sources), self.failures_))
        warn_of_failures(len(sources), self.failures_)
        return self

    def _add_images(
        self, sources: Sequence[Any], positions: NDArray[np.int64], matrix: sparse.csr_array, progress: bool | None
    ) -> None:
        self._changed()
        for index, vectors in self._encoded(sources, positions, progress):
            labels = matrix[index]
            self.bank_.partial_fit(vectors, labels)
            self._head.changed(vectors, labels, 1)

    def _encoded(
        self, sources: Sequence[Any], positions: NDArray[np.int64], progress: bool | None
    ) -> Iterator[tuple[NDArray[np.int64], Vectors]]:
        """Positions (B,) and vectors (B, D) of images, batch by batch, or of images given by their vectors."""
        if _are_vectors(sources):
            given = torch.as_tensor(sources).to(self.device, torch.float32)
            yield positions, given if self._on_gpu else given.numpy()
            return
        yield from self.vectors_of(sources, positions, progress=progress)

    def _whole(
        self, images: Images, labels: Labels | None, words: list[str] | None, progress: bool | None
    ) -> tuple[NDArray[np.float32], sparse.csr_array]:
        """Vectors (N, D) and labels (N, W) of all of some images."""
        sources = _sources(images)
        given = [words or []] * len(sources) if labels is None else labels
        matrix, _ = label_matrix(given, self.bank_.vocabulary)
        check_lengths(len(sources), matrix)
        self.failures_ = []
        parts = [to_host(vectors) for _, vectors in self._encoded(sources, np.arange(len(sources)), progress)]
        if self.failures_:
            first = self.failures_[0]
            raise DataError(
                f"{len(self.failures_)} of {len(sources)} images cannot be read; the first: {first.path}: {first.reason}"
            )
        return np.concatenate([np.empty((0, self.dimension), np.float32), *parts]), matrix

    def _require_fit(self) -> None:
        if not hasattr(self, "bank_"):
            raise NotFittedError("this Annotator has learnt nothing yet; call fit(images, labels), or Annotator.load(path), first")

    def _require_sums(self) -> None:
        self._require_fit()
        if self.config.head != "mean" and self.bank_.moments is None:
            raise DataError(
                "this model was saved without the sums that it was learnt from, so its words cannot be changed; load one that was "
                "saved with them, or fit again"
            )


def _sources(images: Images) -> Sequence[Any]:
    return images if _are_vectors(images) else as_sequence(images)  # type: ignore[return-value]


def _are_vectors(images: Any) -> bool:
    if isinstance(images, Tensor):
        return images.ndim == 2 and images.is_floating_point()
    return isinstance(images, np.ndarray) and images.ndim == 2 and images.dtype.kind == "f"


def check_lengths(images: int, labels: sparse.csr_array) -> None:
    """Raise DataError unless each image has labels."""
    if images != labels.shape[0]:
        raise DataError(f"{images} images but labels for {labels.shape[0]}; give the labels of each image, in the same order")
