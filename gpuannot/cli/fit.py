"""``gpuannot fit``: from labelled images to a model."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InvalidArgumentError, counted
from .commands import tell_next
from .exit import errors, errors_to_exit_code, exit_for, notes, tell_left_out
from .options import (
    ConfigFile,
    Convention,
    Dashboard,
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
    Scheduler,
    Seed,
    Settings,
    Weights,
    Workers,
    check_carried,
    check_model_output,
)
from .tables import chosen_line, plain, some


@errors_to_exit_code
def fit(
    data: Annotated[
        Path,
        typer.Argument(
            help="A label file (.json, .csv, .tsv, .jsonl), a folder with labels.json or labels.csv, a folder with a subfolder of "
            "images for each word, or one of photos with keywords or captions.",
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
    labels: Labels = LabelSource.auto,
    hierarchy: KeywordPaths = False,
    machine_words: MachineWords = False,
    fold_case: FoldCase = False,
    min_count: MinCount = 1,
    annotate_only: Annotated[
        bool,
        typer.Option(
            "--annotate-only",
            help="Write a smaller model, with the heads ridge and kernel: it annotates, and 'words' can no longer change it.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    dashboard: Dashboard = False,
    device: Device = "auto",
    progress: Progress = None,
) -> None:
    """Learn words from labelled images and write a model.

    JSON label file: {"samples": [{"image_name": "a.jpg", "image_labels": ["sky", "sea"]}, …]}, COCO annotations, or what Label
    Studio exports as JSON. CSV, TSV and JSON lines: columns 'image' and 'words' (or names like them), several words separated by
    ';'; or a column of 0 and 1 for each word. Image names are paths relative to the label file or to its subfolder 'images'.
    """
    from ..config import REGRESSIONS
    from ..datasets.label_files import folder_of, load_labelled_images
    from .settings import config_from_options

    config = config_from_options(preset, weights, weights_convention, seed, settings, config_file, objective)
    check_model_output(model, overwrite)
    if annotate_only and config.head not in REGRESSIONS:
        raise InvalidArgumentError(
            f"--annotate-only: the head {config.head!r} ranks words by the sums that it would leave out, and its models are small; "
            "leave out the option, or choose --preset best or kernel"
        )
    images = load_labelled_images(
        data, fold_case=fold_case, min_count=min_count, labels=labels.value, hierarchy=hierarchy, machine_words=machine_words
    )
    check_carried(images, data, "learn", min_count)
    from ..annotator import Annotator

    annotator = Annotator(config, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the failures are listed below
        annotator.fit(
            images.paths, images.labels, vocabulary=images.vocabulary, progress=progress, workers=workers, scheduler=scheduler,
            dashboard=dashboard,
        )  # fmt: skip
    annotator.save(model, sums=not annotate_only)
    failures = [*images.missing, *annotator.failures_]
    used = len(images) - len(annotator.failures_)
    without = [word for word, count in zip(annotator.vocabulary, annotator.bank_.counts, strict=True) if not count]
    notes.print(f"{plain(model)}: {counted(len(annotator.bank_.known), 'word')} from {counted(used, 'image')}")
    if (line := chosen_line(annotator)) is not None:
        notes.print(line)
    if images.rare:
        notes.print(f"{counted(len(images.rare), 'word')} of fewer than {min_count} images left out: {plain(some(images.rare))}")
    if images.subfolders:
        notes.print(f"the words are the names of the subfolders of {plain(data)}: {plain(some(images.vocabulary))}")
    if images.photos:
        notes.print(f"the words are those that photos in {plain(data)} carry: {plain(some(images.vocabulary))}")
    if images.unlabelled:
        where = "of the folder" if images.photos else "beside the label file or subfolders"
        are = counted(images.unlabelled, f"image {where} is", f"images {where} are")
        notes.print(f"{are} not labelled and left out")
    if wordless := int((images.labels.sum(axis=1) == 0).sum()):
        they = counted(wordless, "image has no word and was", "images have no word and were")
        notes.print(f"{they} learnt as showing none; if nobody has labelled them yet, leave out their rows")
    tell_left_out(images.left_out)
    if without:
        have = counted(len(without), "word has", "words have")
        errors.print(f"[yellow]warning:[/] {have} no image and cannot be given: {plain(some(without))}")
    if images.unlabelled and labels is LabelSource.auto and not machine_words:  # as --skip-labelled reads them
        tell_next(notes, "annotate", model, folder_of(data), "--skip-labelled", data)
    else:
        tell_next(notes, "annotate", model, "IMAGES")
    exit_for(failures, done=used)
