"""CPUs, and work on them whose bits do not depend on how many there are."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any

from threadpoolctl import ThreadpoolController


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def _libraries(modules: int) -> ThreadpoolController:
    """The BLAS libraries that are loaded, looked for again, in milliseconds, when a module may have brought in another."""
    return ThreadpoolController()


_lock = threading.Lock()
_inside = 0
_limits: Any = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """NumPy's and SciPy's products in one thread while any ``with`` block of this lasts.

    BLAS rounds otherwise when it splits a product among another number of threads: an image would get other bits on another
    machine, or on one of several workers. After the trunk there is little to multiply. torch is not affected, see
    :func:`one_torch_thread`.
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


_torch_threads = 1
_torch_inside = 0
_depth = threading.local()


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """torch's own work on the CPU, in this thread of the program, in one thread while the ``with`` block lasts.

    Sums, products and factors of torch round by its number of threads as well. Large products are made in blocks by all cores
    (:mod:`gpuannot.heads.products`); this is for what is left. Threads of the program that use torch for the first time meanwhile
    keep to one thread too.
    """
    import torch  # processes that decode do without it

    global _torch_threads, _torch_inside
    depth = getattr(_depth, "value", 0)
    before = torch.get_num_threads()  # in every thread: until asked, torch has none for it, and would take others when it works
    with _lock:
        if not _torch_inside:
            _torch_threads = before
        _torch_inside += 1
    _depth.value = depth + 1
    try:
        if not depth:
            torch.set_num_threads(1)
        yield
    finally:
        if not depth:
            torch.set_num_threads(_torch_threads)
        _depth.value = depth
        with _lock:
            _torch_inside -= 1


def for_blocks(work: Callable[[int, int], None], count: int, block: int) -> None:
    """Call ``work(start, stop)`` for every block of 0…count, several at a time where there are several cores.

    NumPy and SciPy let go of the interpreter while they compute. Blocks do not depend on the number of threads, so neither do the
    results, as long as each block writes only its own rows. Matrix products in ``work`` are made in one thread each.
    """
    starts = range(0, count, block)
    with one_blas_thread():
        if len(starts) < 2 or cpus() < 2:
            for start in starts:
                work(start, min(start + block, count))
        else:
            list(_pool(os.getpid()).map(lambda start: work(start, min(start + block, count)), starts))


def even_block(count: int, most: int) -> int:
    """The size of blocks, ``most`` at most, of which an even number makes up 0…``count``: two cores then end together."""
    blocks = -(-count // max(1, most))
    return max(1, -(-count // (blocks + blocks % 2))) if blocks > 1 else max(1, count)


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """One pool a process: a forked child has none of its parent's threads."""
    return ThreadPoolExecutor(cpus(), thread_name_prefix="gpuannot-reference")
