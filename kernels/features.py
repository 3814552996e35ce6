"""The affine map from features to descriptors: normalisation and PCA in one product."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from . import checks
from .loader import alignment_of, device_limits, launch
from .plan import MMA_CAPABILITY, Launch, cache_plans, element_options, vector_width

_THREADS, _TILE_ROWS, _TILE_COMPONENTS = 256, 256, 64


def serves_affine_map(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether ``affine_map`` takes features of ``dtype`` on ``device``: 16 bits, compute capability 8.0 or newer."""
    return dtype != torch.float32 and device.type == "cuda" and device_limits(device).capability >= MMA_CAPABILITY


def affine_map(features: Tensor, matrix: Tensor, offset: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Descriptors x·(high + low) + offset, the normalisation and PCA of the paper's second step, on tensor cores.

    Args:
        features: (..., C) float16 or bfloat16 on a CUDA device of compute capability 8.0 or newer; rows contiguous and evenly
            spaced, as those of channels-last tensors. No rows are allowed.
        matrix: (2, n, C) in the features' dtype, contiguous: the transposed map's high parts, and what they leave of it.
        offset: (n,) float32, contiguous.
        out: (..., n) float32, rows contiguous and evenly spaced; receives the result instead of a new tensor.

    Returns:
        The descriptors (..., n) float32, ``out`` where it was given.

    Raises:
        TypeError: an argument of wrong type or dtype; the message names it.
        ValueError: an argument of wrong shape, stride or device; the message names it.
        DeviceError: the tensors are not on a CUDA device, or the device, driver or CuPy does not serve.
    """
    checks.check_affine_map(features, matrix, offset, out)
    _, components, channels = matrix.shape
    if out is None:
        out = torch.empty((*features.shape[:-1], components), dtype=torch.float32, device=features.device)
    if features.numel():
        dtype, rows = str(features.dtype).removeprefix("torch."), features.numel() // channels
        strides = checks.row_stride(features), checks.row_stride(out)
        plan = plan_affine_map(rows, channels, components, dtype, *strides, alignment=alignment_of(features, matrix))
        launch(plan, {"features": features, "matrix": matrix, "offset": offset, "out": out}, features.device)
    return out


@cache_plans
def plan_affine_map(
    rows: int, channels: int, components: int, dtype: str, row_stride: int, out_stride: int, *, alignment: int = 16
) -> Launch:
    """The launch that maps ``rows`` features. Pointer names: features, matrix, offset, out.

    Args:
        row_stride, out_stride: in elements.
        alignment: as for ``vector_width``, of features and matrix together.
    """
    return Launch(
        source="affine_map.cu",
        kernel="affine_map",
        options=element_options(dtype, vector_width(dtype, channels, (row_stride,), alignment)),
        grid=(-(-rows // _TILE_ROWS) * -(-components // _TILE_COMPONENTS), 1, 1),
        block=(_THREADS, 1, 1),
        shared_bytes=0,
        arguments=(
            "features",
            *(np.int64(size) for size in (row_stride, rows)),
            np.int32(channels),
            "matrix",
            "offset",
            np.int32(components),
            "out",
            np.int64(out_stride),
        ),
    )
