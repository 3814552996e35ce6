r"""The text of label files: reading it, taking cells apart into words, and warnings of words that are perhaps read otherwise than
meant.

Several words in a cell are separated by ``;``. As `gpuannot annotate` writes it, ``\;`` is a ``;`` within a word and ``\\`` a
``\``. In a table whose columns are separated by ``;``, as spreadsheets write them where the comma is the decimal sign, ``,``
separates words as well. Where not one cell holds any of these, ``|`` does, and a warning says so.

A cell is never taken apart at spaces, and elsewhere not at ``,``: "polar bear" and "Paris, France" are words. Where cells look as
if several words were meant, a warning names one.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError, shown
from ..method.labels import spelled

#: An image's name and its words, as a label file has them.
Sample = tuple[str, list[str]]

#: What label files end in; a folder's own is called ``labels``.
LABEL_SUFFIXES = (".json", ".csv", ".jsonl", ".tsv")


def read_text(path: Path) -> str:
    """A label file's text, in UTF-8 with or without a byte order mark; line breaks stay as they are.

    Raises:
        DataError: it cannot be read, or is in another encoding.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error


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
        elif commas := [cell for cell in cells if "," in cell]:
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
    """Warn of words that differ in capitals alone: they stay different words."""
    alike: dict[str, list[str]] = {}
    for word in words:
        alike.setdefault(word.casefold(), []).append(word)
    if groups := [" and ".join(map(shown, sorted(group))) for group in alike.values() if len(group) > 1]:
        some = ", ".join(groups[:5]) + (" …" if len(groups) > 5 else "")
        _warn(path, f"words that differ in capitals alone are different words: {some}; if they are not, write them alike")


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


def _spaced(cells: Iterable[str]) -> list[str]:
    """Cells of several parts with spaces between, if most are such and most of them share a part with another."""
    distinct = list(dict.fromkeys(cell.strip() for cell in cells if cell.strip()))
    several = [cell for cell in distinct if len(cell.split()) > 1]
    occurrences = Counter(part for cell in distinct for part in set(cell.split()))
    alike = [cell for cell in several if any(occurrences[part] > 1 for part in cell.split())]
    return alike if 2 * len(several) > len(distinct) and 2 * len(alike) > len(several) else []


def _warn(path: Path, message: str) -> None:
    warnings.warn(f"{path}: {message}", stacklevel=4)
