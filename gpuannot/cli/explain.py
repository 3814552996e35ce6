"""``gpuannot explain``: pictures of where words were seen."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InvalidArgumentError, counted
from .exit import errors_to_exit_code, exit_for, notes
from .opening import open_model
from .options import (
    AsJson,
    Convention,
    Device,
    Exclude,
    Glob,
    Model,
    Overwrite,
    Progress,
    Sources,
    Weights,
    check_folder_of,
    check_some_left,
    refuse,
)
from .tables import plain


@errors_to_exit_code
def explain(
    model: Model,
    inputs: Sources,
    to: Annotated[Path, typer.Option("-o", "--output", help="New folder for the pictures and explanations.json.")] = Path("why"),
    k: Annotated[
        int | None,
        typer.Option(
            "-k", "--words", min=1, help="Explain so many of the first words that each image is given; by default 5, or all."
        ),
    ] = None,
    word: Annotated[
        list[str] | None, typer.Option(help="Explain this word for every image instead, given or not. Repeatable.")
    ] = None,
    against: Annotated[bool, typer.Option("--against", help="Show in blue what speaks against a word, too.")] = False,
    overwrite: Overwrite = False,
    glob: Glob = None,
    exclude: Exclude = None,
    as_json: AsJson = False,
    weights: Weights = None,
    weights_convention: Convention = None,
    device: Device = "auto",
    progress: Progress = None,
) -> None:
    """Show where in the images words were seen.

    A picture for each image and word, called PHOTO-1-WORD.png: what is bright speaks for the word. index.html shows them all.
    explanations.json has the numbers: for each image its words, scores, the bias and every patch's contribution, which add up to
    the score.
    """
    from ..images.containers import read
    from ..images.inputs import Inputs

    if to.exists() and not overwrite:
        raise InvalidArgumentError(f"{to} exists; choose another folder with --output, or write into it with --overwrite")
    check_folder_of(to)
    if word:
        refuse({"words": k}, "is for the words that images are given, and --word asks for others: choose one")
    annotator = open_model(model, weights, weights_convention, device)
    from ..report.explained import write_explanations

    search = Inputs(inputs, glob=glob or (), exclude=exclude or ())
    check_some_left(search, sources := list(search))
    by_name = {source.name: source for source in sources}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the failures are listed below
        found = annotator.explain(sources, word or None, k, progress=progress)
    if not found:
        exit_for(annotator.failures_, done=0)
    to.mkdir(exist_ok=True)
    pictures = write_explanations(
        to, ((each, read(by_name[each.name])) for each in found), failures=annotator.failures_, against=against
    )
    entries = [{**each.to_dict(), "pictures": names} for each, names in zip(found, pictures, strict=True)]
    (to / "explanations.json").write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(entries, ensure_ascii=False))
    notes.print(f"{plain(to / 'index.html')}: {counted(len(found), 'image')} explained, {len(annotator.failures_)} failed")
    exit_for(annotator.failures_, done=len(found))
