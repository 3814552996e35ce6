"""Forged model files, each of one changed field under a right hash: refused by name, or a model that annotates as before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from safetensors.torch import save_file as save_torch
from scipy import sparse
from small import LAYERED, RIDGE, SMALL, small_annotator

from gpuannot.datasets import LabelledImages
from gpuannot.errors import ModelFileError, WeightsError
from gpuannot.model.file import ModelFile
from gpuannot.model.persistence import restore

# Shallow layers: a model that loads packs their weights anew.
PAPER = {**SMALL, "layer": "pool1", "input_size": 16, "n_centers": 3}
DEMIXED = {**LAYERED, "layer": "pool1+conv2_1", "input_size": 16, "head": "demixed", "metric": "cosine"}
KERNEL = {**DEMIXED, "metric": "l2", "projection": 5, "moments": 2, "head": "kernel", "signed_sqrt": True, "l2": True}
BEST = {**DEMIXED, **RIDGE, "metric": "l2", "projection": 5, "quadratic": 3, "balance": 1.0}
#: Values of every kind, of which a field takes few.
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 3, 10**6, 10**30, 1.5, 1e300, float("nan"), float("inf"), "", "x", [], [0.1, 0.2, 0.3], ["a", "b"], {"n": 1},
)  # fmt: skip
#: Settings that annotating does not look at: with another value the model is the same.
NEUTRAL = {
    "codebook_sample", "kmeans_iterations", "statistics_images", "projection_sample", "seed", "batch_size", "regularisation",
}  # fmt: skip


@dataclass(frozen=True)
class Forgery:
    """What was done to a file.

    Attributes:
        field: that was changed.
        how: it was.
        file: with the change.
        may_pass: the field may hold that value, and the model then be another one.
    """

    field: str
    how: str
    file: ModelFile
    may_pass: bool = False


def tensors_forged(good: ModelFile) -> Iterator[Forgery]:
    for name, tensor in good.tensors.items():
        for how, changed in structures(tensor):
            yield Forgery(name, how, ModelFile({**good.tensors, name: changed}, good.metadata))
        yield Forgery(name, "missing", ModelFile({key: own for key, own in good.tensors.items() if key != name}, good.metadata))
        for how, changed in values(tensor):
            yield Forgery(name, how, ModelFile({**good.tensors, name: changed}, good.metadata), may_pass=name != "cooccurrence")
    for name in ("voters", "scatter", "cooccurrence", "projection", "weights", "bias", "confidence", "total"):
        if name not in good.tensors:
            yield Forgery(name, "added", ModelFile({**good.tensors, name: np.zeros((2, 3), np.float32)}, good.metadata))


def structures(tensor: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Other types, shapes and numbers that no model has."""
    other = {"f": {"float32": np.float64, "float64": np.float32}.get(tensor.dtype.name, np.float32), "i": np.int32}
    yield "dtype", tensor.astype(other[tensor.dtype.kind])
    yield "uint8", tensor.astype(np.uint8)
    yield "one axis more", tensor[None]
    yield "no axis", tensor.ravel()[0]
    if tensor.ndim > 1:
        yield "flat", tensor.ravel()
    for axis in range(tensor.ndim):
        yield f"axis {axis} shorter", np.delete(tensor, -1, axis=axis)
        yield f"axis {axis} longer", np.concatenate([tensor, np.take(tensor, [-1], axis=axis)], axis=axis)
        yield f"axis {axis} empty", np.take(tensor, [], axis=axis)
    if tensor.dtype.kind == "f":
        for value in (np.nan, np.inf, -np.inf, np.finfo(tensor.dtype).max):
            changed = tensor.copy()
            changed.flat[-1] = value
            yield str(value), changed


