"""The codebook: the K-means sample is uniform and fixed by its numbers, and the centres are a good and repeatable optimum."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gpuannot.errors import NotFittedError
from gpuannot.method.codebook import Codebook, LayerCodebooks, _assign, _check_sample, _update, kmeans_torch, sample_positions
from gpuannot.reference import codebook as reference

Kmeans = Callable[..., tuple[NDArray, float]]


def kmeans_of_torch(descriptors: NDArray, n_centers: int, **options: int) -> tuple[NDArray, float]:
    centers, inertia = kmeans_torch(torch.from_numpy(descriptors), n_centers, **options)
    return centers.numpy(), inertia


both = pytest.mark.parametrize("kmeans", [reference.kmeans, kmeans_of_torch], ids=["numpy", "torch"])


def blobs(per_blob: int = 60, n: int = 3, *, spread: float = 0.3) -> NDArray:
    """Eight blobs at the corners of a cube, in random order."""
    rng = np.random.default_rng(5)
    corners = np.array(np.meshgrid(*[[-4, 4]] * 3)).reshape(3, 8).T[:, :n]
    values = np.repeat(corners, per_blob, axis=0) + spread * rng.standard_normal((8 * per_blob, n))
    return rng.permutation(values).astype(np.float32)


def lloyd(descriptors: NDArray, centers: NDArray, iterations: int) -> tuple[NDArray, float]:
    """Lloyd's algorithm, plainly, in float64."""
    points, centers = descriptors.astype(np.float64), centers.astype(np.float64).copy()
    for _ in range(iterations):
        nearest = [min(range(len(centers)), key=lambda j: float(((x - centers[j]) ** 2).sum())) for x in points]
        for j in range(len(centers)):
            members = [x for x, own in zip(points, nearest, strict=True) if own == j]
            if members:
                centers[j] = sum(members) / len(members)
    return centers, inertia_of(points, centers)


def inertia_of(descriptors: NDArray, centers: NDArray) -> float:
    points, centers = descriptors.astype(np.float64), centers.astype(np.float64)
    return float(sum(min(((x - c) ** 2).sum() for c in centers) for x in points))


# ---- the sample


@pytest.mark.parametrize(("total", "size"), [(1, 1), (2, 1), (10, 9), (1000, 1), (1000, 37), (1000, 999), (100_003, 20_000)])
def test_sample_is_ascending_without_repeats(total: int, size: int) -> None:
    positions = sample_positions(total, size, seed=3)
    assert positions.dtype == np.int64 and positions.shape == (size,)
    assert all(a < b for a, b in pairwise(positions.tolist())) and positions[0] >= 0 and positions[-1] < total
    assert np.array_equal(positions, sample_positions(total, size, seed=3))


@pytest.mark.parametrize(("total", "size"), [(0, 0), (0, 5), (1, 1), (7, 7), (7, 8), (7, 10**12)])
def test_a_sample_as_large_as_the_whole_is_the_whole(total: int, size: int) -> None:
    positions = sample_positions(total, size, seed=3)
    assert positions.dtype == np.int64 and positions.tolist() == list(range(total))


def test_sample_is_uniform() -> None:
    draws, total, size = 2000, 30, 9
    counts, pairs = np.zeros(total), np.zeros((total, total))
    for seed in range(draws):
        chosen = sample_positions(total, size, seed)
        counts[chosen] += 1
        pairs[np.ix_(chosen, chosen)] += 1
    chance = size / total
    assert np.abs(counts - draws * chance).max() < 5 * np.sqrt(draws * chance * (1 - chance))
    together = size * (size - 1) / (total * (total - 1))  # of two given ones
    apart = pairs[~np.eye(total, dtype=bool)]
    assert np.abs(apart - draws * together).max() < 6 * np.sqrt(draws * together * (1 - together))


def test_sample_depends_on_its_three_numbers_alone() -> None:
    np.random.seed(1)
    first = sample_positions(1000, 50, 0)
    np.random.seed(2)
    np.random.default_rng(0).random(10)
    assert np.array_equal(sample_positions(1000, 50, 0), first)
    assert not np.array_equal(sample_positions(1000, 50, 1), first)
    assert not np.array_equal(sample_positions(1001, 50, 0), first)


