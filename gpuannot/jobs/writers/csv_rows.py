r"""Rows as CSV, which has no lists: they are joined with ``;``, and a ``;`` or ``\`` within a word has a ``\`` before it.

What a spreadsheet would take for a formula has ``\`` before it too, in a path ``./``.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import IO, Any

from ...images.decode_task import ImageFailure
from ...model.annotations import Annotations
from .rows import rows

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet computes


class CsvRows:
    """One line an image, below a header."""

    failures: tuple[ImageFailure, ...] = ()

    def __init__(self, path: Path, model_sha256: str, vectors: int | None, confidence: bool) -> None:
        self._model = model_sha256
        self._file: IO[str] = open(path, "w", encoding="utf-8", newline="")  # noqa: SIM115 - closed by close()
        self._csv = csv.writer(self._file)
        optional = (*(("confidences",) if confidence else ()), "model", *(("vector",) if vectors is not None else ()))
        self._csv.writerow(("path", "words", "distances", *optional))

    def write(self, annotations: Annotations) -> None:
        for row in rows(annotations, self._model):
            self._csv.writerow([cell(value) for value in row.values()])

    def close(self) -> None:
        self._file.close()


def cell(value: str | list[Any]) -> str:
    """What stands in one column."""
    if isinstance(value, str):
        return f"./{value}" if value.startswith(FORMULA) else value
    cell = ";".join(str(item) if isinstance(item, float) else re.sub(r"([;\\])", r"\\\1", item) for item in value)
    return f"\\{cell}" if cell.startswith(FORMULA) and isinstance(value[0], str) else cell
