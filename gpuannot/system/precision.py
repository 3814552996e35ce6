"""Products of float32 on a GPU that are float32, whatever a caller has chosen for training."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class _Held:
    """A setting of the process that threads hold for a while: the first one changes it, the last one puts it back.

    Args:
        change: makes the change and returns what takes it back, None where nothing was to change.
    """

    def __init__(self, change: Callable[[], Callable[[], object] | None]) -> None:
        self._change, self._lock, self._inside = change, threading.Lock(), 0
        self._restore: Callable[[], object] | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._restore = self._change()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside and self._restore is not None:
                    self._restore()


@contextmanager
def exact_float32() -> Iterator[None]:
    """Keep TF32 out of matrix products on CUDA, by whichever of torch's interfaces it was let in; also a decorator."""
    with _products():
        yield


@contextmanager
def exact_network() -> Iterator[None]:
    """:func:`exact_float32`, and convolutions by cuDNN without TF32, by algorithms that are deterministic and not tried out.

    For networks that call torch's own modules, which go by the process's settings.
    """
    with _products(), _convolutions():
        yield


def _without_tf32() -> Callable[[], object] | None:
    """Turn it off, and return what turns it on again; None where it was off."""
    get = getattr(torch._C, "_get_fp32_precision_getter", None)
    if get is None:  # torch before 2.9 has the old interface alone
        matmul = torch.backends.cuda.matmul
        if not matmul.allow_tf32:
            return None
        matmul.allow_tf32 = False
        return lambda: setattr(matmul, "allow_tf32", True)
    chosen = get("cuda", "matmul")
    if chosen != "tf32":
        return None
    # The old interface cannot be read where both were used, so neither can torch's own context managers.
    put = torch._C._set_fp32_precision_setter
    inherited = get("cuda", "all") == chosen
    put("cuda", "matmul", "ieee")
    return lambda: put("cuda", "matmul", "none" if inherited else chosen)


def _deterministic_cudnn() -> Callable[[], object]:
    """Set cuDNN, and return what sets it as it was."""
    # torch.backends.cudnn.flags asks for one answer on TF32, which raises where convolutions and recurrent layers have two.
    before = {name: getattr(torch._C, f"_get_cudnn_{name}")() for name in ("enabled", "benchmark", "deterministic")}
    getter = getattr(torch._C, "_get_fp32_precision_getter", None)
    if getter is None:
        before["allow_tf32"], in_tf32 = torch._C._get_cudnn_allow_tf32(), False
    else:
        in_tf32 = getter("cuda", "conv") == "tf32"

    def put(values: dict[str, bool]) -> None:
        for name, value in values.items():
            getattr(torch._C, f"_set_cudnn_{name}")(value)

    def restore() -> None:
        put(before)
        if in_tf32:
            torch._C._set_fp32_precision_setter("cuda", "conv", "tf32")

    put({name: value for name, value in _DETERMINISTIC.items() if name in before})
    if in_tf32:
        torch._C._set_fp32_precision_setter("cuda", "conv", "ieee")
    return restore


_DETERMINISTIC = {"enabled": True, "benchmark": False, "deterministic": True, "allow_tf32": False}
_products, _convolutions = _Held(_without_tf32), _Held(_deterministic_cudnn)
