"""A fitted annotator as one safetensors file, checked when it is read. Never a pickle.

The file's tensors are ``matrix`` (C, n) and ``offset`` (n,) of normalisation and PCA, ``explained_variance_ratio`` (n,),
``centers`` (m, n), and the word bank's ``sums`` (W, m·n) float64 and ``counts`` (W,) int64. Its metadata has one key, ``gpuannot``,
a JSON object: schema, vocabulary, config, preprocessing, the trunk weights' SHA-256, and the SHA-256 of all that with the tensors.

Several layers have a ``matrix`` (ΣC, n) of all their channels, ``offset`` and ``explained_variance_ratio`` (L, n) of each, and
``centers`` (L', m, n) of the L' with visual words, which are all but ``colours``. With a joint projection there are ``projection``
(V, d) and ``projection_mean`` (V,), V = L'·m·n, with ``colours`` n more, and with the setting ``moments`` L'·s(s + 1)/2 more, s
being that. Image vectors have D = d + t(t + 1)/2 values, t being the setting ``quadratic`` or d, if that is smaller; without, D =
V. Read D for m·n below.

With the head ``ridge`` there are also ``weights`` (K, m·n) and ``bias`` (K,) of the K words that have an image, and where there are
confidences ``confidence`` (3, W), slope, offset and level of each word's; two rows, without level, in earlier files. With a head
that needs more sums than the words' there are ``total`` Σx (m·n,) float64, ``cooccurrence`` (E, 3) int64 (word, word, images that
carry both) and, for ``ridge``, ``scatter``, the lower triangle of Σxxᵀ row by row, float32. ``sums`` and these are missing in a
model that was saved without sums; it annotates, and cannot learn.

With the head ``kernel`` there are ``landmarks`` (M, d) float16, ``coefficients`` (M, K), ``bias`` and ``confidence``; for
learning ``images`` (N, d) float16, their ascending ``image_keys`` (N,) int64 and ``image_words`` (E, 2) int64 (row, word). Up to
the number of images that are learnt from exactly M = N.

``projection`` is float16, which its values are rounded to before anything is learnt by them. Earlier versions wrote it in float32
and ``scatter`` in float64: such models are read, and keep that form.
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
from safetensors import safe_open
from safetensors.numpy import save

from ..errors import ModelFileError
from ..system.atomic_files import replacing
from .checks import check_contents
from .header import NOT_SAFETENSORS, SCHEMA, check_is_file, checked_header, not_whole


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
            digest.update(np.ascontiguousarray(tensor).data.cast("B") if tensor.size else b"")
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
                with tensors and fields that do not fit together (:func:`~gpuannot.model.checks.check_contents`).
        """
        path = check_is_file(path)
        try:
            with safe_open(path, framework="np") as file:
                metadata = dict(file.metadata() or {})
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except NOT_SAFETENSORS as error:
            raise not_whole(path, error) from error
        header = checked_header(path, metadata)
        stated = header.pop("sha256", None)
        header.pop("schema")
        model = cls(tensors, header)
        if _sha256(path, model) != stated:
            raise ModelFileError(
                f"{path} was changed after it was written: its SHA-256 does not match; fit the model again or restore the file"
            )
        check_contents(path, tensors, header)
        return model


def _sha256(path: Path, model: ModelFile) -> str:
    try:
        return model.sha256
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: its model description cannot be read ({error})") from error
