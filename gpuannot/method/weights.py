"""Weights of the VGG-16 convolution trunk, with the preprocessing that belongs to them.

Two conventions exist for the same network, and a file of weights works only with its own:

* ``caffe``: the Oxford release. Pixels 0…255 in **BGR** order, minus a mean of (103.939, 116.779, 123.68), not scaled.
* ``torchvision``: pixels in RGB order divided by 255, minus (0.485, 0.456, 0.406), divided by (0.229, 0.224, 0.225).

The trunk is always given RGB bytes. Both conventions become one per-channel affine map of those bytes, and weights that expect BGR
have the input channels of their first layer put in RGB order once, at load, which is exact.

Three sources: ``embedded`` (int8, in this package), a file (``.safetensors``, or a ``.pth`` state dict), and ``torchvision`` or
``torchvision:NAME`` (torchvision's own files, downloaded by torchvision).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..config import CONVENTIONS
from ..errors import WeightsError, install

#: Name in the paper's terms, torchvision's module name, input channels, output channels.
CONVOLUTIONS: tuple[tuple[str, str, int, int], ...] = (
    ("conv1_1", "features.0", 3, 64),
    ("conv1_2", "features.2", 64, 64),
    ("conv2_1", "features.5", 64, 128),
    ("conv2_2", "features.7", 128, 128),
    ("conv3_1", "features.10", 128, 256),
    ("conv3_2", "features.12", 256, 256),
    ("conv3_3", "features.14", 256, 256),
    ("conv4_1", "features.17", 256, 512),
    ("conv4_2", "features.19", 512, 512),
    ("conv4_3", "features.21", 512, 512),
    ("conv5_1", "features.24", 512, 512),
    ("conv5_2", "features.26", 512, 512),
    ("conv5_3", "features.28", 512, 512),
)

#: Convolution layer → the pooling that follows it.
POOLS_AFTER = {"conv1_2": "pool1", "conv2_2": "pool2", "conv3_3": "pool3", "conv4_3": "pool4", "conv5_3": "pool5"}
#: Networks whose weights can be read, as torchvision calls them → as their authors do.
NETWORKS = {"vgg16": "VGG-16", "alexnet": "AlexNet"}

EMBEDDED_FILE = "vgg16_conv_int8.safetensors"
_SHAPES = {
    f"{module}.{kind}": shape
    for _, module, in_channels, out_channels in CONVOLUTIONS
    for kind, shape in (("weight", (out_channels, in_channels, 3, 3)), ("bias", (out_channels,)))
}
_PAPER_NAMES = {module: name for name, module, _, _ in CONVOLUTIONS}


@dataclass(frozen=True)
class Preprocessing:
    """The map from RGB bytes to the trunk's input: ``(pixel - mean) / std`` per channel, in units of 0…255.

    Attributes:
        convention: ``caffe`` or ``torchvision``; of other trunks where it is from.
        mean, std: of R, G and B.
        bgr_weights: the first layer of the weights *as stored* expects its input channels in the order blue, green, red.
        input_size, interpolation: of the images that the network was made for.
    """

    convention: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr_weights: bool = False
    input_size: int = 224
    interpolation: str = "bicubic"


PREPROCESSING: dict[str, Preprocessing] = {
    "caffe": Preprocessing("caffe", (123.68, 116.779, 103.939), (1.0, 1.0, 1.0), bgr_weights=True),
    "torchvision": Preprocessing(
        "torchvision", (0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255), bgr_weights=False
    ),
}


@dataclass(frozen=True)
class TrunkWeights:
    """The 13 convolution layers in float32, first layer in RGB order, and the preprocessing they were trained with.

    Attributes:
        tensors: ``features.N.weight`` (out, in, 3, 3) and ``features.N.bias`` (out,), CPU float32. source: as it was asked for.
    """

    tensors: Mapping[str, Tensor]
    preprocessing: Preprocessing
    source: str

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over preprocessing and all layers: two models with the same hash see the same trunk."""
        digest = hashlib.sha256(repr((self.preprocessing.mean, self.preprocessing.std)).encode())
        for _, module, _, _ in CONVOLUTIONS:
            for kind in ("weight", "bias"):
                digest.update(self.tensors[f"{module}.{kind}"].contiguous().numpy().tobytes())
        return digest.hexdigest()


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a convolution weight to int8 with one scale per output channel.

    Args:
        weight: (out, in, kh, kw) floating point.

    Returns:
        ``(int8 (out, in, kh, kw), scale (out,) float32)`` with ``weight ≈ int8 · scale``; a channel's largest value maps to ±127.
    """
    weight = weight.float()
    scale = weight.abs().amax(dim=(1, 2, 3)) / 127
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return torch.round(weight / scale.view(-1, 1, 1, 1)).to(torch.int8), scale


def load_weights(source: str | Path = "embedded", convention: str | None = None) -> TrunkWeights:
    """Load the convolution layers of VGG-16.

    Args:
        source: ``"embedded"``, the path of a ``.safetensors``, ``.pth`` or ``.pt`` file, ``"torchvision"``, or
            ``"torchvision:NAME"`` with a member of ``torchvision.models.VGG16_Weights``.
        convention: ``"caffe"`` or ``"torchvision"``, for a file whose metadata does not say. A statement that contradicts the
            file's metadata is an error.

    Raises:
        WeightsError: the file is missing, unreadable, lacks a layer, has a wrong shape or non-finite value, or nobody said which
            convention it follows.
    """
    stored = read_weights(source, convention)
    return TrunkWeights(checked_layers(stored, _SHAPES), stored.preprocessing, stored.source)


@dataclass(frozen=True)
class StoredWeights:
    """All tensors of a source, unchecked and as stored.

    Attributes:
        source: as it was asked for.
        origin: names it in errors. network: ``vgg16`` or ``alexnet``.
    """

    tensors: Mapping[str, Tensor]
    preprocessing: Preprocessing
    source: str
    origin: str
    network: str


def read_weights(source: str | Path, convention: str | None = None, network: str = "vgg16") -> StoredWeights:
    """What :func:`load_weights` reads, which says what the arguments mean, of ``vgg16`` or ``alexnet``.

    Raises:
        WeightsError: the file is missing or unreadable, torchvision is, or nobody said which convention the weights follow.
    """
    if convention is not None and convention not in CONVENTIONS:
        raise WeightsError(f"convention {convention!r} is unknown; choose one of {', '.join(CONVENTIONS)}")
    name = str(source)
    if name == "torchvision" or name.startswith("torchvision:"):
        return _from_torchvision(name, convention, network)
    if name != "embedded":
        return _from_file(Path(source), convention, name, network)
    if network != "vgg16":
        raise WeightsError(f'this package carries weights of vgg16, none of {network}; give a file of them or "torchvision"')
    with as_file(files("gpuannot") / "data" / EMBEDDED_FILE) as path:
        return _from_file(path, convention, "embedded", network)


def load_fully_connected(source: str | Path) -> tuple[tuple[Tensor, Tensor], ...]:
    """The layers fc6 and fc7 of VGG-16: of each its weight (out, in) and bias (out,), CPU float32.

    fc6 reads pool5 flattened channel by channel, in both conventions: 25,088 values of a 224×224 image. Each has 4,096 outputs.

    Args:
        source: as for :func:`load_weights`; a file must hold the whole network under torchvision's names.

    Raises:
        WeightsError: no such file, or one that lacks a layer, whose layers do not fit each other, or with non-finite values.
    """
    name = str(source)
    if name == "embedded":
        raise WeightsError(
            "the embedded weights end with the convolution layers; fc6 and fc7 need a file of the whole VGG-16, or 'torchvision'"
        )
    if name == "torchvision" or name.startswith("torchvision:"):
        tensors = _downloaded(_torchvision_entry(name, "vgg16"))
    else:
        tensors, _ = read_file(Path(source))
    layers: list[tuple[Tensor, Tensor]] = []
    for title, module in (("fc6", "classifier.0"), ("fc7", "classifier.3")):
        weight, bias = tensors.get(f"{module}.weight"), tensors.get(f"{module}.bias")
        if weight is None or bias is None:
            raise WeightsError(
                f"{name} lacks {module} ({title} of VGG-16): it holds {len(tensors)} tensors; give the whole network"
            )
        inputs = len(layers[-1][1]) if layers else weight.shape[-1]
        if weight.ndim != 2 or weight.shape[1] != inputs or bias.shape != weight.shape[:1] or not weight.is_floating_point():
            raise WeightsError(
                f"{name}: {module} ({title}) has a weight {tuple(weight.shape)} of {weight.dtype} and a bias {tuple(bias.shape)}; "
                f"expected floating point of shapes (out, {inputs}) and (out,)"
            )
        if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
            raise WeightsError(f"{name}: {module} ({title}) holds non-finite values")
        layers.append((weight.float(), bias.float()))
    return tuple(layers)


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a ``.safetensors`` file or a state dict; WeightsError where it is missing or unreadable."""
    if not path.is_file():
        raise WeightsError(f'{path}: no such file of trunk weights; give a .safetensors or .pth file, "embedded" or "torchvision"')
    return _read_state_dict(path) if path.suffix in (".pth", ".pt") else _read_safetensors(path)


