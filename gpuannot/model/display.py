"""What a terminal and a notebook show of an annotator and of annotations: one screen of each."""

from __future__ import annotations

import dataclasses
import math
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from ..config import AnnotatorConfig
from ..errors import counted
from ..images.input import utf8

if TYPE_CHECKING:
    from .annotations import Annotations
    from .word_model import WordModel

_LEFT = 'style="text-align:left"'
_IMAGES, _FAILURES, _WORDS = 10, 3, 8  # shown of each


def annotations_text(found: Annotations) -> str:
    """A line an image: its name and its words, those that are weak in brackets."""
    lines = [_heading(found)]
    shown = _first(found).by_confidence()
    names = [cut(name) for name in shown.names]
    width = max(map(len, names), default=0)
    for row, name in enumerate(names):
        words = [f"({text})" if weak else text for text, weak in _words(shown, row)]
        lines.append(f"  {name.ljust(width)}  {', '.join(words) or 'no word'}")
    lines += [f"  … and {counted(len(found) - len(names), 'more image')}"] if len(found) > len(names) else []
    lines += [f"  failed: {cut(failure.path)}: {failure.reason}" for failure in found.failures[:_FAILURES]]
    return "\n".join(lines)


def annotations_html(found: Annotations) -> str:
    """The same as a table, with what is weak in grey."""
    shown = _first(found).by_confidence()
    rows = []
    for row, name in enumerate(shown.names):
        words = [
            f'<span style="opacity:{0.5 if weak else 1}">{escape(text)}</span>' for text, weak in _words(shown, row)
        ]  # fmt: skip
        rows.append(
            f'<tr><td {_LEFT} title="{escape(utf8(name))}">{escape(cut(name))}</td>'
            f"<td {_LEFT}>{', '.join(words) or 'no word'}</td></tr>"
        )
    if len(found) > len(shown):
        rows.append(f'<tr><td colspan="2" {_LEFT}>… and {counted(len(found) - len(shown), "more image")}</td></tr>')
    rows += [
        f"<tr><td {_LEFT}>{escape(cut(failure.path))}</td><td {_LEFT}>failed: {escape(failure.reason)}</td></tr>"
        for failure in found.failures[:_FAILURES]
    ]
    return f"<div><p>{escape(_heading(found))}</p><table>{''.join(rows)}</table></div>"


def model_text(model: WordModel) -> str:
    """The settings that are not the preset ``paper``'s, and what was learnt."""
    facts = _facts(model)
    width = max(len(name) for name, _ in facts)
    return "\n".join([_call(model), *(f"  {name.ljust(width)}  {value}" for name, value in facts)])


def model_html(model: WordModel) -> str:
    """The same as a table."""
    rows = "".join(f"<tr><th {_LEFT}>{escape(name)}</th><td {_LEFT}>{escape(value)}</td></tr>" for name, value in _facts(model))
    return f"<div><code>{escape(_call(model))}</code><table>{rows}</table></div>"


def cut(text: str, length: int = 48) -> str:
    """A path that fits, cut in the middle: folders tell less than the name of the file."""
    text = utf8(text)
    if len(text) <= length:
        return text
    tail = min(len(text.rpartition("/")[2]) + 1, 2 * length // 3)
    return f"{text[: length - tail - 1]}…{text[-tail:]}"


def _call(model: WordModel) -> str:
    usual = AnnotatorConfig()
    changed = [
        f"{field.name}={getattr(model.config, field.name)!r}"
        for field in dataclasses.fields(usual)
        if getattr(model.config, field.name) != getattr(usual, field.name)
    ]
    return f"Annotator({', '.join(changed)})"


def _facts(model: WordModel) -> list[tuple[str, str]]:
    if not hasattr(model, "bank_"):
        return [("state", "nothing learnt yet: call fit"), ("device", str(model.device))]
    bank = model.bank_
    order = np.argsort(-bank.counts, kind="stable")[:_WORDS]
    some = ", ".join(f"{bank.vocabulary[number]} {bank.counts[number]}" for number in order)
    more = f" … and {len(bank.vocabulary) - _WORDS} more" if len(bank.vocabulary) > _WORDS else ""
    trunk = "" if model.config.trunk == "vgg16" else f" of {model.config.trunk}"
    size = model.config.input_size
    facts = [
        ("words", f"{len(bank.vocabulary)}, with images of each: {some}{more}"),
        ("vectors", f"{model.encoder.dimension} values of {model.config.layer}{trunk} at {size} × {size}"),
    ]
    threshold = model.ranker.weak_below(bank)
    if threshold is None:
        facts.append(("confidences", f"none; the heads 'ridge' and 'kernel' give them, this one is {model.config.head!r}"))
    else:
        facts.append(("confidences", f"yes; a word is weak below {threshold:.2f}"))
    return [*facts, ("device", str(model.device))]


def _heading(found: Annotations) -> str:
    failed = f", {len(found.failures)} failed" if found.failures else ""
    weak = "" if found.confidence is None or found.weak_below is None else f"; weak is a confidence below {found.weak_below:.2f}"
    return f"Annotations of {counted(len(found), 'image')}{failed}{weak}"


def _first(found: Annotations) -> Annotations:
    return found.at(range(min(_IMAGES, len(found))))


def _words(found: Annotations, row: int) -> list[tuple[str, bool]]:
    """The first words of an image with their confidence, and whether each is weak."""
    shown = []
    for place, word in enumerate(found.words[row][:_WORDS]):
        confidence = math.nan if found.confidence is None else float(found.confidence[row, place])
        if math.isnan(confidence):
            shown.append((word, False))
            continue
        shown.append((f"{word} {confidence:.2f}", found.weak_below is not None and confidence < found.weak_below))
    left = len(found.words[row]) - _WORDS
    return [*shown, (f"… {left} more", False)] if left > 0 else shown
