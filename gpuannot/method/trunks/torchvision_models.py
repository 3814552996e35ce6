"""Trunks of torchvision's classification networks, by its feature extraction: ``torchvision:resnet50`` with layer ``layer3``."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InvalidArgumentError, WeightsError
from ..weights import Preprocessing, read_file
from .base import LocalTrunk, module_sha256, network_dtype
from .module import as_map

_IMAGENET = Preprocessing("torchvision", (0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255))


def library() -> Any:
    """torchvision.models.

    Raises:
        WeightsError: torchvision is not installed, or cannot be imported.
    """
    try:
        import torchvision.models
        import torchvision.models.feature_extraction
    except (ImportError, RuntimeError) as error:  # one built for another torch raises RuntimeError
        raise WeightsError(
            f"torchvision cannot be imported ({error}); trunks torchvision:NAME need it, built for torch {torch.__version__}"
        ) from error
    return torchvision.models


def preprocessing(name: str) -> Preprocessing:
    """What torchvision states for the network's default weights.

    Raises:
        WeightsError: torchvision cannot be imported.
        ValueError: it has no such network.
    """
    entry = _entry(name)
    if entry is None:
        return _IMAGENET
    stated = entry.transforms()
    mean, std = (tuple(255.0 * float(value) for value in values) for values in (stated.mean, stated.std))
    kind = getattr(stated.interpolation, "value", "bicubic")
    return Preprocessing(
        "torchvision", mean, std, input_size=stated.crop_size[0], interpolation=kind if kind == "bilinear" else "bicubic"  # type: ignore[arg-type]
    )  # fmt: skip


def load(name: str, weights: str) -> LoadedTorchvision:
    """A network with its weights: ``pretrained``, torchvision's default ones, or a file of them.

    Raises:
        WeightsError: torchvision cannot be imported or get its weights, or a file that is not one of this network.
        ValueError: it has no such network.
    """
    models, stated = library(), preprocessing(name)
    network = models.get_model(name, weights=None)
    if weights != "pretrained":
        tensors = read_file(Path(weights))[0]
    elif (entry := _entry(name)) is None:
        raise WeightsError(f"torchvision has no weights of {name}; give a file of them: weights=FILE, or --weights FILE")
    else:
        try:
            tensors = dict(entry.get_state_dict(progress=True))
        except (OSError, RuntimeError) as error:  # no network or no room, and a download that is not what it should be
            raise WeightsError(
                f"torchvision cannot get its weights {entry.name} of {name} ({error}); looked in "
                f"{torch.hub.get_dir()}/checkpoints; give a file of them: weights=FILE, or --weights FILE"
            ) from error
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(f"{weights} does not fit {name}: {' '.join(str(error).split())[:200]}") from error
    return LoadedTorchvision(name, network.eval().requires_grad_(False), stated, weights)


def without_weights(name: str, layer: str, image: Tensor) -> tuple[nn.Module, torch.Size]:
    """The network up to a layer on the current default device, and the shape (1, C, H', W') of an image's features."""
    loaded = LoadedTorchvision(name, library().get_model(name, weights=None).eval(), preprocessing(name), "")
    extractor = loaded.extractor(layer)
    found = [as_map(name, one, part, *_tokens(name)) for one, part in extractor(image).items()]
    return extractor, torch.Size((1, sum(part.shape[3] for part in found), *found[0].shape[1:3]))


def _tokens(name: str) -> tuple[int, None, bool]:
    """Class tokens before the patches, no stated grid, and whether maps are channels-last."""
    return int(name.startswith("vit_")), None, name.startswith("swin")


@dataclass(frozen=True)
class LoadedTorchvision:
    """A network with its weights in float32 on the CPU."""

    name: str
    network: nn.Module
    preprocessing: Preprocessing
    source: str

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over name, preprocessing and all weights."""
        return module_sha256(f"torchvision:{self.name}", self.preprocessing, self.network)

    def build(self, layer: str, size: int, dtype: str, device: torch.device) -> TorchvisionTrunk:
        """The trunk up to ``layer``, a node of torchvision's feature extraction."""
        return TorchvisionTrunk(self, self.extractor(layer), layer, size, dtype=dtype, device=device)

    def extractor(self, layer: str) -> nn.Module:
        """Images → features by the layer's name.

        Raises:
            ValueError: a layer that torchvision does not name.
        """
        from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

        nodes = get_graph_node_names(self.network)[1]
        for one in layer.split("+"):
            if not any(node == one or node.startswith(f"{one}.") for node in nodes):
                raise InvalidArgumentError(f"{self.name} has no layer {one!r}; torchvision names {', '.join(nodes)}")
        return _with_copies(create_feature_extractor(self.network, {one: one for one in layer.split("+")}))


class TorchvisionTrunk(LocalTrunk):
    """A network of torchvision up to a layer.

    Args:
        loaded: by :func:`load`. extractor: of it, by torchvision: images → features by the layer's name.
        layer: its name, or several joined by ``+``. size: side of the images that it is measured with.
        dtype: as for :func:`~gpuannot.method.trunks.base.network_dtype`. device: where it runs.

    Raises:
        ValueError: a layer that puts out no map and no square of tokens, or layers of different grids.
    """

    concurrent = True

    def __init__(
        self, loaded: LoadedTorchvision, extractor: nn.Module, layer: str, size: int, *, dtype: str, device: torch.device
    ) -> None:  # fmt: skip
        name, kind = f"torchvision:{loaded.name}", network_dtype(dtype, device)
        super().__init__(name, loaded.sha256, loaded.preprocessing, layer, dtype=kind, device=device)
        self.network = copy.deepcopy(extractor).to(device=device, dtype=kind, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._tokens = _tokens(loaded.name)
        self.measure(size)

    def maps(self, pixels: Tensor) -> Sequence[Tensor]:
        """(B, H', W', C') of each layer."""
        found = self.network(pixels)
        return [as_map(self.name, layer, found[layer], *self._tokens) for layer in self.layers]


def _with_copies(extractor: Any) -> nn.Module:
    """The extractor with a copy of each output: what follows a layer that is not the last may work in its place."""
    graph = extractor.graph
    [output] = [node for node in graph.nodes if node.op == "output"]
    [found] = output.args
    if len(found) > 1:
        copies = {}
        for layer, node in found.items():
            with graph.inserting_after(node):
                copies[layer] = graph.call_method("clone", (node,))
        output.args = (copies,)
        extractor.recompile()
    return extractor


def _entry(name: str) -> Any:
    """The member of torchvision's weights that a network has by default; None where there are none."""
    models = library()
    if name not in models.list_models(module=models):
        close = difflib.get_close_matches(name, models.list_models(module=models), 3)
        perhaps = f"; is one of {', '.join(close)} meant?" if close else ""
        raise InvalidArgumentError(f"torchvision has no network {name!r}{perhaps}")
    return next((entry for entry in models.get_model_weights(name) if entry.name == "IMAGENET1K_V1"), None)
