"""What the library calls of CuPy, over ``cuda_on_cpu``: kernels compiled from their source, launched on the current stream."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from cuda_on_cpu import HostRawKernel

from .errors import MixedDevices
from .streams import PretendedStream, Streams

SHARED_BYTES = 227 * 1024
MULTIPROCESSORS = 132


class _Compiled(Exception):
    """Stands for ``cupy.cuda.compiler.CompileException``."""


class _Kernel:
    """A function of a module, for one device."""

    def __init__(self, cupy: _State, code: str, name: str, options: Sequence[str]) -> None:
        self._cupy, self._name, self._device = cupy, name, cupy.streams.device
        self._run = HostRawKernel(code, name, options)
        # A source may define the function once for each of its methods; they tell apart by how many parameters they have.
        definitions = re.findall(rf"__global__[^;{{]*\b{name}\(([^)]*)\)", re.sub("//.*", "", code))
        assert definitions, name
        lists = [["*" in one and not one.strip().startswith("const") for one in found.split(",")] for found in definitions]
        self._written = {len(found): found for found in lists}
        assert all(found == self._written[len(found)] for found in lists), name
        self.max_dynamic_shared_size_bytes = 48 * 1024

    def __call__(self, grid: Sequence[int], block: Sequence[int], args: Sequence[np.generic], *, shared_mem: int = 0) -> None:
        if (
            grid[0] > 2**31 - 1
            or max(grid[1:]) > 65535
            or int(np.prod(block)) > 1024
            or shared_mem > self.max_dynamic_shared_size_bytes
        ):
            raise RuntimeError(f"{self._name}: no device launches grid {grid}, block {block}, {shared_mem} bytes of shared memory")
        streams = self._cupy.streams
        stream = self._cupy.stream or streams.default(streams.device)
        if not self._device == streams.device == stream.device_index:
            raise MixedDevices(f"{self._name} of device {self._device} on device {streams.device}, stream of {stream.device}")
        read, written, places = [], [], []
        for writes, argument in zip(self._written[len(args)], args, strict=True):
            if isinstance(argument, np.uint64) and argument:
                index, memory = streams.at(int(argument))
                if index != self._device:
                    raise MixedDevices(f"{self._name} of device {self._device} is given memory of device {index}")
                (written if writes else read).append(memory)
                places.append((memory, int(argument) - memory.data_ptr()))
            else:
                places.append((argument, 0))
        graph = streams.capturing(stream, self._name)

        def run(given: Any) -> list[Any]:
            addresses = [
                np.uint64(memory.data_ptr() + offset) if hasattr(memory, "data_ptr") else memory for memory, offset in given
            ]
            self._run(grid, block, addresses, shared_mem=shared_mem)
            return []

        run(places)
        if graph is None:
            streams.use(stream, self._name, read, written)
        else:
            graph.record(self._name, run, places, [], read, written)


class _Module:
    def __init__(self, cupy: _State, code: str, options: Sequence[str]) -> None:
        self._cupy, self._code, self._options = cupy, code, options

    def get_function(self, name: str) -> _Kernel:
        return _Kernel(self._cupy, self._code, name, self._options)


class _Nvrtc:
    """``cupy.cuda.nvrtc``: a "cubin" is the source and its options, for ``RawModule(path=…)`` to compile."""

    class NVRTCError(RuntimeError):
        pass

    def createProgram(self, code: str, name: str, headers: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
        return {"code": code, "options": []}

    def compileProgram(self, program: dict[str, Any], options: Sequence[str]) -> None:
        program["options"] = list(options)

    def getCUBIN(self, program: dict[str, Any]) -> bytes:
        return json.dumps(program).encode()

    def destroyProgram(self, program: dict[str, Any]) -> None:
        program.clear()


class _State:
    """The streams of all devices, and the one that CuPy launches on."""

    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        self.stream: PretendedStream | None = None


def module(streams: Streams, version: int = 14) -> ModuleType:
    """A module to stand at ``sys.modules["cupy"]``, of a major version."""
    state = _State(streams)

    class Device:
        def __init__(self, index: int | None = None) -> None:
            self.index = streams.device if index is None else index
            self.attributes = {"MultiProcessorCount": MULTIPROCESSORS, "MaxSharedMemoryPerBlockOptin": SHARED_BYTES}

        def __enter__(self) -> Device:
            self._before, streams.device = streams.device, self.index
            return self

        def __exit__(self, *_: object) -> None:
            streams.device = self._before

    class Stream:
        def __init__(self, stream: PretendedStream) -> None:
            self._stream = stream

        def __enter__(self) -> Stream:
            self._before, state.stream = state.stream, self._stream
            return self

        def __exit__(self, *_: object) -> None:
            state.stream = self._before

    def from_external(stream: Any) -> Stream:
        protocol, handle = stream.__cuda_stream__()
        if protocol != 0:
            raise RuntimeError(f"__cuda_stream__ of version {protocol}")
        return Stream(streams.of_handle(handle))

    def external_stream(handle: int, device_id: int = -1) -> Stream:
        if version >= 14:
            warnings.warn("ExternalStream is deprecated; use Stream.from_external", DeprecationWarning, stacklevel=2)
        if streams.of_handle(handle).device_index != device_id:
            raise MixedDevices(f"stream {handle:#x} is not of device {device_id}")
        return Stream(streams.of_handle(handle))

    if version >= 14:
        Stream.from_external = staticmethod(from_external)  # type: ignore[attr-defined]
    made: Any = ModuleType("cupy")
    made.__spec__ = ModuleSpec("cupy", None)
    made.__version__ = f"{version}.0.0"

    def raw_module(code: str | None = None, options: Sequence[str] = (), path: str | None = None) -> _Module:
        return _Module(state, **json.loads(Path(path).read_bytes())) if path else _Module(state, code or "", options)

    made.RawModule = raw_module
    made.cuda = SimpleNamespace(
        Device=Device,
        Stream=Stream,
        compiler=SimpleNamespace(CompileException=_Compiled),
        nvrtc=_Nvrtc(),
        runtime=SimpleNamespace(runtimeGetVersion=lambda: 13000, driverGetVersion=lambda: 13000),
        ExternalStream=external_stream,
    )
    return made
