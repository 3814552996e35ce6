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
        device: where the sums are kept, D²·8 bytes for Σxxᵀ.
        scatter: keep Σxxᵀ; without it, D may be of any size.

    Attributes:
        images: N.
        total: Σx (D,).

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
        self.total = torch.zeros(dimension, dtype=torch.float64, device=device)
        self._lower: Tensor | None = None
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
        if other._lower is not None:
            self._scatter().add_(other._lower.to(self.device))
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
                rows, scatter = torch.cat(parts), self._scatter()
                for start in range(0, self.dimension, _COLUMNS):
                    stop = start + _COLUMNS
                    _add_product(scatter[start:, start:stop], rows[:, start:], rows[:, start:stop], sign)

    def __getstate__(self) -> dict[str, Any]:
        host = {"total": self.total.cpu(), "_lower": None if self._lower is None else self._lower.cpu()}
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
        scatter = self._scatter().clone().addr_(self.total, self.mean, alpha=-1)
        for start in range(0, self.dimension, _COLUMNS):  # the other triangle
            stop = start + _COLUMNS
            block = scatter[start:stop, start:stop]
            block.copy_(block.tril() + block.tril(-1).T)
            scatter[start:stop, stop:] = scatter[stop:, start:stop].T
        return scatter

    def total_variance(self) -> Tensor:
        """tr Σ(x − μ)(x − μ)ᵀ = Σ‖x − μ‖², ()."""
        return (self._scatter().diagonal().sum() - self.total @ self.mean).clamp_(min=0)

    def packed(self) -> NDArray[np.float64]:
        """The lower triangle of Σxxᵀ, row by row: (D·(D + 1)/2,)."""
        scatter = self._scatter().cpu().numpy()
        return np.concatenate([np.empty(0), *(row[: number + 1] for number, row in enumerate(scatter))])

    def unpack(self, packed: NDArray[np.float64]) -> Moments:
        """Take Σxxᵀ from :meth:`packed`."""
        scatter = np.zeros((self.dimension, self.dimension))
        stop = 0
        for number, row in enumerate(scatter):
            start, stop = stop, stop + number + 1
            row[: number + 1] = packed[start:stop]
        self._waiting.clear()
        self._lower = torch.from_numpy(scatter).to(self.device)
        return self

    def _scatter(self) -> Tensor:
        """Σxxᵀ (D, D), of which the part above the diagonal's blocks is not filled."""
        self.flush()
        if self._lower is None:
            self._lower = torch.zeros((self.dimension, self.dimension), dtype=torch.float64, device=self.device)
        return self._lower

    def _wait(self, batches: list[tuple[Tensor, int]]) -> None:
        self._waiting += batches
        if sum(len(rows) for rows, _ in self._waiting) >= _WAITING_ROWS:
            self.flush()

    def _clear(self) -> None:
        self._waiting.clear()
        self._lower = None
        self.total.zero_()


def _add_product(block: Tensor, left: Tensor, right: Tensor, sign: int) -> None:
    """block += sign·leftᵀ·right; on the CPU with the same bits for any number of threads."""
    if block.is_cuda:
        block.addmm_(left.T, right, alpha=sign)
        return
    with one_blas_thread():
        product = left.numpy().T @ right.numpy()
    block.add_(torch.from_numpy(product), alpha=sign)
