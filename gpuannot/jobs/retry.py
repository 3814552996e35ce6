"""Inputs of whole parts that failed, tried again: the part gets the rows of those that are readable now, and keeps its others."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np

from ..model.annotations import Annotations
from ..model.word_model import WordModel
from ..system.timing import StageTimer
from .part_folder import PartFolder
from .part_writer import PartWriter
from .pipeline import Batch, BatchDone, Decoding, annotated
from .readers import annotations_of, rows_of


def retry_parts(
    model: WordModel,
    folder: PartFolder,
    numbers: Iterable[int],
    *,
    threads: int,
    processes: bool = False,
    timer: StageTimer | None = None,
) -> Generator[BatchDone]:
    """Annotate the inputs of whole parts that have no row, and write those parts anew; one result for each batch, in order.

    Args:
        numbers: of the parts, which are whole.
        model, folder, threads, processes, timer: as for :func:`~gpuannot.jobs.pipeline.annotate_parts`.

    Raises:
        DeviceError, OutputError: as that.
    """
    timer, settings = timer or StageTimer(), folder.settings
    decoding = Decoding(threads, processes, settings.decoder, settings.cpu_share)
    under_way: deque[tuple[int, list[int], bool]] = deque()  # part, places in it, whether these are its last
    parts: list[Annotations] = []
    batches = _failed(folder, numbers, under_way)
    with closing(annotated(model, batches, settings.k, decoding, vectors=settings.vectors, timer=timer)) as found:
        for batch in found:
            number, places, last = under_way.popleft()
            annotations = batch.annotations(model, settings.threshold, timer)
            parts.append(replace(annotations, positions=np.array(places, np.int64)[annotations.positions]))
            if last:
                with timer.measure("write"), folder.telling():
                    _write(model, folder, number, parts)
                parts = []
            yield BatchDone(batch.inputs, batch.decoded.failures)


def _failed(folder: PartFolder, numbers: Iterable[int], under_way: deque[tuple[int, list[int], bool]]) -> Iterator[Batch]:
    """Batches of the failed inputs of some parts, none of two parts."""
    size = folder.settings.batch_size
    for number in numbers:
        done, inputs = folder.done(number), folder.inputs.part(number)
        failed = list(done.failed) if done is not None else []
        for start in range(0, len(failed), size):
            places = failed[start : start + size]
            under_way.append((number, places, start + size >= len(failed)))
            yield 0, [(inputs[place].name, inputs[place]) for place in places]


def _write(model: WordModel, folder: PartFolder, number: int, parts: list[Annotations]) -> None:
    """Write a part of its old rows and what was found now, in the batches in which an undisturbed run would have written it."""
    settings, names = folder.settings, [item.name for item in folder.inputs.part(number)]
    done = folder.done(number)
    assert done is not None
    now = {place: (part, row) for part in parts for row, place in enumerate(part.positions.tolist())}
    failures = iter([failure for part in parts for failure in part.failures])
    failed = set(done.failed)
    rows = rows_of(folder.part_path(number), vectors=settings.vectors)
    columns = {word: column for column, word in enumerate(model.vocabulary)}
    with PartWriter(folder, number, model.encoder.dimension) as writer:
        for start in range(0, len(names), settings.batch_size):
            places = range(start, min(start + settings.batch_size, len(names)))
            old = [place for place in places if place not in failed]
            pieces = [
                annotations_of(
                    [next(rows) for _ in old], [names[place] for place in old], columns, model.vocabulary, settings.k,
                    confident=settings.confidence, vectors=model.encoder.dimension if settings.vectors else None,
                )
            ]  # fmt: skip
            new = [place for place in places if place in now]
            pieces += [part.at([row]) for part, row in (now[place] for place in new)]
            lost = tuple(next(failures) for place in places if place in failed and place not in now)
            there = np.array([*old, *new], dtype=np.int64)
            joined = replace(Annotations.joined(pieces, model.vocabulary, settings.k), positions=there)
            writer.write(replace(joined.at(np.argsort(there).tolist()), failures=lost), start, len(places))
        writer.commit(done)
