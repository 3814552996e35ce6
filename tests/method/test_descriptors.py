"""Gaussian normalisation and PCA: scikit-learn's StandardScaler and PCA in float64 say what the folded map must give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from gpuannot.errors import NotFittedError
from gpuannot.method.descriptors import DeviceTransform, GaussianPCA, LayerTransforms
from gpuannot.method.trunk import Trunk
from gpuannot.reference import descriptors as reference

CPU = torch.device("cpu")


def correlated(count: int, channels: int, *, seed: int = 0, mean: float = 2.0, dtype: type = np.float32) -> NDArray:
    """Features whose channels depend on each other, with means and scales of their own and well separated eigenvalues."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((channels, channels)) * np.geomspace(1, 0.05, channels)
    values = rng.standard_normal((count, channels)) @ mixing.T
    values = values / values.std(axis=0) * rng.uniform(0.5, 2.0, channels) + mean * rng.uniform(-1, 1, channels)
    return values.astype(dtype)


def sklearn_descriptors(features: NDArray, n: int) -> tuple[NDArray, NDArray, NDArray]:
    """Descriptors, components (C, n) and explained variance ratio in float64, signs by the rule of the library."""
    normalised = StandardScaler().fit_transform(features.astype(np.float64))
    pca = PCA(n, svd_solver="full").fit(normalised)
    components = pca.components_.T.copy()
    for column in range(n):
        if components[np.abs(components[:, column]).argmax(), column] < 0:
            components[:, column] *= -1
    return normalised @ components, components, pca.explained_variance_ratio_


def folded(features: NDArray, n: int) -> tuple[NDArray, NDArray, NDArray]:
    return reference.normalisation_pca(*reference.feature_sums(features), n)


# ---- against scikit-learn


@pytest.mark.parametrize(
    ("count", "channels", "n"), [(500, 12, 5), (500, 12, 12), (500, 12, 1), (2, 1, 1), (33, 32, 7), (700, 2, 1)]
)
def test_equals_standard_scaler_and_pca(count: int, channels: int, n: int) -> None:
    features = correlated(count, channels)
    expected, components, ratio = sklearn_descriptors(features, n)
    matrix, offset, found_ratio = folded(features, n)
    assert matrix.shape == (channels, n) and offset.shape == (n,) and matrix.dtype == offset.dtype == np.float64
    scale = features.astype(np.float64).std(axis=0)
    assert np.allclose(matrix * scale[:, None], components, rtol=0, atol=1e-9)
    assert np.allclose(features.astype(np.float64) @ matrix + offset, expected, rtol=0, atol=1e-9 * max(1, np.abs(expected).max()))
    assert np.allclose(found_ratio, ratio, rtol=0, atol=1e-10)

    model = GaussianPCA(n).fit(features)
    assert model.matrix_.dtype == model.offset_.dtype == np.float32
    assert np.array_equal(model.matrix_, matrix.astype(np.float32)) and np.array_equal(model.offset_, offset.astype(np.float32))
    descriptors = model.transform(features)
    assert descriptors.dtype == np.float32 and descriptors.shape == (count, n)
    assert np.abs(descriptors - expected).max() <= float32_bound(features, matrix, offset)


def float32_bound(features: NDArray, matrix: NDArray, offset: NDArray) -> float:
    """How far the map can be off in float32: rounding of each product, of each addition and of the map itself."""
    size = (np.abs(features) @ np.abs(matrix) + np.abs(offset)).max()
    return float(2 * (2 + np.sqrt(features.shape[-1])) * np.finfo(np.float32).eps * size)


