"""How good annotations are: the field's protocol, and other measures under their own names.

For each word w of the vocabulary: c images correctly given w, p images given w, g test images that truly carry w. Precision is
c/p and 0 where p = 0; recall is c/g and 0 where g = 0. P and R are means over **all** words, F1 = 2PR/(P+R) of those two means,
and N+ counts the words with recall > 0.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special


@dataclass(frozen=True)
class Scores:
    """All measures of one evaluation; shares lie in 0…1.

    Attributes:
        precision: the protocol's.
        recall: the protocol's.
        f1: the protocol's.
        n_plus: the protocol's, a number of words.
        words_given: words that were given at least once, right or wrong.
        image_precision: mean over images of each image's own value.
        image_recall: likewise.
        image_f1: likewise.
        micro_precision: over all (image, word) pairs pooled.
        micro_recall: likewise.
        micro_f1: likewise.
        images: T.
        words: W.
        k: words given to each image, at most.
        mean_average_precision: mean over words with a test image; None without scores for all words.
    """

    precision: float
    recall: float
    f1: float
    n_plus: int
    words_given: int
    image_precision: float
    image_recall: float
    image_f1: float
    micro_precision: float
    micro_recall: float
    micro_f1: float
    images: int
    words: int
    k: int
    mean_average_precision: float | None = None

    def to_dict(self) -> dict[str, float | int | None]:
        return asdict(self)


@dataclass(frozen=True)
class WordCounts:
    """Counts for each word of the vocabulary, (W,) int64.

    Attributes:
        correct: c, images correctly given the word.
        given: p, images given it.
        true: g, images that truly carry it.
    """

    correct: NDArray[np.int64]
    given: NDArray[np.int64]
    true: NDArray[np.int64]

    @property
    def precision(self) -> NDArray[np.float64]:
        return _ratio(self.correct, self.given)

    @property
    def recall(self) -> NDArray[np.float64]:
        return _ratio(self.correct, self.true)


def word_counts(index: NDArray[np.integer], truth: sparse.csr_array) -> WordCounts:
    """c, p and g of every word.

    Args:
        index: (T, k) word indices given to each image, no word twice in a row, −1 for none.
        truth: (T, W) 0/1.

    Raises:
        ValueError: shapes that do not fit, an index outside the vocabulary, or a word given twice to one image.
    """
    given = indicator(index, truth)
    correct = given.multiply(truth)
    return WordCounts(*(np.asarray(matrix.sum(axis=0)).ravel().astype(np.int64) for matrix in (correct, given, truth)))


def evaluate(
    index: NDArray[np.integer],
    truth: sparse.csr_array,
    scores: NDArray[np.floating] | None = None,
    *,
    words: NDArray[np.integer] | None = None,
) -> Scores:
    """Score annotations against the truth.

    Args:
        index: (T, k) word indices given to each image, −1 where it was given fewer.
        truth: (T, W) 0/1.
        scores: (T, W), higher is more likely, for mean average precision; None leaves it out.
        words: those that the protocol's measures are about, where these are not all.

    Raises:
        ValueError: as :func:`word_counts`, no image, no word for an image, or scores of another shape than the truth.
    """
    if not index.size:
        raise ValueError("there are no annotations to evaluate")
    counts = word_counts(index, truth)
    if words is not None:
        counts = WordCounts(counts.correct[words], counts.given[words], counts.true[words])
    precision, recall = float(counts.precision.mean()), float(counts.recall.mean())
    given = indicator(index, truth)
    image_correct = np.asarray(given.multiply(truth).sum(axis=1)).ravel()
    image_true = np.asarray(truth.sum(axis=1)).ravel()
    image_precision, image_recall = image_correct / (index >= 0).sum(axis=1), _ratio(image_correct, image_true)
    micro_precision = float(image_correct.sum() / given.sum())
    micro_recall = float(image_correct.sum() / max(1, image_true.sum()))
    return Scores(
        precision=precision,
        recall=recall,
        f1=harmonic_mean(precision, recall),
        n_plus=int((counts.correct > 0).sum()),
        words_given=int((counts.given > 0).sum()),
        image_precision=float(image_precision.mean()),
        image_recall=float(image_recall.mean()),
        image_f1=float(np.mean([harmonic_mean(p, r) for p, r in zip(image_precision, image_recall, strict=True)])),
        micro_precision=micro_precision,
        micro_recall=micro_recall,
        micro_f1=harmonic_mean(micro_precision, micro_recall),
        images=len(index),
        words=len(counts.true),
        k=index.shape[1],
        mean_average_precision=None if scores is None else mean_average_precision(scores, truth),
    )


def mean_average_precision(scores: NDArray[np.floating], truth: sparse.csr_array) -> float:
    """Mean over words with a test image of the average precision of all images ranked by that word's score.

    Images with equal scores are taken together (average precision as in scikit-learn), so their order decides nothing. 0 where no
    word has a test image.

    Args:
        scores: (T, W), higher is more likely.
        truth: (T, W) 0/1.

    Raises:
        ValueError: scores of another shape than the truth, or NaN.
    """
    from sklearn.metrics import average_precision_score

    if scores.shape != truth.shape:
        raise ValueError(f"scores have shape {scores.shape}, the truth {truth.shape}")
    dense = truth.toarray() > 0
    words = np.flatnonzero(dense.any(axis=0))
    return float(sum(average_precision_score(dense[:, word], scores[:, word]) for word in words) / max(1, len(words)))


@dataclass(frozen=True)
class Reliability:
    """Whether confidences are true: of the words given with about one confidence, as many should be right.

    Attributes:
        pairs: (B,) int64, how many (image, word) pairs fall into each of B bins of equal width over 0…1.
        confidence: (B,) their mean confidence, NaN where there are none.
        right: (B,) the share of them that is right, NaN where there are none.
        error: expected calibration error, Σ_b n_b/n·|right_b − confidence_b| (Guo et al. 2017, equation 3); NaN of no pairs.
        error_by_chance: what it would be on average if the confidences were true, so few pairs being what they are,
            Σ_b n_b/n·E|X_b/n_b − confidence_b| with X_b binomial of n_b and confidence_b; NaN likewise.
    """

    pairs: NDArray[np.int64]
    confidence: NDArray[np.float64]
    right: NDArray[np.float64]

    @property
    def error(self) -> float:
        gaps = np.abs(self.right - self.confidence)[self.pairs > 0]
        return float(self.pairs[self.pairs > 0] @ gaps / self.pairs.sum()) if self.pairs.any() else float("nan")

    @property
    def error_by_chance(self) -> float:
        # De Moivre: E|X − n·p| = 2·v·(1 − p)·P(X = v), v = ⌊n·p⌋ + 1.
        pairs, share = self.pairs[self.pairs > 0], self.confidence[self.pairs > 0]
        above = np.minimum(np.floor(pairs * share) + 1, pairs)
        ways = special.gammaln(pairs + 1) - special.gammaln(above + 1) - special.gammaln(pairs - above + 1)
        likely = np.exp(ways + special.xlogy(above, share) + special.xlog1py(pairs - above, -share))
        return float((2 * above * (1 - share) * likely).sum() / pairs.sum()) if len(pairs) else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, None for NaN."""
        shares = {
            name: [None if np.isnan(value) else float(value) for value in vars(self)[name]] for name in ("confidence", "right")
        }
        errors = {name: getattr(self, name) if self.pairs.any() else None for name in ("error", "error_by_chance")}
        return {"pairs": self.pairs.tolist(), **shares, **errors}


