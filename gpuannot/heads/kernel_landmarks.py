"""Kernel ridge regression of more images than a kernel matrix has room for, in the span of some of them, the landmarks."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .calibration import random_numbers
from .kept_images import KeptImages
from .kernel_exact import add_product, kernel_values
from .products import add_gram, inverse, product

# Images whose kernel values with all landmarks are held at once.
_BLOCK = 256
# Added to the system's diagonal, of whose mean it is this part: two landmarks that are alike leave nothing else to divide by.
_JITTER = 1e-11


class LandmarkKernel:
    """The score s(x) = k(x)ᵀβ + constant, k(x) being the kernel values of x with m landmarks.

    β minimises ‖H(Y − Cβ)‖² + λ·βᵀKβ, with C (N, m) the kernel values of all images with the landmarks, K (m, m) those among the
    landmarks and H centring over the images: (CᵀHC + λK)·β = CᵀHY, known as the subset of regressors. With all images as landmarks
    it is :class:`~gpuannot.heads.kernel_exact.ExactKernel`. C passes by in blocks: 24·m² bytes, O(N·m·(m + d + W) + m³).

    Landmarks are the images of the lowest random numbers, which each image has by its key: a uniform draw without replacement that
    does not depend on how images were batched.

    Args:
        images: N of them.
        penalty: λ > 0.
        width: γ > 0.
        most: m, or more than N for all.
        seed: of the random numbers.

    Attributes:
        vectors: of the landmarks (m, d) float16.
        solution: β (m, W) float64.
        constant: (W,), so that s is 0 on average over the images.
        leverage: the mean over the images, ().

    Raises:
        numpy.linalg.LinAlgError or torch.linalg.LinAlgError: λ is too small beside rounding.
    """

    def __init__(self, images: KeptImages, penalty: float, width: float, most: int, seed: int) -> None:
        self._all, self._labels, self.width = images.vectors, images.labels, width
        drawn = np.argsort(random_numbers(images.keys, seed), kind="stable")[:most]
        self.vectors = self._all[torch.from_numpy(np.sort(drawn)).to(self._all.device)]
        size, count = len(self.vectors), len(self._all)
        system = self._all.new_zeros((size, size), dtype=torch.float64)
        given = system.new_zeros((size, 1 + self._labels.shape[1]))
        for start in range(0, count, _BLOCK):
            rows = slice(start, start + _BLOCK)
            values = kernel_values(self._all[rows], self.vectors, width)
            targets = self.targets(rows)
            add_gram(system, values)
            add_product(given, values.T, torch.hstack([targets.new_ones(len(targets), 1), targets]), 1)
        total = given[:, 0]
        self._mean = total / count
        counts = torch.from_numpy(self._labels.sum(axis=0)).to(total.device, torch.float64)
        right = given[:, 1:] - torch.outer(total, counts / count)  # CᵀHY
        system.addr_(total, self._mean, alpha=-1)  # CᵀHC
        among = kernel_values(self.vectors, self.vectors, width)
        system.add_(among, alpha=penalty)
        jitter = float(system.diagonal().mean()) * _JITTER
        system.diagonal().add_(jitter)
        self._inverse = inverse(system)
        self.solution = product(self._inverse, right)
        self.constant = -product(self._mean[None], self.solution)[0]
        penalised = penalty * (self._inverse * among).sum() + jitter * self._inverse.diagonal().sum()
        self.leverage = (1 + size - penalised) / count
        self._explained = torch.linalg.vecdot(self.solution, right, dim=0)
        roughness = torch.linalg.vecdot(self.solution, product(among, self.solution), dim=0)
        self._squares = self._explained - penalty * roughness - jitter * self.solution.square().sum(dim=0)

    def fitted(self, rows: NDArray[np.int64]) -> Tensor:
        """s (B, W) of images that were learnt from."""
        return product(self._values(rows), self.solution) + self.constant

    def leverages_of(self, rows: NDArray[np.int64]) -> Tensor:
        """h (B,) of these images, each its own."""
        values = self._values(rows) - self._mean
        return (product(values, self._inverse) * values).sum(dim=1) + 1 / len(self._all)

    def sums(self) -> tuple[Tensor, Tensor]:
        """Σ y·s and Σ s² over all images, (W,) each."""
        return self._explained, self._squares

    def targets(self, rows: slice | NDArray[np.int64]) -> Tensor:
        """Y (B, W) float64 of some rows."""
        return torch.from_numpy(self._labels[rows].toarray()).to(self._all.device, torch.float64)

    def _values(self, rows: NDArray[np.int64]) -> Tensor:
        return kernel_values(self._all[torch.from_numpy(rows).to(self._all.device)], self.vectors, self.width)
