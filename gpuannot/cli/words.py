"""``gpuannot words``: change what a model knows of words, without a fit."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InvalidArgumentError
from .exit import errors, errors_to_exit_code, exit_for
from .options import AsJson, Convention, Device, Model, Progress, Sources, Weights
from .tables import plain

if TYPE_CHECKING:
    from ..annotator import Annotator

app = typer.Typer(
    no_args_is_help=True,
    help="List, add, remove, rename and merge the words of a model. What is left is what a fit to the same images would have "
    "learnt, with the codebook that is there.",
)

Word = Annotated[str, typer.Argument(help="A word of the model.", show_default=False)]
To = Annotated[
    Path | None, typer.Option("-o", "--output", help="Model file to write; by default the model is replaced.", show_default=False)
]


@app.command("list")
@errors_to_exit_code
def list_words(model: Model, as_json: AsJson = False) -> None:
    """List the words and how many images each was learnt from."""
    from ..model.file import ModelFile

    file = ModelFile.read(model)
    words = dict(zip(file.metadata["vocabulary"], file.tensors["counts"].tolist(), strict=True))
    if as_json:
        typer.echo(json.dumps(words, ensure_ascii=False, indent=2))
        return
    for word, count in words.items():
        typer.echo(f"{count}\t{word}")


@app.command()
@errors_to_exit_code
def add(
    model: Model,
    word: Annotated[str, typer.Argument(help="A new word, or one of the model to give more images.", show_default=False)],
    images: Sources,
    to: To = None,
    weights: Weights = None,
    weights_convention: Convention = None,
    device: Device = "auto",
    progress: Progress = None,
) -> None:
    """Add a word by images that show it; a few will do.

    The images count as carrying this word alone. For images with several words, 'partial_fit' of the Python package takes labels.
    """
    from ..images.inputs import Inputs

    annotator = _load(model, weights, weights_convention, device)
    sources = list(Inputs(images))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the failures are listed below
        annotator.partial_fit(sources, [[word]] * len(sources), progress=progress)
    used = len(sources) - len(annotator.failures_)
    _save(annotator, model, to, f"{word!r} learnt from {used} images")
    exit_for(annotator.failures_, done=used)


@app.command()
@errors_to_exit_code
def remove(
    model: Model,
    words: Annotated[list[str], typer.Argument(help="Words of the model.", show_default=False)],
    to: To = None,
    weights: Weights = None,
    weights_convention: Convention = None,
    device: Device = "auto",
) -> None:
    """Remove words, as if no label had named them."""
    annotator = _load(model, weights, weights_convention, device)
    annotator.remove_words(words)
    _save(annotator, model, to, f"{len(set(words))} words removed")


@app.command()
@errors_to_exit_code
def rename(
    model: Model,
    word: Word,
    name: Annotated[str, typer.Argument(help="Its new name.", show_default=False)],
    to: To = None,
    weights: Weights = None,
    weights_convention: Convention = None,
    device: Device = "auto",
) -> None:
    """Give a word another name."""
    annotator = _load(model, weights, weights_convention, device)
    annotator.rename_word(word, name)
    _save(annotator, model, to, f"{word!r} is now {name!r}")


@app.command()
@errors_to_exit_code
def merge(
    model: Model,
    word: Word,
    into: Annotated[str, typer.Argument(help="The word that stays.", show_default=False)],
    both: Annotated[
        list[str] | None, typer.Option(help="Images, folders or lists that carry both words. Repeatable.", show_default=False)
    ] = None,
    to: To = None,
    weights: Weights = None,
    weights_convention: Convention = None,
    device: Device = "auto",
    progress: Progress = None,
) -> None:
    """Make one word of two: the second is then carried by every image that carried either.

    Images that carry both are counted twice by the two words' sums, so they are needed; a model with another head than 'mean' says
    how many there are.
    """
    from ..images.inputs import Inputs

    annotator = _load(model, weights, weights_convention, device)
    annotator.merge_words(word, into, list(Inputs(both)) if both else None, progress=progress)
    _save(annotator, model, to, f"{word!r} merged into {into!r}")


def _load(model: Path, weights: str | None, convention: str | None, device: str) -> Annotator:
    from ..annotator import Annotator

    return Annotator.load(model, weights=weights, weights_convention=convention, device=device)


def _save(annotator: Annotator, model: Path, to: Path | None, done: str) -> None:
    if to is not None and to.exists():
        raise InvalidArgumentError(f"{to} exists; choose another name with --output")
    annotator.save(to or model)
    errors.print(f"{plain(to or model)}: {plain(done)}; {len(annotator.bank_.known)} words")
