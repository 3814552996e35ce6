"""The documents, one a run, by their names."""

from __future__ import annotations

from .coco import CocoDocument
from .document import JsonDocument
from .fiftyone import FiftyOneDocument
from .imagefolder import ImageFolderDocument
from .label_studio import LabelStudioDocument

#: Name of each on the command line, and what writes it.
DOCUMENTS: dict[str, type[JsonDocument]] = {
    "coco": CocoDocument,
    "label-studio": LabelStudioDocument,
    "fiftyone": FiftyOneDocument,
    "imagefolder": ImageFolderDocument,
}
