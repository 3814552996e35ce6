"""The command line. Exit codes: 0 done, 1 done but some inputs failed, 2 wrong usage or nothing could be done, 70 a bug."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InvalidArgumentError, counted
from ..system.version import __version__
from .commands import add_command, tell_next
from .demo import demo, info
from .exit import errors, errors_to_exit_code, exit_for, tell_left_out
from .explain import explain
from .options import (
    AsJson,
    Column,
    ConfigFile,
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
    Objective,
    OnErrorOption,
    Overwrite,
    PartFormat,
    PartSize,
    Preset,
    Processes,
    Progress,
    Resume,
    RetryFailed,
    Scheduler,
    Seed,
    Settings,
    Sources,
    Threads,
    Threshold,
    Vectors,
    Weights,
    Workers,
    check_output,
)
from .report import ReportTo, report, reporting
from .reproduce import reproduce
from .tables import chosen_line, output, plain, reliability_table, scores_table, some
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
def fit(
    data: Annotated[
        Path,
        typer.Argument(
            help="A label file (.json, .csv, .tsv, .jsonl), a folder with labels.json or labels.csv, or a folder with a subfolder "
            "of images for each word.",
            show_default=False,
        ),
    ],
    model: Annotated[Path, typer.Option("-o", "--output", help="Model file to write (.safetensors).")] = Path("model.safetensors"),
    preset: Preset = None,
    config_file: ConfigFile = None,
    objective: Objective = None,
    weights: Weights = None,
    weights_convention: Convention = None,
    seed: Seed = None,
    settings: Settings = None,
    overwrite: Overwrite = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    dashboard: Dashboard = False,
    device: Device = "auto",
    progress: Progress = None,
) -> None:
    """Learn words from labelled images and write a model.

    JSON label file: {"samples": [{"image_name": "a.jpg", "image_labels": ["sky", "sea"]}, …]}, or COCO annotations. CSV, TSV and
    JSON lines: columns 'image' and 'words' (or names like them), several words separated by ';'; or a column of 0 and 1 for each
    word. Image names are paths relative to the label file or to its subfolder 'images'.
    """
    from ..annotator import Annotator
    from ..datasets.label_files import load_labelled_images
    from .settings import config_from_options

    config = config_from_options(preset, weights, weights_convention, seed, settings, config_file, objective)
    if model.is_dir() or model.suffix != ".safetensors":
        better = model / "model.safetensors" if model.is_dir() else model.with_suffix(".safetensors")
        raise InvalidArgumentError(f"{model}: a model is one .safetensors file; write it for example to --output {better}")
    check_output(model, overwrite)
    images = load_labelled_images(data)
    if not images.labels.nnz:
        raise InvalidArgumentError(
            f"{data}: not one of its {counted(len(images), 'image')} carries a word, so there is nothing to learn"
        )
    annotator = Annotator(config, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the failures are listed below
        annotator.fit(
            images.paths, images.labels, vocabulary=images.vocabulary, progress=progress, workers=workers, scheduler=scheduler,
            dashboard=dashboard,
        )  # fmt: skip
    annotator.save(model)
    failures = [*images.missing, *annotator.failures_]
    used = len(images) - len(annotator.failures_)
    without = [word for word, count in zip(annotator.vocabulary, annotator.bank_.counts, strict=True) if not count]
    errors.print(f"{plain(model)}: {counted(len(annotator.bank_.known), 'word')} from {counted(used, 'image')}")
    if (line := chosen_line(annotator)) is not None:
        errors.print(line)
    if images.subfolders:
        errors.print(f"the words are the names of the subfolders of {plain(data)}: {plain(some(images.vocabulary))}")
    if images.unlabelled:
        are = counted(
            images.unlabelled, "image beside the label file or subfolders is", "images beside the label file or subfolders are"
        )
        errors.print(f"{are} not labelled and left out")
    tell_left_out(images.left_out)
    if without:
        have = counted(len(without), "word has", "words have")
        errors.print(f"[yellow]{have} no image and cannot be given:[/] {plain(some(without))}")
    tell_next(errors, "annotate", model, "IMAGES")
    exit_for(failures, done=used)


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

    A row an image: its path, its words (nearest first), their distances, with the head ridge their confidences, and the model's
    hash. Inputs that cannot be read get no row and never stop the others; they are listed with the reason: with an output
    file in OUTPUT.failures.jsonl, with a folder in its subfolder _failures. A folder also gets _summary.json with counts and
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
        errors.print(f"words of a confidence of {least:.2f} or more, as the fit chose, one at least; --words fixes their number")
    if to is not None and folder:
        done, failed, shown = annotating.to_folder(
            annotator, search, k, to, as_json, errors, overwrite=overwrite, threshold=threshold, progress=progress, **given
        )
        if report is not None and done:
            report_files(to, report, annotator=annotator, title=f"Words of {inputs[0]}", overwrite=overwrite, progress=progress)
            errors.print(f"{plain(report)}: written")
        exit_for(shown, done=done, failed=failed)
        return
    sources = list(search)
    with reporting(report, annotator, sources, title=f"Words of {inputs[0]}", overwrite=overwrite) as passing:
        where = "cpu" if to is None else "auto"
        parts = passing(annotator.stream(sources, k, threshold=threshold, decode=where, progress=progress))
        if to is None:
            failures = annotating.to_terminal(annotator, parts, as_json)
        else:
            failures = annotating.to_file(annotator, parts, Path(to), overwrite, as_json, errors)
    tell_left_out(search.left_out)
    exit_for(failures, done=len(sources) - len(failures))


@errors_to_exit_code
def evaluate(
    model: Model,
    data: Annotated[Path, typer.Argument(help="Labelled test images, in the forms that 'fit' takes.", show_default=False)],
    k: K = None,
    threshold: Threshold = None,
    report: ReportTo = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    weights: Weights = None,
    weights_convention: Convention = None,
    device: Device = "auto",
    progress: Progress = None,
) -> None:
    """Annotate labelled images and score the words given.

    Precision and recall are means over all words of the vocabulary (0 for words never given), F1 is that of the two means ± its
    standard error (bootstrap over the images), N+ the number of words given correctly at least once. With confidences, a table
    says how many of the words of about each confidence were right, and the mean gap, the expected calibration error.
    """
    from ..annotator import Annotator
    from ..datasets.label_files import load_labelled_images
    from ..experiments.bootstrap import resample
    from ..method.labels import label_matrix
    from ..metrics import evaluate as score
    from ..metrics import reliability
    from ..model.annotations import Annotations
    from ..report.writer import check_report_path

    if report is not None:
        check_report_path(report, overwrite)
    images = load_labelled_images(data)
    annotator = Annotator.load(model, weights=weights, weights_convention=weights_convention, device=device)
    with reporting(report, annotator, images.paths, labelled=images, title=f"Evaluation on {data}", overwrite=overwrite) as passing:
        parts = list(passing(annotator.stream(images.paths, k, threshold=threshold, progress=progress)))
    annotations = Annotations.joined(parts, annotator.vocabulary, annotator.words.check_giving(k, threshold)[0])
    failures = [*images.missing, *annotations.failures]
    if not len(annotations):
        exit_for(failures, done=0)
    words = [[images.vocabulary[word] for word in images.labels[[row]].indices] for row in annotations.positions]
    truth, vocabulary = label_matrix(words, annotator.vocabulary, extend=True)
    unknown = vocabulary[len(annotator.vocabulary) :]
    if unknown:
        are = counted(len(unknown), "word is unknown to the model and counts", "words are unknown to the model and count")
        errors.print(f"[yellow]{are} as missed:[/] {plain(some(unknown))}")
    scores, f1_error = score(annotations.index, truth), resample(annotations.index, truth).standard_errors()["f1"]
    true = None if annotations.confidence is None else reliability(annotations.confidence, annotations.index, truth)
    if as_json:
        content = {**scores.to_dict(), "f1_error": f1_error, "failed": len(failures)}
        typer.echo(json.dumps({**content, **({} if true is None else {"reliability": true.to_dict()})}, indent=2))
    else:
        output.print(scores_table(scores, f1_error=f1_error))
        if true is not None:
            output.print(reliability_table(true))
    exit_for(failures, done=len(annotations))


# In the order in which they are wanted.
for command in (fit, annotate, evaluate, report, explain, tune, reproduce, demo, info):
    add_command(app, command)
app.add_typer(words_app, name="words")


def main() -> None:
    """Entry point of the ``gpuannot`` command."""
    app()


if __name__ == "__main__":
    main()
