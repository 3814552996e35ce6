"""Second moments of image vectors as sums that stream, add and can be taken out again: what closed-form heads are solved from."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from ..errors import InvalidArgumentError
from ..method.words import BankExtra, Vectors
from ..system.threads import one_blas_thread

#: Σxxᵀ of longer vectors would take more than 2 GB, and the heads that need it minutes to solve.
MAX_DIMENSION = 16_384

# Images whose outer products are added at once: a smaller product would read and write Σxxᵀ more often than it adds to it.
_WAITING_ROWS = 512
# Columns of Σxxᵀ that one product fills; only what lies on and below the diagonal is.
_COLUMNS = 1024


class Moments(BankExtra):
    """N, Σx and Σxxᵀ over image vectors (N, D), float64, on one device.

    Images can be added in any batches and order, taken out again, and moments of parts can be added: the result is that of one pass
    over all images, up to float64 rounding.

    Args:
        dimension: D, at most 16,384.
        device: where the sums are kept, D²·4 bytes and somewhat more for Σxxᵀ, of which one triangle is.
        scatter: keep Σxxᵀ; without it, D may be of any size.

    Attributes:
        images: N.
        total: Σx (D,).
        packed_dtype: of what :meth:`packed` gives, float32, or what :meth:`unpack` was given.

    Raises:
        ValueError: a larger dimension.
    """

    def __init__(self, dimension: int, device: torch.device | str = "cpu", *, scatter: bool = True) -> None:
        if scatter and dimension > MAX_DIMENSION:
            raise InvalidArgumentError(
                f"vectors of {dimension} values: heads that need Σxxᵀ take at most {MAX_DIMENSION}; lower n_components, "
                'n_centers, or choose head="mean"'
            )
        self.dimension, self.scatter = dimension, scatter
        self.images = 0
        self.packed_dtype: np.dtype[Any] = np.dtype(np.float32)
        self.total = torch.zeros(dimension, dtype=torch.float64, device=device)
        # Columns of Σxxᵀ, from the diagonal's block down: (D − start, up to _COLUMNS) each.
        self._lower: list[Tensor] = []
        self._waiting: list[tuple[Tensor, int]] = []

    @property
    def device(self) -> torch.device:
        return self.total.device

    def add(self, vectors: Tensor | NDArray[np.floating], sign: int = 1) -> Moments:
        """Add images by their vectors, or take them out.

        Args:
            vectors: (B, D).
            sign: 1 to add, −1 to take out.

        Raises:
            ValueError: more images to take out than there are.
        """
        rows = torch.as_tensor(vectors).to(self.device, torch.float64, copy=True)
        if sign < 0 and len(rows) > self.images:
            raise InvalidArgumentError(f"cannot forget {len(rows)} images: the sums hold {self.images}")
        self.images += sign * len(rows)
        # NumPy's sum does not depend on the number of threads.
        self.total += sign * (rows.sum(dim=0) if rows.is_cuda else torch.from_numpy(rows.numpy().sum(axis=0)))
        if self.scatter:
            self._wait([(rows, sign)])
        if not self.images:  # nothing is left but rounding
            self._clear()
        return self

    def update(self, vectors: Vectors, labels: sparse.csr_array, sign: int, positions: NDArray[np.int64] | None) -> None:
        self.add(vectors, sign)

    def merge(self, other: Moments) -> Self:
        """Add other moments, of the same dimension, as if their images had been added here."""
        if (other.dimension, other.scatter) != (self.dimension, self.scatter):
            raise ValueError("moments of another dimension, or with Σxxᵀ and without, cannot be added")
        self.images += other.images
        self.total += other.total.to(self.device)
        if other._lower:
            for mine, added in zip(self._scatter(), other._lower, strict=True):
                mine.add_(added.to(self.device))
        # Rows that wait in a sum over a few images go on waiting: they take less room than Σxxᵀ on their way to another process.
        self._wait([(rows.to(self.device), sign) for rows, sign in other._waiting])
        return self

    def to(self, device: torch.device | str) -> Self:
        """These moments on ``device``, in the same memory where they are there."""
        if self.device == torch.device(device):
            return self
        return type(self)(self.dimension, device, scatter=self.scatter).merge(self)

    def flush(self) -> None:
        """Add to Σxxᵀ the images that wait for it."""
        waiting, self._waiting = self._waiting, []
        for sign in (1, -1):
            if parts := [rows for rows, of in waiting if of == sign]:
                rows = torch.cat(parts)
                for start, block in zip(self._starts, self._scatter(), strict=True):
                    _add_product(block, rows[:, start:], rows[:, start : start + block.shape[1]], sign)

    def __getstate__(self) -> dict[str, Any]:
        host = {"total": self.total.cpu(), "_lower": [block.cpu() for block in self._lower]}
        return {**vars(self), **host, "_waiting": [(rows.cpu(), sign) for rows, sign in self._waiting]}

    def copy(self) -> Moments:
        """The same moments in memory of their own."""
        return Moments(self.dimension, self.device, scatter=self.scatter).merge(self)

    @property
    def mean(self) -> Tensor:
        """μ (D,); zeros where there is no image."""
        return self.total / max(1, self.images)

    def centred_scatter(self) -> Tensor:
        """Σ(x − μ)(x − μ)ᵀ, (D, D), in memory of its own."""
        scatter, mean = self.total.new_empty((self.dimension, self.dimension)), self.mean
        for start, block in zip(self._starts, self._scatter(), strict=True):
            stop = start + block.shape[1]
            below = scatter[start:, start:stop].copy_(block).addr_(self.total[start:], mean[start:stop], alpha=-1)
            corner = below[: block.shape[1]]
            corner.copy_(corner.tril() + corner.tril(-1).T)
            scatter[start:stop, stop:] = below[block.shape[1] :].T
        return scatter

    def total_variance(self) -> Tensor:
        """tr Σ(x − μ)(x − μ)ᵀ = Σ‖x − μ‖², ()."""
        squares = torch.cat([block.diagonal() for block in self._scatter()])
        return (squares.sum() - self.total @ self.mean).clamp_(min=0)

    def packed(self) -> NDArray[np.floating]:
        """The lower triangle of Σxxᵀ, row by row: (D·(D + 1)/2,), rounded to :attr:`packed_dtype`."""
        packed = np.empty(self.dimension * (self.dimension + 1) // 2, self.packed_dtype)
        for start, block in zip(self._starts, self._scatter(), strict=True):
            for row, values in enumerate(block.cpu().numpy(), start):
                self._packed_row(packed, row)[start : start + len(values)] = values[: row + 1 - start]
        return packed

    def unpack(self, packed: NDArray[np.floating]) -> Moments:
        """Take Σxxᵀ from :meth:`packed`."""
        self._waiting.clear()
        self._lower, self.packed_dtype = [], packed.dtype
        for start, block in zip(self._starts, self._scatter(), strict=True):
            host = np.zeros(block.shape)
            for row, values in enumerate(host, start):
                own = self._packed_row(packed, row)[start : start + len(values)]
                values[: len(own)] = own
            block.copy_(torch.from_numpy(host))
        return self

    @staticmethod
    def _packed_row(packed: NDArray[np.floating], row: int) -> NDArray[np.floating]:
        start = row * (row + 1) // 2
        return packed[start : start + row + 1]

    @property
    def _starts(self) -> range:
        return range(0, self.dimension, _COLUMNS)

    def _scatter(self) -> list[Tensor]:
        """Σxxᵀ in blocks of columns; what is above the diagonal within a block is not to be read."""
        self.flush()
        if not self._lower:
            sizes = [(self.dimension - start, min(_COLUMNS, self.dimension - start)) for start in self._starts]
            self._lower = [torch.zeros(size, dtype=torch.float64, device=self.device) for size in sizes]
        return self._lower

    def _wait(self, batches: list[tuple[Tensor, int]]) -> None:
        self._waiting += batches
        if sum(len(rows) for rows, _ in self._waiting) >= _WAITING_ROWS:
            self.flush()

    def _clear(self) -> None:
        self._waiting.clear()
        self._lower = []
        self.total.zero_()


def _add_product(block: Tensor, left: Tensor, right: Tensor, sign: int) -> None:
    """block += sign·leftᵀ·right; on the CPU with the same bits for any number of threads."""
    if block.is_cuda:
        block.addmm_(left.T, right, alpha=sign)
        return
    with one_blas_thread():
        product = left.numpy().T @ right.numpy()
    block.add_(torch.from_numpy(product), alpha=sign)
