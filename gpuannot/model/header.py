"""What a model file says of itself before its tensors: read in milliseconds, without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..errors import ModelFileError

SCHEMA = "gpuannot.model/1"

NOT_SAFETENSORS = (SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError)


def read_vocabulary(path: str | Path) -> list[str]:
    """The words of a model file, whose tensors are neither read nor checked.

    Raises:
        ModelFileError: missing, not safetensors, or another program's.
    """
    path = check_is_file(path)
    try:
        with safe_open(path, framework="np") as file:
            metadata = dict(file.metadata() or {})
    except NOT_SAFETENSORS as error:
        raise not_whole(path, error) from error
    words = checked_header(path, metadata).get("vocabulary")
    return [word for word in words if isinstance(word, str)] if isinstance(words, list) else []


def check_is_file(path: str | Path) -> Path:
    """The path of a model file that is there.

    Raises:
        ModelFileError: it is not, or is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise ModelFileError(f"{path}: no such model file, but a folder; the model comes first, then images")
    if not path.is_file():
        raise ModelFileError(f"{path}: no such model file; gpuannot fit writes one")
    return path


def not_whole(path: Path, error: Exception) -> ModelFileError:
    """What is wrong with a file that safetensors cannot read."""
    return ModelFileError(
        f"{path} is not a whole safetensors file ({error}); gpuannot models are written by Annotator.save or gpuannot fit"
    )


def checked_header(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The model description in a file's metadata.

    Raises:
        ModelFileError: not a gpuannot model, or of another schema.
    """
    try:
        header = json.loads(metadata.get("gpuannot", "null"))
    except (ValueError, RecursionError) as error:  # also of numbers of too many digits, and lists in lists in lists
        raise ModelFileError(f"{path}: its model description is not valid JSON ({error})") from error
    if not isinstance(header, dict) or "schema" not in header:  # gpuannot's own weights file has a description, and no schema
        raise ModelFileError(f"{path} is a safetensors file, but not a gpuannot model (is it a file of network weights?)")
    if header["schema"] != SCHEMA:
        raise ModelFileError(
            f"{path} has schema {header['schema']!r}, this version of gpuannot reads {SCHEMA!r}; use the version that wrote it"
        )
    return header
