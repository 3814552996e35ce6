"""Trunks: what turns images into local features (B, P, C), a file a source.

=============================  =====================================================================================
:mod:`.protocol`               what a trunk offers
:mod:`.base`                   what they share
:mod:`.vgg16`                  the paper's, embedded: ``vgg16``
:mod:`.colours`                colours as a layer beside its own
:mod:`.timm_models`            ``timm:NAME``
:mod:`.torchvision_models`     ``torchvision:NAME``
:mod:`.module`                 a torch module of the user's
=============================  =====================================================================================

Settings name a trunk (``trunk``), its ``weights`` and ``layer``. :func:`resolve` puts in what they leave to the trunk, :func:`load`
reads weights, :func:`build` puts the trunk on a device.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from ...config import AnnotatorConfig
from ...errors import DeviceError, InvalidArgumentError, WeightsError
from ...system.device import resolve_device
from ..weights import Preprocessing, TrunkWeights, load_weights
from .base import runs_int8
from .protocol import LoadedTrunk, LocalFeatures
from .vgg16 import Vgg16, split_layers

_SOURCES = ("timm", "torchvision", "module")


@dataclass(frozen=True)
class GivenTrunk:
    """A trunk that the caller has built."""

    trunk: LocalFeatures

    @property
    def source(self) -> str:
        """Its name, ``module:NAME`` where it is of none of the libraries."""
        name = self.trunk.name
        return name if name == "vgg16" or name.partition(":")[0] in _SOURCES else f"module:{name}"

    @property
    def preprocessing(self) -> Preprocessing:
        """Its own."""
        return self.trunk.preprocessing

    @property
    def sha256(self) -> str:
        """Its identity."""
        return self.trunk.identity

    def device(self, asked: str | torch.device) -> torch.device:
        """Where it is; DeviceError where another device is asked for."""
        if str(asked) != "auto" and resolve_device(asked) != self.trunk.device:
            raise DeviceError(f"the trunk that was given is on {self.trunk.device}, and device is {asked}; build it there")
        return self.trunk.device


def split_name(trunk: str) -> tuple[str, str]:
    """Source and name of a trunk: ``("timm", "resnet50")``, ``("vgg16", "")``, ``("module", "Mine")``.

    Raises:
        ValueError: no such source, or no name.
    """
    source, _, name = trunk.partition(":")
    if trunk != "vgg16" and (source not in _SOURCES or not name):
        raise InvalidArgumentError(f"trunk {trunk!r} is unknown; choose vgg16, timm:NAME or torchvision:NAME, or give a trunk")
    return source, name


def resolve(config: AnnotatorConfig, given: GivenTrunk | None = None) -> AnnotatorConfig:
    """The settings with what they leave to the trunk: layer, input size and interpolation.

    Args:
        config: settings.
        given: the trunk, where the caller has built it; the settings then name it.

    Raises:
        ValueError: no such trunk or layer, or a setting that only VGG-16 has.
        WeightsError: a library that is not there.
    """
    if given is not None:
        stated, layer = given.preprocessing, given.trunk.layer
        if config.trunk != given.source:
            config = config.changed(trunk=given.source)
        if config.layer not in (None, layer):
            raise InvalidArgumentError(f"layer is {config.layer!r} in the settings, and the trunk that was given ends at {layer!r}")
    source, name = split_name(config.trunk)
    if source == "vgg16":
        split_layers(config.layer)
        return config
    for setting, usual in (("relu", True), ("weights_convention", None)):
        if getattr(config, setting) != usual:
            found = getattr(config, setting)
            raise InvalidArgumentError(f"{setting} = {found!r} is a setting of VGG-16, the trunk is {config.trunk}")
    if config.trunk_dtype == "int8":
        raise InvalidArgumentError(f"trunk_dtype 'int8' is VGG-16's; {config.trunk} runs in auto, float32, bfloat16 or float16")
    if given is not None:
        pass
    elif source == "timm":
        from .timm_models import skeleton

        about = skeleton(name)
        stated, layer = about.preprocessing, "+".join(about.split(config.layer or about.default))
    elif source == "torchvision":
        from .torchvision_models import preprocessing

        if config.layer is None:
            raise InvalidArgumentError(f"{config.trunk} needs a layer: {config.trunk}@LAYER, such as torchvision:resnet50@layer3")
        stated, layer = preprocessing(name), config.layer
    else:
        return config  # what is missing is said by load
    return dataclasses.replace(
        config, layer=layer, input_size=config.input_size or stated.input_size,
        interpolation=config.interpolation or stated.interpolation,
    )  # fmt: skip


def settle(config: AnnotatorConfig, device: torch.device) -> AnnotatorConfig:
    """Resolved settings as a fit begins with them: ``trunk_dtype = "auto"`` is int8 where that is fastest, and the model states it.

    So a model keeps its arithmetic: one that states ``auto``, from a GPU or of an earlier version, never runs in int8.
    """
    if config.trunk == "vgg16" and config.trunk_dtype == "auto" and runs_int8("int8", device):
        return dataclasses.replace(config, trunk_dtype="int8")
    return config


def load(config: AnnotatorConfig) -> LoadedTrunk:
    """The weights that resolved settings name.

    Raises:
        WeightsError: they cannot be read, or the settings name a trunk that only the caller can build.
    """
    source, name = split_name(config.trunk)
    if source == "vgg16":
        return load_weights(config.weights, config.weights_convention)
    if source == "timm":
        from . import timm_models

        return timm_models.load(name, config.weights, config.input_size)
    if source == "torchvision":
        from . import torchvision_models

        return torchvision_models.load(name, config.weights)
    raise WeightsError(
        f"the settings name the trunk {config.trunk!r}, layer {config.layer!r}, which is a torch module of its user: give it, "
        "trunk=Trunk.from_module(…), as it was given to the fit"
    )


def build(loaded: LoadedTrunk, config: AnnotatorConfig, device: torch.device) -> LocalFeatures:
    """The trunk of resolved settings on a device.

    Raises:
        ValueError: a layer that it lacks, or a size that it does not take.
        DeviceError: a dtype that the device does not have.
    """
    if isinstance(loaded, TrunkWeights):
        return Vgg16(loaded, config.layer, relu=config.relu, dtype=config.trunk_dtype, device=device)
    if isinstance(loaded, GivenTrunk):
        trunk = loaded.trunk
    else:
        trunk = loaded.build(config.layer, config.input_size, config.trunk_dtype, device)  # type: ignore[attr-defined]
    for layer, channels in zip(trunk.layers, trunk.layer_channels, strict=True):
        if config.n_components > channels:  # PCA would find it after all images have been through the trunk
            raise InvalidArgumentError(
                f"n_components is {config.n_components}, and the layer {layer} of {trunk.name} has {channels} channels; set "
                f"n_components to at most {channels}, or take another layer"
            )
    return trunk
