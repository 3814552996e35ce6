"""What the kernel tests share: guarded inputs, the float64 reference, error bounds, and launching a plan on the CPU.

The reference is written here, independently of the library. Descriptors are stored in one of three types, and ``Stored.values`` are
the float32 numbers that the stored ones stand for, so that the reference sees what the kernel sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from cuda_on_cpu import Guarded, HostRawKernel

from gpuannot.kernels.plan import Launch, plan_nearest_center, source_code
from gpuannot.kernels.vlad_plan import Step, needs_squares, plan_assign_vlad, plan_vlad

Array = np.ndarray[Any, Any]

DTYPES = ("float32", "float16", "bfloat16")
DIMS = (1, 2, 3, 31, 64, 100, 128, 512)
CENTERS = (1, 2, 7, 64, 256, 1000)
ROWS = (0, 1, 2, 33, 196, 197, 784)
PADDINGS = (0, 1, 8)  # elements between rows: none; an odd number, which rules vector loads out; one that keeps them

# Every dimension with every number of rows, and with both all numbers of centres: all pairs of values of two axes occur.
SHAPES = [(dims, CENTERS[(i + j) % 6], rows, PADDINGS[(i + j) % 3]) for i, dims in enumerate(DIMS) for j, rows in enumerate(ROWS)]

ON_TENSOR_CORES = ("MMA", "STREAM", "WGMMA")  # the versions that take 16-bit centres

ALL_SHARED = 1 << 23  # the CPU gives a block what it asks for


@dataclass(frozen=True)
class Stored:
    """Numbers as a kernel reads them (``bits``) and as float32 (``values``), same shape."""

    dtype: str
    bits: Array
    values: Array


def store(values: Array, dtype: str) -> Stored:
    """Round ``values`` to ``dtype``."""
    rounded = torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(getattr(torch, dtype))
    bits = rounded if dtype == "float32" else rounded.view(torch.int16)
    return Stored(dtype, bits.numpy(), rounded.float().numpy())


def random_stored(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Stored:
    """Normal deviates."""
    return store(rng.standard_normal(shape, np.float32), dtype)


def guarded_rows(stored: Stored, padding: int, images: bool = False) -> tuple[Guarded, tuple[int, ...]]:
    """The rows with NaN between them, ending at a page that faults, and their strides in elements (row; or image, row)."""
    *leading, dims = stored.bits.shape
    stride = dims + padding
    nan = store(np.full(1, np.nan), stored.dtype).bits
    rows = int(np.prod(leading))
    padded = np.full((rows, stride), nan[0], stored.bits.dtype)
    padded[:, :dims] = stored.bits.reshape(rows, dims)
    flat = Guarded(padded.reshape(-1)[: max(0, rows * stride - padding)])
    return flat, (leading[1] * stride, stride) if images else (stride,)


def alignment_of(*arrays: Array) -> int:
    """The largest power of two, at most 16, that divides all addresses."""
    bits = 16
    for array in arrays:
        bits |= array.ctypes.data
    return bits & -bits


def run(plan: Launch, buffers: Mapping[str, Array | None], seed: int) -> None:
    """Launch a plan on the CPU."""
    kernel = HostRawKernel(source_code(plan.source), plan.kernel, plan.options)
    kernel(plan.grid, plan.block, plan.bind(buffers), shared_mem=plan.shared_bytes, seed=seed)


def half_norms_of(centers: Array) -> Array:
    """‖c‖²/2, rounded once."""
    return (np.square(centers.astype(np.float64)).sum(-1) / 2).astype(np.float32)


@dataclass(frozen=True)
class Assignment:
    """What nearest_center.cu wrote."""

    index: Array
    distance: Array
    invalid: int


def nearest_center(
    descriptors: Stored, centers: Stored, method: str, padding: int = 0, seed: int = 0, shared_limit: int = 227 * 1024
) -> Assignment:
    """Run nearest_center.cu. ``centers`` are stored in the type that ``method`` takes.

    As if the device had one multiprocessor: a grid that goes over the rows more than once does so in small cases too.
    """
    rows, dims = descriptors.bits.shape
    x, (stride,) = guarded_rows(descriptors, padding)
    c = Guarded(centers.bits)
    index = Guarded(np.full(rows, -7, np.int32))
    distance = Guarded(np.full(rows, -7, np.float32))
    invalid = Guarded(np.full(1, 1000, np.uint64))
    plan = plan_nearest_center(
        rows,
        dims,
        len(centers.bits),
        descriptors.dtype,
        centers.dtype,
        stride,
        alignment=alignment_of(x.array, c.array),
        multiprocessors=1,
        shared_limit=shared_limit,
        method=method,
    )
    buffers = {
        "descriptors": x.array,
        "centers": c.array,
        "half_norms": Guarded(half_norms_of(centers.values)).array,
        "index": index.array,
        "distance": distance.array,
        "invalid_count": invalid.array,
    }
    if rows:
        run(plan, buffers, seed)
    index.check()
    distance.check()
    return Assignment(index.array.copy(), distance.array.copy(), int(invalid.array[0]) - 1000)


def scores_of(descriptors: Array, centers: Array) -> Array:
    """‖c‖²/2 − x·c in float64."""
    c = centers.astype(np.float64)
    return np.square(c).sum(1) / 2 - descriptors.astype(np.float64) @ c.T


def score_errors(descriptors: Array, centers: Array, unit: float) -> Array:
    """A bound on the error of each score whose ``dims`` products are added in float32 with relative error ``unit`` a step."""
    x, c = np.abs(descriptors.astype(np.float64)), np.abs(centers.astype(np.float64))
    steps = (x.shape[1] + 2) * unit
    return steps / (1 - steps) * (x @ c.T + np.square(c).sum(1) / 2)


def check_assignment(result: Assignment, descriptors: Array, centers: Array, method: str) -> None:
    """Assert that indices are the argmin, but for gaps below the bound on the errors, and distances within their bound."""
    unit = 2.0**-23 if method in ON_TENSOR_CORES else 2.0**-24  # they may cut where the CUDA cores round
    scores, errors = scores_of(descriptors, centers), score_errors(descriptors, centers, unit)
    rows = np.arange(len(descriptors))
    assert ((result.index >= 0) & (result.index < len(centers))).all()
    best = scores.argmin(1)
    gap = scores[rows, result.index] - scores[rows, best]
    assert (gap <= errors[rows, result.index] + errors[rows, best]).all()
    squared_norms = np.square(descriptors.astype(np.float64)).sum(1)
    exact = squared_norms + 2 * scores[rows, result.index]
    bound = 2 * errors[rows, result.index] + (descriptors.shape[1] + 3) * unit * squared_norms
    assert (np.abs(result.distance - exact) <= bound).all()
    assert result.invalid == 0


def vlad(
    descriptors: Stored,
    labels: Array,
    centers: Array,
    steps: Step,
    padding: int = 0,
    seed: int = 0,
    shared_limit: int = ALL_SHARED,
    **choice: int | None,
) -> tuple[Array, Array]:
    """Run vlad.cu and return (out, skipped). ``choice`` overrides chunk and centers_per_block."""
    images, patches, dims = descriptors.bits.shape
    x, (image_stride, row_stride) = guarded_rows(descriptors, padding, images=True)
    out = Guarded(np.full((images, len(centers) * dims), np.nan, np.float32))
    skipped = Guarded(np.full(images, -7, np.int32))
    c = Guarded(centers)
    plans = plan_vlad(
        images,
        patches,
        dims,
        len(centers),
        descriptors.dtype,
        image_stride,
        row_stride,
        patches,
        steps,
        alignment=alignment_of(x.array, c.array, out.array),
        multiprocessors=1,
        shared_limit=shared_limit,
        **choice,
    )
    buffers = {
        "descriptors": x.array,
        "labels": Guarded(labels.astype(np.int32)).array,
        "centers": c.array,
        "out": out.array,
        "squares": Guarded(np.full((images, len(centers)), np.nan)).array if needs_squares(plans) else None,
        "skipped": skipped.array,
    }
    for plan in plans:
        run(plan, buffers, seed)
    out.check()
    return out.array.copy(), skipped.array.copy()


def assign_vlad(
    descriptors: Stored, centers: Stored, steps: Step, method: str, padding: int = 0, seed: int = 0, split: bool = False
) -> tuple[Array, Array]:
    """Run assign_vlad.cu and return (out, skipped); of centres (layers, m, n) too, and for ``split`` both parts as float32."""
    images, patches, columns = descriptors.bits.shape
    *layers, count, dims = centers.bits.shape
    x, (image_stride, row_stride) = guarded_rows(descriptors, padding, images=True)
    c = Guarded(centers.bits)
    size = (images, centers.bits.size)
    out = Guarded(np.full((2, *size), 0x7FC0, np.int16) if split else np.full(size, np.nan, np.float32))
    skipped = Guarded(np.full((images, columns // dims), -7, np.int32))
    plan = plan_assign_vlad(
        images,
        patches,
        dims,
        count,
        descriptors.dtype,
        centers.dtype,
        image_stride,
        row_stride,
        steps,
        layers=columns // dims,
        split=split,
        alignment=alignment_of(x.array, c.array, out.array),
        multiprocessors=1,
        shared_limit=ALL_SHARED,
        method=method,
    )
    assert plan is not None
    buffers = {
        "descriptors": x.array,
        "centers": c.array,
        "half_norms": Guarded(half_norms_of(centers.values)).array,
        "out": out.array,
        "skipped": skipped.array,
    }
    run(plan, buffers, seed)
    out.check()
    found = torch.from_numpy(out.array).view(torch.bfloat16).float().numpy() if split else out.array
    return found.copy(), skipped.array.copy() if layers else skipped.array[:, 0].copy()


def vlad_reference(descriptors: Array, labels: Array, centers: Array, steps: Step) -> Array:
    """VLAD with its normalisations in float64, an image and a centre at a time."""
    images = []
    for x, image_labels in zip(descriptors.astype(np.float64), labels, strict=True):
        blocks = []
        for j, center in enumerate(centers.astype(np.float64)):
            members = x[image_labels == j]
            block = members.sum(0) - len(members) * center
            if Step.MASS in steps and len(members):
                block = block / len(members)
            if Step.INTRA in steps:
                block = _unit(block)
            blocks.append(block)
        vector = np.concatenate(blocks)
        if Step.SIGNED_SQRT in steps:
            vector = np.sign(vector) * np.sqrt(np.abs(vector))
        images.append(_unit(vector) if Step.L2 in steps else vector)
    return np.stack(images)


def _unit(vector: Array) -> Array:
    norm = np.sqrt(np.square(vector).sum())
    return vector / norm if norm > 0 else vector


def vlad_torch(descriptors: Array, labels: Array, centers: Array, steps: Step) -> Array:
    """The same in float32 as plain torch writes it: the measure of the kernels' errors."""
    (images, _, dims), count = descriptors.shape, len(centers)
    out = torch.zeros(images, count, dims)
    for i in range(images):
        kept = torch.from_numpy((labels[i] >= 0) & (labels[i] < count))
        x, y = torch.from_numpy(descriptors[i])[kept], torch.from_numpy(labels[i].astype(np.int64))[kept]
        counts = torch.bincount(y, minlength=count)[:, None].float()
        out[i].index_add_(0, y, x)
        out[i] -= counts * torch.from_numpy(centers)
        if Step.MASS in steps:
            out[i] /= counts.clamp(min=1)
    if Step.INTRA in steps:
        out = torch.nn.functional.normalize(out, dim=2)
    if Step.SIGNED_SQRT in steps:
        out = out.sign() * out.abs().sqrt()
    out = out.flatten(1)
    return (torch.nn.functional.normalize(out, dim=1) if Step.L2 in steps else out).numpy()


def check_vlad(out: Array, descriptors: Array, labels: Array, centers: Array, steps: Step) -> None:
    """Assert that the errors stay within twice those of plain torch, plus a few units in the last place of the largest value."""
    exact = vlad_reference(descriptors, labels, centers, steps)
    allowed = 2 * np.abs(vlad_torch(descriptors, labels, centers, steps) - exact).max(initial=0)
    assert np.isfinite(out).all()
    assert np.abs(out - exact).max(initial=0) <= allowed + 4 * 2.0**-24 * np.abs(exact).max(initial=0)
