"""Training-free image annotation: VGG-16 conv5_2 features, VLAD, mean word vectors, nearest words."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .system.version import __version__

__all__ = ["Annotations", "Annotator", "AnnotatorConfig", "Explanation", "Inputs", "__version__"]

if TYPE_CHECKING:
    from .annotator import Annotator
    from .config import AnnotatorConfig
    from .images.inputs import Inputs
    from .model.annotations import Annotations
    from .model.explain import Explanation

_HOMES = {
    "Annotations": "model.annotations",
    "Annotator": "annotator",
    "AnnotatorConfig": "config",
    "Explanation": "model.explain",
    "Inputs": "images.inputs",
}
#: Modules that have names of their own for users.
_MODULES = ("baselines", "datasets", "errors", "kernels", "metrics", "report")


def __getattr__(name: str) -> Any:
    # torch takes a second to import: `gpuannot --help` and `gpuannot.__version__` should not wait for it.
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted((*__all__, *_MODULES))
