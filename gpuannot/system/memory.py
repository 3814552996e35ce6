"""Memory that a fit has used, given back to the system."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of glibc's malloc.h
_LARGE = 4 << 20


@cache
def large_arrays_apart() -> None:
    """From now on, let arrays of 4 MB and more go back to the system as they are freed.

    GNU's C library raises the size from which it does that up to 32 MB, and keeps smaller ones, in pieces that the next stage's do
    not fit into: a fit then holds twice what it uses. Other libraries have no such setting, and nothing is done.
    """
    if sys.platform.startswith("linux") and (set_option := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        set_option(_MMAP_THRESHOLD, _LARGE)
