"""Trunks of timm (https://github.com/huggingface/pytorch-image-models): any of its networks, cut at a block or stage.

A layer is named as timm names it (``blocks.9``, ``stages.2``, ``layer3``) or by its number in that list, which is what
``feature_info`` of the network holds. Left open it is, of networks that keep one stride (ViT, DINOv2, SigLIP), the block three
quarters up, of others the last stage of stride 16 or less.
"""

from __future__ import annotations

import copy
import difflib
import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InvalidArgumentError, WeightsError, install
from ...system.device import resolve_device
from ..weights import Preprocessing, read_file
from .base import LocalTrunk, module_sha256, network_dtype

INSTALL = install("timm")
_STRIDE = 16


def library() -> ModuleType:
    """timm.

    Raises:
        WeightsError: it is not installed, or cannot be imported.
    """
    try:
        import timm
    except ImportError as error:
        if error.name == "timm":
            raise WeightsError(f"trunks timm:NAME need the package timm, which is not installed; {INSTALL}") from error
        raise WeightsError(f"timm cannot be imported ({error}); {INSTALL}") from error
    except RuntimeError as error:  # what a torchvision that was built for another torch raises
        raise WeightsError(
            f"timm cannot be imported, because torchvision cannot ({error}); install the torchvision that was built for torch "
            f"{torch.__version__}, from where that torch is from"
        ) from error
    return timm


def check_name(name: str) -> str:
    """A network's name, which timm must know, tag included.

    Raises:
        WeightsError: timm cannot be imported.
        ValueError: it has no such network, or no such pretrained tag.
    """
    timm = library()
    architecture, dot, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), 3)
        perhaps = f"; is one of {', '.join(close)} meant?" if close else f"; gpuannot trunks 'timm:{name[:3]}*' lists some"
        raise InvalidArgumentError(f"timm {timm.__version__} has no network {name!r}{perhaps}")
    known = timm.list_pretrained(f"{architecture}.*")
    if dot and name not in known:
        has = ", ".join(known) or "none"
        raise InvalidArgumentError(f"timm {timm.__version__} has no weights {tag!r} of {architecture}; it has {has}")
    return name


@dataclass(frozen=True)
class Skeleton:
    """A network without weights.

    Attributes:
        name: with tag. layers: what can be taken, in the network's order. default: the one that is taken where none is named.
        preprocessing: that timm states for it.
        fixed_size: positions are built for one input size, which is given when it is built.
        features_only: it has no ``forward_intermediates``, and is built by timm's ``features_only``.
    """

    name: str
    layers: tuple[str, ...]
    default: str
    preprocessing: Preprocessing
    fixed_size: bool
    features_only: bool

    def options(self, size: int) -> dict[str, Any]:
        """How it is built for images of size × size."""
        resized = self.fixed_size and size != self.preprocessing.input_size
        return {"features_only": self.features_only, **({"img_size": size} if resized else {})}

    def split(self, layer: str) -> tuple[str, ...]:
        """The layers that a setting names, by timm's names, in the order of the network.

        Raises:
            ValueError: a layer that is unknown, or named twice.
        """
        found = []
        for name in layer.split("+"):
            if name.isascii() and name.removeprefix("-").isdigit() and -len(self.layers) <= int(name) < len(self.layers):
                name = self.layers[int(name)]
            if name not in self.layers:
                raise InvalidArgumentError(
                    f"layer {name!r} of {self.name} is unknown; choose one of {', '.join(self.layers)}, its number in 0…"
                    f"{len(self.layers) - 1}, or several joined by '+'"
                )
            found.append(name)
        if len(set(found)) != len(found):
            raise InvalidArgumentError(f"layer {layer!r} names a layer twice")
        return tuple(sorted(found, key=self.layers.index))


@lru_cache(maxsize=64)
def skeleton(name: str) -> Skeleton:
    """What timm says of a network, which is built without memory for its weights.

    Raises:
        WeightsError: timm cannot be imported.
        ValueError: it has no such network, or one that has no layers to take.
    """
    timm = library()
    with torch.device("meta"):
        network = _create(check_name(name))
        if features_only := not hasattr(network, "forward_intermediates"):
            network = _create(name, features_only=True)
    info = getattr(network, "feature_info", ())
    stages: list[Any] = list(getattr(info, "info", info))
    if not stages:
        raise InvalidArgumentError(f"timm names no layers of {name}, so none can be taken")
    strides = [stage["reduction"] for stage in stages]
    if max(strides) == min(strides):
        default = 3 * len(stages) // 4
    else:
        default = max((place for place, stride in enumerate(strides) if stride <= _STRIDE), default=0)
    stated = timm.data.resolve_model_data_config(network)
    mean, std = (tuple(255.0 * float(value) for value in stated[key]) for key in ("mean", "std"))
    interpolation = stated["interpolation"] if stated["interpolation"] in ("bicubic", "bilinear") else "bicubic"
    preprocessing = Preprocessing("timm", mean, std, input_size=stated["input_size"][-1], interpolation=interpolation)  # type: ignore[arg-type]
    layers = tuple(stage["module"] for stage in stages)
    fixed_size = bool(network.pretrained_cfg.get("fixed_input_size"))
    return Skeleton(name, layers, layers[default], preprocessing, fixed_size, features_only)


