"""MBRM: a case by hand, and plain loops over images, regions and words in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gpuannot.baselines.mbrm import MBRM
from gpuannot.errors import DataError


def plain_posterior(training: NDArray, labels: NDArray, test: NDArray, mu: float, beta: float) -> NDArray:
    """log P(w | A), (T, W), from the equations as they stand: every density with its constant, every sum as a log-sum-exp."""
    training, test = (x[:, None] if x.ndim == 2 else x for x in (training.astype(np.float64), test.astype(np.float64)))
    flat = training.reshape(-1, training.shape[-1])
    varies = np.ptp(flat, axis=0) > 0
    mean, deviation = flat.mean(axis=0)[varies], flat.std(axis=0)[varies]
    training, test = ((x[..., varies] - mean) / deviation for x in (training, test))
    images, dimension = len(training), training.shape[-1]
    scores = np.empty((len(test), labels.shape[1]))
    for t, regions in enumerate(test):
        log_of_image = np.full(images, -math.log(images))
        for j, others in enumerate(training):
            for a in regions:
                densities = [
                    -dimension / 2 * math.log(2 * math.pi * beta) - float(((a - r) ** 2).sum()) / (2 * beta) for r in others
                ]
                log_of_image[j] += np.logaddexp.reduce(densities) - math.log(len(others))
        everything = np.logaddexp.reduce(log_of_image)
        for w in range(labels.shape[1]):
            share = [math.log((mu * labels[j, w] + labels[:, w].sum()) / (mu + images)) for j in range(images)]
            scores[t, w] = np.logaddexp.reduce(log_of_image + share) - everything
    return scores


def draw(images: int, regions: int, dimension: int, words: int = 9, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Features (images, regions, dimension) float32, each column of its own scale and offset, and labels with every word."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((images, regions, dimension)) * rng.uniform(0.1, 30, dimension) + rng.uniform(-50, 50, dimension)
    labels = (rng.random((images, words)) < 0.3).astype(np.float32)
    labels[rng.integers(images, size=words), np.arange(words)] = 1
    return features.astype(np.float32), labels


def test_a_case_by_hand() -> None:
    """Twelve images of one region and one value: six at −1 with the word "a", four at 1 with "b", two at 1 with "b" and "c".

    Values have mean 0 and variance 1, so they stay as they are. β = 1/ln 2: a training image at distance d has exp(−d²·ln 2 / 2),
    so 1 at d = 0 and 2^−2 = 1/4 at d = 2.
    A test image at −1: P(J | A) is 1/(6 + 6/4) = 2/15 for each of the six on its side and 1/30 for each of the others.
    Mass on the images with a, b, c: 12/15 = 0.8, 6/30 = 0.2, 2/30 = 1/15. With μ = 12 and N = 12, N_w = 6, 6, 2:
    P(a) = (12·0.8 + 6)/24 = 15.6/24 = 0.65, P(b) = (12·0.2 + 6)/24 = 8.4/24 = 0.35, P(c) = (12/15 + 2)/24 = 2.8/24 = 7/60.
    A test image at 0 is as near to all, P(J | A) = 1/12: P(a) = (6 + 6)/24 = 1/2, P(b) the same, P(c) = (2 + 2)/24 = 1/6.
    """
    features = np.array([[-1.0]] * 6 + [[1.0]] * 6)
    model = MBRM(mu=12, beta=1 / math.log(2), device="cpu").fit(features, [["a"]] * 6 + [["b"]] * 4 + [["b", "c"]] * 2)
    expected = np.log([[0.65, 0.35, 7 / 60], [0.5, 0.5, 1 / 6]])
    np.testing.assert_allclose(model.scores(np.array([[-1.0], [0.0]])), expected, rtol=1e-6)
    assert model.vocabulary_ == ("a", "b", "c")
    assert model.annotate(np.array([[-1.0], [0.0], [1.0]]), k=2)[0].tolist() == [[0, 1], [0, 1], [1, 0]]


def test_regions_by_hand() -> None:
    """Three images of two regions of one value, J1 = {−1, −1}, J2 = {1, 1}, J3 = {−1, 1}: mean 0 and variance 1; β = 1/ln 2 as
    above.

    A test image {−1, 1}: P(−1 | J1) = 1 and P(1 | J1) = 1/4, product 1/4; J2 the same; for J3 either region has (1 + 1/4)/2 = 5/8,
    product 25/64. So P(J | A) = 16/57, 16/57, 25/57. With a word of its own for each, μ = 3 and N = 3: P(w | A) = (3·P(J | A) +
    1)/6.
    """
    features = np.array([[[-1.0], [-1.0]], [[1.0], [1.0]], [[-1.0], [1.0]]])
    model = MBRM(mu=3, beta=1 / math.log(2), device="cpu").fit(features, np.eye(3))
    expected = np.log([(3 * share / 57 + 1) / 6 for share in (16, 16, 25)])
    np.testing.assert_allclose(model.scores(np.array([[[-1.0], [1.0]]]))[0], expected, rtol=1e-6)


@pytest.mark.parametrize(("images", "regions", "dimension"), [(1, 1, 1), (2, 3, 1), (13, 1, 40), (17, 5, 7), (30, 2, 3)])
@pytest.mark.parametrize(("mu", "beta"), [(0.1, 0.2), (50.0, 3.0)])
def test_plain_loops(images: int, regions: int, dimension: int, mu: float, beta: float) -> None:
    features, labels = draw(images, regions, dimension)
    test, _ = draw(5, regions, dimension, seed=0)
    scores = MBRM(mu, beta, device="cpu").fit(features, labels).scores(test)
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores, plain_posterior(features, labels, test, mu, beta), rtol=2e-5, atol=2e-5)


def test_a_vector_an_image_is_one_region() -> None:
    features, labels = draw(20, 1, 6)
    test, _ = draw(7, 1, 6, seed=1)
    whole = MBRM(device="cpu").fit(features, labels).scores(test)
    assert torch.equal(MBRM(device="cpu").fit(features[:, 0], labels).scores(test[:, 0]), whole)


@pytest.mark.parametrize(("regions", "dimension"), [(24, 30), (35, 40)])
@pytest.mark.parametrize("beta", [0.001, 1.0])
def test_products_of_many_densities_do_not_underflow(regions: int, dimension: int, beta: float) -> None:
    """At β = 0.001 the densities of an image multiply to about exp(−300,000); the nearest image must still be found."""
    features, labels = draw(12, regions, dimension)
    test = features[:4] + np.float32(0.05) * draw(4, regions, dimension, seed=1)[0]
    scores = MBRM(10, beta, device="cpu").fit(features, labels).scores(test)
    np.testing.assert_allclose(scores, plain_posterior(features, labels, test, 10, beta), rtol=1e-4, atol=1e-4)


def test_far_from_all_training_images() -> None:
    """Regions a million deviations away: squared distances of 10¹² still give probabilities."""
    features, labels = draw(10, 3, 4)
    test = features[:3] + np.float32(1e6) * features.std(axis=(0, 1))
    scores = MBRM(10, 1.0, device="cpu").fit(features, labels).scores(test)
    assert scores.isfinite().all()
    assert (scores.exp().sum(dim=1) > 0).all() and (scores <= 0).all()


@pytest.mark.parametrize("pair_bytes", [1, 16 * 9 * 4, 16 * 9 * 25 + 1])
def test_block_size_changes_nothing(pair_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one pair of images; of four training images, which do not divide 25; of all of them and one test image."""
    features, labels = draw(25, 3, 5)
    test, _ = draw(4, 3, 5, seed=1)
    expected = MBRM(20, 0.5, device="cpu").fit(features, labels).scores(test)
    monkeypatch.setattr(MBRM, "_PAIR_BYTES", pair_bytes)
    torch.testing.assert_close(MBRM(20, 0.5, device="cpu").fit(features, labels).scores(test), expected, rtol=1e-6, atol=1e-6)