def reliability(
    confidence: NDArray[np.floating], index: NDArray[np.integer], truth: sparse.csr_array, *, bins: int = 10
) -> Reliability:
    """How true confidences are.

    Args:
        confidence: (T, k), 0…1, of the words given.
        index: (T, k) their numbers, −1 for none.
        truth: (T, W) 0/1.
        bins: B.

    Raises:
        ValueError: as :func:`word_counts`, but an image may have no word; confidences of another shape or outside 0…1, or less
            than one bin.
    """
    if confidence.shape != index.shape or bins < 1:
        raise ValueError(f"confidences have shape {confidence.shape}, the words {index.shape}, and there are {bins} bins")
    _sorted(index, truth)
    given = index >= 0
    values = confidence[given].astype(np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("confidences must lie in 0…1")
    rows = np.nonzero(given)[0]
    right = np.asarray(truth[rows, index[given]]).ravel() > 0 if len(rows) else np.empty(0, bool)
    places = np.minimum((values * bins).astype(np.int64), bins - 1)
    pairs = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(places, weights=of, minlength=bins) / pairs for of in (values, right.astype(np.float64))]
    return Reliability(pairs, *means)


def harmonic_mean(precision: float, recall: float) -> float:
    """2PR/(P+R), and 0 where both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def _ratio(numerator: NDArray[np.number], denominator: NDArray[np.number]) -> NDArray[np.float64]:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)


def indicator(index: NDArray[np.integer], truth: sparse.csr_array) -> sparse.csr_array:
    """The words given, as a matrix (T, W) CSR float64 of ones.

    Args:
        index: (T, k) word indices given to each image, −1 for none.
        truth: (T, W), of that shape.

    Raises:
        ValueError: as :func:`word_counts`, or an image without a word.
    """
    ordered = _sorted(index, truth)
    given = ordered >= 0
    if index.size and not given.any(axis=1).all():
        raise ValueError("an image was given no word")
    indptr = np.concatenate([[0], np.cumsum(given.sum(axis=1))])
    return sparse.csr_array((np.ones(indptr[-1]), ordered[given], indptr), shape=truth.shape)


def _sorted(index: NDArray[np.integer], truth: sparse.csr_array) -> NDArray[np.integer]:
    """Word indices (T, k), ascending in each row, if they are such as the truth (T, W) can judge; else ValueError."""
    images, words = truth.shape
    if index.ndim != 2 or len(index) != images:
        raise ValueError(f"annotations have shape {index.shape}, the truth has {images} images")
    if index.size and not (index.min() >= -1 and index.max() < words):
        raise ValueError(f"annotations hold word indices outside 0…{words - 1}")
    ordered = np.sort(index, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise ValueError("an image was given the same word twice")
    return ordered
