"""AlexNet and VGG-16 with W words in place of the 1,000 classes, in plain torch, and the weights that they start from.

Modules carry torchvision's names (``features.0`` … ``classifier.6``), so that its state dicts fit; torchvision is not needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InvalidArgumentError, WeightsError
from ..method.weights import CONVOLUTIONS, NETWORKS, POOLS_AFTER, PREPROCESSING, Preprocessing, checked_layers, read_weights

# Output channels, kernel, stride, padding, whether a 3×3 pooling of stride 2 follows.
_ALEXNET = ((64, 11, 4, 2, True), (192, 5, 1, 2, True), (384, 3, 1, 1, False), (256, 3, 1, 1, False), (256, 3, 1, 1, True))
_LAST = "classifier.6."

#: The convolutions of each network, first to last, and the layer of ``features`` that each is.
CONVOLUTION_NAMES = {
    "vgg16": {name: int(module.removeprefix("features.")) for name, module, *_ in CONVOLUTIONS},
    "alexnet": {"conv1": 0, "conv2": 3, "conv3": 6, "conv4": 8, "conv5": 10},
}

#: Smallest image side that leaves something to the last pooling.
SMALLEST_INPUT = {"vgg16": 32, "alexnet": 63}

# torchvision's files of ImageNet weights, as it and torch.hub name them in their folder.
_CACHED_FILES = {"vgg16": "vgg16-397923af.pth", "alexnet": "alexnet-owt-7be5be79.pth"}


class Network(nn.Module):
    """RGB bytes → one logit a word, in two parts: :meth:`base`, which training leaves as it is, and :meth:`head`.

    The last layer starts at zero, all others as He et al. (2015) draw them, from torch's global generator. All are trained until
    :meth:`freeze` is called.

    Args:
        name: ``vgg16`` or ``alexnet``.
        words: W, the outputs of the last layer, ``classifier.6``.
        hidden: with fc6 and fc7; False puts the last layer on the mean over positions of the pooled convolution features.
        unit: scale what the last layer sees to length 1, so that one learning rate fits fixed features of any scale.
        width: factor on the channels of every layer but the first input and the last output.
        preprocessing: the map from RGB bytes to what the first layer expects.
    """

    def __init__(
        self,
        name: str,
        words: int,
        *,
        hidden: bool = True,
        unit: bool = False,
        width: float = 1.0,
        preprocessing: Preprocessing = PREPROCESSING["torchvision"],
    ) -> None:
        super().__init__()
        if name not in NETWORKS:
            raise InvalidArgumentError(f"network {name!r} is unknown; choose one of {', '.join(NETWORKS)}")
        if not width > 0:
            raise InvalidArgumentError(f"width = {width} must be above 0; 1 is the network as published")
        self.name, self.unit = name, unit
        layers, channels = _vgg16(width) if name == "vgg16" else _alexnet(width)
        self.features = nn.Sequential(*layers)
        side = (7 if name == "vgg16" else 6) if hidden else 1
        self.avgpool = nn.AdaptiveAvgPool2d((side, side))
        self.classifier = nn.Sequential()
        inputs = channels * side * side
        if hidden:
            for index, layer in _fully_connected(name, inputs, _scaled(4096, width)):
                self.classifier.add_module(index, layer)
            inputs = _scaled(4096, width)
        self.classifier.add_module("6", nn.Linear(inputs, words))
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        self.register_buffer("pixel_scale", 1 / std, persistent=False)
        self.register_buffer("pixel_offset", -mean / std, persistent=False)
        self._body = (*self.features, self.avgpool, nn.Flatten(), *list(self.classifier)[:-1])
        self._frozen = 0
        self._draw()

    @property
    def last(self) -> nn.Linear:
        """The replaced layer."""
        layer = self.classifier[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def freeze(self, last: str | None = None) -> None:
        """Keep the layers up to the convolution ``last``, its ReLU and pooling included, as they are; None: all but the last layer.

        Frozen layers never drop values, and what they give is rounded to float16, kept or not.
        """
        self._frozen = len(self._body)
        if last is not None:
            later = (index for index in CONVOLUTION_NAMES[self.name].values() if index > CONVOLUTION_NAMES[self.name][last])
            self._frozen = next(later, len(self.features))
        for layer in self._body[: self._frozen]:
            layer.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for layer in self._body[: self._frozen]:
            layer.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, W) of images (B, 3, H, W) uint8, on the network's device; H and W at least :data:`SMALLEST_INPUT`."""
        return self.head(self.base(images))

    def base(self, images: Tensor) -> Tensor:
        """What the first trained layer sees of images (B, 3, H, W) uint8: float32 pixels, or float16 features of any shape."""
        pixels = images.contiguous(memory_format=torch.channels_last).float()
        values = torch.addcmul(self.pixel_offset, pixels, self.pixel_scale)  # type: ignore[arg-type]
        if not self._frozen:
            return values
        with torch.no_grad():
            return self._through(values, 0, self._frozen).half()

    def head(self, values: Tensor) -> Tensor:
        """Logits (B, W) of what :meth:`base` gives."""
        return self.last(self._rest(values))

    def embed(self, images: Tensor) -> Tensor:
        """What the last layer sees: fc7 (B, 4096·width), or without it the mean convolution features (B, C)."""
        return self._rest(self.base(images))

    def _rest(self, values: Tensor) -> Tensor:
        memory = torch.channels_last if values.ndim == 4 else torch.contiguous_format
        return self._through(values.contiguous(memory_format=memory).float(), self._frozen, len(self._body))

    def _through(self, values: Tensor, start: int, stop: int) -> Tensor:
        for layer in self._body[start:stop]:
            values = layer(values)
        return functional.normalize(values.float()) if self.unit and start < stop == len(self._body) else values

    def _draw(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                if module is not self.last:
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                else:
                    nn.init.zeros_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


def _vgg16(width: float) -> tuple[list[nn.Module], int]:
    layers: list[nn.Module] = []
    before = 3
    for name, *_, channels in CONVOLUTIONS:
        layers += [nn.Conv2d(before, _scaled(channels, width), 3, padding=1), nn.ReLU(inplace=True)]
        before = _scaled(channels, width)
        if name in POOLS_AFTER:
            layers.append(nn.MaxPool2d(2, 2))
    return layers, before


def _alexnet(width: float) -> tuple[list[nn.Module], int]:
    layers: list[nn.Module] = []
    before = 3
    for channels, kernel, stride, padding, pool in _ALEXNET:
        layers += [nn.Conv2d(before, _scaled(channels, width), kernel, stride, padding), nn.ReLU(inplace=True)]
        before = _scaled(channels, width)
        if pool:
            layers.append(nn.MaxPool2d(3, 2))
    return layers, before


def _fully_connected(name: str, inputs: int, width: int) -> Iterator[tuple[str, nn.Module]]:
    """fc6 and fc7 under torchvision's numbers: its VGG-16 drops values after a layer's ReLU, its AlexNet before the layer."""
    layers = ("linear", "relu", "dropout") if name == "vgg16" else ("dropout", "linear", "relu")
    for index, kind in enumerate(layers * 2):
        if kind == "linear":
            yield str(index), nn.Linear(inputs, width)
            inputs = width
        else:
            yield str(index), nn.Dropout(0.5) if kind == "dropout" else nn.ReLU(inplace=True)


@dataclass(frozen=True)
class StartWeights:
    """Trained layers of a whole network (all but the last) or of its convolutions, in float32 on the CPU.

    Attributes:
        tensors: by torchvision's names.
        source: where they were read from.
        hidden: fc6 and fc7 are among them.
    """

    tensors: Mapping[str, Tensor]
    preprocessing: Preprocessing
    source: str
    hidden: bool

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256(repr((self.preprocessing.mean, self.preprocessing.std)).encode())
        for name in sorted(self.tensors):
            digest.update(f"{name} {tuple(self.tensors[name].shape)}".encode())
            digest.update(self.tensors[name].numpy().tobytes())
        return digest.hexdigest()


def start_weights(name: str, source: str | Path = "auto", convention: str | None = None) -> StartWeights:
    """Weights trained on ImageNet for a :class:`Network`.

    Args:
        name: ``vgg16`` or ``alexnet``.
        source: as in :func:`~gpuannot.method.weights.load_weights`; the whole network's file, or one of its convolutions only.
            ``auto`` is the file that torchvision keeps in torch's folder of downloads where it is there, else, for VGG-16, the
            embedded convolutions.
        convention: as in :func:`~gpuannot.method.weights.load_weights`.

    Raises:
        WeightsError: as :func:`~gpuannot.method.weights.load_weights`, or ``auto`` found nothing.
    """
    if str(source) == "auto":
        downloaded = Path(torch.hub.get_dir()) / "checkpoints" / _CACHED_FILES[name]
        if downloaded.is_file():
            source, convention = downloaded, "torchvision"
        elif name == "vgg16":
            source = "embedded"
        else:
            raise WeightsError(
                f"no ImageNet weights of {NETWORKS[name]} are here ({downloaded}); give a file of them, "
                '"torchvision" to have it download them, or mode="scratch"'
            )
    stored = read_weights(source, convention, name)
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in Network(name, 1).named_parameters() if not key.startswith(_LAST)}
    hidden = any(key.startswith("classifier.") for key in shapes.keys() & stored.tensors.keys())
    if not hidden:
        shapes = {key: shape for key, shape in shapes.items() if key.startswith("features.")}
    return StartWeights(checked_layers(stored, shapes), stored.preprocessing, stored.source, hidden)


