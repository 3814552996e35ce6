"""What the machine can do at most, measured in the run whose results are compared with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import alternate
from gpuannot.method import int8
from gpuannot.system.device import cpu_has_fast_bfloat16

#: Operations of one image: 14.88 GMAC of VGG-16 to conv5_2 at 224 × 224.
TRUNK_FLOP = 29.8e9


@dataclass(frozen=True)
class Limits:
    """Copy bandwidth in bytes/s, read + written, and the rates of large matrix products in operations/s, by dtype."""

    copy_bytes_per_second: float
    flop_per_second: dict[str, float]

    def shares(self, seconds: float, moved: float | None, work: float | None, dtype: str) -> dict[str, float]:
        """Achieved rates of something that moves ``moved`` bytes at least and needs ``work`` operations, and their shares."""
        found = {}
        if moved is not None:
            found["gb_per_second"] = moved / seconds / 1e9
            found["share_of_copy"] = moved / seconds / self.copy_bytes_per_second
        if work is not None:
            found["gflop_per_second"] = work / seconds / 1e9
            if dtype in self.flop_per_second:
                found["share_of_product"] = work / seconds / self.flop_per_second[dtype]
        if found and (work is None or dtype in self.flop_per_second):  # of a rate that was not measured there is no share
            roof = max((moved or 0) / self.copy_bytes_per_second, work / self.flop_per_second[dtype] if work else 0)
            found["share_of_limit"] = roof / seconds
        return found


def measure_limits(device: torch.device, *, quick: bool = False) -> Limits:
    """The limits of ``device``, on random data: the shortest of several timings, and the fastest of several ways to multiply."""
    gpu = device.type == "cuda"
    repeats = 3 if quick else 9
    count = (1 << 30 if gpu else 1 << 26) // (16 if quick else 1)
    source = torch.rand(count, device=device)
    target = torch.empty_like(source)
    copies = alternate({"copy": partial(target.copy_, source)}, repeats=repeats, device=device)["copy"]
    size = (2048 if quick else 8192) if gpu else (1024 if quick else 4096)
    rates = {}
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        if (dtype == torch.float64 and gpu) or (dtype == torch.bfloat16 and not gpu and not cpu_has_fast_bfloat16()):
            continue
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        ways = {"torch": partial(torch.mm, left, right)}
        if not gpu and dtype != torch.bfloat16:
            ways["numpy"] = partial(np.matmul, left.numpy(), right.numpy())
        fastest = min(min(times) for times in alternate(ways, repeats=3 if quick else 5, device=device).values())
        rates[str(dtype).removeprefix("torch.")] = 2 * size**3 / fastest
    if not gpu and int8.supported():
        fastest = min(alternate({"oneDNN": _int8_product(size)}, repeats=3 if quick else 5)["oneDNN"])
        rates["int8"] = 2 * size**3 / fastest
    return Limits(2 * 4 * count / min(copies), rates)


def _int8_product(size: int) -> Callable[[], Tensor]:
    """Bytes (size, size) by int8 weights (size, size), to bytes: as the int8 trunk's convolutions, by the same library."""
    left = torch.randint(0, 256, (size, size), dtype=torch.uint8)
    weight = torch.randint(-127, 128, (size, size), dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(weight, [size, size])
    scales, zeros = torch.full((size,), 1e-3), torch.zeros(size, dtype=torch.int32)
    return lambda: torch.ops.onednn.qlinear_pointwise(
        left, 1.0, 0, packed, scales, zeros, None, 100.0, 0, torch.uint8, "none", [], ""
    )
