"""Why a word: its score split, exactly, over the patches of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError
from ..heads.kernel_ranking import KernelRanking
from ..images.decode import decode_image
from ..images.input import utf8
from ..images.inputs import Images, as_sequence, source_name, warn_of_failures
from ..method.ranking import LinearRanking, WordRanking
from ..system.progress import progress_bar
from ..system.threads import one_blas_thread
from .encoder import to_host
from .word_model import WordModel

#: The colours of heatmaps, here and in the report: they grow lighter throughout, and so read without colour too.
PALETTE = ((0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191))
_AGAINST = (64, 156, 255)  # a blue that the palette does not have
_DIMMED, _LEAST_COVER = 0.82, 24 / 255  # of the picture below, and of the colour over it


@dataclass(frozen=True)
class Explanation:
    """Which patches of one image speak for a word, and which against it.

    For each of its k words the contributions of the patches and the bias add up to the score that the word is ranked by. Of the
    head ``ridge`` that is x·v + b; of ``kernel``, which is no sum over patches, the linear function that touches the score at the
    image, the bias being what it leaves over; of word vectors compared in L2, x·v − ‖v‖²/2, which orders them as the distance
    does; of word vectors compared by cosine, the cosine. What normalisation does to the split:
    :func:`gpuannot.reference.vlad.patch_contributions`.

    Attributes:
        name: the image's path, or ``image 3``. grid: (H', W') of the patches.
        words: (k,), best first unless they were asked for. index: (k,) int64, their numbers in the vocabulary.
        scores: (k,) float32. bias: (k,) float32, the part of the score that is the same for every image.
        contributions: (k, H'·W') float32, row by row over the image. their sums and
            ``bias`` add up to ``scores``, up to rounding.
    """

    name: str
    grid: tuple[int, int]
    words: tuple[str, ...]
    index: NDArray[np.int64]
    scores: NDArray[np.float32]
    bias: NDArray[np.float32]
    contributions: NDArray[np.float32]

    def heatmap(self, size: tuple[int, int] | None = None, word: int | str = 0) -> NDArray[np.float32]:
        """Contributions to one word as a picture.

        Args:
            size: (H, W) to interpolate to (bicubic); None leaves the grid as it is.
            word: its place in ``words``, or the word.

        Returns:
            (H, W) float32, positive where the image speaks for the word.

        Raises:
            ValueError: a word that is not explained here.
        """
        grid = self.contributions[self._place(word)].reshape(self.grid)
        if size is None:
            return grid.copy()
        height, width = size
        return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))

    def overlay(self, image: Any, word: int | str = 0, *, against: bool = False) -> Image.Image:
        """The image in grey, and over it in the report's colours what speaks for the word: yellow where most.

        Args:
            image: a path, bytes, PIL image or array, as :meth:`Annotator.annotate` takes; the picture has its size.
            word: its place in ``words``, or the word. against: what speaks against it too, in blue.
        """
        shown = Image.fromarray(decode_image(image))
        heat = self.heatmap((shown.height, shown.width), word)
        most = float(self.contributions[self._place(word)].max())
        share = np.clip(heat / most, 0, 1) if most > 0 else np.zeros_like(heat)
        stops = np.linspace(0, 1, len(PALETTE))
        colour = np.stack([np.interp(share, stops, channel) for channel in zip(*PALETTE, strict=True)], axis=2)
        cover = (_LEAST_COVER + 0.76 * share)[:, :, None]
        picture = np.asarray(shown.convert("L").convert("RGB"), dtype=np.float32) * _DIMMED * (1 - cover) + colour * cover
        if against:
            largest = float(np.abs(self.contributions[self._place(word)]).max())
            blue = 0.7 * np.clip(-heat / (largest if largest > 0 else 1.0), 0, 1)[:, :, None]
            picture = picture * (1 - blue) + np.array(_AGAINST, np.float32) * blue
        return Image.fromarray(picture.round().astype(np.uint8))

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values; the contributions of each word as H' rows."""
        return {
            "path": utf8(self.name),
            "grid": list(self.grid),
            "words": list(self.words),
            "scores": [float(f"{value:.7g}") for value in self.scores],
            "bias": [float(f"{value:.7g}") for value in self.bias],
            "contributions": [
                [[float(f"{value:.5g}") for value in row] for row in word.reshape(self.grid)] for word in self.contributions
            ],
        }

    def _place(self, word: int | str) -> int:
        if isinstance(word, str):
            if word not in self.words:
                raise ValueError(f"{word!r} is not explained here; these words are: {', '.join(self.words)}")
            return self.words.index(word)
        if not -len(self.words) <= word < len(self.words):
            raise ValueError(f"word {word} is not one of the {len(self.words)} that are explained here")
        return word


def explain(
    model: WordModel, images: Images, words: Sequence[str] | None = None, k: int | None = None, *, progress: bool | None = None
) -> list[Explanation]:
    """:meth:`gpuannot.Annotator.explain`, which says what the arguments mean."""
    model.require_fit()
    k = model.check_k(k) if words is None else 0
    bank, encoder = model.bank_, model.encoder
    sources = as_sequence(images)
    asked = None if words is None else [bank.number(word) for word in ([words] if isinstance(words, str) else words)]
    if asked is not None and (without := [number for number in asked if not bank.counts[number]]):
        raise DataError(f"{bank.vocabulary[without[0]]!r} has no image, so there is nothing that speaks for it")
    encoder.extractor.failures = []
    found = []
    with progress_bar("explain", len(sources), progress) as bar:
        for positions, features in encoder.extractor.features(sources, advance=bar.update):
            index = None if asked is not None else to_host(model.rank(encoder.vectors(features), k)[0])
            for row, position in enumerate(positions):
                numbers = np.array(asked if index is None else index[row], dtype=np.int64)
                found.append(_explanation(model, source_name(sources, int(position)), features[row], numbers))
    warn_of_failures(len(sources), encoder.failures_)
    return found


@one_blas_thread()
def _explanation(model: WordModel, name: str, features: Any, numbers: NDArray[np.int64]) -> Explanation:
    bank = model.bank_
    weights, bias = _linear(model, features, np.searchsorted(bank.known, numbers))
    split = model.encoder.patch_contributions(features, weights)
    contributions, bias = split.patches, bias + split.constant
    ranking = model.ranking
    if isinstance(ranking, WordRanking) and ranking.metric == "cosine":
        norm = float(np.linalg.norm(split.vector))
        contributions, bias = contributions / (norm or 1.0), bias / (norm or 1.0)
    return Explanation(
        name=name,
        grid=split.grid,
        words=tuple(bank.vocabulary[number] for number in numbers),
        index=numbers,
        scores=(contributions.sum(axis=1) + bias).astype(np.float32),
        bias=bias.astype(np.float32),
        contributions=contributions.astype(np.float32),
    )


def _linear(model: WordModel, features: Any, known: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (k, D) and bias (k,) of the linear score that some of the known words are ranked by, of a kernel's at the image."""
    ranking = model.ranking
    if isinstance(ranking, KernelRanking):
        return ranking.first_order(to_host(model.encoder.vectors(features[None]))[0], known)
    if isinstance(ranking, LinearRanking):
        return ranking.weights[known].astype(np.float64), ranking.bias[known].astype(np.float64)
    vectors = ranking.word_vectors[known, : model.encoder.dimension].astype(np.float64)
    if ranking.metric == "cosine":  # they are of unit length, or zero
        return vectors, np.zeros(len(vectors))
    return vectors, -0.5 * np.square(vectors).sum(axis=1)
