"""The ledger: the inputs that got no row, or whose words could not be written, with the stage and the reason."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

from ...errors import DataError, Stage
from ...images.decode_task import ImageFailure
from ...images.input import describe, utf8


def failure_lines(failures: Iterable[ImageFailure]) -> str:
    """The ledger: JSON lines of ``path``, ``stage`` and ``reason``."""
    entries = ({"path": utf8(failure.path), "stage": failure.stage, "reason": failure.reason} for failure in failures)
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


def read_ledger(path: Path) -> Iterator[ImageFailure]:
    """The entries of a ledger.

    Raises:
        DataError: it is cut, or something else.
    """
    otherwise = "as the ledger of a run; delete it, or move it elsewhere"
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
                raise DataError(f"{path}, line {number} cannot be read ({describe(error)}) {otherwise}") from error
            values = [entry.get(name) for name in ("path", "stage", "reason")] if isinstance(entry, dict) else [None]
            if not all(isinstance(value, str) for value in values) or values[1] not in get_args(Stage):
                raise DataError(f"{path}, line {number} names no 'path', 'stage' and 'reason' {otherwise}")
            yield ImageFailure(*values)
