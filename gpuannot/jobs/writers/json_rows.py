"""Rows as JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO

from ...images.decode_task import ImageFailure
from ...model.annotations import Annotations
from .rows import rows


class JsonRows:
    """One object a line."""

    failures: tuple[ImageFailure, ...] = ()

    def __init__(self, path: Path, model_sha256: str, vectors: int | None, confidence: bool) -> None:
        self._model = model_sha256
        self._file: IO[str] = open(path, "w", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def write(self, annotations: Annotations) -> None:
        for row in rows(annotations, self._model):
            self._file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")

    def close(self) -> None:
        self._file.close()
