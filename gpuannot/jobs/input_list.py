"""The inputs of a batch run as a file: one Parquet row an input, one row group a part.

So the inputs are found once, every part of them can be read alone, on any worker, and memory does not grow with their number.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from ..images.input import Input, is_url
from ..system.atomic_files import replacing

_FIELDS = ("name", "kind", "place", "at", "size", "detail")
_BYTES = ("name", "place")  # file names are bytes, and not always UTF-8


class InputList:
    """The inputs listed in a file.

    Args:
        path: the file.
        base: where relative places of inputs start from.

    Attributes:
        parts: number of parts.
        count: number of inputs.
    """

    def __init__(self, path: Path, base: str = "") -> None:
        import pyarrow.parquet as pq

        self._path, self._base = path, base
        with pq.ParquetFile(path) as file:
            self.parts = int(file.metadata.num_row_groups)
            self.count = int(file.metadata.num_rows)

    @classmethod
    def write(cls, path: Path, inputs: Iterable[Input], part_size: int) -> InputList:
        """List ``inputs`` in parts of ``part_size``; ``path`` is the whole list or absent.

        Raises:
            OSError: it cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {"at": pa.int64(), "size": pa.int64(), **dict.fromkeys(_BYTES, pa.binary())}
        schema = pa.schema([(field, types.get(field, pa.string())) for field in _FIELDS])
        remaining = iter(inputs)
        with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as file:
            while part := list(islice(remaining, part_size)):
                columns = [pa.array([_stored(item, field) for item in part], schema.field(field).type) for field in _FIELDS]
                file.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=part_size)
        return cls(path)

    def part(self, number: int) -> list[Input]:
        """The inputs of one part, in order."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self._path) as file:
            rows = file.read_row_group(number).to_pylist()
        inputs = [_restored(row) for row in rows]
        return [self._placed(item) for item in inputs] if self._base else inputs

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


def _stored(item: Input, field: str) -> Any:
    return os.fsencode(getattr(item, field)) if field in _BYTES else getattr(item, field)


def _restored(row: dict[str, Any]) -> Input:
    fields: dict[str, Any] = {field: os.fsdecode(row[field]) if field in _BYTES else row[field] for field in _FIELDS}
    return Input(**fields)
