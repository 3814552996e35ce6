"""The HTML page of annotated images. Imports all rooms above it but kernels and reference."""

from __future__ import annotations

from typing import Any

__all__ = ["report_files", "report_images"]


def __getattr__(name: str) -> Any:  # command line options import this room, and must not wait for torch
    if name in __all__:
        from . import build

        return getattr(build, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
