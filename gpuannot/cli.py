"""The command line. Exit codes: 0 done, 1 done but some inputs failed, 2 wrong usage or nothing could be done."""

from __future__ import annotations

import json
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from . import __version__, cli_report
from .cli_exit import errors, errors_to_exit_code, exit_for
from .cli_explain import explain
from .cli_options import (
    AsJson,
    Column,
    ConfigFile,
    Convention,
    DecodeOption,
    Device,
    Exclude,
    Glob,
    K,
    MaxFailures,
    Model,
    OnErrorOption,
    Overwrite,
    PartFormat,
    PartSize,
    Preset,
    Processes,
    Progress,
    Resume,
    Scheduler,
    Seed,
    Settings,
    Sources,
    Threads,
    Threshold,
    Vectors,
    Weights,
    Workers,
)
from .cli_report import ReportTo, reporting
from .cli_tables import comparison_report, plain, reproduction_table, scores_table, some
from .cli_tune import tune
from .cli_words import app as words_app

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Give images words from your own vocabulary, learnt from labelled examples without training a network.",
    epilog="Exit codes: 0 done, 1 some inputs failed (they are listed), 2 wrong usage or nothing could be done, "
    "130 or 143 stopped by Ctrl-C or SIGTERM.",
)
# A table sent to a file or a pipe has no terminal to fit.
output = Console(highlight=False, soft_wrap=True, emoji=False, width=None if sys.stdout.isatty() else 160)


app.command()(explain)
app.command()(tune)
app.add_typer(words_app, name="words")


class Benchmark(StrEnum):
    corel5k = "corel5k"
    iaprtc12 = "iaprtc12"
    espgame = "espgame"


class Networks(StrEnum):
    none = "none"
    fixed = "fixed"
    all = "all"


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        output.print(f"gpuannot {__version__}")
        raise typer.Exit
    warnings.showwarning = lambda message, *_, **__: errors.print(f"[yellow]warning:[/] {plain(message)}")


