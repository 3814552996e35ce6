"""Second moments: however images come, go and are merged, they are those of one pass; a plain loop says which."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import sparse

from gpuannot import AnnotatorConfig
from gpuannot.heads import moments as module
from gpuannot.heads.moments import MAX_DIMENSION, Moments
from gpuannot.heads.projection import JointProjection
from gpuannot.heads.word_head import WordHead, new_bank
from gpuannot.method.ranking import LinearRanking


def data(count: int = 40, dimension: int = 7, seed: int = 0) -> NDArray:
    return (2 + np.random.default_rng(seed).standard_normal((count, dimension))).astype(np.float32)


def plain_scatter(vectors: NDArray) -> NDArray:
    """Σ(x − μ)(x − μ)ᵀ, image by image."""
    rows = vectors.astype(np.float64)
    mean = sum(rows) / len(rows)
    return sum(np.outer(row - mean, row - mean) for row in rows)


def assert_moments_of(found: Moments, vectors: NDArray) -> None:
    rows = vectors.astype(np.float64)
    assert found.images == len(rows)
    np.testing.assert_allclose(found.total.numpy(), rows.sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.mean.numpy(), rows.mean(axis=0), rtol=1e-12)
    scatter = found.centred_scatter().numpy()
    assert np.array_equal(scatter, scatter.T)
    np.testing.assert_allclose(scatter, plain_scatter(vectors), rtol=1e-9, atol=1e-9)
    assert float(found.total_variance()) == pytest.approx(np.trace(plain_scatter(vectors)), rel=1e-10)


@pytest.fixture(params=[(512, 1024), (1, 1), (3, 2), (7, 3)], ids=str)
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAITING_ROWS", request.param[0])
    monkeypatch.setattr(module, "_COLUMNS", request.param[1])


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(("count", "dimension"), [(1, 1), (2, 5), (40, 7), (9, 13)])
def test_any_batches_and_order(count: int, dimension: int) -> None:
    vectors = data(count, dimension)
    order = np.random.default_rng(1).permutation(count)
    found = Moments(dimension)
    for part in np.split(order, np.sort(np.random.default_rng(2).integers(0, count + 1, 5))):
        assert found.add(vectors[part] if len(part) % 2 else torch.from_numpy(vectors[part])) is found
    assert_moments_of(found, vectors)


@pytest.mark.usefixtures("blocks")
def test_forgetting_and_merging() -> None:
    vectors, more = data(), data(11, seed=3)
    found = Moments(7).add(vectors).add(more).add(vectors[5:9], -1)
    assert_moments_of(found, np.concatenate([vectors[:5], vectors[9:], more]))
    other = Moments(7).add(vectors[5:9])
    assert_moments_of(found.merge(other), np.concatenate([vectors, more]))
    assert_moments_of(other, vectors[5:9])
    copy = found.copy()
    found.add(vectors, -1)
    assert_moments_of(found, more)
    assert_moments_of(copy, np.concatenate([vectors, more]))


def test_all_forgotten_leaves_nothing_of_rounding() -> None:
    vectors = data()
    found = Moments(7).add(vectors)
    for row in vectors[::-1]:
        found.add(row[None], -1)
    assert not found.images and not found.total.any() and not found.centred_scatter().any()
    with pytest.raises(ValueError, match="cannot forget 1 images: the sums hold 0"):
        found.add(vectors[:1], -1)
    assert not found.images


def test_nothing_at_all() -> None:
    found = Moments(3).add(np.empty((0, 3), np.float32))
    assert found.images == 0 and found.mean.tolist() == [0, 0, 0] and float(found.total_variance()) == 0
    assert found.packed().tolist() == [0] * 6


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dimension", [1, 2, 7])
def test_packed_and_back(dimension: int) -> None:
    vectors = data(dimension=dimension)
    found = Moments(dimension).add(vectors)
    packed = found.packed()
    outer = vectors.T.astype(np.float64) @ vectors
    assert packed.dtype == np.float32
    np.testing.assert_allclose(packed, outer[np.tril_indices(dimension)], rtol=2**-24)
    again = Moments(dimension).unpack(packed)
    again.images, again.total = found.images, found.total.clone()
    np.testing.assert_allclose(again.centred_scatter(), plain_scatter(vectors), atol=2**-24 * outer.max())
    assert again.packed().tobytes() == packed.tobytes()
    exact = outer[np.tril_indices(dimension)]  # as earlier versions wrote it
    again.unpack(exact)
    assert_moments_of(again, vectors)
    assert again.packed().tobytes() == exact.tobytes()


def test_what_the_rounding_of_a_file_changes() -> None:
    """Images that come and go after the sums have been in a file give the scores that they give without, to the last digits."""
    rng = np.random.default_rng(0)
    labels = sparse.csr_array((rng.random((400, 12)) < 0.1).astype(np.float32))
    unit = rng.standard_normal((400, 48)) * np.linspace(3, 0.3, 48) + labels @ rng.standard_normal((12, 48))
    projection = JointProjection(48, 16)
    projection.matrix_ = np.eye(48, dtype=np.float32)
    vectors = projection.expand(torch.from_numpy(unit / np.linalg.norm(unit, axis=1, keepdims=True)).float()).numpy()
    config = AnnotatorConfig.preset("best", projection=48, quadratic=16)
    bank, head = new_bank(config, tuple("abcdefghijkl"), vectors.shape[1], "cpu"), WordHead(config)
    bank.partial_fit(vectors[:300], labels[:300], np.arange(300)).flush()
    head.settle(bank)
    head.release()
    read = deepcopy(bank)
    moments = read.extra(Moments)
    assert moments is not None
    moments.unpack(moments.packed())
    scores = []
    for each in (bank, read):
        each.partial_fit(vectors[300:], labels[300:])
        each.forget(vectors[50:150], labels[50:150])
        ranking = deepcopy(head).ranking(each)
        assert isinstance(ranking, LinearRanking)
        scores.append(vectors @ ranking.weights.T + ranking.bias)
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)


def test_input_is_left_as_it_was_and_not_kept() -> None:
    vectors = data()
    found = Moments(7).add(vectors)
    expected = data()
    vectors[:] = 0
    assert_moments_of(found, expected)


def test_without_scatter() -> None:
    vectors = data()
    found = Moments(7, scatter=False).add(vectors)
    np.testing.assert_allclose(found.mean.numpy(), vectors.mean(axis=0, dtype=np.float64), rtol=1e-12)
    for mine, other in ((found, Moments(7)), (Moments(7), found), (found, Moments(6, scatter=False))):
        with pytest.raises(ValueError, match="cannot be added"):
            mine.merge(other)
    assert Moments(MAX_DIMENSION + 1, scatter=False).dimension == MAX_DIMENSION + 1


def test_too_long() -> None:
    with pytest.raises(ValueError, match=r"vectors of 16385 values.*at most 16384.*n_centers, or choose head=\"mean\""):
        Moments(MAX_DIMENSION + 1)
