"""Every field of a model file against every other, so that no forged or mixed-up number is believed because its hash is right."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import REGRESSIONS, AnnotatorConfig
from ..errors import ModelFileError
from ..heads.choosing import Chosen
from ..heads.projection import MOST_RAISED
from ..method.weights import Preprocessing

Tensors = Mapping[str, NDArray[Any]]

_SHAPES = {
    "matrix": "C n", "offset": "n", "explained_variance_ratio": "n", "centers": "m n", "counts": "W", "sums": "W D",
    "projection": "V d", "projection_mean": "V",
    "weights": "K D", "bias": "K", "confidence": "R W", "total": "D", "cooccurrence": "E 3", "scatter": "T",
    "landmarks": "M D", "coefficients": "M K", "images": "N D", "image_keys": "N", "image_words": "E 2",
}  # fmt: skip
# float32 where not named; after the stroke what earlier versions wrote
_DTYPES = {
    "explained_variance_ratio": "float64", "sums": "float64", "counts": "int64", "total": "float64", "cooccurrence": "int64",
    "scatter": "float32/float64", "projection": "float16/float32", "landmarks": "float16", "images": "float16",
    "image_keys": "int64", "image_words": "int64",
}  # fmt: skip
#: The same of a model of several layers, L' of them with visual words.
_LAYER_SHAPES = {"offset": "L n", "explained_variance_ratio": "L n", "centers": "L' m n"}
_ALWAYS = ("matrix", "offset", "explained_variance_ratio", "centers", "counts")
#: Tensors beside those that each head ranks by and, after the stroke, learns on with.
_OF_HEAD = {
    "mean": (("sums",), ()),
    "demixed": (("sums", "total", "cooccurrence"), ()),
    "ridge": (("weights", "bias"), ("sums", "total", "cooccurrence", "scatter")),
    "kernel": (("landmarks", "coefficients", "bias"), ("sums", "images", "image_keys", "image_words")),
}
# Squares of larger numbers, added up over a vector, leave the range of their type.
_LARGEST = {"float16": 1.01, "float32": 1e17, "float64": 1e140}
_LARGEST_OF_PROJECTION = 1.01 * MOST_RAISED
_MOST_IMAGES = 2**53
_ROUNDING = 1e-6


def resizing(config: AnnotatorConfig) -> str:
    """How images are brought to size, as a model file states it: ``warp, bicubic with antialias``."""
    return f"warp, {config.interpolation} with antialias"


def check_contents(path: str | Path, tensors: Tensors, metadata: Mapping[str, Any]) -> None:
    """Check what can be seen without the settings' meaning: types, shapes, ranges, and tensors and metadata against each other.

    Raises:
        ModelFileError: names the file and the field.
    """
    for name, (what, allows) in _METADATA.items():
        if name in metadata and not allows(metadata[name]):
            raise _wrong(path, name, f"{_shown(metadata[name])}, expected {what}")
    if unknown := sorted(set(metadata) - set(_METADATA)):
        raise _wrong(path, repr(unknown[0]), "unknown")
    for name in ("vocabulary", "config"):
        if name not in metadata:
            raise ModelFileError(f"{path} lacks the field {name!r} of its description")
    _check_shapes(path, tensors, metadata)
    _check_words(path, tensors, metadata)
    ratio = np.atleast_2d(tensors["explained_variance_ratio"])
    shares = (ratio >= -_ROUNDING).all() and (ratio.sum(axis=1) <= 1 + _ROUNDING).all()
    if not shares or (np.diff(ratio, axis=1) > _ROUNDING).any():
        raise _wrong(path, "explained_variance_ratio", "no row of shares in 0…1 that add up to at most 1, largest first")


def check_settings(
    path: str | Path, tensors: Tensors, metadata: Mapping[str, Any], config: AnnotatorConfig, preprocessing: Preprocessing
) -> None:
    """Check tensors and metadata against the settings, after :func:`check_contents`.

    Args:
        config: of the file.
        preprocessing: of the trunk's weights.

    Raises:
        ModelFileError: names the file and the field.
    """
    layers, centers = config.layer_count, tensors["centers"]
    expected_layers = layers, config.vlad_layers  # with a PCA, and with visual words
    if (centers.ndim == 3) != (layers > 1) or (layers > 1 and (len(tensors["offset"]), len(centers)) != expected_layers):
        raise ModelFileError(f"{path}: its settings name {layers} layers, its tensors are those of another number")
    for name, axis, number in (("n_centers", -2, config.n_centers), ("n_components", -1, config.n_components)):
        if centers.shape[axis] != number:
            raise _wrong(path, name, f"{number} in the settings, and {centers.shape[axis]} by the tensors")
    if bool(config.projection) != ("projection" in tensors):
        raise ModelFileError(f"{path}: its settings and its tensors disagree on whether there is a projection")
    if config.projection and not 1 <= (kept := tensors["projection"].shape[1]) <= config.projection:
        raise _wrong(path, "projection", f"{config.projection} in the settings, and {kept} by the tensors")
    _check_head(path, tensors, metadata, config.head)
    stated = metadata.get("preprocessing")
    expected = {
        "resize": resizing(config),
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "order": "RGB",
    }
    if stated != expected:
        raise _wrong(path, "preprocessing", f"{_shown(stated)}, expected {expected} by the settings and the trunk's weights")


def _check_shapes(path: str | Path, tensors: Tensors, metadata: Mapping[str, Any]) -> None:
    sizes: dict[str, int] = {"W": len(metadata["vocabulary"]), "2": 2, "3": 3}
    ranks = next((_OF_HEAD[head][0] for head in ("ridge", "kernel") if _OF_HEAD[head][0][0] in tensors), ("sums",))
    needed = (*_ALWAYS, *ranks)
    if missing := [name for name in needed if name not in tensors]:
        raise ModelFileError(f"{path} lacks the tensor {missing[0]!r}")
    layered = np.ndim(tensors["centers"]) == 3
    for name, axes in {**_SHAPES, **(_LAYER_SHAPES if layered else {})}.items():
        if name not in tensors:
            continue
        tensor, expected = tensors[name], axes.split()
        dtypes = _DTYPES.get(name, "float32").split("/")
        if tensor.dtype.name not in dtypes or tensor.ndim != len(expected):
            raise ModelFileError(
                f"{path}: {name} is {tensor.dtype} of shape {tensor.shape}, expected {dtypes[0]} ({', '.join(expected)})"
            )
        for axis, size in zip(expected, tensor.shape, strict=True):
            if sizes.setdefault(axis, size) != size:
                raise ModelFileError(f"{path}: {name} has shape {tensor.shape}, expected {axis} = {sizes[axis]}")
        _check_range(path, name, tensor)
    if sizes.get("R", 3) not in (2, 3):  # earlier versions had two rows
        raise ModelFileError(f"{path}: confidence has {sizes['R']} rows, expected 3")
    stated = {name: (metadata["config"] or {}).get(name, 0) if "projection" in tensors else 0 for name in ("quadratic", "moments")}
    for name, value in stated.items():
        if not _whole(value):
            raise _wrong(path, name, f"{_shown(value)} in the settings, expected a whole number")
    quadratic, moments = stated.values()
    with_words = sizes.get("L'", 1)
    joined = with_words * (sizes["m"] * sizes["n"] + moments * (moments + 1) // 2) + (sizes.get("L", 1) - with_words) * sizes["n"]
    if sizes.get("V", joined) != joined:
        raise ModelFileError(f"{path}: the projection takes vectors of {sizes['V']} values, the images' have {joined} before it")
    if ("projection" in tensors) != ("projection_mean" in tensors):
        raise ModelFileError(f"{path} has only one of the tensors 'projection' and 'projection_mean'")
    kept = sizes.get("d", joined)
    quadratic = min(quadratic, kept)
    expected_length = kept + quadratic * (quadratic + 1) // 2
    if sizes["D"] != expected_length:
        called = "m·n" if "projection" not in tensors and not layered else "the image vectors' length"
        raise ModelFileError(f"{path}: word sums have length {sizes['D']}, expected {called} = {expected_length}")
    if sizes.get("T", triangle := sizes["D"] * (sizes["D"] + 1) // 2) != triangle:
        raise ModelFileError(f"{path}: scatter has {sizes['T']} values, expected D·(D + 1)/2 = {triangle}")


def _check_range(path: str | Path, name: str, tensor: NDArray[Any]) -> None:
    if tensor.dtype.kind == "f":
        if not np.isfinite(tensor).all():
            raise ModelFileError(f"{path}: {name} holds NaN or infinite values")
        largest = max(_LARGEST[tensor.dtype.name], _LARGEST_OF_PROJECTION if name == "projection" else 0)
        if tensor.size and max(abs(tensor.min()), abs(tensor.max())) > largest:
            raise _wrong(path, name, f"out of range: it holds values beyond ±{largest:g}")
    elif tensor.size and not (tensor.min() >= 0 and (tensor.max() <= _MOST_IMAGES or name == "image_keys")):
        raise _wrong(path, name, f"out of range: it holds {tensor.min()}…{tensor.max()}, expected numbers of images, 0 or more")


def _check_words(path: str | Path, tensors: Tensors, metadata: Mapping[str, Any]) -> None:
    """Counts against sums, weights and the images that carry two words."""
    counts, images = tensors["counts"], metadata.get("images")
    if images is not None and counts.max(initial=0) > images:
        raise _wrong(path, "counts", f"wrong: a word has {counts.max()} images, and 'images' says that there are {images}")
    if "sums" in tensors and tensors["sums"][counts == 0].any():
        raise _wrong(path, "sums", "wrong: a word that no image carries, by 'counts', has a sum that is not 0")
    for name, axis in (("weights", 0), ("coefficients", 1)):
        if name in tensors and (words := tensors[name].shape[axis]) != (known := np.count_nonzero(counts)):
            raise _wrong(path, name, f"of {words} words, and by 'counts' {known} words have an image")
    if "confidence" in tensors and tensors["confidence"][:, counts == 0].any():
        raise _wrong(path, "confidence", "wrong: a word that no image carries, by 'counts', has one that is not 0")
    if "scatter" in tensors:
        rows = np.arange(len(tensors["total"]) if "total" in tensors else 0)
        if (tensors["scatter"][rows * (rows + 3) // 2] < 0).any():
            raise _wrong(path, "scatter", "wrong: a sum of squares in it is negative")
    if "images" in tensors:
        _check_images(path, tensors, images, counts)
    if "cooccurrence" in tensors:
        _check_pairs(path, tensors["cooccurrence"], counts)


def _check_images(path: str | Path, tensors: Tensors, images: Any, counts: NDArray[np.int64]) -> None:
    """The images that a kernel head keeps, and which of them carry what."""
    for name in ("image_keys", "image_words"):
        if name not in tensors:
            raise ModelFileError(f"{path} lacks the tensor {name!r}, which belongs to 'images'")
    keys, (rows, words) = tensors["image_keys"], tensors["image_words"].T
    if len(keys) != images:
        raise _wrong(path, "images", f"{len(keys)} by the tensors, and 'images' says that there are {_shown(images)}")
    if (np.diff(keys) <= 0).any():
        raise _wrong(path, "image_keys", "not ascending")
    if len(rows) and (rows.max() >= len(keys) or words.max() >= len(counts)):
        raise _wrong(path, "image_words", f"wrong: it names an image or word beyond the {len(keys)} and {len(counts)} there are")
    carried = np.bincount(words, minlength=len(counts))
    if len(np.unique(rows * len(counts) + words)) != len(rows) or not np.array_equal(carried, counts):
        raise _wrong(path, "image_words", "wrong: its words are not those that 'counts' counts")


def _check_pairs(path: str | Path, pairs: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
    words, (first, second, both) = len(counts), pairs[pairs[:, 2] > 0].T
    if len(pairs) and pairs[:, :2].max() >= words:
        raise _wrong(path, "cooccurrence", f"wrong: it names word {pairs[:, :2].max()} of a vocabulary of {words}")
    place, mirrored = first * words + second, second * words + first
    order, back = np.argsort(place, kind="stable"), np.argsort(mirrored, kind="stable")
    if (np.diff(place[order]) == 0).any():
        raise _wrong(path, "cooccurrence", "wrong: it names two words twice")
    if not (np.array_equal(place[order], mirrored[back]) and np.array_equal(both[order], both[back])):
        raise _wrong(path, "cooccurrence", "not symmetric")
    if (both > np.minimum(counts[first], counts[second])).any():
        raise _wrong(path, "cooccurrence", "wrong: more images carry two words than one of them, by 'counts'")
    alone = np.zeros_like(counts)
    alone[first[first == second]] = both[first == second]
    if not np.array_equal(alone, counts):
        raise _wrong(path, "cooccurrence", "wrong: its diagonal is not 'counts'")


def _check_head(path: str | Path, tensors: Tensors, metadata: Mapping[str, Any], head: str) -> None:
    """The head's tensors and numbers are there, and none of another head."""
    ranks, learns = _OF_HEAD[head]
    there = set(tensors) - set(_ALWAYS) - {"projection", "projection_mean"}
    wanted = {*ranks, *(learns if there & set(learns) else ())}
    if missing := sorted(wanted - there):
        raise ModelFileError(f"{path} lacks the tensor {missing[0]!r}, which the head {head!r} needs")
    if unknown := sorted(there - wanted - ({"confidence"} if head in REGRESSIONS else set())):
        raise _wrong(path, unknown[0], f"a tensor that the head {head!r} does not have")
    chosen = metadata.get("chosen")
    if (chosen is not None) != (head in REGRESSIONS) and (chosen is not None or _is_open(metadata["config"])):
        raise _wrong(path, "chosen", f"{_shown(chosen)}, which does not suit the head {head!r} and its settings")
    if chosen is not None and chosen["threshold"] is not None and "confidence" not in tensors:
        raise _wrong(path, "chosen", f"{_shown(chosen)}, and there is no tensor 'confidence' to compare its threshold with")
    with_sums = "total" in tensors or "images" in tensors
    for name in ("images", "penalty"):
        if (metadata.get(name) is not None) != with_sums:
            raise _wrong(path, name, f"{_shown(metadata.get(name))}, and its sums are {'there' if with_sums else 'not'}")
    if with_sums and (metadata.get("logistic") is not None) != ("confidence" in tensors):
        raise _wrong(path, "logistic", f"{_shown(metadata.get('logistic'))}, which does not suit the tensor 'confidence'")
    if not with_sums and metadata.get("logistic") is not None:
        raise _wrong(path, "logistic", f"{_shown(metadata['logistic'])}, and its sums are not there")


