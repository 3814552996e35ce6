"""Corrected labels: the file that a review writes, and label files made right by it.

``{"samples": [{"image_name": "/photos/a.jpg", "image_labels": ["sea", "sky"], "was": ["city"]}, …]}``: a label file in which
an image also has the words that it was learnt with, ``was``. Images without ``was`` are new. Names are paths, or relative to the
file's folder, or URLs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError, counted, shown
from ..images.input import is_path, is_url, utf8
from ..method.labels import is_word, spelled
from ..system.atomic_files import write_whole
from .label_files import LabelledImages
from .label_json import read_json
from .label_text import read_text


class Corrections(NamedTuple):
    """Images with the words that they carry, and those that they were learnt with: None for new images.

    ``paths`` may lead into an archive: :func:`~gpuannot.images.inputs.named_inputs` finds what they mean.
    """

    paths: tuple[Path | str, ...]
    after: tuple[tuple[str, ...], ...]
    before: tuple[tuple[str, ...] | None, ...]


def load_corrections(source: str | Path) -> Corrections:
    """Read a file of corrections; whether the images are there is not looked at.

    Raises:
        DataError: it cannot be read or is in another form, or it names an image twice.
    """
    path = Path(source)
    if not path.is_file():
        raise DataError(f"{path}: no such file of corrections")
    samples, _ = read_json(path)
    whole = json.loads(read_text(path))
    content = whole.get("samples") if isinstance(whole, dict) and "annotations" not in whole else None  # COCO and others are labels
    if not samples or not isinstance(content, list) or len(content) != len(samples):
        raise DataError(
            f'{path} holds no corrections; a review exports {{"samples": [{{"image_name": …, "image_labels": […]}}, …]}}'
        )
    found: dict[Path | str, tuple[tuple[str, ...], tuple[str, ...] | None]] = {}
    for number, ((name, words), sample) in enumerate(zip(samples, content, strict=True)):
        if "\0" in name or not is_path(name):
            raise DataError(f"{path}: samples[{number}] names {shown(name)}, which no file can be called")
        place = name if is_url(name) else path.parent / name
        if place in found:
            raise DataError(f"{path}: samples[{number}] names {shown(name)} for the second time; correct an image once")
        was = sample.get("was")
        found[place] = _words(path, number, words), None if was is None else _words(path, number, was)
    return Corrections(tuple(found), tuple(words for words, _ in found.values()), tuple(was for _, was in found.values()))


def _words(path: Path, number: int, given: Any) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(map(is_word, given)):
        raise DataError(f"{path}: samples[{number}] has the words {shown(given)}; expected a list of words")
    return tuple(dict.fromkeys(map(spelled, given)))


def corrected(images: LabelledImages, corrections: Corrections) -> list[list[str]]:
    """The words of all images, some of them corrected.

    What a review took off is gone, what it added is there, and words that it did not show, such as rare ones that were to be left
    out, stay. Corrections that are there already change nothing.

    Raises:
        DataError: a correction of an image that is not among them, or that was labelled otherwise when it was reviewed.
    """
    words = [[images.vocabulary[word] for word in images.labels[[row]].indices] for row in range(len(images))]
    row = {utf8(os.path.realpath(path)): number for number, path in enumerate(images.paths)}  # as the page of a review names them
    for path, after, before in zip(*corrections, strict=True):
        number = row.get(utf8(os.path.realpath(path)))
        if number is None:
            raise DataError(f"{path} was corrected, and is none of the {counted(len(images), 'image')} of {images.name}")
        now = words[number]
        if before is not None and not (set(before) <= set(now) or set(after) <= set(now)):
            raise DataError(
                f"{path} carried {shown(list(before))} when it was reviewed and carries {shown(now)} in {images.name}: "
                "the corrections are of other labels; audit these ones again"
            )
        lost = set(now if before is None else before) - set(after)
        words[number] = [*(word for word in now if word not in lost), *(word for word in after if word not in now)]
    return words


def write_label_file(path: str | Path, images: LabelledImages, words: Sequence[Sequence[str]]) -> Path:
    """Write a JSON label file (:mod:`gpuannot.datasets.label_files`), names relative to where it is.

    Args:
        path: to write.
        images: whose paths and vocabulary it gets.
        words: of each image; those that the vocabulary lacks are appended to it.
    """
    path = Path(path)
    base = path.parent / "images" if (path.parent / "images").is_dir() else path.parent
    new = sorted({word for carried in words for word in carried} - set(images.vocabulary))
    samples = [
        {"image_name": _name(place, base, path.parent), "image_labels": list(carried)}
        for place, carried in zip(images.paths, words, strict=True)
    ]
    content = {"samples": samples, "labels": [*images.vocabulary, *new]}
    # Bytes of a name that are no UTF-8 become \udcff, which JSON reads as what names the file.
    return write_whole(path, (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode(errors="backslashreplace"))


def _name(place: Path, base: Path, folder: Path) -> str:
    within = os.path.relpath(place, base)
    return (os.path.relpath(place, folder) if within.startswith(os.pardir) else within).replace(os.sep, "/")
