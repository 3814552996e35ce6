"""Labelled images: the field's three benchmarks, any folder with a label file, and folders of images, one for each word.

Label files:

* JSON, as the benchmarks are distributed: ``{"samples": [{"image_name": "1000.jpeg", "image_labels": ["city", "sky"]}, …],
  "labels": [vocabulary]}``. ``labels`` may be missing.
* COCO annotations: ``{"images": [{"id", "file_name"}, …], "annotations": [{"image_id", "category_id"}, …], "categories": [{"id",
  "name"}, …]}``. An image's words are the categories of its annotations.
* Label Studio's export in its format JSON (:mod:`gpuannot.datasets.label_studio`).
* Tables (``.csv``, ``.tsv``) with a header, and JSON lines (``.jsonl``): a column of image names and one of words, or one of 0 and
  1 for each word (:mod:`gpuannot.datasets.label_tables`). Several words in a cell are separated by ``;``
  (:mod:`gpuannot.datasets.label_text`). Names of columns and what separates them are as for `gpuannot annotate`
  (:mod:`gpuannot.images.tables`); what that writes can be read back.

Image names are paths relative to the label file's folder or to its subfolder ``images``; ``./a.jpg`` is ``a.jpg``. A name without a
suffix is also looked for with that of an image. A folder without a label file may hold its images in subfolders
(:mod:`gpuannot.datasets.class_folders`), whose names are then their words, or photos with keywords or captions
(:mod:`gpuannot.datasets.label_photos`). Words lose outer spaces, and are one word in all Unicode
spellings (:func:`gpuannot.method.labels.spelled`); of those that differ in capitals alone a warning tells.
"""

from __future__ import annotations

import os
import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os.path import isfile
from pathlib import Path

from scipy import sparse

from ..errors import DataError, InvalidArgumentError, counted
from ..images.decode import IMAGE_SUFFIXES
from ..images.decode_task import ImageFailure
from ..images.inputs import Inputs
from ..method.labels import label_matrix
from .class_folders import find_class_folders
from .label_json import read_json
from .label_photos import SOURCES, Reading, Source, find_tagged_photos
from .label_tables import has_words, read_table
from .label_text import LABEL_SUFFIXES, Sample, once_spelled, read_text, warn_of_capitals
from .label_words import without_case, without_rare

#: Sizes of the distributed splits: training images, test images, words.
BENCHMARKS = {"corel5k": (4500, 499, 260), "iaprtc12": (17665, 1962, 291), "espgame": (18689, 2081, 268)}


@dataclass(frozen=True)
class LabelledImages:
    """Images with their words.

    Attributes:
        name: of the data set and split.
        image_names: as the label file gives them, without ``./``.
        paths: of the N images.
        labels: (N, W) CSR of ones.
        vocabulary: W words.
        missing: images that the label file names and that are not there; they are in none of the other fields.
        unlabelled: number of images beside the label file that it does not name, or beside the subfolders; they are left out.
        subfolders: whether the words are the names of the images' subfolders.
        photos: whether they are keywords or captions of the photos.
        rare: words that were left out because too few images carry them.
        left_out: files in those that are no images by their names, by suffix.
    """

    name: str
    image_names: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: sparse.csr_array
    vocabulary: tuple[str, ...]
    missing: tuple[ImageFailure, ...] = ()
    unlabelled: int = 0
    subfolders: bool = False
    photos: bool = False
    rare: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)

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


def load_labelled_images(
    source: str | Path,
    *,
    fold_case: bool = False,
    min_count: int = 1,
    labels: Source = "auto",
    hierarchy: bool = False,
    machine_words: bool = False,
) -> LabelledImages:
    """The images that a label file names, that lie in subfolders, one for each word, or that carry words themselves.

    Args:
        source: a ``.json``, ``.csv``, ``.tsv`` or ``.jsonl`` label file; or a folder with one that is called ``labels`` (or
            ``metadata.jsonl``), or with at least two subfolders of images, whose names are the words, or of photos with keywords
            or captions.
        fold_case: words that differ in capitals alone are one, in the spelling that most images carry.
        min_count: words that fewer images carry are left out; their images stay.
        labels, hierarchy, machine_words: as :class:`~gpuannot.datasets.label_photos.Reading` has them.

    Raises:
        DataError: no label file, not in one of the forms, an empty one, or one none of whose images is there.
    """
    if labels not in SOURCES:
        raise InvalidArgumentError(f"labels is {labels!r}; expected one of {', '.join(SOURCES)}")
    path = _label_file(Path(source)) if labels == "auto" else Path(source)
    if labels != "auto" and not path.is_dir():
        raise DataError(f"{path}: {labels} are read from a folder of photos, and this is none")
    reading = Reading(labels, hierarchy, machine_words)
    images = _from_folder(path, reading) if path.is_dir() else _from_file(path, machine_words)
    if fold_case:
        images = without_case(images)
    else:
        warn_of_capitals(path, images.vocabulary)
    return without_rare(images, min_count) if min_count > 1 else images


