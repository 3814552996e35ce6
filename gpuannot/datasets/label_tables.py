"""Labels in tables: CSV with its kin, and JSON lines. How rows and columns are found is :mod:`gpuannot.images.tables`'.

A table has a column of images and

* a column of words (:data:`~gpuannot.images.tables.WORD_COLUMNS`), several in a cell (:mod:`gpuannot.datasets.label_text`), or in
  JSON lines a list of them. Rows of one image are joined. Where this column holds numbers alone and another column of words, or one
  called ``name``, does not, the words are taken from that, and a warning says so. A column ``confidence`` that is 0 says that the
  row's words are *not* in the image, as in Open Images;
* or, without a column of words, a column for each word, of 0 and 1 (or of -1 and 1, ``false`` and ``true``, ``no`` and ``yes``);
  where nothing says no, an empty cell does, beside 1 or ``x``. Columns of other things are left out with a warning; a column of
  these with a few other values is an error.

A row that is broken is an error that names its line: labels that are wrong silently are worse.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError, shown
from ..images.tables import IMAGE_COLUMNS, WORD_COLUMNS, Table, encoding_of, image_column, json_rows, plain_name, word_column
from .label_text import Sample, read_text, words_of_cells

_NO, _YES = ("0", "0.0", "false", "no", "n", "-1", "-1.0"), ("1", "1.0", "true", "yes", "y", "x", "✓")
_NO_WORDS = {"", "id", "index", "confidence"} | {f"unnamed:{number}" for number in range(2)}  # the last as pandas calls an index
_READ = set(map(plain_name, (*IMAGE_COLUMNS, *WORD_COLUMNS, "name", "confidence")))
_NUMBER = re.compile(r"-?\d+(\.0+)?")


class _Rows(NamedTuple):
    """Names of the columns, and of each row its line and a value for each column; None where JSON lines have none."""

    header: list[str]
    lines: list[int]
    values: list[list[Any]]
    delimiter: str


def read_table(path: Path) -> tuple[list[Sample], list[str] | None]:
    """Images and words of a ``.csv``, ``.tsv`` or ``.jsonl`` file, and the vocabulary where columns give one.

    Raises:
        DataError: it cannot be read, lacks the columns, or a row is broken.
    """
    rows = _json_lines(path) if path.suffix.lower() == ".jsonl" else _cells(path)
    image, word = image_column(rows.header), word_column(rows.header)
    if image is None:
        raise _without_columns(path, rows.header)
    names = [_name(path, rows, row, image) for row in range(len(rows.lines))]
    if word is None:
        return _one_hot(path, rows, names, image)
    return list(zip(names, _words(path, rows, names, word, image), strict=True)), None


def has_words(path: Path) -> bool:
    """Whether a table has, beside a column of images, one of words or two of 0 and 1. What is broken in it does not count."""
    try:
        with open(path, "rb") as file:
            encoding = encoding_of(file.read(2))
        with open(path, encoding=encoding, errors="surrogateescape" if encoding == "utf-8-sig" else "replace", newline="") as lines:
            if path.suffix.lower() == ".jsonl":
                keys = list(next((row.content for row in json_rows(lines) if not row.fault), {}))
                return image_column(keys) is not None and word_column(keys) is not None
            table = Table(lines, tabs=path.suffix.lower() == ".tsv")
            image = image_column(table.header)
            if image is None or word_column(table.header) is not None:
                return image is not None
            whole = [row for row in table if len(row.cells) == len(table.header)]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    rows = _Rows(table.header, [row.line for row in whole], [row.cells for row in whole], table.delimiter)
    return len(_hot_columns(rows, image)) > 1


# -- rows -------------------------------------------------------------------------------------------------------------------------


def _cells(path: Path) -> _Rows:
    table = Table(io.StringIO(read_text(path), newline=""), tabs=path.suffix.lower() == ".tsv")
    if table.fault:
        raise DataError(f"{path}, its header: {table.fault}")
    rows = _Rows(table.header, [], [], table.delimiter)
    if image_column(table.header) is None:
        raise _without_columns(path, table.header)
    for row in table:
        if row.fault:
            raise DataError(f"{path}, line {row.line}: {row.fault}")
        width = len(table.header)
        if len(row.cells) > width and not any(cell.strip() for cell in row.cells[width:]):
            del row.cells[width:]
        if len(row.cells) != width:
            raise DataError(
                f"{path}, line {row.line}: expected an image name and words with ';' between, in {len(table.header)} columns as in "
                f"the header, got {shown(row.cells)}"
            )
        rows.lines.append(row.line)
        rows.values.append(row.cells)
    return rows


def _json_lines(path: Path) -> _Rows:
    number: dict[str, int] = {}  # of the keys that are read: objects may have any others, each its own
    some: list[str] = []
    lines, objects = [], []
    for row in json_rows(io.StringIO(read_text(path), newline="")):
        if row.fault:
            raise DataError(f"{path}, line {row.line}: {row.fault}")
        some = some or list(row.content)
        for key in row.content:
            if plain_name(key) in _READ:
                number.setdefault(key, len(number))
        lines.append(row.line)
        objects.append(row.content)
    header = list(number)
    if image_column(header) is None or word_column(header) is None:
        raise _without_columns(path, some)
    return _Rows(header, lines, [[content.get(key) for key in header] for content in objects], ",")


def _without_columns(path: Path, header: Sequence[str]) -> DataError:
    what = "its first object has the keys" if path.suffix.lower() == ".jsonl" else "its header is"
    found = f"{what} {', '.join(header[:20])[:200]}" + (" …" if len(header) > 20 else "") if header else "it is empty"
    return DataError(
        f"{path}: {found}; expected a column of image names, called image, path, file_name or the like, and one of words, called "
        "words, labels, tags or the like, or else one of 0 and 1 for each word"
    )


def _name(path: Path, rows: _Rows, row: int, image: int) -> str:
    name = rows.values[row][image]
    if not isinstance(name, str) or not name.strip():
        got = rows.values[row] if path.suffix.lower() != ".jsonl" else dict(zip(rows.header, rows.values[row], strict=True))
        raise DataError(f"{path}, line {rows.lines[row]}: expected an image name and words, got {shown(got)}")
    return name


# -- a column of words ------------------------------------------------------------------------------------------------------------


def _words(path: Path, rows: _Rows, names: Sequence[str], word: int, image: int) -> list[list[str]]:
    word = _in_words(path, rows, word, image)
    given = [values[word] for values in rows.values]
    texts = [value if isinstance(value, str) else "" for value in given]
    several_rows = len(set(names)) < len(names)
    words = words_of_cells(path, texts, delimiter=rows.delimiter, one_a_row=several_rows)
    for row, value in enumerate(given):
        if not isinstance(value, str):
            listed = value if isinstance(value, list) else [value]
            if not all(isinstance(each, (str, int)) and not isinstance(each, bool) for each in listed):
                raise DataError(
                    f"{path}, line {rows.lines[row]}: {shown(rows.header[word])} is {shown(value)}, expected words in a list"
                )
            words[row] = [str(each) for each in listed]
    return _without_negatives(path, rows, words)


def _in_words(path: Path, rows: _Rows, word: int, image: int) -> int:
    """The column of words, or where it holds numbers alone another that does not."""

    def numbers_alone(column: int) -> bool | None:
        """None for a column without anything."""
        values = (values[column] for values in rows.values)
        texts = (" ".join(map(str, value)) if isinstance(value, list) else str(value) for value in values if value is not None)
        parts = {part for text in texts for part in re.split(r"[\s;,|]+", text) if part}
        return all(map(_NUMBER.fullmatch, parts)) if parts else None

    if not numbers_alone(word):
        return word
    usual = [plain_name(name) for name in (*WORD_COLUMNS, "name")]
    others = sorted(
        (usual.index(plain_name(name)), column)
        for column, name in enumerate(rows.header)
        if column not in (word, image) and plain_name(name) in usual
    )
    for _, column in others:
        if numbers_alone(column) is False:
            warnings.warn(
                f"{path}: its column {shown(rows.header[word])} holds numbers alone; the words were taken from "
                f"{shown(rows.header[column])}",
                stacklevel=4,
            )
            return column
    warnings.warn(
        f"{path}: its column {shown(rows.header[word])} holds numbers alone, each of which became a word; if they stand for words, "
        "write those",
        stacklevel=4,
    )
    return word


def _without_negatives(path: Path, rows: _Rows, words: list[list[str]]) -> list[list[str]]:
    column = next((number for number, name in enumerate(rows.header) if plain_name(name) == "confidence"), None)
    if column is None:
        return words
    absent = 0
    for row, values in enumerate(rows.values):
        if values[column] is None:
            continue
        try:
            confidence = float(values[column])
        except (TypeError, ValueError):
            confidence = math.nan
        if math.isnan(confidence):
            raise DataError(
                f"{path}, line {rows.lines[row]}: {shown(rows.header[column])} is {shown(values[column])}, expected a number; 0 "
                "says that the words are not in the image"
            )
        if confidence == 0:
            absent += bool(words[row])
            words[row] = []
    if absent:
        warnings.warn(
            f"{path}: {absent} of {len(words)} rows have a {shown(rows.header[column])} of 0, which says that their words are not "
            "in the image; they were left out",
            stacklevel=4,
        )
    return words


# -- a column for each word -------------------------------------------------------------------------------------------------------


def _sign(value: str) -> str:
    return value.strip().casefold()


def _hot_columns(rows: _Rows, image: int) -> list[int]:
    """The columns of 0 and 1, also those with a few other values or gaps."""
    found = []
    for column, name in enumerate(rows.header):
        if column != image and plain_name(name) not in _NO_WORDS:
            signs = [sign for values in rows.values if (sign := _sign(values[column]))]
            if 2 * sum(sign in _NO + _YES for sign in signs) > len(signs):
                found.append(column)
    return found


def _one_hot(path: Path, rows: _Rows, names: Sequence[str], image: int) -> tuple[list[Sample], list[str]]:
    hot = _hot_columns(rows, image)
    if not hot:
        raise _without_columns(path, rows.header)
    signs = {_sign(values[column]) for values in rows.values for column in hot}
    zeros = {sign[:1] for sign in signs} & {"0", "-"}
    known = {*_NO, *_YES, *(() if signs & set(_NO) else ("",))}
    carried: list[Sample] = []
    for line, name, values in zip(rows.lines, names, rows.values, strict=True):
        for column in hot:
            if _sign(values[column]) not in known or (len(zeros) > 1 and _sign(values[column]).startswith("-")):
                raise DataError(
                    f"{path}, line {line}: {shown(rows.header[column])} is {shown(values[column])}, expected 0 or 1 as elsewhere: "
                    "whether the image carries the word"
                )
        carried.append((name, [rows.header[column] for column in hot if _sign(values[column]) in _YES]))
    if others := [name for column, name in enumerate(rows.header) if name and column not in (*hot, image)]:
        some = ", ".join(map(shown, others[:5])) + (" …" if len(others) > 5 else "")
        warnings.warn(f"{path}: columns that are not of 0 and 1 are no words and were left out: {some}", stacklevel=4)
    return carried, [rows.header[column] for column in hot]
