"""``gpuannot words``: change what a model knows of words, without a fit."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InvalidArgumentError, counted
from .commands import add_command
from .exit import errors_to_exit_code, exit_for, notes
from .opening import open_model
from .options import (
    AsJson,
    Convention,
    Device,
    Model,
    Overwrite,
    Progress,
    Sources,
    Weights,
    check_model_output,
    check_some_left,
)
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
    Path | None,
    typer.Option("-o", "--output", help="Model file to write; --overwrite alone replaces the model.", show_default=False),
]


@errors_to_exit_code
def list_words(model: Model, as_json: AsJson = False) -> None:
    """List the words and how many images each was learnt from."""
    from ..model.header import read_vocabulary

    read_vocabulary(model)  # what is no model is told of before torch is imported
    from ..model.file import ModelFile

    file = ModelFile.read(model)
    words = dict(zip(file.metadata["vocabulary"], file.tensors["counts"].tolist(), strict=True))
    if as_json:
        typer.echo(json.dumps(words, ensure_ascii=False, indent=2))
        return
    for word, count in words.items():
        typer.echo(f"{count}\t{word}")


@errors_to_exit_code
def add(
    model: Model,
    word: Annotated[str, typer.Argument(help="A new word, or one of the model to give more images.", show_default=False)],
    images: Sources,
    to: To = None,
    overwrite: Overwrite = False,
    weights: Weights = None,
    weights_convention: Convention = None,
    device: Device = "auto",
    progress: Progress = None,
) -> None:
    """Add a word by images that show it; a few will do.

    The images count as carrying this word alone. For images with several words, 'partial_fit' of the Python package takes labels.
    """
    from ..images.inputs import Inputs
    from ..method.labels import is_word

    to = model_to_write(model, to, overwrite)
    if not is_word(word):
        raise InvalidArgumentError(f"the new word is {word!r}, expected one with a letter or sign to see")
    annotator = open_model(model, weights, weights_convention, device)
    search = Inputs(images)
    check_some_left(search, sources := list(search))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the failures are listed below
        annotator.partial_fit(sources, [[word]] * len(sources), progress=progress)
    used = len(sources) - len(annotator.failures_)
    save(annotator, to, f"{word!r} learnt from {counted(used, 'image')}")
    exit_for(annotator.failures_, done=used)


@errors_to_exit_code
def remove(
    model: Model,
    words: Annotated[list[str], typer.Argument(help="Words of the model.", show_default=False)],
    to: To = None,
    overwrite: Overwrite = False,
    weights: Weights = None,
    weights_convention: Convention = None,
    device: Device = "auto",
) -> None:
    """Remove words, as if no label had named them."""
    to = model_to_write(model, to, overwrite)
    gone = _known(model, words)
    annotator = open_model(model, weights, weights_convention, device)
    annotator.remove_words(words)
    save(annotator, to, f"{counted(len(gone), 'word')} removed")


@errors_to_exit_code
def rename(
    model: Model,
    word: Word,
    name: Annotated[str, typer.Argument(help="Its new name.", show_default=False)],
    to: To = None,
    overwrite: Overwrite = False,
    weights: Weights = None,
    weights_convention: Convention = None,
    device: Device = "auto",
) -> None:
    """Give a word another name."""
    to = model_to_write(model, to, overwrite)
    _known(model, [word])
    annotator = open_model(model, weights, weights_convention, device)
    annotator.rename_word(word, name)
    save(annotator, to, f"{word!r} is now {name!r}")


@errors_to_exit_code
def merge(
    model: Model,
    word: Word,
    into: Annotated[str, typer.Argument(help="The word that stays.", show_default=False)],
    both: Annotated[
        list[str] | None, typer.Option(help="Images, folders or lists that carry both words. Repeatable.", show_default=False)
    ] = None,
    to: To = None,
    overwrite: Overwrite = False,
    weights: Weights = None,
    weights_convention: Convention = None,
    device: Device = "auto",
    progress: Progress = None,
) -> None:
    """Make one word of two: the second is then carried by every image that carried either.

    Images that carry both are counted twice by the two words' sums, so they are needed; a model with the head 'ridge' or
    'demixed' says how many there are. One with the head 'kernel' keeps its images, and needs none.
    """
    from ..images.inputs import Inputs

    to = model_to_write(model, to, overwrite)
    _known(model, [word, into])
    annotator = open_model(model, weights, weights_convention, device)
    sources = None
    if both:
        search = Inputs(both)
        check_some_left(search, sources := list(search))
    annotator.merge_words(word, into, sources, progress=progress)
    save(annotator, to, f"{word!r} merged into {into!r}")


def model_to_write(model: Path, to: Path | None, overwrite: bool) -> Path:
    """The file to write, before anything is read."""
    if to is None and not overwrite:
        raise InvalidArgumentError(f"{model} would be replaced; name another file with --output, or replace it with --overwrite")
    if to is None:
        return model
    check_model_output(to, overwrite)
    return to


def _known(model: Path, words: list[str]) -> set[int]:
    """The numbers of a model's words, by the head of its file: a typing error is told of before the sums are read."""
    from ..method.labels import known_number
    from ..model.header import read_vocabulary

    vocabulary = read_vocabulary(model)
    return {known_number(word, vocabulary) for word in words}


def save(annotator: Annotator, to: Path, done: str) -> None:
    """Write a model that has changed, and say what was done."""
    annotator.save(to)
    notes.print(f"{plain(to)}: {plain(done)}; {counted(len(annotator.bank_.known), 'word')}")


for command in (add, remove, rename, merge):
    add_command(app, command)
add_command(app, list_words, "list")
