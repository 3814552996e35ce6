"""What a batch run notes of itself: its settings, and of each part that is whole what is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError
from .writers import FORMATS


@dataclass(frozen=True)
class RunSettings:
    """All that decides the content of the parts, beside the inputs.

    Attributes:
        model_sha256: the model's.
        k: words an image, or with a ``threshold`` of confidence the most.
        format: of the parts, ``parquet``, ``jsonl`` or ``csv``.
        part_size: inputs of a part.
        vectors: VLAD vectors are written too.
        decoder: of JPEGs: ``pillow``, or one on the GPU, whose pixels are others.
        cpu_share: share of the JPEGs that stays with Pillow beside a decoder on the GPU.
        confidence: confidences are written too.
        threshold: confidence that a word needs to be given; None gives k words to every image.
    """

    model_sha256: str
    k: int
    format: str
    part_size: int
    vectors: bool
    device: str
    trunk_dtype: str
    batch_size: int
    decoder: str = "pillow"
    cpu_share: float = 0.0
    confidence: bool = False
    threshold: float | None = None


@dataclass(frozen=True)
class PartDone:
    """A part that is whole.

    Attributes:
        part: its number.
        names: SHA-256 of the names of its inputs.
        inputs: number of them.
        rows: number of them.
        failed: places in the part of the inputs without a row, ascending.
        stages: number of those by stage.
        files: SHA-256 of its files, by name.
        coming: fields of the note that is to replace this one, while what failed is tried again and the files are exchanged.
    """

    part: int
    names: str
    inputs: int
    rows: int
    failed: Sequence[int]
    stages: Mapping[str, int]
    files: Mapping[str, str]
    coming: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class RunCounts:
    """What is in all parts of a run; ``stages``: failures by stage."""

    inputs: int
    rows: int
    failures: int
    stages: Mapping[str, int]


def check_format(name: str) -> str:
    """The name of a format, checked.

    Raises:
        ValueError: parts cannot have that format.
    """
    formats: Sequence[str] = [suffix.removeprefix(".") for suffix in FORMATS]
    if name not in formats:
        raise InvalidArgumentError(f"format {name!r} is unknown; choose one of {', '.join(formats)}")
    return name


def check_accounts(what: str, inputs: int, rows: int, failures: int) -> None:
    """Refuse counts by which an input has neither a row nor an entry in the ledger.

    Args:
        what: the counts are of, for the error.

    Raises:
        RuntimeError: rows and failures do not add up to the inputs.
    """
    if rows + failures != inputs:
        raise RuntimeError(
            f"{what}: {rows} rows + {failures} failures ≠ {inputs} inputs. This is a bug in gpuannot: please report it with the "
            "folder _gpuannot"
        )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()
