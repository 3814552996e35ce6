"""``Annotator.stream`` over what is found as it goes: a folder or list of any length is never held whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from ..images.input import Input
from ..model.annotations import Annotations
from ..system.progress import progress_bar

if TYPE_CHECKING:
    from ..annotator import Annotator

_BATCHES = 128  # listed at a time: decoding starts anew with each such piece


def stream_inputs(annotator: Annotator, inputs: Iterable[Input], k: int, progress: bool | None) -> Iterator[Annotations]:
    """Annotations of ``inputs``, batch by batch, in order; positions count the inputs. The bar knows no total."""
    remaining, before = iter(inputs), 0
    with progress_bar("annotate", None, progress) as bar:
        while piece := list(islice(remaining, _BATCHES * annotator.config.batch_size)):
            for part in annotator.stream(piece, k, progress=False):
                yield dataclasses.replace(part, positions=part.positions + before)
                bar.update(len(part.names) + len(part.failures))
            before += len(piece)
