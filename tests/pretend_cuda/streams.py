"""Streams, events and what is known of the order of the work on them.

Every stream counts its operations, and knows which of every other stream's its next operation comes after: a vector clock. Events
and waits pass that on. Two operations on the same memory, one of which writes, must be in such an order.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from .errors import MixedDevices, UnorderedStreams, WaitsForDevice

Clock = dict[int, int]
_POISON = 0x5A


def merge(into: Clock, other: Clock) -> None:
    for stream, count in other.items():
        into[stream] = max(into.get(stream, 0), count)


def poison(tensor: torch.Tensor) -> None:
    """Values that no computation makes."""
    if tensor.numel():
        flat = (
            tensor
            if tensor.is_contiguous()
            else tensor.as_strided((tensor.untyped_storage().nbytes() // tensor.itemsize,), (1,), 0)
        )
        flat.view(-1).view(torch.uint8).fill_(_POISON)


class PretendedStream:
    """``torch.cuda.Stream`` of one device; ``Streams`` makes them."""

    def __init__(self, streams: Streams, index: int, handle: int) -> None:
        self.streams, self.device, self.device_index, self.cuda_stream = streams, torch.device("cuda", index), index, handle
        self.clock: Clock = {}
        self.graph: Any = None  # that is being captured on it

    def wait_stream(self, other: PretendedStream) -> None:
        merge(self.clock, other.clock)

    def wait_event(self, event: PretendedEvent) -> None:
        merge(self.clock, event.clock)

    def record_event(self, event: PretendedEvent | None = None) -> PretendedEvent:
        event = event or PretendedEvent(self.streams)
        event.record(self)
        return event

    def synchronize(self) -> None:
        self.streams.host_waits("stream.synchronize", self.clock)

    def query(self) -> bool:
        return all(self.streams.host.get(stream, 0) >= count for stream, count in self.clock.items())


class PretendedEvent:
    """``torch.cuda.Event``: the state of a stream. Recorded on no stream that is named, it takes the current one's."""

    def __init__(self, streams: Streams, **_: Any) -> None:
        self._streams = streams
        self.clock: Clock = {}

    def record(self, stream: PretendedStream | None = None) -> None:
        self.clock = dict((stream or self._streams.current()).clock)

    def wait(self, stream: PretendedStream | None = None) -> None:
        (stream or self._streams.current()).wait_event(self)

    def synchronize(self) -> None:
        self._streams.host_waits("event.synchronize", self.clock)

    def query(self) -> bool:
        return all(self._streams.host.get(stream, 0) >= count for stream, count in self.clock.items())

    def elapsed_time(self, other: PretendedEvent) -> float:
        """Milliseconds, of a clock that stands for none: nothing that it says of speed means anything."""
        return 1.0


@dataclass
class Use:
    """Of one storage: when it was last written, and when it was read since."""

    storage: StorageWeakRef
    index: int
    start: int
    end: int
    written: tuple[int, int] | None = None
    read: Clock = field(default_factory=dict)