def test_scale_and_offset_of_a_column_change_nothing() -> None:
    features, labels = draw(20, 2, 4)
    test, _ = draw(6, 2, 4, seed=1)
    scale, offset = np.array([1, 8, 0.25, 64], np.float32), np.array([0, 16, -4, 2], np.float32)
    expected = MBRM(device="cpu").fit(features, labels).scores(test)
    scaled = MBRM(device="cpu").fit(features * scale + offset, labels).scores(test * scale + offset)
    torch.testing.assert_close(scaled, expected, rtol=1e-4, atol=1e-4)


def test_a_column_that_did_not_vary_is_left_out() -> None:
    features, labels = draw(20, 2, 4)
    test, _ = draw(6, 2, 4, seed=1)
    constant = np.full((20, 2, 1), 0.1, np.float32)
    model = MBRM(device="cpu").fit(np.concatenate([constant, features], axis=2), labels)
    scores = model.scores(np.concatenate([np.full((6, 2, 1), 7, np.float32), test], axis=2))
    torch.testing.assert_close(scores, MBRM(device="cpu").fit(features, labels).scores(test), rtol=1e-6, atol=1e-6)


def test_untrained_words_and_no_images() -> None:
    features, labels = draw(20, 2, 4)
    labels[:, 3] = 0
    model = MBRM(device="cpu").fit(features, labels)
    assert (model.scores(features)[:, 3] == -torch.inf).all()
    assert model.scores(features[:0]).shape == (0, 9)


@pytest.mark.parametrize(("name", "value"), [("mu", 0.0), ("mu", -1.0), ("mu", math.nan), ("beta", 0.0), ("beta", math.inf)])
def test_parameters_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} = .*above 0"):
        MBRM(**{name: value}, device="cpu")  # type: ignore[arg-type]


def test_features_of_a_wrong_form() -> None:
    features, labels = draw(20, 2, 4)
    with pytest.raises(ValueError, match=r"\(N, R, D\) of R ≥ 1 regions.*\(20, 2, 2, 2\)"):
        MBRM(device="cpu").fit(features.reshape(20, 2, 2, 2), labels)
    with pytest.raises(ValueError, match=r"got \(20, 0, 4\)"):
        MBRM(device="cpu").fit(features[:, :0], labels)
    with pytest.raises(ValueError, match="MBRM takes one feature array, got 2: 'a', 'b'"):
        MBRM(device="cpu").fit({"a": features, "b": features}, labels)
    with pytest.raises(DataError, match="NaN"):
        MBRM(device="cpu").fit(np.where(features > 0, features, np.nan), labels)
    with pytest.raises(ValueError, match=r"\(N, 2, 3\), this was fitted with features \(N, 2, 4\)"):
        MBRM(device="cpu").fit(features, labels).scores(features[..., :3])
