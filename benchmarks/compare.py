"""What changed between two results: ``python -m benchmarks.compare OLD.json NEW.json``.

Times of two runs differ by more than the spread within each: the machine was another, or busy otherwise. A change is called one
only where the quartiles of both lie apart and the medians by 5% at least.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.common import parser_of
from benchmarks.rows import Row, case_text, console, duration

_LEAST = 0.05


@dataclass(frozen=True)
class Change:
    """One variant at one size in two results."""

    name: str
    old: dict[str, float]
    new: dict[str, float]

    @property
    def ratio(self) -> float:
        """New time divided by old."""
        return self.new["median"] / self.old["median"]

    @property
    def verdict(self) -> str:
        """``faster``, ``slower``, or nothing where the runs do not tell them apart."""
        if self.new["q3"] < self.old["q1"] and self.ratio < 1 - _LEAST:
            return "faster"
        if self.new["q1"] > self.old["q3"] and self.ratio > 1 + _LEAST:
            return "slower"
        return ""


def read(path: Path) -> dict[str, Any]:
    """A result with rows.

    Raises:
        SystemExit: the file is not one; the message says what it is.
    """
    try:
        found = json.loads(path.read_text())
        if not all("stage" in row for row in found["rows"]):
            raise KeyError("stage")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"'{path}' is not a result of python -m benchmarks ({type(error).__name__}: {error})") from error
    return found


def compare(old: Iterable[Row], new: Iterable[Row]) -> list[Change]:
    """The rows that both have, in the order of the new."""
    before = {_key(row): row["seconds"] for row in old if "seconds" in row}
    return [
        Change(f"{row['stage']}, {case_text(row)}: {row['variant']}", before[_key(row)], row["seconds"])
        for row in new
        if "seconds" in row and _key(row) in before
    ]


def _key(row: Row) -> str:
    return json.dumps([row["stage"], row["case"], row["variant"], row["device"]], sort_keys=True)


def print_comparison(changes: list[Change]) -> None:
    table = Table("", title=f"{len(changes)} rows in both", title_justify="left")
    for heading in ("old", "new", "new ÷ old", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for change in changes:
        old, new = duration(change.old["median"]), duration(change.new["median"])
        table.add_row(change.name, old, new, f"{change.ratio:.2f}", change.verdict)
    console().print(table)


def main() -> None:
    parser = parser_of("benchmarks.compare", __doc__, writes=False)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    arguments = parser.parse_args()
    print_comparison(compare(read(arguments.old)["rows"], read(arguments.new)["rows"]))


if __name__ == "__main__":
    main()
