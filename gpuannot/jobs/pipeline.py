"""The work of a batch run: reader → mapper → writer over the parts of a :class:`PartFolder`.

The reader's thread takes the inputs part by part and has them decoded ahead by a pool; the calling thread runs trunk and ranking;
the writer's thread puts the rows into parts. A bounded number of batches is in flight, so memory does not grow with the number of
inputs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..images.batches import DecodedBatch, ImageFailure, decode_ahead
from ..images.gpu import open_decoder
from ..images.input import Input
from ..model.annotations import Annotations
from ..system.timing import StageTimer
from .part_folder import PartFolder, PartWriter, RunSettings

if TYPE_CHECKING:
    from ..annotator import Annotator

_DECODED_AHEAD = 2  # decoded batches that wait for the trunk, beside those that the decoder works on
_WRITES_BEHIND = 4  # annotated batches that wait for the writer

T = TypeVar("T")


class BatchDone(NamedTuple):
    """A batch that went through the trunk: how many inputs it had, and those that failed."""

    inputs: int
    failures: tuple[ImageFailure, ...]


@dataclass
class RunUsage:
    """Who does a run: processes, their threads that read and decode in all, and the largest one's peak memory in bytes."""

    workers: int
    threads: int
    peak_memory: int | None


def annotate_parts(
    annotator: Annotator,
    folder: PartFolder,
    numbers: Iterable[int],
    *,
    threads: int,
    processes: bool = False,
    timer: StageTimer | None = None,
) -> Generator[BatchDone]:
    """Annotate the inputs of some parts of a run and write those parts; one result for each batch, in order.

    What is written depends on the model, the run's settings and those parts' inputs alone: any worker can do any part.
    A part is on the disk, whole, some batches after its last one, and at the latest when the generator ends; closing it early drops
    the parts in flight. A part that is there is replaced. ``threads`` read and decode, with ``processes`` in a process each.

    Raises:
        DeviceError: decode processes do not start, or the run's JPEG decoder is not usable here.
        OutputError: a part cannot be written.
    """
    timer = timer or StageTimer()
    settings = folder.settings
    mapper = _Mapper(annotator, settings)
    config = annotator.config
    gpu = open_decoder(settings.decoder, annotator.device, config.input_size, config.interpolation, settings.cpu_share)
    decoding = partial(
        decode_ahead, size=config.input_size, workers=threads, interpolation=config.interpolation, timer=timer, pin=mapper.pin,
        processes=processes, gpu=gpu,
    )  # fmt: skip
    reader = _ahead(_decoded(folder, numbers, decoding), _DECODED_AHEAD)
    with closing(reader), _Sink(folder, annotator, timer) as sink:
        while True:
            with timer.measure("wait for input"):
                item = next(reader, None)
            if item is None:
                break
            with timer.measure("trunk"):
                mapped = mapper(item.decoded)
            with timer.measure("wait for output"):
                sink.put(item, mapped)
            yield BatchDone(item.inputs, item.decoded.failures)
        with timer.measure("wait for output"):
            sink.drain()


class _Item(NamedTuple):
    """A decoded batch: of ``part``, which has ``part_inputs`` inputs, ``inputs`` from ``start`` on."""

    part: int
    part_inputs: int
    start: int
    inputs: int
    decoded: DecodedBatch


def _decoded(
    folder: PartFolder, numbers: Iterable[int], decoding: Callable[[Iterable[Any]], Generator[DecodedBatch]]
) -> Generator[_Item]:
    """The reader: decoded batches of some parts. A batch never holds inputs of two parts, so each part has the same ones always."""
    size = folder.settings.batch_size
    upcoming: deque[tuple[int, int, int, int]] = deque()

    def named() -> Iterator[list[tuple[str, Input]]]:
        for number in numbers:
            inputs = folder.inputs.part(number)
            for start in range(0, len(inputs), size):
                chunk = inputs[start : start + size]
                upcoming.append((number, len(inputs), start, len(chunk)))
                yield [(item.name, item) for item in chunk]

    with closing(decoding(named())) as batches:
        for decoded in batches:
            yield _Item(*upcoming.popleft(), decoded)


def _ahead(items: Generator[T], count: int) -> Generator[T]:
    """``items``, produced in a thread of their own, up to ``count`` ahead."""
    end: Any = object()
    with ThreadPoolExecutor(1, thread_name_prefix="gpuannot-read") as thread:
        waiting: deque[Future[T]] = deque(thread.submit(next, items, end) for _ in range(count))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, items, end))
                yield item
        finally:
            for future in waiting:
                future.cancel()
            thread.submit(items.close).result()