def test_sample_of_more_descriptors_than_32_bits_can_number() -> None:
    positions = sample_positions(10**12, 1000, 0)  # 5 million images' worth, and no memory for it
    assert len(set(positions.tolist())) == 1000 and positions.max() > 2**39 and positions.min() < 10**10


def test_sample_gathered_from_pieces() -> None:
    descriptors = np.random.default_rng(0).standard_normal((997, 4))
    positions = sample_positions(997, 200, 6)
    for pieces in ([997], [1] * 997, [196] * 5 + [17], [0, 990, 0, 7]):
        gathered, start = [], 0
        for length in pieces:
            piece = descriptors[start : start + length]
            own = positions[(positions >= start) & (positions < start + length)] - start
            gathered.append(piece[own])
            start += length
        assert start == 997 and np.array_equal(np.concatenate(gathered), descriptors[positions])


# ---- the centres


@both
def test_separate_blobs_are_found_exactly(kmeans: Kmeans) -> None:
    descriptors = blobs()
    centers, inertia = kmeans(descriptors, 8, seed=0)
    assert centers.dtype == np.float32 and centers.shape == (8, 3) and isinstance(inertia, float)
    starts = np.sign(centers) * 4
    assert len(np.unique(starts, axis=0)) == 8
    expected, least = lloyd(descriptors, starts, 2)
    assert np.allclose(centers, expected, rtol=0, atol=1e-5)
    assert inertia == pytest.approx(least, rel=1e-5) == pytest.approx(inertia_of(descriptors, centers), rel=1e-5)


@both
def test_no_worse_than_plain_lloyd(kmeans: Kmeans) -> None:
    rng = np.random.default_rng(2)
    descriptors = rng.gamma(1.0, size=(150, 2)).astype(np.float32)
    found, naive = [], []
    for seed in range(6):
        centers, inertia = kmeans(descriptors, 9, seed=seed)
        assert inertia == pytest.approx(inertia_of(descriptors, centers), rel=1e-4)
        assert lloyd(descriptors, centers, 3)[1] > 0.99 * inertia  # at rest: going on changes next to nothing
        found.append(inertia)
        naive.append(lloyd(descriptors, descriptors[rng.choice(150, 9, replace=False)], 12)[1])
    assert np.mean(found) < 1.05 * np.mean(naive)


@both
@pytest.mark.parametrize("count", [1, 2, 255, 1001])
def test_one_centre_is_the_mean(kmeans: Kmeans, count: int) -> None:
    descriptors = (5 + np.random.default_rng(count).standard_normal((count, 7))).astype(np.float32)
    centers, inertia = kmeans(descriptors, 1)
    exact = descriptors.astype(np.float64)
    assert np.allclose(centers, exact.mean(axis=0, keepdims=True), rtol=1e-5)
    assert inertia == pytest.approx(float(((exact - exact.mean(axis=0)) ** 2).sum()), rel=1e-4, abs=1e-9)


@both
def test_as_many_centres_as_descriptors(kmeans: Kmeans) -> None:
    descriptors = np.random.default_rng(0).permutation(np.arange(30.0)).reshape(10, 3).astype(np.float32)
    centers, inertia = kmeans(descriptors, 10)
    assert sorted(map(tuple, centers.tolist())) == sorted(map(tuple, descriptors.tolist())) and inertia == 0


@both
def test_as_many_centres_as_distinct_descriptors(kmeans: Kmeans) -> None:
    few = np.array([[0, 1], [5, 5], [9, 2]], dtype=np.float32)
    descriptors = np.random.default_rng(0).permutation(np.repeat(few, [100, 7, 1], axis=0))
    centers, inertia = kmeans(descriptors, 3)
    assert np.allclose(sorted(centers.tolist()), few, rtol=0, atol=1e-6) and inertia < 1e-9


@both
def test_seed_decides(kmeans: Kmeans) -> None:
    descriptors = np.random.default_rng(8).standard_normal((300, 4)).astype(np.float32)
    np.random.seed(1)
    torch.manual_seed(1)
    first = kmeans(descriptors, 12, seed=4)
    np.random.seed(2)
    torch.manual_seed(2)
    again = kmeans(descriptors, 12, seed=4)
    assert np.array_equal(first[0], again[0]) and first[1] == again[1]
    assert not np.array_equal(first[0], kmeans(descriptors, 12, seed=5)[0])


