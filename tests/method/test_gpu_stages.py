"""Every stage on a CUDA device against the CPU reference. ``pytest -m gpu``; with FAIL_WITHOUT_CUDA=1 a missing GPU fails."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy import sparse

from gpuannot import AnnotatorConfig
from gpuannot.heads.projection import JointProjection, bfloat16_parts
from gpuannot.heads.word_head import WordHead, new_bank
from gpuannot.method.codebook import Codebook, kmeans_torch
from gpuannot.method.descriptors import DeviceTransform, GaussianPCA
from gpuannot.method.ranking import LinearRanking, WordRanking
from gpuannot.method.trunk import Trunk
from gpuannot.method.vlad import Vlad
from gpuannot.method.weights import load_weights
from gpuannot.method.words import WordBank
from gpuannot.reference import codebook as reference_codebook
from gpuannot.reference import vlad as reference_vlad
from gpuannot.system.device import cuml_module

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda", 0)


def random_images(count: int, size: int = 224) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("layer", ["conv1_1", "conv3_2", "pool4", "conv5_2"])
def test_trunk_is_as_exact_as_its_arithmetic_allows(layer: str, dtype: str) -> None:
    """No further from float32 on the CPU than twice the plain modules in the same arithmetic on the same GPU."""
    weights = load_weights()
    images = random_images(3)
    exact = Trunk(weights, layer, dtype="float32")(images)
    trunk = Trunk(weights, layer, dtype=dtype, device=CUDA)
    features = trunk(images.to(CUDA))
    pixels = torch.addcmul(trunk.pixel_offset, images.to(CUDA).float(), trunk.pixel_scale)  # type: ignore[arg-type]
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        modules = trunk.features(pixels.to(trunk.dtype).contiguous(memory_format=torch.channels_last))
    plain = modules.permute(0, 2, 3, 1).flatten(1, 2)
    scale = exact.norm()
    error, allowed = ((part.float().cpu() - exact).norm() / scale for part in (features, plain))
    assert error <= 2 * allowed + 1e-6


@pytest.mark.parametrize("cudnn_fused", [False, True])
def test_trunk_does_not_read_what_memory_held(cudnn_fused: bool) -> None:
    """Convolutions write their outputs into freed memory full of NaN; cuDNN's fused one is given its output as a summand."""
    trunk = Trunk(layer="conv3_3", device=CUDA, cudnn_fused=cudnn_fused)
    images = random_images(4, 64).to(CUDA)
    expected = trunk(images).float()
    filled = [torch.full((size,), torch.nan, dtype=trunk.dtype, device=CUDA) for size in (1 << 12, 1 << 16, 1 << 20, 1 << 22)]
    del filled
    found = trunk(images).float()
    assert bool(torch.isfinite(found).all())
    if cudnn_fused:  # whose algorithms need not give the same bits
        torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))
    else:
        assert torch.equal(found, expected)


@pytest.mark.parametrize("relu", [True, False])
def test_trunk_output_is_a_view_of_channels_last_memory(relu: bool) -> None:
    features = Trunk(layer="conv2_2", relu=relu, device=CUDA)(random_images(5, 65).to(CUDA))
    assert features.stride()[1:] == (128, 1)
    assert bool((features < 0).any()) is not relu


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [1, 64, 100])
def test_transform_against_float64(rng: np.random.Generator, dtype: torch.dtype, n: int) -> None:
    features = torch.from_numpy(rng.standard_normal((7, 33, 512)).astype(np.float32) ** 2).to(dtype)
    matrix, offset = (rng.standard_normal(shape).astype(np.float32) for shape in ((512, n), (n,)))
    exact = features.double().numpy() @ matrix.astype(np.float64) + offset
    ours = DeviceTransform(matrix, offset, CUDA, dtype)(features.to(CUDA)).cpu().numpy()
    plain = (features.float() @ torch.from_numpy(matrix)).numpy() + offset
    # float32 accumulation over 512 terms, plus the 2^-16 that two 16-bit parts keep of the matrix
    bound = 2 * np.abs(plain - exact).max() + (2.0**-15 if dtype == torch.bfloat16 else 2.0**-20) * np.abs(exact).max()
    assert np.abs(ours - exact).max() <= bound


def test_sums_on_the_gpu_are_those_of_the_cpu(rng: np.random.Generator) -> None:
    features = rng.standard_normal((5, 40, 32)).astype(np.float32) + 3
    host, device = GaussianPCA(8), GaussianPCA(8)
    for image in features:
        host.accumulate(image)
        device.accumulate(torch.from_numpy(image).to(CUDA))
    np.testing.assert_allclose(device.finish().matrix_, host.finish().matrix_, rtol=2e-5, atol=2e-6)


