"""A whole annotator with the head ``kernel``: words and images that come and go, its file, its reasons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import SMALL, fit_stored, small_annotator

from gpuannot import Annotator, AnnotatorConfig
from gpuannot.datasets.label_files import LabelledImages
from gpuannot.errors import DataError, InvalidArgumentError
from gpuannot.heads.kept_images import KeptImages
from gpuannot.heads.word_head import WordHead, new_bank
from gpuannot.model.store import FeatureStore

KERNEL: dict[str, Any] = {**SMALL, "head": "kernel", "signed_sqrt": True, "l2": True, "projection": 6}


@pytest.fixture
def fitted(features: FeatureStore, scenes: LabelledImages) -> Annotator:
    return fit_stored(small_annotator(**KERNEL), features, scenes)


def words_of(scenes: LabelledImages) -> list[list[str]]:
    return [[scenes.vocabulary[word] for word in scenes.labels[[row]].indices] for row in range(len(scenes))]


def scores(made: Annotator, vectors: Any) -> Any:
    """(T, W), NaN for words without an image."""
    index, distance = made.words.rank(vectors, len(made.bank_.known))
    found = np.full((len(vectors), len(made.vocabulary)), np.nan)
    np.put_along_axis(found, index, -distance.astype(np.float64), axis=1)
    return found


def refit(made: Annotator, vectors: Any, words: list[list[str]]) -> Annotator:
    """What learns these words of these vectors, with all that the fit of ``made`` settled."""
    other = small_annotator(**KERNEL)
    other.encoder.transform_, other.encoder.codebook_ = made.encoder.transform_, made.encoder.codebook_
    other.encoder.projection_ = made.encoder.projection_
    other.words.restore(new_bank(other.config, made.vocabulary, other.encoder.dimension, "cpu"))
    other.words.head = head = WordHead(other.config)
    head.penalty, head.logistic, head.chosen = made.words.head.penalty, made.words.head.logistic, made.words.head.chosen
    other.words.changed()
    return other.partial_fit(vectors, words)


@pytest.mark.parametrize("seed", range(10))
def test_any_changes_give_what_a_fit_to_what_is_left_gives(seed: int, fitted: Annotator, scenes: LabelledImages) -> None:
    rng = np.random.default_rng(seed)
    chosen = fitted.words.head.chosen
    vectors = fitted.encoder.encode(scenes.paths)[1]
    words, there = words_of(scenes), list(range(len(scenes)))
    scores(fitted, vectors)  # so that what follows changes a solution
    for step in range(12):
        kind = rng.choice(["add", "forget", "new", "remove", "rename", "merge"])
        if kind == "forget" and len(there) > 12:
            gone = [int(row) for row in rng.choice(there, 3, replace=False)]
            fitted.forget(vectors[gone], [words[row] for row in gone])
            there = [row for row in there if row not in gone]
        elif kind == "add" and len(there) < len(scenes):
            back = [row for row in range(len(scenes)) if row not in there][:2]
            fitted.partial_fit(vectors[back], [words[row] for row in back])
            there += back
        elif kind == "new" and len(there) < len(scenes):
            row = next(row for row in range(len(scenes)) if row not in there)
            fitted.add_word(f"new {step}", vectors[[row]])
            words[row] = [f"new {step}"]
            there.append(row)
        elif kind == "remove" and len(fitted.bank_.known) > 4:
            word = fitted.vocabulary[int(rng.integers(len(fitted.vocabulary)))]
            fitted.remove_words(word)
            words = [[each for each in own if each != word] for own in words]
        elif kind == "rename":
            word = fitted.vocabulary[int(rng.integers(len(fitted.vocabulary)))]
            fitted.rename_word(word, f"{word} {step}")
            words = [[f"{word} {step}" if each == word else each for each in own] for own in words]
        elif kind == "merge" and len(fitted.bank_.known) > 4:
            word, into = (fitted.vocabulary[number] for number in rng.choice(len(fitted.vocabulary), 2, replace=False))
            fitted.merge_words(word, into)  # the images that carry both are known
            words = [sorted({into if each == word else each for each in own}) for own in words]
    expected = refit(fitted, vectors[there], [words[row] for row in there])
    assert fitted.bank_.counts.tolist() == expected.bank_.counts.tolist() and fitted.words.head.chosen == chosen
    found, wanted = scores(fitted, vectors), scores(expected, vectors)
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.nanstd(wanted))


@pytest.mark.parametrize("sums", [True, False])
def test_its_file(sums: bool, fitted: Annotator, scenes: LabelledImages, tmp_path: Path) -> None:
    loaded = Annotator.load(fitted.save(tmp_path / "kernel.safetensors", sums=sums), device="cpu")
    assert loaded.to_model_file(sums=sums).sha256 == fitted.to_model_file(sums=sums).sha256
    one, two = (each.annotate(scenes.paths) for each in (fitted, loaded))
    assert np.array_equal(one.index, two.index) and np.array_equal(one.distance, two.distance)
    assert one.confidence is not None and np.array_equal(one.confidence, two.confidence)
    given = (one.index >= 0).sum(axis=1)
    assert given.min() >= 1 and given.max() > given.min(), "as many words as are likely enough"
    if sums:
        for each in (fitted, loaded):
            each.partial_fit(scenes.paths[:2], [["new"], ["new", "sky"]]).forget(scenes.paths[3:4], [words_of(scenes)[3]])
        assert loaded.to_model_file().sha256 == fitted.to_model_file().sha256
    else:
        with pytest.raises(DataError, match="saved without the sums"):
            loaded.add_word("new", scenes.paths[:1])


def test_an_image_that_was_not_learnt_from_is_not_forgotten(fitted: Annotator, scenes: LabelledImages) -> None:
    before = fitted.to_model_file().sha256
    with pytest.raises(InvalidArgumentError, match="none that was learnt from"):
        fitted.forget(scenes.paths[:2], [words_of(scenes)[0], [scenes.vocabulary[0], scenes.vocabulary[1], scenes.vocabulary[2]]])
    assert fitted.to_model_file().sha256 == before


def test_its_reasons_add_up_to_the_score(fitted: Annotator, scenes: LabelledImages) -> None:
    for found, path in zip(fitted.explain(scenes.paths[:3], k=3), scenes.paths, strict=False):
        score = -fitted.annotate([path], k=3).distance[0]
        np.testing.assert_allclose(found.contributions.sum(axis=1) + found.bias, score, atol=2e-5)
        np.testing.assert_allclose(found.scores, score, atol=2e-5)
        # The first order holds near the image: the same patches of a vector that is a little off move the score as they say.
        vector = fitted.encoder.encode([path])[1]
        weights, remainder = fitted.words.ranking.first_order(vector[0], np.searchsorted(fitted.bank_.known, found.index))
        other = vector + 1e-3 * np.random.default_rng(0).standard_normal(vector.shape).astype(np.float32)
        moved = scores(fitted, other)[0, found.index] - score
        np.testing.assert_allclose(moved, weights @ (other - vector)[0], atol=2e-5)
        assert np.abs(remainder).max() < 10


def test_a_kernel_takes_vectors_of_unit_length() -> None:
    for wrong in ({}, {"projection": 5, "quadratic": 2}):
        with pytest.raises(InvalidArgumentError, match="unit length: set l2 or projection, and quadratic = 0"):
            AnnotatorConfig(head="kernel", **wrong)
    assert AnnotatorConfig.preset("kernel").head == "kernel"


def test_the_bank_keeps_images_alone(fitted: Annotator, scenes: LabelledImages) -> None:
    kept = fitted.bank_.extra(KeptImages)
    assert kept is not None and len(fitted.bank_.extras) == 1 and len(kept) == len(scenes)
    assert np.array_equal(kept.labels.toarray(), scenes.labels.toarray()) and kept.keys.tolist() == list(range(len(scenes)))
