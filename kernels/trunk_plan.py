"""How the kernels around the trunk's convolutions are launched, as plan.py says for the others."""

from __future__ import annotations

import numpy as np

from .plan import ELEMENT_BYTES, Launch, cache_plans, element_options, vector_width

_THREADS = 256
_LARGEST_GRID_Y = 65535


@cache_plans
def plan_max_pool(
    images: int, channels: int, height: int, width: int, dtype: str, strides: tuple[int, int, int], *, alignment: int = 16
) -> Launch:
    """The launch that takes the maximum of 2 × 2 squares of pixels. Pointer names: pixels, out.

    Args:
        strides: of an image, a row and a pixel, in elements.
        alignment: as for ``vector_width``, of both pointers together.
    """
    vector = vector_width(dtype, channels, strides, alignment)
    return Launch(
        source="max_pool.cu",
        kernel="max_pool",
        options=element_options(dtype, vector),
        grid=_grid(images * (height // 2), width // 2 * (channels // vector)),
        block=(_THREADS, 1, 1),
        shared_bytes=0,
        arguments=(
            "pixels",
            *(np.int64(stride) for stride in strides),
            *(np.int32(size) for size in (height // 2, width // 2, channels)),
            "out",
        ),
    )


@cache_plans
def plan_normalise_pixels(
    images: int, height: int, width: int, channels: int, dtype: str, strides: tuple[int, int, int, int]
) -> Launch:
    """The launch that normalises bytes into ``channels`` channels of ``dtype``. Pointer names: images, scale, offset, out.

    Args:
        strides: of an image, a channel, a row and a pixel, in bytes.
    """
    pixels = max(1, 16 // (channels * ELEMENT_BYTES[dtype]))
    if width % pixels:
        pixels = 1
    return Launch(
        source="normalise_pixels.cu",
        kernel="normalise_pixels",
        options=(*element_options(dtype, 1), f"-DCHANNELS={channels}", f"-DPIXELS={pixels}"),
        grid=_grid(images * height, width // pixels),
        block=(_THREADS, 1, 1),
        shared_bytes=0,
        arguments=(
            "images",
            *(np.int64(stride) for stride in strides),
            np.int32(height),
            np.int32(width),
            "scale",
            "offset",
            "out",
        ),
    )


def _grid(rows: int, items: int) -> tuple[int, int, int]:
    """A row of the output a block in x, its ``items`` over blocks in y."""
    return rows, min(-(-items // _THREADS), _LARGEST_GRID_Y), 1
