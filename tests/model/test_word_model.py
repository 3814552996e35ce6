"""Words of a fitted annotator that come, change and go, and what it says of its own certainty; and why it gave them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from gpuannot import Annotations, Annotator
from gpuannot.cli.main import app
from gpuannot.datasets.label_files import LabelledImages, load_labelled_images
from gpuannot.errors import DataError, ModelFileError, NotFittedError
from gpuannot.heads.word_head import WordHead, new_bank
from gpuannot.jobs.writers import AnnotationWriter
from gpuannot.method.weights import TrunkWeights, load_weights
from gpuannot.model.encoder import Store
from gpuannot.model.file import ModelFile

SMALL: dict[str, Any] = {"layer": "pool2", "input_size": 32, "n_components": 8, "n_centers": 4}
RIDGE: dict[str, Any] = {"head": "ridge", "calibration": "odds", "balance": 0.5, "signed_sqrt": True, "l2": True}


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
def features(scenes: LabelledImages) -> Iterator[Store]:
    """Of all scenes: the trunk has no part in what differs here."""
    made = annotator()
    with made.new_store(len(scenes)) as store:
        yield made.extract(scenes.paths, store, progress=False)


@pytest.fixture(scope="module")
def model(scenes: LabelledImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ridge annotator of all scenes, as a file."""
    made = annotator(**RIDGE).fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary)
    return made.save(tmp_path_factory.mktemp("model") / "ridge.safetensors")


@pytest.fixture
def fitted(model: Path) -> Annotator:
    return Annotator.load(model, device="cpu")


def refit(made: Annotator, scenes: LabelledImages, words: list[list[str]], rows: list[int]) -> Annotator:
    """An annotator that learnt these words of these scenes alone, with codebook, PCA and λ of ``made``."""
    other = annotator(**{name: getattr(made.config, name) for name in RIDGE})
    other.transform_, other.codebook_ = made.transform_, made.codebook_
    other.bank_ = new_bank(other.config, made.vocabulary, other.dimension, "cpu")
    other._head = WordHead(other.config)
    other._head.penalty, other._head.logistic = made._head.penalty, made._head.logistic
    return other.partial_fit([scenes.paths[row] for row in rows], [words[row] for row in rows])


def assert_same(made: Annotator, other: Annotator, scenes: LabelledImages) -> None:
    assert made.vocabulary == other.vocabulary
    left, right = (each.annotate(scenes.paths, k=4) for each in (made, other))
    assert np.array_equal(left.index, right.index)
    np.testing.assert_allclose(left.distance, right.distance, rtol=1e-5, atol=1e-5)
    if left.confidence is not None and right.confidence is not None:
        np.testing.assert_allclose(left.confidence, right.confidence, atol=1e-5)


def words_of(scenes: LabelledImages) -> list[list[str]]:
    return [[scenes.vocabulary[word] for word in scenes.labels[[row]].indices] for row in range(len(scenes))]


# ---- words


@pytest.mark.parametrize("given", ["images", "vectors", "tensor"])
def test_an_added_word_is_as_if_learnt_with_the_others(fitted: Annotator, scenes: LabelledImages, given: str) -> None:
    words = words_of(scenes)
    new = [3, 8]
    fitted.forget([scenes.paths[row] for row in new], [words[row] for row in new])
    fitted.annotate(scenes.paths[:1])  # so that what follows is an update, and not a solution from scratch
    vectors = fitted.encode([scenes.paths[row] for row in new])[1]
    forms: dict[str, Any] = {
        "images": [scenes.paths[row] for row in new],
        "vectors": vectors,
        "tensor": torch.from_numpy(vectors),
    }
    assert fitted.add_word("zebra", forms[given]) is fitted
    assert fitted.vocabulary == (*scenes.vocabulary, "zebra") and fitted.bank_.counts[-1] == 2
    for row in new:
        words[row] = ["zebra"]
    assert_same(fitted, refit(fitted, scenes, words, list(range(len(scenes)))), scenes)
    assert fitted.annotate([scenes.paths[3]], k=1).words == [("zebra",)]
    with pytest.raises(ValueError, match="the vocabulary has 'zebra' already; give it more images with partial_fit"):
        fitted.add_word("zebra", vectors)


