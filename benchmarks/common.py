"""What every benchmark shares: its command, alternated timing, medians with their spread, peak memory, and result files."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from threadpoolctl import threadpool_info

from gpuannot.system.environment import record

RESULTS = Path(os.environ.get("RESULTS") or Path(__file__).parent / "results")
#: ``schema.json`` says what a result file holds; gpuannot.benchmark/2 are those with rows of one form (benchmarks/rows.py).
SCHEMA = "gpuannot.benchmark/1"
#: The exit code where a device is asked for that is not there.
NO_DEVICE = 3

_PEERS = ("faiss-cpu", "faiss-gpu-cu12", "fastkmeans", "flash-kmeans", "cyvlfeat", "simplejpeg", "opencv-python-headless")
_SETTINGS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
# Threads of one library go on waiting in a loop, on a core that the next variant needs, after a call: OpenBLAS's for 2²⁸ cycles.
_SECONDS_TO_REST = 0.15
# A call that takes less is made once before it is timed, as the rest leaves threads asleep and caches cold.
_SECONDS_NEED_NO_WARMING = 0.25
_FLUSH_BYTES = 256 << 20  # more than the second-level cache of any GPU so far

Result = TypeVar("Result")


def parser_of(module: str, description: str | None, *, writes: bool = True) -> argparse.ArgumentParser:
    """The parser of ``python -m MODULE``, with the option ``--write`` where there is a result to keep."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=(description or "").splitlines()[0])
    if writes:
        parser.add_argument("--write", metavar="NAME", help="also write benchmarks/results/NAME.json")
    return parser


def write_if_asked(parser: argparse.ArgumentParser, arguments: argparse.Namespace, content: Mapping[str, Any]) -> None:
    """With ``--write``, write the result and print where. The command in it says PATH for paths, which are this machine's."""
    if arguments.write:
        print(write_result(arguments.write, _command(parser), content))


def keep_if_asked(parser: argparse.ArgumentParser, arguments: argparse.Namespace, content: Mapping[str, Any]) -> None:
    """:func:`write_if_asked` of what there is so far, which a run that is ended from outside leaves behind."""
    if arguments.write:
        write_result(arguments.write, _command(parser), content)


def _command(parser: argparse.ArgumentParser) -> str:
    return " ".join([parser.prog, *(shlex.quote(re.sub("[^=]*/.*", "PATH", word)) for word in sys.argv[1:])])


def alternate(
    variants: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warm_up: int = 1,
    device: torch.device | None = None,
    numbers: Mapping[str, int] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each variant, one timing of each in turn, ``repeats`` times.

    Alternating puts every variant under the same drift of the machine: ratios within one run hold where single times do not.

    Args:
        device: where the variants run. On a CUDA device times are those of its events, and what its second-level cache holds is
            overwritten before each timing.
        numbers: calls of a variant in one timing, where one alone is too short for the clock; the seconds are those of one call.
    """
    for _ in range(warm_up):
        for call in variants.values():
            call()
    clock = _CudaClock(device) if device is not None and device.type == "cuda" else _seconds
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, call in variants.items():
            number = (numbers or {}).get(name, 1)
            seconds[name].append(clock(call, number) / number)
    return seconds


def _seconds(call: Callable[[], object], number: int) -> float:
    time.sleep(_SECONDS_TO_REST)
    start = time.perf_counter()
    call()
    if (seconds := time.perf_counter() - start) >= _SECONDS_NEED_NO_WARMING:
        return seconds * number
    start = time.perf_counter()
    for _ in range(number):
        call()
    return time.perf_counter() - start


class _CudaClock:
    def __init__(self, device: torch.device) -> None:
        self.flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device=device)

    def __call__(self, call: Callable[[], object], number: int) -> float:
        self.flush.zero_()
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(number):
            call()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) / 1e3


def jpeg(pixels: np.ndarray, quality: int = 90) -> bytes:
    """Pixels (H, W, 3) uint8 as a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": median, "q1": low, "q3": high, "runs": len(values)}


def with_peak_memory(call: Callable[[], Result], device: torch.device | None = None) -> tuple[Result, int | None]:
    """The call's result, and the bytes that it held at its peak beyond what was held before.

    On a CUDA device torch's allocations; on a CPU the process's resident memory, which the Linux kernel watches, and None on other
    systems. Memory that an allocator had kept from earlier calls and reused is not seen.
    """
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = call()
        torch.cuda.synchronize(device)
        return result, torch.cuda.max_memory_allocated(device) - before
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew at what is resident now
        resident = _status_bytes("VmRSS")
    except OSError:
        return call(), None
    result = call()
    return result, max(0, _status_bytes("VmHWM") - resident)


def _status_bytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"/proc/self/status has no {name}")
    return 1024 * int(found[1])


def libraries() -> dict[str, Any]:
    """What decides the speed of products and loops beside the versions: BLAS kernels, threads, and the variables that set them."""
    keys = ("internal_api", "version", "architecture", "num_threads")
    found = [{key: pool[key] for key in keys if pool.get(key) is not None} for pool in threadpool_info()]
    for pool, number in zip(threadpool_info(), found, strict=True):
        number["of"] = next((part for part in Path(pool["filepath"]).parts if part.endswith(".libs") or part == "torch"), "system")
    return {"threadpools": found, "variables": {name: os.environ[name] for name in _SETTINGS if name in os.environ}}


def write_result(name: str, command: str, content: Mapping[str, Any]) -> Path:
    """Write ``results/NAME.json`` with commit, machine, versions and date beside the measurement, whole at any moment."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    partial = path.with_suffix(f".{os.getpid()}.part")
    partial.write_text(json.dumps(result(command, content), indent=2) + "\n")
    partial.replace(path)
    return path


def result(command: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """A measurement with commit, machine, versions and date beside it; ``content`` may bring a schema of its own."""
    environment = {**_recorded(), "libraries": libraries()}
    return {"schema": SCHEMA, "command": command, "environment": environment, **content}


@cache
def _recorded() -> dict[str, Any]:
    """Of this run: a result that is written row by row has the commit and the date of its beginning."""
    return record(_PEERS)
