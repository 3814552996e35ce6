"""Words for images as they arrive in a folder.

What the file system tells of changes says when to look, never what to take: each look lists the folder, so that nothing is lost
where events are (a network drive, a burst of them, a program that was not running). A file is taken once it has stayed as it is for
a while, and is done once its row is in the journal.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

from watchfiles import watch

from ..images.decode_task import ImageFailure
from ..images.input import Input, utf8
from ..images.inputs import Inputs
from ..model.annotations import Annotations
from ..model.word_model import WordModel
from .journal import Journal
from .stream import annotate_stream
from .writers import Selection, TagWriter, rows

_LOOK_AGAIN = 60.0  # seconds after which a folder is listed even if nothing was heard of it

State = tuple[int, int, int]


class Arrivals:
    """The files of a folder that have no row yet and are no longer being written.

    Args:
        inputs: what is looked for, and where.
        journal: says what is done.
        settle: seconds for which size and time of a file have to stay the same.
    """

    def __init__(self, inputs: Inputs, journal: Journal, settle: float) -> None:
        self._inputs, self._journal, self._settle = inputs, journal, settle
        self._waiting: dict[str, tuple[State, float]] = {}  # since when each file is as it is
        self._taken: dict[str, State] = {}  # what was annotated last
        self._failed: dict[str, State] = {}

    @property
    def waiting(self) -> int:
        """Number of files that may still be written."""
        return len(self._waiting)

    def look(self) -> list[Input]:
        """The files to be annotated now, in order."""
        now, ready, waiting = time.monotonic(), list[Input](), dict[str, tuple[State, float]]()
        self._taken = {}
        for item in self._inputs:
            if item.kind != "file" or item.name in self._journal or (state := _state(item.place)) is None:
                continue
            name = utf8(item.name)
            if self._failed.get(name) == state:  # it is tried again once it changes, and at the next start
                continue
            before, since = self._waiting.get(name, (None, now))
            if before == state and now - since >= self._settle:
                ready.append(item)
                self._taken[name] = state
            else:
                waiting[name] = state, since if before == state else now
        self._waiting = waiting
        return ready

    def failed(self, name: str) -> None:
        """Leave a file alone until it is another than it was at the last look."""
        if (state := self._taken.get(utf8(name))) is not None:
            self._failed[utf8(name)] = state


def watch_folder(
    model: WordModel,
    folder: str | Path,
    journal: Journal,
    k: int | None = None,
    *,
    stop: threading.Event,
    threshold: float | None = None,
    selection: Selection | None = None,
    tags: TagWriter | None = None,
    glob: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    settle: float = 2.0,
    decode: str = "cpu",
    tell: Callable[[int, list[ImageFailure]], None] | None = None,
) -> None:
    """Annotate the images in ``folder``, and those that arrive in it, until ``stop`` is set; the batch under way is finished.

    Tags are written first and then the row, which says that they are: a stop in between has them written again, as they are. An
    image whose tags cannot be written has an entry in the ledger and no row. A file is known by its name: one that is replaced is
    not annotated again.

    Args:
        model: fitted.
        journal: open.
        k, threshold: as in :meth:`gpuannot.Annotator.annotate`.
        selection: which of those words are written.
        tags: writes them beside the images too.
        glob, exclude: as of :class:`~gpuannot.Inputs`.
        settle: seconds for which a file has to stay as it is before it is read.
        decode: as in :meth:`gpuannot.Annotator.batch`.
        tell: is told, after each batch, how many rows there are in all, and what failed in it.
    """
    arrivals = Arrivals(Inputs(folder, glob=glob, exclude=exclude), journal, settle)
    with closing(_wakes(folder, stop, settle)) as wakes:
        looked, heard = -_LOOK_AGAIN, True
        for changes in wakes:
            heard = heard or changes
            due = time.monotonic() - looked
            if stop.is_set() or due < min(settle, 1) or not (heard or arrivals.waiting or due >= _LOOK_AGAIN):
                continue
            looked, heard = time.monotonic(), False
            if not (ready := arrivals.look()):
                continue
            parts = annotate_stream(model, ready, k, threshold=threshold, decode=decode, progress=False)
            for part in parts:
                failures = _note(part if selection is None else selection(part), journal, tags)
                for failure in failures:
                    arrivals.failed(failure.path)
                if tell is not None:
                    tell(len(journal), failures)
                if stop.is_set():
                    break
            parts.close()  # type: ignore[attr-defined]


def _note(part: Annotations, journal: Journal, tags: TagWriter | None) -> list[ImageFailure]:
    """Write tags and rows of a batch; returns what failed."""
    failures = [failure for failure in part.failures if failure.stage != "find" or os.path.lexists(failure.path)]
    if tags is not None:
        tags.write(part)
        unwritten, tags.failures = tags.failures, []
        failures += unwritten
    lost = {failure.path for failure in failures}
    journal.add([row for row in rows(part.by_confidence(), journal.model) if row["path"] not in lost], failures)
    return failures


def _wakes(folder: str | Path, stop: threading.Event, settle: float) -> Generator[bool]:
    """Whether something has changed, at once when it has and else every ``settle`` seconds, until ``stop`` is set."""
    pause = max(settle, 0.05)
    try:
        for changes in watch(
            folder,
            watch_filter=None,
            debounce=int(1000 * max(pause, 0.1)),
            rust_timeout=int(1000 * pause),
            yield_on_timeout=True,
            stop_event=stop,
            raise_interrupt=False,
            ignore_permission_denied=True,
        ):
            yield bool(changes)
    except (OSError, RuntimeError):  # no more watches, or a file system without them
        while not stop.wait(pause):
            yield True


def _state(path: str) -> State | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino
