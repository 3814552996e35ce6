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

from ..errors import DeviceError, InvalidArgumentError
from ..system.device import cpu_has_bfloat16
from . import int8
from .trunk_layers import build_layers, fuse_layers, put_kernels
from .weights import CONVOLUTIONS, POOLS_AFTER, TrunkWeights, load_weights

# Activations of one image in conv1 are 6.4 MB in bfloat16: a few images at a time keep the working set near the caches, which
# is faster on CPUs than one large batch (benchmarks/bench_trunk.py) and bounds memory whatever the batch.
_CPU_CHUNK = 4


_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def layer_names() -> tuple[str, ...]:
    """Names of the layers a trunk can end at: conv1_1 … conv5_3 and pool1 … pool5, in order."""
    names = []
    for name, *_ in CONVOLUTIONS:
        names.append(name)
        if name in POOLS_AFTER:
            names.append(POOLS_AFTER[name])
    return tuple(names)


def split_layers(layer: str) -> tuple[str, ...]:
    """The layers that a setting names, as ``pool4+conv5_1`` does, in the order of the network.

    Raises:
        ValueError: a layer that is unknown, or named twice.
    """
    names, known = layer.split("+"), layer_names()
    for name in names:
        if name not in known:
            raise InvalidArgumentError(f"layer {name!r} is unknown; choose one of {', '.join(known)}, or several joined by '+'")
    if len(set(names)) != len(names):
        raise InvalidArgumentError(f"layer {layer!r} names a layer twice")
    return tuple(sorted(names, key=known.index))


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The features' type for ``"auto"``, ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"int8"`` on ``device``.

    ``"int8"`` gives bfloat16 on processors that multiply int8 in hardware, and is ``"auto"`` elsewhere.
    """
    if runs_int8(dtype, device):
        return torch.bfloat16
    if dtype in ("auto", "int8"):
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
        return torch.bfloat16 if cpu_has_bfloat16() else torch.float32
    if dtype not in _DTYPES:
        raise InvalidArgumentError(f"trunk dtype {dtype!r} is unknown; choose auto, {', '.join(_DTYPES)}, int8")
    if dtype == "float16" and device.type == "cpu":
        raise DeviceError("float16 on a CPU is slower and less exact than float32; choose auto, bfloat16 or float32")
    return _DTYPES[dtype]


def runs_int8(dtype: str, device: torch.device) -> bool:
    """Whether a trunk of ``dtype`` multiplies int8 on ``device``."""
    return dtype == "int8" and device.type == "cpu" and int8.supported()


class Trunk(nn.Module):
    """VGG-16 from the input bytes to one layer, or to several of the same stride in one pass.

    The modules carry torchvision's names (``features.0`` … ``features.30``); in int8 there are none.

    Args:
        weights: a :class:`~gpuannot.method.weights.TrunkWeights`, or None for the embedded ones.
        layer: ``conv1_1`` … ``conv5_3`` or ``pool1`` … ``pool5``, or several joined by ``+``: their channels lie side by side, in
            the order of the network.
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
        super().__init__()
        self.layers = split_layers(layer)
        if len(self.layers) > 1 and not relu:
            raise InvalidArgumentError(f"several layers ({layer}) are taken after their ReLU: leave relu on")
        last = self.layers[-1]
        weights = weights or load_weights()
        self.layer, self.relu, self.weights_sha256 = "+".join(self.layers), relu or last.startswith("pool"), weights.sha256
        self.device = torch.device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        in_int8 = runs_int8(dtype, self.device)
        self.arithmetic = "int8" if in_int8 else str(self.dtype).removeprefix("torch.")
        self.features, ends = build_layers(weights, last, self.relu)
        self.pixel_channels = pixel_channels
        put_kernels(self.features, kernel_pooling, pixel_channels, self.device)
        taps = [ends[name] for name in self.layers]
        if len({tap.stride for tap in taps}) > 1:
            strides = ", ".join(f"{name} {ends[name].stride}" for name in self.layers)
            raise InvalidArgumentError(f"layers of one stride can be taken together, these have different ones: {strides}")
        self.layer_channels, self.stride = tuple(tap.channels for tap in taps), taps[-1].stride
        self.channels = sum(self.layer_channels)
        self._taps = tuple(tap.modules for tap in taps)
        if in_int8:
            self.features = nn.Sequential()  # which would only hold memory
        self.features.to(device=self.device, dtype=self.dtype, memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
        mean, std = (
            torch.tensor(values, dtype=torch.float32) for values in (weights.preprocessing.mean, weights.preprocessing.std)
        )
        self.register_buffer("pixel_scale", (1 / std).view(1, 3, 1, 1).to(self.device), persistent=False)
        self.register_buffer("pixel_offset", (-mean / std).view(1, 3, 1, 1).to(self.device), persistent=False)
        self._int8 = int8.Int8Layers(weights, self.layers, self.relu) if in_int8 else None
        self._fused = None if in_int8 else fuse_layers(self.features, self.device, self.dtype, cudnn_fused)

    def positions(self, height: int, width: int) -> int:
        """P, the number of local features of a height × width image: 196 for conv5_2 at 224 × 224."""
        return (height // self.stride) * (width // self.stride)

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
            for start in range(0, batch, _CPU_CHUNK):
                channel = 0
                for part in self._features(images[start : start + _CPU_CHUNK]):
                    features[start : start + _CPU_CHUNK, ..., channel : channel + part.shape[1]] = part.permute(0, 2, 3, 1)
                    channel += part.shape[1]
            return features.flatten(1, 2)
        parts = self.layer_features(images)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    @torch.inference_mode()
    def layer_features(self, images: Tensor) -> tuple[Tensor, ...]:
        """:meth:`forward`, but (B, P, C) of each layer, views of what the layers gave: joining them is a pass over all."""
        self._check(images)
        return tuple(part.permute(0, 2, 3, 1).flatten(1, 2) for part in self._features(images))

    def _features(self, images: Tensor) -> list[Tensor]:
        """(B, C, H', W') of each layer."""
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
            from ..kernels import normalise_pixels

            scale, offset = self.pixel_scale.flatten(), self.pixel_offset.flatten()  # type: ignore[operator]
            return normalise_pixels(images, scale, offset, channels=self.pixel_channels, dtype=self.dtype)
        pixels = images.contiguous(memory_format=torch.channels_last).float()
        normalised = torch.addcmul(self.pixel_offset, pixels, self.pixel_scale).to(self.dtype)  # type: ignore[arg-type]
        return normalised.contiguous(memory_format=torch.channels_last)

    def _check(self, images: Tensor) -> None:
        if not isinstance(images, Tensor) or images.dtype != torch.uint8:
            found = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(f"images must be a torch.uint8 tensor of RGB bytes 0…255, got {found}")
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must have shape (B, 3, H, W), got {tuple(images.shape)}")
        if min(images.shape[2:]) < self.stride:
            raise InvalidArgumentError(
                f"images of {images.shape[2]}×{images.shape[3]} are too small: {self.layer} needs {self.stride}×{self.stride}"
            )
        if images.device != self.device:
            raise ValueError(f"images are on {images.device}, the trunk is on {self.device}; move one of them")
