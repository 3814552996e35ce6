"""Tables of images as people write them: which column is which, what separates the columns, and rows of which some are broken.

What `gpuannot annotate` takes as a table of paths and what `gpuannot fit` takes as a table of labels are the same tables, so both
are read here. A name of a column counts in any capitals, with ``_``, ``-``, a space or nothing between its parts
(:data:`IMAGE_COLUMNS`, :data:`WORD_COLUMNS`). Columns are separated by the first of ``,``, ``;``, tab and ``|`` (in a ``.tsv``: of
tab, ``,``, ``;`` and ``|``) with which the header has a column of images.

A cell in double quotes may hold separators and line breaks, and a quote in it is written twice (RFC 4180). One broken row costs
that row alone, and one whose cells are all empty, as spreadsheets write them behind the last, is none. A first line ``sep=;``, as
they write it too, names the separator:

* a quote that is opened in a row and neither closed in it nor, so that a whole row of the table results, in one of the
  :data:`MAX_LINES` lines after it, is a fault of the line in which it stands; the next line is the next row;
* so is a closing quote with something behind it other than a separator;
* and a row of more than :data:`MAX_SIGNS` signs.

Cells before a fault are read.
"""

from __future__ import annotations

import codecs
import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

from ..errors import ImageError, shown
from .input import is_path, utf8

#: Columns of images, their paths or their bytes: of several that a table has, the first of these counts.
IMAGE_COLUMNS = (
    "path", "image_path", "file_path", "file", "filename", "file_name", "image", "image_bytes", "bytes", "jpg", "image_name",
    "image_file", "img", "img_path", "img_name", "url", "image_url", "image_id", "photo", "photo_path", "photo_file", "photo_name",
    "picture", "picture_file", "picture_name", "source_file",
)  # fmt: skip

#: Columns of words: of several that a table has, the first of these counts.
WORD_COLUMNS = (
    "words", "labels", "image_labels", "word", "label", "tags", "tag", "keywords", "keyword", "classes", "class", "class_names",
    "class_name", "categories", "category", "category_name", "label_names", "label_name",
)  # fmt: skip

#: Lines after the first that a quoted cell may go on for.
MAX_LINES = 100

#: Signs of a row. More are no row of a table of images, and would have to be held in memory.
MAX_SIGNS = 1 << 24


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        number: of the row, from 0; the header and empty lines do not count.
        line: in which it begins, from 1.
        cells: its cells, up to a fault.
        fault: what is wrong with it; empty where nothing is.
    """

    number: int
    line: int
    cells: list[str]
    fault: str = ""


class Table:
    """The header and, when iterated over, once, the rows of a table.

    Args:
        lines: the text, opened with ``newline=""``.
        tabs: whether its name says that tabs separate the columns (``.tsv``).
        column: the name of the column of images; None for any of :data:`IMAGE_COLUMNS`.

    Attributes:
        header: names of the columns; empty for an empty table.
        delimiter: what separates the columns.
        fault: what is wrong with the header; empty where nothing is.
    """

    def __init__(self, lines: IO[str], *, tabs: bool = False, column: str | None = None) -> None:
        self._lines = _Lines(lines)
        first = self._lines.next_with_text()
        order = "\t,;|" if tabs else ",;\t|"
        if first is not None and (named := _NAMED_SEPARATOR.fullmatch(first.strip(" \r\n"))) is not None:
            order, first = named[1], self._lines.next_with_text()
        self.delimiter, self.fault = order[0], ""
        self.header: list[str] = []
        if first is None:
            return
        for delimiter in order:
            if image_column(_cells(first, delimiter)[0], column) is not None:
                self.delimiter = delimiter
                break
        _, self.header, self.fault = self._row(first, width=None)
        self.header = [name.strip() for name in self.header]

    def __iter__(self) -> Iterator[Row]:
        number = 0
        while (first := self._lines.next_with_text()) is not None:
            if not first.strip(f" \t\r\n{self.delimiter}"):
                continue
            yield Row(number, *self._row(first, len(self.header)))
            number += 1

    def _row(self, first: str, width: int | None) -> tuple[int, list[str], str]:
        """Line, cells and fault of the row that begins with ``first``, and maybe goes on in the lines after it."""
        line = self._lines.number
        if _too_long(first):
            return line, [], f"a row of more than {MAX_SIGNS} signs"
        cells, fault, open_at = _cells(first, self.delimiter)
        if fault is not _OPEN:
            return line, cells, fault
        text, whole = first, cells
        for count in range(MAX_LINES):
            following = self._lines.peek(count)
            if following is None or len(text) + len(following) > MAX_SIGNS:
                break
            text += following
            if '"' not in following:
                continue
            more, going_on, open_at = _cells(text, self.delimiter, open_at)
            whole = whole + more
            if going_on is _OPEN and (width is None or len(whole) < width):
                continue
            if going_on or (width is not None and len(whole) != width):
                break
            self._lines.skip(count + 1)
            return line, whole, ""
        return line, cells, fault


_NAMED_SEPARATOR = re.compile(r"sep=([,;\t|])", re.IGNORECASE)

_OPEN = 'a quote (") is opened and not closed; write a quote that belongs to the text twice, and the whole cell in quotes'


class _Lines:
    """Lines one by one, with a view of those that follow."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._waiting: deque[str] = deque()
        self.number = 0

    def next_with_text(self) -> str | None:
        """The next line that is not blank; None at the end."""
        while (line := self.peek(0)) is not None:
            self.skip(1)
            if line.strip():
                return line
        return None

    def peek(self, ahead: int) -> str | None:
        while len(self._waiting) <= ahead:
            line = rest = self._file.readline(MAX_SIGNS + 2)
            if not line:
                return None
            while _too_long(rest) and rest[-1] not in "\r\n":  # the rest of a line that is too long is not held
                rest = self._file.readline(MAX_SIGNS + 2)
            self._waiting.append(line)
        return self._waiting[ahead]

    def skip(self, count: int) -> None:
        for _ in range(count):
            self._waiting.popleft()
        self.number += count