@pytest.mark.filterwarnings("ignore:cuML is not usable")
def test_cuml_finds_the_same_components(rng: np.random.Generator) -> None:
    if cuml_module("decomposition") is None:
        pytest.skip("cuML is not installed")
    signal = (rng.standard_normal((20_000, 6)) * [9, 7, 5, 3, 2, 1]) @ rng.standard_normal((6, 32))
    features = signal + rng.standard_normal((20_000, 32))
    sample = torch.from_numpy(features.astype(np.float32)).to(CUDA)
    by_sums = GaussianPCA(4).accumulate(sample).finish()
    by_cuml = GaussianPCA(4).accumulate(sample).finish(sample)
    a, b = (np.linalg.qr(pca.matrix_.astype(np.float64))[0] for pca in (by_sums, by_cuml))
    assert np.linalg.svd(a.T @ b, compute_uv=False).min() > 0.9999  # cosines of the angles between the two subspaces
    np.testing.assert_allclose(by_cuml.explained_variance_ratio_, by_sums.explained_variance_ratio_, rtol=1e-2)


def test_codebook_on_the_gpu_is_as_good_as_scikit_learns(rng: np.random.Generator) -> None:
    descriptors = rng.standard_normal((20_000, 16)).astype(np.float32)
    _, inertia = reference_codebook.kmeans(descriptors, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        codebook = Codebook(64).fit(torch.from_numpy(descriptors).to(CUDA))
    assert codebook.centers.shape == (64, 16)
    nearest = codebook.centers[reference_vlad.nearest_center(descriptors, codebook.centers)]
    assert np.square(descriptors - nearest, dtype=np.float64).sum() <= 1.03 * inertia


def test_torch_kmeans_gives_the_same_bits_twice(rng: np.random.Generator) -> None:
    descriptors = torch.from_numpy(rng.standard_normal((5000, 16)).astype(np.float32)).to(CUDA)
    assert torch.equal(kmeans_torch(descriptors, 32, seed=3)[0], kmeans_torch(descriptors, 32, seed=3)[0])


@pytest.mark.parametrize("batch", [1, 5, 256])
@pytest.mark.parametrize("steps", [(), ("signed_sqrt", "l2"), ("mass", "intra", "signed_sqrt", "l2")])
def test_vlad_against_float64(rng: np.random.Generator, batch: int, steps: tuple[str, ...]) -> None:
    from gpuannot.kernels import check_centers

    descriptors, centers = (rng.standard_normal(shape).astype(np.float32) for shape in ((batch, 196, 64), (64, 64)))
    chosen = dict.fromkeys(steps, True)
    exact = reference_vlad.vlad(descriptors.astype(np.float64), centers.astype(np.float64), **chosen)
    float32 = reference_vlad.vlad(descriptors, centers, **chosen)
    on_device = torch.from_numpy(centers).to(CUDA)
    ours = Vlad(**chosen).encode_cuda(torch.from_numpy(descriptors).to(CUDA), on_device, check_centers(on_device)).cpu().numpy()
    assert np.abs(ours - exact).max() <= 2 * np.abs(float32 - exact).max() + 1e-6 * np.abs(exact).max()


@pytest.mark.parametrize(("dimension", "components", "quadratic"), [(1024, 60, 9), (37, 5, 5), (16, 3, 0)])
def test_projection(rng: np.random.Generator, dimension: int, components: int, quadratic: int) -> None:
    vectors = rng.standard_normal((260, dimension)).astype(np.float32) + 1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    given = torch.from_numpy(vectors)
    projection = JointProjection(components, quadratic).fit(given)
    unit = (vectors.astype(np.float64) - projection.mean_) @ projection.matrix_.astype(np.float64)
    norm = np.linalg.norm(unit, axis=1, keepdims=True)
    exact = projection.expand(torch.from_numpy(unit / norm)).numpy()
    ours = projection.transform(given.to(CUDA))
    # Two parts of bfloat16 keep 2^-17 of each factor, or better.
    bound = 2.0**-15 * ((np.abs(vectors) @ np.abs(projection.matrix_)).max(axis=1, keepdims=True) / norm)
    assert (np.abs(ours.cpu().numpy() - exact) <= bound).all()
    parts = projection.transform(bfloat16_parts(given.to(CUDA)))  # as VLAD vectors come
    assert torch.equal(parts, ours)


def test_word_sums(rng: np.random.Generator) -> None:
    vectors = rng.standard_normal((300, 512)).astype(np.float32)
    labels = sparse.csr_array((rng.random((300, 40)) < 0.1).astype(np.float32))
    words = [f"w{number}" for number in range(40)]
    host = WordBank(words, 512).partial_fit(vectors, labels)
    device = WordBank(words, 512)
    for start in range(0, 300, 77):
        device.partial_fit(torch.from_numpy(vectors[start : start + 77]).to(CUDA), labels[start : start + 77])
    np.testing.assert_allclose(device.sums, host.sums, rtol=1e-12, atol=1e-12)
    assert np.array_equal(device.counts, host.counts)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize(("images", "words", "k"), [(1, 1, 1), (33, 260, 5), (3000, 37, 37), (5, 5000, 8)])
def test_ranking(rng: np.random.Generator, metric: str, images: int, words: int, k: int) -> None:
    vectors, word_vectors = rng.standard_normal((images, 96)).astype(np.float32), rng.standard_normal((words, 96))
    word_vectors[words // 2] = word_vectors[0]  # ties
    ranking = WordRanking(word_vectors, metric)
    index, distance = ranking.nearest(vectors, k)
    device_index, device_distance = ranking.on(CUDA, np.arange(words)).nearest(torch.from_numpy(vectors).to(CUDA), k)
    np.testing.assert_allclose(device_distance.cpu().numpy(), distance, rtol=1e-5, atol=1e-6)
    differ = index != device_index.cpu().numpy()
    # Where the words differ, their distances tie within float32 rounding of the differences.
    assert np.abs(distance - device_distance.cpu().numpy())[differ].max(initial=0) <= 1e-5 * distance.max()
    assert differ.mean() <= 0.001


@pytest.mark.parametrize(("images", "words", "k"), [(0, 3, 2), (1, 1, 1), (33, 260, 5), (3000, 37, 37)])
def test_linear_ranking(rng: np.random.Generator, images: int, words: int, k: int) -> None:
    vectors, weights = rng.standard_normal((images, 96)).astype(np.float32), rng.standard_normal((words, 96))
    bias = rng.standard_normal(words)
    weights[words // 2], bias[words // 2] = weights[0], bias[0]  # ties
    ranking = LinearRanking(weights, bias)
    index, distance = ranking.nearest(vectors, k)
    device_index, device_distance = ranking.on(CUDA, np.arange(words)).nearest(torch.from_numpy(vectors).to(CUDA), k)
    np.testing.assert_allclose(device_distance.cpu().numpy(), distance, rtol=1e-5, atol=1e-5)
    assert (index != device_index.cpu().numpy()).mean() <= 0.001 if images else not len(device_index)


@pytest.mark.parametrize("head", ["ridge", "demixed"])
def test_heads(rng: np.random.Generator, head: str) -> None:
    vectors = rng.standard_normal((300, 200)).astype(np.float32)
    labels = sparse.csr_array((rng.random((300, 40)) < 0.1).astype(np.float32))
    words = tuple(f"w{number}" for number in range(40))
    config = AnnotatorConfig(head=head, calibration="odds")
    rankings, confidences = [], []
    for device in ("cpu", CUDA):
        bank, made = new_bank(config, words, 200, device), WordHead(config)
        given = torch.from_numpy(vectors).to(device) if device != "cpu" else vectors
        for start in range(0, 280, 77):
            part = slice(start, min(start + 77, 280))
            bank.partial_fit(given[part], labels[part], np.arange(300)[part])
        made.settle(bank)
        made.ranking(bank)
        bank.partial_fit(given[280:], labels[280:])
        made.changed(given[280:], labels[280:], 1)
        bank.forget(given[:9], labels[:9])
        made.changed(given[:9], labels[:9], -1)
        rankings.append(made.ranking(bank))
        confidences.append(made.confidence(bank))
    for name in ("weights", "bias") if head == "ridge" else ("word_vectors",):
        host, device_values = (getattr(ranking, name) for ranking in rankings)
        np.testing.assert_allclose(device_values, host, rtol=1e-4, atol=1e-5 * np.abs(host).max())
    assert (confidences[0] is None) == (confidences[1] is None) == (head != "ridge")
    if confidences[0] is not None and confidences[1] is not None:
        np.testing.assert_allclose(confidences[1], confidences[0], rtol=1e-3, atol=1e-3)
