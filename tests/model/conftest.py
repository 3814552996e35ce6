"""Fixtures that the tests of the model share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small import LAYERED, RIDGE, SMALL, small_annotator

from gpuannot import Annotator
from gpuannot.datasets import LabelledImages
from gpuannot.model.store import FeatureStore


@pytest.fixture(scope="session")
def features(scenes: LabelledImages) -> Iterator[FeatureStore]:
    """Of all scenes: the trunk has no part in what differs here."""
    extractor = small_annotator(**SMALL).encoder.extractor
    with extractor.new_store(len(scenes)) as store:
        extractor.extract(scenes.paths, store, np.arange(len(scenes)))
        yield store


@pytest.fixture(scope="session")
def model(scenes: LabelledImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ridge annotator of all scenes, as a file."""
    made = small_annotator(**SMALL, **RIDGE).fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary)
    return made.save(tmp_path_factory.mktemp("model") / "ridge.safetensors")


@pytest.fixture
def fitted(model: Path) -> Annotator:
    return Annotator.load(model, device="cpu")


@pytest.fixture(scope="session")
def layered(scenes: LabelledImages) -> Annotator:
    """Of three layers side by side. Read only."""
    return small_annotator(**LAYERED, trunk_dtype="float32").fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary)
