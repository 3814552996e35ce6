"""Colours as a layer beside those of the network: how the pixels of the whole image share in hue, saturation and value.

Convolution layers are trained to know things whatever their colour; what is asked for often is one, such as a sunset or a
green field. Each patch has the colours of all the image. They have a PCA of their own, without visual words
(:class:`~gpuannot.heads.second_order.Pooling`).
"""

from __future__ import annotations

import torch
from torch import Tensor

#: The layer's name in settings, before those of the network: ``colours+conv5_2``.
COLOURS = "colours"
#: 16 hues × 4 saturations × 4 values.
COLOUR_BINS = 256
_HUES = 16


@torch.inference_mode()
def colour_shares(images: Tensor) -> Tensor:
    """Square roots of the shares of colours in each image, so that products of them are Bhattacharyya coefficients.

    A pixel with largest channel V, smallest v and hue sector s lies in the bin of hue ⌊16·H⌋, H = (2s + (a − b)/(V − v))/6 mod 1,
    saturation ⌊4·(V − v)/V⌋, at most 3, and value ⌊V/64⌋; a and b are the two channels that follow the largest, blue being
    followed by red, and s is 0, 1 or 2 where that is red, green or blue. It is worked out in whole numbers: an image has the same
    bins on every device.

    Args:
        images: (B, 3, H, W) uint8, RGB.

    Returns:
        (B, 256) float32, on the images' device.
    """
    bins = _bins(images.int()).flatten(1)
    counts = torch.zeros((len(images), COLOUR_BINS), dtype=torch.int32, device=images.device)
    counts.scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.int32))
    return counts.float().div_(images.shape[2] * images.shape[3]).sqrt_()


def _bins(pixels: Tensor) -> Tensor:
    """The bin (B, H, W) int64 of each pixel (B, 3, H, W) int32."""
    red, green, blue = pixels.unbind(1)
    most = pixels.amax(dim=1)
    spread = most - pixels.amin(dim=1)
    # Of equals the first: red, then green.
    of_green = 2 * spread + (blue - red)
    of_blue = 4 * spread + (red - green)
    hue = torch.where(most == red, green - blue, torch.where(most == green, of_green, of_blue))
    whole = 6 * spread
    hue = (torch.where(hue < 0, hue + whole, hue) * _HUES).div(whole.clamp(min=1), rounding_mode="floor")
    saturation = (4 * spread).div(most.clamp(min=1), rounding_mode="floor").clamp_(max=3)
    return (hue * 16 + saturation * 4 + most.div(64, rounding_mode="floor")).long()
