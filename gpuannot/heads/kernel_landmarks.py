"""Kernel ridge regression of more images than a kernel matrix has room for, in the span of some of them, the landmarks."""

from __future__ import annotations

from collections.abc import Iterator

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
    it is :class:`~gpuannot.heads.kernel_exact.ExactKernel`. C passes by in blocks, and so does K: 8·m² bytes for the inverse of the
    system, on a GPU four times as many while it is made; O(N·m·(m + d + W) + m³) to make. B images more or fewer change CᵀHC by
    B + 1 outer products, O(m²·(B + d + W)), and where landmarks change with them C passes by once more, O(N·m·(B + d)). Words that
    come or go cost O(m·W), two that become one O(m²·(d + W)).

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

    solution: Tensor
    constant: Tensor
    _explained: Tensor
    _squares: Tensor

    def __init__(self, images: KeptImages, penalty: float, width: float, most: int, seed: int) -> None:
        self.penalty, self.width, self._most, self._seed = penalty, width, most, seed
        self._take(images)
        self._marks = self._drawn(images)  # rows of the landmarks
        self.vectors = self._all[torch.from_numpy(self._marks).to(self._all.device)]
        size, count = len(self.vectors), len(self._all)
        system = self._all.new_zeros((size, size), dtype=torch.float64)
        self._given = system.new_zeros((size, 1 + self._labels.shape[1]))  # Cᵀ[1 Y]
        for values, targets in self._blocks():
            add_gram(system, values)
            add_product(self._given, values.T, targets, 1)
        system.addr_(self._given[:, 0], self._given[:, 0] / count, alpha=-1)  # CᵀHC
        for marks, among in self._among():
            system[marks].add_(among, alpha=penalty)
        self._jitter = float(system.diagonal().mean()) * _JITTER
        system.diagonal().add_(self._jitter)
        self._inverse = inverse(system)
        self._derive()

    def grow(self, images: KeptImages) -> None:
        """``images`` are those of before and, after them, some more."""
        before = len(self._all)
        self._take(images)
        rows = np.arange(before, len(self._all))
        self._change(self._values(rows), self._with_ones(rows), 1)
        self._swap(self._marks, images)
        self._derive()

    def shrink(self, images: KeptImages, gone: NDArray[np.int64]) -> None:
        """``images`` are those of before without the rows ``gone``."""
        values, targets = self._values(gone), self._with_ones(gone)
        rows = np.full(len(self._all), -1)
        rows[np.delete(np.arange(len(rows)), gone)] = np.arange(len(rows) - len(gone))
        self._take(images)
        self._change(values, targets, -1)
        self._swap(rows[self._marks], images)
        self._derive()

    def change_words(self, images: KeptImages, words: NDArray[np.int64]) -> None:
        """``images`` are those of before, with other words, the w-th of which was ``words[w]`` before, or none where that is −1."""
        self._take(images)
        numbers = torch.from_numpy(words).to(self._given.device)

        def of(each: Tensor, first: int = 0) -> Tensor:
            """The last column is one of zeros, for words that no image carries yet."""
            chosen = torch.where(numbers < 0, each.shape[-1], numbers + first)
            return torch.nn.functional.pad(each, (0, 1))[..., chosen]

        self._given = torch.hstack([self._given[:, :1], of(self._given, 1)])
        self.solution, self.constant = of(self.solution), of(self.constant)
        self._explained, self._squares = of(self._explained), of(self._squares)

    def merge_words(self, images: KeptImages, word: int, into: int, both: NDArray[np.int64]) -> None:
        """``images`` are those of before, but carry ``into`` where they carried ``word``; the rows ``both`` carried the two."""
        self._take(images)
        self._given[:, into + 1] += self._given[:, word + 1]
        for start in range(0, len(both), _BLOCK):
            self._given[:, into + 1] -= self._values(both[start : start + _BLOCK]).sum(dim=0)
        self._derive()

    def fitted(self, rows: NDArray[np.int64]) -> Tensor:
        """s (B, W) of images that were learnt from."""
        return product(self._values(rows), self.solution) + self.constant

    def leverages_of(self, rows: NDArray[np.int64]) -> Tensor:
        """h (B,) of these images, each its own."""
        values = self._values(rows) - self._given[:, 0] / len(self._all)
        return (product(values, self._inverse) * values).sum(dim=1) + 1 / len(self._all)

    def sums(self) -> tuple[Tensor, Tensor]:
        """Σ y·s and Σ s² over all images, (W,) each."""
        return self._explained, self._squares

    def targets(self, rows: NDArray[np.int64]) -> Tensor:
        """Y (B, W) float64 of some rows."""
        return torch.from_numpy(self._labels[rows].toarray()).to(self._all.device, torch.float64)

    def _take(self, images: KeptImages) -> None:
        self._all, self._labels = images.vectors, images.labels

    def _drawn(self, images: KeptImages) -> NDArray[np.int64]:
        """The rows (m,) of the landmarks, ascending."""
        # By another seed than a sample of images is drawn: else every image of it would be a landmark, which few are.
        return np.sort(np.argsort(random_numbers(images.keys, self._seed + 1), kind="stable")[: self._most])

    def _values(self, rows: NDArray[np.int64]) -> Tensor:
        return kernel_values(self._all[torch.from_numpy(rows).to(self._all.device)], self.vectors, self.width)

    def _with_ones(self, rows: NDArray[np.int64]) -> Tensor:
        """[1 Y] (B, 1 + W) of some rows."""
        return torch.nn.functional.pad(self.targets(rows), (1, 0), value=1.0)

    def _blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """C and [1 Y], some rows of them at a time."""
        for start in range(0, len(self._all), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(self._all)))
            yield self._values(rows), self._with_ones(rows)

    def _among(self) -> Iterator[tuple[slice, Tensor]]:
        """K, some rows of it at a time."""
        for start in range(0, len(self.vectors), _BLOCK):
            marks = slice(start, start + _BLOCK)
            yield marks, kernel_values(self.vectors[marks], self.vectors, self.width)

    def _swap(self, marks: NDArray[np.int64], images: KeptImages) -> None:
        """Put landmarks that have come in the place of those that have gone; ``marks`` (m,) are the rows of the latter, or −1.

        The inverse P of a system without its rows and columns L is P − P_L·P_LL⁻¹·P_Lᵀ, 0 in L. With others there, B, and D on the
        diagonal, it is P + TS⁻¹Tᵀ, where T = PB, but −1 in L itself, and S = D − BᵀPB.
        """
        drawn = self._drawn(images)
        places, come = np.flatnonzero(~np.isin(marks, drawn)), np.setdiff1d(drawn, marks)
        self._marks = marks.copy()
        if not len(places):
            return
        self._marks[places] = come
        at = torch.from_numpy(places).to(self._all.device)
        left = self._inverse[:, at]
        add_product(self._inverse, left, product(torch.linalg.inv(left[at]), left.T), -1)
        self._inverse[at], self._inverse[:, at] = 0, 0
        self.vectors = self.vectors.clone()  # rankings have the old ones
        self.vectors[at] = self._all[torch.from_numpy(come).to(at.device)]
        columns, given = torch.zeros_like(left), left.new_zeros((len(at), self._given.shape[1]))
        for values, targets in self._blocks():
            own = values[:, at]
            add_product(columns, values.T, own, 1)
            add_product(given, own.T, targets, 1)
        self._given[at] = given
        columns.addr_(self._given[:, 0], given[:, 0] / len(self._all), alpha=-1)
        columns.add_(kernel_values(self.vectors, self.vectors[at], self.width), alpha=self.penalty)
        within, columns[at] = columns[at], 0
        within.diagonal().add_(self._jitter)
        change = product(self._inverse, columns)
        inner = torch.linalg.inv(within - product(columns.T.contiguous(), change))
        change[at] = -torch.eye(len(at), dtype=change.dtype, device=at.device)
        add_product(self._inverse, change, product(inner, change.T), 1)

    def _change(self, values: Tensor, targets: Tensor, sign: int) -> None:
        """Add images (``sign`` 1), or take them out (−1), by their kernel values C_B (B, m) and targets [1 Y] (B, 1 + W).

        CᵀHC of N + B images is that of the N, C_B's own, and NB/(N + B) times the square of how far the two means are apart.
        """
        most = len(self._all) + (len(values) if sign < 0 else 0)  # with the B images
        fewest, own, total = most - len(values), values.mean(dim=0), self._given[:, 0]
        others = (total if sign > 0 else total - values.sum(dim=0)) / fewest
        apart = (fewest * len(values) / most) ** 0.5 * (own - others)
        changes = torch.vstack([values - own, apart]).T.contiguous()
        applied = product(self._inverse, changes)
        inner = sign * product(changes.T.contiguous(), applied)
        inner.diagonal().add_(1)
        add_product(self._inverse, applied, product(torch.linalg.inv(inner), applied.T), -sign)
        add_product(self._given, values.T, targets, sign)

    def _derive(self) -> None:
        count, mean = len(self._all), self._given[:, 0] / len(self._all)
        counts = torch.from_numpy(self._labels.sum(axis=0)).to(mean.device, torch.float64)
        right = self._given[:, 1:] - torch.outer(mean, counts)  # CᵀHY
        self.solution = product(self._inverse, right)
        self.constant = -product(mean[None], self.solution)[0]
        trace, roughness = mean.new_zeros(()), torch.zeros_like(self.constant)  # of A⁻¹K, and βᵀKβ
        for marks, among in self._among():
            trace += (self._inverse[marks] * among).sum()
            roughness += torch.linalg.vecdot(self.solution[marks], product(among, self.solution), dim=0)
        penalised = self.penalty * trace + self._jitter * self._inverse.diagonal().sum()
        self.leverage = (1 + len(self.vectors) - penalised) / count
        self._explained = torch.linalg.vecdot(self.solution, right, dim=0)
        self._squares = self._explained - self.penalty * roughness - self._jitter * self.solution.square().sum(dim=0)
