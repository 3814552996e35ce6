"""Label Studio: a list of tasks with predictions, to be imported into a project and corrected there.

The project's labelling interface has one ``<Choices name="words" toName="image" choice="multiple">`` for an
``<Image name="image" value="$image"/>``. A prediction's score is the mean confidence of its words.
"""

from __future__ import annotations

from pathlib import Path

from ...model.annotations import Annotations
from .document import JsonDocument, Naming, dumped


class LabelStudioDocument(JsonDocument):
    """One task an image."""

    def __init__(self, path: Path, model_sha256: str, naming: Naming) -> None:
        super().__init__(path, model_sha256, naming)
        self.file.write("[")

    def write(self, annotations: Annotations) -> None:
        """Add a task an image."""
        for _, row, name in self.named(annotations):
            result = {"from_name": "words", "to_name": "image", "type": "choices", "value": {"choices": row["words"]}}
            prediction = {"model_version": f"gpuannot {self.model}", "result": [result] if row["words"] else []}
            if confidences := row.get("confidences"):
                prediction["score"] = round(sum(confidences) / len(confidences), 4)
            self.put(dumped({"data": {"image": name}, "predictions": [prediction]}))

    def close(self) -> None:
        """End the list, and close the file."""
        if not self.file.closed:
            self.file.write("\n]\n")
        super().close()
