"""Training-free image annotation: VGG-16 conv5_2 features, VLAD, mean word vectors, nearest words."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Annotations", "Annotator", "AnnotatorConfig", "Explanation", "Inputs", "__version__"]

if TYPE_CHECKING:
    from .annotations import Annotations
    from .annotator import Annotator
    from .config import AnnotatorConfig
    from .explain import Explanation
    from .inputs import Inputs

_HOMES = {
    "Annotations": "annotations",
    "Annotator": "annotator",
    "AnnotatorConfig": "config",
    "Explanation": "explain",
    "Inputs": "inputs",
}


def __getattr__(name: str) -> Any:
    # torch takes a second to import: `gpuannot --help` and `gpuannot.__version__` should not wait for it.
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
