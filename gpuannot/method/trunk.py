"""VGG-16 up to a named layer: RGB bytes in, local convolution features out (the paper's F, by default conv5_2).

The features come as a (B, P, C) **view** of channels-last memory: every convolution runs channels-last, so that the C values of
one position lie together and no transpose is ever made. On a CPU bias and ReLU run inside the convolution (oneDNN), on a GPU where
that is asked for (cuDNN).

On CPUs with bfloat16 instructions (AVX-512 BF16, AMX) the trunk runs in bfloat16 with float32 accumulation, else in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import DeviceError, InvalidArgumentError
from ..system.device import cpu_has_bfloat16
from .weights import CONVOLUTIONS, TrunkWeights, load_weights

# Activations of one image in conv1 are 6.4 MB in bfloat16: a few images at a time keep the working set near the caches, which
# is faster on CPUs than one large batch (benchmarks/bench_trunk.py) and bounds memory whatever the batch.
_CPU_CHUNK = 4

_Convolve: TypeAlias = Callable[[Tensor, Tensor, Tensor, bool], Tensor]

#: Convolution layer → the pooling that follows it.
POOLS_AFTER = {"conv1_2": "pool1", "conv2_2": "pool2", "conv3_3": "pool3", "conv4_3": "pool4", "conv5_3": "pool5"}
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
    """The trunk's arithmetic for ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"`` on ``device``."""
    if dtype == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
        return torch.bfloat16 if cpu_has_bfloat16() else torch.float32
    if dtype not in _DTYPES:
        raise InvalidArgumentError(f"trunk dtype {dtype!r} is unknown; choose auto, {', '.join(_DTYPES)}")
    if dtype == "float16" and device.type == "cpu":
        raise DeviceError("float16 on a CPU is slower and less exact than float32; choose auto, bfloat16 or float32")
    return _DTYPES[dtype]


class Trunk(nn.Module):
    """VGG-16 from the input bytes to one layer, or to several of the same stride in one pass.

    The modules carry torchvision's names (``features.0`` … ``features.30``).

    Args:
        weights: a :class:`~gpuannot.method.weights.TrunkWeights`, or None for the embedded ones.
        layer: ``conv1_1`` … ``conv5_3`` or ``pool1`` … ``pool5``, or several joined by ``+``: their channels lie side by side, in
            the order of the network.
        relu: for a convolution layer, take its output after (True) or before (False) the ReLU. Poolings follow a ReLU anyway.
        dtype: ``auto``, ``float32``, ``bfloat16``, ``float16`` (CUDA only).
        device: where it runs.
        cudnn_fused: on CUDA in 16 bits, bias and ReLU inside cuDNN's convolution: less memory traffic, by algorithms that need not
            give the same bits twice.

    Attributes:
        layer_channels: channels of each layer; ``channels`` is their sum.

    Raises:
        ValueError: an unknown layer, layers of different strides, or several before their ReLU.
    """

    def __init__(
        self,
        weights: TrunkWeights | None = None,
        layer: str = "conv5_2",
        *,
        relu: bool = True,
        dtype: str = "auto",
        device: str | torch.device = "cpu",
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
        self.features, ends = _build(weights, last, self.relu)
        taps = [ends[name] for name in self.layers]
        if len({tap.stride for tap in taps}) > 1:
            strides = ", ".join(f"{name} {ends[name].stride}" for name in self.layers)
            raise InvalidArgumentError(f"layers of one stride can be taken together, these have different ones: {strides}")
        self.layer_channels, self.stride = tuple(tap.channels for tap in taps), taps[-1].stride
        self.channels = sum(self.layer_channels)
        self._taps = tuple(tap.modules for tap in taps)
        self.features.to(device=self.device, dtype=self.dtype, memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
        mean, std = (
            torch.tensor(values, dtype=torch.float32) for values in (weights.preprocessing.mean, weights.preprocessing.std)
        )
        self.register_buffer("pixel_scale", (1 / std).view(1, 3, 1, 1).to(self.device), persistent=False)
        self.register_buffer("pixel_offset", (-mean / std).view(1, 3, 1, 1).to(self.device), persistent=False)
        self._fused = _fuse(self.features, self.device, self.dtype, cudnn_fused)

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
        self._check(images)
        if self.device.type == "cpu":
            batch, height, width = images.shape[0], images.shape[2] // self.stride, images.shape[3] // self.stride
            features = torch.empty((batch, height, width, self.channels), dtype=self.dtype)
            for start in range(0, batch, _CPU_CHUNK):
                channel = 0
                for part in self._features(images[start : start + _CPU_CHUNK]):
                    features[start : start + _CPU_CHUNK, ..., channel : channel + part.shape[1]] = part.permute(0, 2, 3, 1)
                    channel += part.shape[1]
        else:
            parts = self._features(images)
            features = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).permute(0, 2, 3, 1)
        return features.flatten(1, 2)

    def _features(self, images: Tensor) -> list[Tensor]:
        """(B, C, H', W') of each layer."""
        pixels = images.contiguous(memory_format=torch.channels_last).float()
        normalised = torch.addcmul(self.pixel_offset, pixels, self.pixel_scale).to(self.dtype)  # type: ignore[arg-type]
        normalised = normalised.contiguous(memory_format=torch.channels_last)
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


class _End(NamedTuple):
    """Where a layer ends: after how many modules, with how many channels, and at which stride."""

    modules: int
    channels: int
    stride: int


def _build(weights: TrunkWeights, layer: str, relu: bool) -> tuple[nn.Sequential, dict[str, _End]]:
    """The layers up to ``layer`` under torchvision's numbers, and where each ends."""
    features = nn.Sequential()
    ends: dict[str, _End] = {}
    index = channels = 0
    stride = 1

    def add(module: nn.Module) -> None:
        nonlocal index
        features.add_module(str(index), module)
        index += 1

    for name, module, in_channels, out_channels in CONVOLUTIONS:
        convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, device="meta")
        convolution.weight = nn.Parameter(weights.tensors[f"{module}.weight"], requires_grad=False)
        convolution.bias = nn.Parameter(weights.tensors[f"{module}.bias"], requires_grad=False)
        add(convolution)
        channels = out_channels
        if name != layer or relu:
            add(nn.ReLU(inplace=True))
        ends[name] = _End(index, channels, stride)
        if name == layer:
            break
        if name in POOLS_AFTER:
            add(nn.MaxPool2d(2, 2))
            stride *= 2
            ends[POOLS_AFTER[name]] = _End(index, channels, stride)
            if POOLS_AFTER[name] == layer:
                break
    return features, ends