def load(name: str, weights: str, size: int) -> LoadedTimm:
    """A network with its weights.

    Args:
        name: as timm has it, with or without tag: ``vit_small_patch14_dinov2.lvd142m``.
        weights: ``pretrained``, which timm's own loader finds on this machine or downloads, or a ``.safetensors``, ``.pth`` or
            ``.pt`` file of them.
        size: side of the images; positions are interpolated to it where a network has them for one size.

    Raises:
        WeightsError: timm cannot be imported, has no weights and cannot get them, or a file that is not one of this network.
        ValueError: no such network.
    """
    about = skeleton(name)
    options = about.options(size)
    if weights == "pretrained":
        network, missing = _pretrained(name, options), frozenset[str]()
    else:
        network, missing = _from_tensors(name, _unwrapped(read_file(Path(weights))[0]), options, weights)
    for key, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise WeightsError(f"{weights}: {key} of {name} holds non-finite values")
    return LoadedTimm(name, network.eval().requires_grad_(False), about, weights, missing)


@dataclass(frozen=True)
class LoadedTimm:
    """A network with its weights in float32 on the CPU, and the names of those that its file lacks."""

    name: str
    network: nn.Module
    about: Skeleton
    source: str
    missing: frozenset[str] = frozenset()

    @property
    def preprocessing(self) -> Preprocessing:
        """That timm states."""
        return self.about.preprocessing

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over the architecture's name, preprocessing and all weights."""
        return module_sha256(f"timm:{self.name.partition('.')[0]}", self.preprocessing, self.network)

    def build(self, layer: str, size: int, dtype: str, device: torch.device) -> TimmTrunk:
        """The trunk up to ``layer``."""
        return TimmTrunk(self, layer, size, dtype=dtype, device=device)


def without_weights(name: str, layer: str, image: Tensor) -> tuple[nn.Module, torch.Size]:
    """The network up to a layer on the current default device, and the shape (1, C, H', W') of an image's features."""
    about = skeleton(name)
    network = _create(name, **about.options(image.shape[-1])).eval()
    stages = [about.layers.index(one) for one in about.split(layer)]
    found = _run(_pruned(network, stages), stages, image, "NCHW")
    return network, torch.Size((1, sum(part.shape[1] for part in found), *found[0].shape[2:]))


def _pruned(network: Any, stages: list[int]) -> Any:
    """The network without what comes after these stages, as far as timm can tell."""
    if hasattr(network, "prune_intermediate_layers"):
        network.prune_intermediate_layers(stages, prune_norm=True, prune_head=True)
    return network


def _run(network: Any, stages: list[int], pixels: Tensor, form: str) -> list[Tensor]:
    """What comes out of stages: (B, C, H', W') each, or with the form ``NLC`` (B, P, C)."""
    if hasattr(network, "forward_intermediates"):
        return network.forward_intermediates(pixels, indices=stages, stop_early=True, intermediates_only=True, output_fmt=form)
    found = network(pixels)
    last = getattr(network, "output_fmt", "NCHW") == "NHWC"
    return [found[stage].permute(0, 3, 1, 2) if last else found[stage] for stage in stages]


