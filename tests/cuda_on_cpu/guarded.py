"""NumPy arrays that end at a page no one may touch: an access past the end faults at once instead of reading a neighbour."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_CANARY = 0xFF  # as a float of any width: NaN; as a signed integer: -1


class Guarded:
    """One array between a canary and a page that faults.

    ``Guarded(values)`` copies ``values``; ``array`` is the copy, whose last byte is the last of its page. Bytes before it hold the
    canary, so that a read before the array gives NaN, and ``check()`` raises AssertionError if a write changed them.
    """

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        page = mmap.PAGESIZE
        room = (values.nbytes // page + 1) * page  # at least one byte of canary
        self._pages = mmap.mmap(-1, room + page)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._pages))
        if _LIBC.mprotect(address + room, page, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
        whole = np.frombuffer(self._pages, np.uint8, room)
        whole[:] = _CANARY
        self._before = whole[: room - values.nbytes]
        self.array = whole[room - values.nbytes :].view(values.dtype).reshape(values.shape)
        self.array[...] = values

    def check(self) -> None:
        """Raise AssertionError if anything wrote before the array."""
        assert (self._before == _CANARY).all(), "a kernel wrote before the start of its output"
