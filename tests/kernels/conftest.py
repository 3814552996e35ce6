"""Launches on the CPU in place of a GPU's."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

import pytest
import torch
from cuda_on_cpu import HostRawKernel
from torch import Tensor

from gpuannot import kernels
from gpuannot.kernels import checks
from gpuannot.kernels.loader import DeviceLimits, _address
from gpuannot.kernels.plan import Launch, source_code


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """Lets CPU tensors through, launches on the CPU, and lists the launches."""
    plans: list[Launch] = []

    def launch(plan: Launch, buffers: Mapping[str, Tensor | None], device: torch.device) -> None:
        plans.append(plan)
        kernel = HostRawKernel(source_code(plan.source), plan.kernel, plan.options)
        kernel(plan.grid, plan.block, plan.bind(buffers, _address), shared_mem=plan.shared_bytes)

    modules = [module for module in vars(kernels).values() if isinstance(module, ModuleType) and hasattr(module, "launch")]
    for module in (kernels, *modules):
        monkeypatch.setattr(module, "launch", launch)
    monkeypatch.setattr(kernels, "device_limits", lambda device: DeviceLimits((9, 0), 132, 227 * 1024))
    monkeypatch.setattr(checks, "_check_devices", lambda **tensors: None)
    return plans
