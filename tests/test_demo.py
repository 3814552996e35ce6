"""The demonstration, small."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from gpuannot import Annotator
from gpuannot.datasets import load_labelled_images
from gpuannot.demo import run_demo
from gpuannot.errors import DataError
from gpuannot.metrics import evaluate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "new"
    run_demo(path, train=24, test=6, device="cpu", progress=False)
    return path


def test_files_open(folder: Path) -> None:
    with Image.open(folder / "contact_sheet.png") as sheet:
        sheet.load()
        assert sheet.width > 900
        assert len(sheet.getcolors(1 << 24) or ()) > 1000  # pictures, not a blank page
    table = pq.read_table(folder / "annotations.parquet")
    assert table.num_rows == 6
    assert len((folder / "annotations.csv").read_text().splitlines()) == 7


def test_scores_are_those_of_the_files(folder: Path) -> None:
    result = json.loads((folder / "scores.json").read_text())
    testing = load_labelled_images(folder / "test")
    annotator = Annotator.load(folder / "model.safetensors", device="cpu")
    scores = evaluate(annotator.annotate(testing.paths).index, testing.labels)
    assert result["scores"] == scores.to_dict()
    rows = pq.read_table(folder / "annotations.parquet").to_pylist()
    column = {word: number for number, word in enumerate(testing.vocabulary)}
    truth = {str(path): set(testing.labels[[row]].indices) for row, path in enumerate(testing.paths)}
    hits = sum(column[word] in truth[row["path"]] for row in rows for word in row["words"])
    assert hits / 30 == pytest.approx(result["scores"]["micro_precision"])
    assert result["scores"]["f1"] > result["most_frequent_words"]["f1"]


def test_a_second_run_overwrites_nothing(folder: Path) -> None:
    before = (folder / "scores.json").read_bytes()
    with pytest.raises(DataError, match="images"):
        run_demo(folder, train=2, test=1, device="cpu")
    assert (folder / "scores.json").read_bytes() == before
