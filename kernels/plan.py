"""Which kernel runs for a given shape, with which options, grid and shared memory.

Plain Python over numbers: nothing here touches a device, so that the tests drive the same plans on the CPU that the loader launches
on a GPU. A ``Launch`` names its pointer arguments; whoever launches it puts addresses in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntFlag
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .stream import stream_sizes, streams_best

_FOLDER = Path(__file__).parent
_Buffer = TypeVar("_Buffer")

ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
MMA_CAPABILITY = (8, 0)
_PLAIN_THREADS = 128
_TILE_THREADS = 256
_FEWEST_TILE_DIMS = 4  # a tile is 16 deep: with fewer, more than three quarters of its work would be padding
_TILED_ROWS, _TILED_DEPTH, _MMA_ROWS = 128, 16, 256
_MMA_SHARED = 2 * 64 * (64 + 32) * 2  # two buffers of 64 centres, 64 dimensions and their padding, 2 bytes each
_LARGEST_CHUNK = 1024
_LARGEST_BITMAP = 32 * 1024
_FEWEST_CENTERS_A_BLOCK = 8
_FUSED_CHUNK, _FUSED_TILE_CENTERS = 256, 64


@dataclass(frozen=True)
class Launch:
    """One kernel launch.

    Attributes:
        source: file of the kernel in this folder.
        kernel: its function.
        options: macros to compile it with.
        grid: blocks.
        block: threads of each.
        shared_bytes: dynamic shared memory of a block.
        arguments: a NumPy scalar for each value and a name (str) for each pointer, in the kernel's order.
    """

    source: str
    kernel: str
    options: tuple[str, ...]
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    arguments: tuple[np.generic | str, ...]

    def bind(self, buffers: Mapping[str, _Buffer], wrap: Callable[[_Buffer], Any] = lambda buffer: buffer) -> list[Any]:
        """The argument list with ``wrap(buffers[name])`` in place of each name; every name must be in ``buffers``."""
        return [wrap(buffers[argument]) if isinstance(argument, str) else argument for argument in self.arguments]


@lru_cache
def source_code(name: str) -> str:
    """Text of a kernel source with its own headers written in, so that it compiles with no include path.

    CuPy caches compiled kernels by their source: a header it does not see would leave an old kernel in use.
    """
    lines = []
    for line in (_FOLDER / name).read_text().splitlines():
        if line.startswith('#include "'):
            lines.append(source_code(line.split('"')[1]))
        elif line != "#pragma once":
            lines.append(line)
    return "\n".join(lines) + "\n"


def element_options(dtype: str, vector: int) -> tuple[str, ...]:
    """The macros of element.cuh, as compiler options."""
    return f"-DELEMENT_{dtype.upper()}", f"-DVECTOR={vector}"


def _options(dtype: str, vector: int, *, method: str = "", staged: bool | None = None, tile_centers: int = 0) -> tuple[str, ...]:
    """The macros that the headers read, as compiler options."""
    options = [f"-DMETHOD_{method}"] if method else []
    options += element_options(dtype, vector)
    if staged is not None:
        options.append(f"-DSTAGED={int(staged)}")
    if method == "TILED":
        options.append(f"-DTILE_CENTERS={tile_centers}")
    return tuple(options)


def vector_width(dtype: str, dims: int, strides: tuple[int, ...], alignment: int) -> int:
    """Elements that one load may take: 16 bytes' worth where every row starts at and spans a multiple of 16 bytes, else 1.

    Args:
        dtype: of the descriptors.
        dims: elements of a row.
        strides: in elements.
        alignment: the largest power of two, at most 16, that divides every base address, in bytes.
    """
    width = 16 // ELEMENT_BYTES[dtype]
    return width if alignment % 16 == 0 and all(number % width == 0 for number in (dims, *strides)) else 1


def assignment_method(dims: int, dtype: str, center_dtype: str, capability: tuple[int, int]) -> str:
    """Return "MMA" where tensor cores take both types and the dimensions are worth a fragment, else "TILED"."""
    on_tensor_cores = dtype != "float32" and center_dtype == dtype and capability >= MMA_CAPABILITY
    return "MMA" if on_tensor_cores and dims >= _FEWEST_TILE_DIMS else "TILED"


def assignment_tiles(method: str, tile_centers: int) -> tuple[int, int]:
    """(descriptors a tile, bytes of its ``Tiles``) of tiled.cuh or mma.cuh."""
    if method == "MMA":
        return _MMA_ROWS, _MMA_SHARED
    return _TILED_ROWS, 2 * _TILED_DEPTH * (_TILED_ROWS + 4 + tile_centers + 4) * 4


def plan_nearest_center(
    rows: int,
    dims: int,
    centers: int,
    dtype: str,
    center_dtype: str,
    row_stride: int,
    *,
    alignment: int = 16,
    capability: tuple[int, int] = (9, 0),
    multiprocessors: int = 132,
    shared_limit: int = 227 * 1024,
    method: str | None = None,
) -> Launch:
    """The launch that assigns ``rows`` descriptors of ``dims`` dimensions to ``centers`` centres.

    Pointer names: descriptors, centers, half_norms, index, distance, invalid_count (the last two may be null).

    Args:
        center_dtype: of the centres passed: the mma and stream versions take the descriptors' own type, the others float32.
        row_stride: in elements.
        alignment: as for ``vector_width``, of descriptors and centres together.
        method: "PLAIN", "TILED", "MMA", "STREAM" or "SCREEN" overrides the choice, for tests and benchmarks.
    """
    vector = vector_width(dtype, dims, (row_stride,), alignment)
    if method is None:
        method = "PLAIN" if dims < _FEWEST_TILE_DIMS else assignment_method(dims, dtype, center_dtype, capability)
        if method == "MMA" and streams_best(dims, centers, vector, capability, shared_limit):
            method = "STREAM"
    vector = 1 if method == "PLAIN" else vector
    # 128 x 128 accumulators leave few registers: enough for float32 in 16-byte loads, not for conversions or many addresses.
    tile_centers = 128 if centers > 64 and vector == 4 else 64
    options, threads = _options(dtype, vector, method=method, tile_centers=tile_centers), _TILE_THREADS
    sizes = (np.int64(row_stride), np.int64(rows), np.int32(dims))
    outputs: tuple[np.generic | str, ...] = ("index", "distance", "invalid_count")
    if method == "PLAIN":
        threads, blocks, shared_bytes = _PLAIN_THREADS, -(-rows // _PLAIN_THREADS), 0
    elif method in ("STREAM", "SCREEN"):
        depth, tiles, shared_bytes, blocks = stream_sizes(rows, dims, centers, vector, multiprocessors, shared_limit, method)
        options, outputs = (*options, f"-DDEPTH_BLOCKS={depth}"), (*outputs, np.int32(tiles))
    else:
        rows_a_block, shared_bytes = assignment_tiles(method, tile_centers)
        blocks = -(-rows // rows_a_block)
    return Launch(
        source="nearest_center.cu",
        kernel="nearest_center",
        options=options,
        grid=(blocks, 1, 1),
        block=(threads, 1, 1),
        shared_bytes=shared_bytes,
        arguments=("descriptors", *sizes, "centers", "half_norms", np.int32(centers), *outputs),
    )


class Step(IntFlag):
    """Normalisations of a VLAD vector, in the order in which they are applied; the bits of ``Steps`` in aggregate.cuh."""

    MASS = 1
    INTRA = 2
    SIGNED_SQRT = 4
    L2 = 8


def _carved(*arrays: tuple[int, int]) -> int:
    """Bytes of shared memory that ``Carver`` of aggregate.cuh hands out for (count, item size) arrays."""
    return sum(-(-count * size // 16) * 16 for count, size in arrays)


def _aggregation_bytes(centers: int, dims: int, chunk: int, staged: bool) -> int:
    return _carved(
        (centers, 8),
        (centers * dims if staged else 0, 4),
        (centers, 4),
        (centers + 1, 4),
        (centers * _bitmap_words(chunk), 4),
        (chunk, 4),
        (chunk, 4),
        (1, 4),
    )


def _bitmap_words(chunk: int) -> int:
    return -(-chunk // 32) | 1


def _group_lanes(dims: int, vector: int) -> int:
    """Lanes that share a centre: enough for its dimensions, a power of two, at most a warp."""
    lanes = 1
    while lanes < 32 and lanes * vector < dims:
        lanes *= 2
    return lanes


def plan_vlad(
    images: int,
    patches: int,
    dims: int,
    centers: int,
    dtype: str,
    image_stride: int,
    row_stride: int,
    label_stride: int,
    steps: Step,
    *,
    alignment: int = 16,
    multiprocessors: int = 132,
    shared_limit: int = 227 * 1024,
    chunk: int | None = None,
    centers_per_block: int | None = None,
) -> tuple[Launch, ...]:
    """The launches that aggregate (images, patches, dims) descriptors with given labels: one, or two where blocks share an image.

    Pointer names: descriptors, labels, centers (float32), out, squares, skipped (may be null). ``squares`` is (images, centers)
    float64 scratch where ``needs_squares`` says so, and null otherwise.

    Args:
        image_stride: in elements, as the other strides.
        alignment: as for ``vector_width``, of descriptors, centres and output together.
        shared_limit: most bytes of shared memory that a block may ask for.
        chunk: patches sorted at a time; overrides the choice and changes no bit of the result.
        centers_per_block: as ``chunk``.
    """
    vector = vector_width(dtype, dims, (image_stride, row_stride), alignment)
    group = _group_lanes(dims, vector)
    if chunk is None:
        chunk = min(-(-max(patches, 1) // 32) * 32, _LARGEST_CHUNK)
    if centers_per_block is None:
        # Few images: several blocks each, so that every multiprocessor has two, but not so many that a block has next to nothing.
        blocks_an_image = -(-2 * multiprocessors // images) if images < multiprocessors else 1
        centers_per_block = max(-(-centers // blocks_an_image), min(centers, _FEWEST_CENTERS_A_BLOCK))
        centers_per_block = min(centers_per_block, _LARGEST_BITMAP // (4 * _bitmap_words(chunk)))
        # Of few patches a block could take so many centres that not even their lists fit in shared memory.
        apart, of_center = _aggregation_bytes(0, dims, chunk, False) + 4 * 16, 8 + 4 + 4 + 4 * _bitmap_words(chunk)
        centers_per_block = max(1, min(centers_per_block, (shared_limit - apart) // of_center))
    staged = _aggregation_bytes(centers_per_block, dims, chunk, True) <= shared_limit // 2  # two blocks a multiprocessor
    blocks_an_image = -(-centers // centers_per_block)
    threads = min(512, max(128, -(-centers_per_block * group // 32) * 32))
    options = _options(dtype, vector, staged=staged)
    first = Launch(
        source="vlad.cu",
        kernel="vlad",
        options=options,
        grid=(images, blocks_an_image, 1),
        block=(threads, 1, 1),
        shared_bytes=_aggregation_bytes(centers_per_block, dims, chunk, staged),
        arguments=(
            "descriptors",
            np.int64(image_stride),
            np.int64(row_stride),
            np.int32(patches),
            np.int32(dims),
            "labels",
            np.int64(label_stride),
            "centers",
            np.int32(centers),
            np.int32(centers_per_block),
            np.int32(group),
            np.int32(chunk),
            np.int32(steps),
            "out",
            "squares",
            "skipped",
        ),
    )
    if blocks_an_image == 1 or Step.L2 not in steps:
        return (first,)
    scale = Launch(
        source="vlad.cu",
        kernel="vlad_scale",
        options=options,
        grid=first.grid,
        block=(256, 1, 1),
        shared_bytes=0,
        arguments=("out", "squares", np.int32(centers), np.int32(dims), np.int32(centers_per_block)),
    )
    return first, scale


def needs_squares(launches: tuple[Launch, ...]) -> bool:
    """Whether ``plan_vlad``'s launches hand sums of squares from one to the next."""
    return len(launches) > 1


