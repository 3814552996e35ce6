r"""Labels beside and in photos: keywords (XMP sidecars, XMP and IPTC in the file) and captions (``.txt``).

* **Keywords** of an image are those of ``a.xmp`` and ``a.jpg.xmp``, and of the photo's own XMP and IPTC, all together. Those that
  gpuannot wrote are left out (:mod:`gpuannot.images.xmp`): a model is not to learn from what a model said.
* **Captions**: the parts of ``a.txt`` or ``a.jpg.txt`` between commas and line breaks; ``\,`` is a comma within a word.

An image without any is not labelled. One whose sidecar cannot be read is a failure, as half of its words would be worse than none.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from ..errors import DataError, counted, shown
from ..images.decode import IMAGE_SUFFIXES
from ..images.decode_task import ImageFailure
from ..images.inputs import Inputs
from ..images.keywords import embedded_keywords
from ..images.refusal import Unusable
from ..images.xmp import Keywords, Packet
from .label_text import read_text

Source: TypeAlias = Literal["auto", "keywords", "captions"]
SOURCES: tuple[Source, ...] = ("auto", "keywords", "captions")

_SENTENCE = 5  # words between commas from which on a caption is more likely a sentence


class Reading(NamedTuple):
    """How labels are looked for.

    Attributes:
        labels: ``keywords`` or ``captions`` of photos; ``auto``: a label file, folders of words, or else what the photos have.
        hierarchy: take the hierarchical keyword ``animals|dog`` for a word, in place of ``dog``.
        machine_words: also words that a model gave: keywords that gpuannot wrote, predictions of Label Studio.
    """

    labels: Source = "auto"
    hierarchy: bool = False
    machine_words: bool = False


class TaggedPhotos(NamedTuple):
    """What the photos of a folder, and of those below it, carry.

    Attributes:
        images: for each image its path below the folder and its words.
        failures: what could not be listed or read.
        without: number of images that carry nothing.
        left_out: files that are no images by their names, by suffix.
    """

    images: dict[str, list[str]]
    failures: list[ImageFailure]
    without: int
    left_out: Counter[str]


def find_tagged_photos(root: Path, reading: Reading) -> TaggedPhotos | None:
    """The photos in ``root`` and below with the words that they carry; None where none does, unless they were asked for.

    Raises:
        DataError: both keywords and captions are there, and neither was asked for; or one was, and there are none.
    """
    if reading.labels == "auto":
        either = [found for source in SOURCES[1:] if (found := _find(root, reading._replace(labels=source))).images]
        if len(either) > 1:
            raise DataError(
                f"{root} holds photos with keywords ({len(either[0].images)}) and with captions ({len(either[1].images)}); say "
                "which are the labels: --labels keywords, or captions"
            )
        return either[0] if either else None
    found = _find(root, reading)
    if not found.images:
        kind = "keyword (XMP, IPTC, sidecars)" if reading.labels == "keywords" else "caption (.txt)"
        failed = f"; {found.failures[0].path}: {found.failures[0].reason}" if found.failures else ""
        raise DataError(f"{root}: not one of its {counted(found.without, 'image')} has a {kind} that a person wrote{failed}")
    return found


def _find(root: Path, reading: Reading) -> TaggedPhotos:
    inputs = Inputs(root)
    images: dict[str, list[str]] = {}
    failures: list[ImageFailure] = []
    shared: list[str] = []
    captions = reading.labels == "captions"
    read: Callable[[Path, _Folder], list[str]] = _caption if captions else _keywords(reading)
    without, folder = 0, _Folder.listed(root)
    for item in inputs:
        if item.kind != "file":
            failures += [ImageFailure(item.name, "find", item.detail)] if item.kind == "failed" else []
            continue
        path = Path(item.place)
        folder = folder if folder.path == path.parent else _Folder.listed(path.parent)
        if folder.images[path.stem] > 1 and (beside := path.with_suffix(".txt" if captions else ".xmp")).name in folder.names:
            shared.append(str(beside))
        try:
            words = read(path, folder)
        except Unusable as error:
            failures.append(ImageFailure(item.name, "read", error.reason))
            continue
        if words:
            images[os.path.relpath(path, root).replace(os.sep, "/")] = words
        else:
            without += 1
    if shared:
        more = f", nor were {count} more like it" if (count := len(set(shared)) - 1) else ""
        warnings.warn(
            f"{shared[0]} may be of several images and was not read{more}; a name such as a.jpg.xmp says of which it is",
            stacklevel=5,
        )
    if captions:
        _warn_of_sentences(root, images)
    return TaggedPhotos(images, failures, without, inputs.left_out)


class _Folder(NamedTuple):
    """What a folder holds: how many images there are of each name without its suffix, and the names of all files."""

    path: Path
    images: Counter[str]
    names: frozenset[str]

    @classmethod
    def listed(cls, path: Path) -> _Folder:
        names = frozenset(os.listdir(path))
        parts = map(os.path.splitext, names)
        return cls(path, Counter(stem for stem, suffix in parts if suffix.lower() in IMAGE_SUFFIXES), names)

    def beside(self, image: Path, suffix: str) -> Iterator[Path]:
        """The files of an image that end in ``suffix``: not one that could be another image's."""
        for start in (image.name, *([image.stem] if self.images[image.stem] == 1 else [])):
            yield from (self.path / name for name in (start + suffix, start + suffix.upper()) if name in self.names)


def _keywords(reading: Reading) -> Callable[[Path, _Folder], list[str]]:
    def read(path: Path, folder: _Folder) -> list[str]:
        found: list[str] = []
        for keywords in (*map(_of_sidecar, folder.beside(path, ".xmp")), embedded_keywords(str(path))):
            found += keywords.words(hierarchy=reading.hierarchy, machine=reading.machine_words)
        return list(dict.fromkeys(found))

    return read


def _of_sidecar(path: Path) -> Keywords:
    try:
        return Packet(path.read_bytes()).keywords()
    except OSError as error:
        raise Unusable(f"{path.name}: {error.strerror}", "read") from error
    except Unusable as error:
        raise Unusable(f"{path.name}: {error.reason}", "read") from error


def _caption(path: Path, folder: _Folder) -> list[str]:
    words: list[str] = []
    for file in folder.beside(path, ".txt"):
        try:
            text = read_text(file)
        except DataError as error:
            raise Unusable(str(error), "read") from error
        parts = re.findall(r"(?:\\\\|\\,|[^,\r\n])+", text)
        words += [word for part in parts if (word := re.sub(r"\\([,\\])", r"\1", part).strip())]
    return list(dict.fromkeys(words))


def _warn_of_sentences(root: Path, images: dict[str, list[str]]) -> None:
    words = [word for carried in images.values() for word in carried]
    long = [word for word in words if len(word.split()) >= _SENTENCE]
    if 2 * len(long) > len(words):
        warnings.warn(
            f"{root}: most captions look like sentences, such as {shown(long[0])}, and each was taken as one word; words of an "
            "image are separated by ','",
            stacklevel=6,
        )
