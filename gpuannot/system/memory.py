"""Memory that a finished stage held, given back to the system."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any


def give_back() -> None:
    """Return what the C library keeps of freed memory for later, a few hundred MB after a stage of a fit, in milliseconds.

    Only GNU's library has to be told; elsewhere this does nothing.
    """
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # not musl's