def _from_file(path: Path, machine_words: bool) -> LabelledImages:
    samples, vocabulary = _read(path, machine_words)
    if not samples:
        raise DataError(f"{path} names no image")
    merged = _merge_duplicates(path, samples)
    base = folder_of(path)
    located = {name: _locate(path, name) for name in merged}
    there = {name: place for name, place in located.items() if place is not None}
    if not there:
        first = next(iter(merged))
        raise DataError(
            f"none of the {len(merged)} images that {path} names is in {base.absolute()} (the first: {_brief(first)}); names are "
            f"paths relative to that folder, as they are written there{_almost(base, first)}"
        )
    missing = tuple(
        ImageFailure(str(base / name), "find", f"no such file, but {path.name} names it") for name in merged if name not in there
    )
    labels, words = _label_matrix(path, [merged[name] for name in there], vocabulary)
    beside = {os.path.realpath(found.place) for found in Inputs(base) if found.kind == "file"}  # of a link to itself that link
    unlabelled = len(beside - set(map(os.path.realpath, there.values())))
    return LabelledImages(path.stem, tuple(there), tuple(there.values()), labels, words, missing, unlabelled)


def named_images(source: str | Path) -> list[Path]:
    """Where the images are, or would be, that a label file names.

    Raises:
        DataError: no label file, or not in one of the forms.
    """
    path = _label_file(Path(source))
    if path.is_dir():
        return list(_from_folder(path, Reading()).paths)
    names = [_plain_path(name) for name, _ in _read(path, True)[0]]
    return [_locate(path, name) or path.parent / name for name in names]


