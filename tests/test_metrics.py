"""Metrics: an example by hand and plain loops over words and images say what the protocol gives."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse
from sklearn.calibration import calibration_curve

from gpuannot.metrics import Scores, WordCounts, evaluate, harmonic_mean, mean_average_precision, reliability, word_counts


def truth_of(*rows: list[int], dtype: type = np.float32) -> sparse.csr_array:
    return sparse.csr_array(np.array(rows, dtype=dtype))


def random_case(seed: int) -> tuple[NDArray, sparse.csr_array, NDArray]:
    """Annotations, truth and scores; some words are never given, some never true, some images have no word."""
    rng = np.random.default_rng(seed)
    images, words, k = int(rng.integers(1, 40)), int(rng.integers(6, 30)), int(rng.integers(1, 6))
    truth = (rng.random((images, words)) < rng.uniform(0, 0.4, words)).astype(np.float32)
    truth[::7] = 0
    index = np.stack([rng.permutation(words // 2 + 3)[:k] for _ in range(images)])
    scores = rng.integers(0, 5, (images, words)) / 4  # ties are common
    return index, sparse.csr_array(truth), scores


# ---- the protocol


# Words a, b, c, d. Given to three images: a d, b a, b d. True: a b, b, c.
GIVEN = np.array([[0, 3], [1, 0], [1, 3]])
TRUTH = truth_of([1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0])


def test_an_example_by_hand() -> None:
    counts = word_counts(GIVEN, TRUTH)
    assert counts.correct.tolist() == [1, 1, 0, 0]  # c
    assert counts.given.tolist() == [2, 2, 0, 2]  # p: c is never given
    assert counts.true.tolist() == [1, 2, 1, 0]  # g: d is never true
    assert all(part.dtype == np.int64 for part in (counts.correct, counts.given, counts.true))
    assert counts.precision.tolist() == [0.5, 0.5, 0, 0] and counts.recall.tolist() == [1, 0.5, 0, 0]
    scores = evaluate(GIVEN, TRUTH)
    assert (scores.precision, scores.recall) == (0.25, 0.375)  # over all four words
    assert scores.f1 == pytest.approx(0.3)  # of the means; the mean of the words' own F1 is 0.2917
    assert scores.n_plus == 2 and scores.words_given == 3
    assert scores.image_precision == pytest.approx(1 / 3) and scores.image_recall == pytest.approx(0.5)
    assert scores.image_f1 == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert scores.micro_precision == pytest.approx(2 / 6) and scores.micro_recall == pytest.approx(2 / 4)
    assert scores.micro_f1 == pytest.approx(0.4)
    assert (scores.images, scores.words, scores.k, scores.mean_average_precision) == (3, 4, 2, None)


def test_perfect_and_hopeless_annotations() -> None:
    truth = truth_of([1, 0, 0], [0, 1, 0], [0, 0, 1])
    perfect = evaluate(np.array([[0], [1], [2]]), truth, truth.toarray())
    fractions = {name: value for name, value in perfect.to_dict().items() if name not in ("images", "words", "k")}
    assert fractions == dict.fromkeys(fractions, 1) | {"n_plus": 3, "words_given": 3}
    hopeless = evaluate(np.array([[1], [2], [0]]), truth, -truth.toarray())
    assert (hopeless.f1, hopeless.image_f1, hopeless.micro_f1, hopeless.n_plus, hopeless.words_given) == (0, 0, 0, 0, 3)
    assert hopeless.mean_average_precision == pytest.approx(1 / 3)


def plain_scores(index: NDArray, truth: NDArray) -> Scores:
    """The protocol's text, word by word and image by image."""
    images, words = truth.shape
    given = [set(row) for row in index.tolist()]
    true = [{w for w in range(words) if truth[i, w]} for i in range(images)]
    precision, recall, n_plus, words_given = [], [], 0, 0
    for w in range(words):
        p = sum(w in row for row in given)
        g = sum(w in row for row in true)
        c = sum(w in row and w in own for row, own in zip(given, true, strict=True))
        precision.append(c / p if p else 0.0)
        recall.append(c / g if g else 0.0)
        n_plus += recall[-1] > 0
        words_given += p > 0

    def f1(p: float, r: float) -> float:
        return 2 * p * r / (p + r) if p + r else 0.0

    hits = [len(row & own) for row, own in zip(given, true, strict=True)]
    image_precision = [hit / len(row) for hit, row in zip(hits, given, strict=True)]
    image_recall = [hit / len(own) if own else 0.0 for hit, own in zip(hits, true, strict=True)]
    micro = sum(hits) / sum(map(len, given)), sum(hits) / max(1, sum(map(len, true)))
    mean_p, mean_r = sum(precision) / words, sum(recall) / words
    return Scores(
        mean_p, mean_r, f1(mean_p, mean_r), n_plus, words_given,
        sum(image_precision) / images, sum(image_recall) / images, sum(map(f1, image_precision, image_recall)) / images,
        *micro, f1(*micro), images, words, index.shape[1],
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(25))
def test_plain_loops(seed: int) -> None:
    index, truth, _ = random_case(seed)
    found, expected = evaluate(index, truth).to_dict(), plain_scores(index, truth.toarray()).to_dict()
    for name, value in expected.items():
        assert found[name] == (pytest.approx(value, abs=1e-12) if isinstance(value, float) else value), name
        assert type(found[name]) is type(value)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.float32, np.float64])
