"""Batch annotation over Dask workers: parts are tasks, any worker can do any of them, and doing one twice changes nothing.

The model travels as a file in the output folder, which the workers share. While that file, the ticket, is there, workers may write
parts; they look for it after each batch, so that none goes on for a run that has ended.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from ..errors import ClusterError, ModelFileError, OutputError
from ..images.decode_task import ImageFailure
from ..images.input import is_url
from ..model.persistence import restore
from ..model.word_model import WordModel
from ..system.atomic_files import temporary_name
from ..system.environment import peak_memory
from ..system.timing import StageTimer
from .cluster import Cluster, ClusterTask, connect
from .part_folder import PartFolder
from .pipeline import BatchDone, RunUsage, annotate_parts
from .retry import retry_parts

_SHARED_SECONDS = 10.0  # for a file to be seen on another machine: network file systems remember for a while what was not there
_STOP_SECONDS = 60.0  # for workers to notice that the run has ended


class BatchJob(NamedTuple):
    """What a worker needs to know: ``folder``, ``ticket`` and ``base`` (of relative inputs) are absolute paths."""

    folder: str
    ticket: str
    base: str
    model_sha256: str
    device: str
    threads: int | None


@dataclass(frozen=True)
class PartResult:
    """What became of a part; ``seconds`` by stage."""

    inputs: int
    failures: tuple[ImageFailure, ...]
    seconds: dict[str, float]
    threads: int
    peak_memory: int | None


def annotate_on_cluster(
    model: WordModel,
    folder: PartFolder,
    numbers: Sequence[int],
    retried: Sequence[int],
    *,
    workers: int | None,
    scheduler: str | None,
    dashboard: bool,
    threads: int | None,
    timer: StageTimer,
    usage: RunUsage,
) -> Generator[BatchDone]:
    """:func:`~gpuannot.jobs.pipeline.annotate_parts` on a cluster, then :func:`~gpuannot.jobs.retry.retry_parts`.

    One result for each part, as they get done.

    ``timer`` and ``usage`` get the workers' seconds, number, threads and peak memory.

    Raises:
        ClusterError: no such cluster, one that does not share the folder or the inputs, or workers that keep dying of a part.
        OutputError: a part cannot be written.
    """
    if not numbers and not retried:
        return
    with _ticket(model, folder) as ticket, connect(workers, scheduler, model.device, dashboard=dashboard) as cluster:
        job = BatchJob(
            os.path.abspath(folder.path), str(ticket), os.getcwd(), folder.settings.model_sha256, model.device.type, threads
        )
        try:
            _check_shared(cluster, job, folder, [*numbers, *retried][0])
            tasks = (
                ClusterTask(_title(folder, number), annotate_part, (job, number, again))
                for again, those in ((False, numbers), (True, retried))
                for number in those
            )
            with closing(cluster.results(tasks)) as results:
                for _, part in results:
                    timer.merge(part.seconds)
                    there = cluster.threads()
                    usage.workers = max(usage.workers, len(there))
                    usage.threads = max(usage.threads, part.threads * sum(there.values()))
                    usage.peak_memory = max(filter(None, (usage.peak_memory, part.peak_memory)), default=None)
                    yield BatchDone(part.inputs, part.failures)
        finally:
            with suppress(OSError):
                ticket.unlink(missing_ok=True)
            if not cluster.own:
                _wait_for_end(cluster, job)


@contextmanager
def _ticket(model: WordModel, folder: PartFolder) -> Iterator[Path]:
    """The model in a file that the next run removes if this one is killed; what workers that were killed left is removed too."""
    ticket = temporary_name(Path(os.path.abspath(folder.path)) / "_gpuannot" / "workers.safetensors")
    try:
        model.to_model_file().write(ticket)
        yield ticket
    except ModelFileError as error:
        raise OutputError(f"{error}; parts that were whole stay so: when that is mended, go on with --resume") from error
    finally:
        with suppress(OSError):  # whatever made the run fail, a disk that cannot be written for one, is what is told
            ticket.unlink(missing_ok=True)
            folder.remove_temporary_files()


def _title(folder: PartFolder, number: int) -> Callable[[], str]:
    def title() -> str:
        inputs = folder.inputs.part(number)
        return f"{folder.part_path(number)}, inputs {inputs[0].name!r} to {inputs[-1].name!r}"

    return title


def _check_shared(cluster: Cluster, job: BatchJob, folder: PartFolder, number: int) -> None:
    """Raise ClusterError unless all workers see the output folder and the inputs."""
    local = (os.path.join(job.base, item.place) for item in folder.inputs.part(number) if item.place and not is_url(item.place))
    image = next((path for path in local if os.access(path, os.R_OK)), None)
    found = cluster.on_each(look_around, job, image)
    limit = time.monotonic() + _SHARED_SECONDS
    while any(written is None for _, written in found.values()) and time.monotonic() < limit:
        time.sleep(0.5)
        found |= cluster.on_each(look_around, job, image)
    for address, (image_there, written) in found.items():
        if not image_there:
            raise ClusterError(f"the worker at {address} cannot read {image}; inputs must be where all workers see them")
        if written is None or not _appears(Path(written)):
            raise ClusterError(
                f"the worker at {address} has another folder, or none, at {job.folder}: the workers write the parts, so the output "
                "must be on a file system that they and this machine share, under the same path"
            )


def _appears(path: Path) -> bool:
    limit = time.monotonic() + _SHARED_SECONDS
    while not path.exists():
        if time.monotonic() > limit:
            return False
        time.sleep(0.1)
    return True


def _wait_for_end(cluster: Cluster, job: BatchJob) -> None:
    """Until no worker works for a run that has ended, so that nobody writes to its folder behind the next one's back."""
    limit = time.monotonic() + _STOP_SECONDS
    with suppress(Exception):  # a scheduler that is gone cannot be asked
        while any(cluster.on_each(at_work, job).values()) and time.monotonic() < limit:
            time.sleep(0.2)


