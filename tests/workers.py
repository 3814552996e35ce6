"""Dask workers for tests."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from runs import CHANGES

SMALL: dict[str, Any] = {**CHANGES, "layer": "pool1", "input_size": 16, "codebook_sample": 5000}
COPIES = 26  # 624 images: two partitions and a half


def processes(local: Any) -> dict[str, int]:
    """Process numbers of the workers that are there, by address."""
    from distributed import Client

    with Client(local, set_as_default=False) as client:
        found = client.run(os.getpid, on_error="return")
    return {address: pid for address, pid in found.items() if isinstance(pid, int)}


@contextmanager
def beside(action: Callable[[], object]) -> Iterator[None]:
    """``action`` in a thread; what it raises is raised in the end."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join(timeout=60)
    assert not thread.is_alive()
    if raised:
        raise raised[0]


def wait_until(holds: Callable[[], object], seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, "did not happen"
        time.sleep(0.005)
