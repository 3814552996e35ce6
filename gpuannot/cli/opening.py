"""Opening a model for a command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..annotator import Annotator


def open_model(model: Path, weights: str | None, convention: str | None, device: str) -> Annotator:
    """:meth:`Annotator.load`, but what is no model is told of before torch is imported, which takes longer than all else."""
    from ..model.header import read_vocabulary

    read_vocabulary(model)
    from ..annotator import Annotator

    return Annotator.load(model, weights=weights, weights_convention=convention, device=device)
