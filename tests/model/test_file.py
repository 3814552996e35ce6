"""The model file: what is loaded is what was saved, bit for bit, and nothing else is ever taken for a model."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import resource
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.special import expit

from gpuannot import Annotations, Annotator, __version__
from gpuannot.datasets.label_files import LabelledImages, load_labelled_images
from gpuannot.errors import ModelFileError, NotFittedError, WeightsError
from gpuannot.model.file import ModelFile

SMALL: dict[str, Any] = {"device": "cpu", "layer": "pool2", "input_size": 32, "n_components": 8, "n_centers": 4}


def model(**changes: Any) -> ModelFile:
    """A model of drawn numbers; ``changes`` replace tensors (None leaves one out)."""
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {
        "matrix": rng.standard_normal((5, 3)).astype(np.float32),
        "offset": rng.standard_normal(3).astype(np.float32),
        "explained_variance_ratio": np.array([0.5, 0.3, 0.1]),
        "centers": rng.standard_normal((2, 3)).astype(np.float32),
        "sums": rng.standard_normal((4, 6)) * [[1], [0], [1], [1]],
        "counts": np.array([1, 0, 3, 2]),
    }
    tensors = {name: tensor for name, tensor in (tensors | changes).items() if tensor is not None}
    metadata = {"vocabulary": ["sky", "żółw", 'a "quoted" word', "[red]"], "config": {"n_centers": 2}, "trunk_sha256": "0f" * 32}
    return ModelFile(tensors, metadata)


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and tensor bytes of a safetensors file, read by hand."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def rewrite(path: Path, **changes: Any) -> None:
    """Change entries of the model description as an editor would, and nothing else; None takes one out."""
    header, body = parts(path)
    description = json.loads(header["__metadata__"]["gpuannot"]) | changes
    header["__metadata__"]["gpuannot"] = json.dumps({name: value for name, value in description.items() if value is not None})
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk that is full, as far as this process can tell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# ---- round trip


def test_tensors_and_metadata_are_read_back(tmp_path: Path) -> None:
    written = model()
    assert written.write(tmp_path / "[model] żółw.any") == tmp_path / "[model] żółw.any"
    read = ModelFile.read(tmp_path / "[model] żółw.any")
    assert dict(read.metadata) == dict(written.metadata) and read.sha256 == written.sha256
    assert read.tensors.keys() == written.tensors.keys()
    for name, tensor in written.tensors.items():
        assert read.tensors[name].dtype == tensor.dtype and np.array_equal(read.tensors[name], tensor)


def test_the_file_is_safetensors_with_the_stated_description(tmp_path: Path) -> None:
    path = model().write(tmp_path / "m.safetensors")
    header, _ = parts(path)
    description = json.loads(header["__metadata__"]["gpuannot"])
    assert description["schema"] == "gpuannot.model/1" and description["vocabulary"][1] == "żółw"
    digest = hashlib.sha256(json.dumps(dict(model().metadata), sort_keys=True).encode())
    for name, tensor in sorted(load_file(path).items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode() + tensor.tobytes())
    assert description["sha256"] == digest.hexdigest() == model().sha256


def test_sha256_tells_models_apart() -> None:
    other_words = ModelFile(model().tensors, {**model().metadata, "vocabulary": ["sky", "sea", "a", "b"]})
    flat = model(sums=model().tensors["sums"].reshape(-1))
    different = [model(), other_words, flat, model(counts=np.array([1, 0, 3, 3])), model(counts=None)]
    assert len({each.sha256 for each in different}) == len(different)
    assert model(sums=np.asfortranarray(model().tensors["sums"])).sha256 == model().sha256


def test_tensors_of_any_memory_layout_are_written_right(tmp_path: Path) -> None:
    wide = np.arange(48.0).reshape(4, 12) * [[1], [0], [1], [1]]
    ModelFile.write(model(sums=wide[:, ::2]), tmp_path / "m")
    assert np.array_equal(ModelFile.read(tmp_path / "m").tensors["sums"], wide[:, ::2])


# ---- damage


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    return model().write(tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("share", np.linspace(0, 1, 20, endpoint=False))
def test_a_cut_file_is_refused(tmp_path: Path, whole: bytes, share: float) -> None:
    (tmp_path / "cut").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelFileError, match="cut is not a whole safetensors file"):
        ModelFile.read(tmp_path / "cut")


@pytest.mark.parametrize("end", [1, 8, 100])
def test_bytes_missing_or_added_at_the_end_are_refused(tmp_path: Path, whole: bytes, end: int) -> None:
    for content in (whole[:-end], whole + b"\0" * end):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(ModelFileError):
            ModelFile.read(tmp_path / "other")


@pytest.mark.parametrize("part", ["header", "body"])
def test_a_changed_byte_is_refused(tmp_path: Path, whole: bytes, part: str) -> None:
    (length,) = struct.unpack("<Q", whole[:8])
    body = 8 + length
    rng = np.random.default_rng(7)
    offsets = rng.choice(body, 50, replace=False) if part == "header" else body + rng.choice(len(whole) - body, 50, replace=False)
    for offset in map(int, offsets):
        changed = bytearray(whole)
        changed[offset] ^= 1 << int(rng.integers(8))
        (tmp_path / "changed").write_bytes(changed)
        with pytest.raises(ModelFileError, match="changed"):
            pytest.fail(f"byte {offset} was changed and {ModelFile.read(tmp_path / 'changed')} was read")


def test_swapped_blocks_are_refused(tmp_path: Path, whole: bytes) -> None:
    changed = bytearray(whole)
    changed[-64:-32], changed[-32:] = whole[-32:], whole[-64:-32]
    (tmp_path / "changed").write_bytes(changed)
    with pytest.raises(ModelFileError, match="SHA-256 does not match; fit the model again or restore"):
        ModelFile.read(tmp_path / "changed")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"schema": "gpuannot.model/2"}, r"has schema 'gpuannot\.model/2', this version of gpuannot reads 'gpuannot\.model/1'"),
        ({"schema": None}, "not a gpuannot model"),
        ({"vocabulary": ["sky", "sea", "a", "b"]}, "was changed after it was written"),
        ({"sha256": None}, "was changed after it was written"),
        ({"sha256": "00" * 32}, "was changed after it was written"),
        ({"extra": 1}, "was changed after it was written"),
    ],
)
def test_an_edited_description_is_refused(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    path = model().write(tmp_path / "m")
    rewrite(path)
    ModelFile.read(path)  # rewriting alone changes nothing
    rewrite(path, **changes)
    with pytest.raises(ModelFileError, match=complaint):
        ModelFile.read(path)


@pytest.mark.parametrize("description", ["", "{", "null", "[]", '"gpuannot.model/1"', "{}"])
def test_a_description_that_is_none_is_refused(tmp_path: Path, description: str) -> None:
    save_file(dict(model().tensors), tmp_path / "m", {"gpuannot": description})
    with pytest.raises(ModelFileError, match=r"not valid JSON|not a gpuannot model"):
        ModelFile.read(tmp_path / "m")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"centers": None}, "lacks the tensor 'centers'"),
        ({"counts": np.array([1, 2, 3])}, r"counts has shape \(3,\), expected W = 4"),
        ({"sums": np.zeros((4, 7))}, "word sums have length 7, expected m·n = 6"),
        ({"sums": np.zeros((4, 6), np.float32)}, r"sums is float32 of shape \(4, 6\), expected float64 \(W, D\)"),
        ({"centers": np.zeros((2, 4), np.float32)}, r"centers has shape \(2, 4\), expected n = 3"),
        ({"offset": np.zeros((3, 1), np.float32)}, r"offset is float32 of shape \(3, 1\), expected float32 \(n\)"),
        ({"matrix": np.full((5, 3), np.nan, np.float32)}, "matrix holds NaN or infinite values"),
        ({"sums": np.full((4, 6), np.inf)}, "sums holds NaN or infinite values"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    path = model(**changes).write(tmp_path / "m")
    with pytest.raises(ModelFileError, match=complaint):
        ModelFile.read(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    others = {
        "pickle.safetensors": pickle.dumps({"matrix": [1.0]}),
        "empty.safetensors": b"",
        "text.safetensors": b"a model, honest\n" * 9,
    }
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            ModelFileError, match=rf"{name} is not a whole safetensors file .*written by Annotator\.save or gpuannot fit"
        ):
            Annotator.load(tmp_path / name)
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("folder.safetensors", "missing.safetensors", "no/such/folder"):
        with pytest.raises(ModelFileError, match=rf"{name}: no such model file"):
            Annotator.load(tmp_path / name)
    with (
        as_file(files("gpuannot") / "data" / "vgg16_conv_int8.safetensors") as weights,
        pytest.raises(ModelFileError, match=r"not a gpuannot model \(is it a file of network weights\?\)"),
    ):
        Annotator.load(weights)


# ---- writing


@pytest.mark.parametrize("old", [None, b"the old file"])
def test_a_failed_write_leaves_what_was_there(tmp_path: Path, old: bytes | None) -> None:
    path = tmp_path / "m.safetensors"
    if old is not None:
        path.write_bytes(old)
    big = model(sums=np.zeros((4, 6 * 10_000)))
    with files_of_at_most(50_000), pytest.raises(ModelFileError, match=rf"cannot write the model to {path} \(File too large\)"):
        big.write(path)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == ({path.name: old} if old else {})


def test_a_folder_that_is_missing_or_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"cannot write the model to .*nowhere/m \(No such file or directory\)"):
        model().write(tmp_path / "nowhere" / "m")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ModelFileError, match=r"cannot write the model to .*folder"):
        model().write(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes to folders of any permission")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ModelFileError, match="Permission denied"):
        model().write(tmp_path / "m")
    tmp_path.chmod(0o700)


def test_an_old_file_is_replaced_and_gets_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"old")
    before = os.umask(0o027)
    try:
        model().write(tmp_path / "m")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o640
    assert ModelFile.read(tmp_path / "m").sha256 == model().sha256 and len(list(tmp_path.iterdir())) == 1


# ---- a fitted annotator


def fit(scenes: Path, **changes: Any) -> Annotator:
    images = load_labelled_images(scenes)
    return Annotator(**SMALL, **changes).fit(images.paths, images.labels, vocabulary=images.vocabulary)


@pytest.fixture(scope="module")
def fitted(drawn_scenes: Path) -> Annotator:
    return fit(drawn_scenes, metric="cosine", signed_sqrt=True, l2=True, seed=3)


@pytest.fixture(scope="module")
def saved(fitted: Annotator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted.save(tmp_path_factory.mktemp("saved") / "m.safetensors")


def same(left: Annotations, right: Annotations) -> bool:
    return (
        left.names == right.names
        and left.vocabulary == right.vocabulary
        and np.array_equal(left.index, right.index)
        and left.distance.tobytes() == right.distance.tobytes()
    )


def test_a_loaded_annotator_is_the_same_and_learns_on(fitted: Annotator, saved: Path, drawn_scenes: Path, tmp_path: Path) -> None:
    loaded = Annotator.load(saved, device="cpu")
    assert loaded.config == fitted.config and loaded.vocabulary == fitted.vocabulary
    expected = fitted.annotate(drawn_scenes)
    assert len(expected) == 24 and same(loaded.annotate(drawn_scenes), expected)
    assert loaded.to_model_file().sha256 == fitted.to_model_file().sha256 == ModelFile.read(saved).sha256
    assert loaded.save(tmp_path / "again").read_bytes() == saved.read_bytes()
    scene = drawn_scenes / "images" / "scene_00000.jpg"
    loaded.partial_fit([scene], [["new word", fitted.vocabulary[0]]])
    assert loaded.bank_.counts.tolist() == [fitted.bank_.counts[0] + 1, *fitted.bank_.counts[1:].tolist(), 1]
    assert same(Annotator.load(loaded.save(tmp_path / "more"), device="cpu").annotate(drawn_scenes), loaded.annotate(drawn_scenes))


@pytest.mark.parametrize("batch_size", [1, 4])  # a matrix product rounds by its shapes and memory order
def test_a_loaded_annotator_is_the_same_at_every_batch_size(drawn_scenes: Path, tmp_path: Path, batch_size: int) -> None:
    made = fit(drawn_scenes, batch_size=batch_size)
    loaded = Annotator.load(made.save(tmp_path / "m"), device="cpu")
    assert same(loaded.annotate(drawn_scenes), made.annotate(drawn_scenes))


def test_a_damaged_model_does_not_load(saved: Path, tmp_path: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(ModelFileError, match="SHA-256"):
        Annotator.load(tmp_path / "m")


@pytest.mark.parametrize("changes", [{"n_centers": 0}, {"metric": "l7"}, {"n_centres": 4}, None])
def test_unusable_settings_are_refused(fitted: Annotator, tmp_path: Path, changes: dict[str, Any] | None) -> None:
    good = fitted.to_model_file()
    config = None if changes is None else {**good.metadata["config"], **changes}
    path = ModelFile(good.tensors, {**good.metadata, "config": config}).write(tmp_path / "m")
    with pytest.raises(ModelFileError, match="its settings cannot be used"):
        Annotator.load(path)


def test_a_model_of_a_version_with_a_vote_that_was_off(fitted: Annotator, drawn_scenes: Path, tmp_path: Path) -> None:
    good = fitted.to_model_file()
    config = {**good.metadata["config"], "vote": 0.0, "vote_sharpness": 20.0}
    loaded = Annotator.load(ModelFile(good.tensors, {**good.metadata, "config": config}).write(tmp_path / "m"), device="cpu")
    assert loaded.config == fitted.config and loaded.to_model_file().sha256 == good.sha256
    assert same(loaded.annotate(drawn_scenes), fitted.annotate(drawn_scenes))


def test_a_model_whose_confidences_have_no_level(drawn_scenes: Path, tmp_path: Path) -> None:
    """As earlier versions wrote them: slope and offset of the logarithm."""
    made = fit(drawn_scenes, head="ridge")
    good = made.to_model_file()
    changed = {"confidence": good.tensors["confidence"][:2]}
    assert good.tensors["confidence"][2].any() and len(good.metadata["logistic"]) == 5
    old = ModelFile({**good.tensors, **changed}, {**good.metadata, "logistic": good.metadata["logistic"][:3]})
    loaded = Annotator.load(old.write(tmp_path / "m"), device="cpu")
    found = loaded.annotate(drawn_scenes, k=3)
    slope, offset = changed["confidence"][:, found.index].astype(np.float64)
    expected = expit(slope * np.log(np.maximum(-found.distance, 1e-12)) + offset)
    assert found.confidence is not None
    np.testing.assert_allclose(found.confidence, expected, atol=1e-5)
    again = Annotator.load(loaded.save(tmp_path / "again"), device="cpu").annotate(drawn_scenes, k=3)
    np.testing.assert_array_equal(again.confidence, found.confidence)
    for rows in (1, 4):
        bad = ModelFile({**good.tensors, "confidence": np.ones((rows, len(made.vocabulary)), np.float32)}, good.metadata)
        with pytest.raises(ModelFileError, match=f"confidence has {rows} rows, expected 3"):
            Annotator.load(bad.write(tmp_path / "bad"))


@pytest.mark.parametrize(("name", "value"), [("vote", 0.45), ("head", "lda"), ("head", "centred"), ("calibration", "spread")])
def test_a_model_that_needs_what_was_removed(fitted: Annotator, tmp_path: Path, name: str, value: Any) -> None:
    good = fitted.to_model_file()
    config = {**good.metadata["config"], "vote": 0.0, "vote_sharpness": 20.0, name: value}
    tensors = {**good.tensors, "voters": np.zeros((3, 2), np.float16), "voter_words": np.zeros((4, 2), np.int64)}
    for version, written in (("0.0.9", r"; gpuannot 0\.0\.9 wrote it"), (__version__, "")):
        metadata = {**good.metadata, "config": config, "gpuannot_version": version}
        path = ModelFile(tensors, metadata).write(tmp_path / "m.safetensors")
        asked = rf"{name} = {value!r} was removed from gpuannot: fit again .* use the version that wrote the file{written}\)$"
        with pytest.raises(ModelFileError, match=rf"m\.safetensors: its settings cannot be used \({asked}"):
            Annotator.load(path)


def test_nothing_to_save_before_fit(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError, match="call fit"):
        Annotator(**SMALL).save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_moved_and_other_weights(drawn_scenes: Path, tmp_path: Path) -> None:
    with as_file(files("gpuannot") / "data" / "vgg16_conv_int8.safetensors") as embedded:
        shutil.copy(embedded, tmp_path / "old.safetensors")
    annotator = fit(drawn_scenes, weights=str(tmp_path / "old.safetensors"))
    path = annotator.save(tmp_path / "m.safetensors")
    (tmp_path / "old.safetensors").rename(tmp_path / "new.safetensors")
    with pytest.raises(WeightsError, match=r"old\.safetensors: no such file"):
        Annotator.load(path)
    expected = annotator.annotate(drawn_scenes)
    for place in (tmp_path / "new.safetensors", "embedded"):  # the same weights, wherever they lie
        assert same(Annotator.load(path, weights=place, device="cpu").annotate(drawn_scenes), expected)

    other = load_file(tmp_path / "new.safetensors")
    other["features.0.bias"] = other["features.0.bias"] + np.asarray(0.5, other["features.0.bias"].dtype)
    header, _ = parts(tmp_path / "new.safetensors")
    save_file(other, tmp_path / "other.safetensors", header["__metadata__"])
    with pytest.raises(ModelFileError, match=r"m\.safetensors was fitted with other trunk weights than '.*other\.safetensors'"):
        Annotator.load(path, weights=tmp_path / "other.safetensors")


def test_weights_given_as_a_path_can_be_saved(tmp_path: Path) -> None:
    assert Annotator(**SMALL, weights=tmp_path / "w.safetensors").config.weights == str(tmp_path / "w.safetensors")


# ---- several layers


def test_a_saved_model_of_several_layers_is_the_same_model(layered: Annotator, scenes: LabelledImages, tmp_path: Path) -> None:
    loaded = Annotator.load(layered.save(tmp_path / "model.safetensors"), device="cpu")
    before, after = (one.annotate(scenes.paths, k=4) for one in (layered, loaded))
    np.testing.assert_array_equal(before.index, after.index)
    np.testing.assert_array_equal(before.distance, after.distance)
    assert loaded.to_model_file().sha256 == layered.to_model_file().sha256


@pytest.mark.parametrize(("name", "axis"), [("centers", 0), ("offset", 0), ("matrix", 1)])
def test_a_file_whose_layers_do_not_fit(layered: Annotator, tmp_path: Path, name: str, axis: int) -> None:
    content = layered.to_model_file()
    cut = np.take(content.tensors[name], range(content.tensors[name].shape[axis] - 1), axis=axis)
    path = ModelFile({**content.tensors, name: cut}, content.metadata).write(tmp_path / "cut.safetensors")
    with pytest.raises(ModelFileError, match="expected"):
        ModelFile.read(path)