def test_truth_and_annotations_of_any_type(dtype: type) -> None:
    expected = evaluate(GIVEN, TRUTH)
    assert evaluate(GIVEN.astype(np.int32), sparse.csr_array(TRUTH.astype(dtype))) == expected
    assert evaluate(np.asfortranarray(GIVEN[:, ::-1]), TRUTH) == expected  # the order of an image's words decides nothing here


def test_every_word_given_to_every_image() -> None:
    index, truth, _ = random_case(3)
    words = truth.shape[1]
    scores = evaluate(np.tile(np.arange(words), (len(index), 1)), truth)
    carried = np.asarray(truth.sum(axis=0)).ravel()
    assert scores.recall == pytest.approx((carried > 0).mean()) and scores.precision == pytest.approx((carried / len(index)).mean())
    assert scores.n_plus == (carried > 0).sum() and scores.words_given == words and scores.micro_recall == 1


def test_input_is_left_as_it_was() -> None:
    given, truth = GIVEN.copy(), TRUTH.copy()
    evaluate(given, truth, np.zeros((3, 4)))
    assert np.array_equal(given, GIVEN) and (truth != TRUTH).nnz == 0


@pytest.mark.parametrize(("p", "r", "f1"), [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 1), (0.25, 0.375, 0.3)])
def test_harmonic_mean(p: float, r: float, f1: float) -> None:
    assert harmonic_mean(p, r) == pytest.approx(f1)


def test_ratios_of_words_never_given_or_never_true_are_zero() -> None:
    none = np.zeros(3, dtype=np.int64)
    counts = WordCounts(none, none, none)
    assert counts.precision.tolist() == counts.recall.tolist() == [0, 0, 0]


# ---- mean average precision


def plain_average_precision(true: list[bool], scores: list[float]) -> float:
    """Σ (R_i − R_{i−1})·P_i over the falling distinct scores: images with one score come together."""
    total, before, value = sum(true), 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        given = [own for own, score in zip(true, scores, strict=True) if score >= threshold]
        recall = sum(given) / total
        value += (recall - before) * sum(given) / len(given)
        before = recall
    return value


@pytest.mark.parametrize("seed", range(25))
def test_mean_average_precision(seed: int) -> None:
    index, truth, scores = random_case(seed + 100)
    dense = truth.toarray() > 0
    words = [w for w in range(dense.shape[1]) if dense[:, w].any()]
    each = [plain_average_precision(dense[:, w].tolist(), scores[:, w].tolist()) for w in words]
    expected = pytest.approx(sum(each) / max(1, len(each)), abs=1e-12)
    assert mean_average_precision(scores, truth) == expected
    assert evaluate(index, truth, scores).mean_average_precision == mean_average_precision(scores, truth)
    shuffled = np.random.default_rng(seed).permutation(len(dense))
    assert mean_average_precision(scores[shuffled], truth[shuffled]) == expected


def test_mean_average_precision_by_hand() -> None:
    truth = truth_of([1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0])
    scores = np.array([[9, 1, 0], [8, 1, 5], [7, 1, 5], [6, 1, 5]])
    # Word 0: right at ranks 1 and 3, (1 + 2/3) / 2. Word 1: all tie, 1/2. Word 2 is never true and does not count.
    assert mean_average_precision(scores, truth) == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)


def test_mean_average_precision_without_a_true_word() -> None:
    truth = sparse.csr_array((3, 4), dtype=np.float32)
    assert mean_average_precision(np.ones((3, 4)), truth) == 0
    assert evaluate(GIVEN, truth, np.ones((3, 4))).mean_average_precision == 0


@pytest.mark.parametrize("shape", [(3, 5), (3, 3), (2, 4), (4, 4), (12,)])
def test_scores_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"scores have shape .* the truth \(3, 4\)") as caught:
        evaluate(GIVEN, TRUTH, np.zeros(shape))
    assert str(shape) in str(caught.value)


def test_scores_that_are_not_numbers() -> None:
    scores = np.zeros((3, 4))
    scores[1, 1] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        mean_average_precision(scores, TRUTH)


# ---- wrong annotations