def test_words_removed_renamed_and_merged(fitted: Annotator, scenes: LabelledImages) -> None:
    words = words_of(scenes)
    first, second, third, fourth = scenes.vocabulary[:4]
    fitted.annotate(scenes.paths[:1])
    both = [row for row, each in enumerate(words) if third in each and fourth in each]
    of_both = [words[row] for row in both]
    fitted.merge_words(third, fourth, [scenes.paths[row] for row in both], of_both)
    fitted.remove_words(first)  # a single word needs no list
    fitted.rename_word(second, "second")
    renamed = [sorted({{second: "second", third: fourth}.get(word, word) for word in each if word != first}) for each in words]
    assert fitted.vocabulary == ("second", fourth, *scenes.vocabulary[4:])
    assert_same(fitted, refit(fitted, scenes, renamed, list(range(len(scenes)))), scenes)
    with pytest.raises(ValueError, match="one has to be left"):
        fitted.remove_words(fitted.vocabulary)
    with pytest.raises(ValueError, match=f"the vocabulary lacks '{first}'"):
        fitted.remove_words([first])


def test_forgotten_images_were_never_seen(fitted: Annotator, scenes: LabelledImages, tmp_path: Path) -> None:
    words, gone = words_of(scenes), [0, 5, 6]
    with pytest.raises(DataError, match="1 of 2 images cannot be read"):
        fitted.forget([scenes.paths[0], tmp_path / "none.jpg"], [words[0], words[1]])
    with pytest.raises(ValueError, match="cannot forget"):
        fitted.forget([scenes.paths[0]] * 25, [words[0]] * 25)
    before = fitted.to_model_file().sha256
    assert before == fitted.to_model_file().sha256
    fitted.forget([scenes.paths[row] for row in gone], [words[row] for row in gone])
    kept = [row for row in range(len(scenes)) if row not in gone]
    assert_same(fitted, refit(fitted, scenes, words, kept), scenes)


def test_the_fit_is_one_of_all_images(scenes: LabelledImages) -> None:
    """λ and the logistic curve are settled once all images are in, also those beyond the ones that PCA was learnt from."""
    parts = annotator(**RIDGE, statistics_images=10).fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary)
    moments = parts.bank_.moments
    assert moments is not None and moments.images == len(scenes)
    assert parts._head.penalty == pytest.approx(float(moments.total_variance()) / moments.dimension)


def test_before_fit() -> None:
    made = annotator()
    for use in (lambda: made.remove_words(["a"]), lambda: made.rename_word("a", "b"), lambda: made.add_word("a", [])):
        with pytest.raises(NotFittedError):
            use()


@pytest.mark.parametrize("head", ["mean", "demixed", "ridge"])
def test_files_of_every_head(head: str, scenes: LabelledImages, features: Store, tmp_path: Path) -> None:
    made = annotator(head=head).fit_features(features, scenes.labels, scenes.vocabulary)
    loaded = Annotator.load(made.save(tmp_path / "m"), device="cpu")
    expected = made.annotate(scenes.paths)
    again = loaded.annotate(scenes.paths)
    assert again.distance.tobytes() == expected.distance.tobytes() and np.array_equal(again.index, expected.index)
    assert loaded.to_model_file().sha256 == made.to_model_file().sha256
    if expected.confidence is not None and again.confidence is not None:
        assert again.confidence.tobytes() == expected.confidence.tobytes()
    assert (expected.confidence is None) == (again.confidence is None) == (head != "ridge")
    for each in (made, loaded):
        each.partial_fit(scenes.paths[:3], [["zebra"], ["zebra"], [scenes.vocabulary[0]]])
    assert_same(made, loaded, scenes)
    if head in ("mean", "demixed"):
        with pytest.raises(ValueError, match=f"the head '{head}' ranks by its sums"):
            made.save(tmp_path / "small", sums=False)
        return
    small = Annotator.load(made.save(tmp_path / "small", sums=False), device="cpu")
    assert small.annotate(scenes.paths).distance.tobytes() == made.annotate(scenes.paths).distance.tobytes()
    assert (tmp_path / "small").stat().st_size < made.save(tmp_path / "m").stat().st_size
    assert small.save(tmp_path / "again").read_bytes() == (tmp_path / "small").read_bytes()
    for use in (
        lambda: small.partial_fit(scenes.paths[:1], [["zebra"]]),
        lambda: small.remove_words(["zebra"]),
        lambda: small.forget(scenes.paths[:1], [["zebra"]]),
    ):
        with pytest.raises(DataError, match="saved without the sums"):
            use()