@dataclass(frozen=True)
class _Mapped:
    """What a batch gave, on its way to the host."""

    index: Tensor
    distance: Tensor
    vectors: Tensor | None
    there: torch.cuda.Event | None


class _Mapper:
    """The mapper: trunk, VLAD and ranking of a batch. On a GPU copies run on a stream of their own, and nothing here waits."""

    def __init__(self, annotator: Annotator, settings: RunSettings) -> None:
        self._annotator, self._k, self._vectors = annotator, settings.k, settings.vectors
        self.pin = annotator.device.type == "cuda"
        self._copies = torch.cuda.Stream(annotator.device) if self.pin else None

    def __call__(self, decoded: DecodedBatch) -> _Mapped:
        annotator, images = self._annotator, decoded.pixels
        if not len(images):
            empty = torch.empty((0, self._k))
            vectors = torch.empty((0, annotator.dimension)) if self._vectors else None
            return _Mapped(empty.long(), empty, vectors, None)
        if self._copies is not None:
            current = torch.cuda.current_stream(annotator.device)
            if not images.is_cuda:
                with torch.cuda.stream(self._copies):
                    images = images.to(annotator.device, non_blocking=True)
                current.wait_stream(self._copies)
            images.record_stream(current)
        encoded = annotator.encode_tensor(images)
        index, distance = annotator.nearest_words(encoded, self._k)
        found = [index, distance, *((encoded,) if self._vectors else ())]
        event = None
        if self.pin:
            found = [part.to("cpu", non_blocking=True) for part in found]
            event = torch.cuda.Event()
            event.record()
        return _Mapped(found[0], found[1], found[2] if self._vectors else None, event)


class _Sink:
    """The writer: a thread that puts batches, in order, into the part they belong to."""

    def __init__(self, folder: PartFolder, annotator: Annotator, timer: StageTimer) -> None:
        self._folder, self._clock = folder, timer
        self._dimension, self._vocabulary, self._confidence = annotator.dimension, annotator.vocabulary, annotator.confidence
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gpuannot-write")
        self._waiting: deque[Future[None]] = deque()
        self._part: PartWriter | None = None
        self._broken = False

    def put(self, item: _Item, mapped: _Mapped) -> None:
        """Queue a batch; waits while too many are queued. Raises what an earlier one ran into."""
        self._waiting.append(self._thread.submit(self._write, item, mapped))
        while len(self._waiting) > _WRITES_BEHIND or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def drain(self) -> None:
        while self._waiting:
            self._waiting.popleft().result()

    def _write(self, item: _Item, mapped: _Mapped) -> None:
        if self._broken:  # put or drain raises why; a part must not go on without what was lost
            return
        self._broken = True
        if mapped.there is not None:
            with self._clock.measure("wait for GPU"):
                mapped.there.synchronize()
        with self._clock.measure("write"), self._folder.telling():
            if self._part is None:
                self._part = PartWriter(self._folder, item.part, self._dimension)
            self._part.write(self._annotations(item, mapped))
            if item.start + item.inputs == item.part_inputs:
                part, self._part = self._part, None
                with part:
                    part.commit(item.part_inputs)
        self._broken = False

    def _annotations(self, item: _Item, mapped: _Mapped) -> Annotations:
        decoded, settings = item.decoded, self._folder.settings
        index, distance = mapped.index.numpy(), mapped.distance.numpy()
        annotations = Annotations(
            names=decoded.names,
            positions=item.part * settings.part_size + item.start + decoded.kept,
            index=index,
            distance=distance,
            vocabulary=self._vocabulary,
            failures=decoded.failures,
            vectors=None if mapped.vectors is None else mapped.vectors.numpy(),
            confidence=self._confidence(index, distance),
        )
        return annotations if settings.threshold is None else annotations.likely(settings.threshold)

    def __enter__(self) -> _Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._part is not None:
            self._part.__exit__(None, None, None)


def limiting_stage(timer: StageTimer) -> str:
    """The stage that the others wait for, by what the calling thread spends its time on."""
    spent = {stage: timer.seconds(stage) for stage in ("wait for input", "trunk", "wait for output")}
    longest = max(spent, key=lambda stage: spent[stage])
    if longest == "wait for input":
        return "read" if timer.seconds("read") > timer.seconds("decode") else "decode"
    if longest == "wait for output":
        return "trunk" if timer.seconds("wait for GPU") > timer.seconds("write") else "write"
    return "trunk"
