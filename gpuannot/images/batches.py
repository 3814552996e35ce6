"""Decoded batches of images, read ahead by threads. A bad image becomes one `ImageFailure`: it never takes good ones down."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ImageError, InvalidArgumentError
from ..system.partitions import spans
from ..system.threads import cpus
from ..system.timing import StageTimer
from .containers import Containers
from .decode import INTERPOLATIONS, ImageSource
from .decode_task import DecodeTask, ImageFailure, JpegForGpu, Outcome, decode_into
from .gpu import GpuDecoder
from .input import Input, image_name
from .inputs import check_sequence
from .processes import CHUNK, DecodeProcesses

__all__ = ["DecodedBatch", "ImageBatches", "decode_ahead"]

_BATCHES_AHEAD = 2


class ImageBatches:
    """Decoded batches of ``images``, in input order, read ahead by threads; can be iterated any number of times.

    Each item is (index, batch): the positions in ``images`` that decoded, (B,) int64, and their pixels, (B, 3, size, size) uint8 in
    channels-last memory. Batch j holds inputs j·batch_size to (j+1)·batch_size - 1 without the failed ones; a batch with none left
    is not yielded, so the content of a batch never depends on ``workers``. ``len()`` is the number of inputs.

    At most two batches are decoded ahead; leaving the loop early drops what is queued. An image is taken from ``images`` when its
    turn comes, so a sequence that loads on access is never held whole. A PIL image that was opened lazily keeps its pixels once
    decoded: for many files pass paths.

    Args:
        images: a sequence of `Input` objects and `decode_image` sources, or a tensor (N, 3, H, W) uint8, or an array (N, H, W, 3)
            uint8.
        size: side in pixels that images are warped to.
        batch_size: inputs of a batch.
        workers: threads that decode; None takes one for each CPU that this process may use.
        names: stand for the images in failures and errors.
        positions: (B,) int64, takes only those of the images, in that order; they are then what is batched and counted.
        interpolation: as for `decode_image`.
        within_partitions: batch ascending positions so that no batch lies in two partitions.
        on_error: ``skip`` lists failures in ``failures``; ``raise`` raises `ImageError` for the first failure in input order.

    Attributes:
        failures: what failed in the batches taken so far, in input order; each iteration starts a new list.

    Raises:
        TypeError: one image in place of a sequence.
        ValueError: an array or tensor of another shape, names of another number, or an argument out of range.
    """

    def __init__(
        self,
        images: Sequence[ImageSource | Input] | np.ndarray | torch.Tensor,
        *,
        size: int,
        batch_size: int = 32,
        workers: int | None = None,
        names: Sequence[str] | None = None,
        positions: NDArray[np.int64] | None = None,
        interpolation: str = "bicubic",
        within_partitions: bool = False,
        on_error: Literal["skip", "raise"] = "skip",
    ) -> None:
        check_sequence(images)
        workers = cpus() if workers is None else workers
        for what, value in (("size", size), ("batch_size", batch_size), ("workers", workers)):
            if operator.index(value) < 1:
                raise InvalidArgumentError(f"{what} is {value}; expected at least 1")
        if names is not None and len(names) != len(images):
            raise ValueError(f"{len(names)} names for {len(images)} images")
        if interpolation not in INTERPOLATIONS:
            raise InvalidArgumentError(f"interpolation {interpolation!r} is unknown; choose one of {', '.join(INTERPOLATIONS)}")
        if on_error not in ("skip", "raise"):
            raise InvalidArgumentError(f"on_error is {on_error!r}; expected 'skip' or 'raise'")
        self.images = images
        self.size = size
        self.batch_size = batch_size
        self.workers = workers
        self.names = names
        self.positions = np.arange(len(images), dtype=np.int64) if positions is None else positions
        self.on_error = on_error
        self.interpolation = interpolation
        self.within_partitions = within_partitions
        self.failures: list[ImageFailure] = []

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        self.failures = []
        return self._batches(self.failures)

    def _batches(self, failures: list[ImageFailure]) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        chunks = spans(self.positions, self.batch_size, self.within_partitions)
        named = (self._named(chunk) for chunk in chunks)
        decoded = decode_ahead(named, size=self.size, workers=self.workers, interpolation=self.interpolation)
        with closing(decoded):
            for chunk, batch in zip(chunks, decoded, strict=True):
                if batch.failures and self.on_error == "raise":
                    raise ImageError(batch.failures[0].path, batch.failures[0].reason)
                failures.extend(batch.failures)
                if len(batch.kept):
                    yield self.positions[chunk.start + batch.kept], batch.pixels

    def _named(self, chunk: slice) -> list[tuple[str, ImageSource | Input]]:
        named = []
        for position in self.positions[chunk].tolist():
            source = self.images[position]
            name = self.names[position] if self.names is not None else image_name(source, f"image {position}")
            named.append((name, source))
        return named


@dataclass(frozen=True)
class DecodedBatch:
    """What became of the inputs of one batch, in input order.

    Attributes:
        kept: (B,) int64, places in the batch of those that decoded.
        names: of those.
        pixels: (B, 3, S, S) uint8 in channels-last memory, on the GPU where a `GpuDecoder` took part.
        failures: of the others.
    """

    kept: np.ndarray
    names: tuple[str, ...]
    pixels: torch.Tensor
    failures: tuple[ImageFailure, ...]


def decode_ahead(
    batches: Iterable[Sequence[tuple[str, ImageSource | Input]]],
    *,
    size: int,
    workers: int,
    interpolation: str,
    timer: StageTimer | None = None,
    pin: bool = False,
    processes: bool = False,
    gpu: GpuDecoder | None = None,
) -> Generator[DecodedBatch]:
    """Read and decode batches in threads, at most two batches ahead; one result a batch, in order.

    Inputs of containers that can only be read in order are read by the thread that asks for a batch. Closing the generator drops
    what is queued.

    Args:
        batches: of (name, source) pairs.
        size: S, images are warped to S × S.
        workers: threads.
        interpolation: as for `decode_image`.
        timer: gets the seconds of reading and decoding.
        pin: put the pixels into page-locked memory, from which a GPU copies without a wait.
        processes: each thread decodes in a process of its own, to the same pixels.
        gpu: decodes its share of the JPEGs.

    Raises:
        DeviceError: decode processes do not start.
    """
    timer = timer or StageTimer()
    waiting: deque[tuple[np.ndarray, list[str], list[Future[list[Outcome]]]]] = deque()
    upcoming = iter(batches)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="gpuannot-decode")
    others = DecodeProcesses(size, interpolation) if processes else None

    def decode(out: np.ndarray, tasks: list[DecodeTask]) -> list[Outcome]:
        if others is not None:
            return others.decode(out, tasks, timer)
        return [decode_into(place, task, interpolation, timer) for place, task in zip(out, tasks, strict=True)]

    try:
        with Containers() as containers:
            while True:
                while len(waiting) <= _BATCHES_AHEAD and (batch := next(upcoming, None)) is not None:
                    pixels = np.empty((len(batch), size, size, 3), dtype=np.uint8)
                    chunk = min(CHUNK, -(-len(batch) // workers)) if processes else 1
                    futures = []
                    for start in range(0, len(batch), chunk):
                        tasks = []
                        for place, (name, source) in enumerate(batch[start : start + chunk], start):
                            for_gpu = gpu is not None and gpu.takes(place)
                            if isinstance(source, Input):
                                with timer.measure("read"):
                                    tasks.append(DecodeTask(name, containers.ready(source), for_gpu))
                            else:
                                tasks.append(DecodeTask(name, source, for_gpu))
                        futures.append(pool.submit(decode, pixels[start : start + chunk], tasks))
                    waiting.append((pixels, [name for name, _ in batch], futures))
                if not waiting:
                    return
                pixels, names, futures = waiting.popleft()
                outcomes = [outcome for future in futures for outcome in future.result()]
                yield _collected(pixels, names, outcomes, pin, gpu, timer)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if others is not None:
            others.close()


def _collected(
    pixels: np.ndarray, names: list[str], outcomes: list[Outcome], pin: bool, gpu: GpuDecoder | None, timer: StageTimer
) -> DecodedBatch:
    on_gpu: dict[int, torch.Tensor] = {}
    offered = {place: outcome for place, outcome in enumerate(outcomes) if isinstance(outcome, JpegForGpu)}
    if gpu is not None and offered:
        with timer.measure("decode"):
            on_gpu = gpu.decode(offered)
        for place, jpeg in offered.items():  # those that the GPU refused are the CPU's
            refused = DecodeTask(names[place], jpeg.content)
            outcomes[place] = None if place in on_gpu else decode_into(pixels[place], refused, gpu.interpolation, timer)
    kept = np.array([place for place, outcome in enumerate(outcomes) if outcome is None], dtype=np.int64)
    if len(kept) < len(outcomes):
        pixels = pixels[kept]
    failures = tuple(outcome for outcome in outcomes if isinstance(outcome, ImageFailure))
    images = torch.from_numpy(pixels)
    images = images.pin_memory() if pin else images
    if gpu is not None:
        images = gpu.join(images, {row: on_gpu[place] for row, place in enumerate(kept.tolist()) if place in on_gpu})
    return DecodedBatch(kept, tuple(names[place] for place in kept), images.permute(0, 3, 1, 2), failures)
