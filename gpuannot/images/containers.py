"""Files that hold many images or name them: lists, tables and archives.

`expand` enumerates what one holds without reading an image. `Containers` reads those that are not read alone (members of compressed
archives and Parquet rows), one pass each.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import IO, Protocol

from ..errors import ImageError
from .archives import (
    COMPRESSED_TARS,
    MemberReader,
    ZipReader,
    expand_compressed_tar,
    expand_tar,
    expand_zip,
    is_damage,
)
from .decode import open_file
from .input import Input, Loaded, describe, file_system, is_url
from .parquet import RowReader, expand_parquet, open_table
from .tables import encoding_of, named_images, required_image_column

_LONGEST_PATH = 2**15  # characters; no system has longer ones


def is_container(place: str) -> bool:
    return _kind(place) is not None


def expand(place: str, column: str | None, left_out: Counter[str]) -> Iterator[Input]:
    """The images of the container at ``place``. What is wrong with it is one more input, where it was found.

    Args:
        place: path or URL.
        column: as for `Inputs`.
        left_out: counts, by suffix, the files of an archive whose names are not those of images.
    """
    kind = _kind(place) or ""
    try:
        with open_place(place) as file:
            if kind in COMPRESSED_TARS:
                yield from expand_compressed_tar(place, file, left_out, kind)
            elif kind in _ARCHIVES:
                yield from _ARCHIVES[kind](place, file, left_out)
            else:
                yield from _TABLES[kind](place, file, column)
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
    return next((suffix for suffix in _KINDS if name.endswith(suffix)), None)


# -- lists and tables -------------------------------------------------------------------------------------------------------------


def _text(file: IO[bytes], newline: str | None) -> io.TextIOWrapper:
    """The text of a list or table; bytes that are no UTF-8 stay what they are, in names of files."""
    encoding = encoding_of(file.read(2))
    file.seek(0)
    return io.TextIOWrapper(
        file, encoding=encoding, errors="surrogateescape" if encoding == "utf-8-sig" else "replace", newline=newline
    )


def _expand_list(place: str, file: IO[bytes], column: str | None) -> Iterator[Input]:
    with _text(file, newline=None) as lines:
        number = 0
        while line := lines.readline(_LONGEST_PATH):
            number += 1
            if len(line) == _LONGEST_PATH and not line.endswith("\n"):
                while (rest := lines.readline(_LONGEST_PATH)) and not rest.endswith("\n"):
                    pass
                yield Input(f"{place}#{number}", "failed", detail=f"a line of more than {_LONGEST_PATH} characters is no path")
            elif named := line.rstrip("\n"):
                yield Input(named, "file", _beside(place, named))


def _expand_table(place: str, file: IO[bytes], column: str | None) -> Iterator[Input]:
    with _text(file, newline="") as lines:
        for number, named, reason in named_images(lines, _kind(place) or "", column):
            if reason:
                yield Input(f"{place}#{number}", "failed", detail=reason)
            else:
                yield Input(named, "file", _beside(place, named))


def _expand_parquet(place: str, file: IO[bytes], column: str | None) -> Iterator[Input]:
    with open_table(file) as table:
        for found in expand_parquet(place, table, _column(table.schema_arrow.names, column)):
            yield found if isinstance(found, Input) else Input(found, "file", _beside(place, found))


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


_TABLES: dict[str, Callable[[str, IO[bytes], str | None], Iterator[Input]]] = {
    ".txt": _expand_list,
    ".csv": _expand_table,
    ".tsv": _expand_table,
    ".jsonl": _expand_table,
    ".parquet": _expand_parquet,
}
_ARCHIVES: dict[str, Callable[[str, IO[bytes], Counter[str]], Iterator[Input]]] = {".tar": expand_tar, ".zip": expand_zip}
_KINDS = (*_TABLES, *_ARCHIVES, *COMPRESSED_TARS)


# -- reading in order -------------------------------------------------------------------------------------------------------------


class _Reader(Protocol):
    def read(self, number: int) -> bytes: ...


class Containers:
    """Reads inputs of the kinds ``member`` and ``row``, in one pass each container as long as they come in its order.

    What one gives depends on its container alone, not on what was read before it. Not for several threads. Leaving the ``with``
    block closes the container that is open.
    """

    def __init__(self) -> None:
        self._key: tuple[str, str, str] | None = None
        self._file: IO[bytes] | None = None
        self._reader: _Reader | None = None

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
        if key != self._key:
            self.close()
        try:
            if self._reader is None:
                self._file = open_place(item.place)
                self._reader = _reader(self._file, item)
                self._key = key
            return self._reader.read(item.at)
        except ImageError:
            raise
        except FileNotFoundError as error:
            self.close()
            raise ImageError(item.name, "no such file", "find") from error
        except Exception as error:  # as in `expand`
            if not is_damage(error):
                self.close()  # it may be read the next time
            raise ImageError(item.name, f"{item.place} is broken or cut: {describe(error)}", "read") from error

    def close(self) -> None:
        self._key = self._reader = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Containers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _reader(file: IO[bytes], item: Input) -> _Reader:
    if item.kind == "row":
        return RowReader(file, item.detail)
    kind = _kind(item.place) or ""
    return MemberReader(file, kind) if kind in COMPRESSED_TARS else ZipReader(file)


def read(item: Input | Loaded) -> bytes:
    """The encoded image of an input of any kind, alone.

    Raises:
        ImageError: as :meth:`Input.read`.
    """
    with Containers() as containers:
        return (containers.ready(item) if isinstance(item, Input) else item).read()
