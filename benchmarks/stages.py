"""Which benchmarks there are, in the order of the data."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import asdict

from benchmarks.rows import Agreement, Measure, Row, Setting

_MODULES = (
    "trunk", "descriptors", "codebook", "nearest_center", "vlad", "words", "ranking", "decode", "end_to_end", "folder", "scaling",
)  # fmt: skip


def stages() -> dict[str, Measure]:
    """By name, what measures it."""
    return {name: decode if name == "decode" else importlib.import_module(f"benchmarks.bench_{name}").measure for name in _MODULES}


def decode(setting: Setting) -> Iterator[Row]:
    """Decoders of JPEG in one thread, as rows; agreement is with Pillow's pixels, in grey levels."""
    from benchmarks import bench_decode

    size, images = (640, 480), 4 if setting.quick else 16
    contents = bench_decode.drawn(size, images)
    variants, missing = bench_decode.usable(contents[0])
    found = bench_decode.measure(f"{size[0]}×{size[1]}", contents, variants, setting.repeats)
    ours = next(row["images_per_second"]["threads_1"]["median"] for row in found if row["decoder"].startswith("gpuannot"))
    case = {"images": images, "pixels": f"{size[0]} × {size[1]}", "threads": 1}
    for row in found:
        rate = row["images_per_second"]["threads_1"]
        difference = row["mean_difference"]
        yield {
            "stage": "decode",
            "case": case,
            "variant": row["decoder"],
            "device": "cpu",
            "seconds": {
                **rate,
                **{name: images / rate[other] for name, other in (("median", "median"), ("q1", "q3"), ("q3", "q1"))},
            },
            "items": images,
            "unit": "images",
            "per_second": rate["median"],
            "seconds_to_gpuannot": ours / rate["median"],
            "agreement": asdict(Agreement("mean difference in grey levels", difference, 0.5, difference <= 0.5)),
        }
    for row in missing:
        yield {"stage": "decode", "case": case, "variant": row["decoder"], "device": "cpu", "missing": row["not_measured"]}
