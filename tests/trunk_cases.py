"""The kernels around the trunk's convolutions on the CPU, over guarded inputs, and what they must give."""

from __future__ import annotations

import numpy as np
import torch
from cuda_on_cpu import Guarded
from kernel_cases import Stored, alignment_of, guarded_rows, run, store

from gpuannot.kernels.trunk_plan import plan_max_pool, plan_normalise_pixels

Array = np.ndarray


def max_pool(pixels: Stored, padding: int = 0, seed: int = 0) -> Array:
    """Run max_pool.cu on (B, H, W, C) and return (B, H / 2, W / 2, C) as float32; ``padding`` elements lie between pixels."""
    images, height, width, channels = pixels.bits.shape
    rows = Stored(pixels.dtype, pixels.bits.reshape(-1, channels), pixels.values)
    x, (stride,) = guarded_rows(rows, padding)
    out = Guarded(store(np.full((images, height // 2, width // 2, channels), np.nan), pixels.dtype).bits)
    strides = (height * width * stride, width * stride, stride)
    plan = plan_max_pool(images, channels, height, width, pixels.dtype, strides, alignment=alignment_of(x.array, out.array))
    run(plan, {"pixels": x.array, "out": out.array}, seed)
    out.check()
    return _values(out.array, pixels.dtype)


def pooled(pixels: Array) -> Array:
    """The same by torch."""
    return torch.nn.functional.max_pool2d(torch.from_numpy(pixels).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1).numpy()


def normalise_pixels(images: Array, scale: Array, offset: Array, channels: int, dtype: str, planes: bool, seed: int = 0) -> Array:
    """Run normalise_pixels.cu on (B, 3, H, W) and return (B, H, W, channels) as float32.

    The bytes lie in planes, or with the three of a pixel together.
    """
    batch, _, height, width = images.shape
    stored = images if planes else images.transpose(0, 2, 3, 1)
    x = Guarded(np.ascontiguousarray(stored))
    size = height * width
    strides = (3 * size, size, width, 1) if planes else (3 * size, 1, 3 * width, 3)
    out = Guarded(store(np.full((batch, height, width, channels), np.nan), dtype).bits)
    plan = plan_normalise_pixels(batch, height, width, channels, dtype, strides)
    run(plan, {"images": x.array, "scale": Guarded(scale).array, "offset": Guarded(offset).array, "out": out.array}, seed)
    out.check()
    return _values(out.array, dtype)


def normalised(images: Array, scale: Array, offset: Array, channels: int, dtype: str) -> Array:
    """The same: float64, rounded to float32 as one fmaf is, then to ``dtype`` by torch."""
    exact = images.astype(np.float64) * scale[:, None, None].astype(np.float64) + offset[:, None, None]
    rounded = torch.from_numpy(exact).float().to(getattr(torch, dtype)).float()
    padding = torch.zeros(len(images), channels - 3, *images.shape[2:])
    return torch.cat([rounded, padding], dim=1).permute(0, 2, 3, 1).numpy()


def _values(bits: Array, dtype: str) -> Array:
    stored = torch.from_numpy(bits)
    return (stored if dtype == "float32" else stored.view(getattr(torch, dtype))).float().numpy()
