"""Baselines over images: the same as over their features, and unreadable images take nothing down."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gpuannot import Annotator
from gpuannot.baselines import over_images
from gpuannot.baselines.global_features import GlobalFeatures
from gpuannot.baselines.jec import JEC
from gpuannot.baselines.over_images import ImageBaseline
from gpuannot.baselines.positive_mean import PositiveMean
from gpuannot.baselines.two_pass_knn import TwoPassKNN
from gpuannot.datasets.label_files import LabelledImages
from gpuannot.errors import DataError, ImageError, NotFittedError
from gpuannot.method.labels import label_matrix


@pytest.fixture(scope="module")
def describe() -> GlobalFeatures:
    return GlobalFeatures("pool2", input_size=32, device="cpu", dtype="float32")


def colour_features(images: list[object]) -> dict[str, np.ndarray]:
    from gpuannot.images.decode import decode_image

    pixels = np.stack([decode_image(image, (8, 8)) for image in images]).reshape(len(images), -1, 3).astype(np.float32)
    return {"mean": pixels.mean(axis=1), "spread": pixels.std(axis=1)}


def test_as_over_the_features(scenes: LabelledImages, describe: GlobalFeatures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_images, "_CHUNK", 5)
    images = ImageBaseline(describe.encode, TwoPassKNN(device="cpu"))
    images.fit(scenes.paths[:18], scenes.labels[:18], vocabulary=scenes.vocabulary, progress=False)
    vectors = describe.encode(scenes.paths)
    features = TwoPassKNN(device="cpu").fit(vectors[:18], scenes.labels[:18], scenes.vocabulary)
    assert torch.equal(images.scores(scenes.paths[18:]), features.scores(vectors[18:]))
    annotations = images.annotate(scenes.paths[18:], 3)
    index, score = features.annotate(vectors[18:], 3)
    np.testing.assert_array_equal(annotations.index, index.numpy())
    np.testing.assert_array_equal(annotations.distance, -score.numpy())
    assert annotations.names == tuple(str(path) for path in scenes.paths[18:])
    assert annotations.vocabulary == scenes.vocabulary
    parts = list(images.stream(scenes.paths[18:], 3))
    assert [len(part) for part in parts] == [5, 1]


def test_unreadable_images_are_listed_and_left_out(scenes: LabelledImages, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    paths = [scenes.paths[0], broken, *scenes.paths[1:6], tmp_path / "missing.jpg"]
    words = [[scenes.vocabulary[word] for word in scenes.labels[[row]].indices] for row in range(6)]
    labels = [words[0], ["sky"], *words[1:], ["sky"]]
    baseline = ImageBaseline(colour_features, JEC(device="cpu"))
    with pytest.warns(UserWarning, match=r"2 of 8 images could not be read.*broken\.jpg"):
        baseline.fit(paths, labels, vocabulary=scenes.vocabulary)
    assert [(Path(failure.path).name, failure.stage) for failure in baseline.failures_] == [
        ("broken.jpg", "decode"),
        ("missing.jpg", "find"),
    ]
    good = JEC(device="cpu").fit(colour_features(list(scenes.paths[:6])), label_matrix(words, scenes.vocabulary)[0])
    annotations = baseline.annotate(paths, 2)
    np.testing.assert_array_equal(annotations.positions, [0, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(annotations.index, good.annotate(colour_features(list(scenes.paths[:6])), 2)[0].numpy())
    assert len(annotations) + len(annotations.failures) == len(paths)
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        baseline.scores(paths)
    none = baseline.annotate([broken], 2)
    assert len(none) == 0 and none.index.shape == (0, 2) and len(none.failures) == 1
    assert baseline.annotate([], 2).index.shape == (0, 2)
    assert baseline.scores([]).shape == (0, len(scenes.vocabulary))


def test_what_cannot_be_learnt_from(scenes: LabelledImages, tmp_path: Path) -> None:
    baseline = ImageBaseline(colour_features, JEC(device="cpu"))
    with pytest.raises(NotFittedError):
        baseline.annotate(scenes.paths[:1], 1)
    with pytest.raises(NotFittedError):
        _ = baseline.vocabulary
    with pytest.raises(DataError, match="3 images and labels of 2"):
        baseline.fit(scenes.paths[:3], [["sky"], ["sea"]])
    with pytest.raises(DataError, match=r"missing\.jpg: no such file"):
        baseline.fit([tmp_path / "missing.jpg"], [["sky"]])
    baseline.fit(scenes.paths[:3], [["sky"], ["sea"], ["sea"]])
    with pytest.raises(ValueError, match=r"1…2"):
        baseline.annotate(scenes.paths[:1], 3)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_positive_mean_is_the_annotators_head(scenes: LabelledImages, metric: str) -> None:
    annotator = Annotator(layer="pool2", input_size=32, n_components=8, n_centers=4, metric=metric, device="cpu")
    annotator.fit(scenes.paths[:18], scenes.labels[:18], vocabulary=scenes.vocabulary)
    _, vectors = annotator.encoder.encode(scenes.paths)
    head = PositiveMean(metric, device="cpu").fit(vectors[:18], scenes.labels[:18], scenes.vocabulary)
    index, score = head.annotate(vectors[18:], 5)
    annotations = annotator.annotate(scenes.paths[18:], 5)
    np.testing.assert_array_equal(index.numpy(), annotations.index)
    expected = -annotations.distance if metric == "l2" else 1 - annotations.distance
    np.testing.assert_allclose(score.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_positive_mean_by_hand() -> None:
    # Word 0: images 0 and 1, mean (1, 0). Word 1: image 2, (0, 4). Word 2: no image, never given. Query (0, 1): √2 and 3 away.
    head = PositiveMean(device="cpu").fit(np.array([[0.0, 0], [2, 0], [0, 4]]), np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0]]))
    scores = head.scores(np.array([[0.0, 1]]))
    np.testing.assert_allclose(scores.numpy(), [[-np.sqrt(2), -3, -np.inf]], rtol=1e-6)
    with pytest.raises(ValueError, match="euclid"):
        PositiveMean("euclid")
