"""What all documents have in common: how they name images, and entries that go to the disk one by one."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from ...errors import DataError
from ...images.decode_task import ImageFailure
from ...images.input import is_url, utf8
from ...model.annotations import Annotations
from .rows import rows


@dataclass(frozen=True)
class Naming:
    """How a document names images.

    Attributes:
        base: the folder that names start from; None is that of the document.
        prefix: put before the name, which then is quoted as in a URL: where the tool fetches images from.
    """

    base: Path | None = None
    prefix: str | None = None

    def name(self, path: str, document: Path) -> str:
        """What a document at ``document`` calls the image ``path``."""
        base = self.base if self.base is not None else document.parent
        name = path if is_url(path) else os.path.relpath(path, base).replace(os.sep, "/")
        return utf8(name) if self.prefix is None else self.prefix + quote(os.fsencode(name))


class JsonDocument(ABC):
    """Opens the file, and turns annotations into rows with the names of the document."""

    def __init__(self, path: Path, model_sha256: str, naming: Naming) -> None:
        self.failures: list[ImageFailure] = []
        self.model = model_sha256
        self._path, self._naming = path, naming
        self.file: IO[str] = open(path, "w", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._entries = 0

    @classmethod
    def check_name(cls, path: Path) -> None:
        """Raise DataError unless it ends in ``.json``."""
        if path.suffix.lower() != ".json":
            better = path.with_suffix(".json")
            raise DataError(f"{path}: a document of this format is one .json file; write it for example to {better}")

    @abstractmethod
    def write(self, annotations: Annotations) -> None:
        """Add the words of some images."""

    def named(self, annotations: Annotations) -> Iterator[tuple[str, dict[str, Any], str]]:
        """For each image its path, its row, and its name in the document."""
        for path, row in zip(annotations.names, rows(annotations, self.model), strict=True):
            yield path, row, self._naming.name(path, self._path)

    def put(self, entry: str) -> None:
        """Add an entry to the list or object that is being written."""
        self.file.write(f"{',' if self._entries else ''}\n{entry}")
        self._entries += 1

    def refuse(self, path: str, reason: str) -> None:
        """Note an image that cannot be in the document."""
        self.failures.append(ImageFailure(utf8(path), "write", reason))

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def dumped(value: Any) -> str:
    """JSON in one line, with all signs as they are."""
    return json.dumps(value, ensure_ascii=False)
