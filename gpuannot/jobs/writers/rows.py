"""The rows of annotations as plain Python values."""

from __future__ import annotations

from typing import Any

from ...images.input import utf8
from ...model.annotations import Annotations


def rows(annotations: Annotations, model_sha256: str) -> list[dict[str, Any]]:
    """The rows as plain Python values."""
    distances = annotations.values_given(annotations.distance)
    found: list[dict[str, Any]] = [
        {
            "path": utf8(name),
            "words": list(words),
            "distances": [round(float(value), 6) for value in distance],
            "model": model_sha256,
        }
        for name, words, distance in zip(annotations.names, annotations.words, distances, strict=True)
    ]
    if annotations.confidence is not None:
        for row, confidence in zip(found, annotations.values_given(annotations.confidence), strict=True):
            row["confidences"] = [round(float(value), 4) for value in confidence]
            row["model"] = row.pop("model")  # after the lists
    if annotations.vectors is not None:
        for row, vector in zip(found, annotations.vectors, strict=True):
            row["vector"] = [float(f"{value:.9g}") for value in vector]  # nine digits tell all float32 apart
    return found
