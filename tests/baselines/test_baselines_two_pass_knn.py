"""2PKNN: the two passes by hand and by plain loops over images and words."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gpuannot.baselines.two_pass_knn import TwoPassKNN
from gpuannot.errors import DataError

# Twelve images at 0, 1, … 11, so the largest training distance is 11. d has one image, e none.
PLACES = np.arange(12.0)[:, None]
LABELS = [["a"], ["a"], ["a", "b"], ["a"], ["b"], ["a", "b"], ["a"], ["a"], ["a"], ["b", "c"], ["c"], ["c", "d"]]
WORDS = list("abcde")


def weight(distance: float, beta: float) -> float:
    return math.exp(-beta * distance / 11)


def test_both_passes_by_hand() -> None:
    """Image 0, K₁ = 2: of a the images 0, 1; of b 2, 4; of c 9, 10; of d 11. Image 3 is near, and not chosen.

    a: images 0, 1, 2 (chosen for b, and carries a). b: 2, 4, 9. c: 9, 10, 11 (chosen for d). d: 11.
    """
    for beta in (0.0, 3.0, 50.0):
        baseline = TwoPassKNN(nearest_per_word=2, beta=beta, device="cpu").fit(PLACES, LABELS, WORDS)
        chosen = [(0, 1, 2), (2, 4, 9), (9, 10, 11), (11,)]
        expected = [math.log(sum(weight(image, beta) for image in images)) for images in chosen]
        found = baseline.scores(np.zeros((1, 1)))[0]
        assert found.tolist() == pytest.approx([*expected, -math.inf], rel=1e-5, abs=1e-5)
    assert baseline.annotate(np.zeros((1, 1)), 4)[0].tolist() == [[0, 1, 2, 3]]


def test_ties_at_the_cut_go_to_the_lowest_index() -> None:
    """Image 3, K₁ = 1, b: images 2 and 4 are as near. Image 2 is chosen, which carries a as well."""
    baseline = TwoPassKNN(nearest_per_word=1, beta=0.0, device="cpu").fit(PLACES, LABELS, WORDS)
    # T_A = 3 (a), 2 (b), 9 (c), 11 (d): a 2, b 2 (images 2 and 9), c 2 (9 and 11), d 1.
    assert baseline.scores([[3.0]])[0].exp().tolist() == pytest.approx([2, 2, 2, 1, 0])  # type: ignore[arg-type]
    assert baseline.annotate(np.array([[3.0]]), 3)[0].tolist() == [[0, 1, 2]]


def plain(train: NDArray, test: NDArray, labels: NDArray, nearest_per_word: int, beta: float) -> NDArray:
    """s(w) image by image and word by word, float64; distances rounded to float32 first, so that ties stay ties."""
    scale = max(math.dist(x, y) for x in train for y in train)
    scores = np.zeros((len(test), labels.shape[1]))
    for row, image in enumerate(test):
        distance = [np.float32(np.float32(math.dist(image, other)) / np.float32(scale)) for other in train]
        chosen: set[int] = set()
        for word in range(labels.shape[1]):
            of_word = [i for i in range(len(train)) if labels[i, word]]
            chosen |= set(sorted(of_word, key=lambda i: (distance[i], i))[:nearest_per_word])
        for word in range(labels.shape[1]):
            scores[row, word] = math.fsum(math.exp(-beta * float(distance[i])) for i in chosen if labels[i, word])
    return scores


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("nearest_per_word", "beta"), [(1, 10.0), (2, 0.0), (4, 3.0), (10, 100.0), (1000, 1.0)])
def test_plain_loops(seed: int, nearest_per_word: int, beta: float) -> None:
    rng = np.random.default_rng(seed)
    train, test = (rng.integers(0, 5, (n, 3)).astype(np.float64) for n in (45, 9))  # many distances tie
    labels = (rng.random((45, 8)) < rng.uniform(0, 0.5, 8)).astype(np.float32)
    labels[::7], labels[:, 3] = 0, 0
    carries = labels.any(axis=1)
    expected = plain(train[carries], test, labels[carries], nearest_per_word, beta)
    baseline = TwoPassKNN(nearest_per_word=nearest_per_word, beta=beta, device="cpu").fit(train, labels)
    found = baseline.scores(test)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(found.numpy(), np.log(expected), rtol=2e-6, atol=2e-6)
    for at_once in (1, 2, 8, 9):
        baseline.block_bytes = at_once * baseline._bytes_per_image()
        torch.testing.assert_close(baseline.scores(test), found, rtol=1e-6, atol=1e-6)


def test_a_large_beta_does_not_let_scores_vanish() -> None:
    """exp(−500) is 0 in float32, and exp(−1000) in float64: the order must stay all the same."""
    for beta in (500.0, 5000.0):
        baseline = TwoPassKNN(nearest_per_word=1, beta=beta, device="cpu").fit(PLACES, LABELS, WORDS)
        index, score = baseline.annotate(np.array([[23.0]]), 2)  # far from all: image 11 (c, d) at 12, then 9 (b) at 14
        assert index.tolist() == [[2, 3]] and score[0].tolist() == pytest.approx([-beta * 12 / 11] * 2, rel=1e-6)


def test_query_parameters_can_change_after_fit() -> None:
    baseline = TwoPassKNN(nearest_per_word=1, beta=0.0, device="cpu").fit(PLACES, LABELS, WORDS)
    baseline.nearest_per_word, baseline.beta = 3, 7.0
    fresh = TwoPassKNN(nearest_per_word=3, beta=7.0, device="cpu").fit(PLACES, LABELS, WORDS)
    assert torch.equal(baseline.scores(PLACES), fresh.scores(PLACES))


def test_unlabelled_images_are_never_neighbours() -> None:
    labels = [*LABELS, []]
    places = np.concatenate([PLACES, [[0.5]]])
    expected = TwoPassKNN(device="cpu").fit(PLACES, LABELS, WORDS).scores([[0.5]])  # type: ignore[arg-type]
    assert torch.equal(TwoPassKNN(device="cpu").fit(places, labels, WORDS).scores([[0.5]]), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nearest_per_word": 0}, "nearest_per_word = 0 must be at least 1"),
        ({"beta": -1.0}, r"beta = -1.0 must be a finite number of at least 0"),
        ({"beta": math.nan}, "beta = nan must be"),
        ({"beta": math.inf}, "beta = inf must be"),
    ],
)
def test_bad_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TwoPassKNN(**settings)  # type: ignore[arg-type]


def test_bad_data() -> None:
    with pytest.raises(DataError, match="no image carries a word"):
        TwoPassKNN(device="cpu").fit(PLACES, [[]] * 12, WORDS)
