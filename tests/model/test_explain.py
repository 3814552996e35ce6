"""Why a word: what the patches say adds up to the score, and the pictures show it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import RIDGE, SMALL, fit_stored, small_annotator
from typer.testing import CliRunner

from gpuannot import Annotator
from gpuannot.cli.main import app
from gpuannot.datasets import LabelledImages
from gpuannot.errors import DataError
from gpuannot.model.store import FeatureStore
from gpuannot.reference.vlad import patch_contributions, vlad
from gpuannot.report.explained import write_explanations

HEADS: list[dict[str, Any]] = [{}, {"metric": "cosine"}, {"head": "demixed"}, RIDGE, {**RIDGE, "moments": 5, "projection": 12}]
NORMALISATIONS = [(), ("signed_sqrt", "l2"), ("mass", "intra"), ("mass", "intra", "signed_sqrt", "l2")]


@pytest.mark.parametrize("steps", NORMALISATIONS, ids=str)
@pytest.mark.parametrize("head", HEADS, ids=str)
def test_contributions_add_up_to_the_score(
    scenes: LabelledImages, features: FeatureStore, head: dict[str, Any], steps: tuple[str, ...]
) -> None:
    config = {**head, **{step: step in steps for step in ("mass", "intra", "signed_sqrt", "l2")}}
    made = fit_stored(small_annotator(**SMALL, **config), features, scenes)
    vectors = made.encoder.encode(scenes.paths[:4])[1].astype(np.float64)
    result = made.annotate(scenes.paths[:4], k=3)
    found = made.explain(scenes.paths[:4], k=3)
    for row, why in enumerate(found):
        assert why.words == result.words[row] and why.index.tolist() == result.index[row].tolist()
        assert why.name == str(scenes.paths[row]) and why.grid == (8, 8) and why.contributions.shape == (3, 64)
        total = why.contributions.sum(axis=1, dtype=np.float64) + why.bias
        assert np.abs(total - why.scores).max() <= 1e-5 * np.abs(why.contributions).sum(axis=1).max()
        x, distance = vectors[row], result.distance[row].astype(np.float64)
        if made.config.head == "ridge":
            expected = -distance
        elif made.config.metric == "cosine":
            expected = 1 - distance
        else:
            expected = (x @ x - distance**2) / 2
        np.testing.assert_allclose(why.scores, expected, rtol=1e-3, atol=2e-3 * np.abs(expected).max())


def test_contributions_of_several_layers_add_up_to_the_score(layered: Annotator, scenes: LabelledImages) -> None:
    for explanation in layered.explain(scenes.paths[:2], k=2):
        np.testing.assert_allclose(explanation.contributions.sum(axis=1) + explanation.bias, explanation.scores, rtol=1e-5)


def test_a_patch_that_is_grey_and_one_that_matters(fitted: Annotator) -> None:
    """VLAD before its norms is a sum over patches: what a patch adds is what the score loses without it."""
    made = fitted
    features = torch.randn(64, made.encoder.trunk.channels, generator=torch.Generator().manual_seed(0))
    weights = np.random.default_rng(0).standard_normal((2, made.encoder.dimension))
    descriptors = made.encoder.transform_.transform(features.numpy())
    (centers,) = made.encoder.codebook_.centers
    vector, split = patch_contributions(descriptors, centers, weights)
    for patch in (0, 17, 63):
        without = vlad(np.delete(descriptors, patch, axis=0)[None].astype(np.float64), centers.astype(np.float64))[0]
        np.testing.assert_allclose(split[:, patch], weights @ (vector - without), rtol=1e-6, atol=1e-6)


def test_a_descriptor_without_centre_adds_nothing() -> None:
    descriptors = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    descriptors[2, 1] = np.nan
    centers, weights = np.eye(3, dtype=np.float32), np.ones((1, 9))
    vector, split = patch_contributions(descriptors, centers, weights, signed_sqrt=True, l2=True)
    assert split[0, 2] == 0
    np.testing.assert_allclose(vector, vlad(descriptors[None], centers, signed_sqrt=True, l2=True)[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(split.sum(axis=1), weights @ vector, rtol=1e-12)
    vector, split = patch_contributions(np.empty((0, 3), np.float32), centers, weights, intra=True, l2=True)
    assert not vector.any() and split.shape == (1, 0)


def test_words_that_are_asked_for(fitted: Annotator, scenes: LabelledImages) -> None:
    word = fitted.vocabulary[3]
    by_name, as_list = fitted.explain(scenes.paths[:2], word), fitted.explain(scenes.paths[:2], [word])
    assert [why.words for why in by_name] == [(word,)] * 2
    assert np.array_equal(by_name[0].contributions, as_list[0].contributions)
    with pytest.raises(ValueError, match="the vocabulary lacks 'nothing'"):
        fitted.explain(scenes.paths[:1], ["nothing"])
    fitted.bank_.add_words(["nothing"])
    with pytest.raises(DataError, match="'nothing' has no image"):
        fitted.explain(scenes.paths[:1], ["nothing"])
    with pytest.warns(UserWarning, match="1 of 2 images could not be read"):
        assert [why.name for why in fitted.explain([b"", scenes.paths[0]])] == [str(scenes.paths[0])]
    assert len(fitted.failures_) == 1


def test_a_model_of_fewer_words_than_are_explained(scenes: LabelledImages, tmp_path: Path) -> None:
    labels = [["sky"] if row % 2 else ["sea", "sky"] for row in range(8)]
    made = small_annotator(**SMALL).fit(scenes.paths[:8], labels, progress=False)
    assert made.explain(scenes.paths[:1])[0].words == made.annotate(scenes.paths[:1]).words[0]
    assert made.explain(scenes.paths[:1], ["sea"], k=7)[0].words == ("sea",)
    path = str(made.save(tmp_path / "m.safetensors"))
    for number, option in enumerate(([], ["--word", "sea"])):
        arguments = ["explain", path, str(scenes.paths[0]), "-o", str(tmp_path / f"why{number}"), *option]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert len(json.loads((tmp_path / f"why{number}/explanations.json").read_text())[0]["words"]) == 2 - number


def test_heatmaps_and_overlays(fitted: Annotator, scenes: LabelledImages) -> None:
    why = fitted.explain(scenes.paths[:1], k=2)[0]
    grid = why.heatmap(word=1)
    assert np.array_equal(grid, why.contributions[1].reshape(8, 8))
    grid[:] = 0
    assert why.contributions[1].any()  # it was a copy
    heat = why.heatmap((30, 50), why.words[1])
    assert heat.shape == (30, 50) and heat.dtype == np.float32
    expected = np.asarray(Image.fromarray(why.heatmap(word=1)).resize((50, 30), Image.Resampling.BICUBIC))
    assert np.array_equal(heat, expected)
    with Image.open(scenes.paths[0]) as image:
        size = image.size
    picture = np.asarray(why.overlay(scenes.paths[0]), dtype=np.int64)
    assert picture.shape == (size[1], size[0], 3)
    full = why.heatmap((size[1], size[0]))
    spoken, silent = full > 0.3 * full.max(), full <= 0
    assert (picture[spoken][:, 0] > picture[spoken][:, 1]).mean() > 0.95  # the palette's purples and oranges, over a grey
    assert np.abs(np.diff(picture[silent], axis=1)).max() <= 1  # and grey, dimmed, where nothing speaks for it
    both = np.asarray(why.overlay(scenes.paths[0], against=True), dtype=np.int64)
    blue = both[..., 2] - both[..., 0]
    assert (blue[full < -0.3 * np.abs(full).max()] > 20).all() and np.array_equal(both[full >= 0], picture[full >= 0])
    with pytest.raises(ValueError, match="is not explained here"):
        why.heatmap(word="nothing")
    with pytest.raises(ValueError, match="word 2 is not one of the 2"):
        why.overlay(scenes.paths[0], 2)


# ---- the command line


def test_explain_on_the_command_line(model: Path, scenes: LabelledImages, tmp_path: Path) -> None:
    def run(*arguments: Any) -> Any:
        return CliRunner().invoke(app, ["explain", str(model), *(str(argument) for argument in arguments)])

    result = run(scenes.paths[0], tmp_path / "none.jpg", "-k", 2, "-o", tmp_path / "why", "--json", "--no-progress")
    assert result.exit_code == 1 and "none.jpg" in result.stderr
    entries = json.loads((tmp_path / "why" / "explanations.json").read_text())
    assert json.loads(result.stdout) == entries and len(entries) == 1
    entry = entries[0]
    assert entry["path"] == str(scenes.paths[0]) and entry["grid"] == [8, 8] and len(entry["words"]) == 2
    total = np.sum(entry["contributions"], axis=(1, 2)) + entry["bias"]
    np.testing.assert_allclose(total, entry["scores"], atol=1e-3)
    assert [name.split("-")[:2] for name in entry["pictures"]] == [["scene_00000", "1"], ["scene_00000", "2"]]
    page = (tmp_path / "why" / "index.html").read_text()
    assert all(f'src="{name}"' in page for name in entry["pictures"]) and "none.jpg: no such file" in page
    with Image.open(scenes.paths[0]) as image, Image.open(tmp_path / "why" / entry["pictures"][1]) as picture:
        assert picture.size == image.size
    again = run(scenes.paths[0], "-o", tmp_path / "why")
    assert again.exit_code == 2 and "exists" in again.stderr
    assert run(scenes.paths[0], "-o", tmp_path / "why", "--overwrite", "--word", scenes.vocabulary[2]).exit_code == 0


def test_pictures_are_called_after_their_photographs(fitted: Annotator, scenes: LabelledImages, tmp_path: Path) -> None:
    """In two folders, in capitals or not, and with signs that a page or a file name must not hold."""
    names = ["a/beach.jpg", "b/Beach.jpg", "c/<i>&%.jpg", "c/beach.png", "d/" + "long" * 60 + ".jpg"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(scenes.paths[0], tmp_path / name)
    (tmp_path / "why").mkdir()
    images = [tmp_path / name for name in names]
    found = fitted.explain(images, k=1)
    pictures = write_explanations(tmp_path / "why", zip(found, images, strict=True))
    stems = [name.rpartition(f"-1-{scenes.vocabulary[each.index[0]]}.png")[0] for [name], each in zip(pictures, found, strict=True)]
    assert stems == ["beach", "Beach-2", "_i___", "beach-3", ("long" * 60)[:60]]
    assert {path.name for path in (tmp_path / "why").iterdir()} == {"index.html", *(name for [name] in pictures)}
    page = (tmp_path / "why" / "index.html").read_text()
    assert "&lt;i&gt;&amp;%.jpg" in page and "<i>" not in page and page.count("<img") == 5
