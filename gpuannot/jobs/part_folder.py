"""The folder that a batch run writes: parts, their ledgers, and what makes it resumable.

::

    part-00000.parquet …      rows (or .jsonl, .csv)
    _failures/part-00000.jsonl …   inputs of that part that got no row; only where there are some
    _summary.json             the last run's counts and timings
    _gpuannot/run.json        settings; written last of what precedes the first part
    _gpuannot/inputs.parquet  the inputs, part by part
    _gpuannot/done/00000.json …    a part that is whole: its counts, and the checksums of its files

Names that start with ``_`` are skipped by pyarrow, Dask and Spark when they read the folder as one table. A part depends on its
inputs and the settings alone, so an interrupted run, resumed, ends with the same bytes as an undisturbed one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import file_digest
from pathlib import Path
from typing import IO, Any

from ..errors import DataError, InvalidArgumentError, OutputError
from ..images.batches import ImageFailure
from ..images.input import Input
from ..system.atomic_files import remove_temporary_files, write_whole
from .input_list import InputList
from .writers import FORMATS

SCHEMA = "gpuannot.batch/1"
_PART = re.compile(r"part-\d{5,}(\.parquet|\.jsonl|\.csv)")


@dataclass(frozen=True)
class RunSettings:
    """All that decides the content of the parts, beside the inputs.

    Attributes:
        model_sha256: the model's.
        k: words an image, or with a ``threshold`` of confidence the most.
        format: of the parts, ``parquet``, ``jsonl`` or ``csv``.
        part_size: inputs of a part.
        vectors: VLAD vectors are written too.
        decoder: of JPEGs: ``pillow``, or one on the GPU, whose pixels are others.
        cpu_share: share of the JPEGs that stays with Pillow beside a decoder on the GPU.
        confidence: confidences are written too.
        threshold: confidence that a word needs to be given; None gives k words to every image.
    """

    model_sha256: str
    k: int
    format: str
    part_size: int
    vectors: bool
    device: str
    trunk_dtype: str
    batch_size: int
    decoder: str = "pillow"
    cpu_share: float = 0.0
    confidence: bool = False
    threshold: float | None = None


@dataclass(frozen=True)
class PartDone:
    """A part that is whole.

    Attributes:
        inputs: number of them.
        rows: number of them.
        failures: number of inputs without a row.
        stages: failures by stage.
        files: SHA-256 of its files, by name.
    """

    inputs: int
    rows: int
    failures: int
    stages: Mapping[str, int]
    files: Mapping[str, str]


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
            file = open(self._state / "lock", "w")  # noqa: SIM115 - closed below
        with file:
            _lock(file, self.path)
            yield

    def begin(self, inputs: Iterable[Input], settings: RunSettings, *, resume: bool, overwrite: bool) -> None:
        """Start a run, or take up one that was stopped.

        Raises:
            DataError: results are there and neither ``resume`` nor ``overwrite`` was asked for; what is to be resumed had another
                model, other settings or other inputs; or there are no inputs.
            OutputError: the folder cannot be written.
        """
        started = self._run.exists()
        if started and not (resume or overwrite):
            raise DataError(
                f"{self.path} has results; go on with --resume, replace them with --overwrite, or choose another folder"
            )
        if started and resume:
            self.open()
            self._check_same(inputs, settings)
            with self.telling():
                self.remove_temporary_files()
            return
        with self.telling():
            self._clear()
            for folder in (self.ledgers, self.notes):
                folder.mkdir(exist_ok=True)
            self.settings, self.inputs = settings, InputList.write(self._state / "inputs.parquet", inputs, settings.part_size)
            if not self.inputs.count:
                raise DataError("there are no inputs: the lists, tables and shards that were given are empty")
            content = {"schema": SCHEMA, "settings": asdict(settings), "inputs": self.inputs.count}
            write_whole(self._run, (json.dumps(content, indent=2) + "\n").encode())

    def recorded(self) -> RunSettings | None:
        """The settings of a run that is there; None without one, or where :meth:`open` would refuse it."""
        try:
            return self.open().settings
        except DataError:
            return None

    def open(self, base: str = "") -> PartFolder:
        """Read what :meth:`begin` wrote: on a worker, or to resume.

        Args:
            base: the folder that relative paths of inputs start from; by default this process's own.

        Raises:
            DataError: there is no run, or one that this version cannot read.
        """
        try:
            content = json.loads(self._run.read_text())
            if content["schema"] != SCHEMA:
                raise ValueError(f"schema {content['schema']!r}, expected {SCHEMA!r}")
            self.settings = RunSettings(**content["settings"])
            self.inputs = InputList(self._state / "inputs.parquet", base)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self._run} cannot be used ({error}); start again with --overwrite") from error
        return self

    def _check_same(self, inputs: Iterable[Input], settings: RunSettings) -> None:
        there, now = asdict(self.settings), asdict(settings)
        changed = [f"{name} was {there[name]}, now it is {now[name]}" for name in now if there[name] != now[name]]
        if not changed and (difference := self.inputs.difference(inputs)):
            changed = [difference]
        if changed:
            raise DataError(
                f"{self.path} cannot be resumed, it was begun otherwise: {'; '.join(changed)}. Give what it was begun with, or "
                "start again with --overwrite"
            )

    def _clear(self) -> None:
        """Remove the files of an earlier run, and nothing else; its settings last, so that it counts as a run to the end."""
        for folder in (self.notes, self.ledgers):
            shutil.rmtree(folder, ignore_errors=True)
        for path in [path for path in self.path.iterdir() if _PART.fullmatch(path.name)]:
            path.unlink()
        for path in (self.path / "_summary.json", self._state / "inputs.parquet", self._run):
            path.unlink(missing_ok=True)
        self.remove_temporary_files()

    def remove_temporary_files(self) -> None:
        """Remove what writers that were killed left; while none is at work."""
        for folder in (self.path, self._state, self.ledgers, self.notes):
            remove_temporary_files(folder)

    # -- parts ------------------------------------------------------------------------------------------------------------------

    def part_path(self, number: int) -> Path:
        return self.path / f"part-{number:05d}.{self.settings.format}"

    def done(self, number: int, *, verify: bool = False) -> PartDone | None:
        """What is known of a part that is whole; None if it is not.

        Args:
            verify: also None if a file of it is not what was written.
        """
        try:
            found = PartDone(**json.loads((self.notes / f"{number:05d}.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None
        for name, expected in found.files.items() if verify else ():
            try:
                if sha256_of(self.path / name) != expected:
                    return None
            except OSError:
                return None
        return found

    def finish(self) -> PartDone:
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
            inputs, rows, failures = inputs + part.inputs, rows + part.rows, failures + part.failures
            for stage, count in part.stages.items():
                stages[stage] = stages.get(stage, 0) + count
        check_accounts(f"{self.path}", self.inputs.count, rows, failures)
        return PartDone(inputs, rows, failures, stages, {})

    def progress(self) -> tuple[int, int | None]:
        """How many parts are whole, and of how many; None while the inputs are being found."""
        parts = self.open().inputs.parts if self._run.exists() else None
        return len(list(self.notes.glob("*.json"))), parts

    def failures(self) -> Iterator[ImageFailure]:
        """All entries of the ledgers, in input order."""
        for path in sorted(self.ledgers.glob("part-*.jsonl"), key=lambda path: (len(path.name), path.name)):
            with open(path, encoding="utf-8") as file:
                for line in file:
                    yield ImageFailure(**json.loads(line))

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


def check_format(name: str) -> str:
    """The name of a format, checked.

    Raises:
        ValueError: parts cannot have that format.
    """
    formats: Sequence[str] = [suffix.removeprefix(".") for suffix in FORMATS]
    if name not in formats:
        raise InvalidArgumentError(f"format {name!r} is unknown; choose one of {', '.join(formats)}")
    return name


def check_accounts(what: str, inputs: int, rows: int, failures: int) -> None:
    """Refuse counts by which an input has neither a row nor an entry in the ledger.

    Args:
        what: the counts are of, for the error.

    Raises:
        RuntimeError: rows and failures do not add up to the inputs.
    """
    if rows + failures != inputs:
        raise RuntimeError(
            f"{what}: {rows} rows + {failures} failures ≠ {inputs} inputs. This is a bug in gpuannot: please report it with the "
            "folder _gpuannot"
        )


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _lock(file: IO[str], folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: no lock of that kind; two runs at once then write the same bytes twice
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(f"another run is writing to {folder}; wait for it, or choose another folder") from error
