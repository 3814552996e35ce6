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
        """VLAD vectors (B, m·n) float32 of a batch of images.

        Several layers have descriptors (B, P, L·n) and centres (L, m, n); each layer's vector is made and normalised by itself, and
        they are put behind each other: (B, L·m·n).
        """
        if centers.ndim == 3:
            return np.concatenate([self.encode(*layer) for layer in _layers(descriptors, centers)], axis=1)
        return _reference.vlad(
            descriptors, centers, mass=self.mass, intra=self.intra, signed_sqrt=self.signed_sqrt, l2=self.l2
        ).astype(np.float32, copy=False)

    def patch_contributions(
        self,
        descriptors: NDArray[np.float32],  # (P, n)
        centers: NDArray[np.float32],  # (m, n)
        weights: NDArray[np.floating],  # (k, m·n)
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The vector of one image and what each patch adds to w·vector: :func:`gpuannot.reference.vlad.patch_contributions`.

        Several layers are taken as :meth:`encode` takes them, and what they add is summed.
        """
        if centers.ndim == 3:
            shares = np.split(weights, len(centers), axis=1)
            split = [
                self.patch_contributions(*layer, share) for layer, share in zip(_layers(descriptors, centers), shares, strict=True)
            ]
            return np.concatenate([vector for vector, _ in split]), np.sum([patches for _, patches in split], axis=0)
        return _reference.patch_contributions(
            descriptors, centers, weights, mass=self.mass, intra=self.intra, signed_sqrt=self.signed_sqrt, l2=self.l2
        )

    def encode_cuda(
        self,
        descriptors: Tensor,  # (B, P, n) float32, float16 or bfloat16, CUDA
        centers: Tensor,  # (m, n) float32, same device
        half_norms: Tensor,  # (m,) float32, ‖c‖²/2
    ) -> Tensor:
        """:meth:`encode` on a GPU: a launch a layer assigns, aggregates and normalises, on torch's current stream, without a wait.

        Returns:
            (B, m·n) float32 on the descriptors' device.

        Raises:
            DeviceError: CuPy, the driver or the device cannot run the kernels.
        """
        from ..kernels import assign_vlad

        if centers.ndim == 3:
            layers = zip(_layers(descriptors, centers), half_norms, strict=True)
            return torch.cat([self.encode_cuda(own.contiguous(), words, norms) for (own, words), norms in layers], dim=1)
        return assign_vlad(
            descriptors, centers, half_norms, mass=self.mass, intra=self.intra, signed_sqrt=self.signed_sqrt, l2=self.l2
        )


def _layers(descriptors: Any, centers: Any) -> Iterator[tuple[Any, Any]]:
    """Each layer's descriptors (..., n) and centres (m, n), of (..., L·n) and (L, m, n)."""
    n = centers.shape[2]
    for number, words in enumerate(centers):
        yield descriptors[..., number * n : (number + 1) * n], words
