"""The layers of VGG-16 as torch modules, and as steps in which bias and ReLU run inside the convolution where a library can."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import DeviceError, InvalidArgumentError
from .weights import CONVOLUTIONS, POOLS_AFTER, TrunkWeights

_Convolve: TypeAlias = Callable[[Tensor, Any, Tensor, bool], Tensor]

KERNEL_DEVICES = ("cuda",)
# Of how many shapes of input the packed weights are kept: a batch has chunks of up to four images, and a last one of any number.
_SHAPES = 4


class End(NamedTuple):
    """Where a layer ends: after how many modules, with how many channels, and at which stride."""

    modules: int
    channels: int
    stride: int


def build_layers(weights: TrunkWeights, layer: str, relu: bool) -> tuple[nn.Sequential, dict[str, End]]:
    """The layers up to ``layer`` under torchvision's numbers, weights in float32 on the CPU, and where each ends."""
    features = nn.Sequential()
    ends: dict[str, End] = {}
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
        ends[name] = End(index, channels, stride)
        if name == layer:
            break
        if name in POOLS_AFTER:
            add(nn.MaxPool2d(2, 2))
            stride *= 2
            ends[POOLS_AFTER[name]] = End(index, channels, stride)
            if POOLS_AFTER[name] == layer:
                break
    return features, ends


class _KernelPool(nn.MaxPool2d):
    def forward(self, input: Tensor) -> Tensor:
        from ..kernels import max_pool

        return max_pool(input)


def put_kernels(features: nn.Sequential, pooling: bool, pixel_channels: int, device: torch.device) -> None:
    """Put the kernel in the place of torch's poolings, and pad the first convolution's weights to ``pixel_channels``, with zeros.

    Raises:
        ValueError: another number of channels than 3, 4 or 8.
        DeviceError: a kernel is asked for on a device that has none.
    """
    if pixel_channels not in (3, 4, 8):
        raise InvalidArgumentError(f"pixel_channels is {pixel_channels}; choose 3, 4 or 8")
    if (pooling or pixel_channels > 3) and device.type not in KERNEL_DEVICES:
        raise DeviceError(f"kernel_pooling and pixel_channels {pixel_channels} are CUDA kernels, the trunk is on {device}")
    if pooling:
        for name, module in features.named_children():
            if isinstance(module, nn.MaxPool2d):
                features.add_module(name, _KernelPool(2, 2))
    if pixel_channels > 3:
        first = features[0]
        assert isinstance(first, nn.Conv2d)
        first.weight = nn.Parameter(functional.pad(first.weight, (0, 0, 0, 0, 0, pixel_channels - 3)), requires_grad=False)
        first.in_channels = pixel_channels


def packed_for_shapes(pack: Callable[[Sequence[int]], Tensor]) -> Callable[[tuple[int, ...]], Tensor]:
    """``pack``, which packs a weight for an input (B, C, H, W), remembered for the last few shapes.

    oneDNN chooses the layout of a weight by the shape of the input. One in another layout it packs anew at every call, in up to a
    hundred times as long as the convolution takes.
    """
    return lru_cache(maxsize=_SHAPES)(pack)


class FusedLayers:
    """The same layers, convolution with bias and ReLU as one step, weights packed once a shape where the library packs them.

    Called with (B, C, H, W) in channels-last memory, of the weights' type and device, it gives what comes out of the last module.

    Args:
        features: the modules.
        pack: what ``convolve`` takes in the place of a weight (out, in, 3, 3).
        convolve: of (x, what ``pack`` gave, bias (out,), whether a ReLU follows), padded by 1.
    """

    def __init__(self, features: nn.Sequential, pack: Callable[[Tensor], Any], convolve: _Convolve) -> None:
        self.convolve = convolve
        self.steps: list[tuple[Any, Tensor, bool] | None] = []
        self.modules: list[int] = []  # how many modules are done after each step
        self.pool: nn.Module = nn.MaxPool2d(2, 2)
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
                self.pool = module

    def __call__(self, x: Tensor) -> Tensor:
        return self.tapped(x, self.modules[-1:])[0]

    def tapped(self, x: Tensor, taps: Sequence[int]) -> list[Tensor]:
        """What comes out after each of ``taps`` modules: (B, C', H', W') of x (B, C, H, W)."""
        parts = []
        for step, modules in zip(self.steps, self.modules, strict=True):
            x = self.pool(x) if step is None else self.convolve(x, *step)
            if modules in taps:
                parts.append(x)
        return parts


def fuse_layers(features: nn.Sequential, device: torch.device, dtype: torch.dtype, cudnn_fused: bool) -> FusedLayers | None:
    """None where there is no fused operator: the plain modules then serve, a little slower."""
    # In float32 too: torch's own module runs one small image alone by another algorithm than several, with other bits.
    if device.type == "cpu" and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        supported = dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return FusedLayers(features, _pack_onednn, _convolve_onednn) if supported else None
    if device.type == "cuda":
        cudnn_fused = cudnn_fused and dtype != torch.float32 and hasattr(torch, "cudnn_convolution_relu")
        return FusedLayers(features, lambda weight: weight, _convolve_cudnn if cudnn_fused else _convolve_cuda)
    return None


def _pack_onednn(weight: Tensor) -> Callable[[tuple[int, ...]], Tensor]:
    return packed_for_shapes(
        lambda shape: torch.ops.mkldnn._reorder_convolution_weight(weight, [1, 1], [1, 1], [1, 1], 1, list(shape))
    )


def _convolve_onednn(x: Tensor, packed: Callable[[tuple[int, ...]], Tensor], bias: Tensor, relu: bool) -> Tensor:
    activation = "relu" if relu else "none"
    return torch.ops.mkldnn._convolution_pointwise(x, packed(tuple(x.shape)), bias, [1, 1], [1, 1], [1, 1], 1, activation, [], "")


def _convolve_cuda(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    # The last four: no search for the fastest algorithm, deterministic ones, cuDNN, no TF32. torch's other functions take them from
    # settings of the process, which are the caller's and cannot always be read.
    found = torch._convolution(x, weight, bias, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, False, True, True, False)
    return found.relu_() if relu else found


def _convolve_cudnn(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    if not relu:
        return _convolve_cuda(x, weight, bias, relu)
    return torch.cudnn_convolution_relu(x, weight, bias, [1, 1], [1, 1], [1, 1], 1)
