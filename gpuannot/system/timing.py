"""Where the time goes: seconds a stage, added up over the threads that work on it."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class StageTimer:
    """Adds up seconds by stage; several threads may add at a time."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time spent in the ``with`` block to ``stage``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def add(self, stage: str, seconds: float) -> None:
        """Add what was measured elsewhere."""
        with self._lock:
            self._seconds[stage] += seconds

    def merge(self, seconds: Mapping[str, float]) -> None:
        """Add what another clock measured."""
        with self._lock:
            for stage, more in seconds.items():
                self._seconds[stage] += more

    def all_seconds(self) -> dict[str, float]:
        """Seconds by stage."""
        with self._lock:
            return dict(self._seconds)

    def seconds(self, stage: str) -> float:
        with self._lock:
            return self._seconds[stage]
