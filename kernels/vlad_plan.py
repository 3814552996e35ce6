"""How VLAD vectors are made: launches, grids and shared memory, as plan.py says for the nearest centre."""

from __future__ import annotations

from enum import IntFlag

import numpy as np

from .plan import TILE_THREADS, Launch, assignment_method, assignment_tiles, cache_plans, compiler_options, vector_width

_LARGEST_CHUNK = 1024
_LARGEST_BITMAP = 32 * 1024
_FEWEST_CENTERS_A_BLOCK = 8
_FUSED_CHUNK, _FUSED_TILE_CENTERS, _FUSED_SMALL_TILE = 256, 64, 32
_LAUNCH_PRODUCTS = 1 << 20  # products that a block makes in the time of a launch, about


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


@cache_plans
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
    options = compiler_options(dtype, vector, staged=staged)
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


@cache_plans
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
    layers: int = 1,
    split: bool = False,
    alignment: int = 16,
    capability: tuple[int, int] = (9, 0),
    multiprocessors: int = 132,
    shared_limit: int = 227 * 1024,
    method: str | None = None,
) -> Launch | None:
    """The one launch that assigns and aggregates, or None where two launches for each layer serve better.

    That is where a layer's VLAD vector does not fit in shared memory, or where the images are too few to occupy the device with a
    block a layer, and a block would have more to multiply than a launch takes. Pointer names: descriptors, centers, half_norms,
    out, skipped (may be null). Arguments are those of ``plan_nearest_center`` and ``plan_vlad``, and:

    Args:
        layers: whose ``dims`` dimensions lie side by side in a descriptor's row, each with ``centers`` centres of its own.
        split: write two parts in bfloat16.
    """
    method = method or assignment_method(dims, dtype, center_dtype, capability)
    vector = vector_width(dtype, dims, (image_stride, row_stride), alignment)
    tile_centers = _FUSED_SMALL_TILE if method == "TILED" and centers <= _FUSED_SMALL_TILE else _FUSED_TILE_CENTERS
    _, tile_bytes = assignment_tiles(method, tile_centers)
    shared_bytes = _carved((tile_bytes, 1)) + _aggregation_bytes(centers, dims, _FUSED_CHUNK, True)
    options = compiler_options(dtype, vector, method=method, staged=True, tile_centers=tile_centers)
    products = patches * dims * -(-centers // tile_centers) * tile_centers
    if shared_bytes > shared_limit // 2 or (2 * images * layers < multiprocessors and products > _LAUNCH_PRODUCTS):
        return None
    return Launch(
        source="assign_vlad.cu",
        kernel="assign_vlad",
        options=(*options, f"-DSPLIT={int(split)}"),
        grid=(images, layers, 1),
        block=(TILE_THREADS, 1, 1),
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
