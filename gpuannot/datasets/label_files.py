"""Labelled images: the field's three benchmarks, any folder with a label file, and folders of images, one for each word.

Label files:

* JSON, as the benchmarks are distributed: ``{"samples": [{"image_name": "1000.jpeg", "image_labels": ["city", "sky"]}, …],
  "labels": [vocabulary]}``. ``labels`` may be missing.
* CSV with a header: one column of image names (``image``, ``image_name``, ``path``, ``file`` or ``filename``) and one of words
  (``words``, ``labels``, ``image_labels``, ``word``, ``label`` or ``tags``), several words separated by ``;``. An image may have
  several rows; their words are joined. Columns separated by tabs (also ``.tsv``) or, as spreadsheets write them where the comma
  is the decimal sign, by ``;`` are understood; in the latter the words may be separated by ``,`` too.

Image names are paths relative to the label file's folder or to its subfolder ``images``. A folder without a label file may hold
its images in subfolders (:mod:`gpuannot.datasets.class_folders`), whose names are then their words.
"""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os.path import isfile
from pathlib import Path
from typing import Any

from scipy import sparse

from ..errors import DataError
from ..images.batches import ImageFailure
from ..images.inputs import Inputs
from ..method.labels import label_matrix
from .class_folders import find_class_folders

#: Sizes of the distributed splits: training images, test images, words.
BENCHMARKS = {"corel5k": (4500, 499, 260), "iaprtc12": (17665, 1962, 291), "espgame": (18689, 2081, 268)}

_NAME_COLUMNS = ("image", "image_name", "path", "file", "filename")
_WORD_COLUMNS = ("words", "labels", "image_labels", "word", "label", "tags")
_TABLES = (".csv", ".tsv")


@dataclass(frozen=True)
class LabelledImages:
    """Images with their words.

    Attributes:
        name: of the data set and split.
        image_names: as the label file gives them.
        paths: of the N images.
        labels: (N, W) CSR of ones.
        vocabulary: W words.
        missing: images that the label file names and that are not there; they are in none of the other fields.
        unlabelled: number of images beside the label file that it does not name, or beside the subfolders; they are left out.
        subfolders: whether the words are the names of the images' subfolders.
    """

    name: str
    image_names: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: sparse.csr_array
    vocabulary: tuple[str, ...]
    missing: tuple[ImageFailure, ...] = ()
    unlabelled: int = 0
    subfolders: bool = False

    def __len__(self) -> int:
        return len(self.image_names)


def load_benchmark(name: str, root: str | Path, *, images: bool = True) -> tuple[LabelledImages, LabelledImages]:
    """The training and test split of ``corel5k``, ``iaprtc12`` or ``espgame``.

    Args:
        name: one of these.
        root: the folder with ``train.json``, ``test.json``, ``vocabulary.txt`` and, unless ``images`` is False, ``images/``.
        images: whether the image files must be there.

    Raises:
        DataError: an unknown name, a missing or wrong file, another number of images or words than the field's split has, or
            images that are not there.
    """
    if name not in BENCHMARKS:
        raise DataError(f"data set {name!r} is unknown; choose one of {', '.join(BENCHMARKS)}, or give a folder with a label file")
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; it should hold train.json, test.json, vocabulary.txt and images/")
    if not (folder / "vocabulary.txt").exists():
        raise DataError(
            f"{folder / 'vocabulary.txt'}: no such file; {name} is read from a folder with train.json, test.json, vocabulary.txt "
            "and images/ (for images of your own there are gpuannot fit and gpuannot evaluate)"
        )
    vocabulary = _read_vocabulary(folder / "vocabulary.txt")
    train, test = (_read_benchmark_split(name, split, folder, vocabulary, images) for split in ("train", "test"))
    found, expected = (len(train), len(test), len(vocabulary)), BENCHMARKS[name]
    if found != expected:
        raise DataError(
            f"{folder} holds {found[0]} training images, {found[1]} test images and {found[2]} words; the {name} split of the "
            f"literature has {expected[0]}, {expected[1]} and {expected[2]}, so its numbers could not be compared"
        )
    return train, test