def plan_assign_vlad(
    images: int,
    patches: int,
    dims: int,
    centers: int,
    dtype: str,
    center_dtype: str,
    image_stride: int,
    row_stride: int,
    steps: Step,
    *,
    alignment: int = 16,
    capability: tuple[int, int] = (9, 0),
    multiprocessors: int = 132,
    shared_limit: int = 227 * 1024,
    method: str | None = None,
) -> Launch | None:
    """The one launch that assigns and aggregates, or None where two launches serve better.

    That is where an image's VLAD vector does not fit in shared memory, or where images are too few to occupy the device with a
    block each. Pointer names: descriptors, centers, half_norms, out, skipped (may be null). Arguments are those of
    ``plan_nearest_center`` and ``plan_vlad``.
    """
    method = method or assignment_method(dims, dtype, center_dtype, capability)
    vector = vector_width(dtype, dims, (image_stride, row_stride), alignment)
    _, tile_bytes = assignment_tiles(method, _FUSED_TILE_CENTERS)
    shared_bytes = _carved((tile_bytes, 1)) + _aggregation_bytes(centers, dims, _FUSED_CHUNK, True)
    if shared_bytes > shared_limit // 2 or 2 * images < multiprocessors:
        return None
    return Launch(
        source="assign_vlad.cu",
        kernel="assign_vlad",
        options=_options(dtype, vector, method=method, staged=True, tile_centers=_FUSED_TILE_CENTERS),
        grid=(images, 1, 1),
        block=(_TILE_THREADS, 1, 1),
        shared_bytes=shared_bytes,
        arguments=(
            "descriptors",
            np.int64(image_stride),
            np.int64(row_stride),
            np.int32(patches),
            np.int32(dims),
            "centers",
            "half_norms",
            np.int32(centers),
            np.int32(_group_lanes(dims, vector)),
            np.int32(steps),
            "out",
            "skipped",
        ),
    )
