"""A row of a result: one variant at one size, timed in turn with its rivals, and what its answer is worth."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.common import NO_DEVICE, alternate, keep_if_asked, parser_of, spread, with_peak_memory, write_if_asked
from benchmarks.limits import Limits, measure_limits
from benchmarks.peers import Missing
from gpuannot.errors import DeviceError
from gpuannot.system.device import resolve_device

Row: TypeAlias = dict[str, Any]
Variants: TypeAlias = Mapping[str, Callable[[], Any] | Missing]
Measure: TypeAlias = Callable[["Setting"], Iterator[Row]]

ROWS_SCHEMA = "gpuannot.benchmark/2"
#: The variant that the others are compared with.
OURS = "gpuannot"
#: What the tables say of a row: its variant, and :func:`cells`.
HEADINGS = ("", "a second", "median", "IQR", "× gpuannot's time", "of limit", "peak MB", "against float64")
_SHORTEST_TIMING = 0.02  # seconds; shorter calls are made several times in one timing
_LONGEST_TIMINGS = 20.0  # seconds of one variant at one size, after which no timing of it begins


@dataclass(frozen=True)
class Setting:
    """How a stage is measured: where, at which sizes, how often, from which seed and against which limits."""

    device: torch.device
    limits: Limits
    quick: bool = False
    repeats: int = 7
    seed: int = 0

    @property
    def gpu(self) -> bool:
        return self.device.type == "cuda"

    def pick(self, cpu: Any, cuda: Any, quick: Any) -> Any:
        """The sizes for this run."""
        return quick if self.quick else cuda if self.gpu else cpu


@dataclass(frozen=True)
class Agreement:
    """How near an answer is to the reference in float64, and whether that is within ``bound``."""

    measure: str
    value: float
    bound: float
    agrees: bool


def equal_share(found: Any, exact: np.ndarray, bound: float = 0.9999) -> Agreement:
    """Share of equal integers; at least ``bound`` of them agree, as rounding may turn a near tie."""
    value = float((_numpy(found).reshape(-1) == exact.reshape(-1)).mean())
    return Agreement("share of equal indices", value, bound, value >= bound)


def relative_error(found: Any, exact: np.ndarray, bound: float = 1e-5) -> Agreement:
    """‖found − exact‖/‖exact‖."""
    value = float(np.linalg.norm(_numpy(found).astype(np.float64).reshape(exact.shape) - exact) / np.linalg.norm(exact))
    return Agreement("relative error", value, bound, value <= bound)


def _numpy(values: Any) -> np.ndarray:
    if not isinstance(values, torch.Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    return (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()


def measure_rows(
    setting: Setting,
    stage: str,
    case: Mapping[str, int | str],
    variants: Variants,
    *,
    items: int,
    unit: str = "images",
    moved: float | None = None,
    work: float | None = None,
    dtype: str | Mapping[str, str] = "float32",
    agreement: Callable[[Any], Agreement | None] | None = None,
    baseline: str = OURS,
) -> Iterator[Row]:
    """Time all variants in turn; a row each. Of a setting with one repeat, the first call is the timing.

    Args:
        items: how many ``unit`` one call works on. moved: bytes that must be read and written at least. work: operations.
        dtype: of the products that ``work`` counts, for all variants or by name.
        agreement: what an answer is worth against the reference in float64.
        baseline: the variant whose time the others' are divided by.
    """
    calls = {name: call for name, call in variants.items() if not isinstance(call, Missing)}
    facts: dict[str, Row] = {name: {} for name in variants}
    numbers, repeats = {}, setting.repeats
    seconds: dict[str, list[float]] = {}
    for name, call in calls.items():
        if repeats > 1:
            call()  # what is built or compiled at first use
        start = time.perf_counter()
        answer, peak = with_peak_memory(call, setting.device)
        once = time.perf_counter() - start
        seconds[name] = [once]
        numbers[name] = 1 if setting.gpu else max(1, math.ceil(_SHORTEST_TIMING / max(once, 1e-7)))
        repeats = min(repeats, max(3, int(_LONGEST_TIMINGS / max(once, 1e-7))))
        if peak is not None:
            facts[name]["peak_bytes"] = peak
        found = agreement(answer) if agreement is not None else None
        if found is not None:
            facts[name]["agreement"] = asdict(found)
    if repeats > 1:
        seconds = alternate(calls, repeats=repeats, warm_up=0, device=setting.device, numbers=numbers)
    base = spread(seconds[baseline])["median"] if baseline in seconds else None
    for name, variant in variants.items():
        row: Row = {"stage": stage, "case": dict(case), "variant": name, "device": setting.device.type}
        if isinstance(variant, Missing):
            yield {**row, "missing": variant.reason}
            continue
        times = spread(seconds[name])
        kind = dtype if isinstance(dtype, str) else dtype.get(name, "float32")
        row |= {"seconds": times, "items": items, "unit": unit, "per_second": items / times["median"]}
        row |= setting.limits.shares(times["median"], moved, work, kind)
        if base is not None:
            row[f"seconds_to_{baseline.split()[0]}"] = times["median"] / base
        yield {**row, **facts[name]}


def print_rows(rows: Iterable[Row], title: str) -> None:
    """A table for each stage and case, no wider than the terminal; why peers were not run stands below them, once a reason."""
    out, rows = console(), list(rows)
    out.print(title, style="bold")
    for (stage, case), group in groupby(rows, lambda row: (row["stage"], case_text(row))):
        measured = [row for row in group if "missing" not in row]
        columns: list[tuple[str, ...]] = list(zip(HEADINGS, *([row["variant"], *cells(row)] for row in measured), strict=True))
        columns = [column for column in columns if any(column[1:])]
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column(overflow="fold")  # names take several lines where figures need the room
        for heading, *_ in columns[1:]:
            table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)
        for texts in zip(*(column[1:] for column in columns), strict=True):
            table.add_row(*texts)
        out.print(f"{stage}: {case}")
        out.print(table)
    reasons: dict[str, dict[str, None]] = {}
    for row in rows:
        if "missing" in row:
            reasons.setdefault(row["missing"], {})[row["variant"]] = None
    for reason, names in reasons.items():
        out.print(f"not run: {'; '.join(names)}: {reason}")


def console() -> Console:
    """Where tables are printed: as wide as the terminal, and 160 columns in a file."""
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False)


def case_text(row: Row) -> str:
    return ", ".join(f"{name} {value:,}" if isinstance(value, int) else f"{value}" for name, value in row["case"].items())


def cells(row: Row) -> list[str]:
    """What the tables say of a row: rate, median, IQR, time to gpuannot's, share of the limit, peak memory, worth."""
    if "missing" in row:
        return ["not run: " + row["missing"]]
    times, found = row["seconds"], row.get("agreement")
    return [
        f"{row['per_second']:,.0f} {row['unit']}" if row["per_second"] >= 100 else f"{row['per_second']:.3g} {row['unit']}",
        duration(times["median"]),
        f"{100 * (times['q3'] - times['q1']) / times['median']:.0f}%",
        f"{row['seconds_to_gpuannot']:.2f}" if "seconds_to_gpuannot" in row else "",
        f"{100 * row['share_of_limit']:.0f}%" if "share_of_limit" in row else "",
        f"{row['peak_bytes'] / 1e6:,.0f}" if "peak_bytes" in row else "",
        worth(found) if found else "",
    ]


