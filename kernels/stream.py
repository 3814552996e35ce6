"""Sizes of the streaming version of the nearest centre (stream.cuh), as plain numbers."""

from __future__ import annotations

from typing import NamedTuple

LARGEST_DIMS = 512  # of one row in registers; beyond, the version in tiles serves
_MODELLED_CAPABILITIES = (9,)  # majors on whose machine code the choice below rests
_TILE_CENTERS = 16
_WARPS = 8
_DRIVER_BYTES = 1024  # of shared memory, a block


class StreamSizes(NamedTuple):
    """What a launch of the streaming version takes.

    Attributes:
        depth_blocks: blocks of 32 dimensions that a row fills, the macro DEPTH_BLOCKS.
        part_tiles: tiles of 16 centres, an even number, that a block's shared memory holds; all where the codebook fits.
        shared_bytes: of a block.
        blocks: of the grid, no more than are resident at a time: each goes over many rows.
    """

    depth_blocks: int
    part_tiles: int
    shared_bytes: int
    blocks: int


def stream_sizes(rows: int, dims: int, centers: int, vector: int, multiprocessors: int, shared_limit: int) -> StreamSizes:
    """Sizes for ``rows`` descriptors, ``vector`` elements a load.

    Args:
        shared_limit: most bytes of shared memory that a block may ask for.

    Raises:
        ValueError: more dimensions than registers hold.
    """
    if dims > LARGEST_DIMS:
        raise ValueError(f"the streaming version takes up to {LARGEST_DIMS} dimensions, not {dims}: use method='MMA'")
    depth_blocks = 1
    while 32 * depth_blocks < dims:  # powers of two: few kernels to compile, and zeros cost little
        depth_blocks *= 2
    rows_a_step = _WARPS * 8 * (4 if depth_blocks <= 4 else 2)
    exchange_bytes = rows_a_step * 12 * (4 + 4)  # Exchange of each warp
    pair_bytes = 2 * (depth_blocks * 2 * 32 + 8) * 16  # two of Tile
    pairs = -(-centers // (2 * _TILE_CENTERS))
    # Two blocks a multiprocessor where registers and shared memory allow it, one where only that keeps the codebook resident.
    alone, beside = ((size - exchange_bytes) // pair_bytes for size in (shared_limit, shared_limit // 2 - _DRIVER_BYTES))
    two = vector > 1 and depth_blocks <= 8 and beside >= (1 if alone < pairs else pairs)
    part = min(pairs, beside if two else alone)
    blocks = min(-(-rows // rows_a_step), multiprocessors * (2 if two else 1))
    return StreamSizes(depth_blocks, 2 * part, exchange_bytes + part * pair_bytes, blocks)


def streams_best(dims: int, centers: int, vector: int, capability: tuple[int, int], shared_limit: int) -> bool:
    """Whether the streaming version is the choice among those on tensor cores.

    It is where a model of the machine code says so: for 16-byte loads, a codebook that stays in shared memory, and the compute
    capability that was modelled. No hardware has judged yet.
    """
    if vector == 1 or dims > LARGEST_DIMS or capability[0] not in _MODELLED_CAPABILITIES:
        return False
    return stream_sizes(1, dims, centers, vector, 1, shared_limit).part_tiles * _TILE_CENTERS >= centers