class Streams:
    """All streams of all devices, the memory that they use, and what the host has waited for."""

    def __init__(self, devices: int) -> None:
        self.devices = devices
        self.host: Clock = {}
        self.sync_mode: Any = "default"
        self._local = threading.local()
        self._made: dict[int, PretendedStream] = {}
        self._defaults = [self.new(index, handle=index) for index in range(devices)]
        self._uses: dict[int, Use] = {}
        self._swept = 0
        self._late: list[tuple[Clock, torch.Tensor, torch.Tensor]] = []  # copies to the host that nothing has waited for

    # -- which ------------------------------------------------------------------------------------------------------------------

    @property
    def device(self) -> int:
        """The current device's number."""
        return getattr(self._local, "device", 0)

    @device.setter
    def device(self, index: int) -> None:
        self._local.device = index

    def index_of(self, device: Any) -> int:
        """A device's number; the current one's where none is named."""
        if device is None:
            return self.device
        if isinstance(device, int):
            return device
        index = torch.device(device).index
        return self.device if index is None else index

    def new(self, device: Any = None, *, handle: int | None = None, **_: Any) -> PretendedStream:
        handle = 0x1000 + 16 * len(self._made) if handle is None else handle
        # Each device has a default stream of handle 0; here their keys must differ.
        made = self._made[handle] = PretendedStream(self, self.index_of(device), handle)
        return made

    def default(self, device: Any = None) -> PretendedStream:
        return self._defaults[self.index_of(device)]

    def current(self, device: Any = None) -> PretendedStream:
        index = self.index_of(device)
        chosen: dict[int, PretendedStream] = getattr(self._local, "chosen", {})
        return chosen.get(index, self._defaults[index])

    def choose(self, stream: PretendedStream) -> None:
        self._local.chosen = {**getattr(self._local, "chosen", {}), stream.device_index: stream}

    def of_handle(self, handle: int) -> PretendedStream:
        return self._made[handle]

    # -- the host -----------------------------------------------------------------------------------------------------------------

    def host_waits(self, why: str, clock: Clock | None = None) -> None:
        """The host waits for a state of the streams; None for all of them."""
        if self.sync_mode in ("error", 2):
            raise WaitsForDevice(f"called a synchronizing CUDA operation: {why}")
        if any(stream.graph is not None for stream in self._made.values()):
            raise WaitsForDevice(f"operation not permitted when stream is capturing: {why}")
        for stream in self._made.values() if clock is None else ():
            merge(self.host, stream.clock)
        merge(self.host, clock or {})
        waiting, self._late = self._late, []
        for made, target, values in waiting:
            if all(self.host.get(stream, 0) >= count for stream, count in made.items()):
                target.copy_(values)
            else:
                self._late.append((made, target, values))

    def arrives_late(self, stream: PretendedStream, target: torch.Tensor, values: torch.Tensor) -> None:
        """A copy to the host that is there once the host has waited for the stream."""
        poison(target)
        self._late.append((dict(stream.clock), target, values))

    # -- work on memory -----------------------------------------------------------------------------------------------------------

    def use(self, stream: PretendedStream, what: str, read: Iterable[torch.Tensor], written: Iterable[torch.Tensor]) -> None:
        """The stream's next operation reads and writes the storages of these CPU tensors."""
        merge(stream.clock, self.host)
        count = stream.clock.get(stream.cuda_stream, 0) + 1
        for tensor in read:
            use = self.use_of(tensor, stream.device_index)
            self._ordered(stream, what, "reads", use.written)
            use.read[stream.cuda_stream] = count
        for tensor in written:
            use = self.use_of(tensor, stream.device_index)
            self._ordered(stream, what, "writes", use.written, *use.read.items())
            use.written, use.read = (stream.cuda_stream, count), {}
        stream.clock[stream.cuda_stream] = count

    def capturing(self, stream: PretendedStream, what: str) -> Any:
        """The graph that is being captured on the stream, or None.

        Raises:
            UnorderedStreams: one is, on another stream, and would lack this operation.
        """
        for other in self._made.values():
            if other.graph is not None and other is not stream:
                raise UnorderedStreams(f"{what} on stream {stream.cuda_stream:#x} while stream {other.cuda_stream:#x} is captured")
        return stream.graph

    def at(self, address: int) -> tuple[int, torch.Tensor]:
        """The device and the storage, as bytes, that an address given to a kernel lies in.

        Raises:
            MixedDevices: in none.
        """
        for use in self._uses.values():
            if use.start <= address < use.end and not use.storage.expired():
                return use.index, tensor_of(use.storage)
        raise MixedDevices(f"a kernel was given the address {address:#x}, where no CUDA tensor is")

    def _ordered(self, stream: PretendedStream, what: str, how: str, *before: tuple[int, int] | None) -> None:
        for other, count in filter(None, before):
            if other != stream.cuda_stream and stream.clock.get(other, 0) < count:
                raise UnorderedStreams(
                    f"{what} {how} on stream {stream.cuda_stream:#x} what stream {other:#x} uses, without a wait"
                )

    def use_of(self, tensor: torch.Tensor, index: int) -> Use:
        """What is known of the storage of a CPU tensor that stands for memory of a device."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._uses:
            if len(self._uses) > 2 * self._swept + 1000:
                self._uses = {number: use for number, use in self._uses.items() if not use.storage.expired()}
                self._swept = len(self._uses)
            start = storage.data_ptr()
            # The weak reference keeps the key from being given to another storage.
            self._uses[key] = Use(StorageWeakRef(storage), index, start, start + storage.nbytes())
        return self._uses[key]

    def live_bytes(self, index: int) -> int:
        """Bytes of the device's storages that are there."""
        return sum(use.end - use.start for use in self._uses.values() if use.index == index and not use.storage.expired())


def tensor_of(reference: StorageWeakRef) -> torch.Tensor:
    """The bytes of a storage that is still there."""
    storage = torch.UntypedStorage._new_with_weak_ptr(reference.cdata)  # type: ignore[attr-defined]
    return torch.empty(0, dtype=torch.uint8).set_(storage)