def worth(agreement: Mapping[str, Any]) -> str:
    """An agreement in a few characters."""
    value = agreement["value"]
    text = f"{100 * value:.4g}%" if agreement["measure"].startswith("share") else f"{value:.2g}"
    return text if agreement["agrees"] else f"{text}: no"


def duration(seconds: float) -> str:
    """Seconds with a unit that keeps three digits readable."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def rate_text(dtype: str, rate: float) -> str:
    """The rate of products of a dtype."""
    return f"{rate / 1e9:,.0f} {'GOP/s' if dtype == 'int8' else 'GFLOP/s'}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every benchmark has."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="small sizes and few repeats, to see that it runs")
    parser.add_argument("--repeats", type=int, help="timings of each variant (default: 7, quick: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the random data (default: %(default)s)")


def setting_of(arguments: argparse.Namespace) -> Setting:
    """The setting that the options ask for, with the limits measured now; ends the program where the device is not there."""
    try:
        device = resolve_device(arguments.device)
    except DeviceError as error:
        print(f"nothing was measured: {error}")
        sys.exit(NO_DEVICE)
    torch.manual_seed(arguments.seed)
    limits = measure_limits(device, quick=arguments.quick)
    return Setting(device, limits, arguments.quick, arguments.repeats or (3 if arguments.quick else 7), arguments.seed)


def content(setting: Setting, rows: list[Row], **more: Any) -> dict[str, Any]:
    """What a result file of rows holds beside command and environment."""
    of_run = {"device": str(setting.device), "quick": setting.quick, "repeats": setting.repeats, "seed": setting.seed}
    return {"schema": ROWS_SCHEMA, "setting": of_run, "limits": asdict(setting.limits), **more, "rows": rows}


def stage_main(name: str, description: str, measure: Measure) -> None:
    """The command of one stage: measure, print, and write if asked."""
    parser = parser_of(f"benchmarks.{name}", description)
    add_arguments(parser)
    arguments = parser.parse_args()
    setting = setting_of(arguments)
    rows: list[Row] = []
    for row in measure(setting):
        rows.append(row)
        keep_if_asked(parser, arguments, content(setting, rows))
    print_rows(rows, f"{name} on {setting.device}")
    write_if_asked(parser, arguments, content(setting, rows))
