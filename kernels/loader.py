"""Compiles the kernels through CuPy, once per device and options, and launches them on torch's tensors and current stream."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gpuannot.errors import DeviceError

from .plan import ARCHITECTURE_OPTION, Launch, source_code

_OLDEST_CAPABILITY = (7, 5)
_COMPILER_OPTIONS = ("-std=c++17",)


class DeviceLimits(NamedTuple):
    """What the plans need to know about a device.

    Attributes:
        capability: compute capability, (major, minor).
        multiprocessors: how many it has.
        shared_bytes: the most shared memory that one block may ask for.
    """

    capability: tuple[int, int]
    multiprocessors: int
    shared_bytes: int


@cache
def _cupy() -> Any:
    """CuPy, checked once against torch and the driver."""
    built_for = torch.version.cuda
    if built_for is None:
        raise DeviceError("this torch is built without CUDA: install torch for CUDA, or use device='cpu'")
    major = built_for.split(".")[0]
    advice = f"install the one for torch's CUDA {built_for}: pip install cupy-cuda{major}x"
    try:
        import cupy
    except ImportError as error:
        raise DeviceError(f"the GPU kernels need CuPy, which does not import here ({error}); {advice}") from error
    runtime = cupy.cuda.runtime
    cupy_major = runtime.runtimeGetVersion() // 1000
    if cupy_major != int(major):
        raise DeviceError(f"this CuPy is built for CUDA {cupy_major} and torch for CUDA {built_for}; {advice}")
    driver = runtime.driverGetVersion()
    if driver // 1000 < cupy_major:
        raise DeviceError(
            f"the NVIDIA driver supports CUDA up to {driver // 1000}.{driver % 1000 // 10}, but CuPy and torch are built for CUDA "
            f"{cupy_major}: update the driver, or install torch and CuPy for CUDA {driver // 1000}"
        )
    return cupy


@cache
def device_limits(device: torch.device) -> DeviceLimits:
    """Limits of a CUDA device.

    Raises:
        DeviceError: the kernels cannot run on it; the message says what to do.
    """
    cupy = _cupy()
    capability = torch.cuda.get_device_capability(device)
    if capability < _OLDEST_CAPABILITY:
        raise DeviceError(
            f"{torch.cuda.get_device_name(device)} has compute capability {capability[0]}.{capability[1]}, the kernels need "
            f"{_OLDEST_CAPABILITY[0]}.{_OLDEST_CAPABILITY[1]} or newer: use another GPU or device='cpu'"
        )
    attributes = cupy.cuda.Device(device.index).attributes
    return DeviceLimits(capability, attributes["MultiProcessorCount"], attributes["MaxSharedMemoryPerBlockOptin"])


@cache
def _kernel(device: torch.device, source: str, name: str, options: tuple[str, ...]) -> Any:
    cupy = _cupy()
    code, options_ = source_code(source), (*_COMPILER_OPTIONS, *options)
    with cupy.cuda.Device(device.index), TemporaryDirectory() as folder:
        try:
            if any(option.startswith(ARCHITECTURE_OPTION) for option in options):
                path = Path(folder, f"{name}.cubin")
                path.write_bytes(_compile(cupy, source, code, options_))
                module = cupy.RawModule(path=str(path))
            else:
                module = cupy.RawModule(code=code, options=options_)
            kernel = module.get_function(name)
            # More than the default 48 KB a block has to be allowed once; doing it here keeps it out of CUDA graph captures. It also
            # loads the module, while its file is there.
            kernel.max_dynamic_shared_size_bytes = device_limits(device).shared_bytes
        except (RuntimeError, OSError, cupy.cuda.compiler.CompileException) as error:
            raise DeviceError(
                f"{source} could not be compiled and loaded for {device} with {' '.join(options)}: {error}"
            ) from error
        return kernel


def _compile(cupy: Any, source: str, code: str, options: tuple[str, ...]) -> bytes:
    """Machine code for the architecture that ``options`` name: a RawModule's is always the device's own, which has no wgmma."""
    nvrtc = cupy.cuda.nvrtc
    program = nvrtc.createProgram(code, source, (), ())
    try:
        nvrtc.compileProgram(program, (*options, "-ftz=true"))  # as CuPy compiles
        return nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError as error:
        raise RuntimeError(nvrtc.getProgramLog(program)) from error
    finally:
        nvrtc.destroyProgram(program)


def launch(plan: Launch, buffers: Mapping[str, Tensor | None], device: torch.device) -> None:
    """Queue one launch on torch's current stream of ``device``, without waiting for it.

    Args:
        buffers: the plan's pointer names → tensors on ``device``, None for a null pointer.

    Raises:
        DeviceError: the kernel does not compile or load.
    """
    cupy = _cupy()
    kernel = _kernel(device, plan.source, plan.kernel, plan.options)
    stream = torch.cuda.current_stream(device)
    arguments = tuple(plan.bind(buffers, _address))
    with cupy.cuda.Device(device.index), _cupy_stream(cupy, stream):
        kernel(plan.grid, plan.block, arguments, shared_mem=plan.shared_bytes)
    for tensor in buffers.values():
        if tensor is not None:
            tensor.record_stream(stream)  # a tensor made on another stream must not be reused before this launch is over


class _External(NamedTuple):
    """A stream by CUDA's protocol, which torch's own follow from some version on."""

    handle: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle


def _cupy_stream(cupy: Any, stream: torch.cuda.Stream) -> Any:
    """The stream as one of CuPy's, which makes it current as a context."""
    if hasattr(cupy.cuda.Stream, "from_external"):
        return cupy.cuda.Stream.from_external(_External(stream.cuda_stream))
    return cupy.cuda.ExternalStream(stream.cuda_stream, stream.device_index)  # CuPy before 14, which deprecates it


def alignment_of(*tensors: Tensor) -> int:
    """The largest power of two, at most 16, that divides all base addresses."""
    bits = 16
    for tensor in tensors:
        bits |= tensor.data_ptr()
    return bits & -bits


def _address(tensor: Tensor | None) -> np.uint64:
    return np.uint64(0 if tensor is None else tensor.data_ptr())
