"""Words beside images: a file for each, in place or in a folder of their own.

Each file is whole or as it was, and one that would not change is not written. What cannot be written is a failure of its image and
stops no other: a folder that may not be written to, a file that is something else, an image that has no place of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from ...images.decode import IMAGE_SUFFIXES
from ...images.decode_task import ImageFailure
from ...images.input import is_url, utf8
from ...images.inputs import Inputs
from ...images.refusal import Unusable
from ...model.annotations import Annotations
from ...system.atomic_files import replacing
from .captions import Caption
from .rows import rows
from .tag_file import Change, TagFile, Tags
from .xmp import Sidecar, without_words

#: Name of each on the command line, and what it is.
TAGS = {"xmp": "XMP sidecars", "txt": "captions"}

# What cameras write beside a JPEG of the same name; programs that edit them keep their sidecar under that name.
_RAW = {f".{suffix}" for suffix in "3fr arw cr2 cr3 crw dng erf iiq kdc mrw nef nrw orf pef raf raw rw2 sr2 srw x3f".split()}  # noqa: SIM905

# A temporary file of ours, and the seconds after which nobody is writing it any more.
_LEFT = re.compile(r"\..+\.(xmp|txt)\.\d+-[0-9a-f]{8}\.part")
_WRITING = 60


class TagWriter:
    """Writes the words of each image to a file beside it.

    Args:
        format: one of :data:`TAGS`.
        model_sha256: of the model that gave the words.
        into: a folder that gets the files, laid out as the images are; None puts them beside the images.
        whole_names: ``a.jpg.xmp`` in place of ``a.xmp``.
        hierarchy: as :class:`~gpuannot.jobs.writers.xmp.Sidecar` has it.
        overwrite: as :class:`~gpuannot.jobs.writers.captions.Caption` has it.
        dry_run: change nothing.
        tell: is told of each file that changes, or would.

    Attributes:
        failures: images whose words were not written.
        changed, unchanged: number of files.
    """

    def __init__(
        self,
        format: str,
        *,
        model_sha256: str,
        into: str | Path | None = None,
        whole_names: bool = False,
        hierarchy: bool = False,
        overwrite: bool = False,
        dry_run: bool = False,
        tell: Callable[[Path, Change], None] | None = None,
    ) -> None:
        self.failures: list[ImageFailure] = []
        self.changed = self.unchanged = 0
        self._file: TagFile = Sidecar(hierarchy=hierarchy) if format == "xmp" else Caption(overwrite=overwrite)
        self._model, self._into, self._whole_names = model_sha256, None if into is None else Path(into), whole_names
        self._dry_run, self._tell = dry_run, tell
        self._taken: dict[bytes, str] = {}  # files of images that lie in no folder, by their digests

    def write(self, annotations: Annotations) -> None:
        """Write the words of some images; their names are paths."""
        stems: dict[str, Counter[str]] = {}
        for name, row in zip(annotations.names, rows(annotations.by_confidence(), self._model), strict=True):
            try:
                image = Path(name) if not is_url(name) and os.path.isfile(name) else None
                file = self._place(name, image, stems)
                change = _rewritten(file, self._changer(row, image), self._dry_run, self._into)
            except Unusable as error:
                self.failures.append(ImageFailure(utf8(name), "write", error.reason))
                continue
            self.changed += change is not None
            self.unchanged += change is None
            if change is not None and self._tell is not None:
                self._tell(file, change)

    def close(self) -> None:
        """Nothing is left to do."""

    def _changer(self, row: dict[str, object], image: Path | None) -> Callable[[bytes | None], Change | None]:
        tags = Tags(row["words"], row.get("confidences"), self._model)  # type: ignore[arg-type]
        return lambda there: self._file.changed(there, tags, image)

    def _place(self, name: str, image: Path | None, stems: dict[str, Counter[str]]) -> Path:
        """The file of an image.

        Raises:
            Unusable: it has none, or another image has the same.
        """
        if "\0" in name:
            raise Unusable("has a name that no file can have", "write")
        if image is None and self._into is None:
            raise Unusable("is no local file that words could be put beside; --into FOLDER gives them a place", "write")
        beside = Path(name)
        if self._into is not None:
            beside = self._into / _below(name)
        file = beside.with_name(beside.name + self._file.suffix) if self._whole_names else beside.with_suffix(self._file.suffix)
        if self._whole_names:
            return file
        shared = f"another image has the same {file.name}; --whole-names writes {beside.name}{self._file.suffix}"
        if image is None:
            digest = sha256(os.fsencode(file)).digest()[:16]
            if self._taken.setdefault(digest, name) != name:
                raise Unusable(shared, "write")
        else:
            folder = os.path.dirname(name) or "."
            if folder not in stems:
                stems[folder] = _stems(folder)
            if stems[folder][image.stem] > 1:
                raise Unusable(shared, "write")
        return file


def remove_tags(folder: str | Path, *, dry_run: bool = False) -> Iterator[tuple[Path, Change | ImageFailure]]:
    """Take out of the sidecars in a folder, and below it, all that gpuannot wrote; gives those that change, and those that fail.

    A sidecar in which nothing else is left is removed.
    """
    for found in Inputs(folder, glob=("*.xmp", "*.XMP")):
        if found.kind != "file":
            continue
        path = Path(found.place)
        try:
            change = _rewritten(path, lambda there: None if there is None else without_words(there), dry_run, None)
        except Unusable as error:
            yield path, ImageFailure(utf8(found.name), "write", error.reason)
            continue
        if change is not None:
            yield path, change


def _below(name: str) -> str:
    """Where a folder of files has the one of an image: its path from here, or from the root where it lies elsewhere."""
    if is_url(name):
        return name.replace("://", "/", 1)
    path = os.path.relpath(name)
    if path.startswith(os.pardir):
        path = os.path.abspath(name)
    return os.path.splitdrive(path)[1].lstrip(os.sep)


def _stems(folder: str) -> Counter[str]:
    """How many images of a folder have each name without its suffix. What a writer that was killed left there is removed."""
    try:
        names = os.listdir(folder)
    except OSError:
        return Counter()
    for name in names:
        if _LEFT.fullmatch(name):
            with suppress(OSError):
                left = Path(folder, name)
                if time.time() - left.stat().st_mtime > _WRITING:
                    left.unlink()
    parts = map(os.path.splitext, names)
    return Counter(stem for stem, suffix in parts if suffix.lower() in IMAGE_SUFFIXES or suffix.lower() in _RAW)


def _rewritten(path: Path, changer: Callable[[bytes | None], Change | None], dry_run: bool, within: Path | None) -> Change | None:
    """Apply a change to a file: it is whole or as it was.

    Args:
        within: a folder in which others may be made.

    Raises:
        Unusable: it cannot be read or written, may not be changed, or somebody else changes it meanwhile.
    """
    path = Path(os.path.realpath(path))  # a link stays one
    try:
        there, state = _read(path)
        change = changer(there)
        if change is None:
            return None
        if there is not None and not os.access(path, os.W_OK):
            raise Unusable(f"{path.name} may not be written to, and was kept", "write")
        if dry_run:
            return change
        if within is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        if change.content is None:
            path.unlink()
            return change
        with replacing(path) as temporary:
            temporary.write_bytes(change.content)
            if there is not None:
                shutil.copymode(path, temporary)
            if _state(path) != state:
                raise Unusable(f"{path.name} was changed by another program meanwhile, and was kept; run again", "write")
        return change
    except OSError as error:
        raise Unusable(f"{path.name} cannot be written ({error.strerror})", "write") from error


def _read(path: Path) -> tuple[bytes | None, tuple[int, ...] | None]:
    state = _state(path)
    return (None if state is None else path.read_bytes()), state


def _state(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino
