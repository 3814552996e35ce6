"""Labels in one JSON file: as the field's benchmarks are distributed, as COCO annotates, and as Label Studio exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import DataError, shown
from .label_studio import is_label_studio, read_label_studio
from .label_text import Sample, read_text

_EXPECTED = 'expected {"samples": [{"image_name": …, "image_labels": […]}, …]}'


def read_json(path: Path, machine_words: bool = False) -> tuple[list[Sample], list[str] | None]:
    """Images and words of a label file, and its vocabulary where it has one.

    Args:
        machine_words: with Label Studio also those of predictions.

    Raises:
        DataError: it cannot be read, or is in none of these forms.
    """
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
    if isinstance(content, dict) and all(isinstance(content.get(key), list) for key in ("images", "annotations", "categories")):
        return _coco(path, content)
    if is_label_studio(content):
        return read_label_studio(path, content, machine_words), None
    if not isinstance(content, dict) or not isinstance(content.get("samples"), list):
        raise DataError(f"{path}: {_EXPECTED}, found {_outline(content)}")
    samples = []
    for number, sample in enumerate(content["samples"]):
        name, words = (sample.get("image_name"), sample.get("image_labels")) if isinstance(sample, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise DataError(f"{path}: samples[{number}] is {shown(sample)}; {_EXPECTED}")
        samples.append((name, words))
    vocabulary = content.get("labels")
    if vocabulary is not None and not isinstance(vocabulary, list):
        raise DataError(f'{path}: "labels" must be the list of all words')
    return samples, vocabulary


def _coco(path: Path, content: dict[str, Any]) -> tuple[list[Sample], list[str]]:
    """The words of an image are the categories of its annotations; those are the vocabulary, in the order in which they stand."""
    names = _by_id(path, content, "images", "file_name")
    words = _by_id(path, content, "categories", "name")
    carried: dict[int | str, dict[str, None]] = {image: {} for image in names}  # dictionaries as sets that keep their order
    for number, annotation in enumerate(content["annotations"]):
        image, category = (
            (annotation.get("image_id"), annotation.get("category_id")) if isinstance(annotation, dict) else (None, None)
        )
        if not isinstance(image, (int, str)) or not isinstance(category, (int, str)) or image not in names or category not in words:
            raise DataError(
                f'{path}: annotations[{number}] is {shown(annotation)}; expected the "image_id" of one of its images and the '
                '"category_id" of one of its categories'
            )
        carried[image][words[category]] = None
    return [(name, list(carried[image])) for image, name in names.items()], list(dict.fromkeys(words.values()))


def _by_id(path: Path, content: dict[str, Any], kind: str, name: str) -> dict[int | str, str]:
    found: dict[int | str, str] = {}
    for number, entry in enumerate(content[kind]):
        key, value = (entry.get("id"), entry.get(name)) if isinstance(entry, dict) else (None, None)
        if not isinstance(key, (int, str)) or not isinstance(value, str):
            raise DataError(f'{path}: {kind}[{number}] is {shown(entry)}; expected {{"id": …, "{name}": …}}')
        if found.setdefault(key, value) != value:
            raise DataError(f"{path}: {kind}[{number}] has the id {shown(key)}, as {shown(found[key])} has")
    return found


def _outline(content: Any) -> str:
    if isinstance(content, dict):
        keys = ", ".join(shown(key) for key in list(content)[:5])
        return f"an object with the keys {keys}" + (" …" if len(content) > 5 else "") if content else "an empty object"
    return f"a list of {len(content)}" if isinstance(content, list) else shown(content)
