"""What a fit chooses by itself, from its own images, each scored as if it had been left out: λ, and which words are given.

No number here comes from a data set: a criterion is computed from leave-one-out scores, and the value that serves it best is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .calibration import SAMPLE_WORDS, Odds, gaussian_odds
from .products import gram, leading_eigenvectors, product
from .ridge import LeftOut

#: λ, as multiples of the mean diagonal, that are tried on a sample of the images; more images call for less, in halves.
REGULARISATIONS = tuple(0.025 * 2.0**step for step in range(11))
#: The least that many images are allowed.
LEAST_REGULARISATION = REGULARISATIONS[0] / 4
#: Where no images are there to choose by.
DEFAULT_REGULARISATION = 1.0


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


def left_out_scores(vectors: Tensor, labels: Tensor) -> Iterator[tuple[float, Tensor]]:
    """Ridge regression of images, each by all the others: λ's multiple and scores (S, W), for each of :data:`REGULARISATIONS`.

    With the eigenvectors U and values e of the centred Gram matrix, all predictions are ȳ + U·(e/(e + λ))·Uᵀ(y − ȳ), the leverage
    of an image is h = Σ U²·e/(e + λ) + 1/S, and what its own label is not part of is (s − h·(y − ȳ))/(1 − h).

    Args:
        vectors: (S, D) float64.
        labels: (S, W) float64 0/1.
    """
    images = len(vectors)
    values, basis = leading_eigenvectors(gram(vectors - vectors.mean(dim=0)), images)
    values = values.clamp(min=0)
    mean_diagonal = float(values.sum()) / vectors.shape[1]
    residual = labels - labels.mean(dim=0)
    targets = product(basis.T.contiguous(), residual)
    for multiple in REGULARISATIONS:
        kept = values / (values + multiple * (mean_diagonal if mean_diagonal > 0 else 1.0))
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


def reached(ranked: Tensor, labels: Tensor, objective: str) -> float:
    """How well left-out images get their words, 0…1.

    Args:
        ranked: (S, W) what words are ranked by.
        labels: (S, W) 0/1.
        objective: ``images``: the mean over images of the average precision of their words; ``words``: the per-word F1 of five
            words an image, or of half of them where there are fewer than ten.
    """
    truth = labels.cpu().numpy() > 0
    if objective == "words":
        given = torch.zeros_like(ranked).scatter_(1, ranked.topk(min(SAMPLE_WORDS, -(-ranked.shape[1] // 2)), dim=1).indices, 1.0)
        right = (given * labels).sum(dim=0)
        precision = float((right / given.sum(dim=0).clamp(min=1)).mean())
        recall = float((right / labels.sum(dim=0).clamp(min=1)).mean())
        return 2 * precision * recall / max(precision + recall, 1e-12)
    from sklearn.metrics import label_ranking_average_precision_score

    some = truth.any(axis=1)
    if truth.shape[1] < 2 or not some.any():
        return 0.0
    return float(label_ranking_average_precision_score(truth[some], ranked.cpu().numpy()[some]))


def choose_regularisation(vectors: Tensor, labels: Tensor, objective: str, calibration: str) -> float:
    """The multiple of :data:`REGULARISATIONS` at which a sample's left-out images get their words best, the larger of equals.

    Words are ranked by the odds alone, or without them by the predictions: how frequent a word is has no say, or all it should.

    Args:
        vectors: (S, D) float64.
        labels: (S, W) float64 0/1.
        objective: as in :func:`reached`.
        calibration: ``odds`` or ``none``.
    """
    carried = labels.sum(dim=0) > 0
    labels = labels[:, carried]
    if len(vectors) < 3 or labels.shape[1] < 2:
        return DEFAULT_REGULARISATION
    found = []
    for multiple, scores in left_out_scores(vectors, labels):
        ranked = odds_of(scores, labels) if calibration == "odds" else scores + labels.mean(dim=0)
        found.append((reached(ranked, labels, objective), multiple))
    return max(found)[1]


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