def test_a_file_with_sums_that_do_not_fit(model: Path, tmp_path: Path) -> None:
    good = ModelFile.read(model)
    for name, wrong, message in (
        ("scatter", good.tensors["scatter"][:-1], "scatter has 527 values"),
        ("weights", good.tensors["weights"][:, :-1], "expected D"),
        ("cooccurrence", good.tensors["cooccurrence"][:, :2], "cooccurrence has shape"),
    ):
        path = ModelFile({**good.tensors, name: wrong}, good.metadata).write(tmp_path / "wrong")
        with pytest.raises(ModelFileError, match=message):
            ModelFile.read(path)
    without = {name: tensor for name, tensor in good.tensors.items() if name != "bias"}
    with pytest.raises(ModelFileError, match="lacks the tensor 'bias'"):
        ModelFile.read(ModelFile(without, good.metadata).write(tmp_path / "wrong"))


# ---- how certain


def test_confidences_in_annotations_and_tensors(fitted: Annotator, scenes: LabelledImages) -> None:
    found = fitted.annotate(scenes.paths)
    confidence = found.confidence
    assert confidence is not None and confidence.shape == found.index.shape and confidence.dtype == np.float32
    assert 0 < confidence.min() < confidence.max() < 1 and fitted.has_confidence
    tensors = torch.from_numpy(found.index), torch.from_numpy(found.distance)
    np.testing.assert_allclose(fitted.confidence(*tensors).numpy(), confidence, rtol=1e-5)
    truth = np.take_along_axis(scenes.labels.toarray(), found.index, axis=1)
    assert confidence[truth > 0].mean() > confidence[truth == 0].mean() + 0.2
    joined = Annotations.joined([found, found], found.vocabulary, 5)
    assert joined.confidence is not None and len(joined.confidence) == 2 * len(found)


def test_as_many_words_as_are_likely(fitted: Annotator, scenes: LabelledImages) -> None:
    every = fitted.annotate(scenes.paths, k=8)
    assert every.confidence is not None
    for threshold in (0.0, 0.3, 1.0):
        found = fitted.annotate(scenes.paths, k=8, threshold=threshold)
        for row in range(len(found)):
            likely = [word for word, c in zip(every.words[row], every.confidence[row], strict=True) if c >= threshold]
            assert found.words[row] == tuple(likely or [every.words[row][int(every.confidence[row].argmax())]])
            count = len(found.words[row])
            assert (found.index[row, count:] == -1).all() and np.isinf(found.distance[row, count:]).all()
            assert found.confidence is not None and not found.confidence[row, count:].any()
    assert len({len(words) for words in fitted.annotate(scenes.paths, k=8, threshold=0.3).words}) > 1
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="must lie in 0…1"):
            fitted.annotate(scenes.paths[:1], threshold=wrong)
    mean = annotator().fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary)
    with pytest.raises(ValueError, match="gives no confidences to compare with a threshold"):
        mean.annotate(scenes.paths[:1], threshold=0.5)
    with pytest.raises(ValueError, match="have no confidences"):
        mean.annotate(scenes.paths[:1]).likely(0.5)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
