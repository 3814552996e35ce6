"""The ledger: the inputs that got no row, or whose words could not be written, with the stage and the reason."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from ...images.decode_task import ImageFailure
from ...images.input import utf8


def failure_lines(failures: Iterable[ImageFailure]) -> str:
    """The ledger: JSON lines of ``path``, ``stage`` and ``reason``."""
    entries = ({"path": utf8(failure.path), "stage": failure.stage, "reason": failure.reason} for failure in failures)
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


def read_ledger(path: Path) -> Iterator[ImageFailure]:
    """The entries of a ledger."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield ImageFailure(**json.loads(line))