class _Fused:
    """The same layers, convolution with bias and ReLU as one step, weights packed once where the library packs them."""

    def __init__(self, features: nn.Sequential, pack: Callable[[Tensor], Tensor], convolve: _Convolve) -> None:
        self.convolve = convolve
        self.steps: list[tuple[Tensor, Tensor, bool] | None] = []
        self.modules: list[int] = []  # how many modules are done after each step
        modules = list(features)
        for number, (module, following) in enumerate(zip(modules, [*modules[1:], None], strict=True)):
            if isinstance(module, nn.ReLU):
                continue
            self.modules.append(number + (2 if isinstance(following, nn.ReLU) else 1))
            if isinstance(module, nn.Conv2d):
                assert module.bias is not None
                self.steps.append((pack(module.weight.data), module.bias.data, isinstance(following, nn.ReLU)))
            elif isinstance(module, nn.MaxPool2d):
                self.steps.append(None)

    def __call__(self, x: Tensor) -> Tensor:
        return self.tapped(x, self.modules[-1:])[0]

    def tapped(self, x: Tensor, taps: Sequence[int]) -> list[Tensor]:
        """What comes out after each of ``taps`` modules."""
        parts = []
        for step, modules in zip(self.steps, self.modules, strict=True):
            x = functional.max_pool2d(x, 2) if step is None else self.convolve(x, *step)
            if modules in taps:
                parts.append(x)
        return parts


def _fuse(features: nn.Sequential, device: torch.device, dtype: torch.dtype, cudnn_fused: bool) -> _Fused | None:
    """None where there is no fused operator: the plain modules then serve, a little slower."""
    # In float32 too: torch's own module runs one small image alone by another algorithm than several, with other bits.
    if device.type == "cpu" and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        supported = dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return _Fused(features, _pack_onednn, _convolve_onednn) if supported else None
    if device.type == "cuda":
        cudnn_fused = cudnn_fused and dtype != torch.float32 and hasattr(torch, "cudnn_convolution_relu")
        return _Fused(features, lambda weight: weight, _convolve_cudnn if cudnn_fused else _convolve_cuda)
    return None


def _pack_onednn(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_convolution_weight(weight, [1, 1], [1, 1], [1, 1], 1, None)


def _convolve_onednn(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, [1, 1], [1, 1], [1, 1], 1, "relu" if relu else "none", [], "")


def _convolve_cuda(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    # The last four: no search for the fastest algorithm, deterministic ones, cuDNN, no TF32. torch's other functions take them from
    # settings of the process, which are the caller's and cannot always be read.
    found = torch._convolution(x, weight, bias, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, False, True, True, False)
    return found.relu_() if relu else found


def _convolve_cudnn(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    if not relu:
        return _convolve_cuda(x, weight, bias, relu)
    return torch.cudnn_convolution_relu(x, weight, bias, [1, 1], [1, 1], [1, 1], 1)
