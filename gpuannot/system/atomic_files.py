"""Files that are whole or absent, whatever happens to the process or the machine."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ..errors import OutputError


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that no other writer uses and no listing shows."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")


def final_name(text: str) -> str:
    """A text in which a :func:`temporary_name` stands, with the name that the file was to get; others are returned as they are."""
    return re.sub(r"\.([^/\\]+)\.\d+-[0-9a-f]{8}\.part\b", r"\1", text)


def publish(temporary: Path, path: Path) -> None:
    """Flush ``temporary`` to the disk and give it the name ``path``, so that the name outlives a power cut."""
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    if os.name == "posix":  # a rename is durable once its folder is flushed; Windows has no handle for that
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def replacing(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """A temporary name to write to in the ``with`` block, which then takes the name ``path``, unless an error was raised.

    Args:
        path: whatever has that name keeps it until then.
        flush: to the disk first; without, a power cut may leave an empty file.

    Raises:
        OSError: it cannot be written.
    """
    temporary = temporary_name(path)
    try:
        yield temporary
        if flush:
            publish(temporary, path)
        else:
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> Path:
    """Write a small file in one step.

    Raises:
        OSError: it cannot be written; whatever had the name before still has it.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def remove_temporary_files(folder: Path, but: Path | None = None) -> None:
    """Remove what writers that were killed left in ``folder``, all ``but`` one."""
    for left in folder.glob(".*.part"):
        if left != but:
            left.unlink(missing_ok=True)


@contextmanager
def exclusive(lock: Path, guarded: Path) -> Iterator[None]:
    """Keep other processes that ask for the same lock out while the ``with`` block lasts; one that dies leaves nothing locked.

    Args:
        lock: the file to hold; it stays, empty.
        guarded: what it is about, for the error.

    Raises:
        OutputError: another process holds it, or it cannot be written.
    """
    try:
        file = open(lock, "w")  # noqa: SIM115 - closed below
    except OSError as error:
        raise OutputError(f"cannot write to {guarded} ({error.strerror})") from error
    with file:
        _lock(file, guarded)
        yield


@contextmanager
def writing_alone(path: Path) -> Iterator[None]:
    """:func:`exclusive` for the writers of one file, by a lock beside it that is removed in the end.

    Raises:
        OutputError: another process writes it, or its folder cannot be written.
    """
    lock = path.with_name(f".{path.name}.lock")
    with exclusive(lock, path):
        if not lock.exists():  # the one that was waited for has just removed it
            raise OutputError(f"another run was writing to {path}; start again")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _lock(file: IO[str], guarded: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: no lock of that kind; two runs at once then write the same bytes twice
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(f"another run is writing to {guarded}; wait for it, or choose another name") from error
