"""TagProp σML: neighbourhoods by hand, the objective by plain loops, and fits that no other value beats."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from gpuannot.baselines.tagprop import TagProp, fit_sigmoids
from gpuannot.errors import DataError

# Twelve images at 0, 1, … 11: largest distance 11. The words change in the middle.
PLACES = np.arange(12.0)[:, None]
LABELS = [["a"]] * 5 + [["a", "b"]] * 2 + [["b"]] * 4 + [["b", "c"]]
WORDS = ["a", "b", "c", "none"]


def scenes(images: int, seed: int = 0) -> tuple[dict[str, NDArray], NDArray]:
    """Words that follow one feature; another that is noise."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, 6, images)
    centres = np.random.default_rng(99).normal(size=(6, 5))
    labels = np.zeros((images, 8), np.float32)
    labels[np.arange(images), topic] = 1
    labels[np.arange(images), (topic + 1) % 6] = rng.random(images) < 0.5
    labels[:, 6] = rng.random(images) < 0.05
    return {"good": centres[topic] + 0.5 * rng.normal(size=(images, 5)), "noise": rng.normal(size=(images, 5))}, labels


# ---- by hand


def test_neighbours_are_the_union_over_features_by_hand() -> None:
    """Five images; of image 0 the nearest by u are 1, 2, 3, 4 and by v 4, 3, 1, 2: taken in turn 1, 4, 2, 3."""
    u, v = np.array([0.0, 1, 2, 3, 4])[:, None], np.array([0.0, 3, 4, 2, 1])[:, None]
    features = {"u": torch.from_numpy(u).float(), "v": torch.from_numpy(v).float()}
    for count, expected in ((1, [1]), (2, [1, 4]), (3, [1, 4, 2]), (4, [1, 4, 2, 3]), (9, [1, 4, 2, 3])):
        model = TagProp(neighbours=count, device="cpu").fit({"u": u, "v": v}, [["a"]] * 5)
        index, distance = model._neighbourhood(features, first=0)
        assert index[0].tolist() == expected
        by_hand = [[u[i, 0] / 4, v[i, 0] / 4] for i in expected]
        assert distance[0].numpy() == pytest.approx(np.array(by_hand))
        assert all(row not in of_row for row, of_row in enumerate(index.tolist()))  # none is its own neighbour
        other, _ = model._neighbourhood({name: rows[:1] for name, rows in features.items()})
        assert other[0].tolist() == [0, *expected][:count]  # as a new image, image 0 is nearest to itself


def test_scores_by_hand() -> None:
    """Image 4.5 has the neighbours 4, 5 (½ off), 3, 6 (1½ off); π, x and the score follow from the learnt w, α and β."""
    model = TagProp(neighbours=4, device="cpu").fit(PLACES, LABELS, WORDS)
    (w,), alpha, beta = model.weights_.tolist(), model.alpha_.tolist(), model.beta_.tolist()
    near, far = math.exp(-w * 0.5 / 11), math.exp(-w * 1.5 / 11)
    total = 2 * (near + far)
    presence = [1.0, (near + far) / total, 0.0]  # a: 3, 4, 5, 6; b: 5, 6; c: none
    expected = [a * x + b for a, x, b in zip(alpha, presence, beta, strict=False)]
    found = model.scores(np.array([[4.5]]))[0].tolist()
    assert found == pytest.approx([*expected, -math.inf], rel=1e-4)
    assert w > 0 and model.annotate(np.array([[0.0], [11.0]]), 1)[0].tolist() == [[0], [1]]


# ---- the objective


def plain_objective(
    features: dict[str, NDArray], labels: NDArray, count: int, weights: list[float], alpha: list, beta: list
) -> float:
    """n₊·Σ c_iw·ln p(y_iw | i), image by image from the others, one feature's neighbours (all others if there are several)."""
    images, words = labels.shape
    pairs = []
    for rows in features.values():
        d = np.array([[math.dist(x, y) for y in rows] for x in rows])
        pairs.append(d / d.max())
    negative = labels.sum() / (labels.size - labels.sum())
    total = 0.0
    for i in range(images):
        others = sorted((j for j in range(images) if j != i), key=lambda j: (np.float32(pairs[0][i, j]), j))
        assert len(pairs) == 1 or count >= len(others)
        others = others[:count]
        weight = np.array([math.exp(-sum(w * d[i, j] for w, d in zip(weights, pairs, strict=True))) for j in others])
        presence = weight @ labels[others] / weight.sum()
        for word in range(words):
            value = alpha[word] * presence[word] + beta[word]
            total += -math.log1p(math.exp(-value)) if labels[i, word] else -negative * math.log1p(math.exp(value))
    return total


@pytest.mark.parametrize(("names", "count"), [(["good"], 7), (["good"], 59), (["good", "noise"], 200)])
def test_the_fit_is_a_maximum_of_the_plain_objective(names: list[str], count: int) -> None:
    features, labels = scenes(60)
    features, labels = {name: features[name] for name in names}, labels[:, :6]
    model = TagProp(neighbours=count, metric="l2", device="cpu").fit(features, labels)
    weights, alpha, beta = model.weights_.tolist(), model.alpha_.tolist(), model.beta_.tolist()

    def objective(weights: list[float], alpha: list[float], beta: list[float]) -> float:
        prior = 0.005 * sum(value**2 for value in alpha + beta)
        return plain_objective(features, labels, count, weights, alpha, beta) - prior

    reached = objective(weights, alpha, beta)
    assert model.log_likelihood_ == pytest.approx(plain_objective(features, labels, count, weights, alpha, beta), rel=1e-5)
    for number in range(len(weights)):
        for factor in (0.8, 1.25):
            other = [w * factor if place == number else w for place, w in enumerate(weights)]
            assert objective(other, alpha, beta) < reached + 1e-3
    for word in (0, 3):
        for change in (-0.3, 0.3):
            shifted = [value + change if place == word else value for place, value in enumerate(alpha)]
            assert objective(weights, shifted, beta) < reached
            shifted = [value + change if place == word else value for place, value in enumerate(beta)]
            assert objective(weights, alpha, shifted) < reached


