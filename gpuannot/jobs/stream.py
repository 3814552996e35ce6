"""Annotations batch by batch, in memory: a folder, list or table of any length is never held whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ..images.gpu import choose_decoder
from ..images.inputs import Images, Inputs, as_sequence, find_lazily, image_name
from ..model.annotations import Annotations
from ..model.word_model import WordModel
from ..system.progress import progress_bar
from ..system.threads import cpus
from .pipeline import Batch, Decoding, annotated, in_memory


def annotate_stream(
    model: WordModel, images: Images, k: int | None, *, threshold: float | None, decode: str, progress: bool | None
) -> Iterator[Annotations]:
    """:meth:`gpuannot.Annotator.stream`, which says what the arguments mean."""
    k, threshold = model.check_giving(k, threshold)
    config, threads = model.config, cpus()
    decoding = Decoding(threads, False, *choose_decoder(decode, model.device, config.input_size, config.interpolation, threads))
    if isinstance(images, (str, Path, Inputs)):
        total, batches = None, _listed(find_lazily(images), config.batch_size)
    else:
        sources = as_sequence(images)
        total, batches = len(sources), _held(sources, config.batch_size)
    return _counted(in_memory(annotated(model, batches, k, decoding), model, threshold), total, progress)


def _counted(parts: Iterator[Annotations], total: int | None, progress: bool | None) -> Iterator[Annotations]:
    with progress_bar("annotate", total, progress) as bar:
        for part in parts:
            yield part
            bar.update(len(part.names) + len(part.failures))


def _listed(inputs: Iterable[Any], size: int) -> Iterator[Batch]:
    remaining, start = iter(inputs), 0
    while batch := list(islice(remaining, size)):
        yield start, [(image_name(item, f"image {start + place}"), item) for place, item in enumerate(batch)]
        start += len(batch)


def _held(sources: Sequence[Any], size: int) -> Iterator[Batch]:
    """Of a sequence, which may load on access: an image is taken when its turn comes, once."""
    for start in range(0, len(sources), size):
        positions = range(start, min(start + size, len(sources)))
        batch = ((position, sources[position]) for position in positions)
        yield start, [(image_name(source, f"image {position}"), source) for position, source in batch]
