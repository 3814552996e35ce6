"""From a word's scores to how likely the word is: two Gaussians from leave-one-out sums, and one logistic curve for all words."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from ..method.words import BankExtra, Vectors
from ..system.threads import one_blas_thread
from .ridge import LeftOut

#: Images that the logistic curve is learnt from, at most.
SAMPLE_IMAGES = 2000
#: Words of each of them: those that it would be given.
SAMPLE_WORDS = 5

# How many images the median separation of all words counts for, beside a word's own images.
_PRIOR_IMAGES = 2.0


class SampledImages(BankExtra):
    """A uniform sample of the images of a fit, by their vectors and labels: :data:`SAMPLE_IMAGES` of them, or all.

    Every image has a random number of its own, by its position in the data set, and those of the lowest are kept: so it does not
    matter in what batches they come, and samples of parts merge to that of the whole.

    Args:
        seed: of the random numbers.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._keys = np.empty(0, np.uint64)
        self._vectors: Tensor | None = None
        self._labels: sparse.csr_array | None = None

    def add(self, positions: NDArray[np.int64], vectors: NDArray[np.float32] | Tensor, labels: sparse.csr_array) -> None:
        """Add images of the data set.

        Args:
            positions: (B,), where they are in it.
            vectors: (B, D).
            labels: (B, W) 0/1.
        """
        if len(positions):
            self._add(random_numbers(positions, self._seed), torch.as_tensor(vectors), labels)

    def update(self, vectors: Vectors, labels: sparse.csr_array, sign: int, positions: NDArray[np.int64] | None) -> None:
        if positions is not None and sign > 0:
            self.add(positions, vectors, labels)

    def merge(self, other: SampledImages) -> Self:
        """Add the sample of another part of the data set."""
        if other._vectors is not None and other._labels is not None:
            self._add(other._keys, other._vectors, other._labels)
        return self

    def _add(self, keys: NDArray[np.uint64], vectors: Tensor, labels: sparse.csr_array) -> None:
        if self._vectors is not None:
            keys = np.concatenate([self._keys, keys])
            vectors = torch.cat([self._vectors, vectors.to(self._vectors.device)])
            labels = sparse.csr_array(sparse.vstack([self._labels, labels]))
        chosen = np.argsort(keys, kind="stable")[:SAMPLE_IMAGES]
        self._keys, self._vectors, self._labels = keys[chosen], vectors[torch.from_numpy(chosen).to(vectors.device)], labels[chosen]

    def __len__(self) -> int:
        return len(self._keys)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_vectors": None if self._vectors is None else self._vectors.cpu()}

    def vectors(self, device: torch.device) -> Tensor:
        """(S, D) float32, in an order that the batches do not change."""
        assert self._vectors is not None
        return self._vectors.to(device)

    def labels(self, device: torch.device) -> Tensor:
        """(S, W) float64 0/1."""
        assert self._labels is not None
        return torch.from_numpy(self._labels.toarray()).to(device, torch.float64)


def random_numbers(positions: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """A number for each position that looks random: the mixing function of SplitMix64."""
    with np.errstate(over="ignore"):
        mixed = positions.astype(np.uint64) + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


class Odds(NamedTuple):
    """log P(s | word)/P(s | not word) = ``slope``·s + ``offset`` of scores s, (W,) each."""

    slope: Tensor
    offset: Tensor


def gaussian_odds(scores: LeftOut, counts: Tensor) -> Odds:
    """Log-odds of scores by two Gaussians of one variance for each word: images with the word, and without.

    Their means, and the variance of all images, are those of leave-one-out scores. A word of few images hardly knows how far its
    two means are apart: that is drawn to the median of all words, in units of the standard deviation, as if two images of it had
    been seen.

    Args:
        counts: (W,) float64, each word's images.
    """
    separation = scores.with_word - scores.without_word
    deviation = torch.where(scores.spread > 0, scores.spread, 1.0)
    typical = (separation / deviation).median() * deviation if len(separation) else separation
    separation = (separation * counts + _PRIOR_IMAGES * typical) / (counts + _PRIOR_IMAGES)
    separation = torch.maximum(separation, 1e-4 * deviation)  # a score never speaks against its own word
    slope = torch.where(scores.spread > 0, separation / deviation.square(), 0.0)
    return Odds(slope, -slope * (scores.without_word + separation / 2))


class Logistic(NamedTuple):
    """P(word is right) = σ(a·e + ``prior``·f + ``constant`` + ``level``·s), a = ``odds`` + ``together``·f, of the log-odds e of the
    word's score and f of its frequency, or where words are ranked by predictions s the logarithms of the prediction and of the
    frequency."""

    odds: float
    prior: float
    constant: float
    level: float = 0.0
    together: float = 0.0

    def slope(self, frequency: Tensor) -> Tensor:
        """a (W,) of words of these f (W,), at least 0: a score never speaks against its own word."""
        return (self.odds + self.together * frequency).clamp(min=0)


def fit_logistic(
    odds: NDArray[np.float64], prior: NDArray[np.float64], right: NDArray[np.bool_], *, together: bool = False
) -> Logistic | None:
    """The curve for words that were given; None where all or none of them were right.

    Args:
        odds: (M,) log-odds of each word's score.
        prior: (M,) log-odds of its frequency.
        right: (M,) whether it was right.
        together: what a score says depends on the word's frequency: of a rare word two Gaussians that were learnt from a handful
            of images put it far too high.
    """
    features = [odds, prior, odds * prior] if together else [odds, prior]
    found = _most_likely(np.stack(features, axis=1), right)
    return None if found is None else Logistic(found[0], found[1], found[-1], together=found[2] if together else 0.0)


def fit_rising(score: NDArray[np.float64], right: NDArray[np.bool_]) -> Logistic | None:
    """The curve σ(``odds``·log s + ``level``·s + ``constant``) of words that were given, ``odds`` and ``level`` ≥ 0.

    Small predictions count by their logarithm and large ones as they are; a curve of the logarithm alone takes words of 0.6 for
    likelier than they are.

    Args:
        score: s (M,), above 0.
        right: (M,) whether it was right.

    Returns:
        None where all or none were right, or where a higher score does not speak for a word.
    """
    logarithm = np.log(score)
    if (found := _most_likely(np.stack([logarithm, score], axis=1), right)) is None:
        return None
    odds, level, constant = found
    if odds < 0 or level < 0:
        slope, constant = _most_likely((logarithm if level < 0 else score)[:, None], right) or (0.0, 0.0)
        odds, level = (slope, 0.0) if level < 0 else (0.0, slope)
    return Logistic(odds, 0.0, constant, level) if odds >= 0 and level >= 0 and odds + level > 0 else None


def _most_likely(features: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[float, ...] | None:
    """Coefficients (F,) and constant of the logistic regression on features (M, F); None where all or none are right."""
    from sklearn.linear_model import LogisticRegression

    if right.all() or not right.any():
        return None
    # The features come in like units, and thousands of words hardly feel the penalty; it only holds where there are a handful.
    with one_blas_thread():
        model = LogisticRegression(C=1.0, max_iter=1000).fit(features, right)
    return (*map(float, model.coef_[0]), float(model.intercept_[0]))