def images_with_words(source: str | Path) -> list[Path]:
    """Where the images are that have a word by :func:`load_labelled_images`, which raises as it does and here does not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = load_labelled_images(source)
    return [path for path, words in zip(images.paths, images.labels.sum(axis=1), strict=True) if words]


def _from_folder(folder: Path, reading: Reading) -> LabelledImages:
    found = find_class_folders(folder) if reading.labels == "auto" else None
    if found is None and (tagged := find_tagged_photos(folder, reading)) is not None:
        labels, words = _label_matrix(folder, list(tagged.images.values()), None)
        return LabelledImages(
            folder.name, tuple(tagged.images), tuple(folder / name for name in tagged.images), labels, words,
            tuple(tagged.failures), tagged.without, photos=True, left_out=tagged.left_out,
        )  # fmt: skip
    if found is None:
        # What is learnt from test images makes every number measured on them worthless: no message may lead there.
        files = (path for path in folder.iterdir() if path.suffix.lower() in LABEL_SUFFIXES and "test" not in path.stem.lower())
        others = sorted((path.name for path in files), key=lambda name: (not name.lower().startswith("train"), name))
        raise DataError(
            f"{folder} holds no labels.json or labels.csv, no two subfolders of images, one for each word, and no photos with "
            "keywords or captions; "
            + (f"if {others[0]} is the label file, name it: {folder / others[0]}" if others else "name the label file")
        )
    labels, words = _label_matrix(folder, list(found.images.values()), found.words)
    paths = tuple(folder / name for name in found.images)
    return LabelledImages(
        folder.name, tuple(found.images), paths, labels, words, tuple(found.failures), found.beside, subfolders=True,
        left_out=found.left_out,
    )  # fmt: skip


def _almost(base: Path, name: str) -> str:
    """What a name that leads to no file was perhaps meant to be; empty where nothing suggests itself."""
    if "\\" in name and isfile(base / name.replace("\\", "/")):
        return f"; write it with / between the folders: {name.replace(chr(92), '/')}"
    wanted = base / name
    if os.path.isdir(wanted.parent):
        for other in wanted.parent.iterdir():
            if other.name.lower() == wanted.name.lower() and other.is_file():
                return f"; {other.name} is there, and capital letters count"
    for folder in sorted(base.iterdir()):
        if isfile(folder / name):
            return f"; it is in {folder}: move the label file there"
    return ""


def find_label_file(source: str | Path) -> Path | None:
    """The label file that ``source`` is or, as a folder, holds; None for images, lists and tables without a column of words.

    Raises:
        DataError: a folder with two label files.
    """
    path = Path(source)
    if path.is_dir():
        return _label_file(path) if any((path / f"labels{suffix}").is_file() for suffix in LABEL_SUFFIXES) else None
    if path.suffix.lower() == ".json":
        return path
    return path if path.suffix.lower() in LABEL_SUFFIXES and path.is_file() and has_words(path) else None


def _read_benchmark_split(name: str, split: str, folder: Path, vocabulary: Sequence[str], images: bool) -> LabelledImages:
    path = folder / f"{split}.json"
    samples, _ = read_json(path)
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
        if source.suffix.lower() not in LABEL_SUFFIXES:
            raise DataError(f"{source}: a label file is .json or .csv, .jsonl or .tsv; or give a folder that holds one")
        return source
    if not source.is_dir():
        raise DataError(f"{source}: no such file or folder")
    found = [source / f"labels{suffix}" for suffix in LABEL_SUFFIXES if (source / f"labels{suffix}").is_file()]
    if not found and (listed := source / "metadata.jsonl").is_file() and has_words(listed):  # an image folder of Hugging Face
        return listed
    if len(found) > 1:
        raise DataError(f"{source} holds both {found[0].name} and {found[1].name}; name the one to use")
    return found[0] if found else source


def _read_vocabulary(path: Path) -> list[str]:
    words = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not words:
        raise DataError(f"{path} holds no word, expected one a line")
    return words


def _read(path: Path, machine_words: bool) -> tuple[list[Sample], list[str] | None]:
    return read_json(path, machine_words) if path.suffix.lower() == ".json" else read_table(path)


# -- names of images --------------------------------------------------------------------------------------------------------------


def folder_of(source: str | Path) -> Path:
    """The folder that the names in a label file start from, unless they lie beside it; of a folder itself."""
    path = Path(source)
    if path.is_dir():
        return path
    return path.parent / "images" if os.path.isdir(path.parent / "images") else path.parent


def _plain_path(name: str) -> str:
    """``./a//b.jpg`` as ``a/b.jpg``, which is the same file."""
    return re.sub(r"^(\./+)+", "", re.sub(r"/(\.?/)+", "/", name))


def _locate(path: Path, name: str) -> Path | None:
    """The file that a label file means: of that very name, or else of one that looks the same or lacks its suffix alone."""
    spellings = dict.fromkeys((name, name.strip(), *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))))
    suffixed = [] if "." in name or not name else [name + suffix for suffix in sorted(IMAGE_SUFFIXES)]
    for spelling in (*spellings, *suffixed):
        for folder in dict.fromkeys((folder_of(path), path.parent)):
            if isfile(folder / spelling):
                return folder / spelling
    return None


def _brief(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:79]}…"


def _merge_duplicates(path: Path, samples: list[Sample]) -> dict[str, list[str]]:
    merged: dict[str, list[str]] = {}
    conflicting = []
    for given, words in samples:
        name = _plain_path(given)
        if name in merged and path.suffix.lower() == ".json" and set(words) != set(merged[name]):
            conflicting.append(name)
        merged[name] = merged.get(name, []) + words
    if conflicting:
        warnings.warn(
            f"{path} names {counted(len(conflicting), 'image')} twice with different words (first: {_brief(conflicting[0])}); they "
            "were joined",
            stacklevel=3,
        )
    return merged


def _label_matrix(path: Path, words: list[list[str]], vocabulary: Sequence[str] | None) -> tuple[sparse.csr_array, tuple[str, ...]]:
    try:
        return label_matrix(words, None if vocabulary is None else once_spelled(vocabulary))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
