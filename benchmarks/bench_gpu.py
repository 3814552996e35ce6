"""The CUDA path: every stage's time and its share of a limit measured in the same run.

``python -m benchmarks.bench_gpu``. The limits are a device-to-device copy (bytes read + written) and a large bfloat16 matrix
product, both on random data. Times are medians of CUDA-event timings after a warm-up; between repeats of a memory-bound stage a
buffer larger than the L2 cache is overwritten. ``--quick`` takes small sizes; without a CUDA device nothing is measured and the
exit code is 3.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.common import write_result
from gpuannot import Annotator
from gpuannot.reference import vlad as reference_vlad
from gpuannot.trunk import Trunk
from gpuannot.weights import load_weights

GFLOP_PER_IMAGE = 29.8  # 14.88 GMAC to conv5_2 at 224 × 224
NO_DEVICE = 3


def seconds(call: Callable[[], object], *, repeats: int = 20, warm_up: int = 3, flush: Tensor | None = None) -> float:
    """Median seconds of ``call`` by CUDA events."""
    for _ in range(warm_up):
        call()
    times = []
    for _ in range(repeats):
        if flush is not None:
            flush.zero_()
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) / 1e3)
    return statistics.median(times)


def limits(quick: bool) -> dict[str, float]:
    """Copy bandwidth (bytes/s, read + written), float32 and bfloat16 matrix rates (FLOP/s), on random data."""
    count = (1 << 26) if quick else (1 << 30)
    source = torch.rand(count, device="cuda")
    target = torch.empty_like(source)
    found = {"copy_bytes_per_second": 8 * count / seconds(lambda: target.copy_(source), repeats=10)}
    size = 2048 if quick else 8192
    for dtype in (torch.bfloat16, torch.float32):
        left, right = (torch.randn(size, size, device="cuda").to(dtype) for _ in range(2))
        name = str(dtype).removeprefix("torch.")
        found[f"{name}_flop_per_second"] = 2 * size**3 / seconds(lambda a=left, b=right: a @ b, repeats=10)  # type: ignore[misc]
    return found


def nearest_center_rows(limit: dict[str, float], quick: bool, flush: Tensor) -> Iterator[dict[str, Any]]:
    """Nearest centre at N = 4M against its roofline and against plain torch."""
    from gpuannot.kernels import check_centers, nearest_center

    count = 100_000 if quick else 4_000_000
    for dtype in (torch.float32, torch.bfloat16):
        for n in (64, 128):
            for m in (64, 256):
                descriptors = torch.randn(count, n, device="cuda").to(dtype)
                centers = torch.randn(m, n, device="cuda").to(dtype)
                half_norms = check_centers(centers)
                time = seconds(lambda d=descriptors, c=centers, h=half_norms: nearest_center(d, c, h), flush=flush)  # type: ignore[misc]
                moved, work = count * (n * dtype.itemsize + 4), 2 * count * n * m
                rate = limit[f"{str(dtype).removeprefix('torch.')}_flop_per_second"]
                roof = max(moved / limit["copy_bytes_per_second"], work / rate)
                index = nearest_center(descriptors[:50_000], centers, half_norms)
                exact = reference_vlad.nearest_center(descriptors[:50_000].double().cpu().numpy(), centers.double().cpu().numpy())
                chunk = descriptors[: min(count, 1_000_000)]

                def plain(d: Tensor = chunk, c: Tensor = centers, h: Tensor = half_norms) -> Tensor:
                    return torch.addmm(h.to(d.dtype), d, c.T, alpha=-1).argmin(dim=1)

                yield {
                    "stage": f"nearest centre {str(dtype).removeprefix('torch.')} N={count} n={n} m={m}",
                    "seconds": time,
                    "gb_per_second": moved / time / 1e9,
                    "tflop_per_second": work / time / 1e12,
                    "share_of_roofline": roof / time,
                    "torch_addmm_argmin_ratio": seconds(plain, flush=flush) * count / len(chunk) / time,
                    "agreement_with_float64": float((index.cpu().numpy() == exact).mean()),
                }


def vlad_rows(limit: dict[str, float], quick: bool, flush: Tensor) -> Iterator[dict[str, Any]]:
    """VLAD from labels, and assignment fused with it, against the copy bandwidth."""
    from gpuannot.kernels import assign_vlad, check_centers, nearest_center, vlad

    images = 64 if quick else 2048
    steps = {"mass": False, "intra": False, "signed_sqrt": False, "l2": False}
    for n, m in ((64, 64), (128, 64), (64, 256)):
        descriptors, centers = torch.randn(images, 196, n, device="cuda"), torch.randn(m, n, device="cuda")
        half_norms = check_centers(centers)
        labels = nearest_center(descriptors.view(-1, n), centers, half_norms).view(images, 196)
        moved = images * (196 * n * 4 + m * n * 4)
        for name, call in (
            ("VLAD from labels", lambda d=descriptors, i=labels, c=centers: vlad(d, i, c, **steps)),  # type: ignore[misc]
            ("assignment + VLAD", lambda d=descriptors, c=centers, h=half_norms: assign_vlad(d, c, h, **steps)),  # type: ignore[misc]
        ):
            time = seconds(call, flush=flush)
            exact = reference_vlad.vlad(descriptors[:8].double().cpu().numpy(), centers.double().cpu().numpy())
            error = np.abs(call()[:8].cpu().numpy() - exact).max() / np.abs(exact).max()
            yield {
                "stage": f"{name} float32 B={images} P=196 n={n} m={m}",
                "seconds": time,
                "gb_per_second": moved / time / 1e9,
                "share_of_copy": moved / time / limit["copy_bytes_per_second"],
                "relative_error": float(error),
            }


def trunk_rows(limit: dict[str, float], batches: list[int]) -> Iterator[dict[str, Any]]:
    """The trunk as it is, with plain modules, and compiled by inductor."""
    weights = load_weights()
    for batch in batches:
        images = torch.randint(0, 256, (batch, 224, 224, 3), dtype=torch.uint8, device="cuda").permute(0, 3, 1, 2)
        for name in ("fused", "plain channels-last", "inductor"):
            trunk = Trunk(weights, device="cuda:0")
            if name != "fused":
                trunk._fused = None
            run = torch.compile(trunk._features) if name == "inductor" else trunk
            with torch.inference_mode():
                time = seconds(lambda r=run, x=images: r(x), repeats=10)  # type: ignore[misc]
            work = batch * GFLOP_PER_IMAGE * 1e9
            yield {
                "stage": f"trunk {name} {str(trunk.dtype).removeprefix('torch.')} B={batch}",
                "seconds": time,
                "images_per_second": batch / time,
                "tflop_per_second": work / time / 1e12,
                "share_of_matrix_product": work / time / limit["bfloat16_flop_per_second"],
            }


def pipeline_rows(batches: list[int]) -> Iterator[dict[str, Any]]:
    """``annotate_tensor`` and its CUDA graph, with the share of the time after the trunk."""
    from gpuannot.scenes import draw_scene

    drawn = [draw_scene(seed) for seed in range(64)]
    annotator = Annotator(device="cuda:0").fit([image for image, _ in drawn], [words for _, words in drawn], progress=False)
    for batch in batches:
        images = torch.randint(0, 256, (batch, 224, 224, 3), dtype=torch.uint8, device="cuda").permute(0, 3, 1, 2)
        whole = seconds(lambda x=images: annotator.annotate_tensor(x, 5), repeats=10)  # type: ignore[misc]
        features = annotator.trunk(images)
        after = seconds(lambda f=features: annotator._rank(annotator._vectors(f), 5), repeats=10)  # type: ignore[misc]
        graph = annotator.capture((batch, 3, 224, 224), 5)
        replay = seconds(graph.replay, repeats=10)
        yield {
            "stage": f"annotate_tensor B={batch}",
            "seconds": whole,
            "images_per_second": batch / whole,
            "graph_images_per_second": batch / replay,
            "share_after_trunk": after / whole,
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_gpu", description="Measure the CUDA path.")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--write", metavar="NAME", help="also write benchmarks/results/NAME.json")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing was measured")
        sys.exit(NO_DEVICE)
    quick = arguments.quick
    limit = limits(quick)
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    batches = [4, 16] if quick else [64, 128, 256, 512]
    rows: list[dict[str, Any]] = []
    console = Console(width=200)
    for found in (
        nearest_center_rows(limit, quick, flush),
        vlad_rows(limit, quick, flush),
        trunk_rows(limit, batches),
        pipeline_rows(batches),
    ):
        for row in found:
            rows.append(row)
            console.print("  ".join(f"{key} {value:.4g}" if isinstance(value, float) else str(value) for key, value in row.items()))
    table = Table("limit", "measured", title="limits of this run")
    for name, value in limit.items():
        table.add_row(name, f"{value:.4g}")
    console.print(table)
    if arguments.write:
        command = "python -m benchmarks.bench_gpu" + (" --quick" if quick else "")
        print(write_result(arguments.write, command, {"limits": limit, "rows": rows}))


if __name__ == "__main__":
    main()