def test_a_feature_that_says_nothing_gets_little_weight() -> None:
    features, labels = scenes(200)
    model = TagProp(neighbours=100, metric="l2", device="cpu").fit(features, labels)
    good, noise = model.weights_.tolist()
    assert good > 5 * noise >= 0
    exchanged = {"good": features["noise"], "noise": features["good"]}
    model = TagProp(neighbours=100, metric="l2", device="cpu").fit(exchanged, labels)
    assert model.weights_[1] > 5 * model.weights_[0]


@pytest.mark.parametrize("seed", range(4))
def test_sigmoids_reach_the_maximum(seed: int) -> None:
    """Against SciPy's general optimiser on the plain sum, word by word."""
    rng = np.random.default_rng(seed)
    x = rng.random((80, 6)) ** 3
    y = (rng.random((80, 6)) < 1 / (1 + np.exp(2 - 6 * x))).astype(float)
    y[:, 3], y[:, 4] = x[:, 3] > 0.3, 0  # separable, and without any image
    y[:, 5] = 1
    cost = 0.05 + 0.2 * seed
    alpha, beta = fit_sigmoids(torch.from_numpy(x), torch.from_numpy(y), cost)
    for word in range(6):

        def loss(p: NDArray, word: int = word) -> float:
            value = p[0] * x[:, word] + p[1]
            terms = np.where(y[:, word] > 0, np.logaddexp(0, -value), cost * np.logaddexp(0, value))
            return float(terms.sum() + 0.005 * (p @ p))

        best = minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-7})
        found = np.array([float(alpha[word]), float(beta[word])])
        assert np.isfinite(found).all() and loss(found) <= best.fun + 1e-8
        assert found == pytest.approx(best.x, rel=1e-3, abs=1e-3)


def test_sigmoids_of_extreme_presence_stay_finite() -> None:
    x = torch.tensor([[0.0, 0, 1e-12], [0, 1, 0], [0, 1, 1e-12]], dtype=torch.float64)
    y = torch.tensor([[1.0, 0, 1], [0, 1, 0], [0, 1, 1]], dtype=torch.float64)
    alpha, beta = fit_sigmoids(x, y, 1e-6)
    assert torch.isfinite(alpha).all() and torch.isfinite(beta).all() and alpha[0] == 0 and alpha[1] > 0


# ---- the rest


def test_annotates_better_than_word_frequency() -> None:
    features, labels = scenes(300)
    learn, held = slice(0, 200), slice(200, 300)
    model = TagProp(neighbours=40, metric="l2", device="cpu").fit({n: rows[learn] for n, rows in features.items()}, labels[learn])
    index, _ = model.annotate({name: rows[held] for name, rows in features.items()}, 1)
    right = labels[held][np.arange(100), index[:, 0].numpy()].mean()
    assert right > 0.8 and labels[learn].mean(axis=0).max() < 0.4


def test_blocks_of_any_size_give_the_same() -> None:
    features, labels = scenes(33)
    expected = TagProp(neighbours=6, device="cpu").fit(features, labels)
    for at_once, blocks in ((0, 33), (5, 7), (32, 2), (33, 1)):
        model = TagProp(neighbours=6, device="cpu")
        model.block_bytes = 1 + at_once * 16 * (33 + 8)
        model.fit(features, labels)
        assert len(model._blocks(torch.zeros(33))) == blocks
        torch.testing.assert_close(model.weights_, expected.weights_, rtol=1e-2, atol=1e-4)
        assert model.log_likelihood_ == pytest.approx(expected.log_likelihood_, rel=1e-4)
        scores = model.scores(features)
        model.block_bytes = 1
        torch.testing.assert_close(model.scores(features), scores)


def test_is_deterministic() -> None:
    features, labels = scenes(50)
    with torch.no_grad():  # which a caller may have switched on
        runs = [TagProp(neighbours=9, device="cpu").fit(features, labels) for _ in range(2)]
    assert torch.equal(runs[0].weights_, runs[1].weights_) and torch.equal(runs[0].scores(features), runs[1].scores(features))


def test_two_images_and_images_that_are_all_alike() -> None:
    model = TagProp(device="cpu").fit([[0.0], [1.0]], [["a"], ["b"]])  # type: ignore[arg-type]
    assert torch.isfinite(model.scores([[0.2]])).all()  # type: ignore[arg-type]
    alike = TagProp(neighbours=2, device="cpu").fit(np.ones((4, 2)), [["a"], ["b"], ["a"], ["a", "b"]])
    assert torch.isfinite(alike.scores(np.ones((1, 2)))).all() and float(alike.weights_) > 0


def test_bad_input() -> None:
    for count in (0, -1):
        with pytest.raises(ValueError, match=f"neighbours = {count} must be at least 1"):
            TagProp(neighbours=count)
    with pytest.raises(ValueError, match="metric 'euclid' is unknown"):
        TagProp(metric="euclid")
    with pytest.raises(DataError, match="one image alone carries a word: TagProp predicts each training image from others"):
        TagProp(device="cpu").fit(np.zeros((3, 1)), [["a"], [], []])
