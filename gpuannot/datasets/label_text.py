r"""The text of label files: reading it, taking cells apart into words, and warnings of words that are perhaps read otherwise than
meant.

Several words in a cell are separated by ``;``. As `gpuannot annotate` writes it, ``\;`` is a ``;`` within a word and ``\\`` a
``\``. In a table whose columns are separated by ``;``, as spreadsheets write them where the comma is the decimal sign, ``,``
separates words as well. Where not one cell holds any of these, ``|`` does, and a warning says so; or else ``,`` where most of the
cells with one begin with a part that other cells hold too ("dog, eye" beside "dog" or "cat, dog", but not "Paris, France" beside
"Lyon, France"), and a warning says so.

A cell is never taken apart at spaces: "polar bear" is a word. Where cells look as if several words were meant, a warning names one.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError, shown
from ..images.tables import encoding_of
from ..method.labels import spelled

#: An image's name and its words, as a label file has them.
Sample = tuple[str, list[str]]

#: What label files end in; a folder's own is called ``labels``.
LABEL_SUFFIXES = (".json", ".csv", ".jsonl", ".tsv")


def read_text(path: Path) -> str:
    """A label file's text, in UTF-8 with or without a byte order mark, or UTF-16 with one; line breaks stay as they are.

    A table that is not UTF-8 is read as Windows-1252, as spreadsheets of western Europe and America write them, with a warning.

    Raises:
        DataError: it cannot be read, or is in another encoding.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    try:
        return content.decode(encoding_of(content))
    except UnicodeDecodeError as error:
        text = _as_windows(path, content)
        if text is None:
            raise DataError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    foreign = re.search(r"[^\W\d_]*[^\x00-\x7f][^\W\d_]*", text)
    assert foreign is not None  # what is ASCII alone is UTF-8
    _warn(
        path,
        f"is not UTF-8 and was read as Windows-1252, with words such as {shown(foreign[0])}; if that is wrong, save it as UTF-8",
    )
    return text


def _as_windows(path: Path, content: bytes) -> str | None:
    """A table's text in Windows-1252; None for other files, and where it holds bytes that have no sign there."""
    if path.suffix.lower() not in (".csv", ".tsv") or b"\0" in content:
        return None
    try:
        return content.decode("cp1252")
    except UnicodeDecodeError:
        return None


def words_of_cells(path: Path, cells: Sequence[str], *, delimiter: str = ",", one_a_row: bool = False) -> list[list[str]]:
    """The words of each cell of a column.

    Args:
        path: of the label file, for warnings.
        cells: of the column.
        delimiter: what separates the table's columns.
        one_a_row: whether images have several rows, and so probably a row for each word.
    """
    separators = ";," if delimiter == ";" else ";"
    if not any(separator in cell for cell in cells for separator in separators):
        several = next((cell for cell in cells if "|" in cell), None)
        if several is not None:
            separators = "|"
            _warn(path, f"{shown(several)} and cells like it were taken as words with '|' between; write ';' there to be sure")
        elif (commas := [cell for cell in cells if "," in cell]) and _are_lists(cells):
            separators = ","
            _warn(path, f"{shown(commas[0])} and cells like it were taken as words with ',' between; write ';' there to be sure")
        elif commas:
            _warn(
                path,
                f"{shown(commas[0])} was taken as one word, and {len(commas) - 1} more like it; if they are several, separate them "
                "with ';'",
            )
        elif not one_a_row and (spaced := _spaced(cells)):
            _warn(
                path,
                f"{shown(spaced[0])} was taken as one word, and {len(spaced) - 1} more like it; are they several words, with "
                "spaces between? Then separate them with ';'",
            )
    return [_split(cell, separators) for cell in cells]


def warn_of_capitals(path: Path, words: Iterable[str]) -> None:
    """Warn of words that differ in capitals alone: they stay different words, unless :mod:`.label_words` makes them one."""
    alike: dict[str, list[str]] = {}
    for word in words:
        alike.setdefault(word.casefold(), []).append(word)
    if groups := [" and ".join(map(shown, sorted(group))) for group in alike.values() if len(group) > 1]:
        some = ", ".join(groups[:5]) + (" …" if len(groups) > 5 else "")
        _warn(
            path,
            f"words that differ in capitals alone are different words: {some}; if they are not, write them alike, or --fold-case",
        )


def once_spelled(vocabulary: Iterable[Any]) -> list[Any]:
    """A vocabulary without the words that are another spelling of an earlier one; what else is wrong with it stays."""
    kept: dict[str, object] = {}
    others: list[Any] = []
    for word in vocabulary:
        if isinstance(word, str) and kept.setdefault(spelled(word), word) != word:
            continue
        others.append(word)
    return others


def _split(cell: str, separators: str) -> list[str]:
    if "\\" not in cell:
        words = re.split(f"[{separators}]", cell)
    else:
        parts = re.findall(rf"\\[;\\]|[{separators}]|[^\\{separators}]+|\\", cell)
        words = [""]
        for part in parts:
            if part in separators:
                words.append("")
            else:
                words[-1] += part[1] if len(part) == 2 and part in ("\\;", "\\\\") else part
    return [word.strip() for word in words if word.strip()]


def _are_lists(cells: Iterable[str]) -> bool:
    """Whether cells with commas are lists of words: most of them begin with a part that another cell holds as well."""
    distinct = {tuple(part.strip() for part in cell.split(",") if part.strip()) for cell in cells}
    occurrences = Counter(part for parts in distinct for part in set(parts))
    lists = [parts for parts in distinct if len(parts) > 1]
    return bool(lists) and 2 * sum(occurrences[parts[0]] > 1 for parts in lists) > len(lists)


def _spaced(cells: Iterable[str]) -> list[str]:
    """Cells of several parts with spaces between, if most are such and most of them share a part with another."""
    distinct = list(dict.fromkeys(cell.strip() for cell in cells if cell.strip()))
    several = [cell for cell in distinct if len(cell.split()) > 1]
    occurrences = Counter(part for cell in distinct for part in set(cell.split()))
    alike = [cell for cell in several if any(occurrences[part] > 1 for part in cell.split())]
    return alike if 2 * len(several) > len(distinct) and 2 * len(alike) > len(several) else []


def _warn(path: Path, message: str) -> None:
    warnings.warn(f"{path}: {message}", stacklevel=4)
