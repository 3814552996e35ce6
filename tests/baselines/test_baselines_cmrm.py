"""CMRM: a case by hand, and the equations in plain Python over lists of visual words."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gpuannot.baselines.cmrm import CMRM
from gpuannot.errors import DataError


def plain_probability(training: NDArray, labels: NDArray, test: NDArray, alpha: Fraction, beta: Fraction) -> NDArray:
    """log P(w | b_1…b_n), (T, W), in exact fractions: visual words one after the other, as the equations have them."""
    images, words = labels.shape
    size = [int(training[j].sum() + labels[j].sum()) for j in range(images)]
    total = sum(size)
    scores = np.empty((len(test), words))
    for t, counts in enumerate(test):
        blobs = [b for b, count in enumerate(counts) for _ in range(int(count)) if training[:, b].sum() > 0]
        joint, everything = [Fraction(0)] * words, Fraction(0)
        for j in range(images):
            likelihood = Fraction(1, images)
            for b in blobs:
                own = Fraction(int(training[j, b]), size[j]) if size[j] else Fraction(0)
                likelihood *= (1 - beta) * own + beta * Fraction(int(training[:, b].sum()), total)
            everything += likelihood
            for w in range(words):
                own = Fraction(int(labels[j, w]), size[j]) if size[j] else Fraction(0)
                joint[w] += likelihood * ((1 - alpha) * own + alpha * Fraction(int(labels[:, w].sum()), total))
        scores[t] = [math.log(float(value / everything)) if value else -math.inf for value in joint]
    return scores


def draw(images: int, blobs: int, most: int, words: int = 7, seed: int = 0) -> tuple[NDArray, NDArray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random((images, words)) < 0.3).astype(np.float32)
    labels[rng.integers(images, size=words), np.arange(words)] = 1
    return rng.integers(0, most + 1, (images, blobs)), labels


def test_a_case_by_hand() -> None:
    """Twelve images of one visual word and one word each: six hold blob 0 and "a", six hold blob 1 and "b"; α = β = 1/2.

    |J| = 2 and |T| = 24, so #(·, T)/|T| = 6/24 = 1/4 for either blob and either word.
    P(b | J) = (1/2)(1/2) + (1/2)(1/4) = 3/8 with the blob, 1/8 without; P(w | J) the same two values.
    A test image of blob 0 twice: the six with it have 9/64, the others 1/64: P(J | b) = 9/60 and 1/60, so 9/10 and 1/10 for the
    groups. P(a) = 0.9·3/8 + 0.1·1/8 = 2.8/8 = 0.35, P(b) = 0.9·1/8 + 0.1·3/8 = 1.2/8 = 0.15. One of blob 0 and none: P(J | b) = 3/4
    and 1/4: P(a) = 10/32, P(b) = 6/32. No blob at all: 1/4 for both.
    """
    counts = np.array([[1, 0]] * 6 + [[0, 1]] * 6)
    model = CMRM(alpha=0.5, beta=0.5, device="cpu").fit(counts, [["a"]] * 6 + [["b"]] * 6)
    expected = np.log([[0.35, 0.15], [10 / 32, 6 / 32], [1 / 4, 1 / 4]])
    np.testing.assert_allclose(model.scores(np.array([[2, 0], [1, 0], [0, 0]])), expected, rtol=1e-6)
    assert model.annotate(np.array([[0, 3], [0, 0]]), k=2)[0].tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(("images", "blobs", "most"), [(1, 1, 1), (3, 1, 4), (9, 5, 1), (14, 8, 6), (33, 3, 2)])
@pytest.mark.parametrize(("alpha", "beta"), [(Fraction(1, 8), Fraction(7, 8)), (Fraction(15, 16), Fraction(1, 64))])
def test_exact_fractions(images: int, blobs: int, most: int, alpha: Fraction, beta: Fraction) -> None:
    counts, labels = draw(images, blobs, most)
    counts[0] = np.maximum(counts[0], 1)  # every visual word is seen
    test = draw(6, blobs, most, seed=1)[0]
    scores = CMRM(float(alpha), float(beta), device="cpu").fit(counts, labels).scores(test)
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores, plain_probability(counts, labels, test, alpha, beta), rtol=1e-5, atol=1e-6)


def test_products_of_many_visual_words_do_not_underflow() -> None:
    """392 visual words of about 1/120 each: products near 10⁻⁸⁰⁰, far below the smallest float64."""
    rng = np.random.default_rng(0)
    counts, labels = rng.multinomial(196, np.full(120, 1 / 120), size=5), draw(5, 1, 1, words=3)[1]
    test = np.concatenate([2 * counts[:1], rng.multinomial(392, np.full(120, 1 / 120), size=1)])
    scores = CMRM(0.125, 0.75, device="cpu").fit(counts, labels).scores(test)
    np.testing.assert_allclose(
        scores, plain_probability(counts, labels, test, Fraction(1, 8), Fraction(3, 4)), rtol=1e-5, atol=1e-6
    )


def test_a_visual_word_never_seen_in_training_tells_nothing() -> None:
    counts, labels = draw(12, 5, 4)
    counts[:, 2] = 0
    test = draw(6, 5, 4, seed=1)[0]
    test[:, 2] = np.arange(6)
    model = CMRM(device="cpu").fit(counts, labels)
    np.testing.assert_allclose(
        model.scores(test), plain_probability(counts, labels, test, Fraction(1, 10), Fraction(9, 10)), rtol=1e-5, atol=1e-6
    )
    assert torch.equal(model.scores(test), model.scores(np.where(np.arange(5) == 2, 0, test)))


def test_empty_images() -> None:
    """A training image without visual words, one without words, one without either; a test image without visual words."""
    counts, labels = draw(12, 4, 3)
    counts[[0, 2]] = 0
    labels[[1, 2]] = 0
    labels[3] = 1
    test = np.concatenate([np.zeros((1, 4), int), draw(4, 4, 3, seed=1)[0]])
    scores = CMRM(0.25, 0.5, device="cpu").fit(counts, labels).scores(test)
    np.testing.assert_allclose(
        scores, plain_probability(counts, labels, test, Fraction(1, 4), Fraction(1, 2)), rtol=1e-5, atol=1e-6
    )


def test_no_training_image_has_a_visual_word() -> None:
    """Every image then gets the same: with |J| = the number of words in J, the mean of P(w | J)."""
    labels = np.array([[1, 0], [1, 1], [1, 0]])
    model = CMRM(0.25, 0.5, device="cpu").fit(np.zeros((3, 2), int), labels)
    scores = model.scores(np.array([[0, 0], [5, 1]]))
    # P(w₀) = 3/4·(1 + 1/2 + 1)/3 + 1/4·3/4 = 0.8125; P(w₁) = 3/4·(1/2)/3 + 1/4·1/4 = 0.1875
    np.testing.assert_allclose(scores, np.log([[0.8125, 0.1875]] * 2), rtol=1e-6)


def test_untrained_words() -> None:
    counts, labels = draw(12, 5, 4)
    labels[:, 4] = 0
    model = CMRM(device="cpu").fit(counts, labels)
    assert (model.scores(counts)[:, 4] == -torch.inf).all() and model.scores(counts)[:, :4].isfinite().all()
    assert model.scores(counts[:0]).shape == (0, 7)


def test_block_size_changes_nothing() -> None:
    counts, labels = draw(30, 6, 5)
    model = CMRM(device="cpu").fit(counts, labels)
    expected = model.scores(counts)
    for size in (1, 3 * model._bytes_per_image() + 1):
        model.block_bytes = size
        torch.testing.assert_close(model.scores(counts), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, math.nan])
@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_parameters_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} = {value} must lie between 0 and 1"):
        CMRM(**{name: value}, device="cpu")  # type: ignore[arg-type]


def test_features_that_are_no_counts() -> None:
    counts, labels = draw(12, 5, 4)
    model = CMRM(device="cpu").fit(counts, labels)
    negative, half = counts.astype(np.float64), counts.astype(np.float64)
    negative[7, 3], half[2, 4] = -1, 0.5
    with pytest.raises(DataError, match="image 7 holds visual word 3 -1 times"):
        CMRM(device="cpu").fit(negative, labels)
    with pytest.raises(DataError, match=r"image 2 holds visual word 4 0\.5 times"):
        model.scores(half)
    with pytest.raises(ValueError, match=r"counts \(N, m\).*\(12, 5, 1\)"):
        CMRM(device="cpu").fit(counts[..., None], labels)
    with pytest.raises(ValueError, match=r"m ≥ 1.*\(12, 0\)"):
        CMRM(device="cpu").fit(counts[:, :0], labels)
    with pytest.raises(ValueError, match="CMRM takes one feature array, got 2"):
        CMRM(device="cpu").fit({"a": counts, "b": counts}, labels)
