"""What each system costs as the training images grow: ``python -m benchmarks.bench_baseline_costs --data FOLDER``.

The paper's word vectors cost O(T·W) an annotation, whatever N; its rivals look at every training image, O(T·N). Real VLAD vectors
of Corel5k up to its 4,500 training images (with --data), synthetic ones of the same length beyond. Each measurement runs in a
process of its own, whose peak resident memory the operating system reports.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from benchmarks.common import parser_of, write_if_asked
from gpuannot.baselines.base import Baseline
from gpuannot.baselines.jec import JEC
from gpuannot.baselines.linear import LinearRidge, LinearSVM
from gpuannot.baselines.positive_mean import PositiveMean
from gpuannot.baselines.tagprop import TagProp
from gpuannot.baselines.two_pass_knn import TwoPassKNN

METHODS: dict[str, Callable[[], Baseline]] = {
    "positive mean (the paper)": PositiveMean,
    "JEC": JEC,
    "2PKNN": TwoPassKNN,
    "TagProp": TagProp,
    "ridge": LinearRidge,
    "SVM": LinearSVM,
}
DIMENSION, WORDS, TEST = 4096, 260, 200
REAL = (1000, 2000, 4500)
SYNTHETIC = (10_000, 30_000, 100_000)


def synthetic_vectors(images: int, seed: int = 0) -> tuple[NDArray[np.float32], sparse.csr_array]:
    """Vectors (images, D) around 300 scene centres, and each scene's 4 words with some noise: neighbours that mean something."""
    generator = np.random.default_rng(seed)
    centers = np.random.default_rng(1).standard_normal((300, DIMENSION), dtype=np.float32)
    words = np.random.default_rng(2).integers(0, WORDS, (300, 4))
    scene = generator.integers(0, 300, images)
    vectors = generator.standard_normal((images, DIMENSION), dtype=np.float32)
    for start in range(0, images, 4096):  # a whole (images, D) of centres would double the memory that is measured
        vectors[start : start + 4096] += 0.5 * centers[scene[start : start + 4096]]
    columns = np.where(generator.random((images, 4)) < 0.2, generator.integers(0, WORDS, (images, 4)), words[scene])
    rows = np.repeat(np.arange(images), 4)
    labels = sparse.csr_array((np.ones(4 * images, np.float32), (rows, columns.ravel())), shape=(images, WORDS))
    labels.data[:] = 1  # a word drawn twice for an image counts once
    return vectors, labels


def bytes_kept(value: Any) -> int:
    """Bytes of the tensors and arrays that an estimator holds."""
    return sum({id(storage): size for storage, size in _storages(value)}.values())


def _storages(value: Any) -> Iterator[tuple[Any, int]]:
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        yield storage.data_ptr(), storage.nbytes()
    elif isinstance(value, np.ndarray):
        yield value, value.nbytes
    elif isinstance(value, dict):
        for part in value.values():
            yield from _storages(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _storages(part)
    elif hasattr(value, "__dict__"):
        yield from _storages(vars(value))


def measure(method: str, images: int, data: str | None, cache: str | None, repeats: int) -> dict[str, Any]:
    """One row of the table, in this process."""
    if data is not None:
        from gpuannot.baselines.benchmark_features import BenchmarkFeatures
        from gpuannot.config import AnnotatorConfig
        from gpuannot.datasets.label_files import load_benchmark

        train_split, test_split = load_benchmark("corel5k", data)
        all_train, all_test = BenchmarkFeatures(train_split, test_split, AnnotatorConfig(), cache=cache).get("vlad")
        train, test, labels = np.array(all_train[:images]), np.array(all_test[:TEST]), train_split.labels[:images]
    else:
        train, labels = synthetic_vectors(images)
        test, _ = synthetic_vectors(TEST, seed=7)
    baseline = METHODS[method]()
    began = time.perf_counter()
    baseline.fit(train, labels)
    fitted = time.perf_counter() - began
    baseline.annotate(test)
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        baseline.annotate(test)
        taken.append(time.perf_counter() - began)
    return {
        "method": method,
        "images": images,
        "vectors": "Corel5k" if data is not None else "synthetic",
        "fit_seconds": round(fitted, 3),
        "annotate_ms_an_image": round(1e3 * statistics.median(taken) / TEST, 4),
        "kept_bytes": bytes_kept(baseline),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> None:
    parser = parser_of("benchmarks.bench_baseline_costs", __doc__)
    parser.add_argument("--data", help="Corel5k's folder; without it all vectors are synthetic")
    parser.add_argument("--cache", help="folder for features; by default the user's cache folder")
    parser.add_argument("--images", type=int, nargs="+", default=[*REAL, *SYNTHETIC], help="training images (default: %(default)s)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="default: all", metavar="METHOD")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of annotating (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=600, help="most seconds of one measurement (default: %(default)s)")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "IMAGES"), help="measure one row in this process and print it as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        method, images = arguments.one[0], int(arguments.one[1])
        print(json.dumps(measure(method, images, arguments.data, arguments.cache, arguments.repeats)))
        return
    rows = []
    print(f"{'':28}{'images':>9}{'fit s':>10}{'ms an image':>13}{'kept MB':>10}{'peak MB':>10}")
    for method in arguments.methods:
        given_up = False
        for images in sorted(arguments.images):
            real = arguments.data if images in REAL else None
            child = [sys.executable, "-m", "benchmarks.bench_baseline_costs", "--one", method, str(images)]
            child += ["--repeats", str(arguments.repeats), *(["--data", real] if real else [])]
            child += ["--cache", arguments.cache] if arguments.cache else []
            row: dict[str, Any] = {"method": method, "images": images, "given_up_after_seconds": arguments.limit}
            if not given_up:
                try:
                    output = subprocess.run(
                        child, check=True, stdout=subprocess.PIPE, text=True, timeout=arguments.limit, cwd=Path(__file__).parents[1]
                    )
                    row = json.loads(output.stdout)
                except subprocess.TimeoutExpired:
                    given_up = True  # more images would take longer still
            rows.append(row)
            if "fit_seconds" in row:
                numbers = f"{row['fit_seconds']:10.2f}{row['annotate_ms_an_image']:13.3f}"
                print(f"{method:28}{images:9}{numbers}{row['kept_bytes'] / 1e6:10.0f}{row['peak_bytes'] / 1e6:10.0f}", flush=True)
            else:
                print(f"{method:28}{images:9}   not done within {arguments.limit:.0f} s", flush=True)
    write_if_asked(parser, arguments, {"rows": rows})


if __name__ == "__main__":
    main()
