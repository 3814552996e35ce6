"""The bootstrap over images, against one drawn and scored image by image."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from gpuannot.experiments.bootstrap import resample
from gpuannot.metrics import evaluate


def annotations(images: int, words: int, k: int, seed: int) -> tuple[np.ndarray, sparse.csr_array]:
    rng = np.random.default_rng(seed)
    truth = (rng.random((images, words)) < 0.3).astype(np.float32)
    scores = truth + rng.normal(scale=1.0, size=truth.shape)
    return np.argsort(-scores, axis=1)[:, :k], sparse.csr_array(truth)


def test_samples_are_those_of_the_protocol() -> None:
    index, truth = annotations(40, 9, 3, 0)
    index[3, 1:] = -1  # an image that was given one word
    words = np.array([0, 2, 3, 8])
    found = resample(index, truth, samples=7, seed=5)
    some = resample(index, truth, words=words, samples=7, seed=5)
    weights = np.random.default_rng(5).multinomial(40, np.full(40, 1 / 40), size=7)
    for sample, times in enumerate(weights):
        rows = np.repeat(np.arange(40), times)
        expected = evaluate(index[rows], sparse.csr_array(truth[rows]))
        for name in ("precision", "recall", "f1", "n_plus", "image_f1"):
            assert vars(found)[name][sample] == pytest.approx(getattr(expected, name), abs=1e-12), name
        assert some.f1[sample] == pytest.approx(evaluate(index[rows], sparse.csr_array(truth[rows]), words=words).f1, abs=1e-12)


def test_the_standard_error_is_that_of_new_images() -> None:
    """Of micro quantities such as an image's F1 the bootstrap's error is σ/√T; a pair of systems differs by less than each errs."""
    index, truth = annotations(400, 30, 4, 1)
    found = resample(index, truth, seed=2)
    alone = [evaluate(index[[row]], sparse.csr_array(truth[[row]])).image_f1 for row in range(400)]
    assert found.standard_errors()["image_f1"] == pytest.approx(np.std(alone) / 20, rel=0.1)
    other = index.copy()
    other[:40] = np.roll(other[:40], 1, axis=0)
    difference = found.minus(resample(other, truth, seed=2))
    assert 0 < difference.standard_errors()["f1"] < found.standard_errors()["f1"]
    assert set(vars(found.minus(found))["f1"].tolist()) == {0.0}


def test_one_image_has_no_spread() -> None:
    index, truth = annotations(1, 5, 2, 3)
    assert resample(index, truth, samples=10).standard_errors()["f1"] == 0
