"""The affine map from features to descriptors: normalisation and PCA in one product."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from . import checks
from .loader import alignment_of, device_limits, launch
from .plan import MMA_CAPABILITY, Launch, cache_plans, element_options, vector_width

MOST_LAYERS = 4  # VGG-16 has no more of one stride
_THREADS, _TILE_ROWS, _TILE_COMPONENTS = 256, 256, 64


def serves_affine_map(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether ``affine_map`` takes features of ``dtype`` on ``device``: 16 bits, compute capability 8.0 or newer."""
    return dtype != torch.float32 and device.type == "cuda" and device_limits(device).capability >= MMA_CAPABILITY


def affine_map(features: Sequence[Tensor], matrices: Sequence[Tensor], offset: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Descriptors x·(high + low) + offset of each layer, the normalisation and PCA of the paper's second step, on tensor cores.

    Args:
        features: of each of at most ``MOST_LAYERS`` layers (..., C) float16 or bfloat16, C its own, on a CUDA device of compute
            capability 8.0 or newer; rows contiguous and evenly spaced, as those of channels-last tensors. No rows are allowed.
        matrices: of each layer (2, n, C) in the features' dtype, contiguous: the transposed map's high parts, and what they
            leave.
        offset: (L, n) float32, contiguous.
        out: (..., L·n) float32, rows contiguous and evenly spaced; receives the result instead of a new tensor.

    Returns:
        The descriptors (..., L·n) float32, side by side, ``out`` where it was given.

    Raises:
        TypeError: an argument of wrong type or dtype; the message names it.
        ValueError: an argument of wrong shape, stride or device, or too many layers; the message names it.
        DeviceError: the tensors are not on a CUDA device, or the device, driver or CuPy does not serve.
    """
    if not 1 <= len(features) <= MOST_LAYERS or len(matrices) != len(features):
        raise ValueError(f"features has {len(features)} layers, matrices {len(matrices)}: expected as many, 1 … {MOST_LAYERS}")
    for own, matrix in zip(features, matrices, strict=True):
        checks.check_affine_map(own, matrix, features[0], matrices[0], offset, len(features), out)
    components, first = matrices[0].shape[1], features[0]
    if out is None:
        out = torch.empty((*first.shape[:-1], len(features) * components), dtype=torch.float32, device=first.device)
    if first.numel():
        plan = plan_affine_map(
            first.numel() // first.shape[-1],
            tuple(own.shape[-1] for own in features),
            components,
            str(first.dtype).removeprefix("torch."),
            tuple(map(checks.row_stride, features)),
            checks.row_stride(out),
            alignment=alignment_of(*features, *matrices),
        )
        buffers: dict[str, Tensor | None] = {"offset": offset, "out": out}
        for number in range(MOST_LAYERS):
            there = number < len(features)
            buffers[f"features{number}"] = features[number] if there else None
            buffers[f"matrix{number}"] = matrices[number] if there else None
        launch(plan, buffers, first.device)
    return out


@cache_plans
def plan_affine_map(
    rows: int,
    channels: tuple[int, ...],
    components: int,
    dtype: str,
    row_strides: tuple[int, ...],
    out_stride: int,
    *,
    alignment: int = 16,
) -> Launch:
    """The launch that maps ``rows`` features of each layer.

    Pointer names: features0 … features3, matrix0 … matrix3 (null past the last layer), offset, out.

    Args:
        channels, row_strides: of each layer; strides in elements, as ``out_stride``.
        alignment: as for ``vector_width``, of all features and matrices together.
    """
    layers = len(channels)
    vectors = (vector_width(dtype, size, (stride,), alignment) for size, stride in zip(channels, row_strides, strict=True))
    padding = (0,) * (MOST_LAYERS - layers)
    return Launch(
        source="affine_map.cu",
        kernel="affine_map",
        options=element_options(dtype, min(vectors)),
        grid=(-(-rows // _TILE_ROWS) * -(-components // _TILE_COMPONENTS), layers, 1),
        block=(_THREADS, 1, 1),
        shared_bytes=0,
        arguments=(
            *(f"features{number}" for number in range(MOST_LAYERS)),
            *(np.int64(stride) for stride in (*row_strides, *padding)),
            *(np.int32(size) for size in (*channels, *padding)),
            *(f"matrix{number}" for number in range(MOST_LAYERS)),
            "offset",
            np.int64(rows),
            np.int32(components),
            "out",
            np.int64(out_stride),
        ),
    )
