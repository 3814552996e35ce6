"""What every baseline inherits: checked input, blocks, ties, and words that cannot be given."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor

from gpuannot.baselines.base import Baseline, best_words
from gpuannot.errors import DataError, NotFittedError


class WordMeans(Baseline):
    """−(distance to the mean of the word's images), squared: small, and computed from all that the base class hands over."""

    def _fit(self, features: dict[str, Tensor]) -> None:
        self.seen: list[int] = []
        self.means = {name: self.labels_.T @ rows.flatten(1) / self.counts_[:, None] for name, rows in features.items()}

    def _scores(self, features: dict[str, Tensor]) -> Tensor:
        rows = {name: part.flatten(1) for name, part in features.items()}
        self.seen.append(len(next(iter(rows.values()))))
        return -sum((part[:, None] - self.means[name]).square().sum(dim=2) for name, part in rows.items())  # type: ignore[return-value]


FEATURES = np.array([[0.0, 0], [2, 0], [0, 4], [8, 8]])
LABELS = [["b"], ["b", "a"], ["a"], []]


def fitted(**features: np.ndarray) -> WordMeans:
    return WordMeans(device="cpu").fit(features or FEATURES, LABELS, ["a", "b", "unseen"])


# ---- fit, scores, annotate


def test_a_case_by_hand() -> None:
    # Means: a (1, 2), b (1, 0). The image (1, 1) is 1 from both, (1, 0) is 4 from a.
    baseline = fitted()
    assert baseline.vocabulary_ == ("a", "b", "unseen") and baseline.counts_.tolist() == [2, 2, 0]
    assert baseline.labels_.tolist() == [[0, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]]
    scores = baseline.scores([[1.0, 1], [1, 0]])  # type: ignore[arg-type]
    assert scores.dtype == torch.float32 and scores.tolist() == [[-1, -1, -np.inf], [-4, 0, -np.inf]]
    index, value = baseline.annotate(torch.tensor([[1.0, 1], [1, 0]]), 2)
    assert index.tolist() == [[0, 1], [1, 0]] and value.tolist() == [[-1, -1], [0, -4]]  # a tie goes to the lower index
    assert (index.dtype, value.dtype) == (torch.int64, torch.float32)


def test_labels_in_every_form_are_the_same() -> None:
    matrix = np.array([[0, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]])
    expected = fitted().scores(FEATURES)
    for labels in (matrix, matrix.astype(bool), sparse.csr_array(matrix), sparse.csc_matrix(matrix)):
        baseline = WordMeans(device="cpu").fit(FEATURES, labels)
        assert baseline.vocabulary_ == ("0", "1", "2")
        assert torch.equal(baseline.scores(FEATURES), expected)
    assert WordMeans(device="cpu").fit(FEATURES, LABELS).vocabulary_ == ("a", "b")  # without a vocabulary: the words that occur


def test_features_in_every_form_are_the_same() -> None:
    readonly = FEATURES.astype(np.float32)
    readonly.flags.writeable = False
    forms = [
        FEATURES.astype(np.float32), FEATURES.astype(np.float16), FEATURES.astype(np.int64), FEATURES.astype(">f8"), readonly,
        np.asfortranarray(FEATURES), FEATURES[::-1][::-1], torch.tensor(FEATURES), torch.tensor(FEATURES, dtype=torch.bfloat16),
        torch.tensor(FEATURES, dtype=torch.int16),
    ]  # fmt: skip
    for form in forms:
        assert torch.equal(fitted().scores(form), fitted().scores(FEATURES))
        assert torch.equal(WordMeans(device="cpu").fit(form, LABELS).means[""], fitted().means[""][:2])


def test_features_by_name_and_of_more_dimensions() -> None:
    grid = np.arange(24.0).reshape(4, 2, 3)
    baseline = fitted(colour=FEATURES, grid=grid)
    expected = fitted(only=FEATURES).scores({"only": FEATURES}) + fitted(only=grid).scores({"only": grid})
    assert torch.equal(baseline.scores({"grid": grid, "colour": FEATURES}), expected)


@pytest.mark.parametrize("images", [0, 1, 3, 4, 5, 9])
def test_blocks_of_any_size_give_the_same(images: int) -> None:
    rows = np.random.default_rng(images).normal(size=(images, 2))
    baseline = fitted()
    expected = baseline.scores(rows)
    assert expected.shape == (images, 3) and baseline.seen == ([images] if images else [])
    for at_once in (1, 2, 4):
        baseline.seen.clear()
        baseline.block_bytes = at_once * baseline._bytes_per_image()
        assert torch.equal(baseline.scores(rows), expected)
        assert baseline.seen == [at_once] * (images // at_once) + ([images % at_once] if images % at_once else [])
    baseline.block_bytes = 1  # less than one image takes: one at a time
    assert torch.equal(baseline.scores(rows), expected)
    index, value = baseline.annotate(rows, 2)
    assert index.shape == value.shape == (images, 2)


def test_words_without_an_image_are_never_given() -> None:
    index, _ = fitted().annotate(np.random.default_rng(0).normal(size=(50, 2)), 2)
    assert set(index.flatten().tolist()) == {0, 1}


def test_ties_go_to_the_lowest_index() -> None:
    scores = torch.tensor([[1.0, 3, 3, -torch.inf, 3], [0, 0, 0, 0, 0]])
    index, value = best_words(scores, 4)
    assert index.tolist() == [[1, 2, 4, 0], [0, 1, 2, 3]] and value.tolist() == [[3, 3, 3, 1], [0] * 4]
    wide = (torch.arange(5000) % 7).float().expand(3, -1)  # long enough for an unstable sort to show
    assert best_words(wide, 700)[0][2].tolist() == [i for i in range(5000) if i % 7 == 6][:700]


# ---- bad input


@pytest.mark.parametrize("k", [0, -1, 3, 260])
def test_k_must_leave_every_image_its_words(k: int) -> None:
    with pytest.raises(ValueError, match=rf"k = {k} must lie in 1…2"):
        fitted().annotate(FEATURES, k)


def test_before_fit() -> None:
    for use in (WordMeans(device="cpu").scores, WordMeans(device="cpu").annotate):
        with pytest.raises(NotFittedError, match="WordMeans has learnt nothing yet; call fit first"):
            use(FEATURES)


def test_a_failed_fit_forgets_the_one_before() -> None:
    class Refuses(WordMeans):
        def _fit(self, features: dict[str, Tensor]) -> None:
            if len(features[""]) == 1:
                raise DataError("one image is too few")
            super()._fit(features)

    baseline = Refuses(device="cpu").fit(FEATURES, LABELS)
    with pytest.raises(DataError, match="too few"):
        baseline.fit(FEATURES[:1], LABELS[:1])
    with pytest.raises(NotFittedError):
        baseline.scores(FEATURES)


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        (FEATURES[:3], DataError, "features of 3 images and labels of 4"),
        (FEATURES[:, 0], ValueError, r"features: expected numbers of shape \(N, D\), got float64 of shape \(4,\)"),
        (FEATURES > 0, ValueError, r"got bool of shape \(4, 2\)"),
        (torch.tensor(FEATURES) > 0, ValueError, r"got torch.bool of shape \(4, 2\)"),
        (FEATURES.astype(complex), ValueError, "got complex128"),
        (torch.tensor(FEATURES, dtype=torch.complex64), ValueError, "got torch.complex64"),
        (FEATURES.astype(str), ValueError, "expected numbers of shape"),
        (FEATURES.astype(object), ValueError, "got object"),
        (np.full((4, 2), np.nan), DataError, "features holds? NaN, infinite, or values beyond float32"),
        (torch.full((4, 2), -torch.inf), DataError, "NaN, infinite"),
        (np.full((4, 2), 1e39), DataError, "values beyond float32"),
        ({}, ValueError, "an empty dictionary; give at least one array"),
        ({"colour": FEATURES, "gist": FEATURES[:2]}, ValueError, "differ in length: 'colour' 4, 'gist' 2"),
        ({"colour": FEATURES, "gist": FEATURES[0]}, ValueError, "feature 'gist': expected numbers"),
        ({"colour": FEATURES, "gist": np.full((4, 1), np.inf)}, DataError, "feature 'gist' holds NaN"),
    ],
)  # fmt: skip
def test_bad_features(features: object, error: type[Exception], message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error, match=message):
            WordMeans(device="cpu").fit(features, LABELS)  # type: ignore[arg-type]


def test_nothing_to_learn() -> None:
    for features, labels in ((FEATURES, [[]] * 4), (np.zeros((0, 2)), [])):
        with pytest.raises(DataError, match="no image carries a word"):
            WordMeans(device="cpu").fit(features, labels, ["a"])


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (FEATURES[:, :1], r"have the form features \(N, 1\), this was fitted with features \(N, 2\)"),
        ({"colour": FEATURES}, r"have the form colour \(N, 2\), this was fitted with features \(N, 2\)"),
    ],
)
def test_other_features_than_at_fit(features: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted().scores(features)  # type: ignore[arg-type]
