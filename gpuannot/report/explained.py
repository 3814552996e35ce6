"""``gpuannot explain``: a folder of pictures, one a word of a photograph, and a page that shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..images.decode_task import ImageFailure
from ..images.input import utf8
from ..model.explain import PALETTE, Explanation
from ..system.atomic_files import write_whole
from .page import environment, style

_LONGEST = 60  # signs of a file name that a photograph's name or a word may take


def write_explanations(
    folder: Path,
    explained: Iterable[tuple[Explanation, Any]],
    *,
    failures: Sequence[ImageFailure] = (),
    title: str = "Where words were seen",
    against: bool = False,
) -> list[list[str]]:
    """Write ``PHOTO-1-WORD.png`` for the first word of each photograph and so on, and ``index.html``.

    Args:
        folder: that exists.
        explained: explanations, each with its image.
        failures: to be listed on the page.
        title: of the page.
        against: show what speaks against a word too, in blue.

    Returns:
        for each photograph the names of its pictures.
    """
    taken: set[str] = set()
    photos, pictures = [], []
    for explanation, image in explained:
        stem = _free(_in_file_names(Path(explanation.name).stem) or "image", taken)
        names = [f"{stem}-{place}-{_in_file_names(word)}.png" for place, word in enumerate(explanation.words, 1)]
        for place, name in enumerate(names):
            explanation.overlay(image, place, against=against).save(folder / name)
        words = [{"text": word, "link": quote(name)} for word, name in zip(explanation.words, names, strict=True)]
        photos.append({"name": utf8(explanation.name), "words": words})
        pictures.append(names)
    colours = ", ".join(f"rgb{colour}" for colour in PALETTE)
    page = (
        environment()
        .get_template("explained.html")
        .render(
            title=title,
            photos=photos,
            failures=[{"path": utf8(failure.path), "reason": failure.reason} for failure in failures],
            against=against,
            style=style("base.css", "explained.css", more=f".palette {{ background: linear-gradient(to right, {colours}); }}"),
        )
    )
    write_whole(folder / "index.html", page.encode())
    return pictures


def _in_file_names(text: str) -> str:
    """A name or word as part of a file name that every system takes."""
    return "".join(sign if sign.isalnum() else "_" for sign in text)[:_LONGEST]


def _free(stem: str, taken: set[str]) -> str:
    """``stem``, or where another photograph has it, in capitals or not, ``stem-2`` and so on."""
    number, free = 1, stem
    while free.casefold() in taken:
        number += 1
        free = f"{stem}-{number}"
    taken.add(free.casefold())
    return free
