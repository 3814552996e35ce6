"""``gpuannot audit``: what is doubtful about labels, and labels made right after a review."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..errors import InvalidArgumentError, counted
from .commands import tell_next
from .exit import errors_to_exit_code, exit_for, notes
from .options import (
    ConfigFile,
    Convention,
    Device,
    FoldCase,
    KeywordPaths,
    Labels,
    LabelSource,
    MachineWords,
    MinCount,
    Overwrite,
    Preset,
    Progress,
    Seed,
    Settings,
    Weights,
    check_output,
    reading_again,
    refuse,
)
from .settings import config_from_options
from .tables import output, plain, printable

if TYPE_CHECKING:
    from ..datasets.label_files import LabelledImages
    from ..model.audit import Audit, Doubt

_ROWS, _LIMIT = 10, 1000  # of a table, of the page


@errors_to_exit_code
def audit(
    data: Annotated[Path, typer.Argument(help="Labelled images, as 'gpuannot fit' takes them.", show_default=False)],
    to: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Also write all that was found (.json); with --apply the label file.", show_default=False
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="FILE.html", help="Also write a page with the pictures, to review them.", show_default=False
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Encode with this model instead of fitting one to the images.", show_default=False),
    ] = None,
    save_model: Annotated[
        Path | None,
        typer.Option(metavar="FILE.safetensors", help="Keep the model that is fitted, for example for 'gpuannot learn'."),
    ] = None,
    apply: Annotated[
        Path | None,
        typer.Option(metavar="CORRECTIONS", help="Audit nothing: write the labels with the corrections that a review exported."),
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows of each table that is printed.")] = _ROWS,
    limit: Annotated[int, typer.Option(min=1, help="Most images that the page shows for review, doubtful ones first.")] = _LIMIT,
    labels: Labels = LabelSource.auto,
    hierarchy: KeywordPaths = False,
    machine_words: MachineWords = False,
    fold_case: FoldCase = False,
    min_count: MinCount = 1,
    preset: Preset = None,
    config_file: ConfigFile = None,
    seed: Seed = None,
    settings: Settings = None,
    overwrite: Overwrite = False,
    weights: Weights = None,
    weights_convention: Convention = None,
    device: Device = "auto",
    progress: Progress = None,
) -> None:
    """Find what is doubtful about labels: each image's words are predicted by all the other images.

    Words that are probably wrong, and words that are probably missing; images that are nearly the same and carry different words;
    words that are hardly told apart; words with too few images. One model is fitted to these images (preset 'best' unless told);
    that of --model encodes them, and its head learns them anew.
    """
    from ..datasets.label_files import load_labelled_images

    reading: dict[str, Any] = {
        "labels": labels.value,
        "hierarchy": hierarchy,
        "machine_words": machine_words,
        "fold_case": fold_case,
    }
    if apply is not None and (to is None or to.suffix.lower() != ".json"):
        raise InvalidArgumentError(f"--apply writes a label file: name it, such as --output {data.with_suffix('')}-corrected.json")
    for path in (report, save_model, to):
        if path is not None:
            _check_is_not_input(path, data)
            check_output(path, overwrite)
    of_fits = {"preset": preset, "config": config_file, "set": settings, "seed": seed, "save-model": save_model}
    of_encoding = {"weights": weights, "convention": weights_convention, "device": device != "auto"}
    shown = {"rows": rows != _ROWS, "limit": limit != _LIMIT}
    if apply is not None:
        of_audits = {"report": report, "model": model, **of_fits, "min-count": min_count != 1, **shown, **of_encoding}
        refuse(of_audits, "is for an audit, and --apply does none")
        assert to is not None
        _apply(data, apply, to, reading)
        return
    from ..annotator import Annotator
    from ..experiments.audit import audit_images
    from ..report.audited import write_audit
    from ..report.writer import check_report_path

    if report is not None:
        check_report_path(report, overwrite)
    else:
        refuse({"limit": shown["limit"]}, "is for the page; name it with --report")
    if model is not None:
        refuse(of_fits, "is for a model that is fitted here, and --model names one that is there")
    images = load_labelled_images(data, **reading, min_count=min_count)
    if model is not None:
        annotator = Annotator.load(model, weights=weights, weights_convention=weights_convention, device=device)
    else:
        start = "best" if preset is None and config_file is None else preset
        annotator = Annotator(config_from_options(start, weights, weights_convention, seed, settings, config_file), device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the failures are listed below
        found = audit_images(annotator, images, progress=progress)
    for table in _tables(found.audit, found.images, rows):
        output.print(table)
    if to is not None:
        from ..system.atomic_files import write_whole

        write_whole(to, (json.dumps(_content(found.audit, found.images), ensure_ascii=False, indent=1) + "\n").encode())
        notes.print(f"{plain(to)}: written")
    if save_model is not None:
        annotator.save(save_model)
        notes.print(f"{plain(save_model)}: written")
    if report is not None:
        write_audit(found.audit, found.images, annotator, report, title=f"Labels of {data.name}", limit=limit, overwrite=overwrite)
        notes.print(f"{plain(report)}: written")
        again = reading_again(labels, hierarchy, machine_words, fold_case)
        tell_next(notes, "audit", data, "--apply", "corrections.json", *again, "-o", "corrected.json")
    exit_for([*images.missing, *found.failures], done=len(found.images))


def _check_is_not_input(to: Path, data: Path) -> None:
    """Raise InvalidArgumentError for the file that the labels are read from, under any name: also with --overwrite it stays."""
    from ..datasets.label_files import find_label_file

    source = find_label_file(data)
    if source is not None and source.exists() and to.exists() and to.samefile(source):
        raise InvalidArgumentError(f"{to} is the label file itself, which is not replaced; choose another name with --output")


def _apply(data: Path, corrections: Path, to: Path, reading: dict[str, Any]) -> None:
    """Write a label file with the corrections."""
    from ..datasets.corrections import corrected, load_corrections, write_label_file
    from ..datasets.label_files import load_labelled_images

    images = load_labelled_images(data, **reading)
    words = corrected(images, found := load_corrections(corrections))
    write_label_file(to, images, words)
    notes.print(f"{plain(to)}: {counted(len(images), 'image')}, {len(found.paths)} of them reviewed")
    if images.missing:
        notes.print(f"{counted(len(images.missing), 'image')} that are not there left out")
    tell_next(notes, "fit", to)


def _tables(found: Audit, images: LabelledImages, rows: int) -> Iterator[Table | str]:
    names, words = images.image_names, images.vocabulary
    for what, doubts in (("wrong", found.wrong), ("missing", found.missing)):
        of = f" of {counted(images.labels.nnz, 'label')}" if what == "wrong" else ""
        cells = [(names[row], words[word], *(f"{100 * value:.1f}" for value in values)) for row, word, *values in doubts]
        headings: tuple[str, ...] = ("image", "word", "likely %", "where it is carried %")
        yield _table(f"words that are probably {what}: {len(doubts)}{of}", headings, cells, rows)
    pairs = []
    for alike in found.alike:
        only = (", ".join(words[word] for word in part) or "–" for part in alike.words)
        pairs.append((*(names[image] for image in alike.images), f"{alike.similarity:.3f}", *only))
    headings = ("image", "image", "similarity", "only the first", "only the second")
    yield _table(f"images that are nearly the same, with different words: {len(pairs)}", headings, pairs, rows)
    told = [
        (*(words[word] for word in pair.words), f"{100 * pair.told_apart:.0f}", *map(str, pair.images)) for pair in found.confused
    ]
    headings = ("word", "word", "told apart %", "images of the first alone", "of the second alone")
    yield _table(f"words that are hardly told apart (50 % is chance): {len(told)}", headings, told, rows)
    few = [(words[word], str(number)) for word, number in found.few]
    yield _table(f"words with too few images, not judged: {len(few)}", ("word", "images"), few, rows)


def _table(title: str, headings: Sequence[str], cells: Sequence[Sequence[str]], rows: int) -> Table | str:
    """The first rows; of nothing the title alone."""
    if not cells:
        return title
    table = Table(title=title + (f"; the first {rows}" if len(cells) > rows else ""), title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right" if heading.endswith("%") or heading in ("images", "similarity") else "left")
    for row in cells[:rows]:
        table.add_row(*map(plain, map(printable, row)))
    return table


def _content(found: Audit, images: LabelledImages) -> dict[str, Any]:
    """All that was found, by names."""
    from ..images.input import utf8

    names, words = [*map(utf8, images.image_names)], images.vocabulary

    def doubts(given: Sequence[Doubt]) -> list[dict[str, Any]]:
        return [
            {"image_name": names[row], "word": words[word], "probability": round(value, 4), "average": round(average, 4)}
            for row, word, value, average in given
        ]

    return {
        "schema": "gpuannot.audit/1",
        "images": len(images),
        "words": len(words),
        "labels": int(images.labels.nnz),
        "wrong": doubts(found.wrong),
        "missing": doubts(found.missing),
        "alike": [
            {
                "image_names": [names[image] for image in pair.images],
                "similarity": round(pair.similarity, 4),
                "words": [[words[word] for word in part] for part in pair.words],
            }
            for pair in found.alike
        ],
        "confused": [
            {"words": [words[word] for word in pair.words], "told_apart": round(pair.told_apart, 4), "images": pair.images}
            for pair in found.confused
        ],
        "few": [{"word": words[word], "images": number} for word, number in found.few],
    }
