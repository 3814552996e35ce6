"""The docstrings' own habits, turned into what reStructuredText means by them.

* ``Args``, ``Attributes`` and ``Raises`` may hold several short items on a line: each becomes an item of its own.
* An indented block after a colon is an equation or a listing, to be shown as it is written.
* A ``|`` and a ``_`` at the end of a name are those characters, not references.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_SECTION = re.compile(r"(Args|Attributes|Raises):")
_ITEM = re.compile(r" {4}[A-Za-z_]\w*(?:, \w+)*: ")
_NEXT_ITEM = re.compile(r"(?<=[.!?]) +(?=[A-Za-z_]\w*(?:, [A-Za-z_]\w*)*: )")
_AS_WRITTEN = re.compile(r"(``.*?``|:\w+:`[^`]*`)")


def process(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = list(_escaped_prose(_items(_literal_blocks(lines))))


def skip(app: Any, what: str, name: str, thing: Any, skipped: bool, options: Any) -> bool | None:
    """Leave out what says nothing: the fields of named tuples, which ``Attributes`` explains."""
    return True if (getattr(thing, "__doc__", None) or "").startswith("Alias for field number") else None


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _literal_blocks(lines: list[str]) -> list[str]:
    found = list(lines)
    for number, line in enumerate(lines[:-2]):
        block = lines[number + 2]
        announces = line.endswith(":") and not line.endswith("::") and not lines[number + 1].strip()
        if announces and block.strip() and _indent(block) > _indent(line) and not block.lstrip().startswith(("*", "-")):
            found[number] = f"{line}:"
    return found


def _items(lines: list[str]) -> list[str]:
    found: list[str] = []
    in_section = False
    for line in lines:
        if not _indent(line):
            in_section = bool(_SECTION.fullmatch(line.strip())) or (in_section and not line.strip())
            found.append(line)
        elif not in_section or not line.strip():
            found.append(line)
        elif _indent(line) > 4 and found and _indent(found[-1]) == 4:  # goes on with the item above
            found[-1] += f" {line.strip()}"
        else:
            found.append(line)
        if in_section and _indent(line) == 0 and not line.strip():
            in_section = False
    return [part for line in found for part in _split(line)]


def _split(line: str) -> list[str]:
    if not _ITEM.match(line):
        return [line]
    return [f"    {part.strip()}" for part in _NEXT_ITEM.split(line.strip())]


def _escaped_prose(lines: list[str]) -> Iterator[str]:
    literal: int | None = None  # the indentation of the line that announces a literal block
    for line in lines:
        if literal is not None and line.strip() and _indent(line) <= literal:
            literal = None
        yield line if literal is not None else _escaped(line)
        if literal is None and line.rstrip().endswith("::"):
            literal = _indent(line)


def _escaped(line: str) -> str:
    item = _ITEM.match(line)
    start = item.end() if item else 0
    parts = _AS_WRITTEN.split(line[start:])
    for number in range(0, len(parts), 2):
        parts[number] = re.sub(r"(?<=\w)_(?!\w)", r"\\_", parts[number].replace("|", r"\|"))
    return line[:start] + "".join(parts)


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process, priority=400)  # before napoleon, at 500
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
