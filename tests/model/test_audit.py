"""What an audit finds: planted errors, images and words that are alike, and how it comes to its vectors."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from small import small_annotator

from gpuannot import AnnotatorConfig
from gpuannot.datasets.label_files import LabelledImages
from gpuannot.errors import DataError
from gpuannot.experiments.audit import audit_images
from gpuannot.images.batches import ImageFailure
from gpuannot.model.audit import ALIKE, FEW, audit, kept_vectors, regression_of
from gpuannot.model.encoder import Encoder
from gpuannot.model.word_model import WordModel

VOCABULARY = ("sea", "ocean", "tree", "night", "unique")
SMALL_LAYERS: dict[str, Any] = {"layer": "pool2", "input_size": 32, "n_components": 8, "n_centers": 4}


def planted() -> tuple[Any, Any]:
    """120 vectors around three centres: of the first, images carry sea or ocean at random, of the second tree, of the third night.

    Image 0 is night called tree, image 1 lacks tree, 2 and 3 are copies of which one has night as well, image 4 has a word of its
    own.
    """
    rng = np.random.default_rng(0)
    kind = np.arange(120) % 3
    kind[:5] = 2, 1, 0, 0, 0
    centres = np.linalg.qr(rng.standard_normal((32, 3)))[0].T
    vectors = (centres[kind] + 0.06 * rng.standard_normal((120, 32))).astype(np.float32)
    vectors[3] = vectors[2] + 0.001
    labels = np.zeros((120, 5), np.float32)
    labels[np.arange(120), np.where(kind == 0, rng.integers(0, 2, 120), kind + 1)] = 1
    labels[0], labels[1], labels[3] = (0, 0, 1, 0, 0), 0, labels[2]
    labels[3, 3] = labels[4, 4] = 1
    return vectors, sparse.csr_array(labels)


@pytest.mark.parametrize("head", ["mean", "ridge", "kernel"])
def test_planted_errors_are_the_first_that_are_found(head: str) -> None:
    vectors, labels = planted()
    if head == "kernel":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    model = WordModel(Encoder(AnnotatorConfig(n_components=8, n_centers=4, head=head, l2=True), device="cpu"))
    found = audit(regression_of(model, vectors, labels, VOCABULARY), vectors, labels)
    assert found.wrong[0][:2] in ((0, 2), (3, 3)) and {doubt[:2] for doubt in found.wrong[:2]} == {(0, 2), (3, 3)}
    assert {doubt[:2] for doubt in found.missing[:2]} == {(0, 3), (1, 2)}
    for doubts, wrong in ((found.wrong, True), (found.missing, False)):
        values = [doubt.probability / doubt.average if wrong else -doubt.probability for doubt in doubts]
        assert values == pytest.approx(sorted(values), rel=1e-5)
        assert all(found.probability[doubt[:2]] == np.float32(doubt.probability) for doubt in doubts)
    assert found.alike[0].images == (2, 3) and found.alike[0].similarity > 0.999 and found.alike[0].words == ((), (3,))
    assert all(pair.similarity >= ALIKE and pair.words != ((), ()) for pair in found.alike)
    assert [pair.words for pair in found.confused] == [(0, 1)] and 0.5 <= found.confused[0].told_apart < 0.75
    assert found.few == ((4, 1),) and np.isnan(found.probability[:, 4]).all() and FEW > 1
    counts = labels.toarray().sum(axis=0)
    assert found.confused[0].images == (int(counts[0]), int(counts[1]))


@pytest.mark.parametrize("head", ["ridge", "kernel"])
def test_labels_that_images_say_nothing_of_are_not_judged(head: str) -> None:
    """An image left out takes its label out of what the others say, which alone makes labels look wrong."""
    rng = np.random.default_rng(1)
    vectors = (np.ones(32) + 1e-3 * rng.standard_normal((120, 32))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = sparse.csr_array((rng.random((120, 4)) < [0.5, 0.3, 0.2, 0.1]).astype(np.float32))
    model = WordModel(Encoder(AnnotatorConfig(n_components=8, n_centers=4, head=head, l2=True, regularisation=5.0), device="cpu"))
    found = audit(regression_of(model, vectors, labels, ("a", "b", "c", "d")), vectors, labels)
    assert found.wrong == found.missing == ()


def test_pairs_that_are_alike_are_all_pairs_of_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, labels = planted()
    model = regression_of(WordModel(Encoder(n_components=8, n_centers=4, head="ridge", device="cpu")), vectors, labels, VOCABULARY)
    monkeypatch.setattr("gpuannot.model.audit._BLOCK", 7)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near, dense = unit @ unit.T >= ALIKE, labels.toarray()
    expected = {(i, j) for i in range(120) for j in range(i + 1, 120) if near[i, j] and (dense[i] != dense[j]).any()}
    found = audit(model, vectors, labels).alike
    assert {pair.images for pair in found} == expected and len(found) == len(expected)
    assert [pair.similarity for pair in found] == sorted((pair.similarity for pair in found), reverse=True)


def test_images_are_encoded_once_and_those_that_a_kernel_keeps_never(
    scenes: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model fitted here is the one that a fit makes, all ways to the vectors find the same, what cannot be read is left out."""
    made = small_annotator(**SMALL_LAYERS, head="kernel", projection=8, statistics_images=16)
    passed = []
    run = made.encoder.extractor.run_trunk
    monkeypatch.setattr(made.encoder.extractor, "run_trunk", lambda images: passed.append(len(images)) or run(images))
    cut = dataclasses.replace(scenes, paths=(*scenes.paths[:3], scenes.paths[3].with_name("cut.jpg"), *scenes.paths[4:]))
    found = audit_images(made, cut, progress=False)
    assert sum(passed) == 23 and [failure.path for failure in found.failures] == [str(cut.paths[3])]
    assert len(found.images) == 23 and isinstance(found.failures[0], ImageFailure) and cut.paths[3] not in found.images.paths
    passed.clear()
    again = audit_images(made, found.images, progress=False)
    assert not passed and kept_vectors(made.words, found.images.labels, found.images.vocabulary) is not None
    np.testing.assert_allclose(again.audit.probability, found.audit.probability, atol=1e-3)  # kept in 16 bits
    others = sparse.csr_array(1 - found.images.labels.toarray())
    assert kept_vectors(made.words, others, scenes.vocabulary) is None
    fitted = small_annotator(**SMALL_LAYERS, head="kernel", projection=8, statistics_images=16)
    with pytest.warns(UserWarning, match="could not be read"):
        fitted.fit(cut.paths, cut.labels, vocabulary=cut.vocabulary, progress=False)
    vectors = made.encoder.encode(scenes.paths, progress=False)[1]
    for one, other in zip(fitted.words.rank(vectors, 5), made.words.rank(vectors, 5), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_labels_of_too_few_images_cannot_be_judged(scenes: LabelledImages) -> None:
    few = dataclasses.replace(scenes, image_names=scenes.image_names[:3], paths=scenes.paths[:3], labels=scenes.labels[:3])
    with pytest.raises(DataError, match="no word is carried by 5 images, only by up to 2, which is too few"):
        audit_images(small_annotator(**SMALL_LAYERS), few)
