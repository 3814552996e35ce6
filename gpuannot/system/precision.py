"""Products of float32 on a GPU that are float32, whatever a caller has chosen for training."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_inside = 0
_restore: Callable[[], object] | None = None


@contextmanager
def exact_float32() -> Iterator[None]:
    """Keep TF32 out of matrix products on CUDA, by whichever of torch's interfaces it was let in; also a decorator.

    The setting is the process's: the first thread that is inside changes it, the last one puts it back.
    """
    global _inside, _restore
    with _lock:
        if not _inside:
            _restore = _without_tf32()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside and _restore is not None:
                _restore()


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
