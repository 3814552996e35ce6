"""Wrong versions of the kernels, each one change away from the right one, and the checks that must notice.

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
import numpy as np
from kernel_cases import Stored, assign_vlad, nearest_center, store, vlad, vlad_reference

from gpuannot.kernels.plan import Step, source_code

SEEDS = (0, 1, 2, 3)
SECONDS = 60


@dataclass(frozen=True)
class Mutant:
    """``old`` becomes ``new`` in the source ``file``; ``check`` must fail then."""

    name: str
    file: str
    old: str
    new: str
    check: Callable[[], None]


def _whole_numbers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-4, 5, shape).astype(np.float32)


def _check_nearest(method: str, dtype: str) -> None:
    """Rows and centres that fill no last tile, three steps of depth, each centre twice: exact for whole numbers."""
    rng = np.random.default_rng(1)
    x = store(_whole_numbers(rng, 263, 136), dtype)
    distinct = _whole_numbers(rng, 65, 136)
    c = store(np.concatenate([distinct, distinct[::-1]]), dtype if method == "MMA" else "float32")
    distances = np.square(x.values[:, None].astype(np.float64) - c.values[None]).sum(2)
    values = x.values.copy()
    values[7, 130] = np.inf
    distances[7] = np.nan
    for seed in SEEDS:
        result = nearest_center(store(values, dtype), c, method, padding=8, seed=seed)
        expected = np.where(np.isnan(distances[:, 0]), -1, distances.argmin(1))
        assert np.array_equal(result.index, expected)
        assert np.array_equal(result.distance, distances.min(1), equal_nan=True)
        assert result.invalid == 1
    overflowing, mixed = np.zeros((2, 8)), np.zeros((66, 8))
    overflowing[:, :2], mixed[1::2, :2] = 3e38, (-4, 4)  # scores of 0 and +inf, though x.c is 0
    result = nearest_center(store(overflowing, dtype), store(mixed, c.dtype), method)
    assert (result.index == -1).all() and result.invalid == 2


def check_plain() -> None:
    _check_nearest("PLAIN", "float32")


def check_tiled() -> None:
    _check_nearest("TILED", "float32")


def check_mma() -> None:
    _check_nearest("MMA", "bfloat16")


def _vlad_case() -> tuple[Stored, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    labels = rng.integers(-1, 41, (2, 100))
    labels[0, :50] = 3  # more than one round of loads
    return store(_whole_numbers(rng, 2, 100, 20), "float32"), labels, _whole_numbers(rng, 40, 20)


def check_vlad_kernel() -> None:
    """Several chunks; sums of whole numbers exactly; normalised within rounding; the same bits for every order of threads."""
    x, labels, c = _vlad_case()
    exact = vlad_reference(x.values, labels, c, Step(0))
    for seed in SEEDS:
        out, skipped = vlad(x, labels, c, Step(0), padding=4, seed=seed, chunk=64)
        assert np.array_equal(out, exact)
        assert np.array_equal(skipped, ((labels < 0) | (labels >= 40)).sum(1))
    chain = Step.MASS | Step.INTRA | Step.SIGNED_SQRT | Step.L2
    values = store(np.random.default_rng(3).standard_normal(x.values.shape), "float32")
    first, _ = vlad(values, labels, c, chain, chunk=64)
    assert np.abs(first - vlad_reference(values.values, labels, c, chain)).max() < 1e-6
    for seed in SEEDS[1:]:
        assert np.array_equal(vlad(values, labels, c, chain, seed=seed, chunk=64)[0], first)


def check_vlad_split() -> None:
    """Blocks that share an image, the last with fewer centres than the others."""
    x, labels, c = _vlad_case()
    for seed in SEEDS:
        out, _ = vlad(x, labels, c, Step.L2, seed=seed, centers_per_block=17)
        assert np.abs(out - vlad_reference(x.values, labels, c, Step.L2)).max() < 1e-6


def check_patch_order() -> None:
    """Values of many magnitudes: their float32 sum shows the order in which they were added."""
    rng = np.random.default_rng(4)
    x = store(rng.standard_normal((1, 90, 4)) * 10.0 ** rng.integers(-4, 5, (1, 90, 4)), "float32")
    labels = rng.integers(0, 2, (1, 90))
    in_order = np.zeros((2, 4), np.float32)
    for patch, label in enumerate(labels[0]):
        in_order[label] += x.values[0, patch]
    for seed in SEEDS:
        out, _ = vlad(x, labels, np.zeros((2, 4), np.float32), Step(0), seed=seed)
        assert np.array_equal(out.reshape(2, 4), in_order)


def _check_assign(method: str, dtype: str) -> None:
    rng = np.random.default_rng(5)
    x = store(_whole_numbers(rng, 2, 300, 72), dtype)
    values = x.values.copy()
    values[1, 290, 70] = np.nan
    c = store(np.repeat(_whole_numbers(rng, 36, 72), 2, axis=0), dtype if method == "MMA" else "float32")
    labels = np.square(values[:, :, None].astype(np.float64) - c.values).sum(3).argmin(2)
    labels[1, 290] = -1
    finite = np.nan_to_num(values)
    for seed in SEEDS:
        out, skipped = assign_vlad(store(values, dtype), c, Step(0), method, padding=8, seed=seed)
        assert np.array_equal(out, vlad_reference(finite, labels, c.values, Step(0)))
        assert np.array_equal(skipped, [0, 1])
    out, _ = assign_vlad(store(values, dtype), c, Step.L2, method, padding=8, seed=1)
    assert np.abs(out - vlad_reference(finite, labels, c.values, Step.L2)).max() < 1e-6


def check_assign_tiled() -> None:
    _check_assign("TILED", "float32")


def check_assign_mma() -> None:
    _check_assign("MMA", "bfloat16")


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


MUTANTS = {mutant.name: mutant for mutant in (*_nearest_mutants(), *_vlad_mutants(), *_assign_mutants())}
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
    waiting: list[tuple[str, Callable[[], None]]] = [(name, globals()[name]) for name in CHECKS]
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
