"""Files that hold many images or name them: lists, tables and tar shards.

`expand` enumerates what one holds without reading an image. `Containers` reads those that can only be read in order (compressed tar
shards and Parquet rows), one pass each.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Any

from ..errors import ImageError
from .decode import IMAGE_SUFFIXES, MAX_BYTES, open_file
from .input import Input, Loaded, describe, file_system, is_url
from .tables import named_images, required_image_column

_ROWS_AT_A_TIME = 16
_Lazy = tuple[int, Callable[[], bytes]]


def is_container(place: str) -> bool:
    return _kind(place) is not None


def expand(place: str, column: str | None) -> Iterator[Input]:
    """The images of the container at ``place``. What is wrong with it is one more input, after those before the fault.

    Args:
        place: path or URL.
        column: as for `Inputs`.
    """
    try:
        with open_place(place) as file:
            yield from _EXPANDERS[_kind(place) or ""](place, file, column)
    except ImageError as error:
        yield Input(place, "failed", detail=error.reason)
    except FileNotFoundError:
        yield Input(place, "failed", detail="no such file")
    except Exception as error:  # hostile bytes: tarfile, zlib, csv and Arrow raise classes without a common base, and stores theirs
        yield Input(place, "failed", detail=f"broken or cut, what follows is lost: {describe(error)}")


def open_place(place: str) -> IO[bytes]:
    """A local file or a URL, for reading."""
    if not is_url(place):
        return open_file(place, place)
    files, path = file_system(place)
    return files.open(path, "rb")


def _kind(place: str) -> str | None:
    name = (place.partition("::")[0] if is_url(place) else place).lower()
    return next((suffix for suffix in _EXPANDERS if name.endswith(suffix)), None)


# -- lists and tables -------------------------------------------------------------------------------------------------------------


def _expand_list(place: str, file: IO[bytes], column: str | None) -> Iterator[Input]:
    with io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline=None) as lines:
        for line in lines:
            if named := line.rstrip("\n"):
                yield Input(named, "file", _beside(place, named))


def _expand_table(place: str, file: IO[bytes], column: str | None) -> Iterator[Input]:
    with io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        for number, named, reason in named_images(lines, _kind(place) or "", column):
            if reason:
                yield Input(f"{place}#{number}", "failed", detail=reason)
            else:
                yield Input(named, "file", _beside(place, named))


def _expand_parquet(place: str, file: IO[bytes], column: str | None) -> Iterator[Input]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20) as table:
        schema = table.schema_arrow
        chosen = _column(schema.names, column)
        kind = schema.field(chosen).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if (pa.types.is_struct(kind) and any(field.name == "bytes" for field in kind)) or _is_binary(kind):
            for row in range(table.metadata.num_rows):
                yield Input(f"{place}#{row}", "row", place, row, detail=chosen)
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            values = (value for batch in table.iter_batches(1024, columns=[chosen]) for value in batch.column(0).to_pylist())
            for row, value in enumerate(values):
                if value:
                    yield Input(value, "file", _beside(place, value))
                else:
                    yield Input(f"{place}#{row}", "failed", detail=f"no path in column {chosen!r}")
        else:
            expected = "paths (string) or encoded images (binary, or struct with bytes)"
            raise ImageError(place, f"column {chosen!r} holds {kind}, expected {expected}", "find")


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _column(names: list[str], column: str | None) -> str:
    return names[required_image_column(names, column)]


def _beside(place: str, named: str) -> str:
    """Where a list or table means: paths are relative to its own folder."""
    if is_url(named) or os.path.isabs(named):
        return named
    if is_url(place):
        first, chained, rest = place.partition("::")
        return first.rpartition("/")[0] + "/" + named + chained + rest
    return os.path.join(os.path.dirname(place), named)


# -- tar shards -------------------------------------------------------------------------------------------------------------------


class _Header(tarfile.TarInfo):
    """A tar header whose damage is an error: ``tarfile`` takes a broken one behind the first file for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:  # type: ignore[override]
        try:
            return super().fromtarfile(tarfile_)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"no tar header where one should be ({error})") from error

    def _block(self, count: int) -> int:  # of each size that moves on to the next header, a pax header's too
        if count < 0:
            raise tarfile.InvalidHeaderError(f"a size of {count} bytes")  # type: ignore[attr-defined]
        return super()._block(count)  # type: ignore[misc]


def _members(tar: tarfile.TarFile) -> Iterator[tuple[int, tarfile.TarInfo]]:
    """Number and header of each image file of a shard."""
    number = 0
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header it has read
        name = os.path.basename(member.name)
        if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".") and not member.isdir():
            yield number, member
        number += 1


