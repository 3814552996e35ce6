"""FiftyOne: ``labels.json`` of a ``FiftyOneImageClassificationDataset``, with all words of an image and their confidences.

Images are told apart by their paths without the suffix, as FiftyOne does: of two that differ in it alone, the second is refused.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

from ...model.annotations import Annotations
from .document import JsonDocument, Naming, dumped


class FiftyOneDocument(JsonDocument):
    """One key an image."""

    def __init__(self, path: Path, model_sha256: str, naming: Naming) -> None:
        super().__init__(path, model_sha256, naming)
        self._classes: tuple[str, ...] = ()
        self._keys: set[bytes] = set()  # 16 bytes of each
        self.file.write(f'{{"info": {dumped({"model": model_sha256})}, "labels": {{')

    def write(self, annotations: Annotations) -> None:
        """Add the words of an image under its key."""
        self._classes = annotations.vocabulary
        for path, row, name in self.named(annotations):
            key = os.path.splitext(name)[0]
            digest = sha256(key.encode()).digest()[:16]
            if key.startswith("../"):
                self.refuse(path, "lies outside of the folder that names start from; name one above it with --relative-to")
            elif digest in self._keys:
                self.refuse(path, f"FiftyOne tells images apart by their names without the suffix, and another one is {key!r}")
            else:
                self._keys.add(digest)
                confidences = row.get("confidences") or [None] * len(row["words"])
                labels = [
                    {"label": word} if confidence is None else {"label": word, "confidence": confidence}
                    for word, confidence in zip(row["words"], confidences, strict=True)
                ]
                self.put(f"{dumped(key)}: {dumped(labels)}")

    def close(self) -> None:
        """Add the classes, and close the file."""
        if not self.file.closed:
            self.file.write(f'\n}}, "classes": {dumped(list(self._classes))}}}\n')
        super().close()
