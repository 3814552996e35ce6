"""Progress bars: one look, one rule for when they are shown."""

from __future__ import annotations

from typing import Any


def progress_bar(
    title: str | None, total: int | None, progress: bool | None, *, initial: int = 0, unit: str = "img", leave: bool = True
) -> Any:
    """A bar, on terminals after two seconds, with tqdm's ``update`` and ``set_postfix``; used as a context manager.

    Args:
        title: before the bar.
        total: what it counts to; None where nobody knows.
        progress: show it at once; None shows it on terminals, after two seconds.
        initial: where it starts.
        unit: of the count.
        leave: leave the full bar standing.
    """
    from tqdm.auto import tqdm  # a tenth of a second that a command which shows none should not wait for

    disable, delay = (None, 2) if progress is None else (not progress, 0)
    return tqdm(desc=title, total=total, initial=initial, unit=unit, disable=disable, delay=delay, leave=leave)
