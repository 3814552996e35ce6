"""What labelled images say against their own labels: every image's words predicted by all the other images, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import expit
from scipy.stats import rankdata

from ..config import REGRESSIONS
from ..heads.calibration import fit_logistic, random_numbers
from ..heads.kept_images import KeptImages
from ..heads.left_out import left_out_predictions
from ..heads.products import product
from ..system.partitions import PARTITION
from .encoder import Learnt
from .word_model import WordModel

#: Words of fewer images are not judged: a prediction by two or three other images says little.
FEW = 5
#: Cosine of two image vectors from which on the images are nearly the same, where these have :data:`LEAST_COORDINATES`.
ALIKE = 0.95
#: Vectors of fewer, as a projection of few images makes them, are often close by chance: no images are said to be alike.
LEAST_COORDINATES = 8
#: Words that are told apart more often than this are not named.
TOLD_APART = 0.75

# Pairs of image and word that the curve from predictions to probabilities is learnt from, at most.
_PAIRS = 1_000_000
# Pairs of words that are looked at closely: those whose images have scores that are on average the least apart.
_PAIRS_OF_WORDS = 2000
# Images that carry one of two words alone, without which nothing is said of the two.
_ALONE = 10
# Standard errors by which images that carry a word have to be likelier to, on average, for its labels to be judged.
_ERRORS = 3
# Predictions below this say no more against a word.
_LEAST = 1e-3
# Images that are compared with all others at once.
_BLOCK = 256
# Pairs of images that are listed, at most.
_MOST_ALIKE = 1000


class Doubt(NamedTuple):
    """An image's word, how likely it is by all the other images, and how likely it is on average for the images that carry it."""

    image: int
    word: int
    probability: float
    average: float


class Alike(NamedTuple):
    """Two images that are nearly the same, and the words that only one of them carries."""

    images: tuple[int, int]
    similarity: float
    words: tuple[tuple[int, ...], tuple[int, ...]]


class Confused(NamedTuple):
    """Two words; of an image with the first alone and one with the second alone, how often the scores say which is which, 0.5 being
    chance; and how many images there are of each."""

    words: tuple[int, int]
    told_apart: float
    images: tuple[int, int]


@dataclass(frozen=True)
class Audit:
    """What is doubtful about the labels of N images.

    Attributes:
        probability: (N, W) float32, how likely each word is for each image by all the others; NaN for words that are not judged.
        wrong: words that images carry and that are no likelier than for the average image without them; first those that are least
            likely beside what they are for the average image with them.
        missing: words that images do not carry and that are as likely as for the average image with them, likeliest first.
        alike: pairs of images that are nearly the same and carry different words, the most alike first.
        confused: pairs of words that are hardly told apart, those nearest to chance first.
        few: words of fewer than :data:`FEW` images, with their number, fewest first; their labels are not judged.
    """

    probability: NDArray[np.float32]
    wrong: tuple[Doubt, ...]
    missing: tuple[Doubt, ...]
    alike: tuple[Alike, ...]
    confused: tuple[Confused, ...]
    few: tuple[tuple[int, int], ...]


def audit(learnt: WordModel, vectors: NDArray[np.float32], labels: sparse.csr_array) -> Audit:
    """Hold the labels of images against what all the other images say.

    Each image is scored as if it had been left out (:func:`~gpuannot.heads.left_out.left_out_predictions`), and one logistic curve
    over all images and words makes probabilities of the predictions. A word counts as wrong or missing by the rule of confident
    learning (Northcutt et al., 2021): it is no likelier than for the average image that is not labelled so, or as likely as for the
    average image that is; nothing is said of words that are no likelier, beyond chance, for images with the label than for others.

    Args:
        learnt: what :func:`regression_of` makes: it has learnt these images, in this order, and no others.
        vectors: (N, D), of the images.
        labels: (N, W) 0/1.
    """
    predictions = left_out_predictions(learnt.head, learnt.bank_, _on_device(learnt, vectors), labels)
    carried = labels.toarray() > 0
    counts = carried.sum(axis=0)
    judged = counts >= FEW
    probability = np.full(predictions.shape, np.nan, np.float32)
    probability[:, judged] = probabilities(predictions[:, judged], carried[:, judged])
    few = [(int(word), int(counts[word])) for word in np.argsort(counts, kind="stable") if not judged[word]]
    return Audit(
        probability,
        *_doubts(probability, carried),
        _alike(_unit(learnt, vectors), carried),
        _confused(predictions, carried, np.flatnonzero(judged)),
        tuple(few),
    )


