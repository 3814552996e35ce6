"""Wrong versions of the kernels, each one change away from the right one, and which of kernel_checks.py must notice.

``run_all`` is called in a process of its own and forks once a mutant, because a mutant may crash or abort.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import kernel_cases
import kernel_checks
import stream_mutants
import vector_mutants
from kernel_checks import (
    check_affine_map,
    check_assign_layers,
    check_assign_mma,
    check_assign_tiled,
    check_max_pool,
    check_mma,
    check_normalise_pixels,
    check_patch_order,
    check_plain,
    check_rank_candidates,
    check_screen,
    check_stream,
    check_stream_in_parts,
    check_tiled,
    check_unit_products,
    check_vlad_kernel,
    check_vlad_split,
    check_wgmma,
    check_wgmma_in_parts,
)

from gpuannot.kernels.plan import source_code

SECONDS = 60


@dataclass(frozen=True)
class Mutant:
    """``old`` becomes ``new`` in the source ``file``; ``check`` must fail then."""

    name: str
    file: str
    old: str
    new: str
    check: Callable[[], None]


_BARRIER = "__syncthreads();"


def _nearest_mutants() -> Iterator[Mutant]:
    file = "nearest_center.cu"
    yield Mutant("plain: rows unbounded", file, "const bool here = row < rows;", "const bool here = true;", check_plain)
    for version, check in (("plain", check_plain), ("tiled", check_tiled), ("mma", check_mma)):
        yield Mutant(f"{version}: highest index of a tie", file, "if (score < best.score)", "if (score <= best.score)", check)
        yield Mutant(f"{version}: not finite is not noticed", file, "if (!(fabsf(score) <= LARGEST)) score = -INFINITE;", "", check)
    for version, check in (("tiled", check_tiled), ("mma", check_mma)):
        yield Mutant(f"{version}: highest lane of a tie", file, "b.index < a.index", "b.index > a.index", check)
        yield Mutant(f"{version}: writes unbounded", file, "0 <= row && row < rows_here", "0 <= row", check)
        yield Mutant(f"{version}: counts lanes, not rows", file, "__popc(invalid)", "32", check)
    yield Mutant(
        "tiled: half norms unbounded", file, "center < center_count ? half_norms[center]", "true ? half_norms[center]", check_tiled
    )
    yield Mutant(
        "tiled: no barrier before the first step",
        file,
        f"next.store(tiles, 0);\n    {_BARRIER}",
        "next.store(tiles, 0);",
        check_tiled,
    )
    yield Mutant(
        "tiled: no barrier between steps",
        file,
        f"next.store(tiles, buffer);\n            {_BARRIER}",
        "next.store(tiles, buffer);",
        check_tiled,
    )
    yield Mutant("tiled: one buffer", file, "buffer ^= 1;", "", check_tiled)
    yield Mutant("tiled: rows unbounded", file, "load_if<Vector>(row < row_count && ", "load_if<Vector>(", check_tiled)
    yield Mutant("tiled: dimensions of rows unbounded", file, "row < row_count && k < dims", "row < row_count", check_tiled)
    yield Mutant("tiled: centres unbounded", file, "center < center_count && k < dims", "k < dims", check_tiled)
    yield Mutant(
        "tiled: dimensions of centres unbounded", file, "center < center_count && k < dims", "center < center_count", check_tiled
    )
    yield Mutant("tiled: second row tile starts at the first", file, "descriptors + row0 * row_stride", "descriptors", check_tiled)
    yield Mutant(
        "mma: half norms unbounded", file, "center < center_count ? half_norms[center]", "true ? half_norms[center]", check_mma
    )
    yield Mutant(
        "mma: no barrier before the first step", file, f"next.store(tiles, 0);\n    {_BARRIER}", "next.store(tiles, 0);", check_mma
    )
    yield Mutant(
        "mma: no barrier between steps",
        file,
        f"next.store(tiles, buffer);\n            {_BARRIER}",
        "next.store(tiles, buffer);",
        check_mma,
    )
    yield Mutant("mma: one buffer", file, "buffer ^= 1;", "", check_mma)
    yield Mutant("mma: rows unbounded", file, "load_fragment(row < row_count, ", "load_fragment(true, ", check_mma)
    yield Mutant("mma: dimensions unbounded", file, "load_if<Fragment>(inside && k < dims", "load_if<Fragment>(inside", check_mma)
    yield Mutant("mma: centres unbounded", file, "load_fragment(center < center_count, ", "load_fragment(true, ", check_mma)
    yield Mutant(
        "mma: rows of an operand swapped",
        file,
        "lower_rows.value[pair], upper.value[pair + 1]",
        "upper.value[pair + 1], lower_rows.value[pair]",
        check_mma,
    )


def _stream_mutants() -> Iterator[Mutant]:
    for name, (old, new) in stream_mutants.CHANGES.items():
        yield Mutant(f"stream: {name}", "nearest_center.cu", old, new, check_stream)
    for name, (old, new) in stream_mutants.SCREEN_CHANGES.items():
        yield Mutant(f"screen: {name}", "nearest_center.cu", old, new, check_screen)
    for name, (old, new) in stream_mutants.WGMMA_CHANGES.items():
        yield Mutant(f"wgmma: {name}", "nearest_center.cu", old, new, check_wgmma)
    for name, (old, new) in stream_mutants.CHANGES_IN_PARTS.items():
        yield Mutant(f"stream: {name}", "nearest_center.cu", old, new, check_stream_in_parts)
        yield Mutant(f"wgmma: {name}", "nearest_center.cu", old, new, check_wgmma_in_parts)


def _vlad_mutants() -> Iterator[Mutant]:
    file = "vlad.cu"
    check = check_vlad_kernel
    yield Mutant("vlad: no barrier after clearing", file, f"clear_bitmap(a);\n        {_BARRIER}", "clear_bitmap(a);", check)
    yield Mutant("vlad: no barrier after marking", file, f"        {_BARRIER}\n        sort_patches", "        sort_patches", check)
    yield Mutant(
        "vlad: no barrier after the scan",
        file,
        f"a.starts[a.count] = before;\n    }}\n    {_BARRIER}",
        "a.starts[a.count] = before;\n    }",
        check,
    )
    yield Mutant("vlad: no barrier after sorting", file, f"rank] = patch;\n    }}\n    {_BARRIER}", "rank] = patch;\n    }", check)
    yield Mutant(
        "vlad: no barrier before the norm",
        file,
        f"steps);\n    {_BARRIER}\n    const bool scaled",
        "steps);\n    const bool scaled",
        check,
    )
    yield Mutant("vlad: labels unbounded", file, "0 <= label && label < a.count", "true", check)
    yield Mutant("vlad: list unbounded", file, "if (i + u < end) x[u]", "if (true) x[u]", check)
    yield Mutant("vlad: sums unbounded", file, "if (i + u < end)\n", "if (true)\n", check)
    yield Mutant(
        "vlad: lane past the dimensions",
        file,
        "for (int k = lane * VECTOR; k < a.dims; k += group * VECTOR) {\n            float* const",
        "for (int k = lane * VECTOR; k < group * VECTOR; k += group * VECTOR) {\n            float* const",
        check,
    )
    yield Mutant("vlad: last chunk unbounded", file, "min(chunk, patches - start)", "chunk", check)
    yield Mutant("vlad: chunks do not add up", file, "if (!first_chunk) sum.load(value);", "", check)
    yield Mutant("vlad: counts of the last chunk only", file, "(first_chunk ? 0 : a.totals[center]) + count", "count", check)
    yield Mutant(
        "vlad: marks without atomics",
        file,
        "atomicOr(&a.bitmap[label * a.words + patch / 32], 1u << patch % 32)",
        "a.bitmap[label * a.words + patch / 32] = 1u << patch % 32",
        check,
    )
    yield Mutant(
        "vlad: last block's centres unbounded",
        file,
        "min(centers_per_block, center_count - first);\n    descriptors",
        "centers_per_block;\n    descriptors",
        check_vlad_split,
    )
    yield Mutant(
        "vlad_scale: last block's centres unbounded",
        file,
        "min(centers_per_block, center_count - first);\n    const double",
        "centers_per_block;\n    const double",
        check_vlad_split,
    )
    yield Mutant(
        "vlad_scale: norm of the block's centres",
        file,
        "squares + image * center_count, center_count)",
        "squares + image * center_count, count)",
        check_vlad_split,
    )
    yield Mutant(
        "vlad: patches in reverse order",
        file,
        "a.order[a.starts[label] + rank]",
        "a.order[a.starts[label + 1] - 1 - rank]",
        check_patch_order,
    )
    yield Mutant("vlad: rank includes later patches", file, "((1u << patch % 32) - 1)", "~(1u << patch % 32)", check_patch_order)


def _assign_mutants() -> Iterator[Mutant]:
    file = "assign_vlad.cu"
    for version, check in (("tiled", check_assign_tiled), ("mma", check_assign_mma)):
        name = f"assign_vlad {version}"
        yield Mutant(
            f"{name}: no barrier after marking", file, f"        {_BARRIER}\n        sort_patches", "        sort_patches", check
        )
        yield Mutant(
            f"{name}: no barrier before the norm",
            file,
            f"steps);\n    {_BARRIER}\n    const bool scaled",
            "steps);\n    const bool scaled",
            check,
        )
        yield Mutant(f"{name}: rows of the last tile unbounded", file, "0 <= row && row < rows_here", "0 <= row", check)
        yield Mutant(f"{name}: highest index of a tie", file, "if (score < best.score)", "if (score <= best.score)", check)
        yield Mutant(f"{name}: last chunk unbounded", file, "min(CHUNK, patches - start)", "CHUNK", check)


def _trunk_mutants() -> Iterator[Mutant]:
    file = "max_pool.cu"
    pool = {
        "NaN is passed over": (" || other != other", ""),
        "last of a tie": ("other > best", "other >= best"),
        "the smallest": ("other > best", "other < best"),
        "next column only": ("k / 2 * row_stride", "0"),
        "next row only": ("k % 2 * pixel_stride", "0"),
        "fourth pixel left out": ("for (int k = 1; k < 4; k++) best", "for (int k = 1; k < 3; k++) best"),
        "blocks in y do the same": ("blockIdx.y * blockDim.x + threadIdx.x", "threadIdx.x"),
        "count unbounded": ("i < count", "i < (count + 255) / 256 * 256"),
    }
    for name, (old, new) in pool.items():
        yield Mutant(f"max_pool: {name}", file, old, new, check_max_pool)
    file = "normalise_pixels.cu"
    pixels = {
        "cut, not rounded": ("(bits + 0x7fffu + (bits >> 16 & 1)) >> 16", "bits >> 16"),
        "half away from even": ("(bits >> 16 & 1)", "1"),
        "channels in reverse": ("images[c * channel_stride", "images[(2 - c) * channel_stride"),
        "second pixel is the first": ("* PIXELS + pixel)", "* PIXELS)"),
        "row 0 in every row": ("+ row * row_stride", ""),
        "count unbounded": ("i < groups", "i < groups + 1"),
        "padding left as it was": (
            "values[VALUES / STORE] = {};",
            "values[VALUES / STORE]; values[VALUES / STORE - 1].value[STORE - 1] = 1;",
        ),
    }
    for name, (old, new) in pixels.items():
        yield Mutant(f"normalise_pixels: {name}", file, old, new, check_normalise_pixels)


def _vector_mutants() -> Iterator[Mutant]:
    for name, (old, new) in vector_mutants.UNIT_CHANGES.items():
        yield Mutant(f"unit_products: {name}", "unit_products.cu", old, new, check_unit_products)
    for name, (old, new) in vector_mutants.LAYER_CHANGES.items():
        yield Mutant(f"assign_vlad: {name}", "assign_vlad.cu", old, new, check_assign_layers)
    for name, (old, new) in vector_mutants.AFFINE_CHANGES.items():
        yield Mutant(f"affine_map: {name}", "affine_map.cu", old, new, check_affine_map)
    for name, (old, new) in vector_mutants.RANK_CHANGES.items():
        yield Mutant(f"rank_candidates: {name}", "rank_candidates.cu", old, new, check_rank_candidates)


MUTANTS = {
    mutant.name: mutant
    for mutant in (
        *_nearest_mutants(),
        *_stream_mutants(),
        *_trunk_mutants(),
        *_vector_mutants(),
        *_vlad_mutants(),
        *_assign_mutants(),
    )
}
CHECKS = sorted({mutant.check.__name__ for mutant in MUTANTS.values()})


def _mutate(mutant: Mutant) -> None:
    """Make kernel_cases launch the mutant."""

    def mutated(name: str) -> str:
        code = source_code(name)
        if name == mutant.file:
            code = code.replace(mutant.old, mutant.new)
        return code

    kernel_cases.source_code = mutated


def _in_fork(action: Callable[[], None]) -> int:
    """Start ``action`` in a forked process, where a failed assertion is exit status 1, and return the process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        signal.alarm(SECONDS)
        action()
        status = 0
    except AssertionError:
        pass
    except BaseException:
        status = 2
    os._exit(status)


def run_all(parallel: int = 2) -> None:
    """Run every check on the right kernels and on its mutants, and print {name: exit status} as JSON.

    A status is 0 when the check passed, 1 when it failed, 2 for any other exception (a mutant that does not compile), and negative
    for the signal that ended the process.
    """
    waiting: list[tuple[str, Callable[[], None]]] = [(name, getattr(kernel_checks, name)) for name in CHECKS]
    for mutant in MUTANTS.values():

        def check(mutant: Mutant = mutant) -> None:
            _mutate(mutant)
            mutant.check()

        waiting.append((mutant.name, check))
    results: dict[str, int] = {}
    running: dict[int, str] = {}
    while waiting or running:
        while waiting and len(running) < parallel:
            name, action = waiting.pop(0)
            running[_in_fork(action)] = name
        child, status = os.wait()
        results[running.pop(child)] = os.waitstatus_to_exitcode(status)
    json.dump(results, sys.stdout)
