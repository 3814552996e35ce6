"""The demonstration, small."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw, ImageFont

from gpuannot import Annotations, Annotator
from gpuannot.cli.commands import command_line
from gpuannot.datasets.label_files import load_labelled_images
from gpuannot.datasets.scenes import WORDS
from gpuannot.errors import DataError
from gpuannot.experiments.demo import contact_sheet, run_demo
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


def truth_of(split: Path) -> list[set[str]]:
    return [set(sample["image_labels"]) for sample in json.loads((split / "labels.json").read_text())["samples"]]


def by_hand(given: list[list[str]], truth: list[set[str]]) -> dict[str, Any]:
    """The protocol's four numbers, word by word."""
    precision, recall = [], []
    for word in WORDS:
        chosen, carried = [word in words for words in given], [word in words for words in truth]
        correct = sum(a and b for a, b in zip(chosen, carried, strict=True))
        precision.append(correct / sum(chosen) if any(chosen) else 0.0)
        recall.append(correct / sum(carried) if any(carried) else 0.0)
    p, r = float(np.mean(precision)), float(np.mean(recall))
    return {"precision": p, "recall": r, "f1": 2 * p * r / (p + r), "n_plus": sum(value > 0 for value in recall)}


def test_both_rows_of_scores_follow_the_protocol(folder: Path) -> None:
    result = json.loads((folder / "scores.json").read_text())
    table = pq.read_table(folder / "annotations.parquet")
    with open(folder / "annotations.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    given, truth, training = table["words"].to_pylist(), truth_of(folder / "test"), truth_of(folder / "train")
    assert [row["words"].split(";") for row in rows] == given
    assert [row["path"] for row in rows] == [str(path) for path in load_labelled_images(folder / "test").paths]
    frequency = {word: sum(word in words for words in training) for word in WORDS}
    most_frequent = sorted(WORDS, key=lambda word: (-frequency[word], word))[:5]
    for name, words in (("scores", given), ("most_frequent_words", [most_frequent] * len(truth))):
        expected = by_hand(words, truth)
        assert {measure: result[name][measure] for measure in expected} == pytest.approx(expected, abs=1e-12)
    assert result["images"] == {"train": 24, "test": 6} and result["words"] == len(WORDS)
    assert list(result["seconds"]) == ["draw", "fit", "annotate", "write"]


def test_no_test_scene_was_learnt_from(folder: Path) -> None:
    train, test = ({path.read_bytes() for path in (folder / split / "images").iterdir()} for split in ("train", "test"))
    assert (len(train), len(test), len(train & test)) == (24, 6, 0)


def test_the_table_names_the_model_that_made_it(folder: Path) -> None:
    made_by = pq.read_schema(folder / "annotations.parquet").metadata[b"gpuannot_model_sha256"]
    assert made_by.decode() == Annotator.load(folder / "model.safetensors", device="cpu").to_model_file().sha256


# ---- the contact sheet

GREEN, RED, GREY = (0x11, 0x77, 0x33), (0xBB, 0x22, 0x22), (0x77, 0x77, 0x77)


def shows(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture == colour).all(axis=-1).any())


def labelled(folder: Path, *pictures: tuple[str, str, list[str]]) -> Any:
    """Images of one colour with their words, given as (name, colour, words)."""
    for name, colour, _ in pictures:
        Image.new("RGB", (20, 20), colour).save(folder / name)
    samples = [{"image_name": name, "image_labels": words} for name, _, words in pictures]
    (folder / "labels.json").write_text(json.dumps({"samples": samples}))
    return load_labelled_images(folder)


def test_each_scene_is_in_its_place(folder: Path) -> None:
    with Image.open(folder / "contact_sheet.png") as image:
        sheet = np.asarray(image)
    for number, path in enumerate(load_labelled_images(folder / "test").paths):
        with Image.open(path) as image:
            thumbnail = np.asarray(image.convert("RGB").resize((240, 180)))
        left, top = 12 + number % 4 * 252, 12 + number // 4 * (180 + 17 * 7)
        assert np.array_equal(sheet[top : top + 180, left : left + 240], thumbnail)


@pytest.mark.parametrize(
    ("given", "colours"),
    [
        (["sky", "sea"], {GREEN}),
        (["tree", "car"], {RED, GREY}),
        (["sky", "car"], {GREEN, RED, GREY}),
        (["w" * 300, "sky"], {RED, GREEN, GREY}),
    ],
)
def test_captions_say_what_was_right(tmp_path: Path, given: list[str], colours: set[tuple[int, int, int]]) -> None:
    truth = labelled(tmp_path, ("b.png", "blue", []), ("a.png", "white", ["sky", "sea"]))
    index, distance = np.array([[0, 1]]), np.array([[1.0, 2.0]], np.float32)
    annotations = Annotations((str(tmp_path / "a.png"),), np.array([1]), index, distance, tuple(given))
    sheet = np.asarray(contact_sheet(annotations, truth))
    assert {colour for colour in (GREEN, RED, GREY) if shows(sheet, colour)} == colours
    assert not shows(sheet, (0, 0, 255))  # the picture of the second position, and no other
    assert (sheet[:, 12 + 240 :] == 255).all()  # a long word is cut to its column


def test_the_font_has_every_sign_that_captions_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    draw = ImageDraw.ImageDraw.text
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda *given, **more: (drawn.append(given[2]), draw(*given, **more))[1])
    truth = labelled(tmp_path, ("a.png", "white", ["sky", "sea" * 30]))
    vector = np.array([[0, 1]])
    contact_sheet(Annotations(("a.png",), np.array([0]), vector, vector.astype(np.float32), ("sky", "car" * 30)), truth)
    font = ImageFont.load_default(14)
    unknown = bytes(font.getmask("\U000e1234"))  # the box that stands for what the font lacks
    signs = set("".join(drawn)) - {" "}
    assert {"+", "-", "…"} <= signs and [sign for sign in signs if bytes(font.getmask(sign)) == unknown] == []


def test_a_sheet_shows_the_first_images_only(tmp_path: Path) -> None:
    colours = [(10 * number, 0, 0) for number in range(5)]
    truth = labelled(tmp_path, *((f"{number}.png", f"rgb{colour}", ["sky"]) for number, colour in enumerate(colours)))
    zeros = np.zeros((5, 1), np.int64)
    annotations = Annotations(tuple(map(str, truth.paths)), np.arange(5), zeros, zeros.astype(np.float32), ("sky",))
    sheet = np.asarray(contact_sheet(annotations, truth, columns=2, rows=2))
    assert [shows(sheet, colour) for colour in colours] == [True] * 4 + [False]


def test_the_command_that_is_shown_can_be_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [".venv/bin/gpuannot", "demo"])
    assert command_line() == ".venv/bin/gpuannot"
    monkeypatch.setattr(sys, "argv", ["/somewhere/gpuannot/__main__.py", "demo"])
    assert command_line() == "python -m gpuannot"
    (tmp_path / "gpuannot").write_text("#!/bin/sh\n")
    (tmp_path / "gpuannot").chmod(0o755)
    assert command_line() == "gpuannot"
