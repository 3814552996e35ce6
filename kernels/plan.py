"""Which kernel runs for a given shape, with which options, grid and shared memory.

Plain Python over numbers: nothing here touches a device, so that the tests drive the same plans on the CPU that the loader launches
on a GPU. A ``Launch`` names its pointer arguments; whoever launches it puts addresses in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .stream import WGMMA_ARCHITECTURE, stream_sizes, streams_best, wgmma_threads

_FOLDER = Path(__file__).parent
_Buffer = TypeVar("_Buffer")

ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
MMA_CAPABILITY = (8, 0)
ARCHITECTURE_OPTION = "-arch="  # among a launch's options: the one architecture that runs its code, where it is not the device's
_PLAIN_THREADS = 128
TILE_THREADS = 256
_FEWEST_TILE_DIMS = 4  # a tile is 16 deep: with fewer, more than three quarters of its work would be padding
_TILED_ROWS, _TILED_DEPTH, _MMA_ROWS = 128, 16, 256
_MMA_SHARED = 2 * 64 * (64 + 32) * 2  # two buffers of 64 centres, 64 dimensions and their padding, 2 bytes each


# Of one batch shape after another: making a plan takes as long as a launch.
cache_plans = lru_cache(maxsize=256)


@dataclass(frozen=True)
class Launch:
    """One kernel launch.

    Attributes:
        source: file of the kernel in this folder.
        kernel: its function.
        options: macros to compile it with, and the architecture where that is not the device's.
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


def compiler_options(
    dtype: str, vector: int, *, method: str = "", staged: bool | None = None, tile_centers: int = 0
) -> tuple[str, ...]:
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


@cache_plans
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
        center_dtype: of the centres passed: the mma, stream and wgmma versions take the descriptors' own type, the others float32.
        row_stride: in elements.
        alignment: as for ``vector_width``, of descriptors and centres together.
        method: "PLAIN", "TILED", "MMA", "STREAM", "WGMMA" or "SCREEN" overrides the choice, for tests and benchmarks.
    """
    vector = vector_width(dtype, dims, (row_stride,), alignment)
    if method is None:
        method = "PLAIN" if dims < _FEWEST_TILE_DIMS else assignment_method(dims, dtype, center_dtype, capability)
        if method == "MMA" and streams_best(dims, centers, vector, capability, shared_limit):
            method = "STREAM"
    vector = 1 if method == "PLAIN" else vector
    # 128 x 128 accumulators leave few registers: enough for float32 in 16-byte loads, not for conversions or many addresses.
    tile_centers = 128 if centers > 64 and vector == 4 else 64
    options, threads = compiler_options(dtype, vector, method=method, tile_centers=tile_centers), TILE_THREADS
    sizes = (np.int64(row_stride), np.int64(rows), np.int32(dims))
    outputs: tuple[np.generic | str, ...] = ("index", "distance", "invalid_count")
    if method == "PLAIN":
        threads, blocks, shared_bytes = _PLAIN_THREADS, -(-rows // _PLAIN_THREADS), 0
    elif method in ("STREAM", "WGMMA", "SCREEN"):
        depth, tiles, shared_bytes, blocks = stream_sizes(rows, dims, centers, vector, multiprocessors, shared_limit, method)
        options, outputs = (*options, f"-DDEPTH_BLOCKS={depth}"), (*outputs, np.int32(tiles))
        if method == "WGMMA":
            options, threads = (*options, f"{ARCHITECTURE_OPTION}{WGMMA_ARCHITECTURE}"), wgmma_threads(depth, vector)
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
