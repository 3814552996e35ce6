"""Heads against independent solvers: scikit-learn's ridge, NumPy's least squares, leave-one-out by refitting."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression, Ridge

from gpuannot import AnnotatorConfig
from gpuannot.heads.calibration import SAMPLE_IMAGES, SampledImages, fit_logistic, gaussian_odds
from gpuannot.heads.cooccurrence import Cooccurrence
from gpuannot.heads.ridge import LeftOut, RidgeSystem
from gpuannot.heads.word_head import WordHead, new_bank
from gpuannot.method.ranking import LinearRanking, WordRanking
from gpuannot.method.words import WordBank

WORDS = ("sea", "sky", "sun", "tree", "boat", "bird")
D = 9


def data(count: int = 80, dimension: int = D, seed: int = 0) -> tuple[NDArray, sparse.csr_array]:
    """Vectors that depend on their words. "boat" has one image, "bird" none, some images carry no word."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, len(WORDS))) < np.array([0.5, 0.3, 0.2, 0.1, 0, 0])).astype(np.float32)
    labels[::10] = 0
    labels[count // 2, 4] = 1
    means = np.random.default_rng(99).standard_normal((len(WORDS), dimension))
    return (1 + labels @ means + rng.standard_normal((count, dimension))).astype(np.float32), sparse.csr_array(labels)


def bank_of(vectors: NDArray, labels: sparse.csr_array, **changes: Any) -> tuple[WordBank, WordHead]:
    config = AnnotatorConfig(**changes)
    bank = new_bank(config, WORDS, vectors.shape[1], "cpu").partial_fit(vectors, labels)
    head = WordHead(config)
    head.settle(bank)
    return bank, head


def scores_of(bank: WordBank, head: WordHead, vectors: NDArray) -> NDArray:
    weights, bias = (part.numpy() for part in head.linear(bank))
    return vectors.astype(np.float64) @ weights.T + bias


def mean_diagonal(vectors: NDArray) -> float:
    return float(vectors.astype(np.float64).var(axis=0).mean() * len(vectors))


# ---- ridge


@pytest.mark.parametrize("regularisation", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("balance", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("count", "dimension"), [(80, 9), (40, 60), (2, 1)])
def test_ridge_is_scikit_learns(count: int, dimension: int, balance: float, regularisation: float) -> None:
    vectors, labels = data(count, dimension)
    bank, head = bank_of(vectors, labels, head="ridge", regularisation=regularisation, balance=balance)
    targets = labels.toarray()[:, bank.known].astype(np.float64)
    targets *= (count / bank.counts[bank.known]) ** balance
    penalty = regularisation * mean_diagonal(vectors)
    assert head.penalty == pytest.approx(penalty, rel=1e-6)
    expected = Ridge(alpha=head.penalty, solver="svd").fit(vectors.astype(np.float64), targets)
    test = data(30, dimension, seed=1)[0]
    predicted = expected.predict(test.astype(np.float64)).reshape(len(test), -1)
    np.testing.assert_allclose(scores_of(bank, head, test), predicted, rtol=1e-7, atol=1e-9)


def left_out_scores(vectors: NDArray, labels: NDArray, penalty: float) -> NDArray:
    """Every image scored by a fit to all the others, centred on the mean of all images' labels: (N, W)."""
    found = np.empty(labels.shape)
    for image in range(len(vectors)):
        others = np.arange(len(vectors)) != image
        rows, mean, targets = vectors[others], vectors[others].mean(axis=0), labels[others]
        system = (rows - mean).T @ (rows - mean) + penalty * np.eye(rows.shape[1])
        weights = np.linalg.solve(system, (rows - mean).T @ targets)
        found[image] = targets.mean(axis=0) + (vectors[image] - mean) @ weights
    return found - labels.mean(axis=0)


@pytest.mark.parametrize("regularisation", [0.05, 1.0])
def test_scores_of_a_left_out_image_are_those_of_a_fit_without_it(regularisation: float) -> None:
    vectors, labels = data()
    bank, head = bank_of(vectors, labels, head="ridge", regularisation=regularisation)
    system, dense = RidgeSystem(bank, head.penalty), labels.toarray().astype(np.float64)
    found = system.left_out_scores(torch.from_numpy(vectors), torch.from_numpy(dense), torch.arange(6)).numpy()
    np.testing.assert_allclose(found, left_out_scores(vectors.astype(np.float64), dense, head.penalty), atol=1e-8)


def test_left_out_statistics_from_sums_are_near_those_of_refits() -> None:
    """Many images of like leverage, which is what the mean leverage stands for."""
    vectors, labels = data(400, 30)
    bank, head = bank_of(vectors, labels, head="ridge", regularisation=0.3)
    system, dense = RidgeSystem(bank, head.penalty), labels.toarray().astype(np.float64)
    found = system.left_out(torch.from_numpy(bank.sums))
    exact = left_out_scores(vectors.astype(np.float64), dense, head.penalty)[:, :4]
    fitted = scores_of(bank, head, vectors)[:, :4]
    assert 0.05 < float(system.leverage) < 0.2
    for name, of in (
        ("spread", lambda scores, word: scores[:, word].std()),
        ("with_word", lambda scores, word: scores[dense[:, word] > 0, word].mean()),
        ("without_word", lambda scores, word: scores[dense[:, word] == 0, word].mean()),
    ):
        for word in range(4):
            expected, biased = of(exact, word), of(fitted - fitted.mean(axis=0), word)
            assert float(getattr(found, name)[word]) == pytest.approx(expected, rel=0.04, abs=2e-3)
            assert abs(float(getattr(found, name)[word]) - expected) < 0.5 * abs(biased - expected)


def test_leverage_is_the_mean_diagonal_of_the_hat_matrix() -> None:
    vectors, labels = data()
    bank, head = bank_of(vectors, labels, head="ridge", regularisation=0.5)
    rows = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    hat = rows @ np.linalg.solve(rows.T @ rows + head.penalty * np.eye(D), rows.T) + 1 / len(rows)
    assert float(RidgeSystem(bank, head.penalty).leverage) == pytest.approx(np.trace(hat) / len(rows), rel=1e-9)


def test_odds_are_those_of_two_gaussians() -> None:
    counts = torch.tensor([1e12, 1e12, 1e12])  # so many images that no word is drawn to the others
    scores = LeftOut(*(torch.tensor(each, dtype=torch.float64) for each in ([0.5, 2.0, 1.0], [1.0, 3.0, 0.2], [-1.0, 2.0, 0.1])))
    slope, offset = gaussian_odds(scores, counts.double())
    from scipy.stats import norm

    for word in range(3):
        for s in (-1.0, 0.0, 0.7):
            spread, first, second = (float(part[word]) for part in scores)
            expected = norm.logpdf(s, first, spread) - norm.logpdf(s, second, spread)
            assert float(slope[word] * s + offset[word]) == pytest.approx(expected, abs=1e-9)


def test_odds_of_words_that_say_nothing() -> None:
    scores = LeftOut(*(torch.tensor(each, dtype=torch.float64) for each in ([1.0, 0.0, 1.0], [-5.0, 0.0, 1.0], [1.0, 0.0, 0.0])))
    slope, offset = gaussian_odds(scores, torch.tensor([100.0, 3.0, 100.0], dtype=torch.float64))
    assert 0 < float(slope[0]) <= 1e-4  # worse than chance: it hardly counts, and never against its own word
    assert float(slope[1]) == 0 and float(offset[1]) == 0  # no spread, no opinion
    rare = gaussian_odds(scores, torch.tensor([100.0, 3.0, 0.01], dtype=torch.float64)).slope[2]
    assert float(rare) < 0.05 < float(slope[2])  # few images: drawn to the median separation, which is 0 here


# ---- the other heads


def test_a_word_that_every_image_carries() -> None:
    vectors, _ = data(20)
    labels = sparse.csr_array(np.ones((20, len(WORDS)), np.float32))
    for calibration in ("odds", "none"):
        bank, head = bank_of(vectors, labels, head="ridge", calibration=calibration)
        weights, bias = head.linear(bank)
        assert torch.isfinite(weights).all() and torch.isfinite(bias).all() and weights.abs().max() < 1e-9


@pytest.mark.parametrize("vectors", [np.ones((4, D), np.float32), np.ones((1, D), np.float32)])
def test_images_that_are_all_alike(vectors: NDArray) -> None:
    labels = np.zeros((len(vectors), len(WORDS)), np.float32)
    labels[0, 0] = 1
    bank, made = bank_of(vectors, sparse.csr_array(labels), head="ridge", calibration="odds")
    weights, bias = made.linear(bank)
    assert torch.isfinite(bias).all() and weights.abs().max() < 1e-9


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("regularisation", [1e-9, 1.0])
def test_demixed_solves_equation_3(metric: str, regularisation: float) -> None:
    """Vectors that are sums of word vectors, as the equation has them, give those word vectors back; else ridge regression."""
    vectors, labels = data()
    bank, head = bank_of(vectors, labels, head="demixed", metric=metric, regularisation=regularisation)
    known, dense = bank.known, labels.toarray().astype(np.float64)
    assert head.penalty == pytest.approx(regularisation * dense.sum(axis=0).mean())
    stacked = np.vstack([dense[:, known], np.sqrt(head.penalty) * np.eye(len(known))])
    right = np.vstack([vectors.astype(np.float64), np.zeros((len(known), D))])
    expected = WordRanking(np.linalg.lstsq(stacked, right, rcond=None)[0], metric)
    found = head.ranking(bank)
    assert isinstance(found, WordRanking)
    np.testing.assert_allclose(found.word_vectors, expected.word_vectors, rtol=1e-4, atol=1e-5)


def test_the_mean_head_keeps_no_more_than_before() -> None:
    bank, head = bank_of(*data())
    assert not bank.extras and head.penalty is None
    assert np.array_equal(head.ranking(bank).word_vectors, WordRanking(bank.vectors()).word_vectors)  # type: ignore[union-attr]
    assert head.confidence(bank) is None


# ---- images and words that come and go: as a fit to what is left


SOLVED: list[dict[str, Any]] = [
    {"head": "ridge"},
    {"head": "ridge", "balance": 0.5, "calibration": "odds"},
    {"head": "ridge", "balance": 1.0, "calibration": "odds"},
    {"head": "ridge", "regularisation": 0.1, "balance": 1.0},
]


def refitted(head: WordHead, vectors: NDArray, labels: sparse.csr_array, words: tuple[str, ...] = WORDS) -> tuple[NDArray, NDArray]:
    """Weights and bias of a fit to these images with the λ of ``head``."""
    bank = new_bank(head.config, words, vectors.shape[1], "cpu").partial_fit(vectors, labels)
    fresh = WordHead(head.config)
    fresh.penalty = head.penalty
    weights, bias = fresh.linear(bank)
    return weights.numpy(), bias.numpy()


def assert_as_refitted(bank: WordBank, head: WordHead, vectors: NDArray, labels: sparse.csr_array) -> None:
    for mine, expected in zip(head.linear(bank), refitted(head, vectors, labels, bank.vocabulary), strict=True):
        np.testing.assert_allclose(mine.numpy(), expected, rtol=1e-7, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("changes", SOLVED, ids=str)
@pytest.mark.parametrize("apart", [1024, 0])
def test_images_that_come_and_go(changes: dict[str, Any], apart: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuannot.heads.ridge._APART", apart)
    vectors, labels = data(60, 40)
    more, of_more = data(12, 40, seed=5)
    bank, head = bank_of(vectors, labels, **changes)
    head.linear(bank)
    system = head._system
    for start in (0, 4, 8):
        bank.partial_fit(more[start : start + 4], of_more[start : start + 4])
        head.changed(more[start : start + 4], of_more[start : start + 4], 1)
    everything, of_everything = np.vstack([vectors, more]), sparse.csr_array(sparse.vstack([labels, of_more]))
    assert_as_refitted(bank, head, everything, of_everything)
    gone = np.array([0, 7, 30, 65])
    bank.forget(everything[gone], of_everything[gone])
    head.changed(torch.from_numpy(everything[gone]), of_everything[gone], -1)
    kept = np.setdiff1d(np.arange(72), gone)
    assert_as_refitted(bank, head, everything[kept], of_everything[kept])
    assert head._system is system  # it was updated, not solved anew


@pytest.mark.parametrize("head", ["ridge", "demixed"])
def test_words_that_no_image_carried_together_cannot_be_forgotten_together(head: str) -> None:
    bank = new_bank(AnnotatorConfig(head=head, regularisation=1.0), ("a", "b"), 3, "cpu")
    vectors = np.eye(3, dtype=np.float32)
    bank.partial_fit(vectors[:2], sparse.csr_array(np.eye(2, dtype=np.float32)))
    before = copy.deepcopy(bank)
    with pytest.raises(ValueError, match="cannot forget 1 images that carry both 'a' and 'b': the bank holds 0 that do"):
        bank.forget(vectors[2:], sparse.csr_array(np.ones((1, 2), np.float32)))
    assert np.array_equal(bank.sums, before.sums) and bank.counts.tolist() == [1, 1]
    pairs = bank.extra(Cooccurrence)
    assert pairs is not None and pairs.counts.toarray().tolist() == [[1, 0], [0, 1]]
    bank.forget(vectors[:1], sparse.csr_array(np.array([[1, 0]], np.float32)))
    assert bank.counts.tolist() == [0, 1]


def test_many_images_at_once_are_solved_anew() -> None:
    vectors, labels = data()
    bank, head = bank_of(vectors, labels, head="ridge")
    head.linear(bank)
    bank.partial_fit(vectors, labels)
    head.changed(vectors, labels, 1)
    assert head._system is None
    assert_as_refitted(bank, head, np.vstack([vectors] * 2), sparse.csr_array(sparse.vstack([labels] * 2)))


def test_all_images_gone_and_others_come() -> None:
    vectors, labels = data(3)
    bank, head = bank_of(vectors, labels, head="ridge")
    head.linear(bank)
    bank.forget(vectors, labels)
    head.changed(vectors, labels, -1)
    assert bank.known.size == 0
    other, of_other = data(30, seed=8)
    bank.partial_fit(other, of_other)
    head.changed(other, of_other, 1)
    assert_as_refitted(bank, head, other, of_other)


@pytest.mark.parametrize("changes", SOLVED, ids=str)
def test_words_that_come_and_go(changes: dict[str, Any]) -> None:
    vectors, labels = data(60, 40)
    bank, head = bank_of(vectors, labels, **changes)
    head.linear(bank)
    head.add_words(1)
    bank.add_words(["cat"])
    more = data(3, 40, seed=5)[0]
    of_more = sparse.csr_array(np.eye(7, dtype=np.float32)[[6, 6, 6]])
    bank.partial_fit(more, of_more)
    head.changed(more, of_more, 1)
    wide = sparse.csr_array(np.hstack([labels.toarray(), np.zeros((60, 1), np.float32)]))
    everything, of_everything = np.vstack([vectors, more]), sparse.csr_array(sparse.vstack([wide, of_more]))
    assert_as_refitted(bank, head, everything, of_everything)
    numbers = [0, 2, 3, 4, 5, 6]
    bank.remove_words(["sky"])
    head.keep_words(numbers)
    assert bank.vocabulary == ("sea", "sun", "tree", "boat", "bird", "cat")
    assert_as_refitted(bank, head, everything, of_everything[:, numbers])


@pytest.mark.parametrize("changes", [*SOLVED, {"head": "demixed"}, {}], ids=str)
def test_merged_words(changes: dict[str, Any]) -> None:
    vectors, labels = data(60, 40)
    bank, head = bank_of(vectors, labels, **changes)
    solved = head.config.head == "ridge"
    if solved:
        head.linear(bank)
    dense = labels.toarray()
    both = np.flatnonzero((dense[:, 0] > 0) & (dense[:, 2] > 0))
    assert len(both) > 1
    if changes:
        with pytest.raises(ValueError, match=rf"{len(both)} images carry both 'sun' and 'sea', and 0 of them were given"):
            bank.merge_words("sun", "sea")
    with pytest.raises(ValueError, match="does not carry both"):
        bank.merge_words("sun", "sea", vectors[:1], sparse.csr_array(np.zeros((1, 6))))
    with pytest.raises(ValueError, match="cannot be merged with itself"):
        bank.merge_words("sun", "sun")
    bank.merge_words("sun", "sea", vectors[both], labels[both])
    head.merge_words(2, 0, vectors[both])
    dense[:, 0] = np.maximum(dense[:, 0], dense[:, 2])
    left = sparse.csr_array(np.delete(dense, 2, axis=1))
    expected = new_bank(head.config, bank.vocabulary, 40, "cpu").partial_fit(vectors, left)
    assert bank.vocabulary == ("sea", "sky", "tree", "boat", "bird") and np.array_equal(bank.counts, expected.counts)
    np.testing.assert_allclose(bank.sums, expected.sums, rtol=1e-9, atol=1e-9)
    pairs, expected_pairs = bank.extra(Cooccurrence), expected.extra(Cooccurrence)
    if pairs is not None and expected_pairs is not None:
        assert np.array_equal(pairs.counts.toarray(), expected_pairs.counts.toarray())
    if solved:
        assert_as_refitted(bank, head, vectors, left)


def test_names_of_words() -> None:
    bank, _ = bank_of(*data(), head="ridge")
    sums = bank.sums.copy()
    assert bank.rename_word("sky", "heaven").vocabulary == ("sea", "heaven", "sun", "tree", "boat", "bird")
    assert np.array_equal(bank.sums, sums)
    bank.rename_word("heaven", "heaven")
    with pytest.raises(ValueError, match="the vocabulary has 'sea' already"):
        bank.rename_word("sun", "sea")
    with pytest.raises(ValueError, match="the vocabulary lacks 'tre'; did you mean 'tree'"):
        bank.remove_words(["sea", "tre"])
    with pytest.raises(ValueError, match="expected a non-empty word"):
        bank.rename_word("sun", " ")
    assert len(bank.vocabulary) == 6


def test_banks_of_parts_make_one_head() -> None:
    vectors, labels = data()
    whole, head = bank_of(vectors, labels, head="ridge", calibration="odds")
    merged = new_bank(head.config, WORDS, D, "cpu")
    for part in np.array_split(np.arange(80), [1, 1, 33]):
        merged.merge(new_bank(head.config, WORDS, D, "cpu").partial_fit(vectors[part], labels[part]))
    other = WordHead(head.config)
    other.settle(merged)
    assert other.penalty == pytest.approx(head.penalty, rel=1e-12)
    for mine, expected in zip(other.linear(merged), head.linear(whole), strict=True):
        np.testing.assert_allclose(mine.numpy(), expected.numpy(), rtol=1e-8, atol=1e-10)
    pairs = merged.extra(Cooccurrence)
    assert pairs is not None
    assert np.array_equal(pairs.counts.toarray(), labels.T.toarray() @ labels.toarray())
    with pytest.raises(ValueError, match="one of the banks keeps sums that the other does not"):
        merged.merge(WordBank(WORDS, D))


def test_a_bank_of_another_head() -> None:
    with pytest.raises(ValueError, match=r"keeps no sums over all images.*new_bank"):
        WordHead(AnnotatorConfig(head="ridge")).ranking(WordBank(WORDS, D).partial_fit(*data()))


# ---- confidence


def test_the_logistic_curve_is_the_most_likely_one() -> None:
    rng = np.random.default_rng(0)
    odds, prior = rng.normal(0, 5, 20_000), rng.normal(-4, 1, 20_000)
    right = rng.random(20_000) < 1 / (1 + np.exp(-(0.3 * odds + 0.8 * prior + 2)))
    curve = fit_logistic(odds, prior, right)
    assert curve is not None and np.allclose(curve, [0.3, 0.8, 2, 0, 0], atol=0.15)
    assert fit_logistic(odds, prior, right | True) is None and fit_logistic(odds, prior, right & False) is None
    right = rng.random(20_000) < 1 / (1 + np.exp(-((0.6 + 0.1 * prior) * odds + 0.8 * prior + 2)))
    curve = fit_logistic(odds, prior, right, together=True)
    assert curve is not None and np.allclose(curve, [0.6, 0.8, 2, 0, 0.1], atol=0.15)
    np.testing.assert_allclose(curve.slope(torch.tensor([-4.0, -40.0])), [curve.odds - 4 * curve.together, 0], atol=1e-6)


@pytest.mark.parametrize("changes", [*SOLVED, {"head": "ridge", "objective": "words"}], ids=str)
def test_confidences_are_those_of_left_out_scores(changes: dict[str, Any]) -> None:
    """By hand: refits without each image, its five best words, a logistic regression over those."""
    vectors, labels = data(150)
    config = AnnotatorConfig(**{"regularisation": 1.0, "balance": 0.0, **changes})
    bank = new_bank(config, WORDS, D, "cpu").partial_fit(vectors, labels)
    sample = bank.extra(SampledImages)
    assert sample is not None
    sample.add(np.arange(100), vectors[:100], labels[:100])
    sample.add(np.arange(100, 150), torch.from_numpy(vectors[100:]), labels[100:])
    head = WordHead(config)
    head.settle(bank)
    dense = labels.toarray().astype(np.float64)
    left_out = left_out_scores(vectors.astype(np.float64), dense, head.penalty)[:, :5]
    weights, bias = (part.numpy() for part in head.linear(bank))
    _, _, scale, shift = head._affine(bank)
    slope, offset = head._odds(bank, head._system, torch.arange(5))
    ranked = np.argsort(-(left_out * scale.numpy() + shift.numpy()), axis=1)[:, :5]
    together = "objective" in changes  # what a score says then depends on how frequent its word is
    logarithms = not together and changes.get("calibration") != "odds"
    share = bank.counts[:5] / 150
    prior = np.log(share) if logarithms else np.log(share / (1 - share))

    def evidence(raw: NDArray) -> NDArray:
        return np.log(np.maximum(raw + share, 1e-3)) if logarithms else raw * slope.numpy() + offset.numpy()

    picked = [np.take_along_axis(each, ranked, 1).ravel() for each in (evidence(left_out), dense[:, :5])]

    def features(evidence: NDArray, prior: NDArray) -> NDArray:
        return np.stack([evidence, prior, *([evidence * prior] if together else [])], axis=1)

    model = LogisticRegression(C=1.0, max_iter=1000).fit(features(picked[0], prior[ranked].ravel()), picked[1] > 0)
    of_evidence, of_prior, *more = model.coef_[0]
    steepness = np.maximum(of_evidence + sum(more) * prior, 0)
    assert not together or (steepness[-1] == 0 and steepness[:-1].min() > 0)
    test = data(30, seed=1)[0].astype(np.float64)
    scores = test @ weights.T + bias
    own = evidence((scores - shift.numpy()) / scale.numpy())
    expected = 1 / (1 + np.exp(-(steepness * own + of_prior * prior + model.intercept_[0])))
    curves = head.confidence(bank)
    assert curves is not None
    of = np.log(np.maximum(scores, 1e-3 * scale.numpy())) if logarithms else scores
    np.testing.assert_allclose(1 / (1 + np.exp(-(curves[0] * of + curves[1]))), expected, atol=1e-4)


@pytest.mark.parametrize("count", [0, 1, 5, SAMPLE_IMAGES, SAMPLE_IMAGES + 700])
def test_the_sample_is_uniform_and_the_same_in_any_parts(count: int) -> None:
    positions, labels = np.arange(count), sparse.csr_array(np.ones((count, 1), np.float32))
    vectors = positions.astype(np.float32)[:, None]
    one, other, part = SampledImages(3), SampledImages(3), SampledImages(3)
    one.add(positions, vectors, labels)
    for start in range(0, count, 97):
        into = part if start < count // 3 else other
        into.add(positions[start : start + 97], torch.from_numpy(vectors[start : start + 97]), labels[start : start + 97])
    other.merge(part)
    assert len(one) == len(other) == min(count, SAMPLE_IMAGES)
    if count:
        cpu = torch.device("cpu")
        chosen = one.vectors(cpu)[:, 0]
        assert torch.equal(chosen, other.vectors(cpu)[:, 0]) and len(one.labels(cpu)) == len(chosen) == len(chosen.unique())
        assert abs(float(chosen.mean()) - (count - 1) / 2) <= 3 * count / np.sqrt(12 * len(chosen))
        seeded = SampledImages(4)
        seeded.add(positions, vectors, labels)
        assert count <= SAMPLE_IMAGES or not torch.equal(seeded.vectors(cpu).sort(dim=0).values[:, 0], chosen.sort().values)


# ---- ranking


def test_linear_ranking_is_brute_force() -> None:
    rng = np.random.default_rng(0)
    for images, words, dimension, k in ((1, 1, 1, 1), (33, 40, 5, 7), (40, 260, 65, 5), (7, 13, 4, 13), (0, 3, 4, 2)):
        shapes = (images, dimension), (words, dimension), words
        vectors, weights, bias = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
        weights[words // 2], bias[words // 2] = weights[0], bias[0]  # ties
        scores = vectors.astype(np.float64) @ weights.T.astype(np.float64) + bias
        scores[:, words // 2] = scores[:, 0]
        expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        ranking = LinearRanking(weights, bias)
        index, distance = ranking.nearest(vectors, k)
        assert index.dtype == np.int64 and distance.dtype == np.float32 and np.array_equal(index, expected)
        np.testing.assert_allclose(distance, -np.take_along_axis(scores, expected, 1), rtol=1e-6, atol=1e-6)
        on_device = ranking.on(torch.device("cpu"), np.arange(words) * 3)
        device_index, device_distance = on_device.nearest(torch.from_numpy(vectors), k)
        assert np.array_equal(device_index.numpy(), index * 3)
        np.testing.assert_allclose(device_distance.numpy(), distance, rtol=1e-6, atol=1e-6)
        on_device._BLOCK_BYTES = 1  # type: ignore[misc]
        assert torch.equal(on_device.nearest(torch.from_numpy(vectors), k)[0], device_index)


def test_linear_ranking_of_many_equal_words() -> None:
    weights, bias = np.ones((300, 33), np.float32), np.zeros(300, np.float32)
    vectors = np.random.default_rng(0).standard_normal((20, 33)).astype(np.float32)
    for ranking in (LinearRanking(weights, bias), LinearRanking(weights, bias).on(torch.device("cpu"), np.arange(300))):
        given = torch.from_numpy(vectors) if not isinstance(ranking, LinearRanking) else vectors
        index, _ = ranking.nearest(given, 5)  # type: ignore[arg-type]
        assert np.array_equal(np.asarray(index), np.tile(np.arange(5), (20, 1)))


def test_linear_ranking_refuses() -> None:
    ranking = LinearRanking(np.ones((3, 2)), np.zeros(3))
    for k in (0, 4):
        with pytest.raises(ValueError, match=f"k = {k} must lie in 1…3"):
            ranking.nearest(np.ones((1, 2), np.float32), k)
        with pytest.raises(ValueError, match=f"k = {k} must lie in 1…3"):
            ranking.on(torch.device("cpu"), np.arange(3)).nearest(torch.ones(1, 2), k)
    with pytest.raises(ValueError, match="image vectors hold NaN"):
        ranking.nearest(np.full((1, 2), np.nan, np.float32), 1)
    with pytest.raises(ValueError, match="word weights hold NaN"):
        LinearRanking(np.full((3, 2), np.inf), np.zeros(3)).nearest(np.ones((1, 2), np.float32), 1)
