"""Wrong versions of the CUDA side, each by one function of the library, and what must stop the walk."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import pytest
import torch

from gpuannot import kernels
from gpuannot.heads.projection import JointProjection
from gpuannot.method.ranking import DeviceRanking
from gpuannot.model.capture import CapturedAnnotation


class Mutation(NamedTuple):
    """What is done to the library, in which setting it is walked, and the error that must end that."""

    apply: Callable[[pytest.MonkeyPatch], None]
    setting: str
    error: str


def _cpu_tensor(patch: pytest.MonkeyPatch) -> None:
    def left(self: DeviceRanking, *arguments: Any, **options: Any) -> None:
        made(self, *arguments, **options)
        self.word_vectors = self.word_vectors.cpu()

    made = DeviceRanking.__init__
    patch.setattr(DeviceRanking, "__init__", left)


def _item(patch: pytest.MonkeyPatch) -> None:
    def waits(self: DeviceRanking, rows: torch.Tensor, *arguments: Any) -> Any:
        return nearest(self, rows * (1.0 if rows.sum().item() else 0.0), *arguments)

    nearest = DeviceRanking._nearest
    patch.setattr(DeviceRanking, "_nearest", waits)


def _dropped(patch: pytest.MonkeyPatch) -> None:
    @wraps(CapturedAnnotation.__init__)
    def forgets(self: CapturedAnnotation, *arguments: Any) -> None:
        captured(self, *arguments)
        del self._reads

    captured = CapturedAnnotation.__init__
    patch.setattr(CapturedAnnotation, "__init__", forgets)


def _stream(patch: pytest.MonkeyPatch) -> None:
    def elsewhere(plan: Any, buffers: Any, device: torch.device) -> None:
        with torch.cuda.stream(torch.cuda.default_stream(device)):
            launch(plan, buffers, device)

    launch = kernels.launch
    patch.setattr(kernels, "launch", elsewhere)


def _transposed(patch: pytest.MonkeyPatch) -> None:
    def turned(self: JointProjection, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        offset, matrix = on(self, device)
        return offset, matrix.T.reshape(matrix.shape)

    on = JointProjection._on
    patch.setattr(JointProjection, "_on", turned)


MUTATIONS = {
    "a tensor left on the CPU": Mutation(_cpu_tensor, "paper", "MixedDevices"),
    "an item()": Mutation(_item, "paper", "WaitsForDevice"),
    "a graph that drops what it reads": Mutation(_dropped, "paper", "StaleGraph"),
    "a kernel on the default stream": Mutation(_stream, "paper", "UnorderedStreams"),
    "a transposed matrix": Mutation(_transposed, "best", "AssertionError"),
}
