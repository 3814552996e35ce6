"""The CUDA side on a pretended device: the CPU's words, no rule of a GPU broken, and what it moves counted.

Each test has a process of its own, as the device stands in the place of names of torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cuda_on_cpu import compiler, run_isolated

TESTS = Path(__file__).parent
SETTINGS = ("paper", "best", "kernel")
# Of the tests that need a GPU those that take seconds on the pretended one, and some of the others' cases.
GPU_TESTS = ("method/test_gpu_stages.py", "method/test_trunks_gpu.py", "heads/test_projection.py", "heads/test_kernel_gpu.py")
SLOW = "float16 or pool4 or kmeans or scikit or 3000"

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler")


def in_a_process(function: str, *arguments: object) -> str:
    status, written = run_isolated(function, *arguments, timeout=240)
    assert status == 0, written[-4000:]
    return written


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_public_path_gives_the_words_of_the_cpu(setting: str) -> None:
    in_a_process("pretend_cuda.walk:run", setting)


def test_the_walk_stops_at_each_mutation() -> None:
    from pretend_cuda.mutations import MUTATIONS

    found = json.loads(in_a_process("pretend_cuda.walk:run_mutations").splitlines()[-1])
    assert found == {name: mutation.error for name, mutation in MUTATIONS.items()}


@pytest.mark.parametrize("setting", SETTINGS)
def test_no_choice_of_the_caller_reaches_products_and_convolutions(setting: str) -> None:
    in_a_process("pretend_cuda.rules:precision", setting)


def test_no_choice_of_the_caller_reaches_a_network_of_torchs_modules() -> None:
    in_a_process("pretend_cuda.rules:networks")


def test_a_model_on_another_device_than_the_current_one() -> None:
    in_a_process("pretend_cuda.rules:second_device")


def test_a_product_of_bfloat16_fills_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor that multiplies it in float32."""
    from pretend_cuda import dispatch

    monkeypatch.setattr(dispatch, "cpu_has_fast_bfloat16", lambda: False)
    left, right = torch.eye(3, dtype=torch.bfloat16), torch.arange(6.0).view(3, 2).bfloat16()
    for out in (torch.empty((3, 2), dtype=torch.bfloat16), torch.empty(0, dtype=torch.bfloat16)):
        found = dispatch._execute(torch.ops.aten.mm.out, "mm", (left, right), {"out": out})
        assert found is out and torch.equal(out, right)
    assert torch.equal(dispatch._execute(torch.ops.aten.mm.default, "mm", (left, right), {}), right)


def test_cupy_13() -> None:
    in_a_process("pretend_cuda.rules:old_cupy")


def test_every_version_of_the_nearest_centre() -> None:
    in_a_process("pretend_cuda.rules:versions_of_the_nearest_centre")


def test_launches_and_bytes_after_the_trunk_are_the_tables() -> None:
    in_a_process("after_trunk:check")


def test_the_gpu_tests_run_on_it() -> None:
    command = [sys.executable, "-m", "pytest", "-p", "pretend_cuda.plugin", "-q", "-m", "gpu", "-k", f"not ({SLOW})"]
    path = os.pathsep.join((str(TESTS), os.environ.get("PYTHONPATH", "")))
    files = [str(TESTS / name) for name in GPU_TESTS]
    ran = subprocess.run(
        [*command, *files], cwd=TESTS.parent, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    assert int(ran.stdout.rsplit(" passed", 1)[0].split()[-1]) >= 30, ran.stdout[-500:]
