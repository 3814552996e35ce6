"""A decode process: tasks in on standard input, outcomes out on standard output, pixels through shared memory.

It is started by `processes` as a program of its own, not by ``multiprocessing``: that would run the caller's main module
again, and needs a guard in it. It ends when its input does, so it never outlives the process that started it.
"""

from __future__ import annotations

import mmap
import os
import pickle
import sys
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import numpy as np

from ..system.timing import StageTimer
from .decode import take_turns_by
from .decode_task import decode_into


class _FileLock(AbstractContextManager[None]):
    """A lock that one process at a time holds; the system frees it when its holder dies."""

    def __init__(self, file: int) -> None:
        self._file = file

    def __enter__(self) -> None:
        import fcntl

        fcntl.lockf(self._file, fcntl.LOCK_EX)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        import fcntl

        fcntl.lockf(self._file, fcntl.LOCK_UN)


def main(arguments: list[str]) -> None:
    """``arguments``: places in the slab, S, interpolation, file descriptors of the slab and of the lock."""
    interpolation = arguments.pop(2)
    places, size, slab, lock = map(int, arguments)
    # What a library prints must not land among the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    take_turns_by(_FileLock(lock))
    pixels = np.frombuffer(mmap.mmap(slab, places * size * size * 3), np.uint8).reshape(places, size, size, 3)
    while True:
        try:
            tasks: list[Any] = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        timer = StageTimer()
        outcomes = [decode_into(out, task, interpolation, timer) for out, task in zip(pixels, tasks, strict=False)]
        try:
            pickle.dump((outcomes, timer.seconds("read"), timer.seconds("decode")), answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()
        except BrokenPipeError:  # whoever asked is gone, and with it the answer's reader
            os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