def _from_file(path: Path, convention: str | None, source: str, network: str) -> StoredWeights:
    tensors, metadata = read_file(path)
    stated = _convention_of(metadata, path)
    if stated is None and convention is None:
        raise WeightsError(
            f"{path} does not say which convention its weights follow (metadata key 'convention'); "
            "state it: 'caffe' for the Oxford release (BGR 0…255), 'torchvision' for torchvision's own training (RGB, mean/std)"
        )
    if stated and convention and stated != convention:
        raise WeightsError(f"{path} says that its weights follow the {stated!r} convention, not {convention!r}")
    chosen = stated or convention
    assert chosen is not None
    return StoredWeights(tensors, PREPROCESSING[chosen], source, str(path), network)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file ({error})") from error


def _read_state_dict(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # what torch's unpickler raises on damaged bytes is not a closed list
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"{path} is not a readable state dict of tensors ({first_line})") from error
    if not isinstance(state, Mapping):
        raise WeightsError(f"{path} holds a {type(state).__name__}, expected a state dict (name → tensor)")
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}, {}


def _convention_of(metadata: Mapping[str, str], path: Path) -> str | None:
    if "gpuannot" in metadata:
        try:
            metadata = json.loads(metadata["gpuannot"])
        except ValueError:
            metadata = {}
        if not isinstance(metadata, dict) or not metadata:
            raise WeightsError(f"{path}: its metadata key 'gpuannot' holds no JSON object; remove it, or embed the weights again")
    if (stated := metadata.get("convention")) is not None:
        if stated not in CONVENTIONS:
            raise WeightsError(f"{path}: its metadata names the convention {stated!r}; known are {', '.join(CONVENTIONS)}")
        return stated
    # Copies of the Oxford release describe their preprocessing in words.
    described = metadata.get("preprocessing", "")
    return "caffe" if "BGR" in described and "103.939" in described and "no scaling" in described else None


