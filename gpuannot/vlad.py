"""VLAD: an image's descriptors, aggregated around the visual words (the paper's equation 1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
