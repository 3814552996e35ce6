"""``gpuannot demo`` and ``gpuannot info``: what there is to see without images of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from .commands import tell_next
from .exit import errors_to_exit_code
from .options import AsJson, Device, Preset, Progress, Seed, check_folder_of
from .report import ReportTo
from .tables import output, plain, scores_table


@errors_to_exit_code
def demo(
    folder: Annotated[Path, typer.Argument(help="New folder for scenes and results.")] = Path("demo"),
    train: Annotated[int, typer.Option(min=2, help="Scenes to learn from.")] = 400,
    test: Annotated[int, typer.Option(min=1, help="Scenes to annotate.")] = 100,
    preset: Preset = None,
    seed: Seed = None,
    report: ReportTo = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a report that exists.")] = False,
    as_json: AsJson = False,
    device: Device = "auto",
    progress: Progress = None,
) -> None:
    """Draw scenes, learn from some, annotate the others, score the result and leave files to open."""
    from ..experiments.demo import run_demo

    check_folder_of(folder)
    result = run_demo(
        folder,
        train=train,
        test=test,
        seed=seed or 0,
        preset=preset or "paper",
        report=report,
        overwrite=overwrite,
        device=device,
        progress=progress,
    )
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    from ..metrics import Scores

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
        ("model.safetensors", "the model"),
    ):
        output.print(f"  {plain(folder / name)}  [dim]{plain(meaning)}[/]")
    tell_next(output, "annotate", folder / "model.safetensors", "IMAGES")


@errors_to_exit_code
def info(as_json: AsJson = False) -> None:
    """Show versions, devices, settings, what is missing and how to get it."""
    from ..config import CONSTRAINTS, AnnotatorConfig
    from ..system.environment import missing, record

    found = {**record(), "missing": missing(), "settings": AnnotatorConfig().to_dict()}
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items()))
    cpu = found["processor"]
    arithmetic = "int8" if cpu["int8"] else "bfloat16" if cpu["bfloat16"] else "float32"
    table.add_row("processor", f"{cpu['model']}, {cpu['cores']} cores; a fit on it runs the trunk in {arithmetic}")
    gpus = ", ".join(f"{gpu['name']} ({gpu['memory_gb']} GB)" for gpu in found["gpus"])
    table.add_row("GPUs", gpus or "none that torch can use")
    for name, advice in found["missing"].items():
        table.add_row("missing", plain(f"{name}: {advice}"))
    table.add_row("settings", "defaults (preset paper), changed by --set NAME=VALUE:")
    auto = [name for name, value in found["settings"].items() if value is None and CONSTRAINTS[name].allows(None, None)]
    stated = {name: f"{name} = {'auto' if name in auto else value}" for name, value in found["settings"].items()}
    width = max(map(len, stated.values()))
    for name, setting in stated.items():
        table.add_row("", f"{plain(setting.ljust(width))}  [dim]{plain(str(CONSTRAINTS[name]))}[/]")
    output.print(table)
