"""Files that are whole or absent, whatever happens to the process or the machine."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that no other writer uses and no listing shows."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")


def final_name(temporary: str) -> str:
    """The name that a file of a :func:`temporary_name` was to get; other names are returned as they are."""
    return re.sub(r"\.([^/\\]+)\.\d+-[0-9a-f]{8}\.part$", r"\1", temporary)


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


def remove_temporary_files(folder: Path) -> None:
    """Remove what writers that were killed left in ``folder``."""
    for left in folder.glob(".*.part"):
        left.unlink(missing_ok=True)
