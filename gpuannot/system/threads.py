"""Products whose bits do not depend on the number of CPUs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from threadpoolctl import ThreadpoolController


@lru_cache(maxsize=1)
def _libraries(modules: int) -> ThreadpoolController:
    """The BLAS libraries that are loaded, looked for again, in milliseconds, when a module may have brought in another."""
    return ThreadpoolController()


_lock = threading.Lock()
_inside = 0
_limits: Any = None


@contextmanager
def one_thread() -> Iterator[None]:
    """NumPy's and SciPy's products in one thread while any ``with`` block of this lasts.

    BLAS rounds otherwise when it splits a product among another number of threads: an image would get other bits on another
    machine, or on one of several workers. After the trunk there is little to multiply. torch is not affected.
    """
    global _inside, _limits
    with _lock:
        if not _inside:
            _limits = _libraries(len(sys.modules)).limit(limits=1, user_api="blas")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _limits.restore_original_limits()
