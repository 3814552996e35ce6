"""Which benchmarks there are, in the order of the data."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from benchmarks.rows import Measure, Row, Setting

_MODULES = (
    "trunk", "descriptors", "codebook", "nearest_center", "vlad", "words", "ranking", "decode", "end_to_end", "scaling",
)  # fmt: skip


def stages() -> dict[str, Measure]:
    """By name, what measures it."""
    return {name: decode if name == "decode" else importlib.import_module(f"benchmarks.bench_{name}").measure for name in _MODULES}


def decode(setting: Setting) -> Iterator[Row]:
    """Decoders of JPEG on one thread, as rows; agreement is with Pillow's pixels, in grey levels."""
    from benchmarks import bench_decode

    size = (640, 480)
    images = 4 if setting.quick else 16
    found = bench_decode.measure(size, images, setting.repeats)
    ours = next(row["images_per_second"]["median"] for row in found if row["decoder"].startswith("gpuannot"))
    for row in found:
        rate = row["images_per_second"]
        seconds = {"median": images / rate["median"], "q1": images / rate["q3"], "q3": images / rate["q1"], "runs": rate["runs"]}
        difference = row["mean_difference"]
        yield {
            "stage": "decode",
            "case": {"images": images, "pixels": f"{size[0]} × {size[1]}", "threads": 1},
            "variant": row["decoder"],
            "device": "cpu",
            "seconds": seconds,
            "items": images,
            "unit": "images",
            "per_second": rate["median"],
            "seconds_to_gpuannot": ours / rate["median"],
            "agreement": {
                "measure": "mean difference in grey levels",
                "value": difference,
                "bound": 0.5,
                "agrees": difference <= 0.5,
            },
        }
