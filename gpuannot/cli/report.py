"""``gpuannot report``, and ``--report`` of other commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvalidArgumentError, counted
from .commands import command_line
from .exit import errors_to_exit_code, exit_for, notes, tell_left_out, tell_skipped
from .opening import open_model
from .options import (
    Column,
    Convention,
    Device,
    Exclude,
    FoldCase,
    Glob,
    K,
    Overwrite,
    Progress,
    SkipLabelled,
    Threshold,
    Weights,
    check_some_left,
    refuse,
    search_for,
)
from .tables import plain

if TYPE_CHECKING:
    from ..annotator import Annotator
    from ..datasets.label_files import LabelledImages
    from ..images.inputs import Inputs
    from ..model.annotations import Annotations

ReportTo = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE.html", help="Also write a page to look at: images, words, where each was seen, scores."),
]


@errors_to_exit_code
def report(
    source: Annotated[
        Path,
        typer.Argument(
            help="A model written by 'gpuannot fit'; or annotations that 'annotate -o' wrote: a file, or a folder of parts.",
            show_default=False,
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Argument(
            help="With a model: a label file or a folder with one, or any images that 'annotate' takes.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[Path, typer.Option("-o", "--output", help="The page to write (.html).")] = Path("report.html"),
    k: K = None,
    threshold: Threshold = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="With annotations: a label file or a folder with one, to show which words were right.", show_default=False
        ),
    ] = None,
    fold_case: FoldCase = False,
    heatmaps: Annotated[
        bool, typer.Option("--heatmaps/--no-heatmaps", help="With a model: show where words were seen; doubles the time.")
    ] = True,
    limit: Annotated[
        int, typer.Option(min=1, help="Most images to show, evenly spaced over all; the numbers count every image.")
    ] = 10_000,
    title: Annotated[str | None, typer.Option(help="Title of the page.", show_default=False)] = None,
    glob: Glob = None,
    exclude: Exclude = None,
    column: Column = None,
    skip_labelled: SkipLabelled = None,
    overwrite: Overwrite = False,
    weights: Weights = None,
    weights_convention: Convention = None,
    device: Device = "auto",
    progress: Progress = None,
) -> None:
    """Write one HTML page of annotated images: pictures, words, where each word was seen, precision and recall.

    The page needs no network and no other file. Words are marked right, wrong or missed where labels say what is true.
    """
    from ..report.build import report_files, report_images
    from ..report.writer import check_report_path

    check_report_path(to, overwrite)
    if source.suffix != ".safetensors":
        if data:
            raise InvalidArgumentError(
                f"{source} holds annotations, so the images are known; leave out {data[0]}, or give a model in its place"
            )
        of_models = {
            "words": k, "threshold": threshold, "no-heatmaps": not heatmaps, "glob": glob, "exclude": exclude, "column": column,
            "skip-labelled": skip_labelled, "weights": weights, "convention": weights_convention, "device": device != "auto",
        }  # fmt: skip
        refuse(of_models, f"goes with a model: {source} already says which words which images were given")
        if labels is None:
            refuse({"fold-case": fold_case}, "goes with labels; name them with --labels")
        title = title or f"Annotations of {source.name}"
        report_files(
            source, to, labels=_labels(labels, fold_case), fold_case=fold_case, title=title, limit=limit, overwrite=overwrite,
            progress=progress,
        )  # fmt: skip
        notes.print(f"{plain(to)}: written")
        return
    if labels is not None:
        raise InvalidArgumentError("--labels goes with annotations; with a model give the label file itself in place of the images")
    if not data:
        raise InvalidArgumentError(f"images to annotate with {source} are missing: {command_line('report', source, 'IMAGES')}")
    from ..datasets.label_words import without_case
    from ..images.inputs import Inputs

    search = search_for(data, glob, exclude, column, skip_labelled)
    found = search if skip_labelled is not None else labelled_or_inputs(data, search, fold_case)
    if isinstance(found, Inputs):
        refuse({"fold-case": fold_case}, f"goes with labels, and {data[0]} is no label file or folder with one")
    else:
        refuse({"glob": glob, "exclude": exclude, "column": column}, f"goes with images, and {data[0]} is taken for labels")
    annotator = open_model(source, weights, weights_convention, device)
    if isinstance(found, Inputs):
        images: Any = list(found)
        check_some_left(found, images, skip_labelled)
    else:
        images = without_case(found, annotator.vocabulary) if fold_case else found
    title = title or f"Words of {Path(data[0]).name}" + (f" and {len(data) - 1} more" if len(data) > 1 else "")
    failures = report_images(
        annotator, images, to, k, threshold=threshold, heatmaps=heatmaps, title=title, limit=limit, overwrite=overwrite,
        progress=progress,
    )  # fmt: skip
    missing = [] if isinstance(found, Inputs) else list(found.missing)
    notes.print(f"{plain(to)}: {counted(len(images) - len(failures), 'image')}")
    if isinstance(found, Inputs):
        tell_left_out(found.left_out)
        tell_skipped(found.skipped, skip_labelled)
    elif found.unlabelled:
        notes.print(f"{counted(found.unlabelled, 'image')} without labels left out")
    exit_for([*missing, *failures], done=len(images) - len(failures))


@contextmanager
def reporting(
    path: Path | None,
    annotator: Annotator,
    sources: Sequence[Any],
    *,
    labelled: LabelledImages | None = None,
    title: str,
    overwrite: bool = False,
) -> Iterator[Callable[[Iterable[Annotations]], Iterable[Annotations]]]:
    """What annotations of ``sources`` must pass through to be in the report that ends the block; nothing without a path."""
    if path is None:
        yield iter
        return
    from ..report.build import truth_of
    from ..report.writer import ReportWriter

    truth, vocabulary = (None, annotator.vocabulary) if labelled is None else truth_of(labelled, annotator.vocabulary)
    with ReportWriter(path, vocabulary, len(sources), truth=truth, annotator=annotator, title=title, overwrite=overwrite) as writer:
        yield lambda parts: writer.passing(parts, sources)
        if writer.annotated:
            writer.commit()
            notes.print(f"{plain(path)}: written")


def labelled_or_inputs(data: list[str], inputs: Inputs, fold_case: bool = False) -> LabelledImages | Inputs:
    """Labelled images where ``data`` is one label file or a folder with one, else ``inputs``."""
    from ..datasets.label_files import find_label_file, load_labelled_images

    path = find_label_file(data[0]) if len(data) == 1 else None
    return inputs if path is None else load_labelled_images(path, fold_case=fold_case)


def _labels(path: Path | None, fold_case: bool) -> LabelledImages | None:
    from ..datasets.label_files import load_labelled_images

    return None if path is None else load_labelled_images(path, fold_case=fold_case)
