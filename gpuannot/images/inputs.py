"""What to annotate: files, folders, lists, tables and tar shards, local or behind any URL that fsspec knows → one `Input` an image.

`Inputs` enumerates lazily and in a fixed order: the same arguments over the same files give the same inputs under the same names.
Nothing that goes wrong here stops the rest: it becomes an input that cannot be read, and says why.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..errors import DataError, ImageError
from .decode import IMAGE_SUFFIXES, read_file

_LOOKED_FOR = f"looked for files ending in {' '.join(sorted(IMAGE_SUFFIXES))}"


@dataclass(frozen=True, slots=True)
class Input:
    """One image to annotate, or the reason why there is none.

    Attributes:
        name: what rows and the ledger call it: a path or URL as given, ``shard.tar/key.jpg``, ``table.parquet#12``.
        kind: ``file``; ``slice`` of a file, ``at`` and ``size`` in bytes; number ``at`` of the members of a compressed tar
            (``member``) or of the rows of a Parquet table (``row``), which are read in order; ``failed``.
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
            from .containers import Containers

            with Containers() as containers:
                return containers.ready(self).read()
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


class Inputs:
    """The images that ``sources`` lead to; each iteration looks anew.

    A source is a path or a URL that fsspec opens (``s3://``, ``https://``, ``memory://`` …) of

    * an image file, whatever its suffix;
    * a folder, searched recursively for image files, entries in order of their names. Names that start with a dot are skipped;
      links are followed, but no folder is entered twice, and a link to a file that the search finds anyway is left out;
    * a list, ``.txt``: a path or URL a line, relative to the list's own folder;
    * a table, ``.csv`` or ``.parquet``: a column of such paths, or in Parquet of encoded images (binary, or struct with ``bytes``);
    * a tar shard, ``.tar``, ``.tar.gz`` or ``.tgz``: its image files, in their order;
    * a pattern of such paths with ``*``, ``?`` or ``[…]``, ``**`` for any depth.

    A file that two arguments name is taken once; every line of a list, row of a table and file of a shard is an input of its own.

    Args:
        sources: one or more of these.
        glob: in folders, take files that match one of these patterns instead of those with the suffix of an image; a match that
            is a list, table or shard is opened. A pattern without ``/`` is held against the file's name, else against its path
            below the folder.
        exclude: in folders, leave out files and whole subfolders that match one of these.
        column: the column of tables; None takes the first of the usual names (`containers.USUAL_COLUMNS`).

    Raises:
        TypeError: a source that is neither path nor URL.
    """

    def __init__(
        self,
        sources: str | Path | Iterable[str | Path],
        *,
        glob: Sequence[str] = (),
        exclude: Sequence[str] = (),
        column: str | None = None,
    ) -> None:
        listed = [sources] if isinstance(sources, (str, Path)) else list(sources)
        for source in listed:
            if not isinstance(source, (str, os.PathLike)):
                raise TypeError(
                    f"expected paths or URLs of images, folders, lists, tables or tar shards, got {type(source).__name__}"
                )
        self.sources = tuple(os.fspath(source) for source in listed)
        self.column = column
        self._wanted = _Wanted(tuple(glob), tuple(exclude))

    def __iter__(self) -> Iterator[Input]:
        named: set[str] = set()  # real paths of the files that arguments name
        entered: set[str] = set()  # real paths of the folders searched
        for source in self.sources:
            if is_url(source):
                yield from self._from_url(source)
            elif os.path.lexists(source) or not glob.has_magic(source):
                yield from self._from_path(source, named, entered)
            else:
                matches = sorted(glob.glob(source, recursive=True))
                for match in matches:
                    yield from self._from_path(match, named, entered)
                if not matches:
                    yield Input(source, "failed", detail="no file matches this pattern")

    def _from_path(self, path: str, named: set[str], entered: set[str]) -> Iterator[Input]:
        if not os.path.lexists(path):
            yield Input(path, "failed", detail="no such file or folder")
            return
        real = os.path.realpath(path)
        if os.path.isdir(path):
            empty = True
            if real in entered:
                return
            for found_real, found, problem in walk(path, entered, self._wanted):
                empty = False
                if problem:
                    yield Input(found, "failed", detail=f"this folder cannot be listed: {problem.strerror}")
                elif found_real not in named:
                    yield from self._open(found)
            if empty:
                yield Input(path, "failed", detail=self._wanted.nothing)
        elif real not in named and not (os.path.dirname(real) in entered and self._wanted.file(os.path.basename(real))):
            named.add(real)
            yield from self._open(path)

    def _open(self, place: str) -> Iterator[Input]:
        from .containers import expand, is_container

        if is_container(place):
            yield from expand(place, self.column)
        else:
            yield Input(place, "file", place)

    def _from_url(self, url: str) -> Iterator[Input]:
        try:
            files, path = file_system(url)
            if glob.has_magic(path) and not files.exists(path):
                matches = sorted(files.glob(path))
                if not matches:
                    yield Input(url, "failed", detail="no file matches this pattern")
            else:
                matches = [path]
            for match in matches:
                if files.isdir(match):
                    yield from self._from_remote_folder(files, match, url)
                else:
                    yield from self._open(_full_url(files, match, url))
        except Exception as error:  # as in Input._fetch; also a protocol that fsspec does not know or lacks the package for
            yield Input(url, "failed", detail=f"cannot be opened: {describe(error)}")

    def _from_remote_folder(self, files: Any, folder: str, url: str) -> Iterator[Input]:
        empty = True
        for path in _walk_remote(files, folder, folder, self._wanted):
            empty = False
            yield from self._open(_full_url(files, path, url))
        if empty:
            yield Input(_full_url(files, folder, url), "failed", detail=self._wanted.nothing)


