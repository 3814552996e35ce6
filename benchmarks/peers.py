"""Libraries that do the same: imported where they are installed, named with the reason where they are not."""

from __future__ import annotations

import importlib
import shutil
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch


@dataclass(frozen=True)
class Missing:
    """A peer that cannot run here. It stays a row of the result."""

    reason: str


def peer(module: str, package: str | None = None, *, gpu: bool = False) -> Any:
    """The module, or :class:`Missing`.

    Args:
        package: its name for pip where that is another. gpu: it needs a CUDA device.
    """
    if gpu and not torch.cuda.is_available():
        return Missing("needs a CUDA device")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        return Missing(f"not usable here: {error}; pip install {package or module}")


def compiled(call: Any, *, quick: bool = False) -> Any:
    """``torch.compile(call)``, or :class:`Missing` in a quick run, or without the C++ compiler that it needs on a CPU."""
    if quick:
        return Missing("compiling takes longer than a quick run may")
    if not torch.cuda.is_available() and shutil.which("g++") is None and shutil.which("clang++") is None:
        return Missing("torch.compile needs a C++ compiler; install g++")
    return torch.compile(call)


def calls(function: Any, *arguments: Any) -> Any:
    """A call of the function, or the :class:`Missing` that stands in its place."""
    return function if isinstance(function, Missing) else partial(function, *arguments)