def encoding_of(start: bytes) -> str:
    """The encoding of a table's text by its first bytes: UTF-16, as spreadsheets' "Unicode text", or else UTF-8."""
    return "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def _too_long(line: str) -> bool:
    return len(line) > MAX_SIGNS and len(line.rstrip("\r\n")) > MAX_SIGNS


def _cells(text: str, delimiter: str, start: int = 0) -> tuple[list[str], str, int]:
    """The cells of a row from that which begins at ``start``, up to a fault; the fault; and where the cell with the fault begins.

    Of a quote left open the fault is the object ``_OPEN``.
    """
    text = text.removesuffix("\n").removesuffix("\r")
    if '"' not in text:
        return text.split(delimiter), "", 0
    cells: list[str] = []
    while True:
        quoted = start
        while text[quoted : quoted + 1] == " ":
            quoted += 1
        fault = ""
        if text[quoted : quoted + 1] == '"':
            close = quoted + 1
            while (close := text.find('"', close)) >= 0 and text[close + 1 : close + 2] == '"':
                close += 2
            end = text.find(delimiter, close) if close >= 0 else -1
            behind = text[close + 1 :] if end < 0 else text[close + 1 : end]
            if close < 0:
                fault = _OPEN
            elif behind.strip(" "):
                fault = f'{shown(text[start : close + 1 + len(behind)])} has text behind a closing quote (")'
            else:
                cells.append(text[quoted + 1 : close].replace('""', '"'))
            if fault and quoted == start:
                return cells, fault, start
        if fault or text[quoted : quoted + 1] != '"':  # a quote behind a space opens a cell only where that comes out even
            end = text.find(delimiter, start)
            cells.append(text[start:] if end < 0 else text[start:end])
        if end < 0:
            return cells, "", 0
        start = end + 1


# -- which column is which --------------------------------------------------------------------------------------------------------


def plain_name(name: str) -> str:
    """A column's name as it is compared: ``ImageID``, ``image_id`` and ``Image ID`` are one."""
    return "".join(sign for sign in name.casefold() if sign not in " _-\t")


_IMAGES, _WORDS = (tuple(dict.fromkeys(map(plain_name, names))) for names in (IMAGE_COLUMNS, WORD_COLUMNS))


