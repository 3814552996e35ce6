"""Words of a fitted annotator that come, change and go, and what it says of its own certainty."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from small import LAYERED, RIDGE, SMALL, fit_stored, small_annotator
from typer.testing import CliRunner

from gpuannot import Annotations, Annotator
from gpuannot.cli.main import app
from gpuannot.datasets.label_files import LabelledImages
from gpuannot.errors import DataError, ModelFileError, NotFittedError
from gpuannot.heads.moments import Moments
from gpuannot.heads.word_head import WordHead, new_bank
from gpuannot.jobs.writers import AnnotationWriter
from gpuannot.model.file import ModelFile
from gpuannot.model.store import FeatureStore


def annotator(**changes: Any) -> Annotator:
    return small_annotator(**SMALL, **changes)


def refit(made: Annotator, scenes: LabelledImages, words: list[list[str]], rows: list[int]) -> Annotator:
    """An annotator that learnt these words of these scenes alone, with codebook, PCA and λ of ``made``."""
    other = annotator(**{name: getattr(made.config, name) for name in RIDGE})
    other.encoder.transform_, other.encoder.codebook_ = made.encoder.transform_, made.encoder.codebook_
    other.words.restore(new_bank(other.config, made.vocabulary, other.encoder.dimension, "cpu"))
    other.words.head = WordHead(other.config)
    other.words.head.penalty, other.words.head.logistic = made.words.head.penalty, made.words.head.logistic
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
    vectors = fitted.encoder.encode([scenes.paths[row] for row in new])[1]
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
    for spelling in ("zebra", "zebra "):
        with pytest.raises(ValueError, match=r"the vocabulary has 'zebra ?' already; give it more images with partial_fit"):
            fitted.add_word(spelling, vectors)
    assert fitted.add_word(" cafe\u0301", vectors).vocabulary[-1] == "caf\u00e9"


def test_a_model_whose_words_are_spelled_oddly_loads_as_it_is(fitted: Annotator, scenes: LabelledImages, tmp_path: Path) -> None:
    first, _, *others = fitted.vocabulary
    fitted.bank_.vocabulary = (f"{first} ", first, *others)
    loaded = Annotator.load(fitted.save(tmp_path / "odd.safetensors"), device="cpu")
    assert loaded.vocabulary == fitted.vocabulary
    counts = loaded.bank_.counts.copy()
    loaded.partial_fit(scenes.paths[:1], [[first, f"{others[0]} "]])
    assert (loaded.bank_.counts - counts)[:3].tolist() == [0, 1, 1] and loaded.vocabulary == fitted.vocabulary
    loaded.forget(scenes.paths[:1], [[first, others[0]]])
    assert loaded.bank_.counts.tolist() == counts.tolist()


def test_a_word_without_images_is_not_added(fitted: Annotator, tmp_path: Path) -> None:
    made = copy.deepcopy(fitted)
    with pytest.raises(ValueError, match="no images of 'lighthouse' were given"):
        made.add_word("lighthouse", [])
    assert made.vocabulary == fitted.vocabulary


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
    moments = parts.bank_.extra(Moments)
    assert moments is not None and moments.images == len(scenes)
    assert parts.words.head.penalty == pytest.approx(float(moments.total_variance()) / moments.dimension)


def test_images_that_come_and_go_leave_the_sums_of_several_layers(scenes: LabelledImages) -> None:
    half = small_annotator(**LAYERED, head="ridge").fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary)
    before = half.bank_.sums.copy()
    half.partial_fit(scenes.paths[:5], [[scenes.vocabulary[w] for w in scenes.labels[[row]].indices] for row in range(5)])
    half.forget(scenes.paths[:5], [[scenes.vocabulary[w] for w in scenes.labels[[row]].indices] for row in range(5)])
    np.testing.assert_allclose(half.bank_.sums, before, atol=1e-9)


@pytest.mark.filterwarnings("ignore:1 of 1 images could not be read")
def test_a_word_that_cannot_be_learnt_is_no_word(fitted: Annotator, scenes: LabelledImages, tmp_path: Path) -> None:
    before = fitted.to_model_file().sha256
    vectors = fitted.encoder.encode(scenes.paths[:2])[1]
    vectors[1, 0] = np.nan
    for images in ([tmp_path / "missing.jpg"], vectors, vectors[:, 1:]):
        with pytest.raises((ValueError, DataError)):
            fitted.add_word("lighthouse", images)
        assert fitted.to_model_file().sha256 == before


def test_before_fit() -> None:
    made = annotator()
    for use in (lambda: made.remove_words(["a"]), lambda: made.rename_word("a", "b"), lambda: made.add_word("a", [])):
        with pytest.raises(NotFittedError):
            use()


@pytest.mark.parametrize("head", ["mean", "demixed", "ridge"])
def test_files_of_every_head(head: str, scenes: LabelledImages, features: FeatureStore, tmp_path: Path) -> None:
    made = fit_stored(annotator(head=head), features, scenes)
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
    assert 0 < confidence.min() < confidence.max() < 1 and fitted.words.has_confidence
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
    found = found.by_confidence()
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
    found = fitted.annotate(folder, k=6, threshold=0.4).by_confidence()
    assert [tuple(row["words"]) for row in rows] == found.words
    assert found.confidence is not None
    for row, confidence in zip(rows, found.confidence, strict=True):
        np.testing.assert_allclose(row["confidences"], confidence[: len(row["words"])], rtol=1e-4)
    with pytest.raises(DataError, match=r"threshold was 0\.4, now it is None"):
        fitted.batch(folder, tmp_path / "out", k=6, part_size=10, resume=True)


# ---- the command line


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_annotate_with_a_threshold_on_the_command_line(model: Path, scenes: LabelledImages, tmp_path: Path) -> None:
    result = run("annotate", model, scenes.paths[0], "-k", 8, "--threshold", 0.4, "--json", "--no-progress")
    row = json.loads(result.stdout)
    assert result.exit_code == 0 and 1 <= len(row["words"]) < 8 and min(row["confidences"]) >= 0.4
    assert len(row["words"]) == len(row["distances"]) == len(row["confidences"])
    data = Path(scenes.paths[0]).parents[1]
    some = json.loads(run("evaluate", model, data, "-k", 8, "--threshold", 0.4, "--json", "--no-progress").stdout)
    every = json.loads(run("evaluate", model, data, "-k", 8, "--json", "--no-progress").stdout)
    assert some["image_precision"] > every["image_precision"]
