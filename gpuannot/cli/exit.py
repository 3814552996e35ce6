"""How commands end: what is wrong in one line, failures listed, and the exit code that says it."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import typer
from rich.console import Console

from ..errors import GpuannotError, counted
from ..system.atomic_files import final_name
from ..system.version import __version__
from .tables import plain, printable

if TYPE_CHECKING:
    from ..images.decode_task import ImageFailure

errors = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
#: What is good to know and nothing to worry about; ``--quiet`` leaves it out.
notes = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

SOME_FAILED, UNUSABLE, BUG, INTERRUPTED, TERMINATED = 1, 2, 70, 130, 143

# A machine's trouble that the system reports of an open file, and so without its name.
_OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EROFS}

# What Python and torch raise as RuntimeError when the machine has no more.
_SHORTAGES = {
    "can't start new thread": "the system starts no more threads; allow more (ulimit -u), or give fewer --threads or --workers",
    "can't allocate memory": "not enough memory; a smaller batch_size or input_size needs less",
}

P = ParamSpec("P")
R = TypeVar("R")


def errors_to_exit_code(command: Callable[P, R]) -> Callable[P, R]:
    """Print what is wrong with the input, without a traceback, and exit with 2; after Ctrl-C or SIGTERM with 130 or 143.

    Other errors are bugs: their traceback is printed, with a line that says so, and the exit code is 70.
    """

    @wraps(command)
    def wrapped(*arguments: P.args, **options: P.kwargs) -> R:
        try:
            with _terminated_like_interrupted():
                return command(*arguments, **options)
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):  # typer ends quietly after `gpuannot … | head`
            raise
        except KeyboardInterrupt as stop:
            errors.print("stopped")
            raise typer.Exit(TERMINATED if isinstance(stop, _Terminated) else INTERRUPTED) from None
        except Exception as error:
            if _is_no_bug(error):
                errors.print(f"[bold red]error:[/] {plain(printable(_one_line(error)))}")
                raise typer.Exit(UNUSABLE) from None
            traceback.print_exception(error, file=sys.stderr)
            errors.print(
                f"[bold red]bug:[/] this is a bug in gpuannot {__version__}, not in what it was given; please report it with the "
                "command and the lines above"
            )
            raise typer.Exit(BUG) from None

    return wrapped


def _is_no_bug(error: Exception) -> bool:
    """Whether the user's data, files or machine are to blame."""
    if isinstance(error, OSError):
        return error.filename is not None or error.errno in _OF_THE_MACHINE or _partial_file(error)
    return isinstance(error, (GpuannotError, MemoryError)) or any(text in str(error) for text in _SHORTAGES)


def _partial_file(error: OSError) -> bool:
    """Whether an error, of Arrow say, tells of an output in its text alone."""
    return final_name(str(error)) != str(error)


def _one_line(error: Exception) -> str:
    """What is wrong; the operating system's errors without their number, and with the name that the user knows."""
    if isinstance(error, MemoryError):
        return "not enough memory; a smaller batch_size or input_size needs less"
    if shortage := next((meaning for text, meaning in _SHORTAGES.items() if text in str(error)), None):
        return shortage
    if isinstance(error, OSError) and error.strerror and (error.filename is not None or error.errno in _OF_THE_MACHINE):
        named = "" if error.filename is None else f"{final_name(os.fsdecode(error.filename))}: "
        return f"{named}{error.strerror}"
    return final_name(str(error))


class _Terminated(KeyboardInterrupt):
    """SIGTERM, to be met as Ctrl-C is: what is half done is cleaned up."""


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    def stop(signal_number: int, frame: FrameType | None) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():  # where Python does not set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_for(failures: Sequence[ImageFailure], *, done: int, failed: int | None = None) -> None:
    """Exit according to the failures, of which ``failures`` are the first where ``failed`` says how many there are."""
    count = len(failures) if failed is None else failed
    if not count:
        return
    errors.print(f"[bold yellow]{counted(count, 'input')} failed[/]" + (", the first 10:" if count > 10 else ":"))
    for failure in failures[:10]:
        errors.print(f"  {plain(printable(failure.path))}: {plain(printable(failure.reason))}")
    raise typer.Exit(SOME_FAILED if done else UNUSABLE)


def tell_skipped(skipped: int, labels: Path | None) -> None:
    """Say how many inputs ``--skip-labelled`` left out; with none, names may not be what they should."""
    if labels is None:
        return
    if skipped:
        notes.print(f"{counted(skipped, 'image')} with words in {plain(printable(str(labels)))} left out")
    else:
        errors.print(
            f"[yellow]warning:[/] not one of these images has words in {plain(printable(str(labels)))}, so none is left out"
        )


def tell_left_out(left_out: Mapping[str, int]) -> None:
    """Say what folders and archives hold that is no input."""
    if counts := ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in sorted(left_out.items())):
        notes.print(f"left out because of their names: {plain(printable(counts))}")