def _expand_tar(place: str, file: IO[bytes], column: str | None) -> Iterator[Input]:
    with tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as tar:
        for _, member in _members(tar):
            name = f"{place}/{member.name}"
            if member.isreg() and not member.issparse():
                yield Input(name, "slice", place, member.offset_data, member.size)
            else:
                yield Input(name, "failed", detail="is a link or a special file, not an image")


class _Stream:
    """What a gzip file gives, without an attempt to fill each request: so what is before a cut is not lost with it."""

    def __init__(self, plain: gzip.GzipFile) -> None:
        self.read = plain.read1


@contextmanager
def _compressed(file: IO[bytes]) -> Iterator[tarfile.TarFile]:
    with gzip.GzipFile(fileobj=file, mode="rb") as plain:
        stream: Any = _Stream(plain)
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as tar:
            yield tar


def _expand_compressed_tar(place: str, file: IO[bytes], column: str | None) -> Iterator[Input]:
    with _compressed(file) as tar:
        for number, member in _members(tar):
            name = f"{place}/{member.name}"
            if member.isreg():
                yield Input(name, "member", place, number)
            else:
                yield Input(name, "failed", detail="is a link or a special file, not an image")


_EXPANDERS: dict[str, Callable[[str, IO[bytes], str | None], Iterator[Input]]] = {
    ".txt": _expand_list,
    ".csv": _expand_table,
    ".tsv": _expand_table,
    ".jsonl": _expand_table,
    ".parquet": _expand_parquet,
    ".tar": _expand_tar,
    ".tar.gz": _expand_compressed_tar,
    ".tgz": _expand_compressed_tar,
}


# -- reading in order -------------------------------------------------------------------------------------------------------------


class Containers:
    """Reads inputs of the kinds ``member`` and ``row`` in the order in which they were enumerated, each container in one pass.

    Not for several threads. Leaving the ``with`` block closes the container that is open.
    """

    def __init__(self) -> None:
        self._key: tuple[str, str, str] | None = None
        self._file: IO[bytes] | None = None
        self._items: Iterator[_Lazy] = iter(())
        self._next = 0
        self._error = ""

    def ready(self, item: Input) -> Input | Loaded:
        """``item`` as something that any thread can read: of a container that is read in order its bytes, else itself."""
        if item.kind not in ("member", "row"):
            return item
        try:
            return Loaded(item.name, self._read(item))
        except ImageError as error:
            return Loaded(item.name, ImageError(item.name, error.reason, error.stage))

    def _read(self, item: Input) -> bytes:
        key = (item.kind, item.place, item.detail)
        if key != self._key or (item.at < self._next and not self._error):
            self.close()
            self._key, self._next, self._error = key, 0, ""
        if self._error:
            raise ImageError(item.name, self._error, "read")
        try:
            if self._file is None:
                self._file = open_place(item.place)
                self._items = _read_rows(self._file, item) if item.kind == "row" else _read_members(self._file)
            for number, content in self._items:
                self._next = number + 1
                if number == item.at:
                    return content()
            raise EOFError("it ends before this")
        except ImageError:
            raise
        except FileNotFoundError as error:
            self._error = "no such file"
            raise ImageError(item.name, self._error, "find") from error
        except Exception as error:  # as in `expand`
            self._error = f"{item.place} is broken or cut: {describe(error)}"
            raise ImageError(item.name, self._error, "read") from error

    def close(self) -> None:
        self._items = iter(())
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Containers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def read(item: Input | Loaded) -> bytes:
    """The encoded image of an input of any kind, alone.

    Raises:
        ImageError: as :meth:`Input.read`.
    """
    with Containers() as containers:
        return (containers.ready(item) if isinstance(item, Input) else item).read()


def _read_members(file: IO[bytes]) -> Iterator[_Lazy]:
    with _compressed(file) as tar:
        for number, member in _members(tar):

            def content(member: tarfile.TarInfo = member) -> bytes:
                if member.size > MAX_BYTES:
                    raise ImageError(member.name, f"{member.size} bytes; expected at most {MAX_BYTES}", "read")
                extracted = tar.extractfile(member)
                found = extracted.read() if extracted else b""
                if len(found) != member.size:
                    raise zlib.error("the archive ends within this file")
                return found

            yield number, content


def _read_rows(file: IO[bytes], first: Input) -> Iterator[_Lazy]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20) as table:
        groups, row = list(range(table.num_row_groups)), 0
        while groups and row + table.metadata.row_group(groups[0]).num_rows <= first.at:
            row += table.metadata.row_group(groups.pop(0)).num_rows
        for batch in table.iter_batches(_ROWS_AT_A_TIME, row_groups=groups, columns=[first.detail]):
            for value in batch.column(0):
                yield row, lambda value=value: _encoded(value.as_py())  # type: ignore[misc]
                row += 1


def _encoded(value: Any) -> bytes:
    content = value.get("bytes") if isinstance(value, dict) else value
    if content is None:
        raise ImageError("", "no image in this row", "read")
    return bytes(content)