def started_network(
    name: str,
    start: StartWeights | None,
    counts: Tensor,
    images: int,
    *,
    seed: int,
    width: float = 1.0,
    frozen: bool = False,
    freeze: str | None = None,
    independent: bool = True,
) -> Network:
    """A network as training begins, on the CPU: the first scores are the words' own frequencies.

    Else the first steps would do nothing but learn them.

    Args:
        start: weights of all or of the first layers; None draws all of them.
        counts: (W,) how many images carry each word. images: how many there are.
        seed: of the layers that are drawn.
        frozen: only the last layer is to be trained, on features of length 1.
        freeze: the last convolution that is not to be trained.
        independent: each word's logit is a question of its own, else all words share one softmax.
    """
    with torch.random.fork_rng([]):
        torch.random.default_generator.manual_seed(seed)
        network = Network(
            name,
            len(counts),
            hidden=start is None or start.hidden or not frozen,
            unit=frozen,
            width=width,
            preprocessing=PREPROCESSING["torchvision"] if start is None else start.preprocessing,
        )
    if start is not None:
        network.load_state_dict(start.tensors, strict=False)
    share = (counts.cpu() + 1) / (images + 2)
    network.last.bias.data = torch.logit(share) if independent else share.log()
    if frozen or freeze is not None:
        network.freeze(freeze)
    return network
