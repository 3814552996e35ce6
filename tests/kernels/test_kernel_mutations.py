"""Every mutant of the kernels must be noticed: a barrier taken out, a bound dropped, a tie turned around."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cuda_on_cpu import compiler, run_isolated
from kernel_mutants import CHECKS, MUTANTS

from gpuannot.kernels.plan import source_code

pytestmark = pytest.mark.skipif(compiler() is None or not hasattr(os, "fork"), reason="needs a C++ compiler and fork")


@pytest.fixture(scope="module")
def statuses() -> dict[str, int]:
    status, output = run_isolated("kernel_mutants:run_all", os.cpu_count() or 1, timeout=600)
    assert status == 0, output
    return json.loads(output)


@pytest.mark.parametrize("check", CHECKS)
def test_the_right_kernels_pass(check: str, statuses: dict[str, int]) -> None:
    assert statuses[check] == 0


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_noticed(name: str, statuses: dict[str, int]) -> None:
    mutant = MUTANTS[name]
    assert mutant.old in source_code(mutant.file), "the mutant's line is no longer in the kernel"
    assert statuses[name] == 1 or statuses[name] < 0, f"survived with status {statuses[name]}"


def test_every_barrier_has_a_mutant() -> None:
    """Counts the barriers of all files: adding one calls for a mutant that takes it out."""
    folder = Path(__file__).parents[2] / "kernels"
    barriers = {path.name: path.read_text().count("__syncthreads();") for path in folder.glob("*.cu*")}
    assert {name: count for name, count in barriers.items() if count} == {
        "tiled.cuh": 2,
        "mma.cuh": 2,
        "nearest_center.cu": 6,
        "aggregate.cuh": 2,
        "vlad.cu": 3,
        "assign_vlad.cu": 3,
        "rank_candidates.cu": 1,
        "affine_map.cu": 1,
        "unit_products.cu": 2,
    }
