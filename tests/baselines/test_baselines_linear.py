"""Linear baselines: cases by hand, normal equations and gradients in plain NumPy, and scikit-learn's LinearSVC."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.svm import LinearSVC

from gpuannot.baselines.linear import LinearRidge, LinearSVM, Normalisation
from gpuannot.baselines.squared_hinge import fit_squared_hinge
from gpuannot.errors import DataError


def draw(images: int, dimension: int, words: int = 6, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Vectors (images, dimension) float32 with an offset, and labels that depend on them, with every word in both classes."""
    rng = np.random.default_rng(seed)
    vectors = (rng.standard_normal((images, dimension)) + rng.uniform(-2, 2, dimension)).astype(np.float32)
    score = vectors @ rng.standard_normal((dimension, words)) / math.sqrt(dimension) + 0.5 * rng.standard_normal((images, words))
    labels = (score > np.quantile(score, np.linspace(0.4, 0.9, words), axis=0).diagonal()).astype(np.float32)
    labels[0], labels[1] = 1, 0
    return vectors, labels


def plain_normalised(training: NDArray, other: NDArray, normalise: Normalisation) -> tuple[NDArray, NDArray]:
    training, other = training.astype(np.float64), other.astype(np.float64)
    if normalise == "l2":
        return tuple(np.array([row / np.sqrt(sum(row**2)) if row.any() else row for row in part]) for part in (training, other))
    if normalise == "standard":
        mean, deviation = training.mean(axis=0), training.std(axis=0)
        return (training - mean) / deviation, (other - mean) / deviation
    return training, other


def plain_ridge(training: NDArray, targets: NDArray, test: NDArray, regularisation: float) -> NDArray:
    """Least squares with rows √(λ·τ)·I added for the penalty and a column of ones, without penalty, for the bias."""
    images, dimension = training.shape
    centred = training - training.mean(axis=0)
    mean_diagonal = (centred**2).sum() / min(images, dimension)
    penalty = np.sqrt(regularisation * mean_diagonal) * np.eye(dimension, dimension + 1)
    system = np.vstack([np.hstack([training, np.ones((images, 1))]), penalty])
    solution = np.linalg.lstsq(system, np.vstack([targets, np.zeros((dimension, targets.shape[1]))]), rcond=None)[0]
    return test @ solution[:-1] + solution[-1]


def plain_objective(x: NDArray, y: NDArray, w: NDArray, b: float, cost: float, positive_weight: float) -> tuple[float, NDArray]:
    """½‖w‖² + C·Σ s·max(0, 1 − y·f)² and its gradient (D + 1,), image by image in float64."""
    value, gradient = 0.5 * float(w @ w), np.append(w, 0.0)
    for row, positive in zip(x, y, strict=True):
        sign, weight = (1.0, positive_weight) if positive else (-1.0, 1.0)
        slack = max(0.0, 1 - sign * (float(row @ w) + b))
        value += cost * weight * slack**2
        gradient -= 2 * cost * weight * slack * sign * np.append(row, 1.0)
    return value, gradient


# ---- ridge


def test_ridge_by_hand() -> None:
    """Twelve values, four each at −3, 0 and 3; word "a" at 3, word "b" at −3 and 0.

    Mean 0, Σx² = 72, one column: mean diagonal 72; with λ = 1 the slope is Σx·(y − ȳ)/(72 + 72). For "a": Σx·y = 12, slope 1/12,
    ȳ = 1/3, scores 1/3 + x/12: 1/12, 1/3, 7/12. For "b" = 1 − "a": 11/12, 2/3, 5/12.
    With balance 1, "a" is multiplied by 12/4 = 3 and "b" by 12/8 = 3/2. With "standard", and λ relative, the same scores.
    """
    vectors = np.array([[-3.0]] * 4 + [[0.0]] * 4 + [[3.0]] * 4)
    words = [["b"]] * 8 + [["a"]] * 4
    test = np.array([[-3.0], [0.0], [3.0]])
    expected = np.array([[1 / 12, 11 / 12], [1 / 3, 2 / 3], [7 / 12, 5 / 12]])
    for normalise in ("none", "standard"):
        model = LinearRidge(1.0, normalise=normalise, device="cpu").fit(vectors, words)
        np.testing.assert_allclose(model.scores(test), expected, rtol=1e-6)
        assert model.annotate(test, k=2)[0].tolist() == [[1, 0], [1, 0], [0, 1]]
        balanced = LinearRidge(1.0, normalise=normalise, balance=1.0, device="cpu").fit(vectors, words)
        np.testing.assert_allclose(balanced.scores(test), expected * [3, 3 / 2], rtol=1e-6)