@pytest.mark.parametrize("index", [GIVEN[:2], np.vstack([GIVEN, GIVEN]), GIVEN.ravel(), GIVEN[0], GIVEN[:, :, None]])
def test_annotations_of_another_shape(index: NDArray) -> None:
    for use in (word_counts, evaluate):
        with pytest.raises(ValueError, match=r"annotations have shape .* the truth has 3 images") as caught:
            use(index, TRUTH)
        assert str(index.shape) in str(caught.value)


@pytest.mark.parametrize("word", [-2, 4, 1000])  # −1 says that there is none
def test_a_word_outside_the_vocabulary(word: int) -> None:
    index = GIVEN.copy()
    index[1, 1] = word
    with pytest.raises(ValueError, match="word indices outside 0…3"):
        word_counts(index, TRUTH)


def test_a_word_given_twice_to_one_image() -> None:
    wide = np.array([[0, 1, 2], [3, 1, 3], [0, 1, 2]])
    with pytest.raises(ValueError, match="an image was given the same word twice"):
        word_counts(wide, TRUTH)


@pytest.mark.parametrize("index", [np.empty((0, 5), int), np.empty((3, 0), int)])
def test_no_annotations(index: NDArray) -> None:
    with pytest.raises(ValueError, match="no annotations to evaluate"):
        evaluate(index, sparse.csr_array((len(index), 4)))


# ---- confidences


def test_reliability_is_scikit_learns_calibration_curve(rng: np.random.Generator) -> None:
    confidence = rng.random((300, 4))
    index = np.tile(np.arange(4), (300, 1))
    right = rng.random((300, 4)) < confidence**1.5
    index[::7, 3] = -1  # given to nobody, whatever its confidence
    truth = sparse.csr_array(right.astype(float))
    found = reliability(confidence, index, truth)
    given = index >= 0
    shares, means = calibration_curve(right[given], confidence[given], n_bins=10)
    np.testing.assert_allclose(found.right, shares)
    np.testing.assert_allclose(found.confidence, means)
    places = np.digitize(confidence[given], np.linspace(0, 1, 11)) - 1
    by_hand = sum(
        (places == b).mean() * abs(right[given][places == b].mean() - confidence[given][places == b].mean()) for b in range(10)
    )
    assert found.error == pytest.approx(by_hand) and found.pairs.sum() == given.sum()


def test_the_calibration_error_of_true_confidences_is_that_of_drawn_ones(rng: np.random.Generator) -> None:
    confidence = rng.random((60, 3)) ** 2
    confidence[0] = 0, 1, 0.5
    index = np.tile(np.arange(3), (60, 1))
    binned = reliability(confidence, index, sparse.csr_array((60, 3)))
    means = binned.confidence[np.minimum((confidence * 10).astype(int), 9)]  # a bin's confidences, alike
    drawn = (sparse.csr_array((rng.random((60, 3)) < means).astype(float)) for _ in range(2000))
    errors = [reliability(means, index, truth).error for truth in drawn]
    assert binned.error_by_chance == pytest.approx(np.mean(errors), rel=0.02)


@pytest.mark.parametrize(("confidence", "chance"), [(0.0, 0.0), (1.0, 0.0), (0.5, 0.5), (0.75, 0.375)])
def test_chance_of_one_pair(confidence: float, chance: float) -> None:
    found = reliability(np.array([[confidence]]), np.array([[0]]), sparse.csr_array([[1.0]]))
    assert found.error_by_chance == pytest.approx(chance)


@pytest.mark.parametrize(("confidence", "right", "error"), [(1.0, 1, 0.0), (0.0, 1, 1.0), (0.75, 0, 0.75)])
def test_reliability_of_one_pair(confidence: float, right: int, error: float) -> None:
    found = reliability(np.array([[confidence]]), np.array([[0]]), sparse.csr_array([[float(right)]]))
    assert found.error == error and found.pairs.sum() == 1 and found.pairs[min(9, int(confidence * 10))] == 1
    content = json.loads(json.dumps(found.to_dict()))
    assert content["right"].count(None) == 9 and content["error"] == error


def test_reliability_of_nothing() -> None:
    found = reliability(np.empty((0, 3)), np.empty((0, 3), np.int64), sparse.csr_array((0, 5)))
    assert math.isnan(found.error) and not found.pairs.any() and found.to_dict()["error"] is None
    assert math.isnan(found.error_by_chance) and found.to_dict()["error_by_chance"] is None
    one = reliability(np.array([[0.25], [0.0]]), np.array([[0], [-1]]), sparse.csr_array([[1.0], [1.0]]))
    assert one.error == 0.75 and one.pairs.sum() == 1  # an image without a word has no part in it


@pytest.mark.parametrize("wrong", [np.array([[1.5]]), np.array([[-0.1]]), np.array([[np.nan]]), np.array([[0.5, 0.5]])])
def test_wrong_confidences(wrong: NDArray) -> None:
    with pytest.raises(ValueError, match="confidences"):
        reliability(wrong, np.array([[0]]), sparse.csr_array([[1.0]]))
