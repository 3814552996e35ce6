"""Dask clusters: processes of this machine or the workers of any scheduler, and tasks on them that outlive a worker.

Dask does a task again whose worker died, and what was computed there with it; a task that workers keep dying of ends in an error.
"""

from __future__ import annotations

import asyncio
import operator
import queue
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import ClusterError, InvalidArgumentError, install
from ..system.version import __version__
from .local_cluster import first_line, local_cluster

_CONNECT_SECONDS = 5.0  # to a scheduler that answers at all
_WORKER_SECONDS = 60.0  # without a single worker until it is an error
_LARGE = 2**20  # bytes of arrays in a task, images given as pixels: what Dask warns of from 10 MB on


@dataclass(eq=False)
class ClusterTask:
    """``function(*arguments)`` on some worker; ``title`` names it in errors.

    ``after``: tasks whose results come first among the arguments, as a list; they stay where they are. ``worker``: address of the
    worker to do it, if that is still there. ``gather``: bring the result here. ``size`` and ``number`` are for the caller.
    A task among the ``arguments``, given to :meth:`Cluster.results` before this one, stands for its result: what many tasks need
    goes to each worker once.
    """

    title: Callable[[], str]
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    after: tuple[ClusterTask, ...] = ()
    worker: str | None = None
    gather: bool = True
    size: int = 1
    number: int = 0
    future: Any = field(default=None, repr=False)


def check_options(workers: int | None, scheduler: str | None, trunk: str, dashboard: bool = False) -> None:
    """Raise ValueError or ClusterError for what no cluster can be made of: before the work, not after its first half.

    Args:
        trunk: as the settings name it; workers build it from that name.
    """
    if dashboard and workers is None:
        raise InvalidArgumentError("the dashboard is that of workers on this machine; a scheduler has its own")
    if workers is not None and scheduler is not None:
        raise InvalidArgumentError("workers are started on this machine, a scheduler has its own: choose one")
    if workers is not None and not 1 <= operator.index(workers) <= 4096:
        raise InvalidArgumentError(f"workers is {workers}; expected 1 to 4096")
    if trunk.startswith("module:"):
        raise InvalidArgumentError(
            f"the trunk {trunk} is a torch module of its user, and workers know trunks by name: leave out workers and scheduler, "
            "or take a trunk of timm: or torchvision:, with weights from a file"
        )
    try:
        import cryptography  # noqa: F401 - of the keys that local workers know each other by
        import distributed  # noqa: F401
    except ImportError as error:
        raise ClusterError(f"several workers need Dask ({error}); {install('dask')}") from error


@contextmanager
def connect(workers: int | None, scheduler: str | None, device: torch.device, *, dashboard: bool = False) -> Iterator[Cluster]:
    """``workers`` new processes on this machine, gone at the end of the ``with`` block, or those of a running scheduler.

    Processes on a CPU share its cores; on CUDA each has a GPU of its own (dask-cuda). ``dashboard``: those of this machine have
    Dask's page of what they do, on loopback.

    Raises:
        ClusterError: they cannot be started, or no scheduler with workers answers at that address.
    """
    import dask.config

    # Pixels that a caller holds in memory have to be sent: there is nothing to be done about what Dask would warn of.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": 1024 * _LARGE}):
        if scheduler is not None:
            client = _client(scheduler)
            try:
                cluster = Cluster(client, own=False)
                for address, version in cluster.on_each(_version).items():
                    if version != __version__:
                        raise ClusterError(
                            f"the worker at {address} has gpuannot {version}, this is {__version__}; install the same"
                        )
                yield cluster
            finally:
                client.close()
            return
        with local_cluster(workers or 1, device, dashboard=dashboard) as client:
            yield Cluster(client, own=True)


def _version() -> str:
    return __version__


def _client(scheduler: str) -> Any:
    from distributed import Client

    try:
        _knock(scheduler)
        client = Client(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False, name="gpuannot")
    except (OSError, ValueError, TypeError) as error:  # no answer, an address that is none
        raise ClusterError(
            f"no Dask scheduler answers at {scheduler!r} ({first_line(error)}); start one with 'dask scheduler' and its "
            "workers with 'dask worker', or use workers of this machine with --workers"
        ) from error
    try:
        client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
    except TimeoutError as error:
        client.close()
        raise ClusterError(f"the scheduler at {scheduler} has no workers; start some with 'dask worker {scheduler}'") from error
    return client


def _knock(scheduler: str) -> None:
    """Raise OSError or ValueError unless a Dask process is there: a client would wait for ever for the greeting of another."""
    from distributed.comm import connect as open_connection
    from distributed.security import Security

    async def greet() -> None:
        options = Security().get_connection_args("client")
        connection = await open_connection(scheduler, timeout=_CONNECT_SECONDS, **options)
        await connection.close()

    async def greet_in_time() -> None:
        await asyncio.wait_for(greet(), _CONNECT_SECONDS + 1)

    with ThreadPoolExecutor(1) as thread:  # the caller may be inside an event loop
        thread.submit(lambda: asyncio.run(greet_in_time())).result()


