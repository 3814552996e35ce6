"""VLAD: an image's descriptors, aggregated around the visual words (the paper's equation 1)."""

from __future__ import annotations

from collections.abc import Iterator
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
        vectors = [self.of_layer.encode(*layer) for layer in _layers(descriptors, centers)]
        return vectors[0] if len(vectors) == 1 else np.concatenate(vectors, axis=1)  # one is not copied

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
        *,
        parts: bool = False,
    ) -> Tensor:
        """:meth:`encode` on a GPU, all layers in one launch; errors as :meth:`Vlad.encode_cuda`.

        Returns:
            (B, L·m·n) float32; with ``parts`` (2, B, L·m·n) bfloat16, whose sum over the two is that within 2⁻¹⁷ of each value.
        """
        from ..kernels import assign_vlad

        how, size = self.of_layer, (len(descriptors), centers.numel())
        out = torch.empty((2, *size), dtype=torch.bfloat16, device=descriptors.device) if parts else None
        return assign_vlad(
            descriptors, centers, half_norms, mass=how.mass, intra=how.intra, signed_sqrt=how.signed_sqrt, l2=how.l2, out=out
        )


def _layers(descriptors: Any, centers: Any) -> Iterator[tuple[Any, Any]]:
    """Each layer's descriptors (..., n) and centres (m, n), of (..., L·n) and (L, m, n)."""
    n = centers.shape[2]
    for number, words in enumerate(centers):
        yield descriptors[..., number * n : (number + 1) * n], words
