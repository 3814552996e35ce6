"""``gpuannot export`` and ``untag``: words that a run has given, as files that other tools read, and sidecars without them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DataError, InvalidArgumentError, counted
from ..system.atomic_files import write_whole, writing_alone
from ..system.progress import progress_bar
from .exit import errors, errors_to_exit_code, exit_for, notes
from .options import AsJson, Overwrite, Progress
from .tables import plain, some
from .writing import (
    DryRun,
    ExcludeWords,
    FormatOption,
    Hierarchy,
    Into,
    Prefix,
    RelativeTo,
    WholeNames,
    WordThresholds,
    Writing,
    selection_of,
    tell_change,
)  # fmt: skip

if TYPE_CHECKING:
    from ..images.decode_task import ImageFailure
    from ..jobs.readers import AnnotationFiles
    from ..jobs.writers import TagWriter
    from ..model.annotations import Annotations


@errors_to_exit_code
def export(
    words: Annotated[
        Path, typer.Argument(help="What 'gpuannot annotate -o' wrote: a folder of parts, or a file.", show_default=False)
    ],
    format: FormatOption = None,
    to: Annotated[Path | None, typer.Option("-o", "--output", help="The file to write; not with xmp and txt.")] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Write words of at least this confidence, but one at least of each image.")
    ] = None,
    word_thresholds: WordThresholds = None,
    exclude_words: ExcludeWords = None,
    into: Into = None,
    whole_names: WholeNames = False,
    hierarchy: Hierarchy = False,
    relative_to: RelativeTo = None,
    prefix: Prefix = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    progress: Progress = None,
) -> None:
    """Write words that a run has given in another format: beside the images, or as one file for another tool.

    It may be stopped and started again: one file is written whole or not at all, and files beside images that are as they should be
    are left alone. What cannot be written is listed, with an output in OUTPUT.failures.jsonl, else beside the words.
    """
    from ..jobs.readers import AnnotationFiles

    selection = selection_of(threshold, word_thresholds, exclude_words)
    writing = Writing(format, selection, into, whole_names, hierarchy, overwrite, dry_run, relative_to, prefix)
    if writing.kind == "tags" and to is not None:
        raise InvalidArgumentError(f"--format {writing.format} writes beside the images, or with --into FOLDER there; leave out -o")
    if writing.kind != "tags" and to is None:
        raise InvalidArgumentError("name the file to write with -o, or a --format that goes beside the images, xmp or txt")
    if writing.kind == "rows" and to is not None and format is not None and to.suffix != f".{format.value}":
        raise InvalidArgumentError(f"--format {format.value} and -o {to} do not fit; the suffix alone says it")
    source = AnnotationFiles(words)
    absent = [word for word in (*selection.of_words, *selection.exclude) if word not in source.vocabulary]
    selection.check(
        (*source.vocabulary, *absent), source.confident
    )  # a run knows the words that it has given, not those of the model
    if absent:
        errors.print(f"[yellow]warning:[/] no image was given {plain(some(absent))}")
    if to is None:
        failures, done = export_tags(source, writing, as_json, progress)
    else:
        failures, done = _to_file(source, writing, to, as_json, progress)
    exit_for(failures, done=done)


def export_tags(source: AnnotationFiles, writing: Writing, as_json: bool, progress: bool | None) -> tuple[list[ImageFailure], int]:
    """Write tags from rows, and what fails into a ledger beside them; returns the failures, and how many were done."""
    writer = writing.tag_writer(source.model or "")
    for part in _parts(source, writing, progress):
        writer.write(part)
    if not writing.dry_run:
        run = source.path / "_failures"
        name = f"export-{writing.format}.jsonl"
        _note_failures(run / name if run.is_dir() else source.path.with_name(f"{source.path.name}.{name}"), writer.failures)
    tell_tags(writer, writing, as_json)
    return writer.failures, writer.changed + writer.unchanged


def tell_tags(writer: TagWriter, writing: Writing, as_json: bool) -> None:
    """Say how many files of tags there are."""
    would = "would change" if writing.dry_run else "written"
    changed, failed = counted(writer.changed, "file"), len(writer.failures)
    notes.print(f"{writing.format}: {changed} {would}, {writer.unchanged} as they were, {failed} failed")
    if as_json:
        counts = {"changed": writer.changed, "unchanged": writer.unchanged, "failed": len(writer.failures)}
        typer.echo(json.dumps({"format": writing.format, **counts}))


def _to_file(
    source: AnnotationFiles, writing: Writing, to: Path, as_json: bool, progress: bool | None
) -> tuple[list[ImageFailure], int]:
    from ..jobs.writers import AnnotationWriter

    options = {"model_sha256": source.model or "", "overwrite": writing.overwrite, "confidence": source.confident}
    with AnnotationWriter(to, **options, **writing.document_options()) as writer, writing_alone(to):  # type: ignore[arg-type]
        for part in _parts(source, writing, progress):
            writer.write(part)
        _note_failures(to.with_name(f"{to.name}.failures.jsonl"), writer.failures)
        writer.commit()
    notes.print(f"{plain(to)}: {counted(writer.rows, 'image')}, {len(writer.failures)} failed")
    if as_json:
        typer.echo(json.dumps({"output": str(to), "images": writer.rows, "failed": len(writer.failures)}))
    return list(writer.failures), writer.rows


def _parts(source: AnnotationFiles, writing: Writing, progress: bool | None) -> Iterator[Annotations]:
    with progress_bar("export", len(source), progress) as bar:
        for annotations, inputs in source:
            yield writing.selection(replace(annotations, names=tuple(item.name for item in inputs), failures=()))
            bar.update(len(annotations))


def _note_failures(ledger: Path, failures: Sequence[ImageFailure]) -> None:
    from ..jobs.writers import failure_lines

    if failures:
        write_whole(ledger, failure_lines(failures).encode())
        notes.print(f"{plain(ledger)}: the failures and their reasons")
    else:
        ledger.unlink(missing_ok=True)


@errors_to_exit_code
def untag(
    folder: Annotated[Path, typer.Argument(help="A folder of images with XMP sidecars.", show_default=False)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take out of the XMP sidecars in a folder, and below it, all words that gpuannot wrote.

    What others wrote stays. A sidecar in which nothing else is left is removed.
    """
    from ..images.decode_task import ImageFailure
    from ..jobs.writers.tags import remove_tags

    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    failures, changed = [], 0
    for path, change in remove_tags(folder, dry_run=dry_run):
        if isinstance(change, ImageFailure):
            failures.append(change)
            continue
        changed += 1
        if dry_run:
            tell_change(path, change)
    notes.print(
        f"{plain(folder)}: {counted(changed, 'sidecar')} {'would change' if dry_run else 'changed'}, {len(failures)} failed"
    )
    if as_json:
        typer.echo(json.dumps({"changed": changed, "failed": len(failures)}))
    exit_for(failures, done=1)
