"""Sizes of the versions of the nearest centre that keep the codebook resident: stream.cuh, wgmma.cuh and screen.cuh."""

from __future__ import annotations

from typing import NamedTuple

#: Dimensions whose row fits in registers, by method; beyond, the versions in tiles serve.
LARGEST_DIMS = {"STREAM": 512, "WGMMA": 256, "SCREEN": 128}
#: The compute capability that runs wgmma, and what NVRTC and nvcc call its code: newer ones do not run it.
WGMMA_CAPABILITY, WGMMA_ARCHITECTURE = (9, 0), "sm_90a"
_MODELLED_CAPABILITIES = (9,)  # majors on whose machine code the choice below rests
_TILE_CENTERS = 16
_WARPS = 8
_WGMMA_CENTERS = 128  # of a tile
_DRIVER_BYTES = 1024  # of shared memory, a block


class StreamSizes(NamedTuple):
    """What a launch takes.

    Attributes:
        depth_blocks: blocks of 32 dimensions that a row fills, the macro DEPTH_BLOCKS.
        part_tiles: tiles of 16 centres, an even number, or of 128 ("WGMMA"), that a block's shared memory holds; all where the
            codebook fits.
        shared_bytes: of a block.
        blocks: of the grid, no more than are resident at a time: each goes over many rows.
    """

    depth_blocks: int
    part_tiles: int
    shared_bytes: int
    blocks: int


def stream_sizes(
    rows: int, dims: int, centers: int, vector: int, multiprocessors: int, shared_limit: int, method: str = "STREAM"
) -> StreamSizes:
    """Sizes for ``rows`` descriptors, ``vector`` elements a load, of "STREAM", "WGMMA" or "SCREEN".

    Args:
        shared_limit: most bytes of shared memory that a block may ask for.

    Raises:
        ValueError: more dimensions than registers hold.
    """
    if dims > LARGEST_DIMS[method]:
        raise ValueError(f"method {method!r} takes up to {LARGEST_DIMS[method]} dimensions, not {dims}: use a method in tiles")
    depth_blocks = 1
    while 32 * depth_blocks < dims:  # powers of two: few kernels to compile, and zeros cost little
        depth_blocks *= 2
    if method == "WGMMA":
        tile_bytes = _WGMMA_CENTERS * (2 * 32 * depth_blocks + 8)  # Tile
        part = min(-(-centers // _WGMMA_CENTERS), shared_limit // tile_bytes)
        blocks = min(-(-rows // (wgmma_threads(depth_blocks, vector) // 2)), multiprocessors)
        return StreamSizes(depth_blocks, part, part * tile_bytes, blocks)
    halves, words = (1, 2 * 12) if method == "STREAM" else (2, 3 * 12 + 1)  # words a row of Exchange
    rows_a_step = _WARPS * 8 * (4 if depth_blocks * halves**2 <= 4 else 2)
    exchange_bytes = rows_a_step * words * 4
    pair_bytes = 2 * (halves * depth_blocks * 2 * 32 + 8) * 16  # two of Tile
    pairs = -(-centers // (2 * _TILE_CENTERS))
    # Two blocks a multiprocessor where registers and shared memory allow it, one where only that keeps the codebook resident.
    alone, beside = ((size - exchange_bytes) // pair_bytes for size in (shared_limit, shared_limit // 2 - _DRIVER_BYTES))
    two = vector > 1 and depth_blocks <= 8 and beside >= (1 if alone < pairs else pairs)
    part = min(pairs, beside if two else alone)
    blocks = min(-(-rows // rows_a_step), multiprocessors * (2 if two else 1))
    return StreamSizes(depth_blocks, 2 * part, exchange_bytes + part * pair_bytes, blocks)


def wgmma_threads(depth_blocks: int, vector: int) -> int:
    """Threads of a block of wgmma.cuh, which has 64 rows for every 128 of them."""
    return 128 * (4 if depth_blocks <= 2 else 3 if vector > 1 else 2)


def served_methods(dims: int, dtype: str, center_dtype: str, capability: tuple[int, int]) -> tuple[str, ...]:
    """Versions of the nearest centre that take descriptors of ``dtype`` and centres of ``center_dtype`` on a device."""
    served = ["PLAIN", "TILED"]
    if capability >= (8, 0) and dtype == center_dtype:
        served += ["SCREEN"] if dtype == "float32" else ["MMA", "STREAM"]
        served += ["WGMMA"] if dtype != "float32" and capability == WGMMA_CAPABILITY else []
    return tuple(method for method in served if dims <= LARGEST_DIMS.get(method, dims))


def streams_best(dims: int, centers: int, vector: int, capability: tuple[int, int], shared_limit: int) -> bool:
    """Whether the streaming version is the choice among those on tensor cores.

    It is where a model of the machine code says so: for 16-byte loads, a codebook that stays in shared memory, and the compute
    capability that was modelled. No hardware has judged yet.
    """
    if vector == 1 or dims > LARGEST_DIMS["STREAM"] or capability[0] not in _MODELLED_CAPABILITIES:
        return False
    return stream_sizes(1, dims, centers, vector, 1, shared_limit).part_tiles * _TILE_CENTERS >= centers
