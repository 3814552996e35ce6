"""What batch annotation costs beside the work itself: ``python -m benchmarks.bench_batch_overhead``.

The bare loop decodes the same files ahead in as many threads, runs trunk, VLAD and ranking on each batch and keeps the words in a
list. Batch annotation also finds and lists the inputs, hands batches between threads, writes rows and ledgers into parts with
checksums, and accounts for every input. Both are alternated in one run, with the default trunk and with a small one, whose
difference shows the cost of an image in itself.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import alternate, parser_of, spread, write_if_asked
from gpuannot import Annotator, Inputs
from gpuannot.datasets.label_files import load_labelled_images
from gpuannot.datasets.scenes import write_scenes
from gpuannot.images.batches import decode_ahead
from gpuannot.system.threads import cpus

MODELS: dict[str, dict[str, Any]] = {
    "VGG-16 to conv5_2, 224×224": {},
    "VGG-16 to pool1, 32×32": {"layer": "pool1", "input_size": 32, "n_components": 8, "n_centers": 4},
}


def bare(annotator: Annotator, folder: Path, threads: int) -> list[tuple[tuple[str, ...], torch.Tensor, torch.Tensor]]:
    config = annotator.config
    named = [(item.name, item) for item in Inputs(folder)]
    batches = [named[start : start + config.batch_size] for start in range(0, len(named), config.batch_size)]
    found = []
    for batch in decode_ahead(batches, size=config.input_size, workers=threads, interpolation=config.interpolation):
        index, distance = annotator.words.nearest_words(annotator.encode_tensor(batch.pixels), 5)
        found.append((batch.names, index, distance))
    return found


def measure(name: str, annotator: Annotator, folder: Path, out: Path, repeats: int, threads: int) -> dict[str, Any]:
    images = len(list(folder.iterdir()))
    annotator.annotate_tensor(torch.zeros((1, 3, annotator.config.input_size, annotator.config.input_size), dtype=torch.uint8))

    busy: dict[str, list[float]] = {"bare": [], "batch": []}

    def timed(variant: str, call: Callable[[], object]) -> None:
        start = time.process_time()
        call()
        busy[variant].append(time.process_time() - start)

    def batch() -> None:
        summary = annotator.batch(folder, out, threads=threads, overwrite=True, progress=False)
        assert summary.rows == images

    calls: dict[str, Callable[[], object]] = {
        "bare": lambda: timed("bare", lambda: bare(annotator, folder, threads)),
        "batch": lambda: timed("batch", batch),
    }
    seconds = alternate(calls, repeats=repeats)
    ratios = [batch / bare for bare, batch in zip(seconds["bare"], seconds["batch"], strict=True)]
    pairs = list(zip(busy["bare"][1:], busy["batch"][1:], strict=True))
    extra = [1e6 * (batch - bare) / images for bare, batch in zip(seconds["bare"], seconds["batch"], strict=True)]
    row: dict[str, Any] = {
        "model": name,
        "images": images,
        "threads": threads,
        **{f"{variant}_seconds": spread(values) for variant, values in seconds.items()},
        "batch_to_bare": spread(ratios),
        "extra_microseconds_an_image": spread(extra),
        "processor_batch_to_bare": spread([batch / bare for bare, batch in pairs]),
        "processor_extra_microseconds_an_image": spread([1e6 * (batch - bare) / images for bare, batch in pairs]),
    }
    print(
        f"{name}: {images} images, bare {row['bare_seconds']['median']:.2f} s, batch {row['batch_seconds']['median']:.2f} s, ratio "
        f"{row['batch_to_bare']['median']:.3f}, {row['extra_microseconds_an_image']['median']:.0f} µs an image more; in processor "
        f"time {row['processor_batch_to_bare']['median']:.3f} and "
        f"{row['processor_extra_microseconds_an_image']['median']:.0f} µs",
        flush=True,
    )
    return row


def main() -> None:
    parser = parser_of("benchmarks.bench_batch_overhead", __doc__)
    parser.add_argument("--images", type=int, default=96, help="with the default trunk (default: %(default)s)")
    parser.add_argument("--small-images", type=int, default=2048, help="with the small one (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=cpus(), help="that decode (default: one for each CPU)")
    arguments = parser.parse_args()
    rows, load = [], os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="gpuannot-bench-") as temporary:
        scenes = load_labelled_images(write_scenes(Path(temporary) / "scenes", 64))
        for (name, settings), images in zip(MODELS.items(), (arguments.images, arguments.small_images), strict=True):
            folder = Path(temporary) / f"images {images}"
            folder.mkdir()
            for number in range(images):
                shutil.copy(scenes.paths[number % len(scenes.paths)], folder / f"{number:06d}.jpg")
            annotator = Annotator(**settings).fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary, progress=False)
            rows.append(measure(name, annotator, folder, Path(temporary) / "out", arguments.repeats, arguments.threads))
    write_if_asked(parser, arguments, {"load_average_before": load, "rows": rows})


if __name__ == "__main__":
    main()