def image_column(header: Sequence[str], column: str | None = None) -> int | None:
    """Where the images are: number of the column called ``column`` or, for None, of the first of :data:`IMAGE_COLUMNS`."""
    names = [name.strip() for name in header]
    if column is not None:
        exact = column if column in names else column.strip()
        return names.index(exact) if exact in names else None
    return _first(_IMAGES, names)


def required_image_column(header: Sequence[str], column: str | None) -> int:
    """:func:`image_column`, which has to be there.

    Raises:
        ImageError: it is not; its ``path`` is left empty.
    """
    chosen = image_column(header, column)
    if chosen is None:
        if not header:
            raise ImageError("", "it is empty; expected a header that names its columns", "find")
        there = utf8(", ".join(header[:20]))[:200] + (" …" if len(header) > 20 else "")
        if column is None:
            raise ImageError("", f"no column of a usual name among {there}; name it with --column", "find")
        raise ImageError("", f"no column {column!r}, only {there}", "find")
    return chosen


def word_column(header: Sequence[str]) -> int | None:
    """Where the words are: number of the first of :data:`WORD_COLUMNS`."""
    return _first(_WORDS, header)


def _first(wanted: Sequence[str], header: Sequence[str]) -> int | None:
    there = [plain_name(name) for name in header]
    return next((there.index(name) for name in wanted if name in there), None)


# -- JSON lines -------------------------------------------------------------------------------------------------------------------


class JsonRow(NamedTuple):
    """A line of JSON lines; attributes as of :class:`Row`, with an object in place of cells."""

    number: int
    line: int
    content: dict[str, Any]
    fault: str = ""


def json_rows(lines: IO[str]) -> Iterator[JsonRow]:
    """The objects of JSON lines, one a line; a line that holds none has a fault. Empty lines are left out."""
    numbered = _Lines(lines)
    number = 0
    while (text := numbered.next_with_text()) is not None:
        content, fault = {}, ""
        try:
            if _too_long(text):
                raise ValueError(f"more than {MAX_SIGNS} signs")
            content = json.loads(text)
            if not isinstance(content, dict):
                content, fault = {}, f"{shown(content)}, expected an object with the image's path"
        except (ValueError, RecursionError) as error:
            fault = f"is not valid JSON: {error}"
        yield JsonRow(number, numbered.number, content, fault)
        number += 1


# -- the images that a table names ------------------------------------------------------------------------------------------------


def named_images(lines: IO[str], suffix: str, column: str | None) -> Iterator[tuple[int, str, str]]:
    """For each row of a table its number, the path or URL of its image, and the reason where it names none (else empty).

    Args:
        lines: the text, opened with ``newline=""``.
        suffix: ``.csv``, ``.tsv`` or ``.jsonl``.
        column: as for :class:`Table`.

    Raises:
        ImageError: the table has no such column.
    """
    for row, named, missing in (_named_in_json if suffix == ".jsonl" else _named_in_cells)(lines, suffix == ".tsv", column):
        reason = ""
        if not isinstance(named, str) or not named:
            reason = f"line {row.line}: {row.fault}" if row.fault else missing
        elif "\0" in named:
            reason = f"line {row.line}: {shown(named)} is no path, it holds a NUL byte"
        elif not is_path(named):
            reason = f"line {row.line}: {shown(named)} is no path, it holds half a character"
        yield row.number, "" if reason else str(named), reason


def _named_in_cells(lines: IO[str], tabs: bool, column: str | None) -> Iterator[tuple[Row, object, str]]:
    table = Table(lines, tabs=tabs, column=column)
    chosen = required_image_column(table.header, column)
    for row in table:
        yield row, row.cells[chosen] if chosen < len(row.cells) else None, f"no path in column {shown(table.header[chosen])}"


def _named_in_json(lines: IO[str], tabs: bool, column: str | None) -> Iterator[tuple[JsonRow, object, str]]:
    for row in json_rows(lines):
        keys = list(row.content)
        chosen = image_column(keys, column)
        looked_for = f"no path under {column!r}" if column is not None else "no path under a usual name"
        yield row, None if chosen is None else row.content[keys[chosen]], f"{looked_for} in {shown(row.content)}"
