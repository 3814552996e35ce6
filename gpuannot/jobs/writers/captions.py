r"""Captions: ``a.txt`` beside ``a.jpg``, its words with commas between, as trainers of image models take them.

A ``,`` or ``\`` within a word has a ``\`` before it. A caption cannot say who wrote it, so one that is there stays, unless it is to
be overwritten.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from ...images.refusal import Unusable
from .tag_file import Change, Tags


class Caption:
    """Words in one line.

    Args:
        overwrite: replace a caption with other words.
    """

    suffix: ClassVar[str] = ".txt"

    def __init__(self, *, overwrite: bool = False) -> None:
        self._overwrite = overwrite

    def changed(self, there: bytes | None, tags: Tags, image: Path | None) -> Change | None:
        """As :meth:`~gpuannot.jobs.writers.tag_file.TagFile.changed` says."""
        content = (", ".join(re.sub(r"([,\\])", r"\\\1", " ".join(word.split())) for word in tags.words) + "\n").encode()
        if there == content:
            return None
        if there is not None and not self._overwrite:
            raise Unusable("another caption is there and was kept; --overwrite replaces it", "write")
        return Change(content, tuple(tags.words))