@both
def test_iterations_are_limited(kmeans: Kmeans) -> None:
    descriptors = np.random.default_rng(8).standard_normal((2000, 2)).astype(np.float32)
    inertia = [kmeans(descriptors, 30, seed=0, max_iterations=iterations)[1] for iterations in (1, 3, 100)]
    assert inertia[0] > 1.005 * inertia[1] > 1.005**2 * inertia[2]


def test_same_bits_on_many_threads() -> None:
    """Partial sums of three or more threads give other bits in another order; a fit may not depend on who comes first."""
    script = (
        "import numpy as np; from gpuannot.reference.codebook import kmeans\n"
        "x = np.random.default_rng(0).standard_normal((20_000, 16)).astype(np.float32)\n"
        "print(len({kmeans(x, 16, max_iterations=5)[0].tobytes() for _ in range(8)}))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "8", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_descriptors_are_left_as_they_were() -> None:
    descriptors = blobs(5)
    copy = descriptors.copy()
    reference.kmeans(descriptors, 4)
    assert np.array_equal(descriptors, copy)
    Codebook(4).fit(descriptors)
    assert np.array_equal(descriptors, copy)
    overwritten = Codebook(4).fit(descriptors.copy(), overwrite=True).centers
    assert np.array_equal(overwritten, Codebook(4).fit(copy).centers)
    strided = np.repeat(np.repeat(descriptors, 2, axis=0), 2, axis=1)[::2, ::2]
    assert np.array_equal(reference.kmeans(strided, 4)[0], reference.kmeans(copy, 4)[0])
    assert np.array_equal(reference.kmeans(copy.astype(np.float64), 4)[0], reference.kmeans(copy, 4)[0])


def test_torch_centre_without_descriptors_moves_to_one() -> None:
    descriptors = torch.tensor([[0.0], [0.1], [0.2], [10.0], [30.0]])
    centers = torch.tensor([[0.1], [10.0], [500.0]])
    index, squared = _assign(descriptors, centers)
    assert index.tolist() == [0, 0, 0, 1, 1]
    assert _update(descriptors, centers, index, squared)[:, 0].tolist() == pytest.approx([0.1, 20.0, 30.0])


# ---- the estimator


def test_estimator_passes_its_settings_on() -> None:
    descriptors = np.random.default_rng(8).standard_normal((500, 4)).astype(np.float32)
    model = Codebook(12, max_iterations=2, seed=4)
    assert model.fit(descriptors) is model
    centers, inertia = reference.kmeans(descriptors, 12, seed=4, max_iterations=2)
    assert np.array_equal(model.centers_, centers) and model.inertia_ == inertia and model.centers is model.centers_
    for other in (Codebook(12, max_iterations=50, seed=4), Codebook(12, max_iterations=2, seed=5)):
        assert not np.array_equal(other.fit(descriptors).centers_, centers)
    assert np.array_equal(model.on(torch.device("cpu")).numpy(), centers)


def test_estimator_on_a_tensor() -> None:
    model = Codebook(8).fit(blobs())
    with warnings.catch_warnings():  # of cuML, where it is missing
        warnings.simplefilter("ignore")
        other = Codebook(8).fit(torch.from_numpy(blobs()))
    assert isinstance(other.centers_, np.ndarray) and other.centers_.dtype == np.float32
    order = [center.tolist() for center in np.sign(model.centers_)]
    matching = [order.index(center.tolist()) for center in np.sign(other.centers_)]
    assert np.allclose(model.centers_[matching], other.centers_, atol=1e-5)
    assert other.inertia_ == pytest.approx(model.inertia_, rel=1e-5)


def test_before_fit() -> None:
    with pytest.raises(NotFittedError, match="no centres yet; call fit first"):
        _ = Codebook(3).centers


# ---- wrong descriptors


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_descriptors(kind: str, value: float) -> None:
    descriptors = blobs(5)
    descriptors[-1, -1] = value
    with pytest.raises(ValueError, match="the descriptors hold NaN or infinite values"):
        Codebook(2).fit(descriptors if kind == "numpy" else torch.from_numpy(descriptors))


@pytest.mark.parametrize("count", [0, 1, 4])
def test_fewer_descriptors_than_centres(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} descriptors cannot make 5 centres"):
        Codebook(5).fit(np.eye(5, dtype=np.float32)[:count])
    with pytest.raises(ValueError, match=f"{count} distinct values for 5 centres"):
        Codebook(5).fit(torch.eye(5)[:count])


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("repeats", [2, 500])  # below and above the count at which distinct values are searched for in turn
@pytest.mark.parametrize("distinct", [1, 4])
def test_fewer_distinct_descriptors_than_centres(distinct: int, repeats: int, kind: str) -> None:
    descriptors = np.repeat(np.eye(distinct, 6, dtype=np.float32), repeats * 5 // distinct, axis=0)
    with pytest.raises(ValueError, match=f"only {distinct} distinct values for 5 centres; use fewer centres"):
        Codebook(5).fit(descriptors if kind == "numpy" else torch.from_numpy(descriptors))


@pytest.mark.parametrize("repeats", [3, 100])
def test_zeros_of_both_signs_are_one_value(repeats: int) -> None:
    descriptors = np.array([[0.0, 1.0], [-0.0, 1.0]] * repeats, dtype=np.float32)
    with pytest.raises(ValueError, match="only 1 distinct values for 2 centres"):
        Codebook(2).fit(descriptors)


@pytest.mark.parametrize("repeats", [3, 100])
def test_values_that_float32_cannot_tell_apart_are_one_value(repeats: int) -> None:
    descriptors = np.array([[1.0, 0.0], [1.0 + 1e-12, 0.0]] * repeats)
    with pytest.raises(ValueError, match="only 1 distinct values for 2 centres"):
        Codebook(2).fit(descriptors)


def test_values_beyond_float32() -> None:
    with pytest.raises(ValueError, match="infinite values"):
        Codebook(2).fit(np.array([[1.0], [1e300]] * 3))


# ---- several layers side by side


def test_each_layer_has_its_own_visual_words() -> None:
    descriptors = np.random.default_rng(3).normal(size=(200, 8)).astype(np.float32)
    together = LayerCodebooks(2, 4, seed=5).fit(lambda layer: descriptors[:, 4 * layer : 4 * layer + 4].copy())
    assert together.centers.shape == (2, 4, 4)
    for number in range(2):
        own = np.ascontiguousarray(descriptors[:, 4 * number : 4 * number + 4])
        np.testing.assert_array_equal(together.centers[number], Codebook(4, seed=5).fit(own).centers)


# ---- the code that GPUs run, here on the CPU


@pytest.mark.parametrize(("count", "n", "m"), [(1, 1, 1), (7, 3, 7), (500, 2, 20), (5000, 16, 64)])
def test_torch_kmeans_is_as_good_as_scikit_learns(rng: np.random.Generator, count: int, n: int, m: int) -> None:
    descriptors = rng.standard_normal((count, n)).astype(np.float32)
    centers, inertia = kmeans_torch(torch.from_numpy(descriptors), m, seed=1)
    _, expected = reference.kmeans(descriptors, m, seed=1)
    distances = np.square(descriptors[:, None].astype(np.float64) - centers.numpy()).sum(axis=2)
    assert inertia == pytest.approx(distances.min(axis=1).sum(), rel=1e-5, abs=1e-9)
    assert inertia <= 1.08 * expected + 1e-9
    again, _ = kmeans_torch(torch.from_numpy(descriptors), m, seed=1)
    assert torch.equal(centers, again)


def test_torch_kmeans_finds_clusters_far_apart(rng: np.random.Generator) -> None:
    truth = rng.permutation(np.arange(40, dtype=np.float32))[:, None] * 1000
    descriptors = np.repeat(truth, 25, axis=0) + rng.standard_normal((1000, 1)).astype(np.float32)
    centers, _ = kmeans_torch(torch.from_numpy(descriptors), 40)
    found = np.sort(np.round(centers.numpy().ravel() / 1000))
    assert len(np.unique(found)) >= 38  # k-means++ may merge a pair, hardly more; a random start finds about 26


def test_too_few_distinct_descriptors_are_refused() -> None:
    _check_sample(torch.arange(8.0)[:, None], 8)
    with pytest.raises(ValueError, match="only 2 distinct values for 3 centres"):
        _check_sample(torch.tensor([[0.0], [1.0]]).repeat(500, 1), 3)
    with pytest.raises(ValueError, match="NaN or infinite"):
        _check_sample(torch.tensor([[0.0], [float("nan")]]), 1)
