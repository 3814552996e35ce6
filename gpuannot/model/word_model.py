"""What is known of words: learnt image by image, changed word by word without a fit, and what it gives an image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from ..config import AnnotatorConfig
from ..errors import DataError, InvalidArgumentError, NotFittedError
from ..heads.kernel_ranking import KernelRanking
from ..heads.word_head import WordHead, new_bank
from ..images.inputs import Images, are_vectors, none_readable, sources_or_vectors, warn_of_failures
from ..method.labels import check_lengths, label_matrix, number_of
from ..method.ranking import LinearRanking, WordRanking
from ..method.words import WordBank
from ..system.progress import progress_bar
from ..system.threads import one_blas_thread
from .annotations import DEFAULT_K, check_threshold
from .encoder import Encoder, Vectors, to_host
from .ranker import WordRanker

if TYPE_CHECKING:
    from .file import ModelFile

Labels: TypeAlias = Sequence[Iterable[str]] | NDArray[Any] | Any  # Any: a SciPy sparse matrix


class WordModel:
    """A bank of words over an encoder: images are added and taken out, words added, removed, renamed and merged.

    After each change the words are ranked as a fit to the images and labels that are left would rank them, with codebook, PCA and λ
    of the first fit. ``images`` are, wherever they appear, those of :class:`gpuannot.Annotator`, or their vectors: an (N, D) float
    array or tensor.

    Args:
        encoder: from images to vectors.

    Attributes:
        encoder: as given.
        head: :class:`~gpuannot.heads.word_head.WordHead`, what makes a ranking of the bank.
        ranker: :class:`~gpuannot.model.ranker.WordRanker`, made anew after each change.
        bank_: :class:`~gpuannot.method.words.WordBank`.
    """

    bank_: WordBank

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.head = WordHead(encoder.config)
        self.ranker = WordRanker(self.head, self.device)

    @property
    def config(self) -> AnnotatorConfig:
        """The settings."""
        return self.encoder.config

    @property
    def device(self) -> torch.device:
        """Where images are annotated."""
        return self.encoder.device

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """(W,) the words, in the order that annotations number them."""
        self.require_fit()
        return self.bank_.vocabulary

    # -- images and words that come and go ----------------------------------------------------------------------------------------

    def partial_fit(self, images: Images, labels: Labels, *, progress: bool | None = None) -> Self:
        """Add labelled images, and any new words they bring.

        Normalisation, PCA and codebook stay as ``fit`` learnt them; the words become those of one ``fit`` over all images.
        New words are appended to the vocabulary, so known words keep their numbers.

        Args:
            images: N images.
            labels: the words of each, or an (N, W) matrix of 0 and 1.
            progress: show a bar; None shows one on terminals, elsewhere lines.

        Raises:
            DataError: labels that do not fit the images, or not one readable image; nothing is changed then.
        """
        self.require_sums()
        sources = sources_or_vectors(images)
        matrix, words = label_matrix(labels, self.bank_.vocabulary, extend=True)
        check_lengths(len(sources), matrix)
        failures = self.encoder.extractor.failures = []
        for index, vectors in self._encoded(sources, progress):
            self.bank_.check_vectors(vectors)
            self.head.add_words(len(words) - len(self.bank_.vocabulary))  # not before there is an image to learn them from
            self.bank_.add_words(words)
            self.changed().bank_.partial_fit(vectors, matrix[index])
            self.head.changed(vectors, matrix[index], 1)
        if len(failures) == len(sources) and len(sources):
            raise DataError(none_readable(len(sources), failures))
        warn_of_failures(len(sources), failures)
        return self

    def forget(self, images: Images, labels: Labels, *, progress: bool | None = None) -> Self:
        """Take out images that were learnt from, by the labels they were learnt with. Words stay, even those left without image.

        Args:
            images, labels, progress: as in :meth:`partial_fit`.

        Raises:
            ValueError: more images of a word than there are.
            DataError: labels that do not fit, or an image that cannot be read; then nothing is taken out.
        """
        self.require_sums()
        vectors, matrix = self._whole(images, labels, None, progress)
        self.bank_.forget(vectors, matrix)
        self.head.changed(vectors, matrix, -1)
        return self.changed()

    def add_word(self, word: str, images: Images, *, progress: bool | None = None) -> Self:
        """Add a word by images that show it, a few or many; they carry no other word.

        Args:
            word: that is new, or has no image yet. images: N of them. progress: as in :meth:`partial_fit`.

        Raises:
            ValueError: the vocabulary has the word, with images; or no image is given.
            DataError: as :meth:`partial_fit`.
        """
        self.require_sums()
        if (number := number_of(word, self.bank_.vocabulary)) is not None and self.bank_.counts[number]:
            raise InvalidArgumentError(f"the vocabulary has {word!r} already; give it more images with partial_fit")
        if not len(sources := sources_or_vectors(images)):
            raise InvalidArgumentError(f"no images of {word!r} were given; a word is learnt from one at least")
        return self.partial_fit(sources, [[word]] * len(sources), progress=progress)

    def remove_words(self, words: Sequence[str]) -> Self:
        """Take words out of the vocabulary, as if no label had named them; their images stay, with their other words or none.

        Args:
            words: that the vocabulary has; a string is one word.

        Raises:
            ValueError: a word that the vocabulary lacks, or none would be left.
        """
        self.require_sums()
        gone = {self.bank_.number(word) for word in ([words] if isinstance(words, str) else words)}
        kept = [number for number in range(len(self.bank_.vocabulary)) if number not in gone]
        if not kept:
            raise InvalidArgumentError("these are all the words that there are; one has to be left")
        self.bank_.remove_words([self.bank_.vocabulary[number] for number in sorted(gone)])
        self.head.keep_words(kept)
        return self.changed()

    def rename_word(self, word: str, name: str) -> Self:
        """Give a word another name.

        Args:
            word: that the vocabulary has.
            name: that it has not.

        Raises:
            ValueError: the vocabulary lacks the word, or has the name already.
        """
        self.require_fit()
        self.bank_.rename_word(word, name)
        return self

    def merge_words(
        self, word: str, into: str, both: Images | None = None, labels: Labels | None = None, *, progress: bool | None = None
    ) -> Self:
        """Make ``into`` the word of every image that carries it or ``word``, and remove ``word``.

        Args:
            word: that goes. into: that stays.
            both: the images that carry both words, which the sums of the two hold twice; None where there is none. With another
                head than ``mean``, an error says how many they are.
            labels: all words of these images; None where they carry no others.
            progress: show a bar; None shows one on terminals, elsewhere lines.

        Raises:
            ValueError: a word that the vocabulary lacks, or ``both`` are not the images that carry both.
            DataError: one of them cannot be read.
        """
        self.require_sums()
        vectors, matrix = self._whole([] if both is None else both, labels, [word, into], progress)
        numbers = self.bank_.number(word), self.bank_.number(into)
        self.bank_.merge_words(word, into, vectors, matrix)
        self.head.merge_words(*numbers, vectors)
        return self.changed()

    # -- what a fit does, see gpuannot.model.fit ----------------------------------------------------------------------------------

    def word_sums(self, vectors: Iterable[tuple[NDArray[np.int64], Vectors]], labels: Any, vocabulary: Sequence[str]) -> WordBank:
        """The word vectors' sums over a partition.

        Args:
            vectors: positions (B,) and image vectors (B, D), batch by batch.
            labels: ``labels[positions]`` is (B, W).
            vocabulary: (W,).
        """
        bank = new_bank(self.config, tuple(vocabulary), self.encoder.dimension, self.device)
        with one_blas_thread():
            for positions, part in vectors:
                bank.partial_fit(part, labels[positions], positions)
        # A GPU's sums go through the host when workers add them, and products are formed where the vectors are.
        return bank.flush() if self.encoder.extractor.on_gpu else bank

    def forget_all(self) -> None:
        """Forget the words, so that after a fit that fails nothing ranks by an earlier one."""
        vars(self).pop("bank_", None)

    def learn(self, vocabulary: Sequence[str], sums: WordBank | None) -> None:
        """Take the words from the sums over all images; None leaves every word without an image."""
        bank = new_bank(self.config, tuple(vocabulary), self.encoder.dimension, self.device) if sums is None else sums
        self.bank_ = bank.to(self.device).flush()
        self.changed().head.settle(self.bank_)
        self.ranker.derive(self.bank_)

    # -- ranking ------------------------------------------------------------------------------------------------------------------

    def check_k(self, k: int | None, threshold: float | None = None) -> int:
        """How many words every image is given: k, or for None 5, where as many have an image.

        Raises:
            ValueError: not 1…number of words with an image, or a threshold that confidences cannot be compared with.
        """
        self.require_fit()
        check_threshold(threshold)
        if threshold is not None and not self.has_confidence:
            raise InvalidArgumentError("this model gives no confidences to compare with a threshold; presets best and kernel do")
        known, without = len(self.bank_.known), len(self.vocabulary) - len(self.bank_.known)
        k = min(DEFAULT_K, known) if k is None else k
        if not 1 <= k <= known:
            detail = f"; {without} words of the vocabulary have no image" if without else ""
            raise InvalidArgumentError(f"k = {k} must lie in 1…{known}, the number of words that can be given{detail}")
        return k

    def check_giving(self, k: int | None, threshold: float | None) -> tuple[int, float | None]:
        """:meth:`check_k`, and the confidence that words need; where k is None, both as the fit chose them."""
        self.require_fit()
        if k is None and (chosen := self.head.chosen) is not None and chosen.threshold is not None and self.has_confidence:
            k, threshold = min(chosen.words, len(self.bank_.known)), chosen.threshold if threshold is None else threshold
        return self.check_k(k, threshold), threshold

    def annotate_tensor(self, images: Tensor, k: int | None = None) -> tuple[Tensor, Tensor]:
        """The k nearest words of a decoded batch, without a wait for the GPU.

        Args:
            images: (B, 3, S, S) uint8, RGB, S = ``config.input_size``, on this model's device.
            k: words for each; None is 5, or as many as have an image.

        Returns:
            index (B, k) int64 into ``vocabulary`` and distance (B, k) float32, nearest first.

        Raises:
            TypeError: not uint8.
            ValueError: another shape or size, or k outside 1…number of words with an image.
        """
        return self.nearest_words(self.encoder.encode_tensor(images), self.check_k(k))

    def nearest_words(self, vectors: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest words of image vectors (B, D) float32 on this model's device; returns as :meth:`annotate_tensor`."""
        index, distance = self.rank(vectors if self.encoder.extractor.on_gpu else vectors.numpy(), k)
        return torch.as_tensor(index), torch.as_tensor(distance)

    @property
    def ranking(self) -> WordRanking | LinearRanking | KernelRanking:
        """What ranks the words that have an image."""
        return self.ranker.ranking(self.bank_)

    def rank(self, vectors: Vectors, k: int) -> tuple[Vectors, Vectors]:
        """:meth:`gpuannot.model.ranker.WordRanker.rank`."""
        return self.ranker.rank(self.bank_, vectors, k)

    def confidence(self, index: NDArray[np.int64] | Tensor, distance: Vectors) -> Any:
        """How likely each word that was given is right, 0…1: :meth:`~gpuannot.model.ranker.WordRanker.confidence`."""
        return self.ranker.confidence(self.bank_, index, distance)

    @property
    def has_confidence(self) -> bool:
        """Whether :meth:`confidence` says anything."""
        self.require_fit()
        return self.ranker.curves(self.bank_) is not None

    def changed(self) -> Self:
        """Bank or head have changed: what was derived from them is made anew."""
        self.ranker = WordRanker(self.head, self.device)
        return self

    def restore(self, bank: WordBank, ranker: WordRanker | None = None) -> None:
        """Take a bank that was read from a file.

        Args:
            bank: of the words.
            ranker: what was derived from it when the file was written; None makes it of the bank.
        """
        self.changed()
        self.bank_, self.ranker = bank, ranker or self.ranker

    # -- files --------------------------------------------------------------------------------------------------------------------

    def to_model_file(self, *, sums: bool = True) -> ModelFile:
        """Tensors and metadata, as :meth:`gpuannot.Annotator.save` writes them; their ``sha256`` is the model's identity."""
        from .persistence import to_model_file

        self.require_fit()
        return to_model_file(self, sums=sums)

    # -- helpers ------------------------------------------------------------------------------------------------------------------

    def _encoded(self, sources: Sequence[Any], progress: bool | None) -> Iterator[tuple[NDArray[np.int64], Vectors]]:
        """Positions (B,) and vectors (B, D) of images, batch by batch, or of images given by their vectors."""
        if are_vectors(sources):
            given = torch.as_tensor(sources).to(self.device, torch.float32)
            yield np.arange(len(sources)), given if self.encoder.extractor.on_gpu else given.numpy()
            return
        with progress_bar("word vectors", len(sources), progress) as bar:
            yield from self.encoder.encode_images(sources, advance=bar.update)

    def _whole(
        self, images: Images, labels: Labels | None, words: list[str] | None, progress: bool | None
    ) -> tuple[NDArray[np.float32], sparse.csr_array]:
        """Vectors (N, D) and labels (N, W) of all of some images."""
        sources = sources_or_vectors(images)
        given = [words or []] * len(sources) if labels is None else labels
        matrix, _ = label_matrix(given, self.bank_.vocabulary, known=True)
        check_lengths(len(sources), matrix)
        failures = self.encoder.extractor.failures = []
        parts = [to_host(vectors) for _, vectors in self._encoded(sources, progress)]
        if failures:
            raise DataError(
                f"{len(failures)} of {len(sources)} images cannot be read; the first: {failures[0].path}: {failures[0].reason}"
            )
        return np.concatenate([np.empty((0, self.encoder.dimension), np.float32), *parts]), matrix

    def require_fit(self) -> None:
        """Raise NotFittedError before a fit."""
        if not hasattr(self, "bank_"):
            raise NotFittedError("nothing has been learnt yet; call fit(images, labels), or Annotator.load(path), first")

    def require_sums(self) -> None:
        self.require_fit()
        if not self.head.has_sums(self.bank_):
            raise DataError(
                "this model was saved without the sums that it was learnt from, so its words cannot be changed; load one that was "
                "saved with them, or fit again, without --annotate-only"
            )
