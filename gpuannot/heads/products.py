"""Products, factors and eigenvectors of large matrices. On the CPU their bits do not depend on the number of threads.

A library rounds otherwise when it shares a product among another number of threads. Here the blocks of a product are fixed, each is
made by one thread, and the cores share the blocks. On a GPU torch's own functions serve.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..system.precision import exact_float32
from ..system.threads import even_block, for_blocks, one_blas_thread

# Rows or columns of a product that a thread makes at once.
_BLOCK = 512
# Columns of a triangular factor that are made at once: little work is done in one thread, and products are large enough.
_PANEL = 256
# Columns of the inverse that one product fills on a GPU.
_COLUMNS = 1024


def product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right (A, C) of (A, B) and (B, C), float32 or float64, on their device."""
    if left.is_cuda:
        with exact_float32():
            return left @ right
    first, second = left.numpy(), right.numpy()
    found = np.empty((len(first), second.shape[1]), first.dtype)

    def rows(start: int, stop: int) -> None:
        np.matmul(first[start:stop], second, out=found[start:stop])

    def columns(start: int, stop: int) -> None:
        np.matmul(first, second[:, start:stop], out=found[:, start:stop])

    across = found.shape[1] > len(found)
    for_blocks(columns if across else rows, size := found.shape[int(across)], even_block(size, _BLOCK))
    return torch.from_numpy(found)


def gram(rows: Tensor) -> Tensor:
    """rows @ rowsᵀ (N, N) of rows (N, D), float32 or float64, on their device; filled for sure on and below the diagonal alone."""
    if rows.is_cuda:
        with exact_float32():
            return rows @ rows.T
    given = rows.numpy()
    found = np.zeros((len(given), len(given)), given.dtype)

    def fill(start: int, stop: int) -> None:
        np.matmul(given[start:stop], given[:stop].T, out=found[start:stop, :stop])

    for_blocks(fill, len(given), even_block(len(given), _BLOCK))
    return torch.from_numpy(found)


def add_gram(into: Tensor, rows: Tensor) -> None:
    """into (D, D) += rowsᵀ @ rows of rows (N, D), float64, in place; on the CPU on and below the diagonal alone, by blocks."""
    if into.is_cuda:
        into.addmm_(rows.T, rows)
        return
    changed, given = into.numpy(), rows.numpy()

    def add(start: int, stop: int) -> None:
        changed[start:stop, :stop] += given[:, start:stop].T @ given[:, :stop]

    for_blocks(add, len(changed), even_block(len(changed), _BLOCK))


def leading_eigenvectors(system: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues (count,) of a symmetric matrix (N, N), largest first, and their eigenvectors (N, count).

    Only what is on and below the diagonal is read. On the CPU in one thread, which finds no more of them than are asked for.
    """
    size = len(system)
    if system.is_cuda:
        values, vectors = torch.linalg.eigh(system)
        return values.flip(0)[:count], vectors.flip(1)[:, :count]
    from scipy.linalg import eigh  # a tenth of a second to import, and annotating never needs it

    with one_blas_thread():
        largest, vectors = eigh(system.numpy(), subset_by_index=(size - count, size - 1), driver="evr")
    return torch.from_numpy(largest[::-1].copy()), torch.from_numpy(vectors[:, ::-1].copy())


def inverse(system: Tensor) -> Tensor:
    """The inverse of a symmetric positive definite matrix (D, D) float64, which is overwritten: L⁻ᵀL⁻¹ of its Cholesky factor L.

    Raises:
        numpy.linalg.LinAlgError or torch.linalg.LinAlgError: it is not positive definite.
    """
    if not system.is_cuda:
        _invert_factor(system.numpy())
        _square_factor(system.numpy())
        return system
    size = len(system)
    factor = torch.linalg.cholesky(system)
    half = torch.linalg.solve_triangular(factor, torch.eye(size, dtype=system.dtype, device=system.device), upper=False)
    for start in range(0, size, _COLUMNS):  # L⁻¹ is 0 above the diagonal, and the product is symmetric
        stop = min(start + _COLUMNS, size)
        block = half[start:, start:stop].T @ half[start:, :stop]
        corner = block[:, start:].tril()
        system[start:stop, start:stop] = corner + corner.tril(-1).T
        system[start:stop, :start] = block[:, :start]
        system[:start, start:stop] = block[:, :start].T
    return system


def _invert_factor(system: NDArray[np.float64]) -> None:
    """Put (L⁻¹)ᵀ of the Cholesky factor L of ``system`` in its upper triangle, with the diagonal's blocks whole, panel by panel.

    The lower triangle is overwritten by L. So no second matrix is needed.
    """
    from scipy.linalg import solve_triangular

    size, half = len(system), system.T
    for start in range(0, size, _PANEL):
        stop = min(start + _PANEL, size)
        head = system[start:stop, :start]

        def subtract(first: int, last: int, start: int = start, stop: int = stop, head: NDArray[np.float64] = head) -> None:
            own = slice(start + first, start + last)
            with np.errstate(invalid="ignore", over="ignore"):  # above the diagonal there is what memory held
                system[own, start:stop] -= system[own, :start] @ head.T

        for_blocks(subtract, size - start, _BLOCK)
        with one_blas_thread():
            corner = np.linalg.cholesky(system[start:stop, start:stop])
            half[start:stop, start:stop] = inner = np.tril(solve_triangular(corner, np.eye(stop - start), lower=True))

        def divide(first: int, last: int, start: int = start, stop: int = stop, inner: NDArray[np.float64] = inner) -> None:
            own = slice(stop + first, stop + last)
            system[own, start:stop] = system[own, start:stop] @ inner.T

        def below(first: int, last: int, start: int = start, stop: int = stop, inner: NDArray[np.float64] = inner) -> None:
            # The rows of L⁻¹ that belong to the panel: −L_kk⁻¹·L_k·L⁻¹, where L⁻¹ is 0 above its diagonal.
            half[start:stop, first:last] = -inner @ (system[start:stop, first:start] @ half[first:start, first:last])

        for_blocks(divide, size - stop, _BLOCK)
        for_blocks(below, start, _PANEL)


def _square_factor(system: NDArray[np.float64]) -> None:
    """(L⁻¹)ᵀL⁻¹ in the place of what :func:`_invert_factor` leaves."""
    half = system.T

    def fill(start: int, stop: int) -> None:  # reads the upper triangle, and of the diagonal's blocks its own, which it overwrites
        block = half[start:, start:stop].T @ half[start:, :stop]
        corner = np.tril(block[:, start:])  # a library may round the two sides of it in different ways
        system[start:stop, start:stop] = corner + np.tril(corner, -1).T
        system[start:stop, :start] = block[:, :start]

    def mirror(start: int, stop: int) -> None:
        system[:start, start:stop] = system[start:stop, :start].T

    for_blocks(fill, len(system), _PANEL)
    for_blocks(mirror, len(system), _PANEL)