class TimmTrunk(LocalTrunk):
    """A network of timm up to a block or stage. Class and register tokens are left out.

    Args:
        loaded: by :func:`load`.
        layer: name or number of a block or stage, or several of one patch grid joined by ``+``; None is the network's own.
        size: side of the images that it is measured with.
        dtype: as for :func:`~gpuannot.method.trunks.base.network_dtype`. device: where it runs.

    Raises:
        ValueError: a layer that is unknown, layers of different grids, or a size that the network does not take.
    """

    concurrent = True

    def __init__(
        self, loaded: LoadedTimm, layer: str | None = None, size: int | None = None, *, dtype: str = "auto",
        device: str | torch.device = "cpu",
    ) -> None:  # fmt: skip
        about = loaded.about
        layers = about.split(layer or about.default)
        kind = network_dtype(dtype, resolve_device(device))
        super().__init__(f"timm:{loaded.name}", loaded.sha256, about.preprocessing, "+".join(layers), dtype=kind, device=device)
        self._stages = [about.layers.index(name) for name in layers]
        network = _pruned(copy.deepcopy(loaded.network), self._stages)
        if lacking := sorted(loaded.missing & set(network.state_dict())):
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            raise WeightsError(f"{loaded.source} lacks {lacking[0]}{more} of {loaded.name}: is it a file of this network?")
        self.network = network.to(device=self.device, dtype=kind, memory_format=torch.channels_last)
        # As tokens where the network has them: as maps they would be transposed, and back here.
        self._tokens = False
        size = size or about.preprocessing.input_size
        self.measure(size)
        self._tokens = self._gives_tokens(size)

    def maps(self, pixels: Tensor) -> Sequence[Tensor]:
        """(B, H', W', C') of each layer."""
        found = _run(self.network, self._stages, pixels, "NLC" if self._tokens else "NCHW")
        if not self._tokens:
            return [part.permute(0, 2, 3, 1) for part in found]
        grid = self.network.patch_embed.dynamic_feat_size(tuple(pixels.shape[2:]))
        return [part.unflatten(1, grid) for part in found]

    @torch.inference_mode()
    def _gives_tokens(self, size: int) -> bool:
        embed = getattr(self.network, "patch_embed", None)
        if not hasattr(self.network, "forward_intermediates") or not hasattr(embed, "dynamic_feat_size"):
            return False
        blank = self.normalised(torch.zeros((1, 3, size, size), dtype=torch.uint8, device=self.device))
        expected = self.maps(blank)
        self._tokens = True
        try:
            return all(torch.equal(one, other) for one, other in zip(self.maps(blank), expected, strict=True))
        except (AssertionError, RuntimeError, TypeError):  # a network that gives maps alone
            return False


def cache_folders() -> tuple[str, ...]:
    """Where timm looks for pretrained weights: the hub's cache and torch's."""
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE), os.path.join(torch.hub.get_dir(), "checkpoints")


def on_disk() -> list[str]:
    """Names of the pretrained networks whose weights are in the hub's cache on this machine."""
    timm = library()
    folder = Path(cache_folders()[0])
    names = {path.name.removeprefix("models--timm--") for path in folder.glob("models--timm--*") if any(path.glob("snapshots/*/*"))}
    return sorted(names & set(timm.list_pretrained()))


def version() -> str | None:
    """timm's, or None where it is not installed."""
    try:
        return importlib.metadata.version("timm")
    except importlib.metadata.PackageNotFoundError:
        return None


def _create(name: str, *, features_only: bool = False, **options: Any) -> Any:
    options |= {"features_only": True} if features_only else {"num_classes": 0}
    return library().create_model(name, **options)


def _pretrained(name: str, options: dict[str, Any]) -> nn.Module:
    try:
        return _create(name, pretrained=True, **options)
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # timm's, the hub's and the network's errors are not a closed list
        offline = [key for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(key, "") not in ("", "0")]
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"timm cannot get pretrained weights of {name} ({reason}); looked in {' and '.join(cache_folders())}, "
            + (f"and nothing is downloaded, as {offline[0]} is set" if offline else "then on the hub")
            + "; give a file of them: weights=FILE, or --weights FILE"
        ) from error


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what training by several processes or by compilation puts before names."""
    for prefix in ("module.", "_orig_mod."):
        if tensors and all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return dict(tensors)


def _from_tensors(name: str, tensors: dict[str, Tensor], options: dict[str, Any], source: str) -> tuple[nn.Module, frozenset[str]]:
    """The network with these tensors, and the names of its own that they do not give."""

    def filled(state: dict[str, Tensor]) -> nn.Module:
        # timm's own path for pretrained networks: it renames keys of older files, interpolates positions, drops a classifier.
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            # Another number of classes has it leave out a classifier, and not insist on the rest.
            return _create(name, pretrained=True, pretrained_cfg_overlay={"state_dict": state, "num_classes": -1}, **options)

    try:
        network = filled(dict(tensors))
        own = {key: value for key, value in network.state_dict().items() if value.is_floating_point()}
        if all(key in tensors and torch.equal(tensors[key].float(), value) for key, value in own.items()):
            return network, frozenset()
        # That path is silent about what a file lacks. What other tensors do not change is not from the file.
        other = filled({key: -value - 1 if value.is_floating_point() else value for key, value in tensors.items()}).state_dict()
    except (KeyError, RuntimeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{source} does not fit {name}: {' '.join(str(error).split())[:200]}") from error
    return network, frozenset(key for key, value in own.items() if torch.equal(value, other[key]))