@pytest.mark.parametrize("threshold", [None, 0.4])
def test_confidences_in_files(
    fitted: Annotator, scenes: LabelledImages, tmp_path: Path, suffix: str, threshold: float | None
) -> None:
    found = fitted.annotate(scenes.paths, k=6, threshold=threshold)
    path = tmp_path / f"words{suffix}"
    with AnnotationWriter(path, model_sha256="m", confidence=True) as writer:
        writer.write(found)
        writer.commit()
    if suffix == ".parquet":
        rows = pq.read_table(path).to_pylist()
    elif suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        rows = list(csv.DictReader(path.read_text().splitlines()))
    assert list(rows[0]) == ["path", "words", "distances", "confidences", "model"]
    assert found.confidence is not None
    for row, words, distance, confidence in zip(rows, found.words, found.distance, found.confidence, strict=True):
        lists = [row[name].split(";") if suffix == ".csv" else row[name] for name in ("words", "distances", "confidences")]
        assert tuple(lists[0]) == words
        np.testing.assert_allclose([float(value) for value in lists[1]], distance[: len(words)], atol=1e-6)
        np.testing.assert_allclose([float(value) for value in lists[2]], confidence[: len(words)], atol=1e-4)
    with (
        AnnotationWriter(tmp_path / f"other{suffix}", model_sha256="m") as writer,
        pytest.raises(ValueError, match="made without confidences"),
    ):
        writer.write(found)


def test_confidences_in_batches(fitted: Annotator, scenes: LabelledImages, tmp_path: Path) -> None:
    folder = Path(scenes.paths[0]).parent
    fitted.batch(folder, tmp_path / "out", k=6, threshold=0.4, part_size=10)
    rows = pq.read_table(tmp_path / "out").to_pylist()
    found = fitted.annotate(folder, k=6, threshold=0.4)
    assert [tuple(row["words"]) for row in rows] == found.words
    assert found.confidence is not None
    for row, confidence in zip(rows, found.confidence, strict=True):
        np.testing.assert_allclose(row["confidences"], confidence[: len(row["words"])], rtol=1e-4)
    with pytest.raises(DataError, match=r"threshold was 0\.4, now it is None"):
        fitted.batch(folder, tmp_path / "out", k=6, part_size=10, resume=True)


# ---- why


HEADS: list[dict[str, Any]] = [{}, {"metric": "cosine"}, {"head": "demixed"}, RIDGE]
NORMALISATIONS = [(), ("signed_sqrt", "l2"), ("mass", "intra"), ("mass", "intra", "signed_sqrt", "l2")]


@pytest.mark.parametrize("steps", NORMALISATIONS, ids=str)
@pytest.mark.parametrize("head", HEADS, ids=str)
def test_contributions_add_up_to_the_score(
    scenes: LabelledImages, features: Store, head: dict[str, Any], steps: tuple[str, ...]
) -> None:
    config = {**head, **{step: step in steps for step in ("mass", "intra", "signed_sqrt", "l2")}}
    made = annotator(**config).fit_features(features, scenes.labels, scenes.vocabulary)
    vectors = made.encode(scenes.paths[:4])[1].astype(np.float64)
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


def test_a_patch_that_is_grey_and_one_that_matters(fitted: Annotator) -> None:
    """VLAD before its norms is a sum over patches: what a patch adds is what the score loses without it."""
    made = fitted
    features = torch.randn(64, made.trunk.channels, generator=torch.Generator().manual_seed(0))
    weights = np.random.default_rng(0).standard_normal((2, made.dimension))
    from gpuannot.reference.vlad import patch_contributions, vlad

    descriptors = made.transform_.transform(features.numpy())
    vector, split = patch_contributions(descriptors, made.codebook_.centers, weights)
    for patch in (0, 17, 63):
        without = vlad(np.delete(descriptors, patch, axis=0)[None].astype(np.float64), made.codebook_.centers.astype(np.float64))[0]
        np.testing.assert_allclose(split[:, patch], weights @ (vector - without), rtol=1e-6, atol=1e-6)


def test_a_descriptor_without_centre_adds_nothing() -> None:
    from gpuannot.reference.vlad import patch_contributions, vlad

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
    warm = picture[..., 0] > picture[..., 2]
    full = why.heatmap((size[1], size[0]))
    clear = np.abs(full) > 0.2 * np.abs(full).max()
    assert np.array_equal(warm[clear], full[clear] > 0)
    with pytest.raises(ValueError, match="is not explained here"):
        why.heatmap(word="nothing")
    with pytest.raises(ValueError, match="word 2 is not one of the 2"):
        why.overlay(scenes.paths[0], 2)


