"""Where the GPU's time goes: ``python -m benchmarks.profile_annotate``. By kernel, of ``annotate_tensor``, for each preset.

Times are those of torch's profiler on the device, and sums over the calls that were profiled; images are random numbers. Without a
CUDA device nothing is measured and the exit code is 3.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch.profiler import profile, supported_activities

from benchmarks.bench_ranking import K
from benchmarks.common import NO_DEVICE, parser_of, write_if_asked
from gpuannot import Annotator, AnnotatorConfig
from gpuannot.datasets.scenes import draw_scene

PRESETS = ("paper", "best", "kernel")
_SCENES = 48
# Small stages, so that a run shows that all of it works.
_QUICK: dict[str, Any] = {"layer": "pool2", "input_size": 32, "n_components": 8, "n_centers": 4}


def measure(preset: str, batch: int, calls: int, device: torch.device, quick: bool) -> dict[str, Any]:
    """Calls and microseconds of each kernel, the longest first."""
    changes = dict(_QUICK) if quick else {}
    if quick and preset != "paper":
        changes |= {"layer": "pool2+conv3_1", "projection": 8, "quadratic": 4 if preset == "best" else 0}
    drawn = [draw_scene(number) for number in range(_SCENES)]
    config = AnnotatorConfig.preset(preset, **changes)
    annotator = Annotator(config, device=device).fit([image for image, _ in drawn], [words for _, words in drawn], progress=False)
    size = config.input_size
    images = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
    for _ in range(2):
        annotator.annotate_tensor(images, K)
    torch.cuda.synchronize(device)
    with profile(activities=supported_activities()) as found:
        for _ in range(calls):
            annotator.annotate_tensor(images, K)
        torch.cuda.synchronize(device)
    kernels = [
        {"kernel": event.key, "calls": event.count, "microseconds": event.self_device_time_total}
        for event in found.key_averages()
        if event.self_device_time_total > 0
    ]
    kernels.sort(key=lambda row: -row["microseconds"])
    return {"preset": preset, "batch": batch, "annotate_calls": calls, "kernels": kernels}


def rows(quick: bool, device: torch.device) -> Iterator[dict[str, Any]]:
    for preset in PRESETS:
        for batch in (4,) if quick else (32, 256):
            yield measure(preset, batch, 2 if quick else 10, device, quick)


def main() -> None:
    parser = parser_of("benchmarks.profile_annotate", __doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing was measured")
        sys.exit(NO_DEVICE)
    measured: list[dict[str, Any]] = []
    for row in rows(arguments.quick, torch.device("cuda", torch.cuda.current_device())):
        measured.append(row)
        total = sum(kernel["microseconds"] for kernel in row["kernels"])
        print(
            f"{row['preset']}, batch {row['batch']}: {total / row['annotate_calls'] / 1e3:.3f} ms a call on the device", flush=True
        )
        for kernel in row["kernels"][:12]:
            print(f"  {kernel['microseconds'] / total:6.1%} {kernel['calls']:5} × {kernel['kernel'][:100]}")
        write_if_asked(parser, arguments, {"profiles": measured})


if __name__ == "__main__":
    main()
