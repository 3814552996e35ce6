"""The hold-out search: the known best found, the same result every time."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor

from gpuannot.baselines.base import Baseline
from gpuannot.baselines.search import holdout_search, take
from gpuannot.errors import DataError
from gpuannot.experiments.holdout import cover_holdout, covered_words
from gpuannot.metrics import evaluate


def test_take() -> None:
    rows = np.array([0, 2])
    array, tensor = np.arange(6.0).reshape(3, 2), torch.arange(3)[:, None]
    taken = take({"a": array, "b": tensor}, rows)
    assert isinstance(taken, dict) and taken["a"].tolist() == [[0, 1], [4, 5]] and taken["b"].tolist() == [[0], [2]]
    assert take(array, rows).tolist() == [[0, 1], [4, 5]]  # type: ignore[union-attr]


# ---- search


class Shifted(Baseline):
    """Gives the words whose numbers follow feature + shift; right at shift 0 for the data below. Counts its fits."""

    query_parameters = ("scale",)
    fits: list[tuple[int, int]]

    def __init__(self, shift: int = 0, scale: float = 1.0) -> None:
        super().__init__(device="cpu")
        self.shift, self.scale = shift, scale

    def _fit(self, features: dict[str, Tensor]) -> None:
        Shifted.fits.append((self.shift, len(features[""])))

    def _scores(self, features: dict[str, Tensor]) -> Tensor:
        words = torch.arange(self.labels_.shape[1])
        return -self.scale * (words - features[""] - self.shift).abs()


FEATURES = (np.arange(60.0) % 6)[:, None]
LABELS = sparse.csr_array(np.eye(6, dtype=np.float32)[np.arange(60) % 6])
WORDS = list("abcdef")


def search(grid: dict[str, list[float]], **options: int) -> tuple[object, list[tuple[int, int]]]:
    Shifted.fits = []
    result = holdout_search(Shifted, grid, FEATURES, LABELS, WORDS, **{"k": 1, "holdout": 20, "progress": False} | options)
    return result, Shifted.fits


def test_finds_the_known_best() -> None:
    result, _ = search({"shift": [2, 0, 1]}, splits=3)
    assert result.best == {"shift": 0} and [trial.values for trial in result.trials] == [{"shift": s} for s in (2, 0, 1)]
    assert [trial.f1 for trial in result.trials][1] == 1.0 == max(trial.f1 for trial in result.trials)
    assert result.trials[0].f1 < 0.5 and (result.holdout, result.splits, result.seed) == (20, 3, 0)
    assert json.loads(json.dumps(result.to_dict()))["best"] == {"shift": 0}


def test_the_first_of_equals_is_chosen() -> None:
    result, _ = search({"scale": [2.0, 1.0], "shift": [1, 0]})
    assert result.best == {"scale": 2.0, "shift": 0}


def test_trials_are_means_over_splits_of_the_protocols_f1() -> None:
    noisy = sparse.csr_array(np.eye(6, dtype=np.float32)[np.random.default_rng(1).integers(0, 6, 60)])
    Shifted.fits = []
    result = holdout_search(Shifted, {"shift": [0, 1]}, FEATURES, noisy, WORDS, k=2, holdout=20, splits=3, seed=5, progress=False)
    for trial in result.trials:
        reached = []
        for seed in (5, 6, 7):
            learn, held = cover_holdout(noisy, 20, seed)
            index, _ = Shifted(**trial.values).fit(FEATURES[learn], noisy[learn], WORDS).annotate(FEATURES[held], 2)
            reached.append(evaluate(index.numpy(), noisy[held], words=covered_words(noisy, held)))
        assert trial.f1 == pytest.approx(np.mean([scores.f1 for scores in reached]), abs=1e-15)
        assert trial.n_plus == pytest.approx(np.mean([scores.n_plus for scores in reached]), abs=1e-12)
    assert len({trial.f1 for trial in result.trials}) == 2


def test_is_deterministic() -> None:
    assert search({"shift": [0, 1, 2]}, splits=2, seed=3)[0] == search({"shift": [0, 1, 2]}, splits=2, seed=3)[0]


def test_query_parameters_share_a_fit_and_change_no_result() -> None:
    result, fits = search({"shift": [0, 1], "scale": [1.0, -1.0, 2.0]}, splits=2)
    assert fits == [(0, 40), (1, 40)] * 2  # once a shift and split, on the images that are not held out
    apart = [search({name: [value] for name, value in trial.values.items()}, splits=2)[0].trials[0] for trial in result.trials]
    assert list(result.trials) == apart
    assert result.trials[0].f1 == 1.0 > result.trials[1].f1  # a scale of −1 ranks backwards, so it did reach the scores


@pytest.mark.parametrize(
    ("grid", "options", "error", "message"),
    [
        ({"shift": []}, {}, ValueError, "the grid is empty"),
        ({"shift": [0]}, {"splits": 0}, ValueError, "splits = 0 must be at least 1"),
        ({"shift": [0]}, {"holdout": 60}, ValueError, "a hold-out of 60 from 60 images"),
        ({"shift": [0]}, {"k": 7}, ValueError, "k = 7 must lie in 1…6"),
        ({"shape": [0]}, {}, TypeError, "shape"),
    ],
)  # fmt: skip
def test_bad_searches(grid: dict[str, list[float]], options: dict[str, int], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        search(grid, **options)


@pytest.mark.parametrize("rows", [59, 61])
def test_features_and_labels_of_different_length(rows: int) -> None:
    for features in (np.zeros((rows, 1)), {"a": np.zeros((60, 1)), "b": torch.zeros((rows, 1))}):
        with pytest.raises(DataError, match=f"features of {rows} images and labels of 60"):
            holdout_search(Shifted, {"shift": [0]}, features, LABELS, WORDS, holdout=20)