def test_equals_normalising_and_projecting_in_two_steps() -> None:
    features = correlated(400, 9, dtype=np.float64)
    mean, scale, correlation = reference.normalisation(*reference.feature_sums(features))
    assert np.allclose(mean, features.mean(axis=0), rtol=1e-12) and np.allclose(1 / scale, features.std(axis=0), rtol=1e-10)
    assert np.allclose(correlation, np.corrcoef(features.T), rtol=0, atol=1e-10)
    components, _ = reference.principal_components(correlation, 4)
    assert np.allclose(components.T @ components, np.eye(4), atol=1e-12)
    matrix, offset = reference.fold(mean, scale, components)
    one_step = reference.transform(features, matrix, offset)
    two_steps = ((features - mean) * scale) @ components
    signs = np.sign(one_step[0] * two_steps[0])
    assert np.allclose(one_step, two_steps * signs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("seed", range(5))
def test_largest_entry_of_a_component_is_positive(seed: int) -> None:
    features = correlated(300, 8, seed=seed, dtype=np.float64)
    for sign in (1, -1):  # turning every channel around turns no component around
        matrix, _, _ = folded(sign * features, 8)
        components = matrix * features.std(axis=0)[:, None]
        assert (components[np.abs(components).argmax(axis=0), np.arange(8)] > 0).all()


def test_components_come_by_falling_variance() -> None:
    features = correlated(300, 10)
    model = GaussianPCA(10).fit(features)
    ratio = model.explained_variance_ratio_
    assert (np.diff(ratio) < 0).all() and ratio.sum() == pytest.approx(1, abs=1e-12) and ratio.dtype == np.float64
    variance = model.transform(features).astype(np.float64).var(axis=0)
    assert np.allclose(variance / variance.sum(), ratio, rtol=1e-4)
    assert variance.sum() == pytest.approx(10, rel=1e-5)  # normalised channels have variance 1 each


def test_features_of_photographs(corel5k: Path) -> None:
    paths = sorted((corel5k / "images").iterdir())[:3]
    images = np.stack([np.asarray(Image.open(path).resize((64, 64))) for path in paths])
    features = Trunk(layer="conv2_2", dtype="float32")(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    model = GaussianPCA(6)
    for image in features:
        model.accumulate(image)
    descriptors = model.finish().transform(features)
    flat = features.reshape(-1, 128)
    varying = flat.std(axis=0) > 0
    expected, _, ratio = sklearn_descriptors(flat[:, varying], 6)
    assert descriptors.shape == (3, 32 * 32, 6)
    assert np.allclose(model.explained_variance_ratio_, ratio, rtol=1e-6)
    bound = float32_bound(flat, model.matrix_.astype(np.float64), model.offset_.astype(np.float64))
    assert np.abs(descriptors.reshape(-1, 6) - expected).max() <= bound < 1e-3


# ---- sums


@pytest.mark.parametrize("seed", range(5))
def test_sums_do_not_depend_on_batches(seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = correlated(1001, 7, seed=seed, mean=30)
    whole = reference.feature_sums(features)
    exact = features.astype(np.float64)
    assert whole[0] == 1001
    assert np.allclose(whole[1], [sum(exact[:, c].tolist()) for c in range(7)], rtol=1e-12)
    assert np.allclose(whole[2], np.einsum("ni,nj->ij", exact, exact), rtol=1e-12)
    cuts = np.sort(rng.choice(np.arange(1002), size=9, replace=True))
    model = GaussianPCA(3)
    for part in np.split(features, cuts):  # parts of 0 and of 1 too
        model.accumulate(part)
    model.finish()
    matrix, offset, ratio = folded(features, 3)
    assert model.count_ == 1001
    assert np.allclose(model.explained_variance_ratio_, ratio, rtol=1e-12)
    assert np.allclose(model.matrix_, matrix, rtol=1e-6) and np.allclose(model.offset_, offset, rtol=1e-6)
    parts = [reference.feature_sums(part) for part in np.split(features, cuts)]
    assert sum(part[0] for part in parts) == 1001
    for position in (1, 2):
        assert np.allclose(sum(part[position] for part in parts), whole[position], rtol=1e-12, atol=0)


def test_sums_are_float64_whatever_comes() -> None:
    features = np.full((5000, 2), 1000.0, dtype=np.float16)  # the sum of squares is 5e9: beyond float16, inexact in float32
    features[::2, 1] = 999
    count, total, outer = reference.feature_sums(features)
    assert total.dtype == outer.dtype == np.float64
    assert (count, total.tolist()) == (5000, [5_000_000.0, 4_997_500.0])
    assert outer.tolist() == [[5e9, 4_997_500_000.0], [4_997_500_000.0, 2500 * 999.0**2 + 2500 * 1e6]]


def test_accumulating_images_of_any_shape() -> None:
    features = correlated(6 * 35, 5).reshape(6, 35, 5)
    one = GaussianPCA(2).fit(features)
    grid = GaussianPCA(2).accumulate(features[:4].reshape(4, 5, 7, 5)).accumulate(features[4]).accumulate(features[5:]).finish()
    assert one.count_ == grid.count_ == 210
    assert np.allclose(one.matrix_, grid.matrix_, rtol=1e-6)
    for shape in ((6, 35, 5), (6, 5, 7, 5), (5,), (0, 35, 5)):
        given = features.reshape(shape) if np.prod(shape) == features.size else features.ravel()[: np.prod(shape)].reshape(shape)
        assert one.transform(given).shape == (*shape[:-1], 2)
    assert np.allclose(one.transform(features)[3, 4], one.transform(features[3, 4]), rtol=1e-5, atol=1e-6)


def test_fitting_again_forgets_the_first_fit() -> None:
    first, second = correlated(100, 4, seed=1), correlated(100, 4, seed=2)
    model = GaussianPCA(2).fit(first)
    assert model.fit(second) is model and model.count_ == 100
    assert np.array_equal(model.matrix_, GaussianPCA(2).fit(second).matrix_)


# ---- channels that do not vary


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 123.456, 1e4, -3e-5])
def test_a_constant_channel_gets_weight_zero(value: float) -> None:
    features = correlated(40 * 500, 4).reshape(40, 500, 4)
    features[:, :, 2] = value
    model = GaussianPCA(3)
    for part in features:
        model.accumulate(part)
    model.finish()
    assert model.constant_channels_.tolist() == [2]
    assert (model.matrix_[2] == 0).all() and np.isfinite(model.matrix_).all() and np.isfinite(model.offset_).all()
    expected, _, _ = sklearn_descriptors(features.reshape(-1, 4)[:, [0, 1, 3]], 3)
    found = model.transform(features).reshape(-1, 3)
    assert np.abs(found - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())
    # What an annotated image holds in such a channel decides nothing.
    features[:, :, 2] = 7e3
    assert np.array_equal(model.transform(features).reshape(-1, 3), found)


def test_constant_channels_of_any_value() -> None:
    """Rounding of the sums leaves some of them a variance a little above zero."""
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.uniform(0, 1, 60), rng.uniform(1, 1000, 60)]).astype(np.float32)
    features = np.hstack([np.tile(values, (500, 1)), correlated(500, 2)])
    model = GaussianPCA(2)
    for _ in range(40):
        model.accumulate(features)
    assert model.finish().constant_channels_.tolist() == list(range(120))


