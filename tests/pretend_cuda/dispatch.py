"""Every operator on a pretended tensor: checked as a GPU would, run on the CPU, and told to who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map

from gpuannot.system.device import cpu_has_fast_bfloat16

from .errors import MixedDevices
from .streams import Streams
from .tensor import Pretended

# The host waits for what these find, or for its size.
_WAITS = {
    "_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "unique_dim", "_unique2", "bincount",
    "unique_consecutive", "repeat_interleave", "_linalg_check_errors", "linalg_eigh", "_linalg_eigh",
}  # fmt: skip
_COPIES = {"_to_copy", "copy_"}
# torch copies indices from the host to the device, with a wait.
_TAKES_HOST_INDICES = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
# A GPU multiplies 16 bits and sums in float32. A processor without instructions for that takes many times as long as for float32.
_PRODUCTS = {"convolution", "_convolution", "mm", "addmm", "bmm", "baddbmm", "mv", "addmv"}
_ALLOCATES = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}


class Ran(NamedTuple):
    """An operator or a kernel that ran.

    Attributes:
        name: of it.
        read, written: CPU or meta tensors that stand for its arguments and results; views of the same memory are not written.
        arguments: as they are given on the CPU, by position.
    """

    name: str
    read: list[torch.Tensor]
    written: list[torch.Tensor]
    arguments: tuple[Any, ...]


class Dispatch(TorchDispatchMode):
    """Runs operators of :class:`Pretended` tensors, and those that make one.

    Args:
        streams: what the work is ordered by.

    Attributes:
        listener: is told of each operator that reads or writes memory.
        with_values: without, operators run on meta tensors: shapes and strides alone.
    """

    def __init__(self, streams: Streams) -> None:
        super().__init__()
        self.streams = streams
        self.listener: Callable[[Ran], None] | None = None
        self.with_values = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        passed = tree_flatten((args, kwargs))[0]
        flat = [x for x in passed if isinstance(x, torch.Tensor)]
        there = [x for x in flat if isinstance(x, Pretended)]
        device = kwargs.get("device")
        wanted = torch.device(device) if device is not None else None
        if not there and not any(isinstance(x, torch.device) and x.type == "cuda" for x in [*passed, wanted]):
            return func(*args, **kwargs)
        if (decomposed := self._decomposed(func, args, kwargs)) is not NotImplemented:
            return decomposed
        name = func._schema.name.removeprefix("aten::")
        if wanted is None:
            index: int | None = there[0].device.index
        else:
            index = self.streams.index_of(wanted) if wanted.type == "cuda" else None
        self._check_devices(name, flat, there)
        self._check_waits(func, name, args, kwargs, there, index)
        lowered = tree_map(self._lower, (args, kwargs))
        if wanted is not None:
            lowered[1]["device"] = torch.device("cpu" if self.with_values or index is None else "meta")
            lowered[1].pop("pin_memory", None)
        stream = self.streams.current(index if index is not None else there[0].device)
        result = _execute(func, name, *lowered)
        made = [x for x in tree_flatten(result)[0] if isinstance(x, torch.Tensor)]
        changed = _changed(func, args, kwargs)
        given = (x for x in tree_flatten(lowered)[0] if isinstance(x, torch.Tensor))
        old = {x.untyped_storage()._cdata for x in given if x.layout == torch.strided}
        new = [x for x in made if x.layout == torch.strided and x.untyped_storage()._cdata not in old]
        written = [*new, *(x.elem for x in changed if isinstance(x, Pretended))]
        if self.with_values:
            self._order(stream, func, name, lowered, made, [x.elem for x in there if x.layout == torch.strided], written, new)
            if index is None and name in _COPIES and _asynchronous(func, args, kwargs):
                self._arrive_late(stream, args, name, made)
        if self.listener is not None and (written or name in _WAITS) and name not in _ALLOCATES:
            self.listener(Ran(name, [x.elem for x in there if not any(x is one for one in changed)], written, lowered[0]))
        kept = {id(x.elem): x for x in there}
        return tree_map(lambda x: self._lift(x, index, kept), result)

    def lift(self, tensor: torch.Tensor, device: Any) -> Pretended:
        """A copy of a CPU tensor on a device, which has waited for nothing."""
        index = self.streams.index_of(device)
        with _disable_current_modes():
            elem = tensor.clone()
        self.streams.use(self.streams.current(index), "copy", (), [elem])
        return Pretended(elem, index, self)

    @contextmanager
    def listening(self, listener: Callable[[Ran], None], *, with_values: bool = True) -> Iterator[None]:
        """Tell ``listener`` what runs in the block."""
        self.listener, self.with_values = listener, with_values
        try:
            yield
        finally:
            self.listener, self.with_values = None, True

    def _decomposed(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Inference tensors bring composite operators whole: here as on a GPU they are what they are made of."""
        if not torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            return NotImplemented
        with self:
            return func.decompose(*args, **kwargs)

    def _check_devices(self, name: str, flat: list[torch.Tensor], there: list[Pretended]) -> None:
        if name in _COPIES or not there:
            return
        devices = {x.device for x in there}
        if len(devices) > 1:
            raise MixedDevices(f"{name}: tensors on {' and '.join(sorted(map(str, devices)))}")
        for x in flat:
            if not isinstance(x, Pretended) and x.ndim and name not in _TAKES_HOST_INDICES:
                raise MixedDevices(f"{name}: a CPU tensor of shape {tuple(x.shape)} among tensors on {there[0].device}")

    def _check_waits(
        self, func: Any, name: str, args: Any, kwargs: dict[str, Any], there: list[Pretended], index: int | None
    ) -> None:
        why = name if name in _WAITS and there else None
        if name in _COPIES and not _asynchronous(func, args, kwargs):
            source = args[1] if name == "copy_" else args[0]
            target_on_device = isinstance(args[0], Pretended) if name == "copy_" else index is not None
            if isinstance(source, Pretended) != target_on_device:
                why = "a copy between host and device"
        if name in _TAKES_HOST_INDICES and there:
            indices = [x for x in args[1] if x is not None]
            if any(not isinstance(x, Pretended) and x.ndim for x in indices):
                why = "an index on the host"
            by_mask = any(x.dtype in (torch.bool, torch.uint8) for x in indices)
            if by_mask and not (name.startswith(("index_put", "_index_put")) and args[2].numel() == 1):
                why = "an index by a mask"
        if why is not None:
            for number in {x.device.index for x in there} | ({index} if index is not None else set()):
                self.streams.host_waits(why, self.streams.current(number).clock)

    def _order(
        self, stream: Any, func: Any, name: str, lowered: Any, made: Any, read: Any, written: list[torch.Tensor], new: Any
    ) -> None:
        if not written and name not in _WAITS and name not in _COPIES:
            return  # a view
        graph = self.streams.capturing(stream, name)
        if graph is None:
            self.streams.use(stream, name, read, written)
            return
        for tensor in new:
            graph.made(tensor)
            self.streams.use_of(tensor, stream.device_index)  # to be known as this device's memory
        if name not in _ALLOCATES:
            graph.record(name, lambda given: _tensors(_execute(func, name, *given)), lowered, made, read, written)

    def _arrive_late(self, stream: Any, args: Any, name: str, made: list[torch.Tensor]) -> None:
        target = args[0] if name == "copy_" else made[0]
        self.streams.arrives_late(stream, target, target.clone())

    def _lower(self, x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        elem = x.elem if isinstance(x, Pretended) else x
        if self.with_values or elem.is_meta or not isinstance(x, Pretended):
            return elem
        return torch.empty_strided(elem.shape, elem.stride(), dtype=elem.dtype, device="meta")

    def _lift(self, x: Any, index: int | None, kept: dict[int, Pretended]) -> Any:
        if not isinstance(x, torch.Tensor) or isinstance(x, Pretended) or index is None:
            return x
        found = kept.get(id(x))
        return Pretended(x, index, self) if found is None else found


def _tensors(result: Any) -> list[torch.Tensor]:
    return [x for x in tree_flatten(result)[0] if isinstance(x, torch.Tensor)]


def _changed(func: Any, args: Any, kwargs: dict[str, Any]) -> list[Any]:
    """The arguments that an operator writes into."""
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    return [
        given[argument.name]
        for argument in func._schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write and argument.name in given
    ]


def _asynchronous(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    return bool(given.get("non_blocking", False))


def _execute(func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operator on the CPU, or what stands there for one that only a GPU has."""
    if name == "cudnn_convolution_relu":
        x, weight, bias = args[:3]
        for tensor in (x, weight):
            if not tensor.is_contiguous(memory_format=torch.channels_last):
                raise MixedDevices(f"cuDNN is given strides {tensor.stride()} of {tuple(tensor.shape)} and would copy them")
        ones = [1, 1]
        given = (x, weight, bias, ones, ones, ones, False, [0, 0], 1)
        return _execute(torch.ops.aten.convolution.default, "convolution", given, {}).relu_()
    if name == "cudnn_batch_norm":  # what a torch that is built for CUDA chooses; it returns what cuDNN reserves as well
        x, weight, bias, mean, var, training, momentum, eps = args
        normalised = torch.ops.aten.native_batch_norm.default(x, weight, bias, mean, var, training, momentum, eps)
        return *normalised, x.new_empty(0, dtype=torch.uint8)
    if name == "mm" and "dtype" in func._overloadname:
        left, right = args[:2]
        dtype = kwargs.get("out_dtype", args[2] if len(args) > 2 else None)
        if left.dtype != right.dtype or left.dtype not in (torch.bfloat16, torch.float16):
            raise RuntimeError(f"mm(out_dtype={dtype}) of {left.dtype} and {right.dtype}")
        return left.to(dtype) @ right.to(dtype)
    if name in _PRODUCTS and args[0].dtype == torch.bfloat16 and not cpu_has_fast_bfloat16() and not args[0].is_meta:
        found = func(*tree_map(_widened, args), **tree_map(_widened, kwargs)).bfloat16()
        out = kwargs.get("out")  # of which the product has a copy
        return found if out is None else out.resize_(found.shape).copy_(found)
    return func(*args, **kwargs)


def _widened(x: Any) -> Any:
    """In float32 what is a bfloat16 tensor, which loses nothing."""
    return x.float() if isinstance(x, torch.Tensor) and x.dtype == torch.bfloat16 else x
