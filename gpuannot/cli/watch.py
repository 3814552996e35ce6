"""``gpuannot watch``: words for images as they arrive in a folder."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DataError, InvalidArgumentError, counted
from .exit import errors, errors_to_exit_code, notes
from .options import Convention, Device, Exclude, Glob, K, Model, Threshold, Weights
from .tables import plain, printable
from .writing import ExcludeWords, FormatOption, Hierarchy, Into, WholeNames, WordThresholds, Writing, selection_of

if TYPE_CHECKING:
    from ..images.decode_task import ImageFailure


@errors_to_exit_code
def watch(
    model: Model,
    folder: Annotated[Path, typer.Argument(help="The folder to watch, with those below it.", show_default=False)],
    to: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="JSON lines: gets a row for each image, and says after a stop what is done.",
            show_default=False,
        ),
    ],
    format: FormatOption = None,
    k: K = None,
    threshold: Threshold = None,
    word_thresholds: WordThresholds = None,
    exclude_words: ExcludeWords = None,
    into: Into = None,
    whole_names: WholeNames = False,
    hierarchy: Hierarchy = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="txt: replace captions that are there.")] = False,
    glob: Glob = None,
    exclude: Exclude = None,
    settle: Annotated[
        float, typer.Option(min=0.05, metavar="SECONDS", help="How long a file has to stay as it is before it is read.")
    ] = 2.0,
    weights: Weights = None,
    weights_convention: Convention = None,
    device: Device = "auto",
) -> None:
    """Give words to the images in a folder, and to those that arrive in it, until it is stopped.

    With --format xmp or txt the words also go beside the images. Ctrl-C or SIGTERM finishes the batch under way and ends with the
    exit code 0; whatever stops it, the next start goes on where it stopped, and no image gets a second row. What fails is in
    OUTPUT.failures.jsonl, and is tried again when the file changes and at the next start.
    """
    from ..annotator import Annotator
    from ..jobs.journal import Journal
    from ..jobs.watch import watch_folder
    from ..jobs.writers import Selection

    writing = Writing(format, selection_of(threshold, word_thresholds, exclude_words), into, whole_names, hierarchy, overwrite)
    if writing.kind == "document" or (format is not None and writing.kind == "rows" and format.value != "jsonl"):
        raise InvalidArgumentError(f"watch writes rows (jsonl), and beside images xmp or txt; for {format} 'gpuannot export' {to}")
    if model.is_dir() and folder.suffix == ".safetensors":
        raise InvalidArgumentError(f"the model comes first, as everywhere: gpuannot watch {folder} {model}")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder to watch")
    annotator = Annotator.load(model, weights=weights, weights_convention=weights_convention, device=device)
    _, least = annotator.words.check_giving(k, threshold)
    writing.selection.check(annotator.vocabulary, annotator.words.has_confidence)
    selection = Selection(least, writing.selection.of_words, writing.selection.exclude)
    sha256 = annotator.to_model_file().sha256
    with Journal(to, sha256) as journal, _stopping() as stop:
        before = len(journal)
        notes.print(f"watching {plain(folder)}; {counted(before, 'image')} done before; Ctrl-C stops")
        watch_folder(
            annotator.words, folder, journal, k, stop=stop, threshold=selection.least, selection=selection,
            tags=writing.tag_writer(sha256) if writing.kind == "tags" else None, glob=tuple(glob or ()),
            exclude=tuple(exclude or ()), settle=settle, tell=_tell,
        )  # fmt: skip
        notes.print(f"{plain(to)}: {counted(len(journal) - before, 'image')} annotated, {len(journal.failures)} failed; stopped")


def _tell(done: int, failures: list[ImageFailure]) -> None:
    notes.print(f"{counted(done, 'image')} done")
    for failure in failures:
        errors.print(f"[yellow]failed:[/] {plain(printable(failure.path))}: {plain(printable(failure.reason))}")


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; a second one interrupts."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():  # where Python does not set handlers
        yield stop
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
