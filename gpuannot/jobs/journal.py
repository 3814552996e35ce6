"""Rows that are appended as they come: a file of JSON lines that says what is done, whatever stops its writer."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import DataError
from ..images.decode_task import ImageFailure
from ..images.input import utf8
from ..system.atomic_files import write_whole, writing_alone
from .readers import rows_of_lines
from .writers import failure_lines, read_ledger

_BEGINNING = b'{"path": '  # of a row


class Journal:
    """A file of rows, one writer at a time.

    A row is there once :meth:`add` returns. What a writer that was killed left of a line is cut off; a file of anything else stays
    as it is.

    Args:
        path: a ``.jsonl`` file, new or of earlier runs of the same model.
        model_sha256: the model's.

    Attributes:
        failures: inputs that got no row, by name; they are in the ledger ``PATH.failures.jsonl``.

    Raises:
        DataError: no ``.jsonl``, no folder for it, rows of another model, or something else than rows.
        OutputError: another process writes it, or it cannot be written.
    """

    def __init__(self, path: str | Path, model_sha256: str) -> None:
        self.path, self.model = Path(path), model_sha256
        if self.path.suffix != ".jsonl":
            raise DataError(f"{path}: rows are appended to a file of JSON lines; call it {self.path.with_suffix('.jsonl')}")
        if not self.path.parent.is_dir():
            raise DataError(f"{self.path.parent}: no such folder for the output")
        self.failures: dict[str, ImageFailure] = {}
        self._ledger = self.path.with_name(f"{self.path.name}.failures.jsonl")
        self._done: set[str] = set()
        self._open = ExitStack()

    def __enter__(self) -> Journal:
        with ExitStack() as stack:
            stack.enter_context(writing_alone(self.path))
            self._file = stack.enter_context(open(self.path, "ab"))
            whole = self._take_rows()
            if self._ledger.is_file():
                self.failures = {failure.path: failure for failure in read_ledger(self._ledger)}
            if whole < self.path.stat().st_size:
                os.truncate(self.path, whole)
            self._open = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._done)

    def __contains__(self, name: str) -> bool:
        return utf8(name) in self._done

    def add(self, rows: Sequence[dict[str, Any]], failures: Iterable[ImageFailure] = ()) -> None:
        """Append rows and note failures; a row takes an earlier failure of its input out of the ledger."""
        known = dict(self.failures)
        for row in rows:
            known.pop(row["path"], None)
        known |= {utf8(failure.path): failure for failure in failures}
        if lines := "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows):
            self._file.write(lines.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        self._done.update(row["path"] for row in rows)
        if known != self.failures:
            self.failures = known
            if known:
                write_whole(self._ledger, failure_lines(known.values()).encode())
            else:
                self._ledger.unlink(missing_ok=True)

    def _take_rows(self) -> int:
        """Take the rows that are there; returns the length of the file up to the end of the last.

        Raises:
            DataError: it holds something else, or an unfinished line that is not the beginning of a row.
        """
        whole, rest = 0, b""

        def lines() -> Iterator[bytes]:
            nonlocal whole, rest
            with open(self.path, "rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        rest = line
                        return
                    whole += len(line)
                    yield line

        for row in rows_of_lines(lines(), self.path):
            self._check_model(row)
            self._done.add(row["path"])
        try:
            json.loads(rest or b"?")
        except (ValueError, RecursionError):
            if not whole and not (rest.startswith(_BEGINNING) or _BEGINNING.startswith(rest)):
                raise DataError(f"{self.path} holds something else than rows of annotations; choose another name") from None
        else:  # another program may leave out the end of the last line
            self._check_model(*rows_of_lines([rest], self.path, len(self._done)))
        return whole

    def _check_model(self, row: dict[str, Any]) -> None:
        if row.get("model") != self.model:
            raise DataError(f"{self.path} holds rows of another model; choose another name")
