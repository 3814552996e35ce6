"""Hugging Face: ``metadata.jsonl`` of an image folder, which ``datasets.load_dataset("imagefolder", data_dir=…)`` reads.

A line an image: ``file_name`` below the folder of the file, ``words``, and where the model says ``confidences``.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import DataError
from ...model.annotations import Annotations
from .document import JsonDocument, dumped


class ImageFolderDocument(JsonDocument):
    """One line an image."""

    @classmethod
    def check_name(cls, path: Path) -> None:
        """Raise DataError unless it is ``metadata.jsonl``."""
        if path.name != "metadata.jsonl":
            raise DataError(f"{path}: an image folder's file is called metadata.jsonl, in the folder above its images")

    def write(self, annotations: Annotations) -> None:
        """Add a line an image."""
        for path, row, name in self.named(annotations):
            if name.startswith("../") or "://" in name:
                self.refuse(path, "is not below the folder of metadata.jsonl, as an image folder needs it")
                continue
            entry = {"file_name": name, "words": row["words"]}
            if "confidences" in row:
                entry["confidences"] = row["confidences"]
            self.file.write(dumped({**entry, "model": self.model}) + "\n")
