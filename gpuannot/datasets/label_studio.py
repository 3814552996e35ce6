"""Labels as Label Studio exports them, in its format JSON: tasks with the annotations that people made.

An image's words are the choices, labels and last levels of taxonomies of all its annotations but those that were skipped. A task
without an annotation is not labelled; predictions are a model's words and are left out, unless they are asked for. Images are
found by the name that the task has: a path, one below the folder of local files, an upload, or the end of a URL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ..errors import DataError, shown
from ..images.decode import IMAGE_SUFFIXES
from .label_text import Sample

_UPLOAD = re.compile(r"/data/upload/(?:\d+/)?(?:[0-9a-f]{8}-)?")


def is_label_studio(content: Any) -> bool:
    """Whether this is a list of tasks."""
    return isinstance(content, list) and bool(content) and isinstance(content[0], dict) and isinstance(content[0].get("data"), dict)


def read_label_studio(path: Path, content: list[Any], machine_words: bool) -> list[Sample]:
    """Images and words.

    Raises:
        DataError: a task that is none, or not one has an annotation.
    """
    samples: list[Sample] = []
    predicted = 0
    for number, task in enumerate(content):
        data = task.get("data") if isinstance(task, dict) else None
        name = _image(data) if isinstance(data, dict) else None
        if name is None:
            raise DataError(f'{path}: task {number} is {shown(task)}; expected "data" with the path or URL of an image')
        annotations = [entry for entry in _entries(task, "annotations") if not entry.get("was_cancelled")]
        predictions = _entries(task, "predictions")
        predicted += bool(predictions)
        taken = annotations + (predictions if machine_words else [])
        if taken:
            words = [word for entry in taken for word in _words(path, number, entry)]
            samples.append((_found(path, name), list(dict.fromkeys(words))))
    if not samples:
        only = "; their predictions are what a model says, not a person: --machine-words takes them" if predicted else ""
        raise DataError(f"{path}: not one of its {len(content)} tasks has an annotation{only}")
    return samples


def _entries(task: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = task.get(key)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _words(path: Path, number: int, entry: dict[str, Any]) -> Iterator[str]:
    for result in entry.get("result") or ():
        value = result.get("value") if isinstance(result, dict) else None
        for key, found in value.items() if isinstance(value, dict) else ():
            if key not in ("choices", "taxonomy") and not key.endswith("labels"):
                continue
            for word in found if isinstance(found, list) else [found]:
                last = word[-1] if isinstance(word, list) and word else word
                if not isinstance(last, str):
                    raise DataError(f"{path}: task {number} has {shown(found)} for its {key}, expected words")
                yield last


def _image(data: dict[str, Any]) -> str | None:
    """The path of the image, as Label Studio fetches it."""
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    images = [value for value in texts.values() if PurePosixPath(_path(value)).suffix.lower() in IMAGE_SUFFIXES]
    given = texts.get("image") or next(iter(images), None)
    return None if given is None else _path(given)


def _path(given: str) -> str:
    try:
        url = urlsplit(given)
    except ValueError:  # brackets that are no address
        return given
    if url.path.startswith("/data/local-files") and (local := parse_qs(url.query).get("d")):
        return local[0]
    if _UPLOAD.match(url.path):
        return unquote(_UPLOAD.sub("", url.path))
    return unquote(url.path).lstrip("/") if url.scheme else given


def _found(path: Path, name: str) -> str:
    """The longest end of a path that leads to a file beside the label file; the path itself where none does."""
    parts = PurePosixPath(name).parts
    for start in range(len(parts)):
        end = "/".join(parts[start:])
        if any((folder / end).is_file() for folder in (path.parent / "images", path.parent)):
            return end
    return name
