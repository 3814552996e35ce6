"""``gpuannot learn``: corrections of a review into a model."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..errors import counted
from .exit import errors_to_exit_code, exit_for
from .opening import open_model
from .options import AsJson, Convention, Device, Model, Overwrite, Progress, Weights
from .tables import output, plain
from .words import To, model_to_write, save

if TYPE_CHECKING:
    from ..model.corrections import Changes

_ROWS = 20  # words of the table


@errors_to_exit_code
def learn(
    model: Model,
    corrections: Annotated[
        Path, typer.Argument(help="What the review of an audit or report exported (.json).", show_default=False)
    ],
    to: To = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    weights: Weights = None,
    weights_convention: Convention = None,
    device: Device = "auto",
    progress: Progress = None,
) -> None:
    """Learn corrected labels, exactly, and say what changed.

    Images of an audit's page are taken out with the words that they were learnt with, and in with those that they carry; images of
    a report's page are new. The model becomes that of a fit to the corrected labels, with the codebook that is there.
    """
    from ..datasets.corrections import load_corrections
    from ..images.inputs import named_inputs
    from ..model.corrections import learn_corrections

    to = model_to_write(model, to, overwrite)
    found = load_corrections(corrections)
    annotator = open_model(model, weights, weights_convention, device)
    counts = dict(zip(annotator.vocabulary, annotator.bank_.counts.tolist(), strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the failures are listed below
        changes = learn_corrections(annotator.words, named_inputs(found.paths), found.after, found.before, progress=progress)
    done = changes.changed + changes.added
    now = dict(zip(annotator.vocabulary, annotator.bank_.counts.tolist(), strict=True))
    if as_json:
        typer.echo(json.dumps(_summary(changes, counts, now), ensure_ascii=False, indent=2))
    elif done:
        output.print(_table(changes, counts, now))
    parts = [f"{counted(changes.changed, 'image')} corrected", f"{counted(changes.added, 'image')} added"]
    if changes.same:
        parts.append(f"{counted(changes.same, 'image')} as before")
    save(annotator, to, ", ".join(parts))
    exit_for(changes.failures, done=done)


def _summary(changes: Changes, before: dict[str, int], now: dict[str, int]) -> dict[str, Any]:
    words = {
        word: {
            "images_before": before.get(word, 0),
            "images": now[word],
            "gained": changes.gained[word],
            "lost": changes.lost[word],
        }
        for word in _touched(changes)
    }
    return {"corrected": changes.changed, "added": changes.added, "same": changes.same, "words": words}


def _touched(changes: Changes) -> list[str]:
    """Words that images got or lost, those of most images first."""
    both = changes.gained + changes.lost
    return sorted(both, key=lambda word: (-both[word], word))


def _table(changes: Changes, before: dict[str, int], now: dict[str, int]) -> Table:
    touched = _touched(changes)
    more = f", the first {_ROWS}" if len(touched) > _ROWS else ""
    table = Table(title=f"{counted(len(touched), 'word')} with other images{more}", title_justify="left")
    for heading in ("word", "got", "lost", "images before", "now"):
        table.add_column(heading, justify="left" if heading == "word" else "right")
    for word in touched[:_ROWS]:
        name = plain(word) if word in before else f"{plain(word)} [dim](new)[/]"
        table.add_row(name, *map(str, (changes.gained[word], changes.lost[word], before.get(word, 0), now[word])))
    return table
