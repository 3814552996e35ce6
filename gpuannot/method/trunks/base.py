"""What all trunks share: the check of a batch, its normalisation, arithmetic by device, and how other networks than VGG-16 are run.

A network of others is run through its library's own operators. On a CPU it takes every image alone, so that an image has the same
bits whatever it is batched with: oneDNN and BLAS choose algorithms by the batch. Images of a batch then share the cores, one each,
if the bits are those of one image on all cores. On CUDA it takes the batch whole, with cuDNN's
deterministic algorithms and without TF32: the same batch gives the same bits, another batch size need not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import DeviceError, InvalidArgumentError
from ...system.device import cpu_has_fast_bfloat16, resolve_device
from ...system.precision import exact_network
from ...system.threads import for_blocks, one_torch_thread
from .. import int8
from ..weights import Preprocessing

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The features' type for ``"auto"``, ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"int8"`` on ``device``.

    ``"int8"`` gives bfloat16 on processors that multiply int8 in hardware, and is ``"auto"`` elsewhere.
    """
    if runs_int8(dtype, device):
        return torch.bfloat16
    if dtype in ("auto", "int8"):
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
        return torch.bfloat16 if cpu_has_fast_bfloat16() else torch.float32
    if dtype not in _DTYPES:
        raise InvalidArgumentError(f"trunk dtype {dtype!r} is unknown; choose auto, {', '.join(_DTYPES)}, int8")
    if dtype == "float16" and device.type == "cpu":
        raise DeviceError("float16 on a CPU is slower and less exact than float32; choose auto, bfloat16 or float32")
    return _DTYPES[dtype]


def network_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """:func:`resolve_dtype` of another network than VGG-16.

    Raises:
        ValueError: int8, or a dtype that is unknown.
    """
    if dtype == "int8":
        raise InvalidArgumentError("dtype 'int8' is VGG-16's; other networks run in auto, float32, bfloat16 or float16")
    return resolve_dtype(dtype, device)


def runs_int8(dtype: str, device: torch.device) -> bool:
    """Whether a trunk of ``dtype`` multiplies int8 on ``device``."""
    return dtype == "int8" and device.type == "cpu" and int8.supported()


def check_images(images: Tensor, device: torch.device) -> None:
    """Raise unless ``images`` are (B, 3, H, W) uint8 on ``device``.

    Raises:
        TypeError: not a uint8 tensor.
        ValueError: another shape, or another device.
    """
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a torch.uint8 tensor of RGB bytes 0…255, got {found}")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have shape (B, 3, H, W), got {tuple(images.shape)}")
    if images.device != device:
        raise ValueError(f"images are on {images.device}, the trunk is on {device}; move one of them")


