"""Annotations as files that other tools read: Parquet, JSON lines, CSV; and the ledger of inputs that failed.

One row an image: ``path``, ``words`` (likeliest first, or without confidences nearest first), ``distances``, where the model says
``confidences`` (0…1, how likely each word is right), ``model`` (the model's SHA-256) and, where asked for, ``vector``, its VLAD
vector. CSV has no lists: there they are joined with ``;``, and a ``;`` or ``\\`` within a word has a ``\\`` before it. What a
spreadsheet would take for a formula has ``\\`` before it too, in a path ``./``.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..images.decode_task import ImageFailure
from ..images.input import utf8
from ..model.annotations import Annotations
from ..system.atomic_files import publish, temporary_name

FORMATS = {".parquet": "Parquet", ".jsonl": "JSON lines", ".csv": "CSV"}

# Rows of a Parquet row group: enough to compress well, little beside the trunk's memory; with vectors their bytes decide.
_GROUP_ROWS = 8192
_GROUP_BYTES = 32 * 2**20


class _RowWriter(Protocol):
    def write(self, annotations: Annotations) -> None: ...
    def close(self) -> None: ...


class AnnotationWriter:
    """Writes annotations to ``path``, in the form that its suffix names.

    Rows go to a temporary name in the same folder, which :meth:`commit` flushes and renames: ``path`` is never half a file.
    Leaving the ``with`` block by an error removes the temporary file. The same rows give the same bytes.

    Args:
        path: the file, ``.parquet``, ``.jsonl`` or ``.csv``.
        model_sha256: named in every row.
        overwrite: replace a file that exists.
        vectors: m·n, to write the VLAD vectors too; every :class:`Annotations` then has them.
        confidence: write the confidences too; every :class:`Annotations` then has them.

    Raises:
        DataError: an unknown suffix, a missing folder, or a file that exists (unless ``overwrite``).
    """

    def __init__(
        self, path: str | Path, *, model_sha256: str, overwrite: bool = False, vectors: int | None = None, confidence: bool = False
    ) -> None:
        self.path = Path(path)
        if self.path.suffix not in FORMATS:
            raise DataError(f"{path}: the output's suffix must be one of {', '.join(FORMATS)}")
        if not self.path.parent.is_dir():
            raise DataError(f"{self.path.parent}: no such folder for the output")
        if self.path.is_dir():
            raise DataError(f"{path} is a folder; choose another name for the file")
        if self.path.exists() and not overwrite:
            raise DataError(f"{path} exists; choose another name, or overwrite it with --overwrite")
        self.rows = 0
        self._vectors, self._confidence = vectors is not None, confidence
        self._partial = temporary_name(self.path)
        writers: dict[str, Callable[[Path, str, int | None, bool], _RowWriter]] = {
            ".parquet": _ParquetRows,
            ".jsonl": _JsonRows,
            ".csv": _CsvRows,
        }
        try:
            self._writer: _RowWriter = writers[self.path.suffix](self._partial, model_sha256, vectors, confidence)
        except BaseException:  # Parquet writes its first bytes at once, and the disk may be full
            self._partial.unlink(missing_ok=True)
            raise

    def write(self, annotations: Annotations) -> None:
        """Add the rows of some images, their words in order of confidence where there is one."""
        annotations = annotations.by_confidence()
        for what, there, expected in (
            ("vectors", annotations.vectors is not None, self._vectors),
            ("confidences", annotations.confidence is not None, self._confidence),
        ):
            if there != expected:
                raise ValueError(f"this writer was made {'with' if expected else 'without'} {what}, the annotations were not")
        self._writer.write(annotations)
        self.rows += len(annotations)

    def finish(self) -> Path:
        """Finish the file under its temporary name, which is returned."""
        self._writer.close()
        return self._partial

    def commit(self) -> Path:
        """Finish the file and give it its name."""
        publish(self.finish(), self.path)
        return self.path

    def __enter__(self) -> AnnotationWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._partial.exists():
            try:
                with suppress(OSError):  # a full disk: the error that led here says so
                    self._writer.close()
            finally:
                self._partial.unlink()


def rows(annotations: Annotations, model_sha256: str) -> list[dict[str, Any]]:
    """The rows as plain Python values."""
    found: list[dict[str, Any]] = [
        {
            "path": utf8(name),
            "words": list(words),
            "distances": [round(float(value), 6) for value in distance[: len(words)]],
            "model": model_sha256,
        }
        for name, words, distance in zip(annotations.names, annotations.words, annotations.distance, strict=True)
    ]
    if annotations.confidence is not None:
        for row, confidence in zip(found, annotations.confidence, strict=True):
            row["confidences"] = [round(float(value), 4) for value in confidence[: len(row["words"])]]
            row["model"] = row.pop("model")  # after the lists
    if annotations.vectors is not None:
        for row, vector in zip(found, annotations.vectors, strict=True):
            row["vector"] = [float(f"{value:.9g}") for value in vector]  # nine digits tell all float32 apart
    return found


def failure_lines(failures: Iterable[ImageFailure]) -> str:
    """The ledger: JSON lines of ``path``, ``stage`` and ``reason``."""
    entries = ({"path": utf8(failure.path), "stage": failure.stage, "reason": failure.reason} for failure in failures)
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


def read_ledger(path: Path) -> Iterator[ImageFailure]:
    """The entries of a ledger."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield ImageFailure(**json.loads(line))


class _ParquetRows:
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
            pa.array([value for part in parts for value in _given(part, part.distance)], pa.list_(pa.float32())),
            *(
                [pa.array([value for part in parts for value in _given(part, part.confidence)], pa.list_(pa.float32()))]
                if self._confidence
                else []
            ),
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


class _JsonRows:
    def __init__(self, path: Path, model_sha256: str, vectors: int | None, confidence: bool) -> None:
        self._model = model_sha256
        self._file: IO[str] = open(path, "w", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def write(self, annotations: Annotations) -> None:
        for row in rows(annotations, self._model):
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.close()


class _CsvRows:
    def __init__(self, path: Path, model_sha256: str, vectors: int | None, confidence: bool) -> None:
        self._model = model_sha256
        self._file: IO[str] = open(path, "w", encoding="utf-8", newline="")  # noqa: SIM115 - closed by close()
        self._csv = csv.writer(self._file)
        optional = (*(("confidences",) if confidence else ()), "model", *(("vector",) if vectors is not None else ()))
        self._csv.writerow(("path", "words", "distances", *optional))

    def write(self, annotations: Annotations) -> None:
        for row in rows(annotations, self._model):
            self._csv.writerow([_cell(value) for value in row.values()])

    def close(self) -> None:
        self._file.close()


def _given(annotations: Annotations, values: NDArray[np.float32] | None) -> Iterator[NDArray[np.float32]]:
    """The values (T, k) of the words that each image was given."""
    assert values is not None
    for row, index in zip(values, annotations.index, strict=True):
        yield row[index >= 0]


FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet computes


def _cell(value: str | list[Any]) -> str:
    if isinstance(value, str):
        return f"./{value}" if value.startswith(FORMULA) else value
    cell = ";".join(str(item) if isinstance(item, float) else re.sub(r"([;\\])", r"\\\1", item) for item in value)
    return f"\\{cell}" if cell.startswith(FORMULA) and isinstance(value[0], str) else cell
