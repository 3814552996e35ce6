"""Peak memory of ``fit`` against the number of images: ``python -m benchmarks.bench_fit_memory DATA --images 500 4500``.

DATA is a benchmark's folder (``train.json``, ``images/``). Each size runs in a process of its own, whose peak resident memory the
operating system reports.
"""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.common import parser_of, write_if_asked

_CHILD = """
import json, resource, sys, time
from gpuannot import Annotator
from gpuannot.datasets.label_files import load_benchmark
name, folder, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
train, _ = load_benchmark(name, folder)
start = time.perf_counter()
annotator = Annotator().fit(train.paths[:count], train.labels[:count], vocabulary=train.vocabulary, progress=False)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"images": count, "peak_bytes": peak, "seconds": time.perf_counter() - start}))
"""


def main() -> None:
    parser = parser_of("benchmarks.bench_fit_memory", __doc__)
    parser.add_argument("data", help="folder of the data set")
    parser.add_argument("--benchmark", default="corel5k", help="which data set it is (default: %(default)s)")
    parser.add_argument(
        "--images", type=int, nargs="+", default=[500, 4500], help="training images to fit on (default: %(default)s)"
    )
    arguments = parser.parse_args()
    rows = []
    for count in arguments.images:
        child = [sys.executable, "-c", _CHILD, arguments.benchmark, arguments.data, str(count)]
        rows.append(json.loads(subprocess.run(child, check=True, capture_output=True, text=True).stdout))
        print(f"{count} images: peak {rows[-1]['peak_bytes'] / 1e6:.0f} MB, {rows[-1]['seconds']:.0f} s", flush=True)
    ratio = rows[-1]["peak_bytes"] / rows[0]["peak_bytes"]
    print(f"peak at {rows[-1]['images']} images ÷ peak at {rows[0]['images']}: {ratio:.3f}")
    write_if_asked(parser, arguments, {"dataset": arguments.benchmark, "rows": rows, "peak_ratio": ratio})


if __name__ == "__main__":
    main()
