"""From a word's scores to how likely the word is: two Gaussians from leave-one-out sums, and one logistic curve for all words."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from .ridge import LeftOut

#: Images that the logistic curve is learnt from, at most.
SAMPLE_IMAGES = 2000
#: Words of each of them: those that it would be given.
SAMPLE_WORDS = 5

# How many images the median separation of all words counts for, beside a word's own images.
_PRIOR_IMAGES = 2.0


class SampledImages:
    """A uniform sample of the images that go by in a fit, by their vectors and labels.

    Args:
        images: how many will go by. seed: chooses which are kept, at most :data:`SAMPLE_IMAGES`.
    """

    def __init__(self, images: int, seed: int) -> None:
        generator = np.random.default_rng(np.random.SeedSequence((seed, 2)))
        self._chosen = np.sort(generator.choice(images, size=min(SAMPLE_IMAGES, images), replace=False))
        self._seen = 0
        self._vectors: list[Tensor] = []
        self._labels: list[sparse.csr_array] = []

    def add(self, vectors: NDArray[np.float32] | Tensor, labels: sparse.csr_array) -> None:
        """The next images: vectors (B, D), labels (B, W)."""
        last = self._seen + len(vectors)
        rows = self._chosen[np.searchsorted(self._chosen, self._seen) : np.searchsorted(self._chosen, last)] - self._seen
        self._seen = last
        if len(rows):
            tensor = torch.as_tensor(vectors)
            self._vectors.append(tensor[torch.from_numpy(rows).to(tensor.device)])
            self._labels.append(labels[rows])

    def vectors(self, device: torch.device) -> Tensor:
        """(S, D) float64."""
        return torch.cat(self._vectors).to(device, torch.float64)

    def labels(self, device: torch.device) -> Tensor:
        """(S, W) float64 0/1."""
        return torch.from_numpy(sparse.vstack(self._labels).toarray()).to(device, torch.float64)


class Odds(NamedTuple):
    """log P(s | word)/P(s | not word) = ``slope``·s + ``offset`` of scores s, (W,) each."""

    slope: Tensor
    offset: Tensor


def gaussian_odds(scores: LeftOut, counts: Tensor) -> Odds:
    """Log-odds of scores by two Gaussians of one variance for each word: images with the word, and without.

    Their means, and the variance of all images, are those of leave-one-out scores. A word of few images hardly knows how far its
    two
    means are apart: that is drawn to the median of all words, in units of the standard deviation, as if two images of it had been
    seen.

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
    """P(word is right) = σ(``odds``·log-odds of its score + ``prior``·log-odds of its frequency + ``constant``)."""

    odds: float
    prior: float
    constant: float


def fit_logistic(odds: NDArray[np.float64], prior: NDArray[np.float64], right: NDArray[np.bool_]) -> Logistic | None:
    """The curve for words that were given: the two log-odds (M,) of each and whether it was right; None where all or none were."""
    from sklearn.linear_model import LogisticRegression

    if right.all() or not right.any():
        return None
    # The two come in one unit, and thousands of words hardly feel the penalty; it only holds where there are a handful.
    model = LogisticRegression(C=1.0, max_iter=1000).fit(np.stack([odds, prior], axis=1), right)
    of_odds, of_prior = model.coef_[0]
    return Logistic(float(of_odds), float(of_prior), float(model.intercept_[0]))
