"""Folders of images, one for each word: the layout that torchvision's ImageFolder, Keras and many data sets have."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError
from ..images.decode import IMAGE_SUFFIXES
from ..images.decode_task import ImageFailure
from ..images.inputs import Inputs
from ..method.labels import spelled
from .label_text import LABEL_SUFFIXES

_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


class ClassFolders(NamedTuple):
    """What the subfolders of a folder hold.

    Attributes:
        words: the subfolders' names as words (:func:`~gpuannot.method.labels.spelled`), sorted.
        images: for each image its path below the folder and its words.
        failures: what could not be listed or followed.
        beside: number of images in none of the subfolders.
        left_out: files in the subfolders that are no images by their names, by suffix.
    """

    words: list[str]
    images: dict[str, list[str]]
    failures: list[ImageFailure]
    beside: int
    left_out: Counter[str]


def find_class_folders(root: Path) -> ClassFolders | None:
    """The images in the subfolders of ``root``, each with the name of its subfolder as a word; None where fewer than two hold any.

    Images in deeper folders count to the subfolder that they are below. An image that links lead to from several subfolders has
    several words. Names that start with a dot are skipped.

    Raises:
        DataError: the subfolders are no words: the splits of a data set, or one holds a label file.
    """
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if folders and {folder.lower() for folder in folders} <= _SPLITS:
        raise DataError(
            f"{root} holds {' and '.join(folders)}, which are splits of a data set and no words; name one of them: "
            f"{root / folders[0]}"
        )
    for folder in folders:
        for suffix in LABEL_SUFFIXES:
            if (root / folder / f"labels{suffix}").is_file():
                raise DataError(
                    f"{root} holds no labels.json or labels.csv, but its subfolder {folder} does; name that: {root / folder}"
                )
    images: dict[str, list[str]] = {}
    first_names: dict[str, str] = {}  # by real path, so that links to one image are that image
    failures: list[ImageFailure] = []
    filled, left_out = 0, Counter[str]()
    for folder in folders:
        inputs = Inputs(root / folder)
        found = list(inputs)
        left_out += inputs.left_out
        files = [each.place for each in found if each.kind == "file"]
        filled += bool(files)
        for place in files:
            name = first_names.setdefault(os.path.realpath(place), os.path.relpath(place, root).replace(os.sep, "/"))
            images.setdefault(name, []).append(spelled(folder))
        if files or not os.access(root / folder, os.R_OK | os.X_OK):  # else the failure is that the subfolder is empty
            failures += [ImageFailure(each.name, "find", each.detail) for each in found if each.kind == "failed"]
    if filled < 2:
        return None
    beside = sum(entry.is_file() and os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES for entry in os.scandir(root))
    return ClassFolders(sorted(set(map(spelled, folders))), images, failures, beside, left_out)