def values(tensor: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Other numbers of the right type and shape."""
    yield "negative", (-np.abs(tensor) - 1).astype(tensor.dtype)
    yield "zeros", np.zeros_like(tensor)
    yield "one more", (tensor + 1).astype(tensor.dtype)
    yield "large", np.full_like(tensor, min(1e12, 6e4 if tensor.dtype == np.float16 else np.inf))
    changed = tensor.copy()
    changed.flat[0] += 1
    yield "first", changed


def metadata_forged(good: ModelFile) -> Iterator[Forgery]:
    def forged(field: str, how: str, *, may_pass: bool = False, without: str | None = None, **changes: Any) -> Forgery:
        metadata = {name: value for name, value in {**good.metadata, **changes}.items() if name != without}
        return Forgery(field, how, ModelFile(good.tensors, metadata), may_pass)

    for name, own in good.metadata.items():
        yield forged(name, "missing", without=name)
        for value in VALUES:
            if repr(value) != repr(own):
                fits = name in ("gpuannot_version", "penalty") or (name == "logistic" and own is not None)
                yield forged(name, f"= {value!r}", may_pass=fits, **{name: value})
    yield forged("unknown", "added", unknown=1)
    words = list(good.metadata["vocabulary"])
    for how, changed in {
        "one fewer": words[:-1], "one more": [*words, "more"], "twice": [words[1], *words[1:]], "empty": ["", *words[1:]],
        "blank": [" ", *words[1:]], "a number": [1, *words[1:]], "a list": [["a"], *words[1:]], "no text": ["\ud800", *words[1:]],
    }.items():  # fmt: skip
        yield forged("vocabulary", how, vocabulary=changed)
    for part in ("preprocessing", "config"):
        settings = good.metadata[part]
        yield forged("more" if part == "config" else part, "added", **{part: {**settings, "more": 1}})
        for name, own in settings.items():
            without = {key: value for key, value in settings.items() if key != name}
            yield forged(name if part == "config" else part, "missing", may_pass=part == "config", **{part: without})
            for value in VALUES:
                if repr(value) != repr(own):
                    changed = {part: {**settings, name: value}}
                    yield forged(name if part == "config" else part, f"{name} = {value!r}", may_pass=part == "config", **changed)
    for name, value in {"head": "ridge", "metric": "l2", "layer": "conv5_3", "input_size": 4096, "trunk_dtype": "float16"}.items():
        config = {**good.metadata["config"], name: value}
        yield forged(name, f"= {value!r}", may_pass=True, config=config)


def write(file: ModelFile, path: Path) -> None:
    """As :meth:`ModelFile.write`, which waits for the disk."""
    header = {"schema": "gpuannot.model/1", "sha256": file.sha256, **file.metadata}
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in file.tensors.items()}
    path.write_bytes(save(tensors, {"gpuannot": json.dumps(header)}))


def annotated(path: Path) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Words and distances of two images by the model in a file; None where the images would be very large."""
    model = restore(path, device="cpu")
    size = model.config.input_size
    if size > 64:
        return None
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, size, size), dtype=np.uint8)
    index, distance = model.annotate_tensor(torch.from_numpy(pixels), 2)
    assert index.shape == distance.shape == (2, 2) and int(index.min()) >= 0 and int(index.max()) < len(model.vocabulary)
    model.confidence(index, distance)
    return index.numpy(), distance.numpy()


@pytest.mark.usefixtures("weights_read_once")
@pytest.mark.parametrize("settings", [PAPER, BEST, DEMIXED, KERNEL], ids=["paper", "best", "two layers", "kernel"])
def test_a_forged_file_is_refused_by_name_or_harmless(settings: dict[str, Any], scenes: LabelledImages, tmp_path: Path) -> None:
    labels = sparse.csr_array(sparse.hstack([scenes.labels, sparse.csr_array((len(scenes), 1))]))
    made = small_annotator(**settings).fit(scenes.paths, labels, vocabulary=[*scenes.vocabulary, "unseen"])
    path = made.save(tmp_path / "forged.safetensors")
    good = ModelFile.read(path)
    assert ("confidence" in good.tensors) == ("projection" in good.tensors) == (settings in (BEST, KERNEL))
    expected = annotated(path)
    assert expected is not None
    refused, passed = 0, []
    for forgery in [*tensors_forged(good), *metadata_forged(good)]:
        write(forgery.file, path)
        what = f"{forgery.field}: {forgery.how}"
        try:
            found = annotated(path)
        except (ModelFileError, WeightsError) as error:
            assert isinstance(error, ModelFileError) or forgery.field == "weights", what
            assert "forged.safetensors" in str(error) or forgery.field == "weights", what
            assert len(str(error)) < 700, what
            refused += 1
            continue
        except Exception as error:
            raise AssertionError(f"{what} ends in {error!r}") from error
        same = found is not None and all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))
        assert same or (forgery.may_pass and forgery.field not in NEUTRAL), f"{what} was taken"
        passed.append(what)
    assert refused > 500 and len(passed) < 0.2 * refused, (refused, len(passed), passed)


@pytest.mark.parametrize(
    "extra", ['"vocabulary": ' + "[" * 100_000 + "]" * 100_000, '"images": ' + "9" * 5000, '"vocabulary": ' + "[" * 900 + "]" * 900]
)
def test_a_description_that_python_cannot_take(extra: str, tmp_path: Path) -> None:
    text = f'{{"schema": "gpuannot.model/1", "sha256": "{"0" * 64}", {extra}}}'
    (tmp_path / "forged.safetensors").write_bytes(save({"matrix": np.zeros((2, 2), np.float32)}, {"gpuannot": text}))
    with pytest.raises(ModelFileError, match=r"forged\.safetensors.* (description|SHA-256)"):
        ModelFile.read(tmp_path / "forged.safetensors")


def test_tensors_of_a_type_that_numpy_lacks(tmp_path: Path) -> None:
    save_torch({"matrix": torch.zeros((2, 2), dtype=torch.bfloat16)}, tmp_path / "forged.safetensors", {"gpuannot": "{}"})
    with pytest.raises(ModelFileError, match=r"forged\.safetensors"):
        ModelFile.read(tmp_path / "forged.safetensors")
