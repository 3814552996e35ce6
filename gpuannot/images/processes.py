"""Decoding in processes: for machines with more cores than the interpreter lock lets threads use.

Pillow decodes and warps without the lock, but what lies between holds it for a part of each image's time
(``benchmarks/bench_decode.py`` measures it), and no number of threads passes one image per that part. A process of its own has a
lock of its own; the caller's then costs one message for several images.
"""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceError, ImageError
from ..system.timing import StageTimer
from .decode_task import DecodeTask, ImageFailure, Outcome, decode_into
from .input import Input, Loaded, is_url

CHUNK = 8
"""Images of one message: enough to make its cost small, few enough to keep all processes busy on one batch."""

_START_ATTEMPTS = 3


class _ProcessEndedError(Exception):
    """A decode process died; ``how`` says of what."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class DecodeProcesses:
    """Decodes chunks of images in processes, one for each thread that calls `decode`.

    A process that dies (a crash in a decoder, the system's out-of-memory killer) is started again, and its images are tried once
    more, one by one; the one that it dies of again becomes an `ImageFailure`.

    Args:
        size: S, images are warped to S × S.
        interpolation: as for `decode_image`.

    Raises:
        DeviceError: this system has no such processes (Windows), or they do not start.
    """

    def __init__(self, size: int, interpolation: str) -> None:
        if os.name != "posix":
            raise DeviceError("decoding in processes needs a POSIX system; decode in threads here (processes=0)")
        self._size, self._interpolation = size, interpolation
        self._own = threading.local()
        self._started: list[_Process] = []
        self._lock = threading.Lock()
        self._turns = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()

    def decode(self, out: NDArray[np.uint8], tasks: Sequence[DecodeTask], timer: StageTimer) -> list[Outcome]:
        """Decode a chunk of images.

        Args:
            out: (B, S, S, 3) uint8, written to; B up to `CHUNK`.
            timer: gets the seconds of reading and decoding.
        """
        outcomes: list[Outcome] = [None] * len(tasks)
        sent: list[int] = []
        for place, task in enumerate(tasks):
            if isinstance(ready := _portable(task, timer), DecodeTask):
                tasks = [*tasks[:place], ready, *tasks[place + 1 :]]
                sent.append(place)
            elif ready is None:
                outcomes[place] = decode_into(out[place], task, self._interpolation, timer)
            else:
                outcomes[place] = ready
        if not sent:
            return outcomes
        try:
            found = self._ask([tasks[place] for place in sent], [out[place] for place in sent], timer)
        except _ProcessEndedError:
            found = [self._ask_again(tasks[place], out[place], timer) for place in sent]
        for place, outcome in zip(sent, found, strict=True):
            outcomes[place] = outcome
        return outcomes

    def close(self) -> None:
        """End the processes; no thread may be decoding."""
        for process in self._started:
            process.close()
        self._started.clear()
        self._turns.close()

    def _ask_again(self, task: DecodeTask, out: NDArray[np.uint8], timer: StageTimer) -> Outcome:
        try:
            return self._ask([task], [out], timer)[0]
        except _ProcessEndedError as error:
            return ImageFailure(task.name, "decode", f"the process that decoded it was ended twice, by {error.how}")

    def _ask(self, tasks: list[DecodeTask], outs: list[NDArray[np.uint8]], timer: StageTimer) -> list[Outcome]:
        process: _Process | None = getattr(self._own, "process", None)
        if process is None:
            process = self._own.process = self._start()
        try:
            outcomes, read, decoded = process.ask(tasks)
        except _ProcessEndedError:
            self._own.process = None
            process.close()
            with self._lock:
                self._started.remove(process)
            raise
        timer.add("read", read)
        timer.add("decode", decoded)
        for out, pixels, outcome in zip(outs, process.pixels, outcomes, strict=False):
            if outcome is None:
                out[...] = pixels
        return outcomes

    def _start(self) -> _Process:
        for attempt in range(_START_ATTEMPTS):
            process = _Process(CHUNK, self._size, self._interpolation, self._turns.fileno())
            try:
                process.ask([])  # the first answer tells that it runs
            except _ProcessEndedError as error:
                process.close()
                if attempt + 1 == _START_ATTEMPTS:
                    raise DeviceError(f"decode processes end by {error.how} at their start; use threads (processes=0)") from error
                continue
            with self._lock:
                self._started.append(process)
            break
        return process


class _Process:
    """One decode process and the memory that it shares; ``pixels`` (places, S, S, 3) uint8 holds its last answer's images."""

    def __init__(self, places: int, size: int, interpolation: str, lock: int) -> None:
        bytes_ = places * size * size * 3
        # A file without a name: nothing is left behind, however this process ends.
        slab = os.memfd_create("gpuannot-pixels") if hasattr(os, "memfd_create") else _unnamed_file()
        try:
            os.ftruncate(slab, bytes_)
            self._memory = mmap.mmap(slab, bytes_)
            self._child = subprocess.Popen(
                [
                    sys.executable, *(f"-W{option}" for option in sys.warnoptions), "-m", f"{__package__}.worker",
                    str(places), str(size), interpolation, str(slab), str(lock),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(slab, lock),
                process_group=0,  # Ctrl-C is for the caller, who closes this
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])},
            )  # fmt: skip
        finally:
            os.close(slab)
        self.pixels = np.frombuffer(self._memory, np.uint8).reshape(places, size, size, 3)

    def ask(self, tasks: list[DecodeTask]) -> tuple[list[Outcome], float, float]:
        """Outcomes, and seconds of reading and of decoding."""
        assert self._child.stdin is not None and self._child.stdout is not None
        try:
            pickle.dump(tasks, self._child.stdin, pickle.HIGHEST_PROTOCOL)
            self._child.stdin.flush()
            answer: tuple[list[Outcome], float, float] = pickle.load(self._child.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            self._child.kill()  # where the pipe broke, but not the process
            raise _ProcessEndedError(_described(self._child.wait())) from error
        return answer

    def close(self) -> None:
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was buffered for a process that is gone
                    pipe.close()
        self._child.wait()


def _portable(task: DecodeTask, timer: StageTimer) -> DecodeTask | ImageFailure | None:
    """``task`` for another process, with its bytes read where only this one can; None for pixels, which are decoded already."""
    source = task.source
    if isinstance(source, Input) and is_url(source.place):  # its client may be logged in here alone, or hold files in memory
        try:
            with timer.measure("read"):
                return task._replace(source=source.read())
        except ImageError as error:
            return ImageFailure(error.path, error.stage, error.reason)
    if isinstance(source, Loaded) and isinstance(source.content, bytes):
        return task._replace(source=source.content)
    if isinstance(source, os.PathLike):
        return task._replace(source=os.fspath(source))
    return task if isinstance(source, (Input, Loaded, str, bytes)) else None


def _unnamed_file() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _described(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
