"""What is written beside one image, and what it changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol


class Tags(NamedTuple):
    """The words of one image.

    Attributes:
        words: likeliest first.
        confidences: of each, where the model says.
        model: its SHA-256.
    """

    words: Sequence[str]
    confidences: Sequence[float] | None
    model: str


@dataclass(frozen=True)
class Change:
    """What becomes of one file.

    Attributes:
        content: the new one; None removes the file.
        added, removed: words.
    """

    content: bytes | None
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class TagFile(Protocol):
    """A format of files beside images.

    Attributes:
        suffix: of its files.
    """

    suffix: ClassVar[str]

    def changed(self, there: bytes | None, tags: Tags, image: Path | None) -> Change | None:
        """What giving an image these words does to its file; None where nothing is to be done.

        Args:
            there: what the file holds; None if there is none.
            image: where that is a local file.

        Raises:
            Unusable: the file must stay as it is.
        """
