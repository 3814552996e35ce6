"""``gpuannot tune``: settings for one's own images, chosen on a hold-out of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .commands import free_name, tell_next
from .exit import errors_to_exit_code, notes
from .options import (
    AsJson,
    ConfigFile,
    Convention,
    Device,
    FoldCase,
    KeywordPaths,
    Labels,
    LabelSource,
    MachineWords,
    MinCount,
    Objective,
    Overwrite,
    Preset,
    Progress,
    ScoredK,
    Seed,
    Settings,
    Weights,
    check_carried,
    check_output,
    reading_again,
)
from .tables import plain


@errors_to_exit_code
def tune(
    data: Annotated[
        Path,
        typer.Argument(
            help="Labelled training images, as 'gpuannot fit' takes them, or a folder with train.json or train.csv.",
            show_default=False,
        ),
    ],
    to: Annotated[Path, typer.Option("-o", "--output", help="File to write the settings to.")] = Path("config.json"),
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE,VALUE",
            help="Search this setting at these values. Repeatable; by default regularisation and balance are searched.",
        ),
    ] = None,
    holdout: Annotated[int | None, typer.Option(min=1, help="Images held out in each split; by default a ninth of them.")] = None,
    splits: Annotated[int, typer.Option(min=1, help="Random splits whose scores are averaged.")] = 3,
    k: ScoredK = 5,
    preset: Preset = None,
    config_file: ConfigFile = None,
    objective: Objective = None,
    weights: Weights = None,
    weights_convention: Convention = None,
    seed: Seed = None,
    settings: Settings = None,
    labels: Labels = LabelSource.auto,
    hierarchy: KeywordPaths = False,
    machine_words: MachineWords = False,
    fold_case: FoldCase = False,
    min_count: MinCount = 1,
    cache: Annotated[Path | None, typer.Option(help="Folder for features; by default the user's cache folder.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    device: Device = "auto",
    progress: Progress = None,
) -> None:
    """Choose settings on held-out training images and write them to a file for 'gpuannot fit --config'.

    Starts from the preset 'best', unless --preset or --config says otherwise. Test images are refused: a file called test, and
    images that a test.json or test.csv beside the label file names.
    """
    from ..experiments.tune import training_file, training_images
    from ..experiments.tune import tune as search
    from .settings import config_from_options, search_space

    start = preset or (None if config_file is not None else "best")
    config = config_from_options(start, weights, weights_convention, seed, settings, config_file, objective)
    space = search_space(vary)
    check_output(to, overwrite)
    images = training_images(
        data, fold_case=fold_case, min_count=min_count, labels=labels.value, hierarchy=hierarchy, machine_words=machine_words
    )
    check_carried(images, data, "learn", min_count)
    found = search(images, config, space, holdout=holdout, splits=splits, k=k, cache=cache, device=device, progress=progress)
    found.write(to)
    if as_json:
        typer.echo(json.dumps(json.loads(to.read_text())["search"], indent=2))
        return
    for trial in found.trials:
        typer.echo(
            f"{_stated(trial.setting, trial.value)}: F1 {100 * trial.f1:.2f} ± {100 * trial.f1_error:.2f} %, "
            f"N+ {trial.n_plus:.1f}, gain {100 * trial.gain:+.2f} ± {100 * trial.gain_error:.2f}"
        )
    varied = dict.fromkeys(trial.setting for trial in found.trials)
    of = found.config
    chosen = ", ".join(_stated(name, f"{of.trunk}@{of.layer}" if name == "trunk" else getattr(of, name)) for name in varied)
    notes.print(f"{plain(to)}: {plain(chosen)}")
    source = training_file(data) if labels is LabelSource.auto else data
    reading = reading_again(labels, hierarchy, machine_words, fold_case, min_count)
    tell_next(notes, "fit", source, "--config", to, *reading, "--output", free_name(Path("model.safetensors")))


def _stated(setting: str, value: object) -> str:
    return f"{setting} = {'auto' if value is None else value}"
