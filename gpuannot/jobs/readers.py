"""Annotation files, read back: what `writers` and batch runs have written, and what others wrote in the same forms."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, shown
from ..images.decode_task import ImageFailure
from ..images.input import Input, describe, is_path, utf8
from ..method.labels import is_word
from ..model.annotations import Annotations
from .part_folder import PartFolder
from .writers import FORMATS, read_ledger
from .writers.csv_rows import FORMULA

_ROWS_AT_A_TIME = 512
csv.field_size_limit(2**31 - 1)  # of a cell, which may hold a vector
_VALUES = ("distances", "confidences")
_COLUMNS = ("path", "words", *_VALUES, "model")
_LARGEST = float(np.finfo(np.float32).max)


class AnnotationFiles:
    """The rows of an annotation file, or of all parts of a folder, and the images they are about.

    The rows are read twice: at once for the vocabulary, and by each iteration, some hundred at a time.

    Args:
        path: a ``.parquet``, ``.jsonl`` or ``.csv`` file with columns ``path`` and ``words`` and maybe ``distances``,
            ``confidences`` and ``model``; or a folder of such files, as a batch run writes.
        vocabulary: that of the model that gave the words, to number them as it does; None takes the words that occur, sorted.

    Attributes:
        vocabulary: W words.
        paths: of the T rows.
        model: the model's SHA-256 where the rows name one.
        confident: whether rows have confidences, all or some, or there is no word that could have one.

    Raises:
        DataError: no such file, one without these columns, no rows, rows of several models, or a word outside ``vocabulary``;
            of :meth:`failures` and iterations, a ledger that is none.
    """

    def __init__(self, path: str | Path, vocabulary: Sequence[str] | None = None) -> None:
        self.path = Path(path)
        self._run = PartFolder(self.path).open() if (self.path / "_gpuannot" / "run.json").is_file() else None
        self._files = _files_of(self.path)
        self.paths: list[str] = []
        occurring: set[str] = set()
        models: set[str] = set()
        self._k, self.confident = 0, False
        for row in self._rows():
            self.paths.append(row["path"])
            occurring.update(row["words"])
            self._k = max(self._k, len(row["words"]))
            self.confident = self.confident or len(row["confidences"]) > 0
            if row.get("model"):
                models.add(row["model"])
        if not self.paths:
            raise DataError(f"{self.path} has no rows; expected annotations, as 'gpuannot annotate -o' writes them")
        self.confident = self.confident or not occurring
        if len(models) > 1:
            raise DataError(f"{self.path} has rows of {len(models)} models; report on the rows of one")
        self.model = next(iter(models), None)
        self.vocabulary = tuple(sorted(occurring)) if vocabulary is None else tuple(vocabulary)
        self._column = {word: number for number, word in enumerate(self.vocabulary)}
        if unknown := sorted(occurring - set(self.vocabulary)):
            raise DataError(f"{self.path} has words that the model does not know, such as {unknown[0]!r}: another model wrote it")

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[tuple[Annotations, list[Input]]]:
        """Annotations, with positions that count the rows, and the input of each. Failures of a batch run come with the first.

        They have confidences where :attr:`confident`; those and distances that a row lacks are NaN.
        """
        rows, start = self._rows(), 0
        inputs = iter(self._run.inputs) if self._run is not None else None
        failures = tuple(self.failures())
        while some := list(islice(rows, _ROWS_AT_A_TIME)):
            sources = [self._input(row["path"], inputs) for row in some]
            names = [row["path"] for row in some]
            found = annotations_of(some, names, self._column, self.vocabulary, self._k, confident=self.confident)
            yield replace(found, positions=start + found.positions, failures=failures), sources
            start, failures = start + len(some), ()

    def failures(self) -> Iterator[ImageFailure]:
        """What could not be read, from the ledger of a batch run or beside a file."""
        if self._run is not None:
            yield from self._run.failures()
            return
        ledger = self.path.with_name(f"{self.path.name}.failures.jsonl")
        if ledger.is_file():
            yield from read_ledger(ledger)

    def _input(self, path: str, inputs: Iterator[Input] | None) -> Input:
        """The input that a row is about. A batch run lists its inputs in the order of its rows, which lack those that failed."""
        for item in inputs or ():
            if utf8(item.name) == path:
                return item
        return Input(path, "file", path)

    def _rows(self) -> Iterator[dict[str, Any]]:
        for file in self._files:
            yield from rows_of(file)


def rows_of(path: Path, *, vectors: bool = False) -> Iterator[dict[str, Any]]:
    """The rows of an annotation file as plain Python values: ``path``, ``words``, ``distances``, ``confidences``, maybe ``model``.

    Args:
        vectors: read ``vector`` too.

    Raises:
        DataError: it cannot be read, or a row lacks something.
    """
    for number, row in enumerate(_READERS[path.suffix](path, (*_COLUMNS, *(("vector",) if vectors else ())))):
        yield _checked(row, path, number)


def rows_of_lines(lines: Iterable[bytes], path: Path, first: int = 0) -> Iterator[dict[str, Any]]:
    """:func:`rows_of` some lines of the ``.jsonl`` file ``path``, the first of which is its row ``first``."""
    for number, row in enumerate(_objects(lines, path, first), first):
        yield _checked(row, path, number)


def annotations_of(
    rows: Sequence[dict[str, Any]],
    names: Sequence[str],
    columns: Mapping[str, int],
    vocabulary: tuple[str, ...],
    k: int,
    *,
    confident: bool,
    vectors: int | None = None,
) -> Annotations:
    """Rows as annotations, with positions that count them. Distances and confidences that rows lack are NaN.

    Args:
        rows: T of them, as :func:`rows_of` gives them.
        names: what they are of.
        columns: number of each word in ``vocabulary``.
        k: words of a row, at most.
        confident: take their confidences.
        vectors: length of their vectors; None takes none.
    """

    def filled(name: str, beyond: float) -> NDArray[np.float32]:
        values = np.full((len(rows), k), beyond, np.float32)
        for number, row in enumerate(rows):
            values[number, : len(row["words"])] = row[name] or np.nan
        return values

    index = np.full((len(rows), k), -1, np.int64)
    for number, row in enumerate(rows):
        index[number, : len(row["words"])] = [columns[word] for word in row["words"]]
    return Annotations(
        names=tuple(names),
        positions=np.arange(len(rows)),
        index=index,
        distance=filled("distances", np.inf),
        vocabulary=vocabulary,
        confidence=filled("confidences", 0) if confident else None,
        weak_below=0.5 if confident else None,
        vectors=None if vectors is None else np.array([row["vector"] for row in rows], np.float32).reshape(-1, vectors),
    )


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted((file for file in path.iterdir() if file.suffix in FORMATS and file.name[0] not in "._"), key=_part_order)
        if not found:
            raise DataError(
                f"{path} holds no annotations; expected files ending in {', '.join(FORMATS)}, as 'gpuannot annotate -o' writes"
            )
        return found
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    if path.suffix not in FORMATS:
        raise DataError(f"{path}: expected a model (.safetensors), or annotations ending in {', '.join(FORMATS)}")
    return [path]


def _part_order(path: Path) -> tuple[int, str]:
    return len(path.name), path.name  # part-100000 comes after part-99999


def _checked(row: dict[str, Any], file: Path, number: int) -> dict[str, Any]:
    path, words, model = row.get("path"), row.get("words"), row.get("model")
    if not isinstance(path, str) or not isinstance(words, list):
        there = ", ".join(str(name) for name, value in row.items() if value is not None)
        raise DataError(
            f"{file}, row {number}: expected a 'path' and a list of 'words', as 'gpuannot annotate -o' writes them, got {there}"
        )
    if not is_path(path) or not Path(path).name:
        raise DataError(f"{file}, row {number}: its path is {shown(path)}, expected the name of an image")
    if no_words := [word for word in words if not is_word(word)]:
        raise DataError(f"{file}, row {number}: its words hold {shown(no_words[0])}, expected text with a letter or sign to see")
    if not isinstance(model, str | None):
        raise DataError(f"{file}, row {number}: its model is {shown(model)}, expected the SHA-256 of one, or leave it out")
    if len(set(words)) < len(words):
        raise DataError(f"{file}, row {number}: a word is listed twice: {', '.join(words)}")
    values = {name: [] if row.get(name) is None else row[name] for name in _VALUES}
    for name, found in values.items():
        if not isinstance(found, list):
            raise DataError(f"{file}, row {number}: its {name} are {shown(found)}, expected a list of numbers, one a word")
        if len(found) not in (0, len(words)):
            raise DataError(f"{file}, row {number}: {len(words)} words but {len(found)} {name}")
        if wrong := [value for value in found if not _is_one(name, value)]:
            expected = "numbers in 0…1" if name == "confidences" else f"numbers up to ±{_LARGEST:.3g}"
            raise DataError(f"{file}, row {number}: its {name} hold {shown(wrong[0])}, expected {expected}")
    return {**row, **values}


def _is_one(name: str, value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and (0 <= value <= 1 if name == "confidences" else abs(value) <= _LARGEST)


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open(path, "rb") as plain, pq.ParquetFile(plain) as file:
            wanted = [name for name in file.schema_arrow.names if name in columns]
            for batch in file.iter_batches(_ROWS_AT_A_TIME, columns=wanted):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {describe(error)}") from error


def _json_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    with open(path, "rb") as file:
        yield from _objects(file, path)


def _objects(lines: Iterable[bytes], path: Path, first: int = 0) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, first + 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
            raise DataError(f"{path}, line {number} is not valid JSON: {describe(error)}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: expected an object with 'path' and 'words'")
        yield row


def _csv_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        for number in count():
            try:
                if (row := next(rows, None)) is None:
                    return
                read: dict[str, Any] = dict(row)
                if str(row.get("path")).startswith(tuple(f"./{sign}" for sign in FORMULA)):
                    read["path"] = row["path"][2:]
                if row.get("words") is not None:
                    read["words"] = split_cell(row["words"])
                for name in (*_VALUES, *(("vector",) if "vector" in columns else ())):
                    read[name] = [float(value) for value in (row.get(name) or "").split(";") if value]
            except (ValueError, csv.Error) as error:  # no number, not UTF-8, no CSV
                raise DataError(f"{path}, row {number}: {describe(error)}") from error
            yield read


_READERS: dict[str, Callable[[Path, Sequence[str]], Iterator[dict[str, Any]]]] = {
    ".parquet": _parquet_rows,
    ".jsonl": _json_rows,
    ".csv": _csv_rows,
}


def split_cell(text: str) -> list[str]:
    r"""Words of a CSV cell: ``a;b\;c`` is ``a`` and ``b;c``, and so is ``a;b\;c;``."""
    words, word, escaped = [], "", False
    for sign in text:
        if escaped or sign not in ";\\":
            word, escaped = word + sign, False
        elif sign == "\\":
            escaped = True
        else:
            words.append(word)
            word = ""
    words.append(word)
    while words and not words[-1].strip():
        words.pop()
    return words
