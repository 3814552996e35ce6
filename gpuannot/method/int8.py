"""The trunk's convolutions in int8 on a CPU: activations as bytes, weights with a scale for each output channel (oneDNN).

A layer's output a ≥ 0 is stored as q = min(255, round(a/s)), s = r/255, r being the layer's range. The convolution of bytes with
int8 weights is exact in int32; bias, ReLU and rounding to the next layer's bytes run inside it. So an image gives the same bits
whatever it is batched with, on any number of threads.

The images go in as the bytes they are: mean and standard deviation are folded into the first layer's weights and bias, and what
surrounds an image is its mean, rounded to bytes. The last layer, if it is a convolution, comes out in bfloat16.

Ranges are :data:`MARGIN` times the largest activation over :data:`IMAGES` drawn pictures whose spectrum falls as photographs' do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..system.device import cpu_has_int8
from .trunk_layers import packed_for_shapes
from .weights import CONVOLUTIONS, POOLS_AFTER, TrunkWeights, quantize_int8

IMAGES, MARGIN = 8, 1.3
# Ranges by the SHA-256 of the weights: at first of the embedded ones, as found_ranges() finds them.
_KNOWN: dict[str, tuple[float, ...]] = {
    "5fa3faa3d02e8994e323a2ddae6cc72af3279c2645041538c81181c17afe984d": (
        781., 2840., 4720., 7020., 10600., 14100., 17400., 10500., 5660., 3260., 1280., 429., 141.
    )
}  # fmt: skip


def supported() -> bool:
    """Whether this processor multiplies int8 in hardware, and torch has oneDNN's operator for it."""
    return cpu_has_int8() and torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qconv2d_pointwise")


def ranges(weights: TrunkWeights) -> tuple[float, ...]:
    """The range of each convolution layer's output, to three digits, so that machines agree: known, or found in some seconds."""
    if weights.sha256 not in _KNOWN:
        _KNOWN[weights.sha256] = found_ranges(weights)
    return _KNOWN[weights.sha256]


@torch.inference_mode()
def found_ranges(weights: TrunkWeights) -> tuple[float, ...]:
    """As :func:`ranges`, by running the network in float32."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (weights.preprocessing.mean, weights.preprocessing.std))
    largest = np.zeros(len(CONVOLUTIONS))
    for image in drawn_pictures(IMAGES):
        x = ((image[None].float() - mean) / std).contiguous(memory_format=torch.channels_last)
        for number, (name, module, _, _) in enumerate(CONVOLUTIONS):
            x = functional.conv2d(x, weights.tensors[f"{module}.weight"], weights.tensors[f"{module}.bias"], padding=1).relu_()
            largest[number] = max(largest[number], float(x.max()))
            if name in POOLS_AFTER:
                x = functional.max_pool2d(x, 2)
    return tuple(float(f"{MARGIN * value:.3g}") if value > 0 else 1.0 for value in largest)


def drawn_pictures(count: int, size: int = 224) -> Tensor:
    """Noise (count, 3, size, size) uint8 whose amplitude falls with frequency f as f^−1 to f^−1.5; the same every time."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1
    found = np.empty((count, 3, size, size), np.uint8)
    for picture in found:
        falls, contrast = rng.choice([1.0, 1.2, 1.5]), rng.uniform(30, 70)
        drawn = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((4, size, size))) / frequency**falls, s=(size, size))
        drawn /= drawn.std(axis=(1, 2), keepdims=True)
        picture[:] = np.clip(127 + contrast * (drawn[:1] + 0.4 * drawn[1:]), 0, 255)
    return torch.from_numpy(found)


class _Step(NamedTuple):
    name: str
    packed: Callable[[tuple[int, ...]], Tensor]  # its weight, by oneDNN, for an input
    scales: Tensor  # (out,) float32
    zeros: Tensor  # (out,) int32
    bias: Tensor  # (out,) float32
    scale: float  # of the bytes that come in
    makes: float  # of the bytes that go out
    padding: tuple[int, int]


class Int8Layers:
    """The layers up to the last of some, in int8.

    Args:
        weights: of the trunk.
        layers: whose outputs are wanted, in the order of the network.
        relu: whether the last, if a convolution, ends with its ReLU.
    """

    def __init__(self, weights: TrunkWeights, layers: Sequence[str], relu: bool = True) -> None:
        self.layers, self.relu = tuple(layers), relu
        mean, std = (torch.tensor(values) for values in (weights.preprocessing.mean, weights.preprocessing.std))
        self._around = mean.round().to(torch.uint8).view(1, 3, 1, 1)
        self._steps: list[_Step] = []
        scale = 1.0
        for (name, module, _, _), largest in zip(CONVOLUTIONS, ranges(weights), strict=True):
            weight, bias = weights.tensors[f"{module}.weight"], weights.tensors[f"{module}.bias"]
            first = not self._steps
            if first:
                weight = weight / std.view(1, 3, 1, 1)
                bias = bias - (weight * mean.view(1, 3, 1, 1)).sum(dim=(1, 2, 3))
            rounded, scales = quantize_int8(weight)
            padding = (0, 0) if first else (1, 1)
            pack = partial(_packed, rounded, scales, scale, padding)
            zeros = torch.zeros_like(scales, dtype=torch.int32)
            self._steps.append(_Step(name, packed_for_shapes(pack), scales, zeros, bias.clone(), scale, largest / 255, padding))
            scale = largest / 255
            if self.layers[-1] in (name, POOLS_AFTER.get(name)):
                break

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Outputs (B, C, H', W') bfloat16 of each layer, of images (B, 3, H, W) uint8."""
        batch, _, height, width = images.shape
        x = torch.empty((batch, 3, height + 2, width + 2), dtype=torch.uint8, memory_format=torch.channels_last)
        x.copy_(self._around)
        x[:, :, 1:-1, 1:-1] = images
        found = []
        for step in self._steps:
            last = step.name == self.layers[-1]
            kind, activation = (torch.bfloat16 if last else torch.uint8), ("none" if last and not self.relu else "relu")
            weight = step.packed(tuple(x.shape))
            x = torch.ops.onednn.qconv2d_pointwise(
                x, step.scale, 0, weight, step.scales, step.zeros, step.bias, [1, 1], list(step.padding), [1, 1], 1,
                1.0 if last else step.makes, 0, kind, activation, [], "",
            )  # fmt: skip
            if step.name in self.layers:
                found.append(x if last else _restored(x, step.makes))
            if step.name in POOLS_AFTER and not last:
                x = _pooled(x)
                if POOLS_AFTER[step.name] in self.layers:
                    found.append(_restored(x, step.makes))
        return found


def _packed(weight: Tensor, scales: Tensor, scale: float, padding: tuple[int, int], shape: Sequence[int]) -> Tensor:
    return torch.ops.onednn.qconv_prepack(weight, scales, scale, 0, [1, 1], list(padding), [1, 1], 1, list(shape))


def _restored(x: Tensor, scale: float) -> Tensor:
    return x.to(torch.bfloat16).mul_(scale)


def _pooled(x: Tensor) -> Tensor:
    """2 × 2 maxima of bytes (B, C, H, W) in channels-last memory; torch's own pooling has no such kernel."""
    rows = x.permute(0, 2, 3, 1)[:, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
    rows = torch.maximum(rows[:, 0::2], rows[:, 1::2])
    return torch.maximum(rows[:, :, 0::2], rows[:, :, 1::2]).permute(0, 3, 1, 2)