# ---- the command line


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_words_on_the_command_line(model: Path, scenes: LabelledImages, tmp_path: Path) -> None:
    copy = tmp_path / "m.safetensors"
    copy.write_bytes(model.read_bytes())
    listed = json.loads(run("words", "list", copy, "--json").output)
    assert tuple(listed) == scenes.vocabulary and sum(listed.values()) == scenes.labels.nnz
    assert run("words", "list", copy).output.splitlines()[0] == f"{listed[scenes.vocabulary[0]]}\t{scenes.vocabulary[0]}"
    result = run("words", "add", copy, "zebra", scenes.paths[0], tmp_path / "none.jpg", "--no-progress")
    assert result.exit_code == 1 and "'zebra' learnt from 1 images" in result.stderr and "none.jpg" in result.stderr
    assert run("words", "rename", copy, "zebra", "horse").exit_code == 0
    other = tmp_path / "other.safetensors"
    assert run("words", "remove", copy, scenes.vocabulary[0], "-o", other).exit_code == 0
    assert Annotator.load(copy, device="cpu").vocabulary == (*scenes.vocabulary, "horse")
    assert Annotator.load(other, device="cpu").vocabulary == (*scenes.vocabulary[1:], "horse")
    assert run("words", "merge", other, "horse", scenes.vocabulary[1]).exit_code == 0
    assert Annotator.load(other, device="cpu").vocabulary == scenes.vocabulary[1:]
    wrong = run("words", "remove", copy, "nothing")
    assert wrong.exit_code == 2 and "lacks 'nothing'" in wrong.stderr
    wrong = run("words", "rename", copy, "horse", "donkey", "-o", other)
    assert wrong.exit_code == 2 and "exists" in wrong.stderr


def test_explain_on_the_command_line(model: Path, scenes: LabelledImages, tmp_path: Path) -> None:
    result = run(
        "explain", model, scenes.paths[0], tmp_path / "none.jpg", "-k", 2, "-o", tmp_path / "why", "--json", "--no-progress"
    )
    assert result.exit_code == 1 and "none.jpg" in result.stderr
    entries = json.loads((tmp_path / "why" / "explanations.json").read_text())
    assert json.loads(result.stdout) == entries and len(entries) == 1
    entry = entries[0]
    assert entry["path"] == str(scenes.paths[0]) and entry["grid"] == [8, 8] and len(entry["words"]) == 2
    total = np.sum(entry["contributions"], axis=(1, 2)) + entry["bias"]
    np.testing.assert_allclose(total, entry["scores"], atol=1e-3)
    with Image.open(scenes.paths[0]) as image, Image.open(tmp_path / "why" / entry["pictures"][1]) as picture:
        assert picture.size == image.size
    again = run("explain", model, scenes.paths[0], "-o", tmp_path / "why")
    assert again.exit_code == 2 and "exists" in again.stderr
    assert (
        run("explain", model, scenes.paths[0], "-o", tmp_path / "why", "--overwrite", "--word", scenes.vocabulary[2]).exit_code == 0
    )


def test_annotate_with_a_threshold_on_the_command_line(model: Path, scenes: LabelledImages, tmp_path: Path) -> None:
    result = run("annotate", model, scenes.paths[0], "-k", 8, "--threshold", 0.4, "--json", "--no-progress")
    row = json.loads(result.stdout)
    assert result.exit_code == 0 and 1 <= len(row["words"]) < 8 and min(row["confidences"]) >= 0.4
    assert len(row["words"]) == len(row["distances"]) == len(row["confidences"])
    data = Path(scenes.paths[0]).parents[1]
    some = json.loads(run("evaluate", model, data, "-k", 8, "--threshold", 0.4, "--json", "--no-progress").stdout)
    every = json.loads(run("evaluate", model, data, "-k", 8, "--json", "--no-progress").stdout)
    assert some["image_precision"] > every["image_precision"]
