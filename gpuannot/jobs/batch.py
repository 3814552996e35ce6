"""Batch annotation of any number of images: resumable, with its failure ledger."""

from __future__ import annotations

import operator
import sys
import time
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import InvalidArgumentError, TooManyFailuresError
from ..images.decode_task import ImageFailure
from ..images.gpu import choose_decoder
from ..images.inputs import Inputs
from ..model.word_model import WordModel
from ..system.environment import peak_memory
from ..system.progress import progress_bar
from ..system.threads import cpus
from ..system.timing import StageTimer
from .part_folder import PartFolder
from .pipeline import BatchDone, RunUsage, annotate_parts, limiting_stage
from .retry import retry_parts
from .run_record import RunSettings, check_format

STAGES = ("find", "read", "decode", "trunk", "write")

_MANY_CPUS = 8  # from here on a GPU's decoding threads would wait for the interpreter lock (benchmarks/bench_decode.py)
_MAX_PART = 2**20  # inputs of a part, all of which are listed in memory at a time


@dataclass(frozen=True)
class BatchSummary:
    """What a batch run did.

    Attributes:
        inputs: of the whole run; rows + failures = inputs. failures_by_stage: ``find``, ``read``, ``decode``.
        left_out: files of folders and archives that are no inputs because of their names, by suffix.
        parts: of the whole run. parts_before: those that an earlier run had made whole.
        seconds, images_per_second: of this run. stages: seconds of work by stage, added up over ``workers`` processes; read and
            decode also over their ``threads`` threads in all. 0 workers: nothing was left for them to do.
        limited_by: the stage that the others waited for, None where nothing was left to do.
        threads: that decoded, each in a process of its own where ``processes`` is not 0. decoder: of JPEGs.
        peak_memory_bytes: of this process without its decode processes, or of the largest of several workers; None where the system
            does not say.
    """

    output: str
    model: str
    inputs: int
    left_out: dict[str, int]
    rows: int
    failures: int
    failures_by_stage: dict[str, int]
    parts: int
    parts_before: int
    seconds: float
    images_per_second: float
    limited_by: str | None
    stages: dict[str, float]
    workers: int
    threads: int
    processes: int
    decoder: str
    peak_memory_bytes: int | None

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values."""
        return asdict(self)


def annotate_batch(
    model: WordModel,
    source: Inputs | str | Path | Iterable[str | Path],
    sink: str | Path,
    k: int | None = None,
    *,
    format: str = "parquet",
    part_size: int = 4096,
    vectors: bool = False,
    threshold: float | None = None,
    resume: bool = False,
    retry_failed: bool = False,
    extend: bool = False,
    overwrite: bool = False,
    on_error: Literal["skip", "stop"] = "skip",
    max_failures: int | None = None,
    threads: int | None = None,
    processes: int | None = None,
    decode: str = "auto",
    progress: bool | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    dashboard: bool = False,
) -> BatchSummary:
    """``annotate`` for any number of images, into parts in the folder ``sink``.

    Every input gets a row in a part or an entry with stage and reason in the ledger (``sink/_failures``). A part is whole or
    absent; ``resume`` goes on after any stop and ends with the same bytes as an undisturbed run on this machine.

    Args:
        source: :class:`~gpuannot.Inputs`, or what it takes as sources. k: words for each, as in :meth:`Annotator.annotate`.
        part_size: inputs of a part, what a stop may cost.
        format: ``parquet``, ``jsonl`` or ``csv``. vectors: also write the VLAD vectors.
        threshold: as in :meth:`Annotator.annotate`.
        resume: go on where an earlier run stopped; starts where there is none. retry_failed: do so, and try what failed again, a
            file that was mended or was not there. extend: do so, and take in inputs that are new, in parts of their own; inputs
            are told apart by their names. Rows that are there stay. overwrite: replace an earlier run.
        on_error: ``stop`` at the first input that fails. max_failures: stop when more inputs than this have failed.
        threads: that read and decode, of each worker; None is one a CPU. More pays where reading waits for a network.
        processes: decode in so many processes in place of threads, to the same bytes; 0 is threads, None is processes, one a
            CPU, beside a GPU on machines with 8 CPUs or more.
        decode: ``cpu``, or ``gpu`` for JPEGs, whose pixels then differ by a few grey levels; ``auto`` is the GPU where it and
            a decoder (nvImageCodec, torchvision) are there. A resumed run goes on as it was begun.
        workers: processes on this machine that share the parts, and its CPUs or a GPU each; needs the extra ``dask``, and in a
            script ``if __name__ == "__main__":``. The bytes are those of one process; a worker that dies costs its parts' time.
            They listen on loopback, to each other alone. dashboard: with Dask's page of what they do, on loopback too.
        scheduler: address of a Dask scheduler whose workers do it. Inputs, weights and ``sink`` must be where all of them see them.

    Raises:
        ValueError: an argument out of range. DataError: no inputs, results in the way, or a run to resume that was begun
            otherwise (it says with what). OutputError: the folder cannot be written, or another run is at work in it.
        DeviceError: the GPU cannot decode, or decode processes do not start.
        TooManyFailuresError: by ``on_error`` or ``max_failures``. ClusterError: no Dask, no answer from the scheduler, no workers,
            files that they do not share, or a part that several workers died of.
    """
    k, threshold = model.check_giving(k, threshold)
    inputs = source if isinstance(source, Inputs) else Inputs(source)
    clustered = workers is not None or scheduler is not None
    if clustered or dashboard:
        from .cluster import check_options

        check_options(workers, scheduler, model.config.trunk, dashboard)
        if processes:
            raise InvalidArgumentError("decode processes are for a run in one process; with workers or a scheduler leave them out")
    if processes is None:
        many = model.device.type == "cuda" and threads is None and cpus() >= _MANY_CPUS
        processes = cpus() if many and not clustered else 0
    if threads is not None and processes:
        raise InvalidArgumentError("decoding is done in threads or in processes: choose one")
    decoders = processes or threads or cpus()
    checked = (("part_size", part_size, 1, _MAX_PART), ("processes", processes, 0, 1024), ("threads", threads, 1, 1024))
    for what, value, low, high in checked:
        if value is not None and not low <= operator.index(value) <= high:
            raise InvalidArgumentError(f"{what} is {value}; expected {low} to {high}")
    if max_failures is not None and operator.index(max_failures) < 0:
        raise InvalidArgumentError(f"max_failures is {max_failures}; expected at least 0")
    if on_error not in ("skip", "stop"):
        raise InvalidArgumentError(f"on_error is {on_error!r}; expected 'skip' or 'stop'")
    again = resume or retry_failed or extend
    if again and overwrite:
        raise InvalidArgumentError("resume, retry_failed and extend go on with what is there, overwrite replaces it: choose one")
    allowed = 0 if on_error == "stop" else sys.maxsize if max_failures is None else max_failures
    folder = PartFolder(sink)
    recorded = folder.recorded() if again else None
    decoder, cpu_share = choose_decoder(
        decode, model.device, model.config.input_size, model.config.interpolation, decoders,
        (recorded.decoder, recorded.cpu_share) if recorded else None,
    )  # fmt: skip
    settings = RunSettings(
        model_sha256=model.to_model_file().sha256,
        k=k,
        format=check_format(format),
        part_size=part_size,
        vectors=vectors,
        threshold=threshold,
        confidence=model.has_confidence,
        device=model.device.type,
        trunk_dtype=model.encoder.trunk.arithmetic,
        batch_size=model.config.batch_size,
        decoder=decoder,
        cpu_share=cpu_share,
    )
    timer, start = StageTimer(), time.perf_counter()
    with folder.lock():
        with timer.measure("find"):
            folder.begin(inputs, settings, resume=resume, overwrite=overwrite, retry_failed=retry_failed, extend=extend)
            pending, retried, before, failed = _pending(folder, retry_failed)
        if clustered:
            from .cluster_batch import annotate_on_cluster

            usage = RunUsage(0, 0, None)
            work = annotate_on_cluster(
                model, folder, pending, retried, workers=workers, scheduler=scheduler, dashboard=dashboard, threads=threads,
                timer=timer, usage=usage,
            )  # fmt: skip
        else:
            usage = RunUsage(1, decoders, None)
            work = _in_turn(
                annotate_parts(model, folder, pending, threads=decoders, processes=bool(processes), timer=timer),
                retry_parts(model, folder, retried, threads=decoders, processes=bool(processes), timer=timer),
            )
        total = folder.inputs.count
        with progress_bar("annotate", total, progress, initial=before) as bar, closing(work):
            if failed > allowed:
                raise _too_many(failed, allowed, next(folder.failures()), folder)
            for batch in work:
                failed += len(batch.failures)
                if failed > allowed:
                    raise _too_many(failed, allowed, batch.failures[0], folder)
                bar.set_postfix(limit=limiting_stage(timer), refresh=False)
                bar.update(batch.inputs)
        done = folder.finish()
        if not clustered:
            usage.peak_memory = peak_memory()
        seconds = time.perf_counter() - start
        summary = BatchSummary(
            output=str(folder.path),
            model=settings.model_sha256,
            inputs=done.inputs,
            left_out=dict(sorted(inputs.left_out.items())),
            rows=done.rows,
            failures=done.failures,
            failures_by_stage=dict(done.stages),
            parts=folder.inputs.parts,
            parts_before=folder.inputs.parts - len(pending),
            seconds=round(seconds, 3),
            images_per_second=round((total - before) / seconds, 2),
            limited_by=limiting_stage(timer) if pending or retried else None,
            stages={stage: round(timer.seconds(stage), 3) for stage in STAGES},
            workers=usage.workers,
            threads=usage.threads,
            processes=processes,
            decoder=decoder,
            peak_memory_bytes=usage.peak_memory,
        )
        folder.write_summary(summary.to_dict())
    return summary


def _pending(folder: PartFolder, retry_failed: bool) -> tuple[list[int], list[int], int, int]:
    """Parts that are still to be done, those of which what failed is tried again, and the inputs and failures of all others."""
    pending, retried, inputs, failures = list[int](), list[int](), 0, 0
    for number in range(folder.inputs.parts):
        done = folder.done(number, verify=True)
        if done is None:
            pending.append(number)
        elif done.failed and (retry_failed or done.coming is not None):
            retried.append(number)
            inputs += done.rows
        else:
            inputs, failures = inputs + done.inputs, failures + len(done.failed)
    return pending, retried, inputs, failures


def _in_turn(*work: Generator[BatchDone]) -> Generator[BatchDone]:
    for each in work:
        yield from each  # closing this closes the one under way; those that have not begun hold nothing


def _too_many(failed: int, allowed: int, first: ImageFailure, folder: PartFolder) -> TooManyFailuresError:
    counted = f"{failed} inputs failed, and at most {allowed} may" if allowed else "an input failed"
    return TooManyFailuresError(
        f"{counted}: {first.path}: {first.reason}. Parts of {folder.path} that were whole stay so: mend the inputs and start "
        "again, or go on with --resume and a higher --max-failures or --on-error skip"
    )
