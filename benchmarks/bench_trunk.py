"""The CPU trunk against plain torch: images a second of VGG-16 to conv5_2 at 224 × 224.

``python -m benchmarks.bench_trunk``. The variants: eager float32 NCHW modules (what torchvision's VGG-16 runs by default), the same
channels-last, the same in bfloat16, and gpuannot's trunk. Each is timed from the same uint8 batch,
alternated in one run; the ratio quoted is to eager float32 at the batch size that suits eager best.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.common import alternate, spread, write_result
from gpuannot.trunk import Trunk, cpu_has_bfloat16
from gpuannot.weights import TrunkWeights, load_weights

GFLOP_PER_IMAGE = 29.8  # 14.88 GMAC to conv5_2 at 224 × 224


def eager(weights: TrunkWeights, dtype: torch.dtype, memory_format: torch.memory_format) -> Callable[[Tensor], Tensor]:
    """VGG-16 to conv5_2 as a plain sequence of modules, fed with the same bytes."""
    modules = Trunk(weights, dtype="float32").features.to(dtype=dtype, memory_format=memory_format)  # type: ignore[call-overload]
    mean = torch.tensor(weights.preprocessing.mean).view(1, 3, 1, 1)
    std = torch.tensor(weights.preprocessing.std).view(1, 3, 1, 1)

    def run(images: Tensor) -> Tensor:
        pixels = ((images.float() - mean) / std).to(dtype).contiguous(memory_format=memory_format)
        return nn.Sequential.forward(modules, pixels)

    return run


@torch.inference_mode()
def measure(batches: list[int], repeats: int) -> dict[str, object]:
    """Median seconds a batch of each variant and batch size, and how far each one's features are from eager float32."""
    weights = load_weights()
    variants: dict[str, Callable[[Tensor], Tensor]] = {
        "eager float32 NCHW": eager(weights, torch.float32, torch.contiguous_format),
        "eager float32 channels-last": eager(weights, torch.float32, torch.channels_last),
        "gpuannot float32": Trunk(weights, dtype="float32"),
    }
    if cpu_has_bfloat16():
        variants["eager bfloat16 channels-last"] = eager(weights, torch.bfloat16, torch.channels_last)
        variants["gpuannot bfloat16"] = Trunk(weights, dtype="bfloat16")
    generator = torch.Generator().manual_seed(0)
    rows = []
    for batch in batches:
        images = torch.randint(0, 256, (batch, 224, 224, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
        exact = variants["eager float32 NCHW"](images).permute(0, 2, 3, 1).flatten(1, 2)
        seconds = alternate({name: partial(run, images) for name, run in variants.items()}, repeats=repeats)
        for name, run in variants.items():
            features = run(images)
            features = features if features.ndim == 3 else features.permute(0, 2, 3, 1).flatten(1, 2)
            error = float((features.float() - exact).norm() / exact.norm())
            times = spread(seconds[name])
            speed = batch / times["median"]
            rows.append(
                {
                    "variant": name,
                    "batch": batch,
                    "images_per_second": speed,
                    "gflop_per_second": speed * GFLOP_PER_IMAGE,
                    "seconds": times,
                    "relative_error": error,
                }
            )
    baseline = max(row["images_per_second"] for row in rows if row["variant"] == "eager float32 NCHW")
    for row in rows:
        row["ratio_to_eager_at_its_best"] = row["images_per_second"] / baseline
        same = next(r for r in rows if r["variant"] == "eager float32 NCHW" and r["batch"] == row["batch"])
        row["ratio_at_this_batch"] = row["images_per_second"] / same["images_per_second"]
    return {"layer": "conv5_2", "input": "224x224 uint8", "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_trunk", description="Measure the CPU trunk against plain torch."
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 16], help="batch sizes (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="timed calls of each variant (default: %(default)s)")
    parser.add_argument("--write", metavar="NAME", help="also write benchmarks/results/NAME.json")
    arguments = parser.parse_args()
    result = measure(arguments.batches, arguments.repeats)
    table = Table(title="VGG-16 to conv5_2, 224 × 224, CPU")
    for heading in ("variant", "batch", "images/s", "GFLOP/s", "÷ eager", "÷ eager at its best", "error"):
        table.add_column(heading, justify="left" if heading == "variant" else "right", no_wrap=True)
    for row in result["rows"]:  # type: ignore[attr-defined]
        table.add_row(
            row["variant"],
            str(row["batch"]),
            f"{row['images_per_second']:.2f}",
            f"{row['gflop_per_second']:.0f}",
            f"{row['ratio_at_this_batch']:.2f}",
            f"{row['ratio_to_eager_at_its_best']:.2f}",
            f"{row['relative_error']:.1e}",
        )
    Console(width=120).print(table)
    if arguments.write:
        command = (
            f"python -m benchmarks.bench_trunk --batches {' '.join(map(str, arguments.batches))} --repeats {arguments.repeats}"
        )
        print(write_result(arguments.write, command, result))


if __name__ == "__main__":
    main()
