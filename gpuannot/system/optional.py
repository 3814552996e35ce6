"""Packages that a GPU machine may lack."""

from __future__ import annotations

import importlib
import warnings
from functools import cache
from typing import Any


@cache
def cuml_module(name: str) -> Any | None:
    """``cuml.<name>``, or None with a warning, once, that torch fits in its place."""
    try:
        return importlib.import_module(f"cuml.{name}")
    except ImportError as error:
        warnings.warn(
            f"cuML is not usable here ({error}): PCA and K-means are fitted by torch on the GPU; install gpuannot[cuda13] or "
            "gpuannot[cuda12] for cuML",
            stacklevel=3,
        )
        return None
