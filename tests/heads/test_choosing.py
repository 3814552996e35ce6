"""What a fit chooses by itself, against refits without each image, brute force and scikit-learn."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.metrics import f1_score, label_ranking_average_precision_score

from gpuannot import AnnotatorConfig
from gpuannot.config import OBJECTIVES
from gpuannot.heads import calibration, choosing
from gpuannot.heads.calibration import fit_rising, gaussian_odds, random_numbers
from gpuannot.heads.choosing import (
    DEFAULT_REGULARISATION,
    REGULARISATIONS,
    choose_regularisation,
    choose_threshold,
    left_out_scores,
    most_words,
    reached,
)
from gpuannot.heads.projection import JointProjection, projection_sample
from gpuannot.heads.ridge import RidgeSystem
from gpuannot.heads.systems import LeftOutSample
from gpuannot.heads.word_head import WordHead, new_bank
from gpuannot.metrics import evaluate
from gpuannot.model.ranker import WordRanker

WORDS = tuple(f"word {number}" for number in range(12))


def data(count: int, dimension: int = 20, seed: int = 0) -> tuple[NDArray[np.float32], sparse.csr_array]:
    """Vectors of words from frequent to rare, in much noise; some images carry none."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, len(WORDS))) < np.geomspace(0.5, 0.02, len(WORDS))).astype(np.float64)
    means = np.random.default_rng(99).standard_normal((len(WORDS), dimension))
    return (labels @ means + 2 * rng.standard_normal((count, dimension))).astype(np.float32), sparse.csr_array(labels)


def tensors(count: int, **changes: Any) -> tuple[torch.Tensor, torch.Tensor]:
    vectors, labels = data(count, **changes)
    return torch.from_numpy(vectors).double(), torch.from_numpy(labels.toarray())


