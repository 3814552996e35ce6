"""The torch code of the CUDA stages, run on the CPU where it is the same code, against the reference."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from scipy import sparse

from gpuannot import Annotator
from gpuannot.errors import DeviceError
from gpuannot.method.codebook import _check_sample, kmeans_torch
from gpuannot.method.descriptors import DeviceTransform, GaussianPCA
from gpuannot.method.ranking import WordRanking
from gpuannot.method.words import _word_sums_cuda
from gpuannot.model.device_store import DeviceStore, new_store
from gpuannot.model.store import FeatureStore
from gpuannot.reference.codebook import kmeans
from gpuannot.reference.words import word_sums
from gpuannot.system.device import resolve_device

CPU = torch.device("cpu")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [1, 3, 64])
def test_split_matrix_keeps_what_16_bits_would_lose(rng: np.random.Generator, dtype: torch.dtype, n: int) -> None:
    features = torch.from_numpy(rng.random((2, 33, 512)).astype(np.float32)).to(dtype)
    matrix, offset = (rng.standard_normal(shape).astype(np.float32) for shape in ((512, n), (n,)))
    exact = features.double().numpy() @ matrix.astype(np.float64) + offset
    ours = DeviceTransform(matrix, offset, CPU, dtype)(features)
    assert ours.shape == (2, 33, n)
    assert ours.dtype == torch.float32
    assert np.abs(ours.numpy() - exact).max() <= 2e-5 * np.abs(exact).max()
    if dtype == torch.bfloat16:  # what the split is for
        rounded = features.double().numpy() @ torch.from_numpy(matrix).to(dtype).double().numpy() + offset
        assert np.abs(rounded - exact).max() > 20 * np.abs(ours.numpy() - exact).max()


def test_sums_of_tensors_are_those_of_arrays(rng: np.random.Generator) -> None:
    features = rng.standard_normal((90, 12)).astype(np.float32) + 2
    host, device = GaussianPCA(5).fit(features), GaussianPCA(5)
    for part in (features[:1], features[1:50], features[50:]):
        device.accumulate(torch.from_numpy(part))
    np.testing.assert_allclose(device.finish().matrix_, host.matrix_, rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="11 channels"):
        device.accumulate(torch.zeros(2, 11))


@pytest.mark.parametrize(("count", "n", "m"), [(1, 1, 1), (7, 3, 7), (500, 2, 20), (5000, 16, 64)])
def test_torch_kmeans_is_as_good_as_scikit_learns(rng: np.random.Generator, count: int, n: int, m: int) -> None:
    descriptors = rng.standard_normal((count, n)).astype(np.float32)
    centers, inertia = kmeans_torch(torch.from_numpy(descriptors), m, seed=1)
    _, expected = kmeans(descriptors, m, seed=1)
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


@pytest.mark.parametrize(("images", "words"), [(0, 3), (1, 1), (33, 40)])
def test_word_sums(rng: np.random.Generator, images: int, words: int) -> None:
    vectors = rng.standard_normal((images, 50)).astype(np.float32)
    labels = sparse.csr_array((rng.random((images, words)) < 0.3).astype(np.float32))
    sums, counts = word_sums(vectors, labels)
    device_sums, device_counts = _word_sums_cuda(torch.from_numpy(vectors), labels)
    np.testing.assert_allclose(device_sums.numpy(), sums, rtol=1e-13, atol=1e-13)
    assert np.array_equal(device_counts, counts)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize(("images", "words", "k"), [(0, 3, 2), (1, 1, 1), (33, 260, 5), (100, 37, 37)])
def test_ranking(rng: np.random.Generator, metric: str, images: int, words: int, k: int) -> None:
    vectors, word_vectors = rng.standard_normal((images, 96)).astype(np.float32), rng.standard_normal((words, 96))
    word_vectors[words // 2] = word_vectors[0]
    if images > 1:
        vectors[1] = 0
    ranking = WordRanking(word_vectors, metric)
    index, distance = ranking.nearest(vectors, k)
    numbers = np.arange(words) * 3  # the words that have images are not all words
    device_index, device_distance = ranking.on(CPU, numbers).nearest(torch.from_numpy(vectors), k)
    assert device_index.dtype == torch.int64
    assert np.array_equal(device_index.numpy(), index * 3)
    np.testing.assert_allclose(device_distance.numpy(), distance, rtol=1e-5, atol=1e-6)


def test_ranking_in_blocks_is_ranking_at_once(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpuannot.method.ranking import DeviceRanking

    vectors = torch.from_numpy(rng.standard_normal((50, 8)).astype(np.float32))
    ranking = WordRanking(rng.standard_normal((20, 8))).on(CPU, np.arange(20))
    whole = ranking.nearest(vectors, 4)
    monkeypatch.setattr(DeviceRanking, "_BLOCK_BYTES", 1)  # one image a block
    assert torch.equal(ranking.nearest(vectors, 4)[0], whole[0])
    with pytest.raises(ValueError, match="k = 21"):
        ranking.nearest(vectors, 21)


def test_device_store_has_the_interface_of_the_one_on_disk(rng: np.random.Generator) -> None:
    blocks = [(np.array([0, 2]), torch.rand(2, 3, 4)), (np.array([5]), torch.rand(1, 3, 4))]
    with DeviceStore(3, 4, torch.float32) as device, FeatureStore.create(None, 3, 4, torch.float32) as disk:
        for store in (device, disk):
            for positions, features in blocks:
                store.append(positions, features)
            assert len(store) == 3
            assert store.positions.tolist() == [0, 2, 5]
            read = torch.cat([block for _, block in store.blocks()])
            assert torch.equal(read, torch.cat([features for _, features in blocks]))
    assert len(device) == 0
    with new_store(CPU, 10, 3, 4, torch.float32) as store:
        assert isinstance(store, FeatureStore)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "mps", ""])
def test_unknown_devices(name: str) -> None:
    with pytest.raises(DeviceError, match=r"unknown|no CUDA|without CUDA|CUDA devices"):
        resolve_device(name)


def test_a_gpu_that_is_not_there() -> None:
    if torch.cuda.is_available():
        with pytest.raises(DeviceError, match="CUDA devices"):
            resolve_device("cuda:99")
    else:
        with pytest.raises(DeviceError, match=r"without CUDA|no CUDA device"):
            Annotator(device="cuda")
        assert resolve_device("auto") == CPU


def test_capture_needs_a_gpu() -> None:
    with pytest.raises(DeviceError, match="CUDA graphs need"):
        Annotator(device="cpu").capture((1, 3, 224, 224))


def test_kernels_refuse_what_is_not_on_a_gpu() -> None:
    if importlib.util.find_spec("gpuannot.kernels.loader") is None:
        pytest.skip("this version has no kernels")
    from gpuannot.kernels import nearest_center

    with pytest.raises(DeviceError):
        nearest_center(torch.rand(3, 4), torch.rand(2, 4))
