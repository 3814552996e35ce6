"""Pillow's libtiff, past Pillow: what it prints, and which compressions it was built with."""

from __future__ import annotations

import ctypes

from PIL import _imaging


def _library() -> ctypes.CDLL | None:
    """With the symbols of Pillow's module and of what it is linked to; None where libtiff is built in: they are not to be had."""
    try:
        library = ctypes.CDLL(_imaging.__file__)
        handlers = library.TIFFSetWarningHandler, library.TIFFSetErrorHandler
        library.TIFFIsCODECConfigured.argtypes = [ctypes.c_uint16]
    except (OSError, AttributeError):
        return None
    # libtiff prints what it makes of odd files to standard error, a line a tag, and nothing in Pillow turns that off. The handlers
    # belong to the process, so another user of Pillow's copy loses such lines too. What matters of them Pillow raises.
    for handler in handlers:
        handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        handler(None)
    return library


_LIBRARY = _library()


def reads_compression(number: int) -> bool:
    """Whether libtiff was built with this compression, tag 259; True where it cannot be asked."""
    return _LIBRARY is None or bool(_LIBRARY.TIFFIsCODECConfigured(number))
