"""Kernel ridge regression over all images, by the inverse of their kernel matrix, kept as images and words come and go."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..system.threads import for_blocks, one_blas_thread
from .kept_images import KeptImages
from .products import inverse, product

# Images whose kernel values with as many others are formed at once.
_BLOCK = 1024
# Rows that a thread changes at once: what it adds to them stays in its cache.
_ROWS = 64
# Room for further images, beside one in so many of those there are.
_SPARE = 64


def kernel_values(left: Tensor, right: Tensor, width: float) -> Tensor:
    """k(u, u') = e^(γ(u·u' − 1))/(1 − e^(−γ)) of vectors (A, d) and (B, d) of any float type: (A, B) float64, on their device.

    Args:
        width: γ > 0. The smaller it is, the nearer is the regression to a linear one; the divisor holds the slope at u·u' = 1 near
            1 over γ, up to a constant, which the free bias takes up.
    """
    found = torch.empty((len(left), len(right)), dtype=torch.float64, device=left.device)
    for first in range(0, len(right), _BLOCK):
        columns = slice(first, first + _BLOCK)
        given = right[columns].double().T
        for start in range(0, len(left), _BLOCK):
            rows = slice(start, start + _BLOCK)
            torch.sub(product(left[rows].double(), given), 1.0, out=found[rows, columns])
    return found.mul_(width).exp_().div_(-math.expm1(-width))


def add_product(into: Tensor, left: Tensor, right: Tensor, sign: int) -> None:
    """into (A, C) += sign·left (A, B) @ right (B, C), float64, in place; on the CPU the number of threads changes no bit."""
    if into.is_cuda:
        into.addmm_(left, right, alpha=sign)
        return
    changed, first, second = into.numpy(), left.numpy(), right.numpy()

    def add(start: int, stop: int) -> None:
        changed[start:stop] += sign * (first[start:stop] @ second)

    for_blocks(add, len(changed), _ROWS if len(second) <= _ROWS else _BLOCK // 2)


class ExactKernel:
    """P = (k + λI)⁻¹ over N images, and P·[1 Y]: what :class:`~gpuannot.heads.kernel.KernelSystem` derives everything from.

    O(N³ + N²d) to make, O(N²·B) for B images more or fewer, O(N·N_j) for a word of N_j images. 8·N² bytes for P, on a GPU
    four times as many while it is made.

    Args:
        images: N > 0 of them.
        penalty: λ > 0.
        width: γ > 0.

    Attributes:
        vectors: u (N, d) float16.
        solution: α (N, W) float64.
        constant: (W,), which k(x)ᵀα + constant is 0 on average over the images by.
        leverage: the mean h of the images, ().

    Raises:
        numpy.linalg.LinAlgError or torch.linalg.LinAlgError: λ is too small beside rounding.
    """

    def __init__(self, images: KeptImages, penalty: float, width: float) -> None:
        self.penalty, self.width = penalty, width
        self._take(images)
        size = len(self.vectors)
        self._inverse = self._room(size)
        for start in range(0, size, _BLOCK):
            rows = slice(start, start + _BLOCK)
            for first in range(0, start + 1, _BLOCK):  # what is read of it is on and below the diagonal
                columns = slice(first, first + _BLOCK)
                self._inverse[rows, columns] = kernel_values(self.vectors[rows], self.vectors[columns], width)
        self._inverse.diagonal().add_(penalty)
        inverse(self._inverse)
        self._applied = torch.hstack([self._inverse.sum(dim=1, keepdim=True), product(self._inverse, self.targets(slice(None)))])
        self._derive()

    def grow(self, images: KeptImages) -> None:
        """``images`` are those of before and, after them, B more.

        With T = P·k(·, new) and S = k(new, new) + λI − k(new, ·)·T, P becomes [P + TS⁻¹Tᵀ, −TS⁻¹; −S⁻¹Tᵀ, S⁻¹].
        """
        before = len(self.vectors)
        self._take(images)
        old, new = self.vectors[:before], self.vectors[before:]
        across, within = kernel_values(old, new, self.width), kernel_values(new, new, self.width)
        within.diagonal().add_(self.penalty)
        projected = product(self._inverse, across)  # T
        inner = torch.linalg.inv(within - product(across.T, projected))
        right = product(inner, projected.T)
        given = torch.hstack([inner.new_ones(len(new), 1), self.targets(slice(before, None))])
        below = product(inner, given - product(across.T, self._applied))
        self._applied = torch.vstack([self._applied - product(projected, below), below])
        add_product(self._inverse, projected, right, 1)
        self._extend(len(self.vectors))
        self._inverse[before:, :before], self._inverse[:before, before:], self._inverse[before:, before:] = -right, -right.T, inner
        self._derive()

    def shrink(self, images: KeptImages, gone: NDArray[np.int64]) -> None:
        """``images`` are those of before without the rows ``gone``: P becomes P_kk − P_kg·P_gg⁻¹·P_gk."""
        kept = np.delete(np.arange(len(self.vectors)), gone)
        self._take(images)
        leaves, stays = torch.from_numpy(gone).to(self._inverse.device), torch.from_numpy(kept).to(self._inverse.device)
        across = self._inverse[:, leaves][stays]
        inner = torch.linalg.inv(self._inverse[leaves][:, leaves])
        self._applied = self._applied[stays] - product(across, product(inner, self._applied[leaves]))
        right = product(inner, across.T)
        size = len(kept)
        if self._inverse.is_cuda:
            self._inverse = self._inverse[stays][:, stays].addmm_(across, right, alpha=-1)
        else:
            values, left, change = self._inverse.numpy(), across.numpy(), right.numpy()
            with one_blas_thread():
                for start in range(0, size, _ROWS):  # in order: a row is written where only rows before it were read
                    stop = min(start + _ROWS, size)
                    rows = np.delete(values[kept[start:stop]], gone, axis=1)
                    rows -= left[start:stop] @ change
                    values[start:stop, :size] = rows
            self._inverse = self._inverse[:size, :size]
        self._derive()

    def change_words(self, images: KeptImages, words: NDArray[np.int64]) -> None:
        """``images`` are those of before, with other words, the w-th of which was ``words[w]`` before, or none where that is −1."""
        self._take(images)
        padded = torch.nn.functional.pad(self._applied, (0, 1))
        # The last column is one of zeros, for words that no image carries yet.
        self._applied = padded[:, torch.from_numpy(np.concatenate([[0], np.where(words < 0, -1, words + 1)])).to(padded.device)]
        self._derive()

    def merge_words(self, images: KeptImages, word: int, into: int, both: NDArray[np.int64]) -> None:
        """``images`` are those of before, but carry ``into`` where they carried ``word``; the rows ``both`` carried the two."""
        self._take(images)
        counted_twice = self._inverse[torch.from_numpy(both).to(self._inverse.device)].sum(dim=0)
        self._applied[:, into + 1] += self._applied[:, word + 1] - counted_twice
        self._derive()

    def fitted(self, rows: NDArray[np.int64]) -> Tensor:
        """s (B, W) of images that were learnt from: y − ȳ − λα."""
        return self.targets(rows) - self._shares - self.penalty * self.solution[torch.from_numpy(rows).to(self.solution.device)]

    def leverages_of(self, rows: NDArray[np.int64]) -> Tensor:
        """h (B,) of these images, each its own."""
        return self._leverages[torch.from_numpy(rows).to(self._leverages.device)]

    def sums(self) -> tuple[Tensor, Tensor]:
        """Σ y·s and Σ s² over all images, (W,) each."""
        entries = self._labels.tocoo()
        where = (torch.from_numpy(part.astype(np.int64)).to(self.solution.device) for part in (entries.row, entries.col))
        own = self.solution[tuple(where)].cpu().numpy()
        with_word = torch.from_numpy(np.bincount(entries.col, own, self._labels.shape[1])).to(self.solution.device)  # Σ y·α
        varied = len(self.vectors) * self._shares * (1 - self._shares)
        squares = self.penalty**2 * self.solution.square().sum(dim=0)
        return varied - self.penalty * with_word, varied - 2 * self.penalty * with_word + squares

    def targets(self, rows: slice | NDArray[np.int64]) -> Tensor:
        """Y (B, W) float64 of some rows."""
        return torch.from_numpy(self._labels[rows].toarray()).to(self.vectors.device, torch.float64)

    def _take(self, images: KeptImages) -> None:
        self.vectors, self._labels = images.vectors, images.labels
        self._shares = torch.from_numpy(self._labels.sum(axis=0)).to(self.vectors.device, torch.float64) / len(images)

    def _derive(self) -> None:
        ones, of_words = self._applied[:, :1], self._applied[:, 1:]
        total = ones.sum()
        bias = of_words.sum(dim=0) / total
        self.solution = of_words - ones * bias
        self.constant = bias - self._shares
        self._leverages = 1 - self.penalty * (self._inverse.diagonal() - ones[:, 0].square() / total)
        self.leverage = self._leverages.mean()

    def _room(self, size: int) -> Tensor:
        """(size, size), with memory behind its rows and columns that :meth:`_extend` uses."""
        room = size + max(_SPARE, size // _SPARE)
        return torch.empty((room, room), dtype=torch.float64, device=self.vectors.device)[:size, :size]

    def _extend(self, size: int) -> None:
        """Make P a (size, size) matrix that begins with what it is."""
        held = self._inverse
        room = held.stride(0)
        if size <= room and held.untyped_storage().nbytes() >= 8 * room * room:
            self._inverse = held.as_strided((size, size), (room, 1))
        else:
            self._inverse = self._room(size)
            self._inverse[: len(held), : len(held)] = held
