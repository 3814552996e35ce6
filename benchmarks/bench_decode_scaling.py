"""How decoding scales with cores: ``python -m benchmarks.bench_decode_scaling``.

The interpreter lock's share: while one thread decodes, a sampler in C asks some 100,000 times a second whether any thread holds the
lock. Threads of one process decode at most one image per locked second of an image, however many cores there are; a lower rate is
already reached where threads wait for each other. The sampler needs a C compiler and CPython 3.11, whose lock can be asked from
outside; elsewhere the share is not measured.

Threads against processes: the same files through the reader of batch annotation, alternated in one run.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_decode import SIZE, SIZES, drawn
from benchmarks.common import alternate, parser_of, spread, write_if_asked
from gpuannot.images.batches import decode_ahead
from gpuannot.images.decode_task import DecodeTask, decode_into
from gpuannot.images.input import Input
from gpuannot.system.timing import StageTimer

SAMPLER = """
#include <pthread.h>
#include <stdatomic.h>
extern void *_PyThreadState_UncheckedGet(void); /* of the thread that holds the lock; NULL where none does */
static atomic_int stop;
static long held, total;
static pthread_t thread;
static void *sample(void *unused) {
    while (!stop) {
        held += _PyThreadState_UncheckedGet() != 0;
        total++;
        for (volatile int i = 0; i < 2000; i++) {}
    }
    return unused;
}
void begin(void) { stop = 0; held = total = 0; pthread_create(&thread, 0, sample, 0); }
double end(void) { stop = 1; pthread_join(thread, 0); return (double)held / total; }
"""


def lock_sampler(folder: Path) -> ctypes.CDLL | None:
    compiler = shutil.which("cc")
    if compiler is None or sys.version_info[:2] != (3, 11):
        return None
    (folder / "sampler.c").write_text(SAMPLER)
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(folder / "sampler.so"), str(folder / "sampler.c"), "-lpthread"]
    subprocess.run(command, check=True)
    library = ctypes.CDLL(str(folder / "sampler.so"))
    library.end.restype = ctypes.c_double
    return library


def lock_rows(sampler: ctypes.CDLL, sets: dict[str, list[bytes]], seconds: float, repeats: int) -> list[dict[str, Any]]:
    """What a decoding thread does with an image: read from memory, decode, warp, put into its place."""
    rows, timer, out = [], StageTimer(), np.empty((SIZE, SIZE, 3), np.uint8)
    for title, contents in sets.items():
        tasks = [DecodeTask("image", content) for content in contents]
        shares, locked, spent = [], [], []
        for _ in range(repeats):
            count, start, busy = 0, time.perf_counter(), time.thread_time()
            sampler.begin()
            while time.perf_counter() - start < seconds:
                for task in tasks:
                    decode_into(out, task, "bicubic", timer)
                count += len(tasks)
            shares.append(sampler.end())
            spent.append((time.thread_time() - busy) / count)  # processor time: other programs may run beside
            locked.append(shares[-1] * spent[-1])
        row = {
            "images": title,
            "processor_milliseconds_an_image": spread([1e3 * value for value in spent]),
            "locked_share": spread(shares),
            "locked_milliseconds_an_image": spread([1e3 * value for value in locked]),
            "most_images_per_second_by_threads": 1 / statistics.median(locked),
        }
        rows.append(row)
        print(
            f"{title:10} {row['processor_milliseconds_an_image']['median']:.2f} ms an image, the lock is held for "
            f"{100 * row['locked_share']['median']:.1f}% of it: {row['locked_milliseconds_an_image']['median']:.3f} ms, at most "
            f"{row['most_images_per_second_by_threads']:.0f} images/s by threads of one process",
            flush=True,
        )
    return rows


def processor_seconds() -> float:
    """Of this process and those that it has started and that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def process_rows(folder: Path, sets: dict[str, list[bytes]], workers: int, repeats: int) -> list[dict[str, Any]]:
    rows = []
    for title, contents in sets.items():
        images = max(192, min(2048, 38_000_000 // len(contents[0])))
        inputs = []
        for number, content in enumerate(contents):
            path = folder / f"{title}-{number}.jpg"
            path.write_bytes(content)
            inputs.append(Input(str(path), "file", str(path)))
        batches = [[(item.name, item) for item in np.resize(np.array(inputs, object), 32)] for _ in range(images // 32)]

        seconds: dict[str, list[float]] = {"threads": [], "processes": []}
        busy: dict[str, list[float]] = {"threads": [], "processes": []}

        def run(batches: list[Any], processes: bool) -> float:
            """Seconds from the first batch to the last: a run of hours does not see the start of processes."""
            decoded = decode_ahead(batches, size=SIZE, workers=workers, interpolation="bicubic", processes=processes)
            next(decoded)
            start = time.perf_counter()
            for _ in decoded:
                pass
            return time.perf_counter() - start

        def rate(processes: bool, batches: list[Any] = batches, busy: dict[str, list[float]] = busy) -> float:
            start = processor_seconds()
            run(batches[:workers], processes)
            middle = processor_seconds()
            found = run(batches, processes)
            more = processor_seconds() - middle - (middle - start)  # without the start of processes
            busy["processes" if processes else "threads"].append(1e3 * more / (32 * (len(batches) - workers)))
            return found

        def timed(name: str, rate: Callable[[bool], float] = rate, seconds: dict[str, list[float]] = seconds) -> None:
            seconds[name].append(rate(name == "processes"))

        alternate({name: partial(timed, name) for name in seconds}, repeats=repeats)
        ratios = [one / other for one, other in zip(seconds["threads"][1:], seconds["processes"][1:], strict=True)]
        count = 32 * (len(batches) - 1)
        row: dict[str, Any] = {
            "images": title,
            "workers": workers,
            **{f"{name}_images_per_second": spread([count / value for value in found[1:]]) for name, found in seconds.items()},
            "processes_to_threads": spread(ratios),
            **{f"{name}_processor_milliseconds_an_image": spread(found[1:]) for name, found in busy.items()},
        }
        rows.append(row)
        print(
            f"{title:10} {workers} threads {row['threads_images_per_second']['median']:.0f} images/s, {workers} processes "
            f"{row['processes_images_per_second']['median']:.0f}, ratio {row['processes_to_threads']['median']:.2f}; processor "
            f"{row['threads_processor_milliseconds_an_image']['median']:.2f} and "
            f"{row['processes_processor_milliseconds_an_image']['median']:.2f} ms an image",
            flush=True,
        )
    return rows


def main() -> None:
    parser = parser_of("benchmarks.bench_decode_scaling", __doc__)
    parser.add_argument("--workers", type=int, default=2, help="threads or processes (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each sampling (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="(default: %(default)s)")
    arguments = parser.parse_args()
    sets = {f"{width}×{height}": drawn((width, height), 16) for width, height in SIZES}
    content: dict[str, Any] = {"load_average_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory(prefix="gpuannot-bench-") as name:
        folder = Path(name)
        sampler = lock_sampler(folder)
        if sampler is None:
            print("the lock's share is not measured: it needs a C compiler and CPython 3.11")
        else:
            content["lock"] = lock_rows(sampler, sets, arguments.seconds, arguments.repeats)
        content["processes"] = process_rows(folder, sets, arguments.workers, arguments.repeats)
    write_if_asked(parser, arguments, content)


if __name__ == "__main__":
    main()