@app.command()
@errors_to_exit_code
def fit(
    data: Annotated[
        Path,
        typer.Argument(
            help="A label file (.json or .csv), a folder with labels.json or labels.csv, or a folder with a subfolder of images "
            "for each word.",
            show_default=False,
        ),
    ],
    model: Annotated[Path, typer.Option("-o", "--output", help="Model file to write (.safetensors).")] = Path("model.safetensors"),
    preset: Preset = None,
    config_file: ConfigFile = None,
    weights: Weights = None,
    weights_convention: Convention = None,
    seed: Seed = None,
    settings: Settings = None,
    overwrite: Overwrite = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    device: Device = "auto",
    progress: Progress = None,
) -> None:
    """Learn words from labelled images and write a model.

    JSON label file: {"samples": [{"image_name": "a.jpg", "image_labels": ["sky", "sea"]}, …]}. CSV: columns 'image' and
    'words', several words separated by ';'. Image names are paths relative to the label file or to its subfolder 'images'.

    Then: gpuannot annotate model.safetensors IMAGES
    """
    from .annotator import Annotator
    from .cli_settings import config_from_options
    from .datasets import load_labelled_images

    config = config_from_options(preset, weights, weights_convention, seed, settings, config_file)
    if model.is_dir() or model.suffix != ".safetensors":
        better = model / "model.safetensors" if model.is_dir() else model.with_suffix(".safetensors")
        raise ValueError(f"{model}: a model is one .safetensors file; write it for example to --output {better}")
    if model.exists() and not overwrite:
        raise ValueError(f"{model} exists; choose another name with --output, or replace it with --overwrite")
    _check_folder_of(model)
    images = load_labelled_images(data)
    if not images.labels.nnz:
        raise ValueError(f"{data}: not one of its {len(images)} images carries a word, so there is nothing to learn")
    annotator = Annotator(config, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the failures are listed below
        annotator.fit(
            images.paths, images.labels, vocabulary=images.vocabulary, progress=progress, workers=workers, scheduler=scheduler
        )
    annotator.save(model)
    failures = [*images.missing, *annotator.failures_]
    used = len(images) - len(annotator.failures_)
    without = [word for word, count in zip(annotator.vocabulary, annotator.bank_.counts, strict=True) if not count]
    errors.print(f"{plain(model)}: {len(annotator.bank_.known)} words from {used} images")
    if images.subfolders:
        errors.print(f"the words are the names of the subfolders of {plain(data)}: {plain(some(images.vocabulary))}")
    if images.unlabelled:
        errors.print(f"{images.unlabelled} images beside the label file or subfolders are not labelled and were left out")
    if without:
        errors.print(f"[yellow]{len(without)} words have no image and cannot be given:[/] {plain(some(without))}")
    exit_for(failures, done=used)


@app.command()
@errors_to_exit_code
def annotate(
    model: Model,
    inputs: Sources,
    k: K = 5,
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
    processes: Processes = None,
    decode: DecodeOption = None,
    report: ReportTo = None,
    as_json: AsJson = False,
    weights: Weights = None,
    weights_convention: Convention = None,
    device: Device = "auto",
    progress: Progress = None,
) -> None:
    """Give words to images: a row an image with its path, its words (nearest first), their distances, with the heads ridge and lda
    their confidences, and the model's hash.

    Inputs that cannot be read get no row and never stop the others; they are listed with the reason: with an output file in
    OUTPUT.failures.jsonl, with a folder in its subfolder _failures. A folder also gets _summary.json with counts and timings.
    """
    from . import cli_annotate
    from .annotator import Annotator
    from .inputs import Inputs
    from .report import report_files
    from .report_writer import check_report_path

    of_folders = {
        "resume": resume, "format": part_format and part_format.value, "part_size": part_size, "vectors": vectors,
        "on_error": on_error and on_error.value, "max_failures": max_failures, "threads": threads,
        "workers": workers, "scheduler": scheduler,
        "processes": processes, "decode": decode and decode.value,
    }  # fmt: skip
    given = {name: value for name, value in of_folders.items() if value is not None and value is not False}
    folder = to is not None and cli_annotate.is_folder(to)
    if given and not folder:
        raise ValueError(f"--{next(iter(given)).replace('_', '-')} needs a folder for the output: --output NAME/")
    if resume and overwrite:
        raise ValueError("--resume goes on with what is there, --overwrite replaces it: choose one")
    if report is not None:
        check_report_path(report, overwrite)
    search = Inputs(inputs, glob=glob or (), exclude=exclude or (), column=column)
    annotator = Annotator.load(model, weights=weights, weights_convention=weights_convention, device=device)
    if to is not None and folder:
        done, failed, shown = cli_annotate.to_folder(
            annotator, search, k, to, as_json, errors, overwrite=overwrite, threshold=threshold, progress=progress, **given
        )
        if report is not None and done:
            report_files(to, report, annotator=annotator, title=f"Words of {inputs[0]}", overwrite=overwrite, progress=progress)
            errors.print(f"{plain(report)}: written")
        exit_for(shown, done=done, failed=failed)
        return
    sources = list(search)
    with reporting(report, annotator, sources, title=f"Words of {inputs[0]}", overwrite=overwrite) as passing:
        parts = passing(annotator.stream(sources, k, threshold=threshold, progress=progress))
        if to is None:
            failures = cli_annotate.to_terminal(annotator, parts, as_json)
        else:
            failures = cli_annotate.to_file(annotator, parts, Path(to), overwrite, as_json, errors)
    exit_for(failures, done=len(sources) - len(failures))


@app.command()
@errors_to_exit_code
def evaluate(
    model: Model,
    data: Annotated[Path, typer.Argument(help="Labelled test images, in the forms that 'fit' takes.", show_default=False)],
    k: K = 5,
    threshold: Threshold = None,
    report: ReportTo = None,
    as_json: AsJson = False,
    weights: Weights = None,
    weights_convention: Convention = None,
    device: Device = "auto",
    progress: Progress = None,
) -> None:
    """Annotate labelled images and score the words given.

    Precision and recall are means over all words of the vocabulary (0 for words never given), F1 is that of the two means, N+ the
    number of words given correctly at least once.
    """
    from .annotations import Annotations
    from .annotator import Annotator
    from .datasets import load_labelled_images
    from .labels import label_matrix
    from .metrics import evaluate as score

    annotator = Annotator.load(model, weights=weights, weights_convention=weights_convention, device=device)
    images = load_labelled_images(data)
    with reporting(report, annotator, images.paths, labelled=images, title=f"Evaluation on {data}") as passing:
        parts = list(passing(annotator.stream(images.paths, k, threshold=threshold, progress=progress)))
    annotations = Annotations.joined(parts, annotator.vocabulary, k)
    failures = [*images.missing, *annotations.failures]
    if not len(annotations):
        exit_for(failures, done=0)
    words = [[images.vocabulary[word] for word in images.labels[[row]].indices] for row in annotations.positions]
    truth, vocabulary = label_matrix(words, annotator.vocabulary, extend=True)
    unknown = vocabulary[len(annotator.vocabulary) :]
    if unknown:
        errors.print(f"[yellow]{len(unknown)} words are unknown to the model and count as missed:[/] {plain(some(unknown))}")
    scores = score(annotations.index, truth)
    if as_json:
        typer.echo(json.dumps({**scores.to_dict(), "failed": len(failures)}, indent=2))
    else:
        output.print(scores_table(scores))
    exit_for(failures, done=len(annotations))


@app.command()
@errors_to_exit_code
def reproduce(
    benchmark: Annotated[Benchmark, typer.Argument(help="The data set.", show_default=False)],
    data: Annotated[Path, typer.Option(help="Its folder: train.json, test.json, vocabulary.txt, images/.", show_default=False)],
    preset: Preset = None,
    config_file: ConfigFile = None,
    seeds: Annotated[int, typer.Option(min=1, help="Codebook seeds to run; several give mean ± standard deviation.")] = 1,
    k: K = 5,
    weights: Weights = None,
    weights_convention: Convention = None,
    seed: Seed = None,
    settings: Settings = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for features (0.2 MB an image); by default the user's cache folder.")
    ] = None,
    table: Annotated[
        bool, typer.Option("--table", help="Run every system of the paper's tables on the same images, and others beside them.")
    ] = False,
    networks: Annotated[
        Networks,
        typer.Option(help="With --table: also VGG-16 with fixed convolutions (minutes on a CPU), or all networks (days)."),
    ] = Networks.none,
    only: Annotated[list[str] | None, typer.Option(help="With --table: only systems with this in their name; repeatable.")] = None,
    to: Annotated[Path | None, typer.Option("-o", "--output", help="Also write the result to this JSON file.")] = None,
    report: ReportTo = None,
    as_json: AsJson = False,
    device: Device = "auto",
    progress: Progress = None,
) -> None:
    """Run the paper's experiment and print our row beside the paper's.

    With --table, also JEC, 2PKNN, TagProp, MBRM, CMRM, SVM and ridge, each with its hyper-parameters chosen on a hold-out of the
    training images. The hand-made features need 'pip install gpuannot[baselines]'.
    """
    from .cli_settings import config_from_options
    from .reproduce import reproduce as run

    config = config_from_options(preset, weights, weights_convention, seed, settings, config_file)
    if to is not None:
        _check_folder_of(to)
    if not table and (only or networks != Networks.none):
        raise ValueError(f"--{'only' if only else 'networks'} chooses among the systems of --table: add --table")
    if table:
        if seeds != 1:
            raise ValueError("--table runs one seed: leave out --seeds")
        if report is not None:
            raise ValueError("--report shows the words of one system: leave out --table")
        from .baselines.comparison import compare, rows_named

        result = compare(
            benchmark.value, data, config, k=k, rows=rows_named(only or ()), networks=networks.value,
            cache=cache, device=device, progress=progress,
        )  # fmt: skip
    else:
        result = run(benchmark.value, data, config, seeds=seeds, k=k, cache=cache, report=report, device=device, progress=progress)
    text = json.dumps(result, indent=2)
    if to is not None:
        to.write_text(text + "\n")
    if as_json:
        typer.echo(text)
    elif table:
        for line in comparison_report(result):
            output.print(line)
    else:
        output.print(reproduction_table(result, config_file.name if config_file is not None else preset or "paper"))
        output.print(f"seconds: {', '.join(f'{step} {value}' for step, value in result['seconds'].items())}")


