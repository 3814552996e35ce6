"""Tables in Parquet: a column of paths, or of encoded images. What is damaged costs the rows of its row group that follow it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import IO, Any

from ..errors import ImageError
from .input import Input, describe

_ROWS_AT_A_TIME = 16  # of encoded images
_PATHS_AT_A_TIME = 1024


def open_table(file: IO[bytes]) -> Any:
    """A ``ParquetFile``, checked against itself.

    Raises:
        ImageError: its numbers of rows contradict each other.
    """
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True)
    groups = [table.metadata.row_group(number) for number in range(table.num_row_groups)]
    if (
        min((group.num_rows for group in groups), default=0) < 0
        or sum(group.num_rows for group in groups) != table.metadata.num_rows
    ):
        raise ImageError("", "its row groups do not have as many rows as the table: its footer is damaged", "read")
    return table


def expand_parquet(place: str, table: Any, column: str) -> Iterator[Input | str]:
    """The inputs that the rows of a table are, or the paths that they name.

    Args:
        table: of :func:`open_table`.
        column: its name.

    Raises:
        ImageError: the column holds neither paths nor encoded images.
    """
    import pyarrow as pa

    kind = table.schema_arrow.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if _leaf(table, column) is not None or _is_binary(kind):
        for row in range(table.metadata.num_rows):
            yield Input(f"{place}#{row}", "row", place, row, detail=column)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        paths = _Rows(table, column, _PATHS_AT_A_TIME)
        for row in range(table.metadata.num_rows):
            try:
                value = paths.value(row)
            except ImageError as error:
                yield Input(f"{place}#{row}", "failed", detail=error.reason)
                continue
            if value:
                yield str(value)
            else:
                yield Input(f"{place}#{row}", "failed", detail=f"no path in column {column!r}")
    else:
        expected = "paths (string) or encoded images (binary, or struct with bytes)"
        raise ImageError(place, f"column {column!r} holds {kind}, expected {expected}", "find")


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _leaf(table: Any, column: str) -> str | None:
    """The path of the images' bytes in a column of structs; None in another one."""
    import pyarrow as pa

    kind = table.schema_arrow.field(column).type
    there = pa.types.is_struct(kind) and any(field.name == "bytes" for field in kind)
    return f"{column}.bytes" if there else None


class _Rows:
    """The values of a column by row, in one pass as long as the rows grow.

    Each row group is read from its beginning and for itself, so that what a row gives depends on the file alone, and not on the
    rows that were read before it. Where a group is damaged it is read row by row up to the damage.
    """

    def __init__(self, table: Any, column: str, at_a_time: int) -> None:
        self._table, self._name, self._column, self._at_a_time = table, column, _leaf(table, column) or column, at_a_time
        sizes = [table.metadata.row_group(number).num_rows for number in range(table.num_row_groups)]
        self._starts = [0, *accumulate(sizes)]
        self._group, self._next = -1, 0
        self._values: Iterator[Any] = iter(())
        self._damage = ""

    def value(self, row: int) -> Any:
        """What is in a row.

        Raises:
            ImageError: it cannot be told.
        """
        if row >= self._starts[-1]:
            raise ImageError("", "the table ends before this row", "read")
        group = bisect_right(self._starts, row) - 1
        if group != self._group or row < self._next:
            self._begin(group, self._at_a_time)
        if not self._damage:
            try:
                return self._up_to(row)
            except Exception as error:  # Arrow raises classes without a common base
                self._fail(error)
            self._begin(group, 1)
            try:
                return self._up_to(row)
            except Exception as error:
                self._fail(error)
        raise ImageError("", self._damage, "read")

    def _begin(self, group: int, at_a_time: int) -> None:
        def values() -> Iterator[Any]:
            for batch in self._table.iter_batches(at_a_time, row_groups=[group], columns=[self._column]):
                yield from batch.column(batch.schema.get_field_index(self._name))  # another's leaf may have the same path

        self._group, self._next, self._values, self._damage = group, self._starts[group], values(), ""

    def _up_to(self, row: int) -> Any:
        for value in self._values:
            self._next += 1
            if self._next > row:
                return value.as_py()
        raise EOFError("it holds fewer rows than it says")

    def _fail(self, error: Exception) -> None:
        if isinstance(error, OSError) and error.errno is not None:
            self._group = -1  # it may be read the next time
            raise error
        self._damage = f"row group {self._group} of the table is damaged here or before: {describe(error)}"


class RowReader:
    """The encoded images of a table by row.

    Args:
        file: the table; stays the caller's.
        column: of encoded images.
    """

    def __init__(self, file: IO[bytes], column: str) -> None:
        self._rows = _Rows(open_table(file), column, _ROWS_AT_A_TIME)

    def read(self, row: int) -> bytes:
        """Its bytes.

        Raises:
            ImageError: there is no image, or it cannot be read.
        """
        value = self._rows.value(row)
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is None:
            raise ImageError("", "no image in this row", "read")
        return bytes(content)
