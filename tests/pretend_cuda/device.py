"""``PretendCuda``: the pretended devices, put in the place of torch's and CuPy's for the length of a block."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch._dynamo  # a dispatch mode imports it at its first operator: not among replaced names

from gpuannot.kernels import loader
from gpuannot.method import weights

from . import cupy_on_cpu
from .dispatch import Dispatch
from .graphs import PretendedGraph
from .guard import ensure_guard
from .streams import PretendedEvent, PretendedStream, Streams
from .tensor import Pretended

CAPABILITY = (9, 0)
_MEMORY = 80 << 30


class PretendCuda(AbstractContextManager["PretendCuda"]):
    """Two pretended CUDA devices, of an H100's limits.

    Args:
        devices: how many.
        cupy: the major version of CuPy.

    Attributes:
        streams: the order of their work.
        dispatch: what runs their operators.
    """

    def __init__(self, devices: int = 2, cupy: int = 14) -> None:
        self._cupy = cupy
        self.streams = Streams(devices)
        self.dispatch = Dispatch(self.streams)

    def __enter__(self) -> PretendCuda:
        ensure_guard()
        self._patches = pytest.MonkeyPatch()
        for target, value in self._names().items():
            self._patches.setattr(target, value, raising=False)
        self._patches.setitem(sys.modules, "cupy", cupy_on_cpu.module(self.streams, self._cupy))
        # ``Module.to`` of another kind of tensor puts new parameters in the place of the old, as it must here.
        self._overwritten = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        self._forget_kernels()
        self.dispatch.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.dispatch.__exit__(*error)
        torch.__future__.set_overwrite_module_params_on_conversion(self._overwritten)
        self._patches.undo()
        self._forget_kernels()

    def lift(self, tensor: torch.Tensor, device: Any = "cuda:0") -> Pretended:
        """A copy of a CPU tensor on a device, without a wait."""
        return self.dispatch.lift(tensor, device)

    def _names(self) -> dict[str, Any]:
        """What of torch is replaced, and the library's reading of files, which copies below the dispatcher."""
        streams = self.streams
        properties = SimpleNamespace(
            name="pretended",
            total_memory=_MEMORY,
            multi_processor_count=cupy_on_cpu.MULTIPROCESSORS,
            major=CAPABILITY[0],
            minor=CAPABILITY[1],
        )
        read, generator = weights._read_safetensors, torch.Generator

        def read_unseen(path: Any) -> Any:
            with torch.utils._python_dispatch._disable_current_modes():
                return read(path)

        cuda: dict[str, Any] = {
            "_lazy_init": lambda: None,
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "device_count": lambda: streams.devices,
            "current_device": lambda: streams.device,
            "set_device": lambda device: setattr(streams, "device", streams.index_of(device)),
            "device": _class(lambda device: _Device(streams, device)),
            "get_device_capability": lambda device=None: CAPABILITY,
            "get_device_name": lambda device=None: properties.name,
            "get_device_properties": lambda device=None: properties,
            "mem_get_info": lambda device=None: (_MEMORY // 2, _MEMORY),
            "memory_allocated": lambda device=None: streams.live_bytes(streams.index_of(device)),
            "max_memory_allocated": lambda device=None: streams.live_bytes(streams.index_of(device)),
            "reset_peak_memory_stats": lambda device=None: None,
            "empty_cache": lambda: None,
            "synchronize": lambda device=None: streams.host_waits("cuda.synchronize"),
            "current_stream": streams.current,
            "default_stream": streams.default,
            "set_stream": streams.choose,
            "stream": lambda stream: _Chosen(streams, stream),
            "Stream": _class(streams.new),
            "Event": _class(lambda *_, **__: PretendedEvent(streams)),
            "CUDAGraph": _class(lambda *_, **__: PretendedGraph(streams)),
            "graph.default_capture_stream": None,
            "_sleep": lambda cycles: None,
            "set_sync_debug_mode": lambda mode: setattr(streams, "sync_mode", mode),
            "get_sync_debug_mode": lambda: streams.sync_mode,
            "manual_seed_all": lambda seed: None,
        }
        below = {
            "_host_emptyCache": lambda: None,
            "_cuda_get_cudnn_benchmark_limit": lambda: 10,
            "_cuda_set_cudnn_benchmark_limit": lambda limit: None,
        }
        return {
            **{f"torch.cuda.{name}": value for name, value in cuda.items()},
            **{f"torch._C.{name}": value for name, value in below.items()},
            "torch.version.cuda": "13.0",
            "torch.backends.cudnn.is_available": lambda: True,
            "torch.tensor": self._tensor(torch.tensor),
            "torch.Tensor.pin_memory": lambda tensor, *_: tensor,
            "torch.Tensor.cuda": lambda tensor, *_, **__: tensor.to("cuda"),
            "torch.Generator": _class(lambda device="cpu": generator("cpu")),
            "gpuannot.method.weights._read_safetensors": read_unseen,
        }

    @staticmethod
    def _tensor(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """``torch.tensor``, which copies values to a device below the dispatcher."""

        def made(values: Any, *, device: Any = None, **options: Any) -> torch.Tensor:
            there = make(values, **options)
            return there if device is None else there.to(device)

        return made

    @staticmethod
    def _forget_kernels() -> None:
        for remembered in (loader._cupy, loader.device_limits, loader._kernel):
            remembered.cache_clear()


def _class(make: Callable[..., Any]) -> type:
    """A class, as the name that it replaces may stand in an annotation, whose instances are what ``make`` gives."""
    return type("Pretended", (), {"__new__": lambda cls, *arguments, **options: make(*arguments, **options)})


class _Device:
    """``torch.cuda.device``."""

    def __init__(self, streams: Streams, device: Any) -> None:
        self._streams, self._index = streams, streams.index_of(device)

    def __enter__(self) -> None:
        self._before, self._streams.device = self._streams.device, self._index

    def __exit__(self, *_: object) -> None:
        self._streams.device = self._before


class _Chosen:
    """``torch.cuda.stream``: the stream is current on its device, and its device is the current one."""

    def __init__(self, streams: Streams, stream: PretendedStream | None) -> None:
        self._streams, self._stream = streams, stream

    def __enter__(self) -> None:
        if self._stream is not None:
            self._device = self._streams.device
            self._before = self._streams.current(self._stream.device)
            self._streams.choose(self._stream)
            self._streams.device = self._stream.device_index

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._streams.choose(self._before)
            self._streams.device = self._device
