"""Hyper-parameters by hold-out on training images: one search that every baseline shares."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..errors import DataError, InvalidArgumentError
from ..experiments.holdout import cover_holdout, covered_words
from ..metrics import evaluate
from ..system.progress import progress_bar
from .base import Baseline, Features


@dataclass(frozen=True)
class GridTrial:
    """One point of the grid and what it reached on the hold-out: means over the splits.

    Attributes:
        values: of the hyper-parameters, by name.
        f1: the protocol's, in 0…1.
        n_plus: words with recall > 0.
    """

    values: dict[str, Any]
    f1: float
    n_plus: float


@dataclass(frozen=True)
class SearchResult:
    """The chosen values, and everything that was tried.

    Attributes:
        best: the values chosen, by name.
        trials: one for each combination, in the order of the grid.
        holdout: images held out in each split.
        splits: number of splits.
        seed: of the first split.
    """

    best: dict[str, Any]
    trials: tuple[GridTrial, ...]
    holdout: int
    splits: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def holdout_search(
    build: Callable[..., Baseline],
    grid: Mapping[str, Sequence[Any]],
    features: Features,
    labels: sparse.csr_array,
    vocabulary: Sequence[str],
    *,
    k: int = 5,
    holdout: int = 500,
    splits: int = 1,
    seed: int = 0,
    progress: bool | None = None,
) -> SearchResult:
    """Try every combination of ``grid`` and keep the one with the highest F1 (the protocol's) on held-out training images.

    Combinations that follow each other and differ in ``query_parameters`` of the baseline alone share one ``fit``: name those last.

    Args:
        build: makes an unfitted baseline from keyword arguments; it is called with each combination.
        grid: the values to try, by parameter.
        features: of the **training** images. Test images have no place here.
        labels: (N, W) 0/1, of the same images.
        vocabulary: the W words.
        k: words given to each image.
        holdout: images held out in each split.
        splits: number of cover hold-outs.
        seed: of the first split; the others have ``seed + 1``, …
        progress: show a bar; None shows one on terminals, elsewhere lines.

    Returns:
        the first of the best combinations, in the order of ``grid``, with every trial.

    Raises:
        ValueError: a parameter without values, no split, or a hold-out that leaves nothing to learn from. Otherwise as the
            baseline's ``fit`` and ``annotate``.
        DataError: features and labels of different length.
    """
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if not points:
        raise InvalidArgumentError("the grid is empty: every parameter needs at least one value")
    if splits < 1:
        raise InvalidArgumentError(f"splits = {splits} must be at least 1")
    for array in features.values() if isinstance(features, Mapping) else [features]:
        if len(array) != labels.shape[0]:
            raise DataError(f"features of {len(array)} images and labels of {labels.shape[0]}: each image needs both")
    reached = np.zeros((len(points), splits, 2))
    with progress_bar("search", len(points) * splits, progress, unit="trial", leave=False) as bar:
        for split in range(splits):
            learn, held = cover_holdout(labels, holdout, seed + split)
            words = covered_words(labels, held)
            inner, outer = take(features, learn), take(features, held)
            fitted: Baseline | None = None
            learnt_with: dict[str, Any] = {}
            for number, point in enumerate(points):
                baseline = build(**point)
                learns_with = {name: value for name, value in point.items() if name not in baseline.query_parameters}
                if fitted is None or learns_with != learnt_with:
                    fitted, learnt_with = baseline.fit(inner, labels[learn], vocabulary), learns_with
                for name in baseline.query_parameters:
                    setattr(fitted, name, getattr(baseline, name))
                index, _ = fitted.annotate(outer, k)
                scores = evaluate(index.cpu().numpy(), labels[held], words=words)
                reached[number, split] = scores.f1, scores.n_plus
                bar.update()
    f1, n_plus = reached.mean(axis=1).T
    trials = tuple(GridTrial(point, float(f), float(n)) for point, f, n in zip(points, f1, n_plus, strict=True))
    return SearchResult(points[int(np.argmax(f1))], trials, holdout, splits, seed)


def take(features: Features, rows: NDArray[np.int64]) -> Features:
    """The features of some images."""
    if isinstance(features, Mapping):
        return {name: array[rows] for name, array in features.items()}
    return features[rows]
