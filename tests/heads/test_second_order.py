"""Second-order pooling against an eigenvalue decomposition in float64, at its edges, and as a block beside VLAD."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gpuannot import AnnotatorConfig
from gpuannot.errors import InvalidArgumentError
from gpuannot.heads.projection import MOST_RAISED, Block, JointProjection
from gpuannot.heads.second_order import STEPS, MatrixRoots, Pooling, newton_schulz


def iterated(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the iteration makes of eigenvalues (t,), each by itself."""
    y, z = values / values.sum(), np.ones_like(values)
    for _ in range(STEPS):
        t = (3 - z * y) / 2
        y, z = y * t, t * z
    return y * np.sqrt(values.sum())


def root(
    layer: NDArray[np.floating], components: int, of: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """The upper triangle of one layer's root, off the diagonal times √2, of any length, by ``of`` its eigenvalues."""
    f = layer[:, :components].astype(np.float64)
    values, basis = np.linalg.eigh(sum(np.outer(row, row) for row in f) / len(f))
    matrix = (basis * of(values.clip(min=0))) @ basis.T
    return np.array([matrix[i, j] * (1 if i == j else 2**0.5) for i in range(components) for j in range(i, components)])


def spread(rng: np.random.Generator, batch: int, patches: int, layers: int, of: int) -> NDArray[np.float32]:
    """Descriptors as PCA leaves them, the first components the largest."""
    scale = np.tile(np.linspace(3, 0.7, of), layers)
    return (rng.standard_normal((batch, patches, layers * of)) * scale).astype(np.float32)


@pytest.mark.parametrize(
    ("components", "of", "layers", "patches"), [(1, 1, 1, 3), (5, 8, 3, 49), (8, 8, 1, 196), (96, 128, 2, 900)]
)
def test_roots_are_those_of_the_eigenvalues(components: int, of: int, layers: int, patches: int) -> None:
    descriptors = spread(np.random.default_rng(components), 3, patches, layers, of)
    roots = MatrixRoots(components, of)
    found = roots.encode(descriptors)
    assert found.dtype == np.float32 and found.shape == (3, layers * components * (components + 1) // 2)
    for image, row in zip(descriptors, found, strict=True):
        parts = [root(layer, components, iterated) for layer in np.split(image, layers, axis=1)]
        np.testing.assert_allclose(row, np.concatenate([part / np.linalg.norm(part) for part in parts]), atol=2e-6)
    np.testing.assert_allclose(roots.encode_cuda(torch.from_numpy(descriptors)).numpy(), found, atol=2e-5)


def test_the_iteration_has_the_root_where_no_eigenvalue_is_small() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((4, 9, 9)))[0]
    values = rng.uniform(0.5, 1, (4, 1, 9))
    found = newton_schulz(basis * values @ basis.swapaxes(1, 2), np.eye(9))
    np.testing.assert_allclose(found, basis * np.sqrt(values) @ basis.swapaxes(1, 2), rtol=1e-4, atol=1e-6)


def test_an_image_has_the_same_bits_alone_and_its_patches_in_any_order() -> None:
    rng = np.random.default_rng(1)
    descriptors, roots = spread(rng, 5, 37, 2, 12), MatrixRoots(9, 12)
    found = roots.encode(descriptors)
    for number in range(5):
        np.testing.assert_array_equal(roots.encode(descriptors[number : number + 1])[0], found[number])
    np.testing.assert_allclose(roots.encode(descriptors[:, rng.permutation(37)]), found, atol=1e-6)
    assert roots.encode(descriptors[:0]).shape == (0, 90)


def test_what_is_zero_or_not_a_number() -> None:
    rng = np.random.default_rng(2)
    descriptors, roots = spread(rng, 4, 20, 1, 6), MatrixRoots(4, 6)
    descriptors[0] = 0
    descriptors[1, 3] = np.nan
    descriptors[2, 7, 2] = np.inf
    descriptors[3, 5, 5] = np.nan  # beyond the components that are taken
    descriptors[2, 9] = 2e18  # whose squares add up beyond float32
    left = descriptors.copy()
    left[1, 3] = left[2, 7] = left[2, 9] = 0
    left[3, 5, 5] = 0
    for found in (roots.encode(descriptors), roots.encode_cuda(torch.from_numpy(descriptors)).numpy()):
        assert not found[0].any()
        np.testing.assert_allclose(found, roots.encode(left), atol=1e-5)
    assert not roots.encode(np.zeros((2, 0, 6), np.float32)).any()  # no patch


def test_what_a_patch_adds_is_what_the_score_gains_by_its_weight() -> None:
    """2·∂/∂a_p of tr(W·(Σ a_p·f_p·f_pᵀ/P)^½) at a = 1, the length held: by central differences."""
    rng = np.random.default_rng(3)
    image, roots = spread(rng, 1, 25, 2, 7)[0], MatrixRoots(5, 7)
    weights = rng.standard_normal((3, 30))
    vector, patches, rest = roots.patch_contributions(image, weights)
    np.testing.assert_allclose(patches.sum(axis=1) + rest, weights @ vector, rtol=1e-12)
    assert np.abs(rest).max() < 2e-3 * np.abs(patches).sum(axis=1).max()  # the iteration's own

    lengths = [np.linalg.norm(root(layer, 5, np.sqrt)) for layer in np.split(image, 2, axis=1)]

    def scores(patch: int, by: float) -> NDArray[np.float64]:
        changed = image.astype(np.float64)
        changed[patch] *= np.sqrt(1 + by)
        raw = [root(layer, 5, np.sqrt) / length for layer, length in zip(np.split(changed, 2, axis=1), lengths, strict=True)]
        return weights @ np.concatenate(raw)

    for patch in (0, 11, 24):
        slope = (scores(patch, 1e-5) - scores(patch, -1e-5)) / 2e-5
        np.testing.assert_allclose(patches[:, patch], 2 * slope, rtol=1e-4, atol=1e-7)


def test_pooling_puts_them_behind_vlad() -> None:
    rng = np.random.default_rng(4)
    config = AnnotatorConfig(layer="pool4+conv5_1", n_components=6, n_centers=3, l2=True, moments=4, projection=5)
    assert Pooling.blocks(config) == ((36, 1), (20, 1), (0, 0.5)) and config.joined_dimension == 56
    descriptors, centers = spread(rng, 4, 30, 2, 6), rng.standard_normal((2, 3, 6)).astype(np.float32)
    pooling, plain = Pooling.of(config), Pooling.of(config.changed(moments=0))
    found = pooling.encode(descriptors, centers)
    np.testing.assert_array_equal(found[:, :36], plain.encode(descriptors, centers))
    np.testing.assert_array_equal(found[:, 36:], MatrixRoots(4, 6).encode(descriptors))
    weights = rng.standard_normal((2, 56))
    vector, patches, rest = pooling.patch_contributions(descriptors[0], centers, weights)
    np.testing.assert_allclose(vector, found[0], atol=1e-6)
    np.testing.assert_allclose(patches.sum(axis=1) + rest, weights @ vector, rtol=1e-10)


def test_what_is_the_same_for_all_patches_stands_behind_all() -> None:
    rng = np.random.default_rng(6)
    config = AnnotatorConfig(layer="colours+pool4+conv5_1", n_components=6, n_centers=3, moments=4, projection=5)
    assert Pooling.blocks(config) == ((36, 1), (20, 1), (6, 0.5)) and config.joined_dimension == 62
    descriptors, centers = spread(rng, 4, 30, 3, 6), rng.standard_normal((2, 3, 6)).astype(np.float32)
    descriptors[..., :6] = descriptors[:, :1, :6]
    pooling = Pooling.of(config)
    found = pooling.encode(descriptors, centers)
    without = Pooling.of(config.changed(layer="pool4+conv5_1")).encode(descriptors[..., 6:], centers)
    np.testing.assert_array_equal(found, np.hstack([without, descriptors[:, 0, :6]]))
    weights = rng.standard_normal((2, 62))
    vector, patches, rest = pooling.patch_contributions(descriptors[0], centers, weights)
    np.testing.assert_allclose(vector, found[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(patches.sum(axis=1) + rest, weights @ vector, rtol=1e-10)
    without_roots = Pooling.of(config.changed(moments=0)).encode(descriptors, centers)
    np.testing.assert_array_equal(without_roots, np.hstack([found[:, :36], found[:, 56:]]))


def test_a_projection_hears_every_block_as_stated() -> None:
    rng = np.random.default_rng(5)
    loud, quiet = 3 * rng.standard_normal((80, 9)), 0.1 * rng.standard_normal((80, 4)) + 3
    given = torch.from_numpy(np.hstack([loud, quiet]).astype(np.float32))
    found = JointProjection(9).fit(given, blocks=(Block(9), Block(4, 0.25)))
    centred = given.double() - given.double().mean(dim=0)
    factor = 0.5 * float(centred[:, :9].square().sum().sqrt() / centred[:, 9:].square().sum().sqrt())
    scaled = torch.cat([given[:, :9].double(), given[:, 9:].double() * factor], dim=1)
    scaled = (scaled - scaled.mean(dim=0)).float()
    expected = JointProjection(9).fit(scaled)
    signs = np.sign((found.matrix_[:9] * expected.matrix_[:9]).sum(axis=0))
    np.testing.assert_allclose(found.transform(given), expected.transform(scaled).numpy() * signs, atol=0.01)
    alone = JointProjection(9).fit(given)
    assert np.abs(alone.matrix_[9:]).max() < 0.02 < 0.3 < np.abs(found.matrix_[9:]).max() / factor
    silent = torch.cat([given[:, :9], given[:, 9:] * 0.1], dim=1)  # raised a hundredfold, and no more
    assert 0.5 * MOST_RAISED < np.abs(JointProjection(13).fit(silent, blocks=(Block(9), Block(4))).matrix_[9:]).max() <= MOST_RAISED
    assert np.isfinite(JointProjection(4).fit(still_first(given), blocks=(Block(9), Block(4))).matrix_).all()
    still = torch.cat([given[:, :9], torch.ones(80, 2)], dim=1)  # a block that does not vary has no scale
    assert np.isfinite(JointProjection(8).fit(still, blocks=(Block(9), Block(2))).matrix_).all()


def still_first(given: torch.Tensor) -> torch.Tensor:
    """The vectors with a first block that does not vary."""
    return torch.cat([torch.ones_like(given[:, :9]), given[:, 9:]], dim=1)


def test_moments_need_a_projection() -> None:
    for changes in ({"moments": 4}, {"layer": "colours+conv5_2"}):
        with pytest.raises(InvalidArgumentError, match="moments and the layer colours need a projection"):
            AnnotatorConfig(**changes)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match=r"moments must be a whole number in 0…64, got 65"):
        AnnotatorConfig(moments=65, projection=8)
