"""Deep global features: one vector an image from a layer of VGG-16, for the baselines that compare whole images.

Named as what they are: pooled or flattened convolution layers come from the package's own trunk; fc6 and fc7 ("VGG-16 end-to-end
features") need a file of the whole network.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..config import AnnotatorConfig
from ..errors import DataError, ImageError, InvalidArgumentError
from ..images.decode_task import ImageFailure
from ..images.inputs import Images, as_sequence, none_readable
from ..method.trunk import layer_names
from ..method.weights import load_fully_connected
from ..model.extractor import FeatureExtractor
from ..system.progress import progress_bar

POOLINGS = ("mean", "root", "max", "flatten")
FULLY_CONNECTED = ("fc6", "fc7")


class GlobalFeatures:
    """Images → one vector each.

    Args:
        layer: a layer of the trunk (``conv1_1`` … ``pool5``), several of one stride joined by ``+``, whose vectors lie behind each
            other, or ``fc6`` or ``fc7``; all after their ReLU.
        pooling: of a trunk layer (H', W', C): ``mean``, ``root`` (the mean of the square roots, in which a few strong responses say
            less) or ``max`` over its positions, (C,), or ``flatten``, (C·H'·W',), channel by channel as VGG-16's own fully
            connected layers read it. None is ``mean``; fc6 and fc7 have no positions and take None.
        weights: ``source`` of :func:`~gpuannot.method.weights.load_weights`. fc6 and fc7 need a file of the whole network
            (torchvision's names) or ``torchvision``.
        convention: as for :func:`~gpuannot.method.weights.load_weights`.
        input_size: images are warped to input_size × input_size. fc6 and fc7 of VGG-16 fit 224 only.
        interpolation: as in :class:`~gpuannot.config.AnnotatorConfig`.
        batch_size: as there.
        dtype: ``trunk_dtype`` there.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Attributes:
        dimension: D, the length of a vector: 512 for pooled conv5_3, 25,088 for flattened pool5 at 224 pixels, 4,096 for fc7.

    Raises:
        ValueError: an unknown layer or pooling, or an input size that does not fit.
        WeightsError: as ``load_weights``.
    """

    def __init__(
        self,
        layer: str = "conv5_3",
        pooling: str | None = None,
        *,
        weights: str = "embedded",
        convention: str | None = None,
        input_size: int = 224,
        interpolation: str = "bicubic",
        batch_size: int = 32,
        dtype: str = "auto",
        device: str | torch.device = "auto",
    ) -> None:
        connected = layer in FULLY_CONNECTED
        if not connected and not set(layer.split("+")) <= set(layer_names()):
            raise InvalidArgumentError(f"layer {layer!r} is unknown; choose one of {', '.join((*layer_names(), *FULLY_CONNECTED))}")
        if connected and pooling is not None:
            raise InvalidArgumentError(f"pooling {pooling!r} does not apply to {layer}, which has no positions; leave it None")
        if pooling not in (None, *POOLINGS):
            raise InvalidArgumentError(f"pooling {pooling!r} is unknown; choose one of {', '.join(POOLINGS)}")
        self.layer = layer
        self.pooling = "flatten" if connected else pooling or "mean"
        config = AnnotatorConfig(
            weights=weights,
            weights_convention=convention,
            layer="pool5" if connected else layer,
            trunk_dtype=dtype,
            input_size=input_size,
            interpolation=interpolation,
            batch_size=batch_size,
        )
        self._extractor = FeatureExtractor(config, device)
        trunk = self._extractor.trunk
        positions = trunk.positions(input_size, input_size)
        if not positions:
            raise InvalidArgumentError(f"input_size {input_size} is too small: {layer} needs {trunk.stride}")
        self.dimension = trunk.channels * (positions if self.pooling == "flatten" else 1)
        self._connected: list[tuple[Tensor, Tensor]] = []
        for weight, bias in load_fully_connected(weights)[: FULLY_CONNECTED.index(layer) + 1] if connected else ():
            if weight.shape[1] != self.dimension:
                raise InvalidArgumentError(
                    f"fc6 of {weights} takes {weight.shape[1]} values, pool5 has {self.dimension} at input_size {input_size}"
                )
            self._connected.append((weight.to(trunk.device, trunk.dtype), bias.to(trunk.device, trunk.dtype)))
            self.dimension = len(weight)

    def encode(self, images: Images, *, progress: bool | None = None) -> NDArray[np.float32]:
        """One vector an image: (N, D) float32, in the order of ``images``.

        Args:
            images: as :class:`~gpuannot.Annotator` takes them.
            progress: show a bar; None shows one on terminals, after two seconds.

        Raises:
            ImageError: an image cannot be read.
            DataError: no images.
        """
        sources = as_sequence(images)
        if not len(sources):
            raise DataError(none_readable(0, []))
        vectors = np.empty((len(sources), self.dimension), np.float32)
        extractor = self._extractor
        extractor.failures = []
        with progress_bar(f"{self.layer} features", len(sources), progress) as bar:
            for positions, features in extractor.features(sources, advance=bar.update):
                _raise_first(extractor.failures)
                vectors[positions] = self._vectors(features).cpu().numpy()
        _raise_first(extractor.failures)
        return vectors

    @torch.inference_mode()
    def _vectors(self, features: Tensor) -> Tensor:
        """(B, D) float32 of trunk features (B, P, C)."""
        if self.pooling == "mean":
            return features.mean(dim=1, dtype=torch.float32)
        if self.pooling == "root":
            return features.float().sqrt_().mean(dim=1)
        if self.pooling == "max":
            return features.amax(dim=1).float()
        vectors = features.transpose(1, 2).flatten(1)
        for weight, bias in self._connected:
            vectors = functional.linear(vectors, weight, bias).relu()
        return vectors.float()


def _raise_first(failures: list[ImageFailure]) -> None:
    """Every vector must stand for its image, so one that cannot be read is an error here."""
    if failures:
        raise ImageError(failures[0].path, failures[0].reason, failures[0].stage)
