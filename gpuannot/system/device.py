"""Which device the stages run on, and packages that it may lack."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from ..errors import DeviceError, install

_NO_ROOM = (
    "unable to find an engine",
    "unable to find a valid cudnn algorithm",
    "cudnn_status_alloc_failed",
    "cublas_status_alloc_failed",
    "cuda out of memory",
)


def resolve_device(device: str | torch.device) -> torch.device:
    """The device for ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``. ``auto`` is a GPU where torch and CuPy can use one.

    Raises:
        DeviceError: a device that is unknown, or not there.
    """
    name = str(device)
    if name == "cpu":
        return torch.device("cpu")
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        if importlib.util.find_spec("cupy") is None:
            warnings.warn(
                "there is a GPU, but CuPy, which its kernels need, is not installed: running on the CPU; "
                f"{install('cuda13', 'cuda12')}",
                stacklevel=3,
            )
            return torch.device("cpu")
        return torch.device("cuda", torch.cuda.current_device())
    kind, _, index = name.partition(":")
    if kind != "cuda" or (index and not index.isdigit()):
        raise DeviceError(f'device {name!r} is unknown; use "auto", "cpu", "cuda" or "cuda:N"')
    if not torch.cuda.is_available():
        built = "this torch is built without CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
        raise DeviceError(f'device {name!r}: {built}; use device="auto" or "cpu", or on a machine with a GPU {install("cuda13")}')
    number = int(index) if index else torch.cuda.current_device()
    if number >= torch.cuda.device_count():
        raise DeviceError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices, numbered from 0")
    return torch.device("cuda", number)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether a device had too little memory: by torch's error, or as cuDNN and cuBLAS put it, which find no room to work in."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(sign in text for sign in _NO_ROOM)


def cpu_has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32: by AMX, by Arm's or by AMD's AVX-512 instructions.

    Intel's processors have those of AVX-512 too, but take longer over them than over float32's: where a virtual machine hides
    AMX, VGG-16 has run at 0.62 of float32's speed.
    """
    if _cpu_has(("amx_bf16", "bf16"), ("_is_amx_tile_supported",)):
        return True
    intel = str(_capabilities().get("cpu_name")).startswith("Intel")
    return not intel and _cpu_has(("avx512_bf16",), ("_is_avx512_bf16_supported",))


def cpu_has_int8() -> bool:
    """Whether this processor multiplies int8 in hardware (AVX-512 VNNI, AVX VNNI, AMX)."""
    return _cpu_has(("avx512_vnni", "avx_vnni", "amx_int8"), ("_is_vnni_supported", "_is_amx_tile_supported"))


def _cpu_has(names: tuple[str, ...], probes: tuple[str, ...]) -> bool:
    """Whether torch knows one of these capabilities of the processor, or in versions that list none, one probe says so."""
    if capabilities := _capabilities():
        return any(bool(capabilities.get(name)) for name in names)
    return any(bool(getattr(torch.cpu, probe)()) for probe in probes if hasattr(torch.cpu, probe))


def _capabilities() -> Mapping[str, Any]:
    """What torch says of the processor; empty in versions that say nothing."""
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


@cache
def cuml_module(name: str) -> Any | None:
    """``cuml.<name>``, or None with a warning, once, that torch fits in its place."""
    try:
        return importlib.import_module(f"cuml.{name}")
    except ImportError as error:
        warnings.warn(
            f"cuML is not usable here ({error}): PCA and K-means are fitted by torch on the GPU; for cuML "
            f"{install('cuda13', 'cuda12')}",
            stacklevel=3,
        )
        return None
