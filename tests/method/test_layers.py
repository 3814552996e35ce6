"""Several layers side by side, against each layer by itself and against plain loops."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gpuannot import Annotator
from gpuannot.datasets.label_files import LabelledImages, load_labelled_images
from gpuannot.errors import ModelFileError
from gpuannot.method.codebook import Codebook
from gpuannot.method.descriptors import GaussianPCA
from gpuannot.method.layers import LayerCodebooks, LayerTransforms
from gpuannot.method.trunk import Trunk, split_layers
from gpuannot.method.vlad import Vlad
from gpuannot.method.weights import TrunkWeights, load_weights
from gpuannot.model.encoder import Encoder
from gpuannot.model.file import ModelFile

SIZE = 32
SMALL: dict[str, Any] = {
    "layer": "pool2+conv3_1+conv3_3", "input_size": SIZE, "n_components": 6, "n_centers": 3, "signed_sqrt": True, "l2": True,
}  # fmt: skip


@cache
def embedded() -> TrunkWeights:
    return load_weights()


def annotator(**changes: Any) -> Annotator:
    made = Annotator(**{"device": "cpu", **SMALL, **changes})
    made._weights = embedded()
    return made


@pytest.fixture(scope="module")
def scenes(drawn_scenes: Path) -> LabelledImages:
    return load_labelled_images(drawn_scenes)


@pytest.fixture(scope="module")
def fitted(scenes: LabelledImages) -> Annotator:
    """Read only."""
    return annotator().fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary)


# ---- the trunk


@pytest.mark.parametrize("dtype", ["auto", "float32"])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("batch", "height", "width"), [(1, 32, 32), (5, 36, 64)])
def test_each_layer_is_what_a_trunk_of_its_own_gives(dtype: str, fused: bool, batch: int, height: int, width: int) -> None:
    images = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    layers = ("pool2", "conv3_1", "conv3_3")
    trunk = Trunk(embedded(), "+".join(layers), dtype=dtype)
    if not fused:
        trunk._fused = None
    together = trunk(images)
    assert together.shape == (batch, (height // 4) * (width // 4), 128 + 256 + 256)
    assert trunk.layer_channels == (128, 256, 256) and trunk.channels == 640
    start = 0
    for layer in layers:
        alone = Trunk(embedded(), layer, dtype=dtype)
        if not fused:
            alone._fused = None
        expected = alone(images)
        assert torch.equal(together[..., start : start + alone.channels], expected)
        start += alone.channels


def test_layers_come_in_the_order_of_the_network() -> None:
    assert split_layers("conv5_3+pool4+conv5_1") == ("pool4", "conv5_1", "conv5_3")
    assert Trunk(embedded(), "conv2_2+conv2_1").layer == "conv2_1+conv2_2"


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("pool4+conv6_1", "layer 'conv6_1' is unknown"),
        ("pool4+", "layer '' is unknown"),
        ("conv5_1+conv5_1", "names a layer twice"),
        ("conv4_3+conv5_1", "different ones: conv4_3 8, conv5_1 16"),
    ],
)
def test_layers_that_do_not_go_together(layer: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trunk(embedded(), layer)


def test_several_layers_are_taken_after_their_relu() -> None:
    with pytest.raises(ValueError, match="after their ReLU"):
        Trunk(embedded(), "conv5_1+conv5_2", relu=False)


# ---- normalisation, PCA and visual words


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


def test_other_channels_than_the_layers_have() -> None:
    with pytest.raises(ValueError, match="features have 13 channels, these layers have 14"):
        LayerTransforms(3, (9, 5)).accumulate(drawn_features()[..., 1:])


def test_each_layer_has_its_own_visual_words() -> None:
    descriptors = np.random.default_rng(3).normal(size=(200, 8)).astype(np.float32)
    together = LayerCodebooks(2, 4, seed=5).fit(descriptors)
    assert together.centers.shape == (2, 4, 4)
    for number in range(2):
        own = np.ascontiguousarray(descriptors[:, 4 * number : 4 * number + 4])
        np.testing.assert_array_equal(together.centers[number], Codebook(4, seed=5).fit(own).centers)


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_vlad_of_layers_by_plain_loops(batch: int) -> None:
    rng = np.random.default_rng(4)
    descriptors, centers = rng.normal(size=(batch, 11, 6)).astype(np.float32), rng.normal(size=(2, 5, 3)).astype(np.float32)
    expected = np.zeros((batch, 2 * 5 * 3))
    for image in range(batch):
        for layer in range(2):
            sums = np.zeros((5, 3))
            for patch in range(11):
                x = descriptors[image, patch, 3 * layer : 3 * layer + 3].astype(np.float64)
                nearest = min(range(5), key=lambda j: float(np.square(x - centers[layer, j]).sum()))
                sums[nearest] += x - centers[layer, nearest]
            root = np.sign(sums) * np.sqrt(np.abs(sums))
            expected[image, 15 * layer : 15 * layer + 15] = (root / np.linalg.norm(root)).ravel()
    found = Vlad(signed_sqrt=True, l2=True).encode(descriptors, centers)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


# ---- the whole method


def test_the_vectors_are_those_of_one_encoder_a_layer(fitted: Annotator, scenes: LabelledImages) -> None:
    """An encoder of each layer alone, with that layer's PCA and visual words, makes the layer's part of the vector."""
    _, vectors = fitted.encode(scenes.paths[:3])
    assert vectors.shape == (3, fitted.dimension) == (3, 3 * 18)
    for number, layer in enumerate(fitted.trunk.layers):
        alone = Encoder(device="cpu", **{**SMALL, "layer": layer})
        alone._weights = embedded()
        alone.transform_, alone.codebook_ = fitted.transform_.parts[number], fitted.codebook_.parts[number]  # type: ignore[union-attr]
        np.testing.assert_allclose(alone.encode(scenes.paths[:3])[1], vectors[:, 18 * number : 18 * number + 18], atol=1e-6)


def test_a_saved_model_is_the_same_model(fitted: Annotator, scenes: LabelledImages, tmp_path: Path) -> None:
    loaded = Annotator.load(fitted.save(tmp_path / "model.safetensors"), device="cpu")
    before, after = (one.annotate(scenes.paths, k=4) for one in (fitted, loaded))
    np.testing.assert_array_equal(before.index, after.index)
    np.testing.assert_array_equal(before.distance, after.distance)
    assert loaded.to_model_file().sha256 == fitted.to_model_file().sha256


def test_more_images_are_a_fit_to_all(scenes: LabelledImages) -> None:
    half = annotator(head="ridge").fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary)
    before = half.bank_.sums.copy()
    half.partial_fit(scenes.paths[:5], [[scenes.vocabulary[w] for w in scenes.labels[[row]].indices] for row in range(5)])
    half.forget(scenes.paths[:5], [[scenes.vocabulary[w] for w in scenes.labels[[row]].indices] for row in range(5)])
    np.testing.assert_allclose(half.bank_.sums, before, atol=1e-9)


def test_contributions_add_up_to_the_score(fitted: Annotator, scenes: LabelledImages) -> None:
    for explanation in fitted.explain(scenes.paths[:2], k=2):
        np.testing.assert_allclose(explanation.contributions.sum(axis=1) + explanation.bias, explanation.scores, rtol=1e-5)


@pytest.mark.parametrize(("name", "axis"), [("centers", 0), ("offset", 0), ("matrix", 1)])
def test_a_file_whose_layers_do_not_fit(fitted: Annotator, tmp_path: Path, name: str, axis: int) -> None:
    content = fitted.to_model_file()
    cut = np.take(content.tensors[name], range(content.tensors[name].shape[axis] - 1), axis=axis)
    path = ModelFile({**content.tensors, name: cut}, content.metadata).write(tmp_path / "cut.safetensors")
    with pytest.raises(ModelFileError, match="expected"):
        ModelFile.read(path)