def test_a_faint_channel_beside_a_loud_one_is_not_constant() -> None:
    features = correlated(1000, 3)
    features[:, 1] *= 1e-4
    assert GaussianPCA(3).fit(features).constant_channels_.size == 0


# ---- conditioning


@pytest.mark.parametrize("mean", [1e3, -1e3, 3e4])
def test_means_far_above_the_spread(mean: float) -> None:
    rng = np.random.default_rng(3)
    features = (mean + correlated(20_000, 6, mean=0) + rng.uniform(-1, 1, 6)).astype(np.float32)
    expected, components, _ = sklearn_descriptors(features, 3)
    matrix, offset, _ = folded(features, 3)
    scale = features.astype(np.float64).std(axis=0)
    # The variance is a difference of numbers (mean/std)² larger than it: that factor of ε is lost.
    lost = 100 * np.finfo(np.float64).eps * (mean / scale.min()) ** 2
    assert lost < 1e-3
    assert np.allclose(matrix * scale[:, None], components, rtol=0, atol=max(1e-9, 10 * lost))
    model = GaussianPCA(3).fit(features)
    assert model.constant_channels_.size == 0
    bound = float32_bound(features, matrix, offset) + 10 * lost * np.abs(expected).max()
    assert np.abs(model.transform(features) - expected).max() <= bound


# ---- errors


@pytest.mark.parametrize("n", [4, 5, 100])
def test_more_components_than_varying_channels(n: int) -> None:
    features = correlated(50, 4)
    features[:, 1] = 5
    with pytest.raises(ValueError, match=f"n_components = {n} is more than the 3 of 4 channels that vary"):
        GaussianPCA(n).fit(features)