def load_labelled_images(source: str | Path) -> LabelledImages:
    """The images that a label file names, or that lie in subfolders, one for each word.

    Args:
        source: a ``.json``, ``.csv`` or ``.tsv`` label file; or a folder with a ``labels.json`` or ``labels.csv``, or with at least
            two subfolders of images, whose names are the words.

    Raises:
        DataError: no label file, not in one of the forms, an empty one, or one none of whose images is there.
    """
    path = _label_file(Path(source))
    if path.is_dir():
        return _from_class_folders(path)
    samples, vocabulary = _read_csv(path) if path.suffix.lower() in _TABLES else _read_json(path)
    if not samples:
        raise DataError(f"{path} names no image")
    merged = _merge_duplicates(path, samples)
    base = path.parent / "images" if (path.parent / "images").is_dir() else path.parent
    located = {name: base / name if isfile(base / name) else path.parent / name for name in merged}
    there = [name for name in merged if isfile(located[name])]
    if not there:
        first = next(iter(merged))
        raise DataError(
            f"none of the {len(merged)} images that {path} names is in {base} (the first: {first}); names are paths relative to "
            f"that folder, as they are written there{_almost(base, first)}"
        )
    missing = tuple(
        ImageFailure(str(base / name), "find", f"no such file, but {path.name} names it")
        for name in merged
        if not isfile(located[name])
    )
    labels, words = _label_matrix(path, [merged[name] for name in there], vocabulary)
    beside = {Path(found.place).resolve() for found in Inputs(base) if found.kind == "file"}
    unlabelled = len(beside - {located[name].resolve() for name in there})
    return LabelledImages(path.stem, tuple(there), tuple(located[name] for name in there), labels, words, missing, unlabelled)


def named_images(source: str | Path) -> list[Path]:
    """Where the images are, or would be, that a label file names.

    Raises:
        DataError: no label file, or not in one of the forms.
    """
    path = _label_file(Path(source))
    if path.is_dir():
        return list(_from_class_folders(path).paths)
    samples = (_read_csv(path) if path.suffix.lower() in _TABLES else _read_json(path))[0]
    base = path.parent / "images" if (path.parent / "images").is_dir() else path.parent
    return [base / name if isfile(base / name) else path.parent / name for name, _ in samples]


def _from_class_folders(folder: Path) -> LabelledImages:
    found = find_class_folders(folder)
    if found is None:
        others = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in (".json", *_TABLES))
        raise DataError(
            f"{folder} holds no labels.json or labels.csv, and no two subfolders of images, one for each word; "
            + (f"if {others[0]} is the label file, name it: {folder / others[0]}" if others else "name the label file")
        )
    labels, words = _label_matrix(folder, list(found.images.values()), found.words)
    paths = tuple(folder / name for name in found.images)
    return LabelledImages(
        folder.name, tuple(found.images), paths, labels, words, tuple(found.failures), found.beside, subfolders=True
    )


def _almost(base: Path, name: str) -> str:
    """What a name that leads to no file was perhaps meant to be; empty where nothing suggests itself."""
    if "\\" in name and isfile(base / name.replace("\\", "/")):
        return f"; write it with / between the folders: {name.replace(chr(92), '/')}"
    wanted = base / name
    if len(wanted.name) < 256 and wanted.parent.is_dir():
        for other in wanted.parent.iterdir():
            if other.name.lower() == wanted.name.lower() and other.is_file():
                return f"; {other.name} is there, and capital letters count"
    return ""


def find_label_file(source: str | Path) -> Path | None:
    """The label file that ``source`` is or, as a folder, holds; None for images, lists and tables without a column of words.

    Raises:
        DataError: a folder with two label files.
    """
    path = Path(source)
    if path.is_dir():
        return _label_file(path) if any((path / name).is_file() for name in ("labels.json", "labels.csv")) else None
    if path.suffix.lower() == ".json":
        return path
    if path.suffix.lower() not in _TABLES or not path.is_file():
        return None
    text = _read_text(path)
    header = next(csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text)), [])
    names, words = _columns([name.strip().lower() for name in header])
    return path if names and words else None


def _read_benchmark_split(name: str, split: str, folder: Path, vocabulary: Sequence[str], images: bool) -> LabelledImages:
    path = folder / f"{split}.json"
    samples, _ = _read_json(path)
    names = tuple(image for image, _ in samples)
    paths = tuple(folder / "images" / image for image in names)
    if images:
        absent = [image for image, file in zip(names, paths, strict=True) if not file.is_file()]
        if absent:
            raise DataError(
                f"{len(absent)} of the {len(names)} {split} images of {name} are not in {folder / 'images'} (first: {absent[0]}); "
                "labels alone cannot be annotated: put the data set's images there"
            )
    labels, words = _label_matrix(path, [words for _, words in samples], vocabulary)
    return LabelledImages(f"{name}/{split}", names, paths, labels, words)


