"""Some 1,500 damaged images and containers in one run: nothing is lost or stops it, and no row differs from its image alone."""

from __future__ import annotations

import faulthandler
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from fuzzed import write_containers, write_images
from runs import files, ledger, read

from gpuannot import Annotator, Inputs
from gpuannot.images.input import utf8

IMAGES, CONTAINERS = 1000, 250


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    images, containers = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("containers")
    write_images(images, IMAGES, Random(1))
    return [str(images), *map(str, write_containers(containers, CONTAINERS, Random(2)))]


@pytest.fixture(scope="module")
def run(fitted: Annotator, sources: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fuzzed") / "out"
    faulthandler.dump_traceback_later(600, exit=True)  # a hang says where
    try:
        fitted.batch(sources, out, 3, part_size=200)
    finally:
        faulthandler.cancel_dump_traceback_later()
    return out


def test_every_input_has_a_row_or_an_entry(run: Path, sources: list[str]) -> None:
    inputs = Counter(utf8(item.name) for item in Inputs(sources))
    rows, failed = Counter(row["path"] for row in read(run)), Counter(entry["path"] for entry in ledger(run))
    assert rows + failed == inputs and inputs.total() > IMAGES + CONTAINERS
    assert rows.total() > 300 and failed.total() > 300
    assert all(entry["reason"] and len(entry["reason"]) <= 1000 for entry in ledger(run))
    assert all(any(name.startswith(source) or "loose/" in name for name in inputs) for source in sources)


def test_rows_are_those_of_the_images_alone(run: Path, fitted: Annotator, sources: list[str]) -> None:
    items = list(Inputs(sources))
    count = Counter(utf8(item.name) for item in items)  # damage may give a file of an archive the name of another
    inputs = {utf8(item.name): item for item in items if count[utf8(item.name)] == 1}
    for row in (row for row in read(run) if row["path"] in inputs):
        alone = fitted.annotate([inputs[row["path"]]], 3, progress=False)
        assert tuple(row["words"]) == alone.words[0], row["path"]
        np.testing.assert_allclose(row["distances"], alone.distance[0], atol=1e-5)


def test_again_and_in_other_parts(run: Path, fitted: Annotator, sources: list[str], tmp_path: Path) -> None:
    fitted.batch(sources, tmp_path / "again", 3, part_size=200)
    assert files(tmp_path / "again") == files(run)
    fitted.batch(sources, tmp_path / "smaller", 3, part_size=36)  # nine batches
    assert read(tmp_path / "smaller") == read(run) and ledger(tmp_path / "smaller") == ledger(run)
