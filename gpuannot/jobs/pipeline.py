"""One way from inputs to words: read → decode → trunk, VLAD and ranking → a sink, a bounded number of batches at a time.

A thread has batches decoded ahead by a pool; the caller's thread runs trunk and ranking; what comes out is in memory
(:mod:`gpuannot.jobs.stream`), in one file (:func:`write_in_background`), or in the parts of a folder (:func:`annotate_parts`).
Memory does not grow with the number of inputs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from ..images.batches import DecodedBatch, ImageFailure, decode_ahead
from ..images.gpu import CPU, open_decoder
from ..model.annotations import Annotations
from ..model.word_model import WordModel
from ..system.timing import StageTimer
from .part_folder import PartFolder
from .part_writer import PartWriter

_DECODED_AHEAD = 2  # decoded batches that wait for the trunk, beside those that the decoder works on
_BEHIND = 4  # annotated batches that wait for what takes them

Batch: TypeAlias = tuple[int, Sequence[tuple[str, Any]]]
"""Some inputs that are annotated together: the position of the first, and the name and source of each."""

T = TypeVar("T")


@dataclass(frozen=True)
class Decoding:
    """How images are decoded.

    Attributes:
        threads: that read and decode.
        processes: each thread decodes in a process of its own.
        decoder: of JPEGs, as :func:`~gpuannot.images.gpu.choose_decoder` names it.
        cpu_share: of the JPEGs that a GPU's decoder leaves to the CPU.
    """

    threads: int
    processes: bool = False
    decoder: str = CPU
    cpu_share: float = 0.0


@dataclass(frozen=True)
class _Found:
    index: Tensor  # (B, k) int64
    distance: Tensor  # (B, k) float32
    vectors: Tensor | None  # (B, D) float32, where asked for
    there: torch.cuda.Event | None  # says that the others are on the host


@dataclass(frozen=True)
class Annotated:
    """A batch on its way back from the device; :meth:`annotations` waits for it.

    Attributes:
        start: position of its first input.
        inputs: how many it had.
        decoded: what became of them.
        found: on its way to the host.
    """

    start: int
    inputs: int
    decoded: DecodedBatch
    found: _Found

    def annotations(self, model: WordModel, threshold: float | None, timer: StageTimer) -> Annotations:
        """The words of its images, as :meth:`gpuannot.Annotator.stream` gives them."""
        index, distance = self.found.index, self.found.distance
        if self.found.there is not None:
            with timer.measure("wait for GPU"):
                self.found.there.synchronize()
        annotations = Annotations(
            names=self.decoded.names,
            positions=self.start + self.decoded.kept,
            index=index.numpy(),
            distance=distance.numpy(),
            vocabulary=model.vocabulary,
            failures=self.decoded.failures,
            vectors=None if self.found.vectors is None else self.found.vectors.numpy(),
            confidence=model.confidence(index.numpy(), distance.numpy()),
            weak_below=model.ranker.weak_below(model.bank_),
        )
        return annotations if threshold is None else annotations.likely(threshold)


def annotated(
    model: WordModel,
    batches: Iterable[Batch],
    k: int,
    decoding: Decoding,
    *,
    vectors: bool = False,
    timer: StageTimer | None = None,
) -> Generator[Annotated]:
    """Annotate batches, in order. On a GPU nothing here waits for it. Closing the generator drops what is under way.

    Args:
        model: fitted.
        batches: of any number, taken as they are needed, in another thread.
        k: words for each image.
        decoding: how.
        vectors: also give the image vectors.
        timer: gets the seconds of each stage.

    Raises:
        DeviceError: decode processes do not start, or the decoder is not usable here.
    """
    timer = timer or StageTimer()
    config, upcoming = model.config, deque[tuple[int, int]]()

    def sources() -> Iterator[Sequence[tuple[str, Any]]]:
        for start, batch in batches:
            upcoming.append((start, len(batch)))
            yield batch

    mapper = _Mapper(model, k, vectors)
    decoded = decode_ahead(
        sources(), size=config.input_size, workers=decoding.threads, interpolation=config.interpolation, timer=timer,
        pin=mapper.pin, processes=decoding.processes,
        gpu=open_decoder(decoding.decoder, model.device, config.input_size, config.interpolation, decoding.cpu_share),
    )  # fmt: skip
    with closing(_ahead(decoded, _DECODED_AHEAD)) as reader:
        while True:
            with timer.measure("wait for input"):
                batch = next(reader, None)
            if batch is None:
                return
            with timer.measure("trunk"):
                mapped = mapper(batch)
            yield Annotated(*upcoming.popleft(), batch, mapped)


def in_memory(found: Generator[Annotated], model: WordModel, threshold: float | None) -> Generator[Annotations]:
    """The sink in memory: annotations batch by batch, a few of them behind the GPU."""
    timer, under_way = StageTimer(), deque[Annotated]()
    with closing(found):
        for batch in found:
            under_way.append(batch)
            while under_way and (under_way[0].found.there is None or len(under_way) > _BEHIND):
                yield under_way.popleft().annotations(model, threshold, timer)
        for batch in under_way:
            yield batch.annotations(model, threshold, timer)


@contextmanager
def write_in_background(write: Callable[[T], None]) -> Iterator[Callable[[T], None]]:
    """A function that has ``write`` called with what it is given, in order, in another thread; it waits while too much is queued.

    It raises what an earlier call ran into, and so does the end of the ``with`` block, by which all is written. After an error
    nothing more is.
    """
    waiting, broken = deque[Future[None]](), False

    def in_turn(item: T) -> None:
        nonlocal broken
        if broken:  # put or the end raises why; what follows must not go on without what was lost
            return
        broken = True
        write(item)
        broken = False

    def put(item: T) -> None:
        waiting.append(thread.submit(in_turn, item))
        while len(waiting) > _BEHIND or (waiting and waiting[0].done()):
            waiting.popleft().result()

    thread = ThreadPoolExecutor(1, thread_name_prefix="gpuannot-write")
    try:
        yield put
        while waiting:
            waiting.popleft().result()
    finally:
        thread.shutdown(wait=True, cancel_futures=True)


@dataclass
class RunUsage:
    """What a run makes use of.

    Attributes:
        workers: processes that do the work.
        threads: of theirs that read and decode, in all.
        peak_memory: bytes, of the largest worker; None where the system does not say.
    """

    workers: int
    threads: int
    peak_memory: int | None


class BatchDone(NamedTuple):
    """A batch that was annotated: how many inputs it had, and those that failed."""

    inputs: int
    failures: tuple[ImageFailure, ...]


def annotate_parts(
    model: WordModel,
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
    the parts in flight. A part that is there is replaced.

    Args:
        model: fitted.
        folder: of a run that was begun.
        numbers: of the parts.
        threads: that read and decode.
        processes: each in a process of its own.
        timer: gets the seconds of each stage.

    Raises:
        DeviceError: decode processes do not start, or the run's JPEG decoder is not usable here.
        OutputError: a part cannot be written.
    """
    timer, settings = timer or StageTimer(), folder.settings
    decoding = Decoding(threads, processes, settings.decoder, settings.cpu_share)
    found = annotated(model, _batches_of(folder, numbers), settings.k, decoding, vectors=settings.vectors, timer=timer)
    with closing(found), _PartSink(folder, model, timer) as sink, write_in_background(sink.write) as put:
        for batch in found:
            with timer.measure("wait for output"):
                put(batch)
            yield BatchDone(batch.inputs, batch.decoded.failures)
        # The last of what waits for the disk is waited for as the block ends.


