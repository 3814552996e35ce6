"""Names of devices: which are refused, and in which words."""

from __future__ import annotations

import pytest
import torch

from gpuannot import Annotator
from gpuannot.errors import DeviceError
from gpuannot.system.device import out_of_memory, resolve_device

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "mps", ""])
def test_unknown_devices(name: str) -> None:
    with pytest.raises(DeviceError, match=r"unknown|no CUDA|without CUDA|CUDA devices"):
        resolve_device(name)


def test_a_gpu_that_is_not_there() -> None:
    if torch.cuda.is_available():
        with pytest.raises(DeviceError, match="CUDA devices"):
            resolve_device("cuda:99")
    else:
        with pytest.raises(DeviceError, match=r"without CUDA|no CUDA device"):
            Annotator(device="cuda")
        assert resolve_device("auto") == CPU


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("expected scalar type BFloat16 but found Float"), False),
    ],
)
def test_what_is_out_of_memory(error: RuntimeError, expected: bool) -> None:
    assert out_of_memory(error) is expected
