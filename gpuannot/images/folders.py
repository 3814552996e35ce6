"""The files of a folder and of those below it, local or remote, in a fixed order; nothing that goes wrong stops the rest."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeAlias

from .archives import is_image_name
from .decode import IMAGE_SUFFIXES

Entered: TypeAlias = "dict[str, str | None]"
"""Folders that were searched: real path → path below the root with a ``/`` at its end, or None where it cannot be listed."""

_LOOKED_FOR = f"looked for files ending in {' '.join(sorted(IMAGE_SUFFIXES))}"


class Wanted(NamedTuple):
    """Which entries of a folder count, by their paths below it."""

    glob: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @property
    def nothing(self) -> str:
        looked_for = f"looked for {' '.join(self.glob)}" if self.glob else _LOOKED_FOR
        return f"no image in this folder or below it; {looked_for}" + (", without those excluded" if self.exclude else "")

    def file(self, relative: str, left_out: Counter[str] | None = None) -> bool:
        if not self.folder(relative):
            return False
        if not self.glob:
            return is_image_name(relative, left_out)
        wanted = _matches(relative, self.glob)
        if not wanted and left_out is not None:
            left_out[os.path.splitext(relative)[1].lower()] += 1
        return wanted

    def folder(self, relative: str) -> bool:
        return not relative.rpartition("/")[2].startswith(".") and not _matches(relative, self.exclude)


def _matches(relative: str, patterns: Sequence[str]) -> bool:
    name = relative.rpartition("/")[2]
    return any(fnmatchcase(relative if "/" in pattern else name, pattern) for pattern in patterns)


def walk(root: str, entered: Entered, wanted: Wanted, left_out: Counter[str]) -> Iterator[tuple[str, str, OSError | None]]:
    """(real path, path, None) of each wanted file in ``root`` and below; an error in place of None for a folder not to be listed.

    Args:
        entered: folders that are not entered again; gets those that were.
        left_out: counts, by suffix, files that are not wanted because of their names.
    """
    real_root = os.path.realpath(root)

    def search(folder: str, relative: str) -> Iterator[tuple[str, str, OSError | None]]:
        real_folder = os.path.realpath(folder)
        if real_folder in entered:
            return
        entered[real_folder] = relative
        try:
            with os.scandir(folder) as listing:  # names and flags alone: the entries of a folder of millions weigh five times that
                entries = sorted((entry.name, _is_folder(entry), entry.is_symlink()) for entry in listing)
        except OSError as error:
            entered[real_folder] = None
            yield real_folder, folder, error
            return
        for name, is_folder, is_link in entries:
            below, path = relative + name, os.path.join(folder, name)
            real = os.path.realpath(path) if is_link else os.path.join(real_folder, name)
            if is_folder:
                if wanted.folder(below) and not (is_link and found_anyway(real, wanted.folder)):
                    yield from search(path, f"{below}/")
            elif wanted.file(below, left_out) and not (is_link and os.path.isfile(real) and found_anyway(real, wanted.file)):
                yield real, path, None

    def found_anyway(real: str, last: Callable[[str], bool]) -> bool:
        below = os.path.relpath(real, real_root).replace(os.sep, "/")
        if below == ".":
            return True
        parts = below.split("/")
        return parts[0] != ".." and last(below) and all(wanted.folder("/".join(parts[:depth])) for depth in range(1, len(parts)))

    yield from search(root, "")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # A link that leads nowhere counts as a file, so that decoding reports it; DirEntry.is_dir raises on a link to itself.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def walk_remote(
    files: Any, folder: str, root: str, wanted: Wanted, left_out: Counter[str]
) -> Iterator[tuple[str, Exception | None]]:
    try:
        entries = sorted(files.ls(folder, detail=True), key=lambda entry: entry["name"].rstrip("/"))
    except Exception as error:  # as in Input._fetch
        yield folder, error
        return
    for entry in entries:
        path = entry["name"].rstrip("/")
        below = path[len(root.rstrip("/")) :].lstrip("/")
        if not below or path == folder.rstrip("/"):  # object stores list the marker of a folder as an entry of it
            continue
        if entry["type"] == "directory":
            if wanted.folder(below):
                yield from walk_remote(files, path, root, wanted, left_out)
        elif wanted.file(below, left_out):
            yield path, None
