"""Checks of the kernels' arguments, before any launch: each message names the argument, its value and what is expected."""

from __future__ import annotations

import torch
from torch import Tensor

from gpuannot.errors import DeviceError

from .stream import LARGEST_DIMS

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
ON_TENSOR_CORES = ("MMA", "STREAM")
_LARGEST_SIZE = 2**23  # keeps every product of two sizes and every grid within what the kernels index


def check_nearest_center(descriptors: Tensor, centers: Tensor, half_norms: Tensor | None, invalid_count: Tensor | None) -> None:
    """Raise TypeError, ValueError or DeviceError unless the arguments suit ``nearest_center``."""
    _check_inputs(descriptors, ("N", "n"), centers, half_norms)
    _check_optional("invalid_count", invalid_count, torch.int64, (1,))
    _check_devices(descriptors=descriptors, centers=centers, half_norms=half_norms, invalid_count=invalid_count)


def check_method(method: str | None, on_tensor_cores: bool, dims: int) -> None:
    """Raise ValueError unless ``method`` is None or a version of ``nearest_center`` that serves the tensors and the device."""
    served = ("PLAIN", "TILED", *(name for name in ON_TENSOR_CORES if on_tensor_cores and (name == "MMA" or dims <= LARGEST_DIMS)))
    if method is not None and method not in served:
        raise ValueError(f"method is {method!r}: these tensors and this device are served by {', '.join(served)}")


def check_vlad(descriptors: Tensor, labels: Tensor, centers: Tensor, out: Tensor | None, skipped: Tensor | None) -> None:
    """Raise TypeError, ValueError or DeviceError unless the arguments suit ``vlad``."""
    _check_inputs(descriptors, ("B", "P", "n"), centers)
    _check_exactly("labels", labels, torch.int32, tuple(descriptors.shape[:2]))
    _check_last_stride("labels", labels)
    _check_outputs(descriptors, centers, out, skipped)
    _check_devices(descriptors=descriptors, labels=labels, centers=centers, out=out, skipped=skipped)


def check_assign_vlad(
    descriptors: Tensor, centers: Tensor, half_norms: Tensor | None, out: Tensor | None, skipped: Tensor | None
) -> None:
    """Raise TypeError, ValueError or DeviceError unless the arguments suit ``assign_vlad``."""
    _check_inputs(descriptors, ("B", "P", "n"), centers, half_norms)
    _check_outputs(descriptors, centers, out, skipped)
    _check_devices(descriptors=descriptors, centers=centers, half_norms=half_norms, out=out, skipped=skipped)


def check_codebook(centers: Tensor) -> None:
    """Raise TypeError or ValueError unless ``centers`` is a floating-point (m, n) tensor with at least one centre and dimension."""
    _check_tensor("centers", centers, _FLOATS, ("m", "n"))
    for name, size in zip("mn", centers.shape, strict=True):
        if not 1 <= size <= _LARGEST_SIZE:
            raise ValueError(f"centers has shape {tuple(centers.shape)}: {name} must be 1 … {_LARGEST_SIZE}")


def _check_inputs(descriptors: Tensor, shape: tuple[str, ...], centers: Tensor, half_norms: Tensor | None = None) -> None:
    _check_tensor("descriptors", descriptors, _FLOATS, shape)
    if len(shape) == 3 and descriptors.shape[1] > _LARGEST_SIZE:
        raise ValueError(f"descriptors has {descriptors.shape[1]} patches an image; the most is {_LARGEST_SIZE}")
    _check_last_stride("descriptors", descriptors)
    check_codebook(centers)
    if centers.dtype not in (torch.float32, descriptors.dtype):
        raise TypeError(f"centers is {centers.dtype}: expected torch.float32 or the descriptors' {descriptors.dtype}")
    if centers.shape[1] != descriptors.shape[-1]:
        raise ValueError(f"centers has {centers.shape[1]} dimensions and descriptors {descriptors.shape[-1]}: they must agree")
    _check_contiguous("centers", centers)
    _check_optional("half_norms", half_norms, torch.float32, (len(centers),))


def _check_outputs(descriptors: Tensor, centers: Tensor, out: Tensor | None, skipped: Tensor | None) -> None:
    _check_optional("out", out, torch.float32, (len(descriptors), centers.numel()))
    _check_optional("skipped", skipped, torch.int32, (len(descriptors),))


def _check_optional(name: str, tensor: Tensor | None, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if tensor is not None:
        _check_exactly(name, tensor, dtype, shape)
        _check_contiguous(name, tensor)


def _check_exactly(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    _check_tensor(name, tensor, (dtype,), tuple(map(str, shape)))
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}: expected {shape}")


def _check_tensor(name: str, tensor: object, dtypes: tuple[torch.dtype, ...], shape: tuple[str, ...]) -> None:
    expected = f"a ({', '.join(shape)}{',' * (len(shape) == 1)}) tensor of {' or '.join(map(str, dtypes))}"
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}: expected {expected}")
    if tensor.dtype not in dtypes:
        raise TypeError(f"{name} is {tensor.dtype}: expected {expected}")
    if tensor.ndim != len(shape):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}: expected {expected}")


def _check_last_stride(name: str, tensor: Tensor) -> None:
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(f"{name} has strides {tensor.stride()}: the last dimension must be contiguous; pass {name}.contiguous()")


def _check_contiguous(name: str, tensor: Tensor) -> None:
    if not tensor.is_contiguous():
        raise ValueError(f"{name} has strides {tensor.stride()}: it must be contiguous; pass {name}.contiguous()")


def _check_devices(**tensors: Tensor | None) -> None:
    devices = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    if len(set(devices.values())) > 1:
        where = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"the tensors lie on different devices ({where}): move them to one")
    device = next(iter(devices.values()))
    if device.type != "cuda":
        raise DeviceError(f"the kernels take tensors on a CUDA device, not on {device}: on the CPU use gpuannot.reference")