def _batches_of(folder: PartFolder, numbers: Iterable[int]) -> Iterator[Batch]:
    """The inputs of some parts. A batch never holds inputs of two parts, so each part has the same batches always."""
    size = folder.settings.batch_size
    for number in numbers:
        first, inputs = folder.inputs.starts[number], folder.inputs.part(number)
        for start in range(0, len(inputs), size):
            yield first + start, [(item.name, item) for item in inputs[start : start + size]]


class _PartSink:
    """Puts batches, in order, into the part they belong to."""

    def __init__(self, folder: PartFolder, model: WordModel, timer: StageTimer) -> None:
        self._folder, self._model, self._timer = folder, model, timer
        self._part: PartWriter | None = None

    def write(self, batch: Annotated) -> None:
        folder, settings = self._folder, self._folder.settings
        annotations = batch.annotations(self._model, settings.threshold, self._timer)
        with self._timer.measure("write"), folder.telling():
            number = folder.inputs.part_of(batch.start)
            if self._part is None:
                self._part = PartWriter(folder, number, self._model.encoder.dimension)
            first, end = folder.inputs.starts[number : number + 2]
            self._part.write(replace(annotations, positions=annotations.positions - first), batch.start - first, batch.inputs)
            if batch.start + batch.inputs == end:
                part, self._part = self._part, None
                with part:
                    part.commit()

    def __enter__(self) -> _PartSink:
        return self

    def __exit__(self, *_: object) -> None:
        if self._part is not None:
            self._part.__exit__(None, None, None)


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


class _Mapper:
    """Trunk, VLAD and ranking of a batch. On a GPU copies run on a stream of their own, and nothing here waits."""

    def __init__(self, model: WordModel, k: int, vectors: bool) -> None:
        self._model, self._k, self._vectors = model, k, vectors
        self.pin = model.device.type == "cuda"
        self._copies = torch.cuda.Stream(model.device) if self.pin else None

    def __call__(self, decoded: DecodedBatch) -> _Found:
        model, images = self._model, decoded.pixels
        if not len(images):
            empty = torch.empty((0, self._k))
            return _Found(empty.long(), empty, torch.empty((0, model.encoder.dimension)) if self._vectors else None, None)
        if self._copies is not None:
            current = torch.cuda.current_stream(model.device)
            if not images.is_cuda:
                with torch.cuda.stream(self._copies):
                    images = images.to(model.device, non_blocking=True)
                current.wait_stream(self._copies)
            images.record_stream(current)
        encoded = model.encoder.encode_tensor(images)
        index, distance = model.nearest_words(encoded, self._k)
        found = [index, distance, *((encoded,) if self._vectors else ())]
        event = None
        if self.pin:
            found = [part.to("cpu", non_blocking=True) for part in found]
            event = torch.cuda.Event()
            # Without it, on the current stream of the current device, which may be another one.
            event.record(torch.cuda.current_stream(model.device))
        return _Found(found[0], found[1], found[2] if self._vectors else None, event)


def limiting_stage(timer: StageTimer) -> str:
    """The stage that the others wait for, by what the calling thread spends its time on."""
    spent = {stage: timer.seconds(stage) for stage in ("wait for input", "trunk", "wait for output")}
    longest = max(spent, key=lambda stage: spent[stage])
    if longest == "wait for input":
        return "read" if timer.seconds("read") > timer.seconds("decode") else "decode"
    if longest == "wait for output":
        return "trunk" if timer.seconds("wait for GPU") > timer.seconds("write") else "write"
    return "trunk"
