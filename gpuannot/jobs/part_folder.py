"""The folder that a batch run writes: parts, their ledgers, and what makes it resumable.

::

    part-00000.parquet …      rows (or .jsonl, .csv)
    _failures/part-00000.jsonl …   inputs of that part that got no row; only where there are some
    _summary.json             the last run's counts and timings
    _gpuannot/run.json        settings, and which list of inputs holds; written last of what precedes the first part
    _gpuannot/inputs-0.list   the inputs, part by part; another number once there were more
    _gpuannot/done/00000.json …    a part that is whole: what is in it, and the checksums of its files

Names that start with ``_`` are skipped by pyarrow, Dask and Spark when they read the folder as one table; DuckDB and Polars read
``part-*.parquet``. A part depends on its inputs and the settings alone, so an interrupted run, resumed, ends with the same bytes as
an undisturbed one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import DataError, OutputError
from ..images.decode_task import ImageFailure
from ..images.input import Input
from ..system.atomic_files import exclusive, remove_temporary_files, temporary_name, write_whole
from .input_list import InputList, in_parts
from .run_record import PartDone, RunCounts, RunSettings, check_accounts, sha256_of
from .writers import read_ledger

SCHEMA = "gpuannot.batch/2"
_PART = re.compile(r"part-\d{5,}(\.parquet|\.jsonl|\.csv)")


class PartFolder:
    """A folder of parts at ``path``; :meth:`begin` or :meth:`open` before the rest.

    Attributes:
        settings: :class:`RunSettings`.
        inputs: :class:`InputList`, the run's inputs.
    """

    settings: RunSettings
    inputs: InputList

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._state = self.path / "_gpuannot"
        self._run = self._state / "run.json"
        self.ledgers = self.path / "_failures"
        self.notes = self._state / "done"

    # -- the run ----------------------------------------------------------------------------------------------------------------

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Make the folder and keep other runs out of it while the ``with`` block lasts; a run that dies leaves no lock.

        Raises:
            DataError: a file of that name, a folder that holds other things, or no folder around it.
            OutputError: another run is at work there, or the folder cannot be written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise DataError(f"{self.path} is a file; parts need a folder of their own")
        if not self.path.parent.is_dir():
            raise DataError(f"{self.path.parent}: no such folder for the output")
        if self.path.is_dir() and not self._state.is_dir() and any(self.path.iterdir()):
            raise DataError(f"{self.path} holds other files; choose a new or empty folder for the parts")
        with self.telling():
            self._state.mkdir(parents=True, exist_ok=True)
        with exclusive(self._state / "lock", self.path):
            yield

    def begin(
        self,
        inputs: Iterable[Input],
        settings: RunSettings,
        *,
        resume: bool = False,
        overwrite: bool = False,
        retry_failed: bool = False,
        extend: bool = False,
    ) -> None:
        """Start a run, or take up one that is there.

        Args:
            resume: the inputs are those that the run was begun with.
            retry_failed: the same, but what could not be found or listed may be there now.
            extend: there may be others, which get parts of their own behind those of the run.
            overwrite: replace a run that is there.

        Raises:
            DataError: results are there and none of these was asked for; what is to be resumed had another model, other settings
                or other inputs; or there are no inputs.
            OutputError: the folder cannot be written.
        """
        started = self._run.exists()
        resume = resume or retry_failed or extend
        if started and not (resume or overwrite):
            raise DataError(
                f"{self.path} has results; go on with --resume, replace them with --overwrite, or choose another folder"
            )
        if started and resume:
            self.open(check=True)
            self._check_same(settings)
            with self.telling():
                self._make_folders()
                self.remove_temporary_files()
                if retry_failed or extend:
                    self._extend(inputs, may_grow=extend)
            if not (retry_failed or extend) and (difference := self.inputs.difference(inputs)):
                raise self._begun_otherwise(difference)
            return
        with self.telling():
            found = temporary_name(self._list(0))
            try:
                self._check_some(InputList.write(found, in_parts(inputs, settings.part_size)))
                self._clear(but=found)
                self._make_folders()
                found.replace(self._list(0))
            finally:
                found.unlink(missing_ok=True)
            self.settings = settings
            self._note(InputList(self._list(0)), 0)

    def _make_folders(self) -> None:  # a copy through an object store drops empty ones
        for folder in (self.ledgers, self.notes):
            folder.mkdir(exist_ok=True)

    def _list(self, number: int) -> Path:
        return self._state / f"inputs-{number}.list"

    @staticmethod
    def _check_some(inputs: InputList) -> None:
        if not inputs.count:
            raise DataError(
                "there are no inputs: the lists, tables and archives that were given are empty, or all their images left out"
            )

    def _note(self, inputs: InputList, number: int) -> None:
        """Make a list of inputs the run's."""
        content = {
            "schema": SCHEMA, "settings": asdict(self.settings), "inputs": inputs.count, "list": number,
            "list_sha256": sha256_of(inputs.path),
        }  # fmt: skip
        write_whole(self._run, (json.dumps(content, indent=2) + "\n").encode())
        self.inputs, self._number = inputs, number
        for other in self._state.glob("inputs-*.list"):
            if other != inputs.path:
                other.unlink()

    def _extend(self, inputs: Iterable[Input], *, may_grow: bool) -> None:
        longer = self.inputs.extended(self._list(self._number + 1), inputs, self.settings.part_size, self._open_places())
        if longer.count > self.inputs.count and not may_grow:
            first = longer.part(self.inputs.parts)[0].name
            count = longer.count - self.inputs.count
            longer.path.unlink()
            raise self._begun_otherwise(f"{count} inputs are new, the first {first!r}")
        if sha256_of(longer.path) == sha256_of(self.inputs.path):
            longer.path.unlink()
        else:
            self._note(longer, self._number + 1)

    def _open_places(self) -> Iterator[int]:
        """Positions of the inputs that are still to be read: of parts that are not whole, and those that failed."""
        for part in range(self.inputs.parts):
            first, end = self.inputs.starts[part : part + 2]
            done = self.done(part, verify=True)
            yield from range(first, end) if done is None else (first + place for place in done.failed)

    def recorded(self) -> RunSettings | None:
        """The settings of a run that is there; None without one, or where :meth:`open` would refuse it."""
        try:
            return self.open(check=True).settings
        except DataError:
            return None

    def open(self, base: str = "", *, check: bool = False) -> PartFolder:
        """Read what :meth:`begin` wrote: on a worker, or to resume.

        Args:
            base: the folder that relative paths of inputs start from; by default this process's own.
            check: hold the list of inputs against its checksum.

        Raises:
            DataError: there is no run, it is damaged, or this version cannot read it.
        """
        try:
            content = json.loads(self._run.read_text())
            if content["schema"] != SCHEMA:
                raise ValueError(f"schema {content['schema']!r}, expected {SCHEMA!r}: another version of gpuannot wrote it")
            self.settings, self._number = RunSettings(**content["settings"]), int(content["list"])
            path = self._list(self._number)
            if check and sha256_of(path) != content["list_sha256"]:
                raise ValueError(f"{path.name} was changed or damaged: its SHA-256 is another")
            self.inputs = InputList(path, base)
            if self.inputs.count != content["inputs"]:
                raise ValueError(f"{path.name} has {self.inputs.count} inputs, expected {content['inputs']}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self._run} cannot be used ({error}); start again with --overwrite") from error
        return self

    def _check_same(self, settings: RunSettings) -> None:
        there, now = asdict(self.settings), asdict(settings)
        changed = [f"{name} was {there[name]}, now it is {now[name]}" for name in now if there[name] != now[name]]
        if changed:
            raise self._begun_otherwise("; ".join(changed))

    def _begun_otherwise(self, what: str) -> DataError:
        return DataError(
            f"{self.path} cannot be resumed, it was begun otherwise: {what}. Give what it was begun with, take in more inputs with "
            "--extend, or start again with --overwrite"
        )

    def _clear(self, *, but: Path) -> None:
        """Remove the files of an earlier run, and nothing else; its settings last, so that it counts as a run to the end."""
        for folder in (self.notes, self.ledgers):
            shutil.rmtree(folder, ignore_errors=True)
        for path in [path for path in self.path.iterdir() if _PART.fullmatch(path.name)]:
            path.unlink()
        lists = [*self._state.glob("inputs-*.list"), self._state / "inputs.parquet"]  # the latter from before schema 2
        for path in (self.path / "_summary.json", *lists, self._run):
            path.unlink(missing_ok=True)
        self.remove_temporary_files(but)

    def remove_temporary_files(self, but: Path | None = None) -> None:
        """Remove what writers that were killed left; while none is at work."""
        for folder in (self.path, self._state, self.ledgers, self.notes):
            remove_temporary_files(folder, but)

    # -- parts ------------------------------------------------------------------------------------------------------------------

    def part_path(self, number: int) -> Path:
        return self.path / f"part-{number:05d}.{self.settings.format}"

    def done(self, number: int, *, verify: bool = False) -> PartDone | None:
        """What is known of a part that is whole; None if it is not.

        Args:
            verify: also None if a file of it is not what was written, or the note is that of other inputs.
        """
        try:
            found = PartDone(**json.loads((self.notes / f"{number:05d}.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None
        if found.part != number or (verify and found.names != self.inputs.digest(number)):
            return None
        if found.coming is not None:
            coming = PartDone(**found.coming)
            if self._has_rows_of(coming):
                found = coming  # it was stopped once its rows were there
            elif self._has_rows_of(found):
                return found  # before that: its rows are the old ones, its ledger may be either
        for name, expected in found.files.items() if verify else ():
            try:
                if sha256_of(self.path / name) != expected:
                    return None
            except OSError:
                return None
        return found

    def _has_rows_of(self, done: PartDone) -> bool:
        rows = self.part_path(done.part)
        return rows.is_file() and sha256_of(rows) == done.files.get(rows.name)

    def finish(self) -> RunCounts:
        """The whole run's counts, once every part is whole.

        Raises:
            OutputError: a part is missing or has lost a file.
            RuntimeError: rows and failures do not add up to the inputs.
        """
        inputs = rows = failures = 0
        stages: dict[str, int] = {}
        for number in range(self.inputs.parts):
            part = self.done(number)
            if part is None or not all((self.path / name).is_file() for name in part.files):
                raise OutputError(f"{self.part_path(number)} is missing or incomplete; run again with --resume")
            inputs, rows, failures = inputs + part.inputs, rows + part.rows, failures + len(part.failed)
            for stage, count in part.stages.items():
                stages[stage] = stages.get(stage, 0) + count
        check_accounts(f"{self.path}", self.inputs.count, rows, failures)
        return RunCounts(inputs, rows, failures, stages)

    def progress(self) -> tuple[int, int | None]:
        """How many parts are whole, and of how many; None while the inputs are being found."""
        parts = self.open().inputs.parts if self._run.exists() else None
        return len(list(self.notes.glob("*.json"))), parts

    def failures(self) -> Iterator[ImageFailure]:
        """All entries of the ledgers, in input order."""
        for path in sorted(self.ledgers.glob("part-*.jsonl"), key=lambda path: (len(path.name), path.name)):
            yield from read_ledger(path)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        with self.telling():
            write_whole(self.path / "_summary.json", (json.dumps(summary, indent=2) + "\n").encode())

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Turn the operating system's errors into one line that says what to do."""
        try:
            yield
        except OSError as error:
            text = os.strerror(error.errno) if error.errno else str(error)
            raise OutputError(
                f"cannot write to {self.path} ({text}); parts that were whole stay so: when that is mended, go on with --resume"
            ) from error