@pytest.mark.parametrize("n", [0, -1])
def test_no_components(n: int) -> None:
    with pytest.raises(ValueError, match="n_components"):
        GaussianPCA(n).fit(correlated(50, 4))


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_features(count: int) -> None:
    with pytest.raises(ValueError, match=f"at least 2 local features, got {count}"):
        GaussianPCA(1).fit(correlated(5, 4)[:count])


def test_nothing_accumulated() -> None:
    with pytest.raises(ValueError, match="no features were accumulated"):
        GaussianPCA(1).finish()


def test_all_images_alike() -> None:
    with pytest.raises(ValueError, match="more than the 0 of 3 channels"):
        GaussianPCA(1).fit(np.full((100, 3), 0.1, dtype=np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("error")
def test_non_finite_features(value: float) -> None:
    features = correlated(50, 4)
    features[-1, 2] = value
    with pytest.raises(ValueError, match="hold NaN or infinite values"):
        GaussianPCA(2).fit(features)


def test_another_number_of_channels_changes_nothing() -> None:
    features = correlated(50, 4)
    model = GaussianPCA(2).accumulate(features)
    with pytest.raises(ValueError, match="features have 5 channels, those before had 4"):
        model.accumulate(correlated(50, 5))
    assert np.array_equal(model.finish().matrix_, GaussianPCA(2).fit(features).matrix_) and model.count_ == 50


def test_accumulated_features_are_copied() -> None:
    features = correlated(50, 4, dtype=np.float64)
    model = GaussianPCA(2).accumulate(features)
    expected = GaussianPCA(2).fit(features.copy()).matrix_
    features[:] = np.nan
    assert np.array_equal(model.finish().matrix_, expected)


def test_before_fit() -> None:
    model = GaussianPCA(2).accumulate(correlated(50, 4))
    for use in (
        lambda: model.transform(correlated(5, 4)),
        lambda: model.constant_channels_,
        lambda: model.on(CPU, torch.float32),
    ):
        with pytest.raises(NotFittedError, match="call fit, or accumulate and finish, first"):
            use()


# ---- several layers side by side


def drawn_features(images: int = 7, patches: int = 5) -> NDArray[np.float32]:
    return np.random.default_rng(2).gamma(1.0, size=(images, patches, 9 + 5)).astype(np.float32)


def test_each_layer_has_its_own_normalisation_and_pca() -> None:
    features = drawn_features()
    together = LayerTransforms(3, (9, 5))
    for block in np.array_split(features, 3):
        together.accumulate(block)
    together.finish()
    parts = [GaussianPCA(3).fit(features[..., :9]).transform(features[..., :9])]
    parts.append(GaussianPCA(3).fit(features[..., 9:]).transform(features[..., 9:]))
    np.testing.assert_allclose(together.transform(features), np.concatenate(parts, axis=-1), atol=1e-5)
    on_device = together.on(torch.device("cpu"), torch.float32)(torch.from_numpy(features))
    np.testing.assert_allclose(on_device.numpy(), together.transform(features), atol=1e-5)


def test_a_layer_that_keeps_its_variances_has_the_components_of_scikit_learn() -> None:
    features = drawn_features(30)
    features[..., :9] *= np.arange(9)  # of very different scales, one constant
    layers = LayerTransforms(3, (9, 5), unnormalised=1).accumulate(features).finish()
    found, given = layers.transform(features), features.reshape(-1, 14).astype(np.float64)
    expected = PCA(3).fit_transform(given[:, :9])
    expected *= np.sign((expected * found.reshape(-1, 6)[:, :3]).sum(axis=0))
    np.testing.assert_allclose(found.reshape(-1, 6)[:, :3], expected, atol=1e-4)
    np.testing.assert_array_equal(found[..., 3:], GaussianPCA(3).fit(features[..., 9:]).transform(features[..., 9:]))
    assert layers.parts[0].constant_channels_.tolist() == [0]


def test_other_channels_than_the_layers_have() -> None:
    with pytest.raises(ValueError, match="features have 13 channels, these layers have 14"):
        LayerTransforms(3, (9, 5)).accumulate(drawn_features()[..., 1:])


# ---- the code that GPUs run, here on the CPU


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
