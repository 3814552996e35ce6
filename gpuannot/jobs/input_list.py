"""The inputs of a batch run as a file: one row an input, one row group a part, in Parquet.

So the inputs are found once, every part of them can be read alone, on any worker, and memory does not grow with their number, but
for a run that is extended or tried again, which holds a key of some hundred bytes for each.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from itertools import accumulate, islice, zip_longest
from pathlib import Path
from typing import Any

from ..images.input import Input, is_url
from ..system.atomic_files import replacing, temporary_name

_FIELDS = ("name", "kind", "place", "at", "size", "detail")
_BYTES = ("name", "place", "detail")  # file names, and what tells of them, are bytes, and not always UTF-8


class InputList:
    """The inputs listed in a file.

    Args:
        path: the file.
        base: where relative places of inputs start from.

    Attributes:
        parts: number of parts.
        count: number of inputs.
        starts: position of the first input of each part, and ``count``.
    """

    def __init__(self, path: Path, base: str = "") -> None:
        import pyarrow.parquet as pq

        self.path, self._base = path, base
        with open(path, "rb") as plain, pq.ParquetFile(plain) as file:
            self.parts = int(file.metadata.num_row_groups)
            self.starts = [0, *accumulate(file.metadata.row_group(part).num_rows for part in range(self.parts))]
        self.count = self.starts[-1]

    @classmethod
    def write(cls, path: Path, parts: Iterable[list[Input]]) -> InputList:
        """List inputs part by part; ``path`` is the whole list or absent.

        Raises:
            OSError: it cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {"at": pa.int64(), "size": pa.int64(), **dict.fromkeys(_BYTES, pa.binary())}
        schema = pa.schema([(field, types.get(field, pa.string())) for field in _FIELDS])
        # A file in place of its name, which Arrow wants in UTF-8.
        with replacing(path) as temporary, open(temporary, "wb") as plain, pq.ParquetWriter(plain, schema) as file:
            for part in parts:
                columns = [pa.array([_stored(item, field) for item in part], schema.field(field).type) for field in _FIELDS]
                file.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=len(part))
        return cls(path)

    def part(self, number: int) -> list[Input]:
        """The inputs of one part, in order."""
        import pyarrow.parquet as pq

        with open(self.path, "rb") as plain, pq.ParquetFile(plain) as file:
            rows = file.read_row_group(number).to_pylist()
        inputs = [_restored(row) for row in rows]
        return [self._placed(item) for item in inputs] if self._base else inputs

    def part_of(self, position: int) -> int:
        """The part that an input is in."""
        return bisect_right(self.starts, position) - 1

    def digest(self, number: int) -> str:
        """SHA-256 of the names of one part's inputs."""
        return sha256(b"\0".join(os.fsencode(item.name) for item in self.part(number))).hexdigest()

    def _placed(self, item: Input) -> Input:
        if not item.place or is_url(item.place):
            return item
        return replace(item, place=os.path.join(self._base, item.place))

    def __iter__(self) -> Iterator[Input]:
        for number in range(self.parts):
            yield from self.part(number)

    def difference(self, inputs: Iterable[Input]) -> str | None:
        """The first difference to ``inputs`` in words, or None where they are the same."""
        for number, (there, now) in enumerate(zip_longest(self, inputs)):
            if there == now:
                continue
            if there is None or now is None or there.name != now.name:
                names = (repr(item.name) if item else "none" for item in (there, now))
                return "input {} was {}, now it is {}".format(number, *names)
            changed = [field for field in _FIELDS if getattr(there, field) != getattr(now, field)]
            values = f"{getattr(there, changed[0])!r} → {getattr(now, changed[0])!r}"
            return f"input {number}, {now.name!r}, has another {changed[0]}: {values}"
        return None

    def extended(self, path: Path, inputs: Iterable[Input], part_size: int, again: Iterable[int]) -> InputList:
        """A list at ``path`` of these inputs and, in new parts behind them, of those among ``inputs`` that are not listed here.

        Args:
            inputs: as they are found now, told apart by their names.
            part_size: of the new parts.
            again: ascending positions of inputs that are listed as they are found now, if they still are.
        """
        names = Counter(_key(item) for item in self)
        mended: dict[bytes, list[Input]] = {_key(item): [] for item in self._at(again)}

        def new() -> Iterator[Input]:
            for item in inputs:
                key = _key(item)
                if key in mended:
                    mended[key].append(item)
                if names[key]:
                    names[key] -= 1
                else:
                    yield item

        added = InputList.write(temporary_name(path), in_parts(new(), part_size))
        try:
            found = {key: iter(items) for key, items in mended.items()}
            there = (self._mended(number, found) for number in range(self.parts))
            return InputList.write(path, (part for parts in (there, map(added.part, range(added.parts))) for part in parts))
        finally:
            added.path.unlink()

    def _at(self, positions: Iterable[int]) -> Iterator[Input]:
        part, number = list[Input](), -1
        for position in positions:
            if self.part_of(position) != number:
                number = self.part_of(position)
                part = self.part(number)
            yield part[position - self.starts[number]]

    def _mended(self, number: int, found: Mapping[bytes, Iterator[Input]]) -> list[Input]:
        return [next(found.get(_key(item), iter(())), item) for item in self.part(number)]


def in_parts(inputs: Iterable[Input], part_size: int) -> Iterator[list[Input]]:
    """Inputs in lists of ``part_size``."""
    remaining = iter(inputs)
    while part := list(islice(remaining, part_size)):
        yield part


def _key(item: Input) -> bytes:
    """What tells inputs apart, in a few bytes, as there may be millions."""
    return sha256(os.fsencode(item.name)).digest()[:16]


def _stored(item: Input, field: str) -> Any:
    return os.fsencode(getattr(item, field)) if field in _BYTES else getattr(item, field)


def _restored(row: dict[str, Any]) -> Input:
    fields: dict[str, Any] = {field: os.fsdecode(row[field]) if field in _BYTES else row[field] for field in _FIELDS}
    return Input(**fields)
