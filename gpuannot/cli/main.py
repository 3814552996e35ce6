"""The command line. Exit codes: 0 done, 1 done but some inputs failed, 2 wrong usage or nothing could be done, 70 a bug."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InvalidArgumentError
from ..system.version import __version__
from .audit import audit
from .commands import add_command
from .demo import demo, info
from .evaluate import evaluate
from .exit import errors, errors_to_exit_code, exit_for, notes, tell_left_out, tell_skipped
from .explain import explain
from .export import export, untag
from .fit import fit
from .learn import learn
from .opening import open_model
from .options import (
    AsJson,
    Column,
    Convention,
    Dashboard,
    DecodeOption,
    Device,
    Exclude,
    Extend,
    Glob,
    K,
    MaxFailures,
    Model,
    OnErrorOption,
    Overwrite,
    PartSize,
    Processes,
    Progress,
    Resume,
    RetryFailed,
    Scheduler,
    SkipLabelled,
    Sources,
    Threads,
    Threshold,
    Vectors,
    Weights,
    Workers,
    check_some_left,
    search_for,
)
from .report import ReportTo, report, reporting
from .reproduce import reproduce
from .tables import output, plain
from .trunks import trunks
from .tune import tune
from .watch import watch
from .words import app as words_app
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
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Give images words from your own vocabulary, learnt from labelled examples without training a network.",
    epilog="Exit codes: 0 done, 1 some inputs failed (they are listed), 2 wrong usage or nothing could be done, "
    "70 a bug in gpuannot, 130 or 143 stopped by Ctrl-C or SIGTERM (watch: 0).",
)


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        output.print(f"gpuannot {__version__}")
        raise typer.Exit
    warnings.showwarning = lambda message, *_, **__: errors.print(f"[yellow]warning:[/] {plain(message)}")


@errors_to_exit_code
def annotate(
    model: Model,
    inputs: Sources,
    k: K = None,
    threshold: Threshold = None,
    to: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="A file to write (.parquet, .jsonl, .csv), or for many images a folder (a name without suffix, or with a / at its "
            "end) that gets parts and can be resumed. Without it, words are printed.",
        ),
    ] = None,
    resume: Resume = False,
    retry_failed: RetryFailed = False,
    extend: Extend = False,
    overwrite: Overwrite = False,
    glob: Glob = None,
    exclude: Exclude = None,
    column: Column = None,
    skip_labelled: SkipLabelled = None,
    format: FormatOption = None,
    word_thresholds: WordThresholds = None,
    exclude_words: ExcludeWords = None,
    into: Into = None,
    whole_names: WholeNames = False,
    hierarchy: Hierarchy = False,
    relative_to: RelativeTo = None,
    prefix: Prefix = None,
    dry_run: DryRun = False,
    part_size: PartSize = None,
    vectors: Vectors = False,
    on_error: OnErrorOption = None,
    max_failures: MaxFailures = None,
    threads: Threads = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    dashboard: Dashboard = False,
    processes: Processes = None,
    decode: DecodeOption = None,
    report: ReportTo = None,
    as_json: AsJson = False,
    weights: Weights = None,
    weights_convention: Convention = None,
    device: Device = "auto",
    progress: Progress = None,
) -> None:
    """Give words to images, few or millions.

    A row an image: its path, its words (likeliest first), their distances, with the heads ridge and kernel their confidences, and
    the model's hash. Inputs that cannot be read get no row and never stop the others; they are listed with the reason: with an
    output file in OUTPUT.failures.jsonl, with a folder in its subfolder _failures. A folder also gets _summary.json with counts and
    timings.

    With --format xmp or txt the words go beside the images; with --output as well, they are kept there first, as 'gpuannot export'
    reads them, and a folder makes that run one that can be resumed.
    """
    from . import annotate as annotating

    of_folders = {
        "resume": resume, "retry_failed": retry_failed, "extend": extend,
        "part_size": part_size, "vectors": vectors,
        "on_error": on_error and on_error.value, "max_failures": max_failures, "threads": threads,
        "workers": workers, "scheduler": scheduler, "dashboard": dashboard,
        "processes": processes, "decode": decode and decode.value,
    }  # fmt: skip
    given = {name: value for name, value in of_folders.items() if value is not None and value is not False}
    folder = to is not None and annotating.is_folder(to)
    selection = selection_of(threshold, word_thresholds, exclude_words)
    writing = Writing(format, selection, into, whole_names, hierarchy, overwrite, dry_run, relative_to, prefix)
    if writing.kind == "rows" and format is not None:
        given["format"] = format.value
    if given and not folder:
        raise InvalidArgumentError(f"--{next(iter(given)).replace('_', '-')} needs a folder for the output: --output NAME/")
    annotating.check_writing(writing, to, folder)
    if overwrite and (resume or retry_failed or extend):
        raise InvalidArgumentError("--resume, --retry-failed and --extend go on with a run, --overwrite replaces it: choose one")
    if report is not None:
        from ..report.writer import check_report_path

        check_report_path(report, overwrite)
    search = search_for(inputs, glob, exclude, column, skip_labelled)
    annotator = open_model(model, weights, weights_convention, device)
    _, least = annotator.words.check_giving(k, threshold)
    selection.check(annotator.vocabulary, annotator.words.has_confidence)
    if least is not None and threshold is None:
        notes.print(f"words of a confidence of {least:.2f} or more, as the fit chose, one at least; --words fixes their number")
    if to is not None and folder:
        done, failed, shown = annotating.to_folder(
            annotator, search, k, to, as_json, overwrite=overwrite, threshold=threshold, progress=progress, **given
        )
        tell_skipped(search.skipped, skip_labelled)
        if writing.kind == "tags" and done:
            unwritten, done = annotating.tags_of(to, writing, as_json, progress)
            shown, failed = [*shown, *unwritten], failed + len(unwritten)
        if report is not None and done:
            from ..report.build import report_files

            report_files(to, report, annotator=annotator, title=f"Words of {inputs[0]}", overwrite=overwrite, progress=progress)
            notes.print(f"{plain(report)}: written")
        exit_for(shown, done=done, failed=failed)
        return
    sources = list(search)
    check_some_left(search, sources, skip_labelled)
    with reporting(report, annotator, sources, title=f"Words of {inputs[0]}", overwrite=overwrite) as passing:
        where = "cpu" if to is None else "auto"
        parts = passing(annotating.selected(annotator, sources, k, least, selection, decode=where, progress=progress))
        if to is not None:
            failures = annotating.to_file(annotator, parts, Path(to), writing, as_json)
        elif writing.kind == "tags":
            failures = annotating.to_images(annotator, parts, writing, as_json)
        else:
            failures = annotating.to_terminal(annotator, parts, as_json)
    if to is not None and writing.kind == "tags" and len(failures) < len(sources):
        failures += annotating.tags_of(to, writing, as_json, progress)[0]
    tell_left_out(search.left_out)
    tell_skipped(search.skipped, skip_labelled)
    exit_for(failures, done=len(sources) - len(failures))


# In the order in which they are wanted.
for command in (
    fit, annotate, export, watch, untag, evaluate, report, explain, audit, learn, tune, reproduce, demo, info, trunks,
):  # fmt: skip
    add_command(app, command)
app.add_typer(words_app, name="words")


def main() -> None:
    """Entry point of the ``gpuannot`` command."""
    app()


if __name__ == "__main__":
    main()
