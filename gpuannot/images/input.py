"""One image to annotate: where it is, what it is called, and how its bytes are read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ..errors import ImageError
from .decode import read_file


@dataclass(frozen=True, slots=True)
class Input:
    """One image to annotate, or the reason why there is none.

    Attributes:
        name: what rows and the ledger call it: a path or URL as given, ``shard.tar/key.jpg``, ``table.parquet#12``.
        kind: ``file``; ``slice`` of a file, ``at`` and ``size`` in bytes; number ``at`` of the members of a compressed archive
            (``member``) or of the rows of a Parquet table (``row``), which `containers.Containers` reads; ``failed``.
        place: path or URL of the file that holds it.
        detail: the column of a row; the reason of a failure.
    """

    name: str
    kind: Literal["file", "slice", "member", "row", "failed"]
    place: str = ""
    at: int = 0
    size: int = 0
    detail: str = ""

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            ImageError: it is not there (stage "find") or cannot be read (stage "read").
        """
        if self.kind == "failed":
            raise ImageError(self.name, self.detail, "find")
        if self.kind in ("member", "row"):
            raise TypeError(f"{self.name} is read in order with others: containers.Containers or containers.read")
        if is_url(self.place):
            content = self._fetch()
        elif self.kind == "file":
            return read_file(self.place, self.name)
        else:
            content = read_file(self.place, self.name, self.at, self.size)
        if self.kind == "slice" and len(content) != self.size:
            raise ImageError(self.name, f"the archive ends {self.size - len(content)} bytes before this file does", "read")
        return content

    def _fetch(self) -> bytes:
        try:
            files, path = file_system(self.place)
            whole = self.kind == "file"
            return files.cat_file(path) if whole else files.cat_file(path, start=self.at, end=self.at + self.size)
        except (FileNotFoundError, IsADirectoryError) as error:
            raise ImageError(self.name, "no such file", "find") from error
        except Exception as error:  # whatever the client of a store raises: its own classes, without a common base
            raise ImageError(self.name, f"cannot be read: {describe(error)}", "read") from error


class Loaded(NamedTuple):
    """An input whose bytes, or the reason why there are none, are at hand."""

    name: str
    content: bytes | ImageError

    def read(self) -> bytes:
        if isinstance(self.content, ImageError):
            raise self.content
        return self.content


def image_name(source: object, default: str) -> str:
    """What to call a source in messages: its name or path, or ``default`` for pixels and bytes."""
    if isinstance(source, Input):
        return source.name
    return os.fsdecode(source) if isinstance(source, (str, os.PathLike)) else default


def is_url(place: str) -> bool:
    """Whether fsspec opens it; everything else is a local path, which may hold ``::`` but no ``//``."""
    return "://" in place


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path on it."""
    from fsspec.core import url_to_fs

    return url_to_fs(url)


def describe(error: BaseException) -> str:
    """An exception as one line."""
    text = str(error).strip().splitlines()
    return utf8(text[0][:300]) if text else type(error).__name__


def is_path(name: str) -> bool:
    """Whether a file can have this name: bytes that are not UTF-8 may be in it, halves of characters, as JSON may hold, not."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def utf8(name: str) -> str:
    """A file name, or what tells of one, as text that every format takes.

    Bytes in it that are not UTF-8, which Linux allows, become ``\\udcff``.
    """
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
