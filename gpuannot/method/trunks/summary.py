"""What a trunk costs and gives, without its weights: parameters, operations and shape."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ...config import AnnotatorConfig
from ...errors import InvalidArgumentError
from ..trunk_layers import build_layers
from ..weights import load_weights
from . import resolve, split_name
from .colours import COLOUR_BINS, COLOURS
from .vgg16 import split_layers


@dataclass(frozen=True)
class TrunkSummary:
    """A trunk up to a layer, at an input size.

    Attributes:
        trunk: as the setting of that name states it. layer: up to which. input_size: side S of the images.
        parameters: of the network up to there.
        gflop: 10⁹ floating-point operations an image, two to a multiplication and addition, of convolutions and matrix products.
        patches: P. channels: C.
    """

    trunk: str
    layer: str
    input_size: int
    parameters: int
    gflop: float
    patches: int
    channels: int


def summarise(trunk: str) -> TrunkSummary:
    """A trunk of its name, ``@LAYER`` behind it or its own layer, run without memory or arithmetic.

    Raises:
        ValueError: no such trunk or layer, or one of the user's own.
        WeightsError: its library is not there.
    """
    config = resolve(AnnotatorConfig(trunk=trunk))
    size = config.input_size
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network, (_, channels, height, width) = _network(config, torch.empty((1, 3, size, size)))
    parameters = sum(weight.numel() for weight in network.parameters())
    return TrunkSummary(config.trunk, config.layer, size, parameters, counter.get_total_flops() / 1e9, height * width, channels)


def _network(config: AnnotatorConfig, image: torch.Tensor) -> tuple[nn.Module, torch.Size]:
    """The network up to the layer, on the meta device, and the shape (1, C, H', W') of its features."""
    source, name = split_name(config.trunk)
    if source == "vgg16":
        layers = split_layers(config.layer)
        features, ends = build_layers(load_weights(), layers[-1], config.relu)
        features = features.to("meta")
        channels = sum(COLOUR_BINS if one == COLOURS else ends[one].channels for one in layers)
        return features, torch.Size((1, channels, *features(image).shape[2:]))
    if source == "timm":
        from .timm_models import without_weights

        return without_weights(name, config.layer, image)
    if source == "torchvision":
        from .torchvision_models import without_weights as of_torchvision

        return of_torchvision(name, config.layer, image)
    raise InvalidArgumentError(f"{config.trunk} is a module of its user, and only known to the program that has it")