def of(rows: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Centred inner products, and their trace over the dimension."""
    centred = rows - rows.mean(dim=0)
    gram = centred @ centred.T
    return gram, float(gram.trace()) / rows.shape[1]


@pytest.mark.parametrize(("count", "dimension"), [(31, 5), (12, 40)])
def test_left_out_scores_are_those_of_refits(count: int, dimension: int) -> None:
    rows, truth = tensors(count, dimension=dimension)
    vectors, labels = rows.numpy(), truth.numpy()
    found = dict(left_out_scores(*of(rows), truth))
    assert tuple(found) == REGULARISATIONS
    for multiple in (REGULARISATIONS[0], 1.6):
        penalty = multiple * np.square(vectors - vectors.mean(axis=0)).sum() / dimension
        for image in range(count):
            others = np.arange(count) != image
            mean = vectors[others].mean(axis=0)
            centred = vectors[others] - mean
            weights = np.linalg.solve(centred.T @ centred + penalty * np.eye(dimension), centred.T @ labels[others])
            expected = labels[others].mean(axis=0) + (vectors[image] - mean) @ weights - labels.mean(axis=0)
            np.testing.assert_allclose(found[multiple][image], expected, atol=1e-9)


@pytest.mark.parametrize("words", [2, 5, 12])
def test_what_is_reached_is_what_the_field_measures(words: int) -> None:
    rng = np.random.default_rng(words)
    truth = rng.random((40, words)) < 0.3
    ranked = rng.standard_normal((40, words))
    some = truth.any(axis=1)
    found = reached(torch.from_numpy(ranked), torch.from_numpy(truth.astype(float)), "images")
    assert found.value == pytest.approx(label_ranking_average_precision_score(truth[some], ranked[some]))
    given = np.argsort(-ranked, axis=1)[:, : min(5, -(-words // 2))]
    expected = evaluate(given, sparse.csr_array(truth.astype(float))).f1
    assert reached(torch.from_numpy(ranked), torch.from_numpy(truth.astype(float)), "words").value == pytest.approx(expected)


def test_resampled_values_are_those_of_drawn_images() -> None:
    rng = np.random.default_rng(1)
    truth, ranked = rng.random((50, 12)) < 0.3, rng.standard_normal((50, 12))
    draws = np.random.default_rng(0).multinomial(50, np.full(50, 1 / 50), size=100)
    for objective in OBJECTIVES:
        found = reached(torch.from_numpy(ranked), torch.from_numpy(truth.astype(float)), objective)
        for draw in (0, 99):
            rows = np.repeat(np.arange(50), draws[draw])
            again = reached(torch.from_numpy(ranked[rows]), torch.from_numpy(truth[rows].astype(float)), objective)
            assert found.resampled[draw] == pytest.approx(again.value)


def test_the_regularisation_is_the_largest_that_serves_left_out_images_as_well_as_the_best() -> None:
    rows, truth = tensors(300)
    carried = truth[:, truth.sum(dim=0) > 0]
    found = {
        multiple: reached(scores + carried.mean(dim=0), carried, "images")
        for multiple, scores in left_out_scores(*of(rows), carried)
    }
    best = max(found.values(), key=lambda each: each.value)
    chosen = choose_regularisation(*of(rows), truth, "images", "none")
    gaps = {multiple: best.value - each.value for multiple, each in found.items()}
    errors = {multiple: np.std(best.resampled - each.resampled, ddof=1) for multiple, each in found.items()}
    assert gaps[chosen] <= errors[chosen] and all(gaps[more] > errors[more] for more in found if more > chosen)
    assert len(set(gaps.values())) > 5 and chosen < max(found)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("count", [1, 2])
def test_too_few_images_to_choose_by(count: int, objective: str) -> None:
    rows, truth = tensors(count)
    assert choose_regularisation(*of(rows), torch.ones_like(truth), objective, "odds") == DEFAULT_REGULARISATION


def test_the_threshold_is_that_of_the_highest_f1_of_an_image() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random((200, 6))
    right = rng.random((200, 6)) < confidence**2
    carried = right.sum(axis=1) + rng.integers(0, 2, 200)
    found = choose_threshold(confidence, right, carried)

    def by_scikit_learn(threshold: float) -> float:
        kept = (confidence >= threshold) | (confidence == confidence.max(axis=1, keepdims=True))
        some = carried > 0
        missed = np.arange(3) < (carried - right.sum(axis=1))[:, None]  # words that were not among the six
        truth, given = np.hstack([right, missed]), np.hstack([kept, np.zeros_like(missed)])
        return float(f1_score(truth[some], given[some], average="samples"))

    assert by_scikit_learn(found) == pytest.approx(max(by_scikit_learn(step / 100) for step in range(100)))
    assert by_scikit_learn(found) > by_scikit_learn(0.0) + 0.02
    assert choose_threshold(confidence[:0], right[:0], carried[:0]) == 0


@pytest.mark.parametrize(("carried", "known", "expected"), [([1, 2], 9, 5), ([9] * 30 + [1], 20, 9), ([9] * 30, 7, 7), ([0], 3, 3)])
def test_most_words(carried: list[int], known: int, expected: int) -> None:
    labels = torch.zeros(len(carried), 20)
    for row, count in enumerate(carried):
        labels[row, :count] = 1
    assert most_words(labels, known) == expected


def settled(count: int, **changes: Any) -> tuple[Any, WordHead, NDArray[np.float32]]:
    vectors, labels = data(count)
    config = AnnotatorConfig(head="ridge", **changes)
    bank = new_bank(config, WORDS, vectors.shape[1], "cpu").partial_fit(vectors, labels, np.arange(count))
    head = WordHead(config)
    head.settle(bank)
    return bank, head, vectors


def test_words_of_images_come_in_order_of_confidence_and_confidences_are_true() -> None:
    bank, head, _ = settled(1500)
    assert head.chosen is not None and head.chosen.threshold is not None and 0 <= head.chosen.balance <= 1
    vectors, labels = data(3000, seed=5)
    ranker = WordRanker(head, torch.device("cpu"))
    index, distance = ranker.rank(bank, vectors, 5)
    confidence = ranker.confidence(bank, index, distance)
    assert (np.diff(confidence, axis=1) <= 1e-6).all()
    right = np.take_along_axis(labels.toarray() > 0, index, 1)
    for low in np.arange(0, 1, 0.2):
        among = (confidence >= low) & (confidence < low + 0.2)
        assert among.sum() < 300 or abs(right[among].mean() - confidence[among].mean()) < 0.06
    on_device = ranker.confidence(bank, index, torch.from_numpy(distance))
    np.testing.assert_allclose(on_device.numpy(), confidence, rtol=1e-5, atol=1e-7)


def test_a_word_that_scores_less_than_nothing_is_unlikely_and_no_nan() -> None:
    bank, head, vectors = settled(300)
    ranker = WordRanker(head, torch.device("cpu"))
    index, distance = ranker.rank(bank, vectors, len(bank.known))
    confidence = ranker.confidence(bank, index, distance)
    assert (distance > 0).any() and np.isfinite(confidence).all() and confidence[distance > 0].max() < 1e-3


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_beyond_the_sample_all_images_have_a_say(objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a value that is too large, it is halved for as long as the images of the sample, left out of all, gain."""
    monkeypatch.setattr(calibration, "SAMPLE_IMAGES", 400)
    monkeypatch.setattr(choosing, "REGULARISATIONS", (12.8,))
    bank, head, vectors = settled(1500, objective=objective)
    assert head.chosen is not None
    labels = torch.from_numpy(data(1500)[1].toarray())
    sample = calibration.SampledImages(0)
    sample.add(np.arange(1500), vectors, data(1500)[1])
    rows, truth, values = sample.vectors(torch.device("cpu")), sample.labels(torch.device("cpu")), []
    for step in range(12):
        system = RidgeSystem(bank, 12.8 / 2**step * np.square(vectors - vectors.mean(axis=0)).sum() / 20)
        scores = system.left_out_scores(rows, truth, torch.arange(len(WORDS)))
        odds = gaussian_odds(system.left_out(torch.from_numpy(bank.sums)), labels.sum(dim=0))
        ranked = odds.slope * scores + odds.offset if objective == "words" else scores + labels.mean(dim=0)
        values.append(reached(ranked, truth, objective))
    gains = np.append([after.value > before.value for before, after in pairwise(values)], False)
    steps = int(np.flatnonzero(~gains)[0])
    assert steps > 0 or objective == "words"
    assert head.chosen.regularisation == 12.8 / 2**steps
    given = AnnotatorConfig(head="ridge", objective=objective, regularisation=head.chosen.regularisation)
    again = WordHead(given)
    again.settle(bank)
    assert again.penalty == head.penalty and head._system is not None and head._system.penalty == head.penalty


def test_what_is_told_is_not_chosen() -> None:
    _, head, _ = settled(300, regularisation=3.0, balance=0.25)
    assert head.chosen is not None and head.chosen[:2] == (3.0, 0.25)
    _, head, _ = settled(300, objective="words")
    assert head.chosen is not None and head.chosen[1:] == (1.0, None, 5) and head.calibration == "odds"


@pytest.mark.parametrize(("head", "quadratic"), [("ridge", 0), ("ridge", 8), ("kernel", 0)])
def test_scores_of_images_that_the_projection_was_learnt_from_are_as_high_as_those_of_others(head: str, quadratic: int) -> None:
    """In 2,000 dimensions 400 images have components of their own: without the scale their scores are a fifth lower, or more."""
    vectors, labels = data(1400, dimension=2000)
    config = AnnotatorConfig(
        head=head, projection=100, quadratic=quadratic, n_components=20, n_centers=100, regularisation=0.3, balance=0.0
    )
    keys = random_numbers(np.arange(400), config.seed)
    projection = JointProjection(100, quadratic).fit(
        torch.from_numpy(vectors[:400][projection_sample(np.arange(400), 4096, config.seed)])
    )
    projected = projection.transform(torch.from_numpy(vectors)).numpy()
    bank = new_bank(config, WORDS, projection.dimension, "cpu").partial_fit(projected[:400], labels[:400], np.arange(400))
    bank.drop = lambda _: None  # type: ignore[method-assign]
    words = WordHead(config)
    words.settle(bank)
    system, known = words.solved(bank)
    sample = LeftOutSample(config, bank)
    left_out = sample.scores(system, known)
    order = np.argsort(keys, kind="stable")
    np.testing.assert_array_equal(sample.labels.numpy(), labels.toarray()[order])
    index, distance = WordRanker(words, torch.device("cpu")).rank(bank, projected[400:], len(WORDS))
    later = np.take_along_axis(-distance, np.argsort(index, axis=1), axis=1) - bank.counts / 400
    power = [float(np.sqrt((part**2).mean())) for part in (left_out[:50].numpy(), left_out[50:].numpy(), later)]
    assert power[1] == pytest.approx(power[0], rel=1e-6) and power[0] == pytest.approx(power[2], rel=0.15)
    fitted = order[50:]
    if head == "ridge":
        raw = system.left_out_scores(torch.from_numpy(projected[fitted]).double(), sample.labels[50:], known)
    else:
        raw = system.left_out_scores(fitted, own=True)
    assert float(raw.square().mean().sqrt()) < 0.85 * power[2]


@pytest.mark.parametrize(("odds", "level"), [(1.5, 4.0), (0.0, 6.0), (3.0, 0.0)])
def test_a_rising_curve_is_the_most_likely_one(odds: float, level: float) -> None:
    rng = np.random.default_rng(0)
    score = np.exp(rng.uniform(-5, 0.3, 40_000))
    right = rng.random(40_000) < 1 / (1 + np.exp(-(odds * np.log(score) + level * score - 2)))
    curve = fit_rising(score, right)
    assert curve is not None and curve.odds >= 0 and curve.level >= 0 and curve.prior == 0
    assert np.allclose([curve.odds, curve.level, curve.constant], [odds, level, -2], atol=0.35)


def test_no_curve_where_scores_say_nothing_or_the_contrary() -> None:
    score = np.exp(np.random.default_rng(0).uniform(-5, 0.3, 2000))
    assert fit_rising(score, score > 0) is None and fit_rising(score, score < 0) is None
    assert fit_rising(score, score < 0.3) is None
