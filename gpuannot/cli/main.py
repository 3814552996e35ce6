"""The command line. Exit codes: 0 done, 1 done but some inputs failed, 2 wrong usage or nothing could be done, 70 a bug."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InvalidArgumentError
from ..system.version import __version__
from .commands import add_command
from .demo import demo, info
from .evaluate import evaluate
from .exit import errors, errors_to_exit_code, exit_for, notes, tell_left_out
from .explain import explain
from .fit import fit
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
    PartFormat,
    PartSize,
    Processes,
    Progress,
    Resume,
    RetryFailed,
    Scheduler,
    Sources,
    Threads,
    Threshold,
    Vectors,
    Weights,
    Workers,
)
from .report import ReportTo, report, reporting
from .reproduce import reproduce
from .tables import output, plain
from .trunks import trunks
from .tune import tune
from .words import app as words_app

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Give images words from your own vocabulary, learnt from labelled examples without training a network.",
    epilog="Exit codes: 0 done, 1 some inputs failed (they are listed), 2 wrong usage or nothing could be done, "
    "70 a bug in gpuannot, 130 or 143 stopped by Ctrl-C or SIGTERM.",
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
    part_format: PartFormat = None,
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
    """
    from ..annotator import Annotator
    from ..images.inputs import Inputs
    from ..report.build import report_files
    from ..report.writer import check_report_path
    from . import annotate as annotating

    of_folders = {
        "resume": resume, "retry_failed": retry_failed, "extend": extend,
        "format": part_format and part_format.value, "part_size": part_size, "vectors": vectors,
        "on_error": on_error and on_error.value, "max_failures": max_failures, "threads": threads,
        "workers": workers, "scheduler": scheduler, "dashboard": dashboard,
        "processes": processes, "decode": decode and decode.value,
    }  # fmt: skip
    given = {name: value for name, value in of_folders.items() if value is not None and value is not False}
    folder = to is not None and annotating.is_folder(to)
    if given and not folder:
        raise InvalidArgumentError(f"--{next(iter(given)).replace('_', '-')} needs a folder for the output: --output NAME/")
    if overwrite and (resume or retry_failed or extend):
        raise InvalidArgumentError("--resume, --retry-failed and --extend go on with a run, --overwrite replaces it: choose one")
    if report is not None:
        check_report_path(report, overwrite)
    search = Inputs(inputs, glob=glob or (), exclude=exclude or (), column=column)
    annotator = Annotator.load(model, weights=weights, weights_convention=weights_convention, device=device)
    _, least = annotator.words.check_giving(k, threshold)
    if least is not None and threshold is None:
        notes.print(f"words of a confidence of {least:.2f} or more, as the fit chose, one at least; --words fixes their number")
    if to is not None and folder:
        done, failed, shown = annotating.to_folder(
            annotator, search, k, to, as_json, overwrite=overwrite, threshold=threshold, progress=progress, **given
        )
        if report is not None and done:
            report_files(to, report, annotator=annotator, title=f"Words of {inputs[0]}", overwrite=overwrite, progress=progress)
            notes.print(f"{plain(report)}: written")
        exit_for(shown, done=done, failed=failed)
        return
    sources = list(search)
    with reporting(report, annotator, sources, title=f"Words of {inputs[0]}", overwrite=overwrite) as passing:
        where = "cpu" if to is None else "auto"
        parts = passing(annotator.stream(sources, k, threshold=threshold, decode=where, progress=progress))
        if to is None:
            failures = annotating.to_terminal(annotator, parts, as_json)
        else:
            failures = annotating.to_file(annotator, parts, Path(to), overwrite, as_json)
    tell_left_out(search.left_out)
    exit_for(failures, done=len(sources) - len(failures))


# In the order in which they are wanted.
for command in (fit, annotate, evaluate, report, explain, tune, reproduce, demo, info, trunks):
    add_command(app, command)
app.add_typer(words_app, name="words")


def main() -> None:
    """Entry point of the ``gpuannot`` command."""
    app()


if __name__ == "__main__":
    main()
