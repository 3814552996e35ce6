"""VGG-16 up to a named layer: RGB bytes in, local convolution features out (the paper's F, by default conv5_2).

The features come as a (B, P, C) **view** of channels-last memory: every convolution runs channels-last, so that the C values of
one position lie together and no transpose is ever made. On a CPU bias and ReLU run inside the convolution (oneDNN), on a GPU where
that is asked for (cuDNN).

On CPUs with bfloat16 instructions (AVX-512 BF16, AMX) the trunk runs in bfloat16 with float32 accumulation, else in float32; where
that is asked for and the CPU has instructions for it, in int8.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import InvalidArgumentError
from ...system.device import resolve_device
from .. import int8
from ..trunk_layers import build_layers, fuse_layers, put_kernels
from ..weights import CONVOLUTIONS, POOLS_AFTER, TrunkWeights, load_weights
from .base import LocalTrunk, check_images, resolve_dtype, runs_int8
from .colours import COLOUR_BINS, COLOURS, colour_shares

# Activations of one image in conv1 are 6.4 MB in bfloat16 and 12.8 MB in float32: a few images at a time keep the working set near
# the caches, which is faster on CPUs than one large batch (benchmarks/bench_trunk.py) and bounds memory whatever the batch.
_CPU_CHUNK, _CPU_CHUNK_FLOAT32 = 4, 2


def layer_names() -> tuple[str, ...]:
    """Names of the layers a trunk can end at: conv1_1 … conv5_3 and pool1 … pool5, in order."""
    names = []
    for name, *_ in CONVOLUTIONS:
        names.append(name)
        if name in POOLS_AFTER:
            names.append(POOLS_AFTER[name])
    return tuple(names)


def split_layers(layer: str) -> tuple[str, ...]:
    """The layers that a setting names, as ``pool4+conv5_1`` does, in the order of the network, ``colours`` before all.

    Raises:
        ValueError: a layer that is unknown, or named twice, or no layer of the network.
    """
    names, known = layer.split("+"), (COLOURS, *layer_names())
    for name in names:
        if name not in known:
            raise InvalidArgumentError(
                f"layer {name!r} is unknown; choose one of {', '.join(layer_names())}, or several joined by '+', also {COLOURS}"
            )
    if len(set(names)) != len(names):
        raise InvalidArgumentError(f"layer {layer!r} names a layer twice")
    if names == [COLOURS]:
        raise InvalidArgumentError(f"layer {COLOURS!r} goes with one of the network, whose patches it takes: {COLOURS}+conv5_2")
    return tuple(sorted(names, key=known.index))


class Vgg16(LocalTrunk):
    """VGG-16 from the input bytes to one layer, or to several of the same stride in one pass.

    The modules carry torchvision's names (``features.0`` … ``features.30``); in int8 there are none.

    Args:
        weights: a :class:`~gpuannot.method.weights.TrunkWeights`, or None for the embedded ones.
        layer: ``conv1_1`` … ``conv5_3`` or ``pool1`` … ``pool5``, or several joined by ``+``: their channels lie side by side, in
            the order of the network. With ``colours+`` :func:`~.colours.colour_shares` come first, alike for all patches.
        relu: for a convolution layer, take its output after (True) or before (False) the ReLU. Poolings follow a ReLU anyway.
        dtype: ``auto``, ``float32``, ``bfloat16``, ``float16`` (CUDA only), or ``int8``
            (:class:`~gpuannot.method.int8.Int8Layers`; as ``auto`` where the device does not multiply int8).
        device: where it runs.
        kernel_pooling: on CUDA, pool by ``kernels.max_pool`` instead of torch, which also writes indices. The same bits.
        pixel_channels: 3; or, on CUDA, 4 or 8: bytes are normalised and padded to so many channels by one kernel instead of torch's
            operators, and the first convolution's weights are padded with zeros. Pixels are rounded once, torch's twice.
        cudnn_fused: on CUDA in 16 bits, bias and ReLU inside cuDNN's convolution: less memory traffic, by algorithms that need not
            give the same bits twice.

    Attributes:
        layer_channels: channels of each layer; ``channels`` is their sum.
        dtype: the features' type. arithmetic: what convolutions multiply, ``int8`` or the name of that type.

    Raises:
        ValueError: an unknown layer, layers of different strides, several before their ReLU, or another number of pixel channels.
        DeviceError: a dtype or a kernel that the device does not have.
    """

    def __init__(
        self,
        weights: TrunkWeights | None = None,
        layer: str = "conv5_2",
        *,
        relu: bool = True,
        dtype: str = "auto",
        device: str | torch.device = "cpu",
        kernel_pooling: bool = False,
        pixel_channels: int = 3,
        cudnn_fused: bool = False,
    ) -> None:
        layers = split_layers(layer)
        if len(layers) > 1 and not relu:
            raise InvalidArgumentError(f"several layers ({layer}) are taken after their ReLU: leave relu on")
        last = layers[-1]
        weights = weights or load_weights()
        device = resolve_device(device)
        in_int8 = runs_int8(dtype, device)
        super().__init__(
            "vgg16", weights.sha256, weights.preprocessing, "+".join(layers), dtype=resolve_dtype(dtype, device), device=device,
            arithmetic="int8" if in_int8 else None,
        )  # fmt: skip
        self.relu = relu or last.startswith("pool")
        self.features, ends = build_layers(weights, last, self.relu)
        self.pixel_channels = pixel_channels
        put_kernels(self.features, kernel_pooling, pixel_channels, self.device)
        self._colours, network = COLOURS in self.layers, [name for name in self.layers if name != COLOURS]
        taps = [ends[name] for name in network]
        if len({tap.stride for tap in taps}) > 1:
            strides = ", ".join(f"{name} {ends[name].stride}" for name in network)
            raise InvalidArgumentError(f"layers of one stride can be taken together, these have different ones: {strides}")
        of_network, self.stride = tuple(tap.channels for tap in taps), taps[-1].stride
        self.layer_channels = (COLOUR_BINS, *of_network) if self._colours else of_network
        self.channels = sum(self.layer_channels)
        self._taps = tuple(tap.modules for tap in taps)
        if in_int8:
            self.features = nn.Sequential()  # which would only hold memory
        self.features.to(device=self.device, dtype=self.dtype, memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
        self._int8 = int8.Int8Layers(weights, network, self.relu) if in_int8 else None
        self._fused = None if in_int8 else fuse_layers(self.features, self.device, self.dtype, cudnn_fused)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(H', W') of a height × width image: (14, 14) for conv5_2 at 224 × 224."""
        return height // self.stride, width // self.stride

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """Local features of a batch.

        Args:
            images: (B, 3, H, W) uint8, RGB, on the trunk's device; H and W at least ``stride``.

        Returns:
            (B, P, C) in the trunk's dtype, a view of channels-last memory: row p is position (p // W', p % W'). On a CPU with
            oneDNN an image gives the same bits whatever it is batched with.

        Raises:
            TypeError: not a uint8 tensor.
            ValueError: another shape, too small an image, or another device.
        """
        if self.device.type == "cpu":
            self._check(images)
            batch, height, width = images.shape[0], images.shape[2] // self.stride, images.shape[3] // self.stride
            features = torch.empty((batch, height, width, self.channels), dtype=self.dtype)
            chunk = _CPU_CHUNK_FLOAT32 if self.dtype == torch.float32 else _CPU_CHUNK
            for start in range(0, batch, chunk):
                channel = 0
                for part in self._parts(images[start : start + chunk]):
                    features[start : start + chunk, ..., channel : channel + part.shape[1]] = part.permute(0, 2, 3, 1)
                    channel += part.shape[1]
            return features.flatten(1, 2)
        parts = self.layer_features(images)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    @torch.inference_mode()
    def layer_features(self, images: Tensor) -> tuple[Tensor, ...]:
        """:meth:`forward`, but (B, P, C) of each layer, views of what the layers gave: joining them is a pass over all."""
        self._check(images)
        return tuple(part.permute(0, 2, 3, 1).flatten(1, 2) for part in self._parts(images))

    def _parts(self, images: Tensor) -> list[Tensor]:
        """(B, C, H', W') of each layer."""
        if not self._colours:
            return self._of_network(images)
        network = self._of_network(images)
        shares = colour_shares(images).to(self.dtype)[:, :, None, None]
        same = shares.expand(-1, -1, *network[0].shape[2:]).contiguous(memory_format=torch.channels_last)  # as kernels take it
        return [same, *network]

    def _of_network(self, images: Tensor) -> list[Tensor]:
        """:meth:`_parts` without colours."""
        if self._int8 is not None:
            return self._int8(images)
        normalised = self._normalised(images)
        run = self._fused or self.features
        if len(self._taps) == 1:
            return [run(normalised)]
        if self._fused is not None:
            return self._fused.tapped(normalised, self._taps)
        parts, x, start = [], normalised, 0
        for stop in self._taps:
            x = self.features[start:stop](x)
            # The next layer may start with a ReLU in place: on what comes out of a ReLU it changes nothing.
            parts.append(x)
            start = stop
        return parts

    def _normalised(self, images: Tensor) -> Tensor:
        """(B, pixel_channels, H, W) in the trunk's dtype, channels last."""
        if self.pixel_channels > 3:
            from ...kernels import normalise_pixels

            scale, offset = self.pixel_scale.flatten(), self.pixel_offset.flatten()
            return normalise_pixels(images, scale, offset, channels=self.pixel_channels, dtype=self.dtype)
        return self.normalised(images)

    def _check(self, images: Tensor) -> None:
        check_images(images, self.device)
        if min(images.shape[2:]) < self.stride:
            raise InvalidArgumentError(
                f"images of {images.shape[2]}×{images.shape[3]} are too small: {self.layer} needs {self.stride}×{self.stride}"
            )
