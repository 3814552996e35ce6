"""What every benchmark shares: alternated timing, medians with their spread, and result files."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpuannot.environment import record

RESULTS = Path(__file__).parent / "results"
SCHEMA = "gpuannot.benchmark/1"


def alternate(variants: Mapping[str, Callable[[], object]], *, repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each variant, one call of each in turn, ``repeats`` times.

    Alternating puts every variant under the same drift of the machine: ratios within one run hold where single times do not.
    """
    for _ in range(warm_up):
        for call in variants.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, call in variants.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": median, "q1": low, "q3": high, "runs": len(values)}


def write_result(name: str, command: str, content: Mapping[str, Any]) -> Path:
    """Write ``results/NAME.json`` with commit, machine, versions and date beside the measurement."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"schema": SCHEMA, "command": command, "environment": record(), **content}, indent=2) + "\n")
    return path
