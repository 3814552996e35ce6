"""Rows as Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...images.decode_task import ImageFailure
from ...images.input import utf8
from ...model.annotations import Annotations

# Rows of a row group: enough to compress well, little beside the trunk's memory; with vectors their bytes decide.
_GROUP_ROWS = 8192
_GROUP_BYTES = 32 * 2**20


class ParquetRows:
    """One row an image; a row group has up to 8,192."""

    failures: tuple[ImageFailure, ...] = ()

    def __init__(self, path: Path, model_sha256: str, vectors: int | None, confidence: bool) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = [("path", pa.string()), ("words", pa.list_(pa.string())), ("distances", pa.list_(pa.float32()))]
        if confidence:
            columns.append(("confidences", pa.list_(pa.float32())))
        columns.append(("model", pa.string()))
        if vectors is not None:
            columns.append(("vector", pa.list_(pa.float32(), vectors)))
        self._schema = pa.schema(columns, metadata={"gpuannot_model_sha256": model_sha256})
        self._arrow, self._model, self._vectors, self._confidence = pa, model_sha256, vectors, confidence
        self._plain = open(path, "wb")  # noqa: SIM115 - closed by close(); Arrow wants names in UTF-8
        try:
            self._file = pq.ParquetWriter(self._plain, self._schema)
        except BaseException:
            self._plain.close()
            raise
        self._waiting: list[Annotations] = []
        self._rows = 0
        self._group = _GROUP_ROWS if vectors is None else min(_GROUP_ROWS, max(1, _GROUP_BYTES // (4 * vectors)))

    def write(self, annotations: Annotations) -> None:
        self._waiting.append(annotations)
        self._rows += len(annotations)
        if self._rows >= self._group:
            self._flush()

    def _flush(self) -> None:
        pa, parts = self._arrow, self._waiting
        columns = [
            pa.array([utf8(name) for part in parts for name in part.names], pa.string()),
            pa.array([words for part in parts for words in part.words], pa.list_(pa.string())),
            pa.array([value for part in parts for value in part.values_given(part.distance)], pa.list_(pa.float32())),
            *([pa.array(_confidences(parts), pa.list_(pa.float32()))] if self._confidence else []),
            pa.array([self._model] * self._rows, pa.string()),
        ]
        if self._vectors is not None:
            flat = np.concatenate([part.vectors.ravel() for part in parts if part.vectors is not None])
            columns.append(pa.FixedSizeListArray.from_arrays(flat, self._vectors))
        self._file.write_table(pa.Table.from_arrays(columns, schema=self._schema))
        self._waiting.clear()
        self._rows = 0

    def close(self) -> None:
        try:
            try:
                if self._rows:
                    self._flush()
            finally:
                self._file.close()
        finally:
            self._file.is_open = False  # or it would try again when it is let go, on a closed file
            self._plain.close()


def _confidences(parts: Sequence[Annotations]) -> list[NDArray[np.float32]]:
    return [value for part in parts if part.confidence is not None for value in part.values_given(part.confidence)]
