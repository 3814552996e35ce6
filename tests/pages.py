"""The code blocks of the documentation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

MarkdownIt = pytest.importorskip("markdown_it", reason="needs markdown-it-py, which the test extra brings").MarkdownIt

NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*")
NEEDS_GPU = "needs a GPU"


class Block(NamedTuple):
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def runs(self) -> bool:
        return self.not_run is None or (self.not_run == NEEDS_GPU and torch.cuda.is_available())


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    before = ""
    for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        if token.type == "fence" and token.info in ("sh", "python"):
            marked = NOT_RUN.fullmatch(before)
            found.append(Block((token.map or [0])[0] + 1, token.info, token.content, marked[1] if marked else None))
        if token.nesting == 0 or token.type.endswith("_open"):
            before = token.content if token.type == "html_block" else ""
    return found
