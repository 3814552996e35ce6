"""Tensors that say they are on a CUDA device and hold their values on the CPU."""

from __future__ import annotations

from typing import Any

import torch

from .errors import MixedDevices


class Pretended(torch.Tensor):
    """A tensor on ``cuda:index`` whose values are ``elem``, a CPU tensor of the same strides; or a meta tensor, without values.

    What torch does below the dispatcher, and so unseen by a dispatch mode, is overridden here.
    """

    elem: torch.Tensor
    on: Any  # the Dispatch that runs its operators

    @staticmethod
    def __new__(cls, elem: torch.Tensor, index: int, on: Any) -> Pretended:
        made = {"dtype": elem.dtype, "device": torch.device("cuda", index)}
        if elem.layout == torch.strided:
            made |= {"strides": elem.stride(), "storage_offset": elem.storage_offset()}
        else:
            made |= {"layout": elem.layout}
        self = torch.Tensor._make_wrapper_subclass(cls, elem.shape, **made)  # type: ignore[attr-defined]
        self.elem, self.on = elem, on
        return self

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        flat = [*args, *(kwargs or {}).values()]
        flat += [part for group in flat if isinstance(group, (list, tuple)) for part in group]
        given = next(part for part in flat if isinstance(part, Pretended))
        return given.on.run(func, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Pretended({self.elem!r}, device='{self.device}')"

    def data_ptr(self) -> int:
        return 0 if self.elem.is_meta else self.elem.data_ptr()

    def record_stream(self, stream: Any) -> None:
        if stream.device != self.device:
            raise MixedDevices(f"a tensor of {self.device} is recorded on a stream of {stream.device}")

    def cuda(self, *_: Any, **__: Any) -> Pretended:
        return self

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __deepcopy__(self, memo: Any) -> Any:
        return self.clone()

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(_with_tensors(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_with_tensors(index), value)


def _with_tensors(index: Any) -> Any:
    """An index whose lists are CPU tensors, which torch copies to the device, with a wait."""
    if isinstance(index, tuple):
        return tuple(map(_with_tensors, index))
    return torch.tensor(index) if isinstance(index, list) else index
