"""What to annotate: files, folders, lists, tables and archives, local or behind any URL that fsspec knows → one `Input` an image.

`Inputs` enumerates lazily and in a fixed order: the same arguments over the same files give the same inputs under the same names.
Nothing that goes wrong here stops the rest: it becomes an input that cannot be read, and says why.
"""

from __future__ import annotations

import glob
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from PIL import Image

from ..errors import DataError, counted
from .containers import expand, is_container
from .decode_task import ImageFailure
from .folders import Entered, Wanted, walk, walk_remote
from .input import Input, describe, file_system, image_name, is_url

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Images: TypeAlias = "Sequence[Any] | NDArray[np.uint8] | Tensor | str | Path | bytes | Image.Image | Inputs"

_REFUSED = (".7z", ".rar", ".tar.lz4", ".tar.lzma", ".tar.z")


class Inputs:
    """The images that ``sources`` lead to; each iteration looks anew.

    A source is a path or a URL that fsspec opens (``s3://``, ``https://``, ``memory://`` …) of

    * an image file, whatever its suffix;
    * a folder, searched recursively for image files, entries in order of their names. Names that start with a dot are skipped;
      links are followed, but no folder is entered twice, and a link to what the search finds anyway is left out;
    * a list, ``.txt``: a path or URL a line, relative to the list's own folder;
    * a table, ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``: a column of such paths, or in Parquet of encoded images (binary, or
      struct with ``bytes``); :mod:`gpuannot.images.tables` says how those of text are read;
    * a tar shard, ``.tar``, ``.tar.gz``, ``.tar.bz2``, ``.tar.xz`` or ``.tar.zst``, or a ``.zip`` archive: its image files, in
      their order;
    * a pattern of such paths with ``*``, ``?`` or ``[…]``, ``**`` for any depth.

    A file that an argument names is an input, whatever its suffix and whatever ``exclude`` says; two that name the same one give it
    once. Every line of a list, row of a table and file of an archive is an input of its own.

    Args:
        sources: one or more of these.
        glob: in folders, take files that match one of these patterns instead of those with the suffix of an image; a match that
            is a list, table or shard is opened. A pattern without ``/`` is held against the file's name, else against its path
            below the folder.
        exclude: in folders, leave out files and whole subfolders that match one of these.
        column: the column of tables; None takes the first of the usual names (`tables.IMAGE_COLUMNS`).
        skip: local image files to leave out, under whatever name a source leads to them.

    Attributes:
        left_out: how many files of folders and archives the last iteration passed over because of their names, by suffix in lower
            case, ``""`` for those without; not those that are hidden or excluded.
        skipped: how many inputs the last iteration left out for ``skip``.

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
        skip: Iterable[str | Path] = (),
    ) -> None:
        listed = [sources] if isinstance(sources, (str, Path)) else list(sources)
        for source in listed:
            if not isinstance(source, (str, os.PathLike)):
                raise TypeError(
                    f"expected paths or URLs of images, folders, lists, tables or archives, got {type(source).__name__}"
                )
        self.sources = tuple(os.fspath(source) for source in listed)
        self.column = column
        self.left_out: Counter[str] = Counter()
        self._wanted = Wanted(tuple(glob), tuple(exclude))
        self.skipped, self._skip = 0, frozenset(map(os.path.realpath, skip))

    def __iter__(self) -> Iterator[Input]:
        self.left_out, self.skipped = Counter(), 0
        return self._without_skipped(self._search()) if self._skip else self._search()

    def _without_skipped(self, found: Iterator[Input]) -> Iterator[Input]:
        for item in found:
            if item.kind == "file" and not is_url(item.place) and os.path.realpath(item.place) in self._skip:
                self.skipped += 1
            else:
                yield item

    def _search(self) -> Iterator[Input]:
        named: set[str] = set()  # real paths of the files that arguments name
        entered: Entered = {}
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

    def _from_path(self, path: str, named: set[str], entered: Entered) -> Iterator[Input]:
        if not os.path.lexists(path):
            yield Input(path, "failed", detail="no such file or folder")
            return
        real = os.path.realpath(path)
        if os.path.isdir(path):
            empty = True
            if real in entered:
                return
            for found_real, found, problem in walk(path, entered, self._wanted, self.left_out):
                empty = False
                if problem:
                    yield Input(found, "failed", detail=f"this folder cannot be listed: {problem.strerror}")
                elif found_real not in named:
                    if not self._found(found_real, entered):  # behind a link
                        named.add(found_real)
                    yield from self._open(found)
            if empty:
                yield Input(path, "failed", detail=self._wanted.nothing)
        elif real not in named and not self._found(real, entered):
            named.add(real)
            yield from self._open(path)

    def _found(self, real: str, entered: Entered) -> bool:
        """Whether the search of a folder has given this file already."""
        below = entered.get(os.path.dirname(real))
        return below is not None and self._wanted.file(below + os.path.basename(real))

    def _open(self, place: str) -> Iterator[Input]:
        if is_container(place):
            yield from expand(place, self.column, self.left_out)
        elif place.lower().endswith(_REFUSED):
            yield Input(place, "failed", detail="archives of this kind are not read; unpack it, or make it a .tar or .zip")
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
        for path, problem in walk_remote(files, folder, folder, self._wanted, self.left_out):
            empty, found = False, _full_url(files, path, url)
            if problem is None:
                yield from self._open(found)
            else:
                yield Input(found, "failed", detail=f"this folder cannot be listed: {describe(problem)}")
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


def named_inputs(names: Iterable[str | Path]) -> list[Input]:
    """The inputs that rows of annotations and reviews call so: files, URLs, files of archives, rows of Parquet tables.

    Each archive and table is listed once. What it does not hold, or holds twice, is an input that cannot be read, and says so.
    """
    given = [os.fspath(name) for name in names]
    containers = {name: place for name in given if (place := _container_of(name)) is not None}
    held: dict[tuple[str, str], Input] = {}
    for place in dict.fromkeys(containers.values()):
        for item in expand(place, None, Counter()):
            key = place, os.path.normpath(item.name)
            twice = Input(
                item.name, "failed", detail=f"{place} holds several files of this name; unpack it, and name the right one"
            )
            held[key] = twice if key in held else item

    def found(name: str) -> Input:
        if (place := containers.get(name)) is None:
            return Input(name, "file", name)
        missing = Input(
            name, "failed", detail=held[place, place].detail if (place, place) in held else f"{place} holds no such image"
        )
        return replace(held.get((place, os.path.normpath(name)), missing), name=name)

    return list(map(found, given))


def _container_of(name: str) -> str | None:
    """The archive or table that holds what is called so."""
    if is_url(name) or os.path.lexists(name):
        return None
    starts = [name.rpartition("#")[0], *map(str, Path(name).parents)]
    return next((start for start in starts if is_container(start) and os.path.isfile(start)), None)


def _full_url(files: Any, path: str, url: str) -> str:
    """The URL that opens ``path`` of ``files``, which ``url`` opened."""
    chain = url.partition("::")[2]
    return f"{files.unstrip_protocol(path)}::{chain}" if chain else str(files.unstrip_protocol(path))


# -- what callers give as images ---------------------------------------------------------------------------------------------------


def check_sequence(images: Any) -> None:
    """Raise TypeError or ValueError for one image where several are meant."""
    if isinstance(images, (str, bytes, os.PathLike, Image.Image)):
        raise TypeError(f"images is one {type(images).__name__}; expected a sequence of images")
    # A single (H, W, 3) array would otherwise pass for H grey images of shape (W, 3).
    if len(shape := tuple(getattr(images, "shape", ()))) in (2, 3):
        raise ValueError(f"images has shape {shape}; expected an array (N, H, W, 3), a tensor (N, 3, H, W) or a list")


def is_one_image(images: Any) -> bool:
    """Whether this is one image: bytes, a PIL image, an `Input`, an (H, W, 3) or (H, W) uint8 array or a (3, H, W) uint8 tensor."""
    if isinstance(images, (bytes, bytearray, memoryview, Image.Image, Input)):
        return True
    shape, dtype = tuple(getattr(images, "shape", ())), str(getattr(images, "dtype", "")).removeprefix("torch.")
    if dtype != "uint8" and not (len(shape) == 3 and dtype.startswith("float")):  # (N, D) of floating point are vectors
        return False
    is_tensor = hasattr(images, "is_floating_point")
    return shape[:1] == (3,) and len(shape) == 3 if is_tensor else len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)


def as_sequence(images: Images) -> Sequence[Any]:
    """``images`` as something with a length and items.

    A folder is searched; one image, columns of paths and iterators become lists.

    Raises:
        DataError: one path or URL, and nothing is there.
    """
    if isinstance(images, (str, os.PathLike)):
        return list(find_lazily(Path(images) if not isinstance(images, str) else images))
    if is_one_image(images):
        return [images]
    check_sequence(images)
    if getattr(images, "ndim", None) == 1 or not (hasattr(images, "__getitem__") and hasattr(images, "__len__")):
        return list(cast("Iterable[Any]", images))
    return images  # type: ignore[return-value]


def are_vectors(images: Any) -> bool:
    """Whether these are image vectors, an (N, D) array or tensor of floating point, in place of images."""
    if getattr(images, "ndim", 0) != 2:
        return False
    return bool(images.is_floating_point()) if hasattr(images, "is_floating_point") else images.dtype.kind == "f"


def sources_or_vectors(images: Any) -> Sequence[Any]:
    """:func:`as_sequence`, or image vectors as they are."""
    return images if are_vectors(images) else as_sequence(images)


def source_name(sources: Sequence[Any], position: int) -> str:
    """The path of an image, or ``image 3``. A sequence that may load on access is not asked again for what it held."""
    source = sources[position] if isinstance(sources, (list, tuple)) else None
    return image_name(source, f"image {position}")


def none_readable(count: int, failures: Sequence[ImageFailure]) -> str:
    if not count:
        return "no images were given"
    first = f"{failures[0].path}: {failures[0].reason}"
    return f"not one of {count} images could be read; the first: {first}" if count > 1 else first


def warn_of_failures(count: int, failures: Sequence[ImageFailure], where: str = "failures_") -> None:
    """Warn, on behalf of the caller's caller, of images that were left out; ``where`` lists them all."""
    if failures:
        warnings.warn(
            f"{len(failures)} of {counted(count, 'image')} could not be read and were left out (see {where}); "
            f"the first: {failures[0].path}: {failures[0].reason}",
            stacklevel=3,
        )
