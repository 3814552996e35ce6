"""VLAD: an image's descriptors, aggregated around the visual words (the paper's equation 1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .reference import vlad as _reference


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
        from .kernels import assign_vlad

        return assign_vlad(
            descriptors, centers, half_norms, mass=self.mass, intra=self.intra, signed_sqrt=self.signed_sqrt, l2=self.l2
        )
