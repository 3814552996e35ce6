"""CUDA graphs: what ran on a stream between two moments, run again on the same memory, and nothing of what Python decided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_map

from .errors import StaleGraph, WaitsForDevice
from .streams import PretendedStream, Streams, poison, tensor_of


class _Outside:
    """A tensor that was there before the capture: as for CUDA, its address is kept and not its memory."""

    def __init__(self, tensor: torch.Tensor, what: str) -> None:
        self._storage = StorageWeakRef(tensor.untyped_storage())
        self._form = tensor.dtype, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
        self._what = what

    def tensor(self) -> torch.Tensor:
        dtype, offset, shape, stride = self._form
        if self._storage.expired():
            raise StaleGraph(f"the graph runs {self._what} on memory of a tensor {shape} that was given back")
        found = tensor_of(self._storage)
        return torch.empty(0, dtype=dtype).set_(found.untyped_storage(), offset, shape, stride)


class PretendedGraph:
    """``torch.cuda.CUDAGraph``."""

    def __init__(self, streams: Streams, *_: Any, **__: Any) -> None:
        self._streams = streams
        self._calls: list[Callable[[], None]] = []
        self._inside: dict[int, torch.Tensor] = {}
        self._stream: PretendedStream | None = None
        self._replaying: PretendedStream | None = None

    def capture_begin(self, *_: Any, **__: Any) -> None:
        stream = self._streams.current()
        if stream is self._streams.default(stream.device):
            raise WaitsForDevice("CUDA graphs must be captured on a non-default stream")
        stream.graph, self._stream = self, stream

    def capture_end(self) -> None:
        assert self._stream is not None
        self._stream.graph = None
        for tensor in self._inside.values():
            if not tensor.is_meta and tensor.layout == torch.strided:
                poison(tensor)  # a capture runs nothing

    def made(self, tensor: torch.Tensor) -> None:
        """This tensor was allocated in the capture: the graph owns it."""
        self._inside.setdefault(tensor.untyped_storage()._cdata, tensor)

    def record(
        self,
        what: str,
        call: Callable[..., Any],
        arguments: Any,
        results: list[torch.Tensor],
        read: list[torch.Tensor],
        written: list[torch.Tensor],
    ) -> None:
        """``call(arguments)`` gave ``results``, and is to give them again; ``read`` and ``written`` are the memory that it uses."""
        held, used = (tree_map(lambda x: self._held(x, what), x) for x in (arguments, (read, written)))

        def again() -> None:
            given, (reads, writes) = (tree_map(lambda x: x.tensor() if isinstance(x, _Outside) else x, x) for x in (held, used))
            self._streams.use(self._replaying, f"{what} of a graph", reads, writes)
            for old, new in zip(results, call(given), strict=True):
                if new.data_ptr() != old.data_ptr():
                    old.copy_(new)

        self._calls.append(again)

    def _held(self, x: Any, what: str) -> Any:
        if not isinstance(x, torch.Tensor) or x.layout != torch.strided or x.untyped_storage()._cdata in self._inside:
            return x
        return _Outside(x, what)

    def replay(self) -> None:
        assert self._stream is not None
        self._replaying = self._streams.current(self._stream.device)
        with torch.inference_mode():
            for call in self._calls:
                call()

    def reset(self) -> None:
        self._calls.clear()
        self._inside.clear()
