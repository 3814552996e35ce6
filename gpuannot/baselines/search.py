"""Hyper-parameters by hold-out on training images: one search that every baseline shares."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..errors import DataError
from ..metrics import evaluate
from ..system.progress import progress_bar
from .base import Baseline, Features


@dataclass(frozen=True)
class GridTrial:
    """One point of the grid and what it reached on the hold-out: means over the splits, shares in 0…1."""

    values: dict[str, Any]
    f1: float
    n_plus: float


@dataclass(frozen=True)
class SearchResult:
    """The chosen values, and everything that was tried."""

    best: dict[str, Any]
    trials: tuple[GridTrial, ...]
    holdout: int
    splits: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def holdout_split(images: int, holdout: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions to learn from and positions to hold out, both ascending; ``holdout`` of ``images`` are drawn uniformly.

    Raises:
        ValueError: a hold-out that leaves nothing to learn from, or of less than one image.
    """
    if not 1 <= holdout < images:
        raise ValueError(f"a hold-out of {holdout} from {images} images is not possible; choose 1…{images - 1}")
    order = np.random.default_rng(seed).permutation(images)
    return np.sort(order[holdout:]), np.sort(order[:holdout])


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
        features, labels, vocabulary: of the **training** images. Test images have no place here.
        holdout: images held out in each of ``splits`` random splits, seeded ``seed``, ``seed + 1``, …
        progress: show a bar; None shows one on terminals.

    Returns:
        the first of the best combinations, in the order of ``grid``, with every trial.

    Raises:
        ValueError: a parameter without values, no split, or a hold-out that leaves nothing to learn from. Otherwise as the
            baseline's ``fit`` and ``annotate``. DataError: features and labels of different length.
    """
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if not points:
        raise ValueError("the grid is empty: every parameter needs at least one value")
    if splits < 1:
        raise ValueError(f"splits = {splits} must be at least 1")
    for array in features.values() if isinstance(features, Mapping) else [features]:
        if len(array) != labels.shape[0]:
            raise DataError(f"features of {len(array)} images and labels of {labels.shape[0]}: each image needs both")
    reached = np.zeros((len(points), splits, 2))
    with progress_bar("search", len(points) * splits, progress, unit="trial", leave=False) as bar:
        for split in range(splits):
            learn, held = holdout_split(labels.shape[0], holdout, seed + split)
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
                scores = evaluate(index.cpu().numpy(), labels[held])
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
