"""VLAD: an image's descriptors, aggregated around the visual words (the paper's equation 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..reference import vlad as _reference


@dataclass(frozen=True)
class Vlad:
    """F_v = [Σ_{NN(f_i)=C_1}(f_i − C_1), …, Σ_{NN(f_i)=C_m}(f_i − C_m)], then the chosen normalisation steps.

    Args:
        mass, intra, signed_sqrt, l2: the steps, applied in this order (VLFeat's); see :func:`gpuannot.reference.vlad.vlad`.
    """

    mass: bool = False
    intra: bool = False
    signed_sqrt: bool = False
    l2: bool = False

    def encode(
        self,
        descriptors: NDArray[np.float32],  # (B, P, n)
        centers: NDArray[np.float32],  # (m, n)
    ) -> NDArray[np.float32]:
        """VLAD vectors (B, m·n) float32 of a batch of images."""
        return _reference.vlad(
            descriptors, centers, mass=self.mass, intra=self.intra, signed_sqrt=self.signed_sqrt, l2=self.l2
        ).astype(np.float32, copy=False)

    def patch_contributions(
        self,
        descriptors: NDArray[np.float32],  # (P, n)
        centers: NDArray[np.float32],  # (m, n)
        weights: NDArray[np.floating],  # (k, m·n)
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The vector of one image and what each patch adds to w·vector: :func:`gpuannot.reference.vlad.patch_contributions`."""
        return _reference.patch_contributions(
            descriptors, centers, weights, mass=self.mass, intra=self.intra, signed_sqrt=self.signed_sqrt, l2=self.l2
        )

    def encode_cuda(
        self,
        descriptors: Tensor,  # (B, P, n) float32, float16 or bfloat16, CUDA
        centers: Tensor,  # (m, n) float32, same device
        half_norms: Tensor,  # (m,) float32, ‖c‖²/2
    ) -> Tensor:
        """:meth:`encode` on a GPU: one launch assigns, aggregates and normalises, on torch's current stream, without a wait.

        Returns:
            (B, m·n) float32 on the descriptors' device.

        Raises:
            DeviceError: CuPy, the driver or the device cannot run the kernels.
        """
        from ..kernels import assign_vlad

        return assign_vlad(
            descriptors, centers, half_norms, mass=self.mass, intra=self.intra, signed_sqrt=self.signed_sqrt, l2=self.l2
        )


@dataclass(frozen=True)
class LayerVlad:
    """A :class:`Vlad` vector for each layer, made and normalised by itself, behind each other.

    Args:
        of_layer: what makes each layer's vector.
    """

    of_layer: Vlad

    def encode(
        self,
        descriptors: NDArray[np.float32],  # (B, P, L·n)
        centers: NDArray[np.float32],  # (L, m, n)
    ) -> NDArray[np.float32]:
        """VLAD vectors (B, L·m·n) float32 of a batch of images."""
        return _joined(np.concatenate, [self.of_layer.encode(*layer) for layer in _layers(descriptors, centers)])

    def patch_contributions(
        self,
        descriptors: NDArray[np.float32],  # (P, L·n)
        centers: NDArray[np.float32],  # (L, m, n)
        weights: NDArray[np.floating],  # (k, L·m·n)
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The vector of one image and what each patch adds to w·vector, over all layers."""
        shares = np.split(weights, len(centers), axis=1)
        layers = zip(_layers(descriptors, centers), shares, strict=True)
        split = [self.of_layer.patch_contributions(*layer, share) for layer, share in layers]
        return np.concatenate([vector for vector, _ in split]), np.sum([patches for _, patches in split], axis=0)

    def encode_cuda(
        self,
        descriptors: Tensor,  # (B, P, L·n) float32, float16 or bfloat16, CUDA
        centers: Tensor,  # (L, m, n) float32, same device
        half_norms: Tensor,  # (L, m) float32, ‖c‖²/2
    ) -> Tensor:
        """:meth:`encode` on a GPU, a launch a layer: (B, L·m·n) float32; errors as :meth:`Vlad.encode_cuda`."""
        layers = zip(_layers(descriptors, centers), half_norms, strict=True)
        return _joined(torch.cat, [self.of_layer.encode_cuda(own.contiguous(), words, norms) for (own, words), norms in layers])


def _joined(concatenate: Callable[..., Any], vectors: Sequence[Any]) -> Any:
    return vectors[0] if len(vectors) == 1 else concatenate(vectors, axis=1)  # one is not copied


def _layers(descriptors: Any, centers: Any) -> Iterator[tuple[Any, Any]]:
    """Each layer's descriptors (..., n) and centres (m, n), of (..., L·n) and (L, m, n)."""
    n = centers.shape[2]
    for number, words in enumerate(centers):
        yield descriptors[..., number * n : (number + 1) * n], words
