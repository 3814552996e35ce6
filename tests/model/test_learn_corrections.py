"""Corrected labels, learnt: what is left is a fit to the corrected labels."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small import small_annotator

from gpuannot import AnnotatorConfig
from gpuannot.datasets.label_files import LabelledImages
from gpuannot.errors import DataError
from gpuannot.heads.word_head import new_bank
from gpuannot.model.corrections import learn_corrections
from gpuannot.model.word_model import WordModel

# The presets at a small size. What they choose is told, so that a fit to other labels chooses the same.
SMALL_LAYERS: dict[str, Any] = {"layer": "pool2", "input_size": 32, "n_components": 8, "n_centers": 4}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": SMALL_LAYERS,
    "best": {**SMALL_LAYERS, "projection": 8, "quadratic": 3, "regularisation": 0.5, "balance": 0.2},
    "kernel": {**SMALL_LAYERS, "projection": 8, "regularisation": 0.05, "balance": 0.2},
}


def words_of(images: LabelledImages) -> list[list[str]]:
    return [[images.vocabulary[word] for word in images.labels[[row]].indices] for row in range(len(images))]


def every_score(words: WordModel, vectors: Any) -> Any:
    """(N, W), 0 for words without an image."""
    index, distance = words.rank(vectors, len(words.bank_.known))
    found = np.zeros((len(vectors), len(words.vocabulary)))
    np.put_along_axis(found, index, distance.astype(np.float64), axis=1)
    return found


@pytest.mark.parametrize("preset", PRESETS)
def test_corrections_give_a_fit_to_the_corrected_labels(preset: str, scenes: LabelledImages, tmp_path: Any) -> None:
    made = small_annotator(config=AnnotatorConfig.preset(preset, **PRESETS[preset]))
    first, before = slice(0, 20), words_of(scenes)
    made.fit(scenes.paths[first], before[first], vocabulary=scenes.vocabulary, progress=False)
    vectors = made.encoder.encode(scenes.paths, progress=False)[1]
    every_score(made.words, vectors)  # so that what follows changes a solution
    after = [list(words) for words in before]
    after[0], after[3], after[7] = [], ["lighthouse", *before[3]], before[7][1:]
    after[21] = ["lighthouse", *before[21]]
    rows = [0, 3, 7, 11, 20, 21]  # 11 is as it was, 20 and 21 are new
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    paths, now = [*(scenes.paths[row] for row in rows), tmp_path / "cut.jpg"], [*(after[row] for row in rows), ["sky"]]
    with pytest.warns(UserWarning, match="could not be read"):
        changes = learn_corrections(made.words, paths, now, [*(before[row] if row < 20 else None for row in rows), None])
    assert changes[:3] == (3, 2, 1) and [failure.path for failure in changes.failures] == [str(tmp_path / "cut.jpg")]
    gained = Counter(["lighthouse", *after[20], *after[21]])
    assert changes.gained == gained and changes.lost == Counter([*before[0], before[7][0]])
    vocabulary = (*scenes.vocabulary, "lighthouse")
    assert made.vocabulary == vocabulary
    other = WordModel(made.encoder)  # with λ and what else the fit settled
    other.restore(new_bank(made.config, vocabulary, made.encoder.dimension, "cpu"))
    other.head.penalty, other.head.chosen = made.words.head.penalty, made.words.head.chosen
    there = range(22)
    other.partial_fit(vectors[there], [after[row] for row in there])
    expected = every_score(other, vectors)
    assert np.abs(every_score(made.words, vectors) - expected).max() <= 1e-5 * np.ptp(expected)


def test_corrections_of_other_images_are_refused(scenes: LabelledImages) -> None:
    made = small_annotator(config=AnnotatorConfig.preset("kernel", **PRESETS["kernel"]))
    made.fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary, progress=False)
    model = made.to_model_file().sha256
    black = Image.new("RGB", (32, 32))
    for image, was, now, message in (
        (black, ["sky"], ["sea"], "1 image cannot be corrected: this model did not learn them with the words"),
        (scenes.paths[0], ["unheard of"], ["sea"], "'unheard of'"),
        (scenes.paths[0], words_of(scenes)[0], ["sea", ""], "non-empty"),
        (scenes.paths[0], words_of(scenes)[0], "sea", "string"),
    ):
        with pytest.raises(DataError, match=message):
            learn_corrections(made.words, [image], [now], [was])
        assert made.to_model_file().sha256 == model
    with pytest.warns(UserWarning, match="could not be read"), pytest.raises(DataError, match="image 0: not an image"):
        learn_corrections(made.words, [b"no image"], [["sea"]], [None])
    assert learn_corrections(made.words, [b"unread"], [["a", "b"]], [["b", "a"]])[:3] == (0, 0, 1)
