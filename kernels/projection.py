"""The end of the joint projection: unit length, and products of the leading coordinates."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from . import checks
from .loader import launch
from .plan import Launch, cache_plans

_THREADS = 256


def unit_products(product: Tensor, offset: Tensor, *, quadratic: int = 0, weight: float = 0.5) -> Tensor:
    """p = Σ product + offset of each image, brought to unit length: u = p/‖p‖; then √q·u_i² and √(2q)·u_i·u_j, i < j < t.

    What is zero stays zero.

    Args:
        product: (R, B, C, d) float32, contiguous, on a CUDA device: products of R parts of image vectors with C parts of a matrix,
            which are added up. B = 0 is allowed.
        offset: (d,) float32, contiguous.
        quadratic: t, at most d.
        weight: q > 0.

    Returns:
        (B, d + t(t + 1)/2) float32, the products in the order of ``torch.triu_indices(t, t)``.

    Raises:
        TypeError: an argument of wrong type or dtype; the message names it.
        ValueError: an argument of wrong shape, stride or device; the message names it.
        DeviceError: the tensors are not on a CUDA device, or the device, driver or CuPy does not serve.
    """
    checks.check_unit_products(product, offset, quadratic)
    row_parts, images, column_parts, dims = product.shape
    size = (images, dims + quadratic * (quadratic + 1) // 2)
    out = torch.empty(size, dtype=torch.float32, device=product.device)
    if images:
        plan = plan_unit_products(images, row_parts, column_parts, dims, quadratic, weight)
        launch(plan, {"product": product, "offset": offset, "out": out}, product.device)
    return out


@cache_plans
def plan_unit_products(images: int, row_parts: int, column_parts: int, dims: int, quadratic: int, weight: float) -> Launch:
    """The launch of ``unit_products``. Pointer names: product, offset, out."""
    return Launch(
        source="unit_products.cu",
        kernel="unit_products",
        options=(),
        grid=(images, 1, 1),
        block=(_THREADS, 1, 1),
        shared_bytes=0,
        arguments=(
            "product",
            "offset",
            *(np.int32(size) for size in (row_parts, column_parts, dims, quadratic)),
            np.float32(weight**0.5),
            np.float32((2 * weight) ** 0.5),
            "out",
        ),
    )