@app.command()
@errors_to_exit_code
def demo(
    folder: Annotated[Path, typer.Argument(help="New folder for scenes and results.")] = Path("demo"),
    train: Annotated[int, typer.Option(min=2, help="Scenes to learn from.")] = 400,
    test: Annotated[int, typer.Option(min=1, help="Scenes to annotate.")] = 100,
    preset: Preset = None,
    seed: Seed = None,
    report: ReportTo = None,
    as_json: AsJson = False,
    device: Device = "auto",
    progress: Progress = None,
) -> None:
    """Draw scenes, learn from some, annotate the others, score the result and leave files to open."""
    from .demo import run_demo

    result = run_demo(
        folder, train=train, test=test, seed=seed or 0, preset=preset or "paper", report=report, device=device, progress=progress
    )
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    from .metrics import Scores

    scores, guess = Scores(**result["scores"]), Scores(**result["most_frequent_words"])
    output.print(scores_table(scores, {"always the 5 most frequent words": guess}))
    output.print(f"seconds: {', '.join(f'{step} {value}' for step, value in result['seconds'].items())}")
    output.print("look at:")
    if report is not None:
        output.print(f"  {plain(report)}  [dim]every test scene, its words, and where each was seen: open it in a browser[/]")
    for name, meaning in (
        ("contact_sheet.png", "the first test scenes with the words they were given"),
        ("annotations.csv", "the words of every test scene (also as .parquet)"),
        ("scores.json", "all scores"),
        ("model.safetensors", f"the model: gpuannot annotate {folder / 'model.safetensors'} YOUR_IMAGES"),
    ):
        output.print(f"  {plain(folder / name)}  [dim]{plain(meaning)}[/]")