@pytest.mark.parametrize(("images", "dimension"), [(2, 2), (9, 9), (9, 10), (10, 9), (12, 40), (60, 7)])
@pytest.mark.parametrize("normalise", ["l2", "standard", "none"])
@pytest.mark.parametrize(("regularisation", "balance"), [(0.01, 0.0), (3.0, 0.5)])
def test_ridge_is_least_squares(
    images: int, dimension: int, normalise: Normalisation, regularisation: float, balance: float
) -> None:
    """Primal and dual, on either side of D = N."""
    vectors, labels = draw(images, dimension)
    test = draw(5, dimension, seed=1)[0]
    targets = labels * (images / labels.sum(axis=0)) ** balance
    expected = plain_ridge(*_with(plain_normalised(vectors, test, normalise), targets), regularisation)
    model = LinearRidge(regularisation, normalise=normalise, balance=balance, device="cpu").fit(vectors, labels)
    assert model.scores(test).dtype == torch.float32 and model.coef_.shape == (dimension, labels.shape[1])
    np.testing.assert_allclose(model.scores(test), expected, rtol=1e-5, atol=1e-5)


def _with(parts: tuple[NDArray, NDArray], targets: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    return parts[0], targets, parts[1]


def test_ridge_keeps_its_digits_under_a_large_mean() -> None:
    """All vectors near 1,000: the mean is what float32 products would lose digits to."""
    vectors, labels = draw(30, 5)
    vectors, test = vectors + np.float32(1000), draw(4, 5, seed=1)[0] + np.float32(1000)
    model = LinearRidge(0.1, normalise="none", device="cpu").fit(vectors, labels)
    expected = plain_ridge(vectors.astype(np.float64), labels, test.astype(np.float64), 0.1)
    np.testing.assert_allclose(model.scores(test), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dimension", [2, 9])
def test_ridge_of_equal_images_gives_word_shares(dimension: int) -> None:
    model = LinearRidge(device="cpu").fit(np.ones((4, dimension)), [["a"], ["a"], ["a", "b"], []])
    np.testing.assert_allclose(model.scores(np.random.default_rng(0).random((2, dimension))), [[0.75, 0.25]] * 2, rtol=1e-6)


def test_rows_of_zeros() -> None:
    vectors, labels = draw(20, 4)
    vectors[3] = 0
    test = np.zeros((1, 4), np.float32)
    expected = plain_ridge(*_with(plain_normalised(vectors, test, "l2"), labels), 1.0)
    np.testing.assert_allclose(LinearRidge(device="cpu").fit(vectors, labels).scores(test), expected, rtol=1e-5)


# ---- support vector machine


def test_svm_by_hand() -> None:
    """Six values at −1 without the word, six at 1 with it; C = 1/24.

    By symmetry b = 0, and ½w² + (12/24)(1 − w)² is smallest where w = 1 − w: w = 1/2, so the scores are ∓1/2.
    """
    model = LinearSVM(1 / 24, normalise="none", device="cpu").fit(np.array([[-1.0]] * 6 + [[1.0]] * 6), [[]] * 6 + [["a"]] * 6)
    np.testing.assert_allclose(model.scores(np.array([[-1.0], [0.0], [1.0]])), [[-0.5], [0.0], [0.5]], atol=1e-6)


def test_balance_by_hand() -> None:
    """Vectors without information, three of twelve with the word: b alone is learnt, from s·3·(1 − b)² + 9·(1 + b)².

    With weight s: b = (3s − 9)/(3s + 9): −1/2 for s = 1 (balance 0), 0 for s = 9/3 = 3 (balance 1).
    """
    for balance, expected in ((0.0, -0.5), (1.0, 0.0), (0.5, (math.sqrt(3) - 3) / (math.sqrt(3) + 3))):
        model = LinearSVM(2.0, balance=balance, device="cpu").fit(np.ones((12, 2)), [["a"]] * 3 + [[]] * 9)
        np.testing.assert_allclose(model.scores(np.ones((1, 2))), [[expected]], atol=1e-5)


@pytest.mark.parametrize(("images", "dimension"), [(60, 5), (40, 60), (200, 30)])
@pytest.mark.parametrize(("cost", "balance"), [(0.01, 0.0), (1.0, 0.0), (1.0, 1.0), (10.0, 0.5)])
def test_svm_is_linear_svc(images: int, dimension: int, cost: float, balance: float) -> None:
    """LinearSVC penalises its bias; with a constant feature of 1,000 the penalty is 10⁻⁶ of that on a weight."""
    vectors, labels = draw(images, dimension)
    x = vectors.astype(np.float64)
    positives = labels.sum(axis=0).astype(np.float64)
    weight = ((images - positives) / positives) ** balance
    w, b, left = fit_squared_hinge(
        torch.from_numpy(x), torch.from_numpy(labels).double(), cost, torch.from_numpy(weight), tolerance=1e-9
    )
    assert left == 0 and w.dtype == torch.float64
    for word in range(labels.shape[1]):
        svc = LinearSVC(
            C=cost, loss="squared_hinge", dual=False, tol=1e-10, intercept_scaling=1000, max_iter=10_000,
            class_weight={0: 1.0, 1: weight[word]},
        ).fit(x, labels[:, word])  # fmt: skip
        np.testing.assert_allclose(w[:, word], svc.coef_[0], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(b[word], svc.intercept_[0], rtol=1e-4, atol=1e-4)
        value, gradient = plain_objective(x, labels[:, word], w[:, word].numpy(), float(b[word]), cost, float(weight[word]))
        at_zero = plain_objective(x, labels[:, word], np.zeros(dimension), 0.0, cost, float(weight[word]))[1]
        assert np.abs(gradient).max() < 1e-8 * np.abs(at_zero).max()
        theirs = plain_objective(x, labels[:, word], svc.coef_[0], float(svc.intercept_[0]), cost, float(weight[word]))[0]
        assert value <= theirs * (1 + 1e-12)


@pytest.mark.parametrize("normalise", ["l2", "standard", "none"])
def test_svm_scores(normalise: Normalisation) -> None:
    """The class adds normalisation and float32 to the solver."""
    vectors, labels = draw(80, 8)
    test = draw(7, 8, seed=1)[0]
    rows, others = plain_normalised(vectors, test, normalise)
    w, b, _ = fit_squared_hinge(
        torch.from_numpy(rows), torch.from_numpy(labels).double(), 3.0, torch.ones(6, dtype=torch.float64), tolerance=1e-9
    )
    scores = LinearSVM(3.0, normalise=normalise, tolerance=1e-9, device="cpu").fit(vectors, labels).scores(test)
    np.testing.assert_allclose(scores, others @ w.numpy() + b.numpy(), rtol=1e-5, atol=1e-5)


def test_words_do_not_see_each_other() -> None:
    """All go through the same products; each must come out as it does alone, within the tolerance."""
    vectors, labels = draw(60, 7)
    x, y = torch.from_numpy(vectors).double(), torch.from_numpy(labels).double()
    ones = torch.ones(6, dtype=torch.float64)
    together = fit_squared_hinge(x, y, 1.0, ones, tolerance=1e-9)[0]
    for word in (0, 5):
        alone = fit_squared_hinge(x, y[:, word : word + 1], 1.0, ones[:1], tolerance=1e-9)[0]
        torch.testing.assert_close(alone, together[:, word : word + 1], rtol=1e-6, atol=1e-6)
    assert torch.equal(fit_squared_hinge(x, y, 1.0, ones, tolerance=1e-9)[0], together)


def test_svm_words_that_every_image_carries_and_that_none_does() -> None:
    vectors, labels = draw(30, 4)
    labels[:, 0], labels[:, 1] = 1, 0
    for balance in (0.0, 0.5):
        model = LinearSVM(balance=balance, device="cpu").fit(vectors, labels)
        scores = model.scores(vectors)
        assert (scores[:, 1] == -torch.inf).all() and scores[:, [0, 2, 3, 4, 5]].isfinite().all()
    plain = LinearSVM(device="cpu").fit(vectors, labels).scores(vectors)
    np.testing.assert_allclose(plain[:, 0], 1.0, atol=1e-3)  # no image is without it: w = 0, b = 1 loses nothing


def test_svm_that_does_not_converge_says_so() -> None:
    vectors, labels = draw(30, 4)
    with pytest.warns(UserWarning, match="words' machines did not converge; lower cost or raise tolerance"):
        LinearSVM(1e9, tolerance=1e-30, device="cpu").fit(vectors, labels)


# ---- both


@pytest.mark.parametrize("build", [LinearRidge, LinearSVM])
def test_scale_free(build: type[LinearRidge] | type[LinearSVM]) -> None:
    """Row norms do not matter to "l2", nor column scales to "standard"; values near float32's ends neither vanish nor overflow."""
    vectors, labels = draw(30, 5)
    expected = build(device="cpu").fit(vectors, labels).scores(vectors)
    for factor in (np.float32(1e-30), np.float32(1e36)):
        scores = build(device="cpu").fit(vectors * factor, labels).scores(vectors * factor)
        torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-3)
    scale = np.float32([1e-20, 1, 1e3, 1e20, 5])
    expected = build(normalise="standard", device="cpu").fit(vectors, labels).scores(vectors)
    scores = build(normalise="standard", device="cpu").fit(vectors * scale, labels).scores(vectors * scale)
    torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("build", [LinearRidge, LinearSVM])
def test_standard_leaves_a_constant_column_out(build: type[LinearRidge] | type[LinearSVM]) -> None:
    vectors, labels = draw(30, 5)
    expected = build(normalise="standard", device="cpu").fit(vectors, labels).scores(vectors)
    with_constant = np.hstack([vectors, np.full((30, 1), 0.1, np.float32)])
    elsewhere = np.hstack([vectors, np.full((30, 1), 9, np.float32)])
    model = build(normalise="standard", device="cpu").fit(with_constant, labels)
    torch.testing.assert_close(model.scores(elsewhere), model.scores(with_constant), rtol=0, atol=0)
    if build is LinearSVM:  # the ridge's λ is relative to the mean over columns
        torch.testing.assert_close(model.scores(elsewhere), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("build", [LinearRidge, LinearSVM])
def test_balance_raises_rare_words(build: type[LinearRidge] | type[LinearSVM]) -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((100, 2), np.float32)
    labels[:60, 0], labels[:5, 1] = 1, 1
    vectors = rng.standard_normal((100, 3)) + labels @ rng.standard_normal((2, 3))
    wins = []  # images where the rare word comes before the frequent one
    for balance in (0.0, 0.5, 1.0):
        scores = build(normalise="standard", balance=balance, device="cpu").fit(vectors, labels).scores(vectors)
        wins.append(int((scores[:, 1] > scores[:, 0]).sum()))
    assert all(before < after for before, after in pairwise(wins)), wins


@pytest.mark.parametrize("build", [LinearRidge, LinearSVM])
def test_block_size_changes_nothing(build: type[LinearRidge] | type[LinearSVM]) -> None:
    vectors, labels = draw(30, 5)
    model = build(device="cpu").fit(vectors, labels)
    expected = model.scores(vectors)
    assert model.scores(vectors[:0]).shape == (0, 6)
    for size in (1, 7 * model._bytes_per_image() + 1):
        model.block_bytes = size
        torch.testing.assert_close(model.scores(vectors), expected, rtol=1e-5, atol=1e-6)


def test_parameters_out_of_range() -> None:
    for value in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"regularisation = {value} must be a finite number above 0"):
            LinearRidge(value)
        with pytest.raises(ValueError, match=f"cost = {value} must be"):
            LinearSVM(value)
    with pytest.raises(ValueError, match="tolerance = 0"):
        LinearSVM(tolerance=0)
    for value in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=rf"balance = {value} must lie in 0…1"):
            LinearRidge(balance=value)
    with pytest.raises(ValueError, match="normalise = 'L2' is unknown"):
        LinearSVM(normalise="L2")  # type: ignore[arg-type]


@pytest.mark.parametrize("build", [LinearRidge, LinearSVM])
def test_features_of_a_wrong_form(build: type[LinearRidge] | type[LinearSVM]) -> None:
    vectors, labels = draw(20, 4)
    with pytest.raises(ValueError, match=rf"{build.__name__} takes vectors \(N, D\).*\(20, 2, 2\)"):
        build(device="cpu").fit(vectors.reshape(20, 2, 2), labels)
    with pytest.raises(ValueError, match=r"\(20, 0\)"):
        build(device="cpu").fit(vectors[:, :0], labels)
    with pytest.raises(ValueError, match=f"{build.__name__} takes one feature array, got 2"):
        build(device="cpu").fit({"a": vectors, "b": vectors}, labels)
    with pytest.raises(DataError, match="NaN"):
        build(device="cpu").fit(np.where(vectors > 0, vectors, np.nan), labels)