def _label_file(source: Path) -> Path:
    """The label file that ``source`` is or holds; a folder without one is returned as it is."""
    if source.is_file():
        if source.suffix.lower() not in (".json", *_TABLES):
            raise DataError(f"{source}: a label file is .json or .csv; or give a folder that holds one")
        return source
    if not source.is_dir():
        raise DataError(f"{source}: no such file or folder")
    found = [source / name for name in ("labels.json", "labels.csv") if (source / name).is_file()]
    if len(found) == 2:
        raise DataError(f"{source} holds both labels.json and labels.csv; name the one to use")
    return found[0] if found else source


def _read_vocabulary(path: Path) -> list[str]:
    words = [line.strip() for line in _read_text(path).splitlines() if line.strip()]
    if not words:
        raise DataError(f"{path} holds no word, expected one a line")
    return words


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def _read_json(path: Path) -> tuple[list[tuple[str, list[str]]], list[str] | None]:
    try:
        content = json.loads(_read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
    expected = 'expected {"samples": [{"image_name": …, "image_labels": […]}, …]}'
    if not isinstance(content, dict) or not isinstance(content.get("samples"), list):
        raise DataError(f"{path}: {expected}, found {_outline(content)}")
    samples = []
    for number, sample in enumerate(content["samples"]):
        name, words = (sample.get("image_name"), sample.get("image_labels")) if isinstance(sample, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise DataError(f"{path}: samples[{number}] is {sample!r}; {expected}")
        samples.append((name, words))
    vocabulary = content.get("labels")
    if vocabulary is not None and not isinstance(vocabulary, list):
        raise DataError(f'{path}: "labels" must be the list of all words')
    return samples, vocabulary


def _outline(content: Any) -> str:
    if isinstance(content, dict):
        keys = ", ".join(repr(key) for key in list(content)[:5])
        return f"an object with the keys {keys}" + (" …" if len(content) > 5 else "") if content else "an empty object"
    return f"a list of {len(content)}" if isinstance(content, list) else repr(content)[:60]


def _read_csv(path: Path) -> tuple[list[tuple[str, list[str]]], None]:
    text = _read_text(path)
    delimiter = _delimiter(text)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
        columns = {column.strip().lower(): column for column in reader.fieldnames or ()}
        names, words = _columns(columns)
        if not names or not words:
            raise DataError(
                f"{path}: its header is {', '.join(columns) or 'empty'}; expected a column of image names "
                f"({', '.join(_NAME_COLUMNS)}) and one of words ({', '.join(_WORD_COLUMNS)})"
            )
        samples, written = [], []
        for row in reader:
            name, given = row[columns[names[0]]], row[columns[words[0]]]
            values = [value for each in row.values() for value in (each if isinstance(each, list) else [each])]
            if not name or given is None or len(values) != len(columns):
                raise DataError(
                    f"{path}, line {reader.line_num}: expected an image name and words with ';' between, in {len(columns)} columns "
                    f"as in the header, got {values}"
                )
            written.append(given)
            samples.append((name, [word.strip() for word in re.split("[;,]" if delimiter == ";" else ";", given) if word.strip()]))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.reader.line_num}: {error}") from error
    with_commas = [given for given in written if "," in given]
    if delimiter != ";" and with_commas and not any(";" in given for given in written):
        warnings.warn(
            f"{path}: {with_commas[0]!r} was taken as one word, and {len(with_commas) - 1} more like it; if they are several, "
            "separate them with ';'",
            stacklevel=3,
        )
    return samples, None


def _delimiter(text: str) -> str:
    """What separates the columns of a table: the first of ``,``, ``;`` and tab that makes the header name those needed."""
    header = text.partition("\n")[0]
    return next((each for each in ",;\t" if all(_columns(name.strip(' "\r').lower() for name in header.split(each)))), ",")


def _columns(header: Iterable[str]) -> tuple[list[str], list[str]]:
    """Which columns of a header, in lower case, are of image names and which of words, the usual ones first."""
    there = set(header)
    return [name for name in _NAME_COLUMNS if name in there], [name for name in _WORD_COLUMNS if name in there]


def _merge_duplicates(path: Path, samples: list[tuple[str, list[str]]]) -> dict[str, list[str]]:
    merged: dict[str, list[str]] = {}
    conflicting = []
    for name, words in samples:
        if name in merged and path.suffix.lower() == ".json" and set(words) != set(merged[name]):
            conflicting.append(name)
        merged[name] = merged.get(name, []) + words
    if conflicting:
        warnings.warn(
            f"{path} names {len(conflicting)} images twice with different words (first: {conflicting[0]}); they were joined",
            stacklevel=3,
        )
    return merged


def _label_matrix(path: Path, words: list[list[str]], vocabulary: Sequence[str] | None) -> tuple[sparse.csr_array, tuple[str, ...]]:
    try:
        return label_matrix(words, vocabulary)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