def regression_of(model: WordModel, vectors: NDArray[np.float32], labels: sparse.csr_array, vocabulary: Sequence[str]) -> WordModel:
    """A word model over the encoder of ``model`` that has learnt these images, vectors (N, D) labelled (N, W), and no others.

    Its head is that of ``model`` where that is ``ridge`` or ``kernel``, else ``ridge``.
    """
    encoder = model.encoder
    if model.config.head not in REGRESSIONS:
        stages = (getattr(encoder, f"{stage}_", None) for stage in Learnt._fields)
        encoder = encoder.sharing_trunk(Learnt(*stages), head="ridge")
    return learn_vectors(WordModel(encoder), vectors, labels, vocabulary)


def learn_vectors(model: WordModel, vectors: NDArray[np.float32], labels: sparse.csr_array, vocabulary: Sequence[str]) -> WordModel:
    """Let a word model learn images by their vectors (N, D), as a fit does, once its encoder has learnt."""
    parts = (np.arange(start, min(start + PARTITION, len(vectors))) for start in range(0, len(vectors), PARTITION))
    model.learn(vocabulary, model.word_sums(((rows, _on_device(model, vectors[rows])) for rows in parts), labels, vocabulary))
    return model


def kept_vectors(model: WordModel, labels: sparse.csr_array, vocabulary: Sequence[str]) -> NDArray[np.float32] | None:
    """Vectors (N, D) of the images that a model of the head ``kernel`` keeps, if these are their labels (N, W); None with others,
    or where images came later."""
    kept = model.bank_.extra(KeptImages)
    if kept is None or model.vocabulary != tuple(vocabulary) or not np.array_equal(kept.keys, np.arange(labels.shape[0])):
        return None
    return None if (kept.labels != labels).nnz else kept.vectors.float().cpu().numpy()


def _on_device(model: WordModel, vectors: NDArray[np.float32]) -> Any:
    return torch.from_numpy(vectors).to(model.device) if model.encoder.extractor.on_gpu else vectors


