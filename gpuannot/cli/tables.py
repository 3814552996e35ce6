"""What the command line prints: tables of scores, and text as it is."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..errors import counted

if TYPE_CHECKING:
    from ..annotator import Annotator
    from ..metrics import Reliability, Scores

# A table sent to a file or a pipe has no terminal to fit.
output = Console(highlight=False, soft_wrap=True, emoji=False, width=None if sys.stdout and sys.stdout.isatty() else 160)


def scores_table(scores: Scores, others: dict[str, Scores] | None = None, *, f1_error: float | None = None) -> Table:
    """Ours, with the standard error of F1 where it is given, and others' scores."""
    table = Table(
        title=f"{counted(scores.images, 'image')}, {counted(scores.words, 'word')}, {counted(scores.k, 'word')} an image",
        title_justify="left",
    )
    for heading in ("", "P %", "R %", "F1 %", "N+", "words given", "F1 an image %", "micro F1 %"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, row in {"gpuannot": scores, **(others or {})}.items():
        shares = [f"{100 * value:.2f}" for value in (row.precision, row.recall, row.f1)]
        if row is scores and f1_error is not None:
            shares[2] += f" ± {100 * f1_error:.2f}"
        table.add_row(
            name, *shares, str(row.n_plus), str(row.words_given), f"{100 * row.image_f1:.2f}", f"{100 * row.micro_f1:.2f}"
        )
    return table


def reliability_table(found: Reliability) -> Table:
    """A row for each bin of confidence that words were given with."""
    title = f"expected calibration error {100 * found.error:.1f} % ({100 * found.error_by_chance:.1f} % by chance alone)"
    table = Table(title=title, title_justify="left")
    for heading in ("confidence", "words given", "mean confidence %", "right %"):
        table.add_column(heading, justify="left" if heading == "confidence" else "right")
    bins = len(found.pairs)
    for number, count in enumerate(found.pairs):
        if count:
            shares = (f"{100 * value[number]:.1f}" for value in (found.confidence, found.right))
            table.add_row(f"{number / bins:.1f}–{(number + 1) / bins:.1f}", str(count), *shares)
    return table


def reproduction_table(result: dict[str, Any], preset: str) -> Table:
    summary, runs = result["summary"], len(result["runs"])
    images = result["images"]
    title = f"{result['dataset']}: {images['train']} training images, {images['test']} test images, k = {result['k']}"
    table = Table(title=title, title_justify="left")
    for heading in ("", "P %", "R %", "F1 %", "N+"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for method, (precision, recall, f1, n_plus) in result["paper"].items():
        table.add_row(f"paper: {method}", f"{precision:.2f}", f"{recall:.2f}", f"{f1:.2f}", str(n_plus))

    def cell(measure: str, scale: float) -> str:
        values = summary[measure]
        return f"{scale * values['mean']:.2f}" + (f" ± {scale * values['std']:.2f}" if runs > 1 else "")

    name = f"gpuannot: preset {preset}, {result['trunk']['dtype']} trunk" + (f", {runs} seeds" if runs > 1 else "")
    table.add_row(f"[bold]{name}[/]", cell("precision", 100), cell("recall", 100), cell("f1", 100), cell("n_plus", 1))
    return table


def comparison_report(result: dict[str, Any]) -> Iterator[Table | str]:
    """The table of :func:`gpuannot.baselines.comparison.compare`, then the hyper-parameters that were chosen."""
    images = result["images"]
    title = f"{result['dataset']}: {images['train']} training images, {images['test']} test images, k = {result['k']}"
    table = Table(title=title, title_justify="left")
    for heading in ("method", "features"):
        table.add_column(heading)
    for heading in ("P %", "R %", "F1 %", "N+", "paper: P / R / F1 / N+", "fit s", "ms an image"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in result["rows"]:
        printed = result["paper"].get(row["paper_row"])
        paper = " / ".join([*(f"{value:.2f}" for value in printed[:3]), str(printed[3])]) if printed else ""
        if "missing" in row:
            table.add_row(row["method"], plain(row["features"]), *[""] * 4, paper, "not run", "")
            continue
        scores, seconds = row["scores"], row["seconds"]
        shares = [f"{100 * scores[measure]:.2f}" for measure in ("precision", "recall", "f1")]
        times = [f"{seconds['fit']:.2f}", f"{1e3 * seconds['annotate_an_image']:.2f}"]
        if "f1_error" in scores:
            shares[2] += f" ± {100 * scores['f1_error']:.2f}"
        table.add_row(row["method"], plain(row["features"]), *shares, str(scores["n_plus"]), paper, *times)
    yield table
    yield "Seconds count from the features on. Chosen on a hold-out of the training images:"
    for row in result["rows"]:
        if row.get("chosen"):
            values = ", ".join(f"{name} = {value}" for name, value in row["chosen"].items())
            yield f"  {row['method']}, {plain(row['features'])}: {plain(values)} [dim](search {row['seconds']['search']} s)[/]"
    for row in result["rows"]:
        if "missing" in row:
            yield f"  [yellow]{row['method']}, {plain(row['features'])}: not run[/], {plain(row['missing'])}"


def some(words: Sequence[str]) -> str:
    return ", ".join(words[:10]) + (" …" if len(words) > 10 else "")


def printable(text: str) -> str:
    """Text that stays on its line, moves no cursor and colours nothing: control characters become ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() or sign == " " else sign.encode("unicode_escape").decode("ascii") for sign in text)


def plain(text: object) -> str:
    """Text for rich to print as it is: a word or path in square brackets is not markup."""
    return escape(str(text))


def chosen_line(annotator: Annotator) -> str | None:
    """What a fit chose by leave-one-out, in words; None where it had nothing to choose."""
    chosen, config = annotator.words.head.chosen, annotator.config
    if chosen is None:
        return None
    parts = [f"regularisation {chosen.regularisation:.4g}"] if config.regularisation is None else []
    if config.balance is None and config.objective == "images":
        parts.append(f"balance {chosen.balance:.2f}")
    if chosen.threshold is not None:
        parts.append(f"words of confidence ≥ {chosen.threshold:.2f}, one at least and {chosen.words} at most")
    return f"chosen by leave-one-out for the objective {config.objective!r}: {', '.join(parts)}" if parts else None
