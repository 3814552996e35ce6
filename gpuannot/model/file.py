"""A fitted annotator as one safetensors file, checked when it is read. Never a pickle.

The file's tensors are ``matrix`` (C, n) and ``offset`` (n,) of normalisation and PCA, ``explained_variance_ratio`` (n,),
``centers`` (m, n), and the word bank's ``sums`` (W, m·n) float64 and ``counts`` (W,) int64. Its metadata has one key, ``gpuannot``,
a JSON object: schema, vocabulary, config, preprocessing, the trunk weights' SHA-256, and the SHA-256 of all that with the tensors.

Several layers have a ``matrix`` (ΣC, n) of all their channels, and ``offset``, ``explained_variance_ratio`` (L, n) and ``centers``
(L, m, n) of each. With a joint projection there are ``projection`` (L·m·n, d) and ``projection_mean`` (L·m·n,), and image vectors
have D = d + t(t + 1)/2 values, t being the setting ``quadratic`` or d, if that is smaller; without, D = L·m·n. Read D for
m·n below.

With the head ``ridge`` there are also ``weights`` (K, m·n) and ``bias`` (K,) of the K words that have an image, and where there are
confidences ``confidence`` (2, W), slope and offset of each word's. With a head that needs more sums than the words' there are
``total`` Σx (m·n,) float64, ``cooccurrence`` (E, 3) int64 (word, word, images that carry both) and, for ``ridge``,
``scatter``, the lower triangle of Σxxᵀ row by row, float64. ``sums`` and these are missing in a model that was saved without sums;
it annotates, and cannot learn.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import ModelFileError
from ..system.atomic_files import replacing

SCHEMA = "gpuannot.model/1"
_SHAPES = {
    "matrix": "C n", "offset": "n", "explained_variance_ratio": "n", "centers": "m n", "counts": "W", "sums": "W D",
    "projection": "V d", "projection_mean": "V",
    "weights": "K D", "bias": "K", "confidence": "2 W", "total": "D", "cooccurrence": "E 3", "scatter": "T",
}  # fmt: skip
_DTYPES = {
    "explained_variance_ratio": "float64", "sums": "float64", "counts": "int64", "total": "float64", "cooccurrence": "int64",
    "scatter": "float64",
}  # fmt: skip
# float32 where not named
#: The same of a model of several layers.
_LAYER_SHAPES = {"offset": "L n", "explained_variance_ratio": "L n", "centers": "L m n"}
_ALWAYS = ("matrix", "offset", "explained_variance_ratio", "centers", "counts")


@dataclass(frozen=True)
class ModelFile:
    """What a model file holds: ``tensors`` by name and ``metadata`` (vocabulary, config, preprocessing, trunk_sha256, version)."""

    tensors: Mapping[str, NDArray[Any]]
    metadata: Mapping[str, Any]

    @property
    def sha256(self) -> str:
        """SHA-256 of tensors and metadata: the model's identity."""
        digest = hashlib.sha256(json.dumps(dict(self.metadata), sort_keys=True).encode())
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
            digest.update(np.ascontiguousarray(tensor).tobytes())
        return digest.hexdigest()

    def write(self, path: str | Path) -> Path:
        """Write the file: to a temporary name in the same folder, flushed, then renamed, so that ``path`` is never half a model.

        Raises:
            ModelFileError: the folder is missing or cannot be written to.
        """
        path = Path(path)
        header = {"schema": SCHEMA, "sha256": self.sha256, **self.metadata}
        content = save(
            {name: np.ascontiguousarray(tensor) for name, tensor in self.tensors.items()}, {"gpuannot": json.dumps(header)}
        )
        try:
            with replacing(path) as partial:
                partial.write_bytes(content)
        except OSError as error:
            raise ModelFileError(f"cannot write the model to {path} ({error.strerror})") from error
        return path

    @classmethod
    def read(cls, path: str | Path) -> ModelFile:
        """Read and check a file.

        Raises:
            ModelFileError: missing, not safetensors (a pickle, an image …), cut, another program's, of another schema, edited, or
                with tensors that do not fit together.
        """
        path = Path(path)
        if path.is_dir():
            raise ModelFileError(f"{path}: no such model file, but a folder; the model comes first, then images")
        if not path.is_file():
            raise ModelFileError(f"{path}: no such model file; gpuannot fit writes one")
        try:
            with safe_open(path, framework="np") as file:
                metadata = dict(file.metadata() or {})
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            raise ModelFileError(
                f"{path} is not a whole safetensors file ({error}); gpuannot models are written by Annotator.save or gpuannot fit"
            ) from error
        header = _header(path, metadata)
        stated = header.pop("sha256", None)
        header.pop("schema")
        model = cls(tensors, header)
        if model.sha256 != stated:
            raise ModelFileError(
                f"{path} was changed after it was written: its SHA-256 does not match; fit the model again or restore the file"
            )
        _check_shapes(path, tensors, header)
        return model


