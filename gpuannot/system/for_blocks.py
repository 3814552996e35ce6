"""Blocks of rows on all cores: NumPy's products use them by themselves, its element-wise functions do not."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from .threads import one_thread


def for_blocks(work: Callable[[int, int], None], count: int, block: int) -> None:
    """Call ``work(start, stop)`` for every block of 0…count, several at a time where there are several cores.

    NumPy and SciPy let go of the interpreter while they compute. Blocks do not depend on the number of threads, so neither do the
    results, as long as each block writes only its own rows. Matrix products in ``work`` are made in one thread each.
    """
    starts = range(0, count, block)
    with one_thread():
        if len(starts) < 2 or cores() < 2:
            for start in starts:
                work(start, min(start + block, count))
        else:
            list(_pool(os.getpid()).map(lambda start: work(start, min(start + block, count)), starts))


def even_block(count: int, most: int) -> int:
    """The size of blocks, ``most`` at most, of which an even number makes up 0…``count``: two cores then end together."""
    blocks = -(-count // max(1, most))
    return max(1, -(-count // (blocks + blocks % 2))) if blocks > 1 else max(1, count)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """One pool a process: a forked child has none of its parent's threads."""
    return ThreadPoolExecutor(cores(), thread_name_prefix="gpuannot-reference")
