"""What a batch run left, read without gpuannot."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

BATCH, PART = 4, 6
SUFFIXES = ("parquet", "jsonl", "csv")
CHANGES: dict[str, Any] = {"layer": "pool2", "input_size": 32, "n_components": 8, "n_centers": 4, "batch_size": BATCH}


def files(folder: Path) -> dict[str, bytes]:
    """All that a run leaves, but for the summary with its timings and the empty lock."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if name not in ("_summary.json", "_gpuannot/lock")}


def read(folder: Path) -> list[dict[str, Any]]:
    """The rows of a folder of parts, by readers that know nothing of gpuannot."""
    if list(folder.glob("*.parquet")):
        return pq.read_table(folder).to_pylist()  # type: ignore[no-any-return]
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("part-*")):
        with open(path, encoding="utf-8", newline="") as file:
            rows += map(json.loads, file) if path.suffix == ".jsonl" else csv.DictReader(file)
    return rows


def ledger(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for path in sorted((folder / "_failures").iterdir()) for line in path.read_text("utf-8").splitlines()]
