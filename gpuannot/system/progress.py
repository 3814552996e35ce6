"""Progress: a bar on terminals and in notebooks, elsewhere a line now and then; one look, one rule for when it is shown."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

EVERY = 30.0  # seconds between the lines of a log

_silent = False


def silence(silent: bool) -> None:
    """Show no progress from now on that is not asked for by ``progress=True``, or show it again: a command's ``--quiet``."""
    global _silent
    _silent = silent


def progress_bar(
    title: str | None, total: int | None, progress: bool | None, *, initial: int = 0, unit: str = "img", leave: bool = True
) -> Any:
    """Progress with tqdm's ``update``, ``n`` and ``set_postfix``; used as a context manager.

    On terminals, after two seconds, a bar; where standard error goes to a file or a pipe, :class:`ProgressLines`.

    Args:
        title: before the bar.
        total: what it counts to; None where nobody knows.
        progress: True shows a bar at once, False shows nothing; None is the rule above.
        initial: where it starts.
        unit: of the count.
        leave: leave the full bar standing.
    """
    shown = not _silent if progress is None else progress
    in_log = sys.stderr is not None and not sys.stderr.isatty() and "ipykernel" not in sys.modules
    if shown and in_log and progress is None:
        return ProgressLines(title or "progress", total, initial=initial, unit=unit)
    from tqdm.auto import tqdm  # a tenth of a second that a command which shows none should not wait for

    delay = 2 if progress is None else 0
    return tqdm(desc=title, total=total, initial=initial, unit=unit, disable=not shown, delay=delay, leave=leave)


class ProgressLines:
    """A line every so often, such as ``trunk: 1200 of 5000 img (24%), 12.5 img/s, 5 min left``; short work has none.

    Args:
        title, total, initial, unit: as for :func:`progress_bar`.
        every: seconds between two lines, and before the first; None is :data:`EVERY`.
        clock: gives seconds.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        *,
        initial: int = 0,
        unit: str = "img",
        every: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.n, self.total = initial, total
        self._title, self._unit, self._every, self._clock = title, unit, EVERY if every is None else every, clock
        self._initial, self._started = initial, clock()
        self._told, self._postfix = self._started, ""

    def update(self, n: int = 1) -> None:
        """Count ``n`` more, and print a line where one is due."""
        self.n += n
        now = self._clock()
        if n and now - self._told >= self._every:
            self._told = now
            print(self._line(now - self._started), file=sys.stderr, flush=True)

    def set_postfix(self, values: dict[str, Any] | None = None, refresh: bool = True, **more: Any) -> None:
        """What stands at the end of a line."""
        self._postfix = "".join(f", {name} {value}" for name, value in {**(values or {}), **more}.items())

    def _line(self, seconds: float) -> str:
        rate = (self.n - self._initial) / seconds if seconds > 0 else 0.0
        of = f" of {self.total}" if self.total else ""
        share = f" ({self.n / self.total:.0%})" if self.total else ""
        left = f", {_duration((self.total - self.n) / rate)} left" if self.total and rate > 0 else ""
        return f"{self._title}: {self.n}{of} {self._unit}{share}, {rate:.3g} {self._unit}/s{left}{self._postfix}"

    def close(self) -> None:
        """Nothing is left open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
