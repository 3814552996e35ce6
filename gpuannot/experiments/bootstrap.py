"""How far a score might be another one on other images: the bootstrap over images, and of the difference between two systems."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..metrics import indicator

_AT_A_TIME = 100  # samples, whose word counts are held at once


@dataclass(frozen=True)
class ResampledScores:
    """Scores over bootstrap samples of the images, (S,) each; all but ``image_f1`` are the protocol's."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    n_plus: NDArray[np.float64]
    image_f1: NDArray[np.float64]

    def standard_errors(self) -> dict[str, float]:
        """Of each score: the standard deviation over the samples."""
        return {name: float(values.std(ddof=1)) for name, values in vars(self).items()}

    def minus(self, other: ResampledScores) -> ResampledScores:
        """The differences to another system, on the same samples."""
        return ResampledScores(*(vars(self)[name] - vars(other)[name] for name in vars(self)))


def resample(
    index: NDArray[np.integer],
    truth: sparse.csr_array,
    *,
    words: NDArray[np.integer] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> ResampledScores:
    """Scores of images drawn with replacement, as many as there are. Systems of one ``truth`` and ``seed`` have the same samples.

    Args:
        index: (T, k) word indices given to each image, −1 where it was given fewer.
        truth: (T, W) 0/1.
        words: those that the protocol's measures are about, where these are not all.
        samples: S.
        seed: of the draw.

    Raises:
        ValueError: as :func:`gpuannot.metrics.evaluate`.
    """
    given = indicator(index, truth)
    correct, given, true = (matrix.toarray().astype(np.float64) for matrix in (given.multiply(truth), given, truth))
    per_image = 2 * correct.sum(axis=1) / np.maximum(given.sum(axis=1) + true.sum(axis=1), 1)
    if words is not None:
        correct, given, true = correct[:, words], given[:, words], true[:, words]
    rng, images = np.random.default_rng(seed), len(index)
    parts = []
    for start in range(0, samples, _AT_A_TIME):
        count = min(_AT_A_TIME, samples - start)
        weights = rng.multinomial(images, np.full(images, 1 / images), size=count).astype(np.float64)
        hits, told, there = weights @ correct, weights @ given, weights @ true
        precision = np.divide(hits, told, out=np.zeros_like(hits), where=told > 0).mean(axis=1)
        recall = np.divide(hits, there, out=np.zeros_like(hits), where=there > 0).mean(axis=1)
        both = precision + recall
        f1 = np.divide(2 * precision * recall, both, out=np.zeros(count), where=both > 0)
        parts.append((precision, recall, f1, (hits > 0).sum(axis=1).astype(np.float64), weights @ per_image / images))
    return ResampledScores(*(np.concatenate(each) for each in zip(*parts, strict=True)))