class Cluster:
    """Workers that take :class:`ClusterTask`; ``own`` where they were started for this run."""

    def __init__(self, client: Any, *, own: bool) -> None:
        self._client, self.own = client, own

    def threads(self) -> dict[str, int]:
        """How many tasks each worker does at a time, by its address."""
        return dict(self._client.nthreads())

    def on_each(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """``function`` once on each worker that is there now: results by address. A worker that is lost meanwhile is left out.

        Raises:
            ClusterError: gpuannot is not installed on a worker. GpuannotError: what ``function`` raises.
        """
        found: dict[str, Any] = self._client.run(function, *arguments, on_error="return")
        for address, result in list(found.items()):
            if isinstance(result, ImportError):
                raise ClusterError(f"the worker at {address} lacks gpuannot ({result}); install it there, version {__version__}")
            if isinstance(result, OSError) and address not in self.threads():
                del found[address]
            elif isinstance(result, BaseException):
                raise result
        return found

    def results(self, tasks: Iterable[ClusterTask], *, each: int = 1) -> Generator[tuple[ClusterTask, Any]]:
        """Tasks as they get done, with their results. Up to ``each`` are under way for each thread of a worker.

        Closing the generator cancels the tasks under way; those that run already run to their end.

        Raises:
            ClusterError: workers keep dying of a task, all are gone, or the scheduler is. Else what the task raised.
        """
        done: queue.SimpleQueue[ClusterTask] = queue.SimpleQueue()
        under_way: set[ClusterTask] = set()
        upcoming, watch = iter(tasks), _Watch(self)
        waiting = deque[ClusterTask]()
        try:
            while True:
                room = each * max(1, sum(self.threads().values()))
                while sum(not task.after for task in under_way) < room:
                    if (task := next(upcoming, None)) is None:
                        break
                    self._start(task, done)
                    under_way.add(task)
                if not under_way:
                    return
                while not waiting:
                    try:
                        waiting.append(done.get(timeout=1))
                    except queue.Empty:
                        watch.check()
                watch.seen()
                task = waiting.popleft()
                under_way.discard(task)
                yield task, self._result(task, watch)
        finally:
            futures = [task.future for task in under_way if task.future is not None]
            with suppress(Exception):  # the scheduler may be gone: then there is nothing to cancel
                self._client.cancel(futures, force=True)

    def _start(self, task: ClusterTask, done: queue.SimpleQueue[ClusterTask]) -> None:
        # As one argument: Dask puts the results in the list's place.
        earlier = ([before.future for before in task.after],) if task.after else ()
        arguments = (argument.future if isinstance(argument, ClusterTask) else argument for argument in task.arguments)
        task.future = self._client.submit(
            task.function, *earlier, *arguments, pure=False, workers=task.worker, allow_other_workers=task.worker is not None
        )
        task.future.add_done_callback(lambda _: done.put(task))

    def _result(self, task: ClusterTask, watch: _Watch) -> Any:
        from distributed import KilledWorker

        while task.gather and task.future.status in ("pending", "lost"):  # its worker died with the result, and Dask does it again
            time.sleep(0.1)
            watch.check()
        status = task.future.status if task.gather or task.future.status == "error" else "finished"
        if status == "finished":
            return task.future.result() if task.gather else None
        if status != "error":
            raise ClusterError(f"{task.title()}: the scheduler was lost or has dropped it ({status}); start again when it is back")
        error = task.future.exception()
        if isinstance(error, KilledWorker):
            deaths = error.allowed_failures + 1
            raise ClusterError(
                f"{task.title()}: {deaths} workers died while they did this, the last at {error.last_worker.address}. Was their "
                "memory too small? Fewer workers, a smaller batch_size or fewer --threads need less"
            ) from error
        if isinstance(error, OSError):
            raise ClusterError(f"{task.title()}: {first_line(error)}") from error
        error.add_note(f"This was raised on a worker: {task.title()}.")
        raise error


class _Watch:
    """Notices that nobody is left to work."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._seen = cluster, time.monotonic()

    def seen(self) -> None:
        self._seen = time.monotonic()

    def check(self) -> None:
        client = self._cluster._client
        if client.status in ("closed", "closing"):
            raise ClusterError("the connection to the Dask scheduler was lost; start again when it is back")
        if client.status == "running" and self._cluster.threads():
            self.seen()
        elif time.monotonic() - self._seen > _WORKER_SECONDS:
            raise ClusterError(f"no worker has been there for {_WORKER_SECONDS:.0f} s; start workers, and start again")
