"""Where ``gpuannot annotate`` puts the words: to the terminal, to one file, or to a folder of parts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import InvalidArgumentError, counted
from ..jobs.writers import FORMATS, AnnotationWriter, failure_lines, rows
from ..system.atomic_files import write_whole, writing_alone
from .exit import errors, notes, tell_left_out
from .tables import output, plain, printable

if TYPE_CHECKING:
    from ..annotator import Annotator
    from ..images.decode_task import ImageFailure
    from ..images.inputs import Inputs
    from ..jobs.writers import Selection
    from ..model.annotations import Annotations
    from .writing import Writing

_SHOWN = 10


def check_writing(writing: Writing, to: str | None, folder: bool) -> None:
    """Raise InvalidArgumentError for a format and an output that do not fit."""
    if writing.kind == "document" and (to is None or folder):
        raise InvalidArgumentError(
            f"--format {writing.format} writes one file: name it with -o; for a run that can be resumed, give 'gpuannot annotate' "
            "a folder without --format, and then 'gpuannot export' that folder"
        )
    if writing.dry_run and to is not None:
        raise InvalidArgumentError("--dry-run changes nothing, so there is nothing for -o to write")
    if writing.kind == "rows" and folder and (writing.selection.of_words or writing.selection.exclude):
        raise InvalidArgumentError(
            "a folder of parts keeps all words; give --exclude-words and --word-threshold to 'gpuannot export', or with a --format "
            "that goes beside the images"
        )


def selected(
    annotator: Annotator, sources: Any, k: int | None, least: float | None, selection: Selection, **options: Any
) -> Iterator[Annotations]:
    """Annotations batch by batch, with the words that are wanted.

    Args:
        least: confidence that words need by ``--threshold`` or the fit; None where any will do.
    """
    selection = replace(selection, threshold=least)
    if not (selection.of_words or selection.exclude):
        yield from annotator.stream(sources, k, threshold=least, **options)
        return
    for part in annotator.stream(sources, k, threshold=selection.least, **options):
        yield selection(part)


def to_images(annotator: Annotator, parts: Iterable[Annotations], writing: Writing, as_json: bool) -> list[ImageFailure]:
    """Write words beside images as they come; returns the failures."""
    from ..jobs.pipeline import write_in_background
    from .export import tell_tags

    writer = writing.tag_writer(annotator.to_model_file().sha256)
    failures: list[ImageFailure] = []
    with write_in_background(writer.write) as put:
        for part in parts:
            put(part)
            failures.extend(part.failures)
    tell_tags(writer, writing, as_json)
    return [*failures, *writer.failures]


def tags_of(to: str, writing: Writing, as_json: bool, progress: bool | None) -> tuple[list[ImageFailure], int]:
    """Write words beside images from the file or folder that has just been written."""
    from ..jobs.readers import AnnotationFiles
    from .export import export_tags

    return export_tags(AnnotationFiles(to), writing, as_json, progress)


def is_folder(to: str) -> bool:
    """Whether an output is a folder of parts: it ends in ``/``, or is a folder already, or has no suffix."""
    path = Path(to)
    return to.endswith(("/", os.sep)) or (path.suffix not in FORMATS and (path.is_dir() or not path.suffix))


def to_terminal(annotator: Annotator, parts: Iterable[Annotations], as_json: bool) -> list[ImageFailure]:
    """Print the words of each image as they come, on a terminal those that are weak in grey; returns the failures."""
    failures: list[ImageFailure] = []
    model, weak = annotator.to_model_file().sha256, annotator.words.ranker.weak_below(annotator.bank_)
    if weak is not None and output.is_terminal and not as_json:
        notes.print(f"words of a confidence below {weak:.2f} are [dim]dimmed[/]")
    for part in parts:
        for row in rows(part.by_confidence(), model):
            confidences = row.get("confidences") or [1.0] * len(row["words"])
            words = [
                typer.style(printable(word), dim=True) if weak is not None and confidence < weak else printable(word)
                for word, confidence in zip(row["words"], confidences, strict=True)
            ]
            # typer.echo, not rich, which breaks lines; it styles nothing that does not go to a terminal
            line = printable(row["path"]) + "\t" + ", ".join(words)
            typer.echo(json.dumps(row, ensure_ascii=False) if as_json else line)
        failures.extend(part.failures)
    return failures


def to_file(annotator: Annotator, parts: Iterable[Annotations], to: Path, writing: Writing, as_json: bool) -> list[ImageFailure]:
    """Write one file, whole or not at all, and before it a ledger beside it; returns the failures.

    Raises:
        OutputError: another run writes it.
    """
    from ..jobs.pipeline import write_in_background

    failures: list[ImageFailure] = []
    model, confidence = annotator.to_model_file().sha256, annotator.words.has_confidence
    ledger = to.with_name(to.name + ".failures.jsonl")
    options = {"model_sha256": model, "overwrite": writing.overwrite, "confidence": confidence, **writing.document_options()}
    with AnnotationWriter(to, **options) as writer, writing_alone(to):
        with write_in_background(writer.write) as put:
            for part in parts:
                put(part)
                failures.extend(part.failures)
        failures.extend(writer.failures)
        if failures:
            write_whole(ledger, failure_lines(failures).encode())
        writer.commit()
        if not failures:
            ledger.unlink(missing_ok=True)
    notes.print(f"{plain(to)}: {counted(writer.rows, 'image')} annotated, {len(failures)} failed")
    if as_json:
        typer.echo(json.dumps({"output": str(to), "annotated": writer.rows, "failed": len(failures)}))
    if failures:
        notes.print(f"{plain(ledger)}: the failures and their reasons")
    return failures


def to_folder(
    annotator: Annotator, inputs: Inputs, k: int | None, to: str, as_json: bool, **options: Any
) -> tuple[int, int, list[ImageFailure]]:
    """Write a folder of parts; returns how many inputs were done, how many failed, and the first of those."""
    from ..jobs.part_folder import PartFolder

    try:
        summary = annotator.batch(inputs, to, k, **options)
    except KeyboardInterrupt:
        whole, parts = PartFolder(to).progress()
        go_on = "--extend" if options.get("extend") else "--resume"
        errors.print(f"{plain(to)}: {whole} of {parts or '?'} parts are whole; go on with {go_on}")
        raise
    tell_left_out(summary.left_out)
    notes.print(
        f"{plain(to)}: {counted(summary.rows, 'image')} annotated, {summary.failures} failed; {counted(summary.parts, 'part')}, "
        f"{summary.parts_before} of them from before; {summary.images_per_second:.1f} images/s"
        + (f" from {summary.workers} workers" if summary.workers > 1 else "")
        + (f", limited by {summary.limited_by}" if summary.limited_by else "")
    )
    if as_json:
        typer.echo(json.dumps(summary.to_dict()))
    if summary.failures:
        notes.print(f"{plain(Path(to) / '_failures')}: the failures and their reasons; --retry-failed tries them again")
    return summary.rows, summary.failures, list(islice(PartFolder(to).failures(), _SHOWN))
