"""Tables of labels as spreadsheets leave them, and words that are written in two ways or on one image alone."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from gpuannot import Annotator
from gpuannot.cli.main import app
from gpuannot.datasets import LabelledImages, find_label_file, load_labelled_images
from gpuannot.datasets.label_words import without_case
from gpuannot.errors import DataError

SMALL = [f"--set={setting}" for setting in ("layer=pool2", "input_size=32", "n_components=4", "n_centers=2")]


@pytest.fixture(autouse=True)
def warnings_as_before() -> Iterator[None]:
    """Each command replaces how warnings are shown."""
    with warnings.catch_warnings():
        yield


def load(folder: Path, text: str, *, encoding: str = "utf-8", name: str = "labels.csv", **options: Any) -> LabelledImages:
    rng = np.random.default_rng(0)
    for image in "abcd":
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / f"{image}.jpg")
    (folder / name).write_bytes(text.encode(encoding))
    return load_labelled_images(folder / name, **options)


def words_of(images: LabelledImages) -> dict[str, list[str]]:
    rows = [sorted(images.vocabulary[word] for word in images.labels[[row]].indices) for row in range(len(images))]
    return dict(zip(images.image_names, rows, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "Photo,Keywords,\na.jpg,dog;eye,\nb.jpg,cat,\n,,\n,,\n",
        "Photo,Keywords\na.jpg,dog;eye\nb.jpg,cat,,\n",
        "image;words\r\n;\r\na.jpg;dog, eye\r\nb.jpg;cat\r\n;\r\n",
        "sep=;\r\nPicture;Tags\r\na.jpg;dog, eye\r\nb.jpg;cat\r\n",
        'Picture Name,Tags\na.jpg,"dog;eye"\n,\n  ,  \nb.jpg,cat\n',
        "Photo,cat,dog,eye\na.jpg,0,1,1\nb.jpg,1,0,0\n,,,\n",
        "Photo,cat,dog,eye\na.jpg,,x,X\nb.jpg,x,,\n,,,\n",
        "Photo,cat,dog,eye\na.jpg,,1,1\nb.jpg,1,,\n",
        "Photo,cat,dog,eye\na.jpg,no,yes,Yes\nb.jpg,YES,No,no\n",
        "SourceFile,Keywords\na.jpg,dog;eye\nb.jpg,cat\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_tables_of_spreadsheets(tmp_path: Path, text: str, encoding: str) -> None:
    images = load(tmp_path, text, encoding=encoding)
    assert words_of(images) == {"a.jpg": ["dog", "eye"], "b.jpg": ["cat"]}
    assert find_label_file(tmp_path / "labels.csv") == tmp_path / "labels.csv"


def test_rows_that_only_look_empty(tmp_path: Path) -> None:
    """What holds a word without an image, or an image without its mark, is still an error of its line."""
    with pytest.raises(DataError, match="line 3: expected an image name and words"):
        load(tmp_path, "image,words,\na.jpg,dog,\n,cat,\n")
    with pytest.raises(DataError, match=r"line 2: .* in 2 columns as in the header"):
        load(tmp_path, "image,words\na.jpg,dog,cat\n")
    with pytest.raises(DataError, match="line 3: 'dog' is '', expected 0 or 1"):
        load(tmp_path, "image,dog\na.jpg,0\nb.jpg,\nc.jpg,1\n")


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-be"])
def test_letters_of_other_encodings(tmp_path: Path, encoding: str) -> None:
    text = "image,words\na.jpg,Größe;naïve – “café”\n"
    if encoding == "cp1252":
        with pytest.warns(
            UserWarning, match=r"labels\.csv: is not UTF-8 and was read as Windows-1252, with words such as 'Größe';"
        ):
            images = load(tmp_path, text, encoding=encoding)
    else:
        images = load(tmp_path, text if encoding == "utf-16" else f"\ufeff{text}", encoding=encoding)
    assert words_of(images) == {"a.jpg": ["Größe", "naïve – “café”"]}
    with pytest.raises(DataError, match="is not UTF-8 text"):
        load(tmp_path, '{"samples": [{"image_name": "a.jpg", "image_labels": ["Größe"]}]}', encoding="cp1252", name="l.json")


def test_words_in_a_quoted_cell(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"'dog, eye' and cells like it were taken as words with ',' between"):
        images = load(tmp_path, 'image,words\na.jpg,"dog, eye"\nb.jpg,"eye, cat"\nc.jpg,dog\nd.jpg,"cat, dog"\n')
    assert words_of(images) == {"a.jpg": ["dog", "eye"], "b.jpg": ["cat", "eye"], "c.jpg": ["dog"], "d.jpg": ["cat", "dog"]}
    with pytest.warns(UserWarning, match="'Paris, France' was taken as one word, and 2 more like it"):
        places = load(tmp_path, 'image,words\na.jpg,"Paris, France"\nb.jpg,"Lyon, France"\nc.jpg,"Paris, France"\n')
    assert places.vocabulary == ("Lyon, France", "Paris, France")


TWO_WAYS = "image,words\na.jpg,Dog;eye\nb.jpg,dog;cat\nc.jpg,dog;DOG;Cat\nd.jpg,zebra\n"


def test_words_in_two_ways_as_one(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"capitals alone are different words: 'Cat' and 'cat', .*, or --fold-case"):
        assert len(load(tmp_path, TWO_WAYS).vocabulary) == 7
    images = load(tmp_path, TWO_WAYS, fold_case=True)
    assert images.vocabulary == ("Cat", "dog", "eye", "zebra")
    assert words_of(images)["c.jpg"] == ["Cat", "dog"] and images.labels.data.tolist() == [1] * 7
    assert set(without_case(images, ["DOG", "cat", "Dog"]).vocabulary) == {"DOG", "cat", "eye", "zebra"}


def test_words_of_few_images(tmp_path: Path) -> None:
    images = load(tmp_path, TWO_WAYS, fold_case=True, min_count=2)
    assert set(images.vocabulary) == {"Cat", "dog"} and set(images.rare) == {"eye", "zebra"}
    assert words_of(images) == {"a.jpg": ["dog"], "b.jpg": ["Cat", "dog"], "c.jpg": ["Cat", "dog"], "d.jpg": []}


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.filterwarnings("default")
def test_fold_case_and_min_count_on_the_command_line(tmp_path: Path) -> None:
    load(tmp_path, TWO_WAYS, fold_case=True)
    model = tmp_path / "m.safetensors"
    fitted = run("fit", tmp_path / "labels.csv", "-o", model, "--fold-case", "--min-count", 2, *SMALL, "--no-progress")
    assert fitted.exit_code == 0 and "2 words of fewer than 2 images left out: " in fitted.stderr
    assert Annotator.load(model, device="cpu").vocabulary == ("Cat", "dog")
    (tmp_path / "labels.csv").write_text("image,words\nb.jpg,CAT\nc.jpg,cat;Dog\n")
    scores = json.loads(run("evaluate", model, tmp_path / "labels.csv", "--fold-case", "--json").stdout)
    assert (scores["words"], scores["recall"]) == (2, 1.0)
    assert json.loads(run("evaluate", model, tmp_path / "labels.csv", "--json").stdout)["words"] == 5
    nothing = run("fit", tmp_path / "labels.csv", "-o", tmp_path / "n.safetensors", "--min-count", 9)
    assert nothing.exit_code == 2 and "not one of its 2 images carries a word that 9 images carry" in nothing.stderr