class LocalTrunk(nn.Module):
    """A trunk over any network: a subclass says in :meth:`maps` how pixels become local features, and has the rest from here.

    Its constructor ends with :meth:`measure`, which runs one blank image to learn channels and patch grid.

    Args:
        name: of the network, as settings and model files state it: ``timm:resnet50``.
        identity: 64 hexadecimal digits, SHA-256 of the weights and what else decides the features.
        preprocessing: mean and std of R, G and B in 0…255, input size and interpolation.
        layer: names of the layers, joined by ``+``, each another.
        dtype: of the features. device: where it runs.
        arithmetic: what is multiplied, if not ``dtype``.

    Attributes:
        layers: names of the layers whose features are given. layer: the same, joined by ``+``.
        layer_channels: channels of each layer; ``channels`` is their sum, C.
        stride: pixels from one patch to the next.
        weights_sha256: ``identity``.
        concurrent: several threads may be in :meth:`maps` at once: a subclass says so whose network keeps nothing between layers.
    """

    concurrent = False
    layers: tuple[str, ...]
    layer_channels: tuple[int, ...]
    channels: int
    stride: int
    relu = True
    pixel_scale: Tensor
    pixel_offset: Tensor

    def __init__(
        self,
        name: str,
        identity: str,
        preprocessing: Preprocessing,
        layer: str,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        arithmetic: str | None = None,
    ) -> None:
        super().__init__()
        self.name, self.identity, self.preprocessing = name, identity, preprocessing
        self.layer, self.layers = layer, tuple(layer.split("+"))
        if len(set(self.layers)) != len(self.layers):
            raise InvalidArgumentError(f"layer {layer!r} names a layer twice")
        self.device, self.dtype = resolve_device(device), dtype
        self.arithmetic = arithmetic or str(dtype).removeprefix("torch.")
        self._grids: dict[tuple[int, int], tuple[int, int]] = {}
        self._equal: dict[tuple[int, int, int], bool] = {}
        mean, std = (torch.tensor(values, dtype=torch.float32) for values in (preprocessing.mean, preprocessing.std))
        self.register_buffer("pixel_scale", (1 / std).view(1, 3, 1, 1).to(self.device), persistent=False)
        self.register_buffer("pixel_offset", (-mean / std).view(1, 3, 1, 1).to(self.device), persistent=False)

    @property
    def weights_sha256(self) -> str:
        """``identity``."""
        return self.identity

    def maps(self, pixels: Tensor) -> Sequence[Tensor]:
        """(B, H', W', C') of each layer; pixels are (B, 3, H, W), normalised, in the trunk's dtype, channels last."""
        raise NotImplementedError(f"{type(self).__name__} must define maps(pixels)")

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """Local features of a batch.

        Args:
            images: (B, 3, H, W) uint8, RGB, on the trunk's device.

        Returns:
            (B, P, C) in the trunk's dtype: row p is position (p // W', p % W').

        Raises:
            TypeError: not a uint8 tensor.
            ValueError: another shape, a size that the network does not take, or another device.
        """
        check_images(images, self.device)
        if self.device.type != "cpu":
            parts = self.layer_features(images)
            return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return self._one_by_one(images, self._may_share_cores(images))

    def _one_by_one(self, images: Tensor, at_once: bool) -> Tensor:
        """:meth:`forward` on a CPU: each image by all cores, or several at once, each by one."""
        features = torch.empty((len(images), *self.grid(*images.shape[2:]), self.channels), dtype=self.dtype)

        def run(start: int, stop: int) -> None:
            for number in range(start, stop):
                channel = 0
                for part in self.maps(self.normalised(images[number : number + 1])):
                    features[number, ..., channel : channel + part.shape[-1]] = part[0]
                    channel += part.shape[-1]

        def run_on_one(start: int, stop: int) -> None:
            with one_torch_thread(), torch.inference_mode():
                run(start, stop)

        if at_once:
            for_blocks(run_on_one, len(images), 1)
        else:
            run(0, len(images))
        return features.flatten(1, 2)

    def _may_share_cores(self, images: Tensor) -> bool:
        """Whether images that share the cores have the bits of images that each have all of them, which two random ones show."""
        threads, size = torch.get_num_threads(), (images.shape[2], images.shape[3])
        if not self.concurrent or len(images) < 2 or threads < 2:
            return False
        if (threads, *size) not in self._equal:
            drawn = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
            self._equal[threads, *size] = torch.equal(self._one_by_one(drawn, True), self._one_by_one(drawn, False))
        return self._equal[threads, *size]

    @torch.inference_mode()
    def layer_features(self, images: Tensor) -> tuple[Tensor, ...]:
        """:meth:`forward` on CUDA, with its errors, but (B, P, C) of each layer in the trunk's dtype, which are not joined."""
        check_images(images, self.device)
        with exact_network():
            return tuple(part.flatten(1, 2) for part in self.maps(self.normalised(images)))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(H', W') of a height × width image.

        Raises:
            ValueError: a size that the network does not take.
        """
        if (height, width) not in self._grids:
            self._grids[height, width] = self._measured(height, width)[0]
        return self._grids[height, width]

    def positions(self, height: int, width: int) -> int:
        """P, the number of local features of a height × width image."""
        rows, columns = self.grid(height, width)
        return rows * columns

    def measure(self, size: int) -> None:
        """Learn channels, patch grid and stride from one blank image of size × size pixels.

        Raises:
            ValueError: a size that the network does not take, or layers of different grids.
        """
        self._grids[size, size], self.layer_channels = self._measured(size, size)
        self.channels = sum(self.layer_channels)
        self.stride = max(1, size // self._grids[size, size][0])

    @torch.inference_mode()
    def _measured(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, ...]]:
        blank = torch.zeros((1, 3, height, width), dtype=torch.uint8, device=self.device)
        try:
            parts = self.maps(self.normalised(blank))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise InvalidArgumentError(f"{self.name} cannot run images of {height}×{width} up to {self.layer} ({error})") from error
        grids = {name: tuple(part.shape[1:3]) for name, part in zip(self.layers, parts, strict=True)}
        if len(set(grids.values())) > 1:
            shown = ", ".join(f"{name} {rows}×{columns}" for name, (rows, columns) in grids.items())
            raise InvalidArgumentError(f"layers of one patch grid can be taken together, these have different ones: {shown}")
        return (parts[0].shape[1], parts[0].shape[2]), tuple(part.shape[3] for part in parts)

    def normalised(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in the trunk's dtype, channels last, of bytes (B, 3, H, W)."""
        pixels = images.contiguous(memory_format=torch.channels_last).float()
        normalised = torch.addcmul(self.pixel_offset, pixels, self.pixel_scale).to(self.dtype)
        return normalised.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def from_module(module: nn.Module, layer: str, preprocessing: Preprocessing, **options: Any) -> LocalTrunk:
        """A trunk over a torch module: :class:`~gpuannot.method.trunks.module.ModuleTrunk` says what the arguments mean."""
        from .module import ModuleTrunk

        return ModuleTrunk(module, layer, preprocessing, **options)


def module_sha256(name: str, preprocessing: Preprocessing, module: nn.Module) -> str:
    """SHA-256 over a network's name, preprocessing and all its parameters and buffers."""
    digest = hashlib.sha256(repr((name, preprocessing.mean, preprocessing.std)).encode())
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
