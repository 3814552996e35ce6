"""One file of annotations, whole or absent: rows or a document.

One row an image: ``path``, ``words`` (likeliest first, or without confidences nearest first), ``distances``, where the model says
``confidences`` (0…1, how likely each word is right), ``model`` (the model's SHA-256) and, where asked for, ``vector``, its VLAD
vector. Documents have what their format has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from ...errors import DataError
from ...images.decode_task import ImageFailure
from ...model.annotations import Annotations
from ...system.atomic_files import publish, temporary_name
from .csv_rows import CsvRows
from .document import Naming
from .documents import DOCUMENTS
from .json_rows import JsonRows
from .parquet_rows import ParquetRows
from .protocol import Writer

FORMATS = {".parquet": "Parquet", ".jsonl": "JSON lines", ".csv": "CSV"}
_ROWS: dict[str, Callable[[Path, str, int | None, bool], Writer]] = {
    ".parquet": ParquetRows,
    ".jsonl": JsonRows,
    ".csv": CsvRows,
}


class AnnotationWriter:
    """Writes annotations to ``path``, in the form that ``format`` or its suffix names.

    Rows go to a temporary name in the same folder, which :meth:`commit` flushes and renames: ``path`` is never half a file.
    Leaving the ``with`` block by an error removes the temporary file. The same rows give the same bytes.

    Args:
        path: the file; without a ``format``, ``.parquet``, ``.jsonl`` or ``.csv``.
        model_sha256: named in every row.
        overwrite: replace a file that exists.
        vectors: m·n, to write the VLAD vectors too; every :class:`Annotations` then has them. Not in documents.
        confidence: write the confidences too; every :class:`Annotations` then has them. Documents have them where they are.
        format: of a document, one of ``gpuannot.jobs.writers.DOCUMENTS``.
        naming: how a document names images.

    Attributes:
        rows: images that were written.

    Raises:
        DataError: an unknown suffix or a name that the format does not allow, a missing folder, or a file that exists (unless
            ``overwrite``).
    """

    def __init__(
        self,
        path: str | Path,
        *,
        model_sha256: str,
        overwrite: bool = False,
        vectors: int | None = None,
        confidence: bool = False,
        format: str | None = None,
        naming: Naming | None = None,
    ) -> None:
        self.path = Path(path)
        if format is not None:
            DOCUMENTS[format].check_name(self.path)
        elif self.path.suffix not in FORMATS:
            raise DataError(f"{path}: the output's suffix must be one of {', '.join(FORMATS)}")
        if not self.path.parent.is_dir():
            raise DataError(f"{self.path.parent}: no such folder for the output")
        if self.path.is_dir():
            raise DataError(f"{path} is a folder; choose another name for the file")
        if self.path.exists() and not overwrite:
            raise DataError(f"{path} exists; choose another name, or overwrite it with --overwrite")
        self.rows = 0
        self._vectors, self._confidence = vectors is not None, confidence
        self._rows = format is None
        self._partial = temporary_name(self.path)
        self._writer: Writer
        try:
            if format is None:
                self._writer = _ROWS[self.path.suffix](self._partial, model_sha256, vectors, confidence)
            else:
                self._writer = DOCUMENTS[format](self._partial, model_sha256, naming or Naming())
        except BaseException:  # Parquet writes its first bytes at once, and the disk may be full
            self._partial.unlink(missing_ok=True)
            raise

    @property
    def failures(self) -> Sequence[ImageFailure]:
        """Images that the document cannot hold."""
        return self._writer.failures

    def write(self, annotations: Annotations) -> None:
        """Add the rows of some images, their words in order of confidence where there is one."""
        annotations = annotations.by_confidence()
        for what, there, expected in (
            ("vectors", annotations.vectors is not None, self._vectors),
            ("confidences", annotations.confidence is not None, self._confidence),
        ):
            if self._rows and there != expected:
                raise ValueError(f"this writer was made {'with' if expected else 'without'} {what}, the annotations were not")
        before = len(self._writer.failures)
        self._writer.write(annotations)
        self.rows += len(annotations) - (len(self._writer.failures) - before)

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
