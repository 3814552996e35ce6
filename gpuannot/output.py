"""Annotations as files that other tools read: Parquet, JSON lines, CSV; and the ledger of inputs that failed.

One row an image: ``path``, ``words`` (nearest first) and ``distances``. CSV has no lists: there both are joined with ``;``.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

from .annotations import Annotations
from .errors import DataError
from .image_batches import ImageFailure

FORMATS = {".parquet": "Parquet", ".jsonl": "JSON lines", ".csv": "CSV"}


class _RowWriter(Protocol):
    def write(self, annotations: Annotations) -> None: ...
    def close(self) -> None: ...


class AnnotationWriter:
    """Writes annotations to ``path``, in the form that its suffix names.

    Rows go to a temporary name in the same folder, which :meth:`commit` flushes and renames: ``path`` is never half a file.
    Leaving the ``with`` block by an error removes the temporary file.

    Raises:
        DataError: an unknown suffix, a missing folder, or a file that exists (unless ``overwrite``).
    """

    def __init__(self, path: str | Path, *, model_sha256: str, overwrite: bool = False) -> None:
        self.path = Path(path)
        if self.path.suffix not in FORMATS:
            raise DataError(f"{path}: the output's suffix must be one of {', '.join(FORMATS)}")
        if not self.path.parent.is_dir():
            raise DataError(f"{self.path.parent}: no such folder for the output")
        if self.path.exists() and not overwrite:
            raise DataError(f"{path} exists; choose another name, or overwrite it with --overwrite")
        self.rows = 0
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        writers: dict[str, Callable[[Path, str], _RowWriter]] = {".parquet": _ParquetRows, ".jsonl": _JsonRows, ".csv": _CsvRows}
        self._writer: _RowWriter = writers[self.path.suffix](self._partial, model_sha256)

    def write(self, annotations: Annotations) -> None:
        """Add the rows of some images."""
        self._writer.write(annotations)
        self.rows += len(annotations)

    def commit(self) -> Path:
        """Finish the file and give it its name."""
        self._writer.close()
        with open(self._partial, "rb") as file:
            os.fsync(file.fileno())
        self._partial.replace(self.path)
        return self.path

    def __enter__(self) -> AnnotationWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._partial.exists():
            try:
                self._writer.close()
            finally:
                self._partial.unlink()


def rows(annotations: Annotations) -> list[dict[str, Any]]:
    """The rows as plain Python values."""
    return [
        {"path": utf8(name), "words": list(words), "distances": [round(float(value), 6) for value in distance]}
        for name, words, distance in zip(annotations.names, annotations.words, annotations.distance, strict=True)
    ]


def utf8(name: str) -> str:
    """A file name as text that every format takes: bytes in it that are not UTF-8, which Linux allows, become ``\\udcff``."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def write_failures(path: str | Path, failures: Iterable[ImageFailure]) -> Path:
    """Write the ledger: JSON lines of ``path``, ``stage`` and ``reason``."""
    target = Path(path)
    with open(target, "w", encoding="utf-8") as file:
        for failure in failures:
            entry = {"path": utf8(failure.path), "stage": failure.stage, "reason": failure.reason}
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    return target


class _ParquetRows:
    def __init__(self, path: Path, model_sha256: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._schema = pa.schema(
            [("path", pa.string()), ("words", pa.list_(pa.string())), ("distances", pa.list_(pa.float32()))],
            metadata={"gpuannot_model_sha256": model_sha256},
        )
        self._table = pa.Table
        self._file = pq.ParquetWriter(path, self._schema)
        self._waiting: list[dict[str, Any]] = []

    def write(self, annotations: Annotations) -> None:
        self._waiting.extend(
            {"path": utf8(name), "words": list(words), "distances": distance}
            for name, words, distance in zip(annotations.names, annotations.words, annotations.distance, strict=True)
        )
        if len(self._waiting) >= 8192:  # a row group: large enough to compress, small beside the trunk's memory
            self._flush()

    def _flush(self) -> None:
        self._file.write_table(self._table.from_pylist(self._waiting, schema=self._schema))
        self._waiting.clear()

    def close(self) -> None:
        if self._waiting:
            self._flush()
        self._file.close()


class _JsonRows:
    def __init__(self, path: Path, model_sha256: str) -> None:
        self._file: IO[str] = open(path, "w", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def write(self, annotations: Annotations) -> None:
        for row in rows(annotations):
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.close()


class _CsvRows:
    def __init__(self, path: Path, model_sha256: str) -> None:
        self._file: IO[str] = open(path, "w", encoding="utf-8", newline="")  # noqa: SIM115 - closed by close()
        self._csv = csv.writer(self._file)
        self._csv.writerow(("path", "words", "distances"))

    def write(self, annotations: Annotations) -> None:
        for row in rows(annotations):
            self._csv.writerow((row["path"], ";".join(row["words"]), ";".join(map(str, row["distances"]))))

    def close(self) -> None:
        self._file.close()
