"""Kernel values of inner products."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from . import checks
from .loader import launch
from .plan import Launch, cache_plans

_THREADS = 256


def kernel_values(products: Tensor, width: float) -> Tensor:
    """k = e^(γ(x·u − 1))/(1 − e^(−γ)) of inner products x·u, rounded to float32 at each step.

    Args:
        products: of any shape, float32, contiguous, on a CUDA device. None are allowed.
        width: γ > 0.

    Returns:
        The values, float64, in the same shape.

    Raises:
        TypeError: not a float32 tensor.
        ValueError: not contiguous.
        DeviceError: the tensor is not on a CUDA device, or the device, driver or CuPy does not serve.
    """
    checks.check_kernel_values(products)
    out = torch.empty_like(products, dtype=torch.float64)
    if products.numel():
        launch(plan_kernel_values(products.numel(), width), {"products": products, "out": out}, products.device)
    return out


@cache_plans
def plan_kernel_values(count: int, width: float) -> Launch:
    """The launch of ``kernel_values``. Pointer names: products, out."""
    return Launch(
        source="kernel_values.cu",
        kernel="kernel_values",
        options=(),
        grid=(-(-count // _THREADS), 1, 1),
        block=(_THREADS, 1, 1),
        shared_bytes=0,
        arguments=("products", np.int64(count), np.float32(width), np.float32(-math.expm1(-width)), "out"),
    )