def _from_torchvision(source: str, convention: str | None, network: str) -> StoredWeights:
    if convention not in (None, "torchvision"):
        raise WeightsError(f"torchvision's weights follow its own convention, not {convention!r}")
    entry = _torchvision_entry(source, network)
    transform = entry.transforms()
    mean, std = (tuple(255.0 * float(v) for v in values) for values in (transform.mean, transform.std))
    preprocessing = Preprocessing("torchvision", mean, std, bgr_weights=False)  # type: ignore[arg-type]
    tensors = _downloaded(entry)
    return StoredWeights(tensors, preprocessing, f"torchvision:{entry.name}", f"torchvision {entry.name}", network)


def _torchvision_entry(source: str, network: str) -> Any:
    """The member of torchvision's weights of ``network`` that ``torchvision`` or ``torchvision:NAME`` means."""
    name = source.partition(":")[2] or "IMAGENET1K_V1"
    try:
        from torchvision.models import get_model_weights
    except (ImportError, RuntimeError) as error:  # a torchvision built for another torch raises RuntimeError
        instead = ', or use weights="embedded" or a file' if network == "vgg16" else ", or give a file of weights"
        raise WeightsError(f"torchvision cannot be imported ({error}); {install('cuda13', 'cuda12')}{instead}") from error
    known = get_model_weights(network)
    try:
        return known[name]
    except KeyError:
        members = ", ".join(member.name for member in known)
        raise WeightsError(f"torchvision has no {NETWORKS[network]} weights {name!r}; it has {members}") from None


def _downloaded(entry: Any) -> Mapping[str, Tensor]:
    """The tensors of a member of torchvision's weights, from its cache or downloaded into it."""
    try:
        return entry.get_state_dict(progress=True)
    except (OSError, RuntimeError) as error:  # no network or no room, and a download that is not what it should be
        raise WeightsError(f"torchvision cannot get its weights {entry.name} ({error}); give a file of them") from error


def checked_layers(stored: StoredWeights, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Layers of stored weights, in float32 on the CPU, int8 restored, the first layer in RGB order.

    Args:
        shapes: of the layers to take, by name.

    Raises:
        WeightsError: a layer is missing, of another shape, or holds non-finite values.
    """
    layers: dict[str, Tensor] = {}
    title = NETWORKS[stored.network]
    for key, shape in shapes.items():
        module = key.rpartition(".")[0]
        if key not in stored.tensors:
            of = f"{_PAPER_NAMES[module]} of {title}" if stored.network == "vgg16" and module in _PAPER_NAMES else title
            raise WeightsError(f"{stored.origin} lacks {key} ({of}); it holds {len(stored.tensors)} tensors")
        tensor = stored.tensors[key]
        if tensor.dtype == torch.int8:
            tensor = _from_int8(tensor, stored.tensors.get(f"{module}.scale"), f"{stored.origin}: {module}.scale")
        tensor = tensor.float()
        if tuple(tensor.shape) != shape:
            raise WeightsError(f"{stored.origin}: {key} has shape {tuple(tensor.shape)}, {title} has {shape}")
        if not torch.isfinite(torch.stack(tensor.aminmax())).all():  # a NaN is both
            raise WeightsError(f"{stored.origin}: {key} holds non-finite values")
        layers[key] = tensor.contiguous()
    if stored.preprocessing.bgr_weights:
        layers["features.0.weight"] = layers["features.0.weight"].flip(1).contiguous()
    return layers


def _from_int8(weight: Tensor, scale: Tensor | None, name: str) -> Tensor:
    if scale is None or tuple(scale.shape) != (len(weight),):
        found = "is missing" if scale is None else f"has shape {tuple(scale.shape)}"
        raise WeightsError(f"{name} {found}; int8 weights need one scale per output channel, shape ({len(weight)},)")
    return weight.float() * scale.float().view(-1, 1, 1, 1)