def probabilities(predictions: NDArray[np.float32], carried: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How likely words are (N, K), by one logistic curve of the logarithms of the prediction and of the word's frequency.

    Where higher predictions do not speak for a word, all images are as likely to carry it as any: a curve that falls would read an
    image's own label from what the others lack.
    """
    images, words = predictions.shape
    evidence = np.log(np.maximum(predictions, _LEAST))
    prior = np.log(carried.mean(axis=0, dtype=np.float64))
    rows = np.argsort(random_numbers(np.arange(images), 0), kind="stable")[: max(1, _PAIRS // max(words, 1))]
    frequency = np.broadcast_to(prior, (len(rows), words))
    curve = fit_logistic(evidence[rows].ravel().astype(np.float64), frequency.ravel(), carried[rows].ravel())
    if curve is None or curve.odds <= 0:
        return np.broadcast_to(np.exp(prior), predictions.shape).astype(np.float32)
    return np.asarray(expit(curve.odds * evidence + curve.prior * prior + curve.constant), np.float32)


def _doubts(probability: NDArray[np.float32], carried: NDArray[np.bool_]) -> tuple[tuple[Doubt, ...], tuple[Doubt, ...]]:
    """The words that are probably wrong, and those that are probably missing, the clearest first."""
    average, elsewhere = _average(probability, carried), _average(probability, ~carried)
    counts = carried.sum(axis=0)
    error = np.sqrt(1 / np.maximum(counts, 1) + 1 / np.maximum(len(carried) - counts, 1)) * probability.std(
        axis=0, dtype=np.float64
    )
    recognised = average - elsewhere > np.maximum(_ERRORS * error, 1e-6)  # what images show of other words says nothing of labels
    wrong = np.argwhere(carried & (probability <= elsewhere) & recognised)
    missing = np.argwhere(~carried & (probability >= average) & recognised)
    found = []
    for pairs, order in ((wrong, doubt_of_carried(probability, carried)), (missing, -probability)):
        ranked = pairs[np.argsort(order[pairs[:, 0], pairs[:, 1]], kind="stable")]
        found.append(tuple(Doubt(row, word, float(probability[row, word]), float(average[word])) for row, word in ranked.tolist()))
    return found[0], found[1]


def doubt_of_carried(probability: NDArray[np.float32], carried: NDArray[np.bool_]) -> NDArray[np.float32]:
    """What orders labels by how wrong they seem, the smallest first (N, W): how likely the word is, divided by how likely it is on
    average for the images that carry it. A word that is hard to see is unlikely everywhere, and no label of it stands out."""
    return np.asarray(probability / np.maximum(_average(probability, carried), 1e-12), np.float32)


def _average(values: NDArray[np.float32], chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The mean of each column over the rows that are chosen for it, 0 where none is: (W,) of (N, W)."""
    return np.asarray((values * chosen).sum(axis=0, dtype=np.float64) / np.maximum(chosen.sum(axis=0), 1))


def _unit(model: WordModel, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """What images are compared by: their vectors, without the products of coordinates, at unit length."""
    encoder = model.encoder
    plain = vectors[:, : encoder.projection_.n_components] if encoder.config.projection else vectors
    return plain / np.maximum(np.linalg.norm(plain, axis=1, keepdims=True), 1e-12)


def _alike(unit: NDArray[np.float32], carried: NDArray[np.bool_]) -> tuple[Alike, ...]:
    rows = torch.from_numpy(unit)
    found: list[Alike] = []
    for start in range(0, len(rows) if unit.shape[1] >= LEAST_COORDINATES else 0, _BLOCK):
        values = product(rows[start : start + _BLOCK], rows[start:].T.contiguous())
        for one, other in np.argwhere(np.triu(values.numpy() >= ALIKE, 1)).tolist():
            first, second = carried[start + one], carried[start + other]
            only = tuple(tuple(np.flatnonzero(part).tolist()) for part in (first & ~second, second & ~first))
            if only[0] or only[1]:
                found.append(Alike((start + one, start + other), float(values[one, other]), (only[0], only[1])))
        found = sorted(found, key=lambda pair: -pair.similarity)[:_MOST_ALIKE]
    return tuple(found)


def _confused(predictions: NDArray[np.float32], carried: NDArray[np.bool_], judged: NDArray[np.int64]) -> tuple[Confused, ...]:
    scores = predictions[:, judged].astype(np.float64)
    scores = (scores - scores.mean(axis=0)) / np.maximum(scores.std(axis=0), 1e-12)
    has = carried[:, judged]
    labels, counts = has.astype(np.float64), has.sum(axis=0)
    alone = counts[:, None] - labels.T @ labels  # images that carry the one word and not the other
    mean = (labels.T @ scores) / np.maximum(counts, 1)[:, None]  # of the score of each word, over the images of each
    apart = mean.diagonal()[:, None] + mean.diagonal() - mean - mean.T
    pairs = np.argwhere(np.triu((alone >= _ALONE) & (alone.T >= _ALONE), 1))
    pairs = pairs[np.argsort(apart[pairs[:, 0], pairs[:, 1]], kind="stable")[:_PAIRS_OF_WORDS]]
    found = []
    for first, second in pairs.tolist():
        alone_in = has[:, first] & ~has[:, second], has[:, second] & ~has[:, first]
        images = int(alone_in[0].sum()), int(alone_in[1].sum())
        differences = [scores[rows, first] - scores[rows, second] for rows in alone_in]
        ranks = rankdata(np.concatenate(differences))[: images[0]].sum()
        # Less than half is chance too: an image left out takes its own label out of what the others say.
        told_apart = max(0.5, float((ranks - images[0] * (images[0] + 1) / 2) / (images[0] * images[1])))
        if told_apart <= TOLD_APART:
            found.append(Confused((int(judged[first]), int(judged[second])), told_apart, images))
    return tuple(sorted(found, key=lambda pair: (pair.told_apart, -min(pair.images))))
