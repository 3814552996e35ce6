"""What a fit chooses by itself, from its own images, each scored as if it had been left out: λ, and which words are given.

No number here comes from a data set: a criterion is computed from leave-one-out scores, and the value that serves it best is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .calibration import SAMPLE_WORDS, Odds, gaussian_odds
from .products import leading_eigenvectors, product
from .ridge import LeftOut

#: λ, as multiples of the mean diagonal, that are tried on a sample of the images; more images call for less, in halves.
REGULARISATIONS = tuple(0.025 * 2.0**step for step in range(11))
#: The least that many images are allowed.
LEAST_REGULARISATION = REGULARISATIONS[0] / 4
#: Where no images are there to choose by.
DEFAULT_REGULARISATION = 1.0


# Bootstrap samples that a standard error is taken of.
_DRAWS = 100


class Chosen(NamedTuple):
    """What leave-one-out chose at a fit, or was told.

    Attributes:
        regularisation: λ as a multiple of the system's mean diagonal.
        balance: g, which may leave 0…1 where it was chosen.
        threshold: the confidence that a word needs to be given where nobody says how many are; None gives :attr:`words` of them.
        words: the most that are given then.
    """

    regularisation: float
    balance: float
    threshold: float | None
    words: int


def left_out_scores(gram: Tensor, unit: float, labels: Tensor) -> Iterator[tuple[float, Tensor]]:
    """Ridge regression of images, each by all the others: λ's multiple and scores (S, W), for each of :data:`REGULARISATIONS`.

    With the eigenvectors U and values e of the centred Gram matrix, all predictions are ȳ + U·(e/(e + λ))·Uᵀ(y − ȳ), the leverage
    of an image is h = Σ U²·e/(e + λ) + 1/S, and what its own label is not part of is (s − h·(y − ȳ))/(1 − h).

    Args:
        gram: (S, S) float64, centred inner products.
        unit: what λ is a multiple of.
        labels: (S, W) float64 0/1.
    """
    images = len(gram)
    values, basis = leading_eigenvectors(gram, images)
    values = values.clamp(min=0)
    residual = labels - labels.mean(dim=0)
    targets = product(basis.T.contiguous(), residual)
    for multiple in REGULARISATIONS:
        kept = values / (values + multiple * unit)
        leverage = product(basis.square(), kept[:, None]) + 1 / images
        scores = product(basis, kept[:, None] * targets)
        yield multiple, (scores - leverage * residual) / (1 - leverage).clamp(min=1e-9)


def odds_of(scores: Tensor, labels: Tensor) -> Tensor:
    """Log-odds (S, W) of left-out scores (S, W) by :func:`~gpuannot.heads.calibration.gaussian_odds`; each word has an image."""
    counts = labels.sum(dim=0)
    with_word = (scores * labels).sum(dim=0) / counts
    without_word = (scores * (1 - labels)).sum(dim=0) / (len(scores) - counts).clamp(min=0.5)
    odds: Odds = gaussian_odds(LeftOut(scores.std(dim=0, correction=0), with_word, without_word), counts)
    return odds.slope * scores + odds.offset


class Reached(NamedTuple):
    """How well left-out images get their words.

    Attributes:
        value: 0…1.
        resampled: (B,) the same of images drawn with replacement; the draws are the same for every ranking.
    """

    value: float
    resampled: NDArray[np.float64]

    def beats(self, other: Reached) -> bool:
        """Whether this is better by more than the standard error of the difference."""
        gain = self.value - other.value
        return gain > 0 and gain > float((self.resampled - other.resampled).std(ddof=1))


def reached(ranked: Tensor, labels: Tensor, objective: str) -> Reached:
    """How well left-out images get their words.

    Args:
        ranked: (S, W) what words are ranked by.
        labels: (S, W) 0/1.
        objective: ``images``: the mean over labelled images of the average precision of their words; ``words``: the per-word F1 of
            five words an image, or of half of them where there are fewer than ten.
    """
    order, truth = ranked.cpu().numpy().argsort(axis=1, kind="stable")[:, ::-1], labels.cpu().numpy() > 0
    draws = np.random.default_rng(0).multinomial(len(truth), np.full(len(truth), 1 / max(1, len(truth))), size=_DRAWS)
    weights = np.vstack([np.ones(len(truth)), draws])
    if objective == "images":
        right = np.take_along_axis(truth, order, axis=1)
        precision = right.cumsum(axis=1) / np.arange(1, truth.shape[1] + 1)
        carried = truth.sum(axis=1)
        average = (right * precision).sum(axis=1) / np.maximum(carried, 1)
        found = weights @ average / np.maximum(weights @ (carried > 0), 1)
    else:
        given = np.zeros(truth.shape)
        np.put_along_axis(given, order[:, : min(SAMPLE_WORDS, -(-truth.shape[1] // 2))], 1.0, axis=1)
        hits = weights @ (given * truth)
        share = (hits / np.maximum(weights @ given, 1)).mean(axis=1), (hits / np.maximum(weights @ truth, 1)).mean(axis=1)
        found = 2 * share[0] * share[1] / np.maximum(share[0] + share[1], 1e-12)
    return Reached(float(found[0]), found[1:])


def choose_regularisation(gram: Tensor, unit: float, labels: Tensor, objective: str, calibration: str) -> float:
    """The largest of :data:`REGULARISATIONS` that is as good for a sample's left-out images as the best, up to the standard error.

    The smaller λ, the more a fit leans on what was learnt from the left-out images too, the projection: equals go to the larger.
    Words are ranked by the odds alone, or without them by the predictions: how frequent a word is has no say, or all it should.

    Args:
        gram, unit, labels: as in :func:`left_out_scores`.
        objective: as in :func:`reached`.
        calibration: ``odds`` or ``none``.
    """
    carried = labels.sum(dim=0) > 0
    labels = labels[:, carried]
    if len(gram) < 3 or labels.shape[1] < 2:
        return DEFAULT_REGULARISATION
    found = {}
    for multiple, scores in left_out_scores(gram, unit, labels):
        ranked = odds_of(scores, labels) if calibration == "odds" else scores + labels.mean(dim=0)
        found[multiple] = reached(ranked, labels, objective)
    best = max(found.values(), key=lambda each: each.value)
    return max(multiple for multiple, each in found.items() if not best.beats(each))


def most_words(labels: Tensor, known: int) -> int:
    """How many words nearly every image is content with: the 95th percentile of what the labelled ones carry, and at least five.

    Args:
        labels: (S, W) 0/1.
        known: the words that can be given.
    """
    carried = labels.sum(dim=1).cpu().numpy()
    carried = carried[carried > 0]
    return min(known, max(SAMPLE_WORDS, math.ceil(np.percentile(carried, 95)) if len(carried) else 0))


def choose_threshold(confidence: NDArray[np.float64], right: NDArray[np.bool_], carried: NDArray[np.int64]) -> float:
    """The confidence, in hundredths, from which on words are given for the highest mean F1 of an image, of equals the lowest.

    Args:
        confidence: (S, M) of the words that an image might be given; that of the highest confidence it always is.
        right: (S, M) whether it carries them.
        carried: (S,) how many it carries; those that carry none do not count.
    """
    order = np.argsort(-confidence, axis=1, kind="stable")
    confidence, right = np.take_along_axis(confidence, order, 1), np.take_along_axis(right, order, 1)
    some = carried > 0
    confidence, right, carried = confidence[some], right[some], carried[some]
    best, chosen = -1.0, 0.0
    for hundredth in range(100):
        kept = confidence >= hundredth / 100
        kept[:, 0] = True
        f1 = float((2 * (kept & right).sum(axis=1) / (kept.sum(axis=1) + carried)).mean()) if len(carried) else 0.0
        if f1 > best + 1e-12:
            best, chosen = f1, hundredth / 100
    return chosen
