"""Annotators that are small enough for tests."""

from __future__ import annotations

from functools import cache
from typing import Any

from gpuannot import Annotator
from gpuannot.datasets import LabelledImages
from gpuannot.method.weights import TrunkWeights, load_weights
from gpuannot.model.fit import InProcess, fit
from gpuannot.model.store import FeatureStore

SMALL: dict[str, Any] = {"layer": "pool2", "input_size": 32, "n_components": 8, "n_centers": 4}
RIDGE: dict[str, Any] = {
    "head": "ridge", "objective": "words", "regularisation": 1.0, "calibration": "odds", "balance": 0.5, "signed_sqrt": True,
    "l2": True,
}  # fmt: skip
LAYERED: dict[str, Any] = {
    "layer": "pool2+conv3_1+conv3_3", "input_size": 32, "n_components": 6, "n_centers": 3, "signed_sqrt": True, "l2": True,
}  # fmt: skip

load_weights_once = cache(load_weights)


def embedded() -> TrunkWeights:
    """The embedded weights, loaded once for all tests."""
    return load_weights_once("embedded", None)


def small_annotator(**settings: Any) -> Annotator:
    """On the CPU, with the embedded weights."""
    return Annotator(**{"device": "cpu", "loaded": embedded(), **settings})


def fit_stored(made: Annotator, features: FeatureStore, images: LabelledImages) -> Annotator:
    """``fit`` from features of all images that the trunk has computed already."""
    with InProcess(made.words, features, images.labels, images.vocabulary) as steps:
        fit(made.words, images.vocabulary, steps)
    return made