@app.command()
@errors_to_exit_code
def info(as_json: AsJson = False) -> None:
    """Show versions, devices, settings, what is missing and how to get it."""
    from .config import AnnotatorConfig
    from .environment import missing, record

    found = {**record(), "missing": missing(), "settings": AnnotatorConfig().to_dict()}
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items()))
    cpu = found["processor"]
    arithmetic = "bfloat16" if cpu["bfloat16"] else "float32 (this processor has no bfloat16 instructions)"
    table.add_row("processor", f"{cpu['model']}, {cpu['cores']} cores; the trunk runs in {arithmetic}")
    gpus = ", ".join(f"{gpu['name']} ({gpu['memory_gb']} GB)" for gpu in found["gpus"])
    table.add_row("GPUs", gpus or "none that torch can use")
    for name, advice in found["missing"].items():
        table.add_row("missing", plain(f"{name}: {advice}"))
    table.add_row("settings", "defaults (preset paper), changed by --set NAME=VALUE:")
    for name, value in found["settings"].items():
        table.add_row("", f"{name} = {value}")
    output.print(table)


app.command()(cli_report.report)


def main() -> None:
    """Entry point of the ``gpuannot`` command."""
    app()


def _check_folder_of(path: Path) -> None:
    """Before hours of work, not after them."""
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent}: no such folder for the output")


if __name__ == "__main__":
    main()
