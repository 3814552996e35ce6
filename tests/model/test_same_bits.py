"""One model, bit for bit, whatever number of cores and threads a fit is given: each number in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import hashlib, os, sys, warnings
if sys.argv[1] == "one":
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
import numpy as np
from gpuannot import Annotator

warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
images = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(4, axis=0).repeat(4, axis=1) for _ in range(110)]
labels = [[f"word {word}" for word in np.flatnonzero(rng.random(12) < 0.3)] or ["word 0"] for _ in images]
small = {"device": "cpu", "input_size": 32, "codebook_sample": 30_000}
for changes in (
    {"layer": "conv1_2", "n_components": 8, "n_centers": 4},
    {"layer": "pool4+conv5_1", "n_components": 12, "n_centers": 4, "head": "demixed", "metric": "cosine", "trunk_dtype": "float32"},
    {"layer": "pool2+conv3_1", "n_components": 16, "n_centers": 16, "signed_sqrt": True, "l2": True, "projection": 22,
     "quadratic": 20, "head": "ridge", "objective": "words"},
    {"layer": "colours+conv3_1", "n_components": 16, "n_centers": 8, "moments": 9, "l2": True, "projection": 22, "head": "kernel"},
    {"layer": "pool3", "n_components": 16, "n_centers": 16, "signed_sqrt": True, "l2": True, "head": "kernel"},
):
    made = Annotator(**small, **changes).fit(images[:90], labels[:90], progress=False)
    print(made.to_model_file().sha256)
    made.partial_fit(images[90:100], labels[90:100], progress=False).forget(images[:7], labels[:7], progress=False)
    made.add_word("new", images[100:], progress=False).remove_words("word 3")
    print(made.to_model_file().sha256, hashlib.sha256(made.annotate(images, k=3).distance.tobytes()).hexdigest())
"""
ENVIRONMENTS: tuple[dict[str, str], ...] = ({}, {"OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})


def hashes(cores: str, environment: dict[str, str]) -> list[str]:
    names = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"}
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, "-c", SCRIPT, cores]
    done = subprocess.run(command, env={**inherited, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot hold a process to one core")
def test_a_fit_has_the_same_bits_on_any_number_of_cores_and_threads() -> None:
    expected = hashes("one", {})
    assert len(set(expected)) == len(expected) == 15
    for environment in ENVIRONMENTS:
        assert hashes("all", environment) == expected, environment