def _header(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        header = json.loads(metadata.get("gpuannot", "null"))
    except json.JSONDecodeError as error:
        raise ModelFileError(f"{path}: its model description is not valid JSON ({error})") from error
    if not isinstance(header, dict) or "schema" not in header:  # gpuannot's own weights file has a description, and no schema
        raise ModelFileError(f"{path} is a safetensors file, but not a gpuannot model (is it a file of network weights?)")
    if header["schema"] != SCHEMA:
        raise ModelFileError(
            f"{path} has schema {header['schema']!r}, this version of gpuannot reads {SCHEMA!r}; use the version that wrote it"
        )
    return header


def _check_shapes(path: Path, tensors: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> None:
    sizes: dict[str, int] = {"W": len(header.get("vocabulary", ())), "2": 2, "3": 3}
    needed = (*_ALWAYS, *(("weights", "bias") if "weights" in tensors else ("sums",)))
    if missing := [name for name in needed if name not in tensors]:
        raise ModelFileError(f"{path} lacks the tensor {missing[0]!r}")
    layered = np.ndim(tensors["centers"]) == 3
    for name, axes in {**_SHAPES, **(_LAYER_SHAPES if layered else {})}.items():
        if name not in tensors:
            continue
        tensor, expected = tensors[name], axes.split()
        dtype = _DTYPES.get(name, "float32")
        if tensor.dtype != dtype or tensor.ndim != len(expected):
            raise ModelFileError(
                f"{path}: {name} is {tensor.dtype} of shape {tensor.shape}, expected {dtype} ({', '.join(expected)})"
            )
        for axis, size in zip(expected, tensor.shape, strict=True):
            if sizes.setdefault(axis, size) != size:
                raise ModelFileError(f"{path}: {name} has shape {tensor.shape}, expected {axis} = {sizes[axis]}")
        if not np.isfinite(tensor).all():
            raise ModelFileError(f"{path}: {name} holds NaN or infinite values")
    vlad = sizes.get("L", 1) * sizes["m"] * sizes["n"]
    if sizes.get("V", vlad) != vlad:
        raise ModelFileError(f"{path}: the projection takes vectors of {sizes['V']} values, the VLAD vectors have {vlad}")
    quadratic = header.get("config", {}).get("quadratic", 0) if "projection" in tensors else 0
    if ("projection" in tensors) != ("projection_mean" in tensors):
        raise ModelFileError(f"{path} has only one of the tensors 'projection' and 'projection_mean'")
    kept = sizes.get("d", vlad)
    quadratic = min(quadratic, kept)
    expected_length = kept + quadratic * (quadratic + 1) // 2
    if sizes["D"] != expected_length:
        called = "m·n" if "projection" not in tensors and not layered else "the image vectors' length"
        raise ModelFileError(f"{path}: word sums have length {sizes['D']}, expected {called} = {expected_length}")
    if sizes.get("T", triangle := sizes["D"] * (sizes["D"] + 1) // 2) != triangle:
        raise ModelFileError(f"{path}: scatter has {sizes['T']} values, expected D·(D + 1)/2 = {triangle}")
