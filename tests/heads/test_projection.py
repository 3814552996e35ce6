"""The joint projection against NumPy's SVD, its products against plain loops, and both in the whole method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small import small_annotator

from gpuannot import Annotator
from gpuannot.datasets.label_files import LabelledImages
from gpuannot.errors import ModelFileError, NotFittedError
from gpuannot.heads.calibration import random_numbers
from gpuannot.heads.projection import JointProjection, projection_sample
from gpuannot.model.file import ModelFile


def annotator(**changes: Any) -> Annotator:
    small = {
        "layer": "pool2+conv3_1", "input_size": 32, "n_components": 6, "n_centers": 3, "signed_sqrt": True, "l2": True,
        "projection": 5, "quadratic": 3, "head": "ridge", "calibration": "odds", "balance": 1.0, "trunk_dtype": "float32",
    }  # fmt: skip
    return small_annotator(**{**small, **changes})


@pytest.fixture(scope="module")
def fitted(scenes: LabelledImages) -> Annotator:
    """Read only."""
    return annotator().fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary)


def drawn_vectors(images: int, dimension: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(1)
    return (rng.normal(size=(images, dimension)) * np.linspace(3, 1, dimension) + rng.normal(size=dimension)).astype(np.float32)


def by_svd(vectors: NDArray[np.float32], keep: int, learnt: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """Unit-length projections on the leading right singular vectors, float64; ``learnt`` are the rows that these come from."""
    exact = vectors.astype(np.float64)
    rows = exact if learnt is None else exact[learnt]
    projected = (exact - rows.mean(axis=0)) @ np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)[2][:keep].T
    return projected / np.linalg.norm(projected, axis=1, keepdims=True)


@pytest.mark.parametrize(("images", "dimension"), [(40, 12), (40, 40), (41, 90)])
def test_coordinates_are_those_of_the_singular_value_decomposition(images: int, dimension: int) -> None:
    vectors = drawn_vectors(images, dimension)
    found = JointProjection(7).fit(torch.from_numpy(vectors)).transform(torch.from_numpy(vectors)).numpy()
    expected = by_svd(vectors, 7)
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=2**-11)  # of 16 bits
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("quadratic", [0, 1, 3, 7])
def test_products_by_plain_loops(quadratic: int) -> None:
    vectors = torch.from_numpy(drawn_vectors(40, 12))
    projection = JointProjection(7, quadratic, 0.3).fit(vectors)
    unit, whole = projection.unit(vectors).double().numpy(), projection.transform(vectors).numpy()
    assert whole.shape == (40, projection.dimension) == (40, 7 + quadratic * (quadratic + 1) // 2)
    for row in range(40):
        products = [
            unit[row, i] * unit[row, j] * (0.3 * (1 if i == j else 2)) ** 0.5 for i in range(quadratic) for j in range(i, quadratic)
        ]
        expected = [*unit[row], *products]
        np.testing.assert_allclose(whole[row], expected, atol=1e-6)
    kernel = unit @ unit.T + 0.3 * (unit[:, :quadratic] @ unit[:, :quadratic].T) ** 2
    np.testing.assert_allclose(whole @ whole.T, kernel, atol=1e-5)


def test_few_images_keep_a_quarter_of_their_number() -> None:
    vectors = torch.from_numpy(drawn_vectors(22, 12))
    projection = JointProjection(8, 7).fit(vectors)
    assert (projection.n_components, projection.quadratic, projection.dimension) == (5, 5, 5 + 15)


@pytest.mark.parametrize(
    ("images", "most", "expected"),
    [(0, 9, 0), (1, 9, 1), (7, 9, 7), (8, 9, 7), (10, 9, 9), (11, 9, 9), (4500, 4096, 3938), (5000, 4096, 4096)],
)
def test_the_projection_leaves_an_eighth_of_the_images(images: int, most: int, expected: int) -> None:
    """Those that a sample of the images takes first, wherever images that cannot be read are missing."""
    positions = np.flatnonzero(np.random.default_rng(0).random(2 * images + 50) < 0.6)[:images]
    sample, keys = projection_sample(positions, most, 3), random_numbers(positions, 3)
    assert len(sample) == expected and (np.diff(sample) > 0).all()
    left = np.setdiff1d(np.arange(images), sample)
    assert not len(left) or not expected or keys[left].max() < keys[sample].min()


def test_no_vectors_and_a_vector_of_the_mean() -> None:
    projection = JointProjection(5, 2).fit(torch.from_numpy(drawn_vectors(40, 12)))
    assert projection.transform(torch.empty(0, 12)).shape == (0, 8)
    assert not projection.transform(torch.from_numpy(projection.mean_)[None]).any()


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (torch.ones(3, 12), "at least 4 images, got 3"),
        (torch.ones(40, 12), "vary in 0 directions only, not in 5"),
        (torch.full((40, 12), torch.nan), "NaN or infinite"),
    ],
)
def test_vectors_that_cannot_be_learnt_from(vectors: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JointProjection(5).fit(vectors)


def test_before_fit() -> None:
    with pytest.raises(NotFittedError, match="learnt nothing"):
        JointProjection(5).transform(torch.ones(1, 12))


def test_a_score_pulled_back_to_the_vlad_vector() -> None:
    vectors = drawn_vectors(40, 12)
    projection = JointProjection(7, 4).fit(torch.from_numpy(vectors))
    weights = np.random.default_rng(2).normal(size=(3, projection.dimension))
    for vector in vectors[:4]:
        transformed, pulled, constant = projection.pull_back(vector, weights)
        np.testing.assert_allclose(transformed, projection.transform(torch.from_numpy(vector)[None])[0], atol=1e-5)
        np.testing.assert_allclose(pulled @ vector + constant, weights @ transformed, atol=1e-5)


# ---- the whole method


def test_the_annotators_vectors_are_the_projected_vlad_vectors(fitted: Annotator, scenes: LabelledImages) -> None:
    plain = annotator(projection=0, quadratic=0)
    plain.encoder.transform_, plain.encoder.codebook_ = fitted.encoder.transform_, fitted.encoder.codebook_
    plain.words.restore(fitted.bank_)
    _, vlad = plain.encoder.encode(scenes.paths)
    _, vectors = fitted.encoder.encode(scenes.paths)
    unit = by_svd(vlad, 5, np.sort(np.argsort(random_numbers(np.arange(24), 0))[3:]))
    assert vectors.shape == (24, fitted.encoder.dimension) == (24, 5 + 6)
    signs = np.sign((vectors[:, :5] * unit).sum(axis=0))
    np.testing.assert_allclose(vectors[:, :5] * signs, unit, atol=1e-3)
    np.testing.assert_allclose(vectors[:, 5:8], vectors[:, :1] * vectors[:, :3] * np.sqrt([0.5, 1.0, 1.0]), atol=1e-6)


def test_it_is_learnt_from_a_bounded_sample(scenes: LabelledImages) -> None:
    few = annotator(projection_sample=12).fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary)
    assert few.encoder.projection_.n_components == 3


def test_a_saved_model_is_the_same_model(fitted: Annotator, scenes: LabelledImages, tmp_path: Path) -> None:
    loaded = Annotator.load(fitted.save(tmp_path / "model.safetensors"), device="cpu")
    before, after = (one.annotate(scenes.paths, k=4) for one in (fitted, loaded))
    np.testing.assert_array_equal(before.index, after.index)
    np.testing.assert_array_equal(before.distance, after.distance)
    assert loaded.to_model_file().sha256 == fitted.to_model_file().sha256


def test_adding_and_forgetting_images(fitted: Annotator, scenes: LabelledImages, tmp_path: Path) -> None:
    changed = Annotator.load(fitted.save(tmp_path / "model.safetensors"), device="cpu")
    changed.partial_fit(scenes.paths[:3], [["tree"], ["tree"], ["tree"]])
    assert changed.bank_.counts.sum() == fitted.bank_.counts.sum() + 3
    changed.forget(scenes.paths[:3], [["tree"], ["tree"], ["tree"]])
    np.testing.assert_allclose(changed.bank_.sums, fitted.bank_.sums, atol=1e-9)
    np.testing.assert_array_equal(changed.annotate(scenes.paths, 3).index, fitted.annotate(scenes.paths, 3).index)


def test_a_tensor_is_annotated_as_its_images(fitted: Annotator) -> None:
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    index, distance = fitted.annotate_tensor(images, 2)
    expected = fitted.annotate(images, 2)
    np.testing.assert_array_equal(index, expected.index)
    np.testing.assert_allclose(distance, expected.distance, atol=1e-5)


def test_contributions_add_up_to_the_score(fitted: Annotator, scenes: LabelledImages) -> None:
    index, distance = fitted.annotate(scenes.paths[:3], 2).index, fitted.annotate(scenes.paths[:3], 2).distance
    for number, explanation in enumerate(fitted.explain(scenes.paths[:3], k=2)):
        np.testing.assert_array_equal(explanation.index, index[number])
        np.testing.assert_allclose(explanation.scores, -distance[number], atol=1e-4)
        np.testing.assert_allclose(explanation.contributions.sum(axis=1) + explanation.bias, explanation.scores, atol=1e-5)


@pytest.mark.gpu
def test_a_gpu_gives_the_words_of_the_cpu(fitted: Annotator, tmp_path: Path) -> None:
    on_gpu = Annotator.load(fitted.save(tmp_path / "model.safetensors"), device="cuda")
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    on_gpu.annotate_tensor(images[:1].cuda(), 2)  # puts the model on the device
    device_images = images.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        index, _ = on_gpu.annotate_tensor(device_images, 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected, _ = fitted.annotate_tensor(images, 2)
    assert float((index.cpu() == expected).float().mean()) >= 0.99
    replayed, _ = on_gpu.capture(tuple(images.shape), 2)(device_images)  # type: ignore[arg-type]
    assert torch.equal(replayed, index)


@pytest.mark.parametrize("name", ["projection", "projection_mean"])
def test_a_file_whose_projection_does_not_fit(fitted: Annotator, tmp_path: Path, name: str) -> None:
    content = fitted.to_model_file()
    path = ModelFile({**content.tensors, name: content.tensors[name][:-1]}, content.metadata).write(tmp_path / "cut.safetensors")
    with pytest.raises(ModelFileError, match="expected"):
        ModelFile.read(path)


def test_a_file_without_a_part_of_its_projection(fitted: Annotator, tmp_path: Path) -> None:
    content = fitted.to_model_file()
    tensors = {name: tensor for name, tensor in content.tensors.items() if name != "projection_mean"}
    path = ModelFile(tensors, content.metadata).write(tmp_path / "without.safetensors")
    with pytest.raises(ModelFileError, match="only one of the tensors"):
        Annotator.load(path, device="cpu")


def test_a_file_whose_settings_know_no_projection(fitted: Annotator, tmp_path: Path) -> None:
    content = fitted.to_model_file()
    config = {**content.metadata["config"], "layer": "pool2", "n_centers": 1, "n_components": 1, "projection": 0, "quadratic": 0}
    path = ModelFile(content.tensors, {**content.metadata, "config": config}).write(tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match="expected the image vectors' length"):
        Annotator.load(path, device="cpu")
