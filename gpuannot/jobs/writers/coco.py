"""COCO: ``images``, ``annotations`` and ``categories``, an annotation a word.

COCO knows no words of whole images: each annotation has the whole image for its box, and the word's confidence as ``score``. The
size of an image that is no local file (a member of an archive, a URL) is not known; it has neither size nor boxes.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from ...images.size import size_of
from ...model.annotations import Annotations
from .document import JsonDocument, Naming, dumped


class CocoDocument(JsonDocument):
    """Images go to the file, annotations to another, which is appended in the end: memory does not grow with their number."""

    def __init__(self, path: Path, model_sha256: str, naming: Naming) -> None:
        super().__init__(path, model_sha256, naming)
        self._categories: tuple[str, ...] = ()
        self._images = self._words = 0
        self._annotations = tempfile.TemporaryFile("w+", encoding="utf-8", dir=path.parent)  # noqa: SIM115 - closed by close()
        info = {"description": "words given by gpuannot", "version": model_sha256}
        self.file.write(f'{{"info": {dumped(info)}, "licenses": [], "images": [')

    def write(self, annotations: Annotations) -> None:
        """Add images and an annotation a word."""
        self._categories = annotations.vocabulary
        number = {word: place for place, word in enumerate(self._categories, start=1)}
        for path, row, name in self.named(annotations):
            self._images += 1
            image: dict[str, Any] = {"id": self._images, "file_name": name}
            box: dict[str, Any] = {}
            if (size := size_of(path)) is not None:
                image |= {"width": size[0], "height": size[1]}
                box = {"bbox": [0, 0, *size], "area": size[0] * size[1], "segmentation": []}
            self.put(dumped(image))
            confidences = row.get("confidences") or [None] * len(row["words"])
            for word, confidence in zip(row["words"], confidences, strict=True):
                self._words += 1
                entry = {"id": self._words, "image_id": self._images, "category_id": number[word], "iscrowd": 0, **box}
                if confidence is not None:
                    entry["score"] = confidence
                self._annotations.write(f"{',' if self._words > 1 else ''}\n{dumped(entry)}")

    def close(self) -> None:
        """Append annotations and categories, and close the file."""
        if not self.file.closed:
            self.file.write('\n], "annotations": [')
            self._annotations.seek(0)
            shutil.copyfileobj(self._annotations, self.file)
            categories = [{"id": place, "name": word} for place, word in enumerate(self._categories, start=1)]
            self.file.write(f'\n], "categories": {dumped(categories)}}}\n')
        self._annotations.close()
        super().close()
