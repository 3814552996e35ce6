"""Dask workers on this machine: processes that end with the run, and that nobody else can talk to.

Whoever can send a Dask process a message can have it run anything. So all of them listen on loopback alone, and only to those that
have the key, which is made for the run and kept in memory (TLS, both ways). Their HTTP servers are closed.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

import torch

from ..errors import ClusterError
from ..system.threads import cpus

_HOST = "127.0.0.1"


@contextmanager
def local_cluster(workers: int, device: torch.device, *, dashboard: bool = False) -> Iterator[Any]:
    """A client of ``workers`` new processes, gone at the end of the ``with`` block.

    Args:
        workers: on a CPU they share its cores; on CUDA each has a GPU.
        device: what they compute on.
        dashboard: leave Dask's HTTP pages open, without a password, on loopback.

    Raises:
        ClusterError: they cannot be started.
    """
    import dask.config
    from distributed import Client, LocalCluster
    from distributed.security import Security

    kind, options = LocalCluster, {"processes": True}
    if device.type == "cuda":
        if workers > torch.cuda.device_count():
            raise ClusterError(
                f"{workers} workers need a GPU each, this machine has {torch.cuda.device_count()}; give fewer workers"
            )
        try:
            from dask_cuda import LocalCUDACluster
        except ImportError as error:
            raise ClusterError(f"workers on GPUs need dask-cuda ({error}); install it, or use --device cpu") from error
        kind, options = LocalCUDACluster, {}
    routes: dict[str, Any] = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}
    with _restored_log_level(), _environment(max(1, cpus() // workers)), dask.config.set({} if dashboard else routes):
        try:
            # No memory limit: one that is too low would have workers killed that the machine has room for.
            with _deaf_threads():
                local = kind(
                    n_workers=workers, threads_per_worker=1, memory_limit=0, host=_HOST, security=Security.temporary(),
                    dashboard_address=f"{_HOST}:0", worker_dashboard_address=f"{_HOST}:0",
                    silence_logs=logging.CRITICAL, **options,
                )  # fmt: skip
        except (RuntimeError, OSError) as error:
            raise ClusterError(
                f"{workers} workers cannot be started ({first_line(error)}); a script that starts workers does its work under "
                'if __name__ == "__main__":'
            ) from error
        with local, Client(local, set_as_default=False) as client:
            if dashboard:
                print(f"dashboard: {local.dashboard_link}", file=sys.stderr)
            else:
                local.scheduler.http_server.stop()
                client.register_plugin(_without_pages())
            yield client


def _without_pages() -> Any:
    """Closes a worker's HTTP server as soon as it has one: Dask has no setting for that. Workers that are started again too."""
    from distributed import WorkerPlugin

    class WithoutPages(WorkerPlugin):
        name = "gpuannot-without-pages"

        def setup(self, worker: Any) -> None:
            worker.http_server.stop()

    return WithoutPages()


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Workers get ``threads`` threads each for torch and BLAS, unless the user's environment says how many.

    Dask's own way, a setting, yields to the environment, and leaves what it says in this process's.
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in (*names, "MALLOC_TRIM_THRESHOLD_", "PYTHONHASHSEED")}
    for name in names:
        os.environ.setdefault(name, str(threads))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _deaf_threads() -> Iterator[None]:
    """Threads that start in the ``with`` block, and the processes that those start, get no Ctrl-C, which goes to all of a terminal.

    Workers end when this process ends them; one that comes meanwhile is met at the end of the block.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # or the first process to be started starts it, and undoes what follows
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _restored_log_level() -> Iterator[None]:
    """Workers that are killed and started again are no news, and errors are raised."""
    logger = logging.getLogger("distributed")
    before = logger.level
    try:
        yield
    finally:
        logger.setLevel(before)


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its class's name."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