# -- on a worker -------------------------------------------------------------------------------------------------------------------

_lock, _loading = threading.Lock(), threading.Lock()
_loaded: dict[tuple[str, str], WordModel] = {}
_at_work: Counter[str] = Counter()


def look_around(job: BatchJob, image: str | None) -> tuple[bool, str | None]:
    """Whether this worker can read ``image``, and a file that it has written beside the ticket; None without one.

    Raises:
        OutputError: it cannot write there.
    """
    ticket, readable = Path(job.ticket), image is None or os.access(image, os.R_OK)
    if not ticket.exists():
        return readable, None
    written = temporary_name(ticket)
    with PartFolder(job.folder).telling():
        written.touch()
    return readable, str(written)


def at_work(job: BatchJob) -> bool:
    """Whether this worker works for that run."""
    return _at_work[job.ticket] > 0


def annotate_part(job: BatchJob, number: int, again: bool) -> PartResult:
    """Annotate and write one part, or ``again`` those of its inputs that failed.

    Raises:
        ClusterError: the run has ended, or this machine computes otherwise than the one that started it. OutputError: the part
            cannot be written. ModelFileError, WeightsError: the model cannot be loaded here.
    """
    with _working(job):
        _check_ticket(job)
        model, folder = _model(job), PartFolder(job.folder).open(job.base)
        found = model.encoder.trunk.arithmetic
        if found != folder.settings.trunk_dtype:
            raise ClusterError(
                f"a worker would run the trunk in {found}, the run was begun in {folder.settings.trunk_dtype}: use machines of one "
                "kind, or state trunk_dtype when the model is fitted"
            )
        # A worker has the CPUs that its OpenMP has: one by Dask's default, its share where gpuannot has started it.
        threads = job.threads or torch.get_num_threads()
        timer, inputs = StageTimer(), 0
        failures: list[ImageFailure] = []
        do = retry_parts if again else annotate_parts
        with closing(do(model, folder, [number], threads=threads, timer=timer)) as work:
            for batch in work:
                inputs += batch.inputs
                failures += batch.failures
                _check_ticket(job)
        return PartResult(inputs, tuple(failures), timer.all_seconds(), threads, peak_memory())


@contextmanager
def _working(job: BatchJob) -> Iterator[None]:
    with _lock:
        _at_work[job.ticket] += 1
    try:
        yield
    finally:
        with _lock:
            _at_work[job.ticket] -= 1
            if not _at_work[job.ticket]:
                del _at_work[job.ticket]


def _check_ticket(job: BatchJob) -> None:
    if not os.path.exists(job.ticket):
        raise ClusterError(f"the run in {job.folder} has ended, or a worker does not see that folder")


def _model(job: BatchJob) -> WordModel:
    """The model, read once on each worker."""
    key = (job.model_sha256, job.device)
    with _loading:
        if key not in _loaded:
            _loaded.clear()
            model = restore(job.ticket, device=job.device)
            _ = model.encoder.trunk
            _loaded[key] = model
        return _loaded[key]
