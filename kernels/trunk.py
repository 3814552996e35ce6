"""What stands around the trunk's convolutions: bytes to normalised pixels, and 2 × 2 poolings."""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks
from .loader import launch
from .trunk_plan import plan_max_pool, plan_normalise_pixels


def max_pool(pixels: Tensor) -> Tensor:
    """Maximum of each 2 × 2 square: ``torch.nn.functional.max_pool2d(pixels, 2)`` of channels-last tensors, without its indices.

    NaN comes out where one of the four is. An odd last row or column is left out.

    Args:
        pixels: (B, C, H, W) float32, float16 or bfloat16 on a CUDA device, H and W at least 2; channels contiguous, as in
            channels-last tensors and in a part of their channels. B = 0 is allowed.

    Returns:
        (B, C, H // 2, W // 2) in the dtype of ``pixels``, channels last.

    Raises:
        TypeError: an argument of wrong type or dtype; the message names it.
        ValueError: an argument of wrong shape or stride; the message names it.
        DeviceError: the tensor is not on a CUDA device, or the device, driver or CuPy does not serve.
    """
    checks.check_max_pool(pixels)
    batch, channels, height, width = pixels.shape
    out = _channels_last(batch, channels, height // 2, width // 2, pixels.dtype, pixels.device)
    if batch:
        strides = (pixels.stride(0), pixels.stride(2), pixels.stride(3))
        alignment = 16 if (pixels.data_ptr() | out.data_ptr()) % 16 == 0 else 1
        plan = plan_max_pool(batch, channels, height, width, _name(pixels.dtype), strides, alignment=alignment)
        launch(plan, {"pixels": pixels, "out": out}, pixels.device)
    return out


def normalise_pixels(
    images: Tensor, scale: Tensor, offset: Tensor, *, channels: int = 4, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """RGB bytes as a first convolution reads them: bytes · scale + offset, channels last, padded with channels of zeros.

    Args:
        images: (B, 3, H, W) uint8 on a CUDA device, any strides. No images, and images without pixels, are allowed.
        scale: (3,) float32, finite: 1 / std of each channel.
        offset: (3,) float32, finite: -mean / std of each channel.
        channels: of the output, 4 or 8; those after the third are zeros, for which the convolution's weights need zeros.
        dtype: float32, float16 or bfloat16; rounded once from float32.

    Returns:
        (B, channels, H, W) in ``dtype``, channels last.

    Raises:
        TypeError: as ``max_pool``.
        ValueError: as ``max_pool``.
        DeviceError: as ``max_pool``.
    """
    checks.check_normalise_pixels(images, scale, offset, channels, dtype)
    batch, _, height, width = images.shape
    out = _channels_last(batch, channels, height, width, dtype, images.device)
    if out.numel():
        strides = (images.stride(0), images.stride(1), images.stride(2), images.stride(3))
        plan = plan_normalise_pixels(batch, height, width, channels, _name(dtype), strides)
        launch(plan, {"images": images, "scale": scale, "offset": offset, "out": out}, images.device)
    return out


def _channels_last(batch: int, channels: int, height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    shape = (batch, channels, height, width)
    return torch.empty(shape, dtype=dtype, device=device, memory_format=torch.channels_last)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