def _is_open(config: Any) -> bool:
    """Whether the settings leave something to be chosen at a fit."""
    return isinstance(config, dict) and None in (config.get("regularisation"), config.get("balance"))


def _is_chosen(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) != set(Chosen._fields):
        return False
    numbers = _finite(value["regularisation"]) and value["regularisation"] > 0 and _finite(value["balance"])
    threshold = value["threshold"]
    return numbers and (threshold is None or (_finite(threshold) and 0 <= threshold <= 1)) and _whole(value["words"])


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_IMAGES


def _numbers(value: Any, count: int) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == count and all(map(_finite, value))


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300 and math.isfinite(value)


def _is_vocabulary(value: Any) -> bool:
    if not isinstance(value, (list, tuple)) or not all(isinstance(word, str) and word.strip() for word in value):
        return False
    return len(set(value)) == len(value) and not any(re.search("[\ud800-\udfff]", word) for word in value)


#: What each field of the description is, in words, and whether a value is one.
_METADATA: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "gpuannot_version": ("a text", lambda value: isinstance(value, str)),
    "vocabulary": ("a list of different words", _is_vocabulary),
    "config": ("the settings", lambda value: value is None or isinstance(value, dict)),
    "preprocessing": ("what is done to an image", lambda value: isinstance(value, dict)),
    "trunk_sha256": ("64 hexadecimal digits", lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value))),
    "images": ("a number of images", _whole),
    "penalty": ("a number above 0", lambda value: _finite(value) and value > 0),
    "logistic": ("null or five numbers", lambda value: value is None or any(_numbers(value, count) for count in (5, 4, 3))),
    "chosen": (f"null or the numbers {', '.join(Chosen._fields)}", lambda value: value is None or _is_chosen(value)),
}


def _wrong(path: str | Path, field: str, what: str) -> ModelFileError:
    return ModelFileError(f"{path}: {field} is {what}; fit the model again, or restore the file from a copy")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
