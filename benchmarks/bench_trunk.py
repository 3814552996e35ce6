"""VGG-16 to conv5_2 at 224 × 224: ``python -m benchmarks.bench_trunk [--device cuda]``.

All variants start from the same uint8 batch. "Eager float32 NCHW" is what torchvision's VGG-16 runs by default, "compiled" the same
modules by inductor. Errors are those of one image's features against float64; int8's are some hundredths. Ratios hold at one batch
size; ``speed_to_eager_at_its_best`` compares with eager float32 NCHW at the batch size that suits that best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.limits import TRUNK_FLOP
from benchmarks.peers import calls, compiled
from benchmarks.rows import OURS, Row, Setting, measure_rows, relative_error, stage_main
from gpuannot.method.trunk import Trunk
from gpuannot.method.weights import TrunkWeights, load_weights
from gpuannot.system.device import cpu_has_fast_bfloat16

EAGER = "eager float32 NCHW"


def eager(
    weights: TrunkWeights, dtype: torch.dtype, memory_format: torch.memory_format, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """VGG-16 to conv5_2 as a plain sequence of modules, fed with the same bytes."""
    modules = Trunk(weights, dtype="float32").features.to(dtype=dtype, device=device, memory_format=memory_format)  # type: ignore[call-overload]
    exact = torch.promote_types(dtype, torch.float32)
    mean, std = (
        torch.tensor(v, device=device, dtype=exact).view(1, 3, 1, 1)
        for v in (weights.preprocessing.mean, weights.preprocessing.std)
    )

    def run(images: Tensor) -> Tensor:
        pixels = ((images.to(mean.dtype) - mean) / std).to(dtype).contiguous(memory_format=memory_format)
        return nn.Sequential.forward(modules, pixels).permute(0, 2, 3, 1).flatten(1, 2)

    return run


def variants(setting: Setting, weights: TrunkWeights) -> dict[str, tuple[Any, str]]:
    """By name, what runs a batch, and its arithmetic."""
    device, quick = setting.device, setting.quick
    last = eager(weights, torch.float32, torch.channels_last, device)
    short = "bfloat16" if setting.gpu or cpu_has_fast_bfloat16() else "float32"
    found: dict[str, tuple[Any, str]] = {
        OURS: (Trunk(weights, device=device), short),
        EAGER: (eager(weights, torch.float32, torch.contiguous_format, device), "float32"),
        "eager float32 channels-last": (last, "float32"),
        "compiled float32 channels-last": (compiled(last, quick=quick), "float32"),
    }
    if short == "bfloat16":
        last = eager(weights, torch.bfloat16, torch.channels_last, device)
        if setting.gpu:
            found["gpuannot, cuDNN's fused convolution"] = (Trunk(weights, device=device, cudnn_fused=True), short)
        found["gpuannot float32"] = (Trunk(weights, dtype="float32", device=device), "float32")
        found["eager bfloat16 channels-last"] = (last, short)
        found["compiled bfloat16 channels-last"] = (compiled(last, quick=quick), short)
    if Trunk(weights, "conv1_1", dtype="int8", device=device).arithmetic == "int8":
        found[f"{OURS} int8"] = (Trunk(weights, dtype="int8", device=device), "int8")
    if setting.gpu:
        found[f"{OURS}, kernel pooling"] = (Trunk(weights, device=device, kernel_pooling=True), short)
        for channels in (4, 8):
            name = f"{OURS}, kernel pooling, pixels of {channels} channels"
            found[name] = (Trunk(weights, device=device, kernel_pooling=True, pixel_channels=channels), short)
    return found


@torch.inference_mode()
def measure(setting: Setting) -> Iterator[Row]:
    weights = load_weights()
    runs = variants(setting, weights)
    generator = torch.Generator().manual_seed(setting.seed)
    exactly = eager(weights, torch.float64, torch.contiguous_format, torch.device("cpu"))
    rows: list[Row] = []
    for batch in setting.pick([4, 16], [64, 128, 256, 512], [1]):
        images = torch.randint(0, 256, (batch, 224, 224, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
        exact = exactly(images[:1]).numpy()
        there = images.to(setting.device)
        for row in measure_rows(
            setting,
            "trunk",
            {"batch": batch},
            {name: calls(run, there) for name, (run, _) in runs.items()},
            items=batch,
            work=batch * TRUNK_FLOP,
            dtype={name: dtype for name, (_, dtype) in runs.items()},
            agreement=lambda answer, exact=exact: relative_error(answer[:1], exact, bound=0.1),  # type: ignore[misc]
        ):
            rows.append(row)
            yield row
    best = max((row["per_second"] for row in rows if row["variant"] == EAGER), default=None)
    for row in rows:  # which were given as they came
        if best is not None and "per_second" in row:
            row["speed_to_eager_at_its_best"] = row["per_second"] / best


if __name__ == "__main__":
    stage_main("bench_trunk", __doc__ or "", measure)
