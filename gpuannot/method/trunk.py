"""The trunk: RGB bytes in, local features out (the paper's F), by VGG-16 or another of :mod:`gpuannot.method.trunks`."""

from __future__ import annotations

from .trunks.base import LocalTrunk, resolve_dtype, runs_int8
from .trunks.protocol import LocalFeatures
from .trunks.vgg16 import Vgg16, layer_names, split_layers
from .weights import Preprocessing

#: The trunk of the paper. ``Trunk.from_module`` makes one of another network.
Trunk = Vgg16

__all__ = [
    "LocalFeatures",
    "LocalTrunk",
    "Preprocessing",
    "Trunk",
    "Vgg16",
    "layer_names",
    "resolve_dtype",
    "runs_int8",
    "split_layers",
]
