"""That decoding keeps no memory: ``python -m benchmarks.prove_decode_memory``. Resident bytes after 2,000 decodes and 10,000.

Every kind of image file that the tests know, good and hostile, in turn, through the reader of batch annotation: in threads, and in
processes, whose own memory counts too. Stops with an error where memory grew by more than 5%.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import parser_of, write_if_asked
from gpuannot.images.batches import decode_ahead
from gpuannot.images.input import Input

GROWTH_BOUND = 1.05
BATCH = 32


def resident() -> int:
    """Bytes of this process and its children; Linux only."""
    found, page = 0, os.sysconf("SC_PAGE_SIZE")
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if os.getpid() in (parent, int(stat.parent.name)):
                found += page * int((stat.parent / "statm").read_text().split()[1])
        except OSError:  # it ended meanwhile
            continue
    return found


def measure(paths: list[Path], decodes: int, moments: list[int], processes: bool) -> dict[str, Any]:
    inputs = [Input(str(path), "file", str(path)) for path in paths]

    def batches() -> Iterator[list[tuple[str, Any]]]:
        for start in range(0, decodes, BATCH):
            yield [(item.name, item) for item in (inputs[place % len(inputs)] for place in range(start, start + BATCH))]

    done, good, memory = 0, 0, {}
    for batch in decode_ahead(batches(), size=224, workers=2, interpolation="bicubic", processes=processes):
        done += len(batch.kept) + len(batch.failures)
        good += len(batch.kept)
        for moment in moments:
            if moment not in memory and done >= moment:
                gc.collect()
                memory[moment] = resident()
    del batch
    return {"in": "processes" if processes else "threads", "decodes": done, "good": good, "resident_bytes": memory}


def main() -> None:
    parser = parser_of("benchmarks.prove_decode_memory", __doc__)
    parser.add_argument("--decodes", type=int, default=10_000, help="(default: %(default)s)")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    hostile = importlib.import_module("hostile_images")
    warnings.simplefilter("ignore")  # of corrupt metadata, once an image
    moments = [arguments.decodes // 5, arguments.decodes // 2, arguments.decodes]
    rows = []
    with tempfile.TemporaryDirectory(prefix="gpuannot-prove-") as folder:
        paths = list(hostile.write_hostile_images(Path(folder), (*hostile.DECODES, *hostile.FAILS)).values())
        for processes in (False, True):
            row = measure(paths, arguments.decodes, moments, processes)
            first, last = row["resident_bytes"][moments[0]], row["resident_bytes"][moments[-1]]
            row["growth"] = last / first
            rows.append(row)
            print(
                f"{row['in']}: {row['decodes']} decodes, {row['good']} good; resident after {moments[0]}: {first / 1e6:.1f} MB, "
                f"after {moments[-1]}: {last / 1e6:.1f} MB, {100 * (row['growth'] - 1):+.2f}%",
                flush=True,
            )
            if row["growth"] > GROWTH_BOUND:
                raise SystemExit(f"does not hold: memory grew by more than {100 * (GROWTH_BOUND - 1):.0f}%")
    write_if_asked(parser, arguments, {"kinds_of_file": len(paths), "rows": rows})


if __name__ == "__main__":
    main()
