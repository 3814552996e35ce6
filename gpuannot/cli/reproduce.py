"""``gpuannot reproduce``: the paper's experiment, and every system of its tables."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InvalidArgumentError
from .exit import errors_to_exit_code
from .options import (
    AsJson,
    ConfigFile,
    Convention,
    Device,
    Overwrite,
    Preset,
    Progress,
    ScoredK,
    Seed,
    Settings,
    Weights,
    check_output,
)
from .report import ReportTo
from .tables import comparison_report, output, reproduction_table


class Benchmark(StrEnum):
    corel5k = "corel5k"
    iaprtc12 = "iaprtc12"
    espgame = "espgame"


class Networks(StrEnum):
    none = "none"
    fixed = "fixed"
    all = "all"


@errors_to_exit_code
def reproduce(
    benchmark: Annotated[Benchmark, typer.Argument(help="The data set.", show_default=False)],
    data: Annotated[Path, typer.Option(help="Its folder: train.json, test.json, vocabulary.txt, images/.", show_default=False)],
    preset: Preset = None,
    config_file: ConfigFile = None,
    seeds: Annotated[int, typer.Option(min=1, help="Codebook seeds to run; several give mean ± standard deviation.")] = 1,
    k: ScoredK = 5,
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
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    device: Device = "auto",
    progress: Progress = None,
) -> None:
    """Run the paper's experiment and print our row beside the paper's, for the objective 'words' unless --set or --config says
    otherwise.

    With --table, also JEC, 2PKNN, TagProp, MBRM, CMRM, SVM and ridge, each with its hyper-parameters chosen on a hold-out of the
    training images. The hand-made features need 'pip install ".[baselines]"' in the folder of gpuannot.
    """
    from ..experiments.reproduce import reproduce as run
    from .settings import config_from_options

    config = config_from_options(
        preset, weights, weights_convention, seed, settings, config_file, objective=None if config_file else "words"
    )
    if to is not None:
        check_output(to, overwrite)
    if not table and (only or networks != Networks.none):
        raise InvalidArgumentError(f"--{'only' if only else 'networks'} chooses among the systems of --table: add --table")
    if table:
        if seeds != 1:
            raise InvalidArgumentError("--table runs one seed: leave out --seeds")
        if report is not None:
            raise InvalidArgumentError("--report shows the words of one system: leave out --table")
        from ..baselines.comparison import compare, rows_named

        result = compare(
            benchmark.value, data, config, k=k, rows=rows_named(only or ()), networks=networks.value,
            cache=cache, device=device, progress=progress,
        )  # fmt: skip
    else:
        result = run(
            benchmark.value,
            data,
            config,
            seeds=seeds,
            k=k,
            cache=cache,
            report=report,
            overwrite=overwrite,
            device=device,
            progress=progress,
        )
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
