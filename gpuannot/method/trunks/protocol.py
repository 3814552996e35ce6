"""What a trunk has to offer, and its weights before it is built."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..weights import Preprocessing


@runtime_checkable
class LocalFeatures(Protocol):
    """Images in, local features out. :class:`~gpuannot.method.trunks.base.LocalTrunk` has all but the network.

    Attributes:
        name: of the network, as settings and model files state it.
        identity: 64 hexadecimal digits, SHA-256 of the weights and of what else decides the features.
        weights_sha256: the same.
        preprocessing: mean and std of R, G and B in 0…255, input size and interpolation.
        layers: names of the layers whose features are given. layer: the same, joined by ``+``.
        layer_channels: channels of each layer; ``channels`` is their sum, C.
        relu: features are taken after their ReLU, where there is one.
        stride: pixels from one patch to the next.
        device: where it runs. dtype: of the features.
        arithmetic: what is multiplied: ``float32``, ``bfloat16``, ``float16`` or ``int8``.
    """

    name: str
    preprocessing: Preprocessing
    layers: tuple[str, ...]
    layer: str
    layer_channels: tuple[int, ...]
    channels: int
    relu: bool
    stride: int
    device: torch.device
    dtype: torch.dtype
    arithmetic: str
    identity: str

    @property
    def weights_sha256(self) -> str: ...

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(H', W') of a height × width image."""
        ...

    def positions(self, height: int, width: int) -> int:
        """P = H'·W'."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """(B, P, C) of images (B, 3, S, S) uint8 RGB on the trunk's device: row p is position (p // W', p % W')."""
        ...

    def layer_features(self, images: Tensor) -> tuple[Tensor, ...]:
        """The same on CUDA, (B, P, C) of each layer by itself."""
        ...


class LoadedTrunk(Protocol):
    """A network's weights, and what is known of it before it is on a device.

    :class:`~gpuannot.method.weights.TrunkWeights` is the one of VGG-16.

    Attributes:
        source: as it was asked for.
        preprocessing: that belongs to the weights.
    """

    @property
    def source(self) -> str: ...

    @property
    def preprocessing(self) -> Preprocessing: ...

    @property
    def sha256(self) -> str:
        """The identity of the trunks that are built of it."""
        ...
