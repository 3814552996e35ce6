"""Workers with settings beyond the paper's: several layers, joint projection, every head, confidences; the bits of one process."""

from __future__ import annotations

import os
import pickle
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import files
from scipy import sparse
from workers import SMALL, beside, processes, wait_until

from gpuannot import Annotator
from gpuannot.heads.calibration import SampledImages
from gpuannot.heads.moments import Moments
from gpuannot.method.descriptors import LayerTransforms

distributed = pytest.importorskip("distributed")

BEST: dict[str, Any] = {
    **SMALL,
    "layer": "pool1+conv2_1",
    "n_components": 6,
    "signed_sqrt": True,
    "l2": True,
    "projection": 12,
    "projection_sample": 300,
    "quadratic": 5,
    "head": "ridge",
    "calibration": "odds",
    "balance": 1.0,
}
# All images teach everything; few do, in batches that do not divide a partition; every other head.
SETTINGS: dict[str, dict[str, Any]] = {
    "best": {},
    "few": {"statistics_images": 200, "batch_size": 7, "projection_sample": 90},
    "layers": {"projection": 0, "quadratic": 0, "head": "mean"},
    "uncalibrated": {"statistics_images": 500, "projection": 0, "quadratic": 0, "calibration": "none"},
    "chosen": {"regularisation": None, "balance": None, "calibration": None},
    "kernel": {"quadratic": 0, "head": "kernel", "regularisation": None, "balance": None, "calibration": None},
    "moments": {"layer": "colours+pool1+conv2_1", "quadratic": 0, "moments": 4, "head": "kernel"},
    "demixed": {"layer": "pool1", "head": "demixed"},
}


Learning = tuple[list[Any], list[list[str]]]


def fit(name: str, learning: Learning, **options: Any) -> Annotator:
    made = Annotator(device="cpu", **{**BEST, **SETTINGS[name]})
    with pytest.warns(UserWarning, match="3 of 624 images could not be read"):
        return made.fit(*learning, progress=False, **options)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_bits_of_one_process(name: str, learning: Learning, scheduler: str) -> None:
    alone, shared = fit(name, learning), fit(name, learning, scheduler=scheduler)
    assert shared.failures_ == alone.failures_
    one, two = alone.to_model_file(), shared.to_model_file()
    assert two.tensors.keys() == one.tensors.keys()
    assert [key for key in one.tensors if not np.array_equal(one.tensors[key], two.tensors[key])] == []
    assert two.metadata == one.metadata and two.sha256 == one.sha256


@pytest.mark.parametrize("step", ["vectors_at", "word_sums"])
def test_a_worker_killed_in_a_fit(learning: Learning, local: Any, scheduler: str, step: str) -> None:
    """With what it had of what was learnt so far: another gives that to those that are left."""
    alone, numbers = fit("few", learning), processes(local)
    killed: list[str] = []

    def kill() -> None:
        with distributed.Client(local, set_as_default=False) as client:

            def holders() -> list[str]:
                if not any(str(key).startswith(f"{step}-") for keys in client.processing().values() for key in keys):
                    return []
                return [who for key, found in client.who_has().items() if str(key).startswith("as_given-") for who in found]

            wait_until(lambda: killed.extend(holders()[:1]) or killed)
            os.kill(numbers[killed[0]], signal.SIGKILL)

    with beside(kill):
        shared = fit("few", learning, scheduler=scheduler)
    assert killed and shared.to_model_file().sha256 == alone.to_model_file().sha256


def test_one_worker_and_batches(learning: Learning, drawn_scenes: Path, scheduler: str, tmp_path: Path) -> None:
    """One worker of its own learns the same bits; rows, confidences and what a threshold leaves are the same bytes."""
    alone = fit("best", learning)
    assert fit("best", learning, workers=1).to_model_file().sha256 == alone.to_model_file().sha256
    assert alone.words.has_confidence
    given = alone.annotate(drawn_scenes / "images", 3, progress=False)
    threshold = float(np.median(given.confidence))
    for name, options in (("all", {}), ("likely", {"threshold": threshold, "format": "csv", "vectors": True})):
        options = {**options, "part_size": 7, "progress": False}
        alone.batch(drawn_scenes / "images", tmp_path / f"{name}-one", 3, **options)
        summary = alone.batch(drawn_scenes / "images", tmp_path / f"{name}-two", 3, scheduler=scheduler, **options)
        assert (summary.rows, summary.parts, summary.workers) == (24, 4, 2)
        assert files(tmp_path / f"{name}-one") == files(tmp_path / f"{name}-two")
    rows = (tmp_path / "likely-one" / "part-00000.csv").read_text().splitlines()
    assert len(rows) == 8 and alone.batch(drawn_scenes / "images", tmp_path / "csv", 3, format="csv", progress=False).rows == 24
    assert rows[1:] != (tmp_path / "csv" / "part-00000.csv").read_text().splitlines()[1:8]


@pytest.mark.parametrize("sizes", [(3, 0, 5), (300, 300, 1), (256, 256, 256)])
def test_moments_that_travel(rng: np.random.Generator, sizes: tuple[int, ...]) -> None:
    """Sums of parts, pickled or not, add up to the same bits, and to Σxxᵀ of all."""
    parts = [rng.standard_normal((size, 5)).astype(np.float32) for size in sizes]
    stay, travel = Moments(5), Moments(5)
    for part in parts:
        stay.merge(Moments(5).add(part))
        travel = pickle.loads(pickle.dumps(travel)).merge(pickle.loads(pickle.dumps(Moments(5).add(part))))
    assert travel.images == stay.images == sum(sizes)
    assert torch.equal(travel.centred_scatter(), stay.centred_scatter()) and torch.equal(travel.mean, stay.mean)
    rows = np.concatenate(parts).astype(np.float64)
    centred = rows - rows.mean(axis=0)
    np.testing.assert_allclose(stay.centred_scatter(), centred.T @ centred, atol=1e-9)


def test_samples_that_travel(rng: np.random.Generator) -> None:
    vectors, labels = rng.standard_normal((9, 4)).astype(np.float32), sparse.csr_array(np.eye(9, 3, dtype=np.int64))
    whole, parts = SampledImages(3), SampledImages(3)
    whole.add(np.arange(9), vectors, labels)
    for start, stop in ((0, 4), (4, 9)):
        part = SampledImages(3)
        part.add(np.arange(start, stop), vectors[start:stop], labels[start:stop])
        parts.merge(pickle.loads(pickle.dumps(part)))
    cpu = torch.device("cpu")
    assert len(parts) == 9 and torch.equal(parts.vectors(cpu), whole.vectors(cpu))
    assert torch.equal(parts.labels(cpu), whole.labels(cpu))


def test_layers_without_their_sums(rng: np.random.Generator) -> None:
    features = rng.standard_normal((40, 9)).astype(np.float32)
    whole = LayerTransforms(2, (5, 4)).accumulate(features).finish()
    alone = pickle.loads(pickle.dumps(whole.without_sums()))
    assert np.array_equal(alone.transform(features), whole.transform(features))
    assert len(pickle.dumps(alone)) < len(pickle.dumps(whole))