def find_lazily(source: Inputs | str | Path) -> Iterator[Input]:
    """The inputs of ``source``, listed as they are asked for, once.

    Raises:
        DataError: one path or URL, and nothing is there.
    """
    found = iter(source if isinstance(source, Inputs) else Inputs(source))
    first = list(islice(found, 2))
    if not isinstance(source, Inputs) and len(first) == 1 and first[0].kind == "failed":
        raise DataError(f"'{first[0].name}': {first[0].detail}")
    return chain(first, found)


class _Wanted(NamedTuple):
    """Which entries of a folder count, by their paths below it."""

    glob: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @property
    def nothing(self) -> str:
        looked_for = f"looked for {' '.join(self.glob)}" if self.glob else _LOOKED_FOR
        return f"no image in this folder or below it; {looked_for}" + (", without those excluded" if self.exclude else "")

    def file(self, relative: str) -> bool:
        if self.folder(relative):
            return _matches(relative, self.glob) if self.glob else os.path.splitext(relative)[1].lower() in IMAGE_SUFFIXES
        return False

    def folder(self, relative: str) -> bool:
        return not relative.rpartition("/")[2].startswith(".") and not _matches(relative, self.exclude)


def _matches(relative: str, patterns: Sequence[str]) -> bool:
    name = relative.rpartition("/")[2]
    return any(fnmatchcase(relative if "/" in pattern else name, pattern) for pattern in patterns)


def walk(root: str, entered: set[str], wanted: _Wanted) -> Iterator[tuple[str, str, OSError | None]]:
    """(real path, path, None) of each wanted file in ``root`` and below; an error in place of None for a folder not to be listed.

    ``entered`` holds the real paths of folders that are not entered again, and gets those that were.
    """
    real_root = os.path.realpath(root)

    def search(folder: str, relative: str) -> Iterator[tuple[str, str, OSError | None]]:
        real_folder = os.path.realpath(folder)
        if real_folder in entered:
            return
        entered.add(real_folder)
        try:
            with os.scandir(folder) as listing:  # names and flags alone: the entries of a folder of millions weigh five times that
                entries = sorted((entry.name, _is_folder(entry), entry.is_symlink()) for entry in listing)
        except OSError as error:
            yield real_folder, folder, error
            return
        for name, is_folder, is_link in entries:
            below, path = relative + name, os.path.join(folder, name)
            if is_folder:
                if wanted.folder(below):
                    yield from search(path, f"{below}/")
            elif wanted.file(below):
                real = os.path.realpath(path) if is_link else os.path.join(real_folder, name)
                if not (is_link and found_anyway(real)):
                    yield real, path, None

    def found_anyway(real: str) -> bool:
        below = os.path.relpath(real, real_root).replace(os.sep, "/")
        parts = below.split("/")
        inside = parts[0] != ".." and os.path.isfile(real)
        return inside and wanted.file(below) and all(wanted.folder("/".join(parts[:depth])) for depth in range(1, len(parts)))

    yield from search(root, "")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # A link that leads nowhere counts as a file, so that decoding reports it; DirEntry.is_dir raises on a link to itself.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _walk_remote(files: Any, folder: str, root: str, wanted: _Wanted) -> Iterator[str]:
    for entry in sorted(files.ls(folder, detail=True), key=lambda entry: entry["name"].rstrip("/")):
        path = entry["name"].rstrip("/")
        below = path[len(root.rstrip("/")) :].lstrip("/")
        if not below or path == folder.rstrip("/"):  # object stores list the marker of a folder as an entry of it
            continue
        if entry["type"] == "directory":
            if wanted.folder(below):
                yield from _walk_remote(files, path, root, wanted)
        elif wanted.file(below):
            yield path


def image_name(source: object, default: str) -> str:
    """What to call a source in messages: its name or path, or ``default`` for pixels and bytes."""
    if isinstance(source, Input):
        return source.name
    return os.fsdecode(source) if isinstance(source, (str, os.PathLike)) else default


def is_url(place: str) -> bool:
    """Whether fsspec opens it; everything else is a local path."""
    return "://" in place or "::" in place


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path on it."""
    from fsspec.core import url_to_fs

    return url_to_fs(url)


def _full_url(files: Any, path: str, url: str) -> str:
    """The URL that opens ``path`` of ``files``, which ``url`` opened."""
    chain = url.partition("::")[2]
    return f"{files.unstrip_protocol(path)}::{chain}" if chain else str(files.unstrip_protocol(path))


def describe(error: BaseException) -> str:
    """An exception as one line."""
    text = str(error).strip().splitlines()
    return text[0][:300] if text else type(error).__name__
