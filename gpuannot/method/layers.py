"""Several layers side by side: each has its own normalisation, PCA and visual words.

The features of an image, (P, ΣC), hold the layers' channels next to each other, its descriptors (P, L·n) their components. The two
classes here treat each layer's columns as :class:`GaussianPCA` and :class:`Codebook` treat those of one, and keep their interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .codebook import Codebook
from .descriptors import DeviceTransform, GaussianPCA


class LayerTransforms:
    """A :class:`GaussianPCA` for each layer's channels.

    Args:
        n_components: n, kept of each layer. channels: C of each layer, in the order of the features' columns.

    Attributes:
        parts: the transforms.
    """

    def __init__(self, n_components: int, channels: Sequence[int]) -> None:
        self.n_components, self.channels = n_components, tuple(channels)
        self.parts = [GaussianPCA(n_components) for _ in self.channels]

    def accumulate(self, features: NDArray[np.floating] | Tensor) -> LayerTransforms:
        """Add the features (..., ΣC) of some images to each layer's running sums.

        Raises:
            ValueError: another number of channels.
        """
        for part, columns in zip(self.parts, self._columns(features.shape[-1]), strict=True):
            part.accumulate(features[..., columns])
        return self

    def merge(self, other: LayerTransforms) -> LayerTransforms:
        """Add the running sums of another, as if its features had been accumulated here."""
        for part, added in zip(self.parts, other.parts, strict=True):
            part.merge(added)
        return self

    def without_sums(self) -> LayerTransforms:
        """The same map alone, as :meth:`GaussianPCA.without_sums`."""
        other = LayerTransforms(self.n_components, self.channels)
        other.parts = [part.without_sums() for part in self.parts]
        return other

    def finish(self, sample: Tensor | None = None) -> LayerTransforms:
        """Learn each layer's map; arguments and errors as :meth:`GaussianPCA.finish`."""
        for part, columns in zip(self.parts, self._columns(sum(self.channels)), strict=True):
            part.finish(None if sample is None else sample[..., columns])
        return self

    def transform(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Descriptors (..., L·n) float32 of features (..., ΣC) float32."""
        columns = self._columns(features.shape[-1])
        return np.concatenate([part.transform(features[..., own]) for part, own in zip(self.parts, columns, strict=True)], axis=-1)

    def on(self, device: torch.device, dtype: torch.dtype) -> DeviceLayerTransforms:
        """This map for features of ``dtype`` on ``device``."""
        return DeviceLayerTransforms([part.on(device, dtype) for part in self.parts], self._columns(sum(self.channels)))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """``matrix`` (ΣC, n), ``offset`` (L, n) and ``explained_variance_ratio`` (L, n), for the model file."""
        return {
            "matrix": np.concatenate([part.matrix_ for part in self.parts]),
            "offset": np.stack([part.offset_ for part in self.parts]),
            "explained_variance_ratio": np.stack([part.explained_variance_ratio_ for part in self.parts]),
        }

    def restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        """The inverse of :meth:`tensors`."""
        for number, (part, rows) in enumerate(zip(self.parts, self._columns(len(tensors["matrix"])), strict=True)):
            part.matrix_ = np.ascontiguousarray(tensors["matrix"][rows])
            part.offset_, part.explained_variance_ratio_ = tensors["offset"][number], tensors["explained_variance_ratio"][number]

    def _columns(self, channels: int) -> list[slice]:
        if channels != sum(self.channels):
            raise ValueError(f"features have {channels} channels, these layers have {sum(self.channels)}")
        ends = np.cumsum(self.channels).tolist()
        return [slice(end - own, end) for own, end in zip(self.channels, ends, strict=True)]


class DeviceLayerTransforms:
    """:class:`LayerTransforms` in torch: a :class:`DeviceTransform` for each layer's columns."""

    def __init__(self, parts: Sequence[DeviceTransform], columns: Sequence[slice]) -> None:
        self.parts, self.columns = parts, columns

    def __call__(self, features: Tensor) -> Tensor:
        """Descriptors (B, P, L·n) float32 of features (B, P, ΣC)."""
        return torch.cat([part(features[..., own]) for part, own in zip(self.parts, self.columns, strict=True)], dim=-1)


class LayerCodebooks:
    """A :class:`Codebook` for each layer's descriptors; arguments as there, and the number of layers first.

    Attributes:
        parts: the codebooks.
    """

    def __init__(self, layers: int, n_centers: int = 64, *, max_iterations: int = 100, seed: int = 0) -> None:
        self.parts = [Codebook(n_centers, max_iterations=max_iterations, seed=seed) for _ in range(layers)]

    def fit(self, descriptors: NDArray[np.floating] | Tensor, *, overwrite: bool = False) -> LayerCodebooks:
        """Learn the centres of descriptors (N, L·n), each layer's from its columns; errors as :meth:`Codebook.fit`."""
        n = descriptors.shape[1] // len(self.parts)
        for number, part in enumerate(self.parts):
            own = descriptors[:, number * n : (number + 1) * n]
            part.fit(own.contiguous() if isinstance(own, Tensor) else np.ascontiguousarray(own), overwrite=True)
        return self

    def on(self, device: torch.device) -> Tensor:
        """The centres (L, m, n) float32 on ``device``."""
        return torch.from_numpy(self.centers).to(device)

    @property
    def centers(self) -> NDArray[np.float32]:
        """(L, m, n) float32."""
        return np.stack([part.centers for part in self.parts])
