"""Words ranked by sums of kernel values with the images that were learnt from."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InvalidArgumentError
from ..method.ranking import in_blocks
from ..system.precision import exact_float32
from ..system.threads import for_blocks

# What is held at once beside the vectors, weights and scores.
_BLOCK_BYTES = 64 << 20
# Images that are ranked at once.
_AT_ONCE = 2048
# Images that a thread ranks at once.
_IMAGES = 128
# Bits after the point that image vectors and kernel values are rounded to, a sixteenth of float32's step near 1 and less.
_BITS = 26


class KernelRanking:
    """Words ranked by the score k(x)ᵀv_w + b_w, the highest first, k(x) being e^(γ(x·u − 1))/(1 − e^(−γ)) for each image u.

    Vectors, kernel values and weights are rounded to whole multiples of powers of 2 that are so large that their products and the
    sums of these are exact in float64 (weights in two parts, 2⁻⁴⁰ of their sum and less at fault). So an image's score has the same
    bits in any batch, with any number of threads, and words of equal weights tie exactly. Images without weight are left out.

    Args:
        vectors: u (N, d), of length 1 or less, kept in float16.
        weights: v (N, W), kept in float32.
        bias: b (W,), likewise.
        width: γ > 0.

    Attributes:
        vectors: u of the images with weight, (M, d) float16.
        weights: v (M, W) float32.
        bias: b (W,) float32.
        width: γ.
    """

    def __init__(
        self, vectors: NDArray[np.floating], weights: NDArray[np.floating], bias: NDArray[np.floating], width: float
    ) -> None:
        weights = np.asarray(weights, dtype=np.float32)
        used = np.any(weights, axis=1)
        self.vectors = np.ascontiguousarray(vectors[used], dtype=np.float16)
        self.weights, self.bias = np.ascontiguousarray(weights[used]), np.array(bias, dtype=np.float32)
        self.width = float(width)
        self._divisor = -math.expm1(-self.width)
        # Kernel values times the divisor are at most 1, and whole multiples of 2^(−bits); float64 has 53 bits for their sums.
        largest = np.abs(self.weights).sum(axis=0, dtype=np.float64) / self._divisor
        self._step = np.exp2(np.ceil(np.log2(np.where(largest > 0, largest, 1.0))) + _BITS - 51)
        self._part = 2.0 ** -(51 - _BITS - math.ceil(math.log2(len(self.vectors) + 1)))

    def nearest(self, vectors: NDArray[np.floating], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k best words of each image, best first, ties to the lowest word index.

        Args:
            vectors: (T, d).

        Returns:
            index (T, k) int64 and the negative score (T, k) float32: smaller is better.

        Raises:
            ValueError: k outside 1…W, or non-finite vectors.
        """
        _check_k(k, len(self.bias))
        index, distance = np.empty((len(vectors), k), np.int64), np.empty((len(vectors), k), np.float32)
        for start in range(0, len(vectors), _AT_ONCE):
            rows = slice(start, start + _AT_ONCE)
            negative = -self._scores(vectors[rows])
            index[rows] = np.argsort(negative, axis=1, kind="stable")[:, :k]
            distance[rows] = np.take_along_axis(negative, index[rows], axis=1)
        return index, distance

    def scores(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        """The scores (T, W) float32 of images (T, d).

        Raises:
            ValueError: non-finite vectors.
        """
        parts = [self._scores(vectors[start : start + _AT_ONCE]) for start in range(0, len(vectors), _AT_ONCE)]
        return np.concatenate([np.empty((0, len(self.bias)), np.float32), *parts])

    def first_order(
        self, vector: NDArray[np.floating], numbers: NDArray[np.integer]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The scores of one image as linear functions that touch them there: weights @ x + remainder is the score at x itself.

        ∇s_w = γ·Σ_i v_iw·k(x, u_i)·u_i.

        Args:
            vector: x (d,).
            numbers: (k,) of the words.

        Returns:
            weights (k, d) and remainder (k,), float64.

        Raises:
            ValueError: non-finite values.
        """
        x = np.asarray(vector, dtype=np.float64)
        _check_finite(x)
        slopes, score = np.zeros((len(numbers), len(x))), self.bias[numbers].astype(np.float64)
        block = max(1, _BLOCK_BYTES // (16 * (len(x) + len(numbers))))
        for start in range(0, len(self.vectors), block):
            rows = self.vectors[start : start + block].astype(np.float64)
            # NumPy's sums over short products, rather than BLAS, whose bits depend on the number of threads.
            values = np.exp(self.width * (np.einsum("id,d->i", rows, x) - 1)) / self._divisor
            share = self.weights[start : start + block][:, numbers] * values[:, None]
            score += share.sum(axis=0)
            slopes += self.width * np.einsum("ik,id->kd", share, rows)
        return slopes, score - np.einsum("kd,d->k", slopes, x)

    def on(self, device: torch.device, known: NDArray[np.intp]) -> DeviceKernelRanking:
        """The same ranking on ``device``.

        Args:
            known: (W,) each word's number in the vocabulary.
        """
        return DeviceKernelRanking(self, known, device)

    def _scores(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        _check_finite(vectors)
        words = len(self.bias)
        given = _rounded(vectors.astype(np.float64), 2.0**-_BITS)
        found = np.zeros((len(given), 2 * words))
        block = _rows_at_once(self.vectors.shape[1], words)
        for start in range(0, len(self.vectors), block):
            # torch converts many times faster than NumPy.
            learnt = torch.from_numpy(self.vectors[start : start + block]).double().numpy().T
            weights = self._parts(self.weights[start : start + block])

            def add(first: int, last: int, learnt: NDArray = learnt, weights: NDArray = weights) -> None:
                values = given[first:last] @ learnt
                values -= 1.0
                values *= self.width
                found[first:last] += _rounded(np.exp(values, out=values), 2.0**-_BITS) @ weights

            for_blocks(add, len(given), _IMAGES)
        return (found[:, :words] + found[:, words:] + self.bias).astype(np.float32)

    def _parts(self, weights: NDArray[np.float32]) -> NDArray[np.float64]:
        """Weights (B, W) over the divisor, as whole multiples of a step, and what that leaves, of a part of it: (B, 2·W)."""
        whole = weights.astype(np.float64) / self._divisor
        coarse = _rounded(whole.copy(), self._step)
        return np.hstack([coarse, _rounded(whole - coarse, self._step * self._part)])


def _rounded(values: NDArray[np.float64], step: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """To whole multiples of ``step``, a power of 2; in place."""
    values /= step
    np.rint(values, out=values)
    values *= step
    return values


class DeviceKernelRanking:
    """:class:`KernelRanking` on the device of the image vectors and without a wait for it.

    Inner products and kernel values are float32, their sums float64; words of equal weights and bias have equal scores. Vectors and
    weights are held in these types where they are few, else converted block by block at each call.

    Args:
        ranking: what it ranks by.
        known: (W,) the words' numbers in the vocabulary.
    """

    def __init__(self, ranking: KernelRanking, known: NDArray[np.intp], device: torch.device) -> None:
        self.vectors, self.weights = torch.from_numpy(ranking.vectors).to(device), torch.from_numpy(ranking.weights).to(device)
        if 4 * self.vectors.numel() + 8 * self.weights.numel() <= _BLOCK_BYTES:
            self.vectors, self.weights = self.vectors.float(), self.weights.double()
        self.bias, self.width = torch.from_numpy(ranking.bias).to(device).double(), ranking.width
        self.known = torch.from_numpy(known.astype(np.int64)).to(device)
        first = _first_equal(ranking.weights, ranking.bias)
        self._first = None if np.array_equal(first, np.arange(len(first))) else torch.from_numpy(first).to(device)

    def nearest(self, vectors: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k best words of each image, best first, ties to the lowest word index.

        Args:
            vectors: (T, d) float32.

        Returns:
            index (T, k) int64 and the negative score (T, k) float32.

        Raises:
            ValueError: k outside 1…W.
        """
        _check_k(k, len(self.bias))
        return in_blocks(lambda rows: self._nearest(rows, k), vectors, k, _AT_ONCE)

    def _nearest(self, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
        negative, order = self._scores(rows).neg_().sort(dim=1, stable=True)
        return self.known[order[:, :k]], negative[:, :k]

    def scores(self, vectors: Tensor) -> Tensor:
        """The scores (T, W) float32 of images (T, d) float32."""
        parts = [self._scores(vectors[start : start + _AT_ONCE]) for start in range(0, len(vectors), _AT_ONCE)]
        return torch.cat([vectors.new_empty((0, len(self.bias)), dtype=torch.float32), *parts])

    @exact_float32()
    def _scores(self, vectors: Tensor) -> Tensor:
        found = self.bias.expand(len(vectors), -1)
        converted = 0 if self.weights.dtype == torch.float64 else 4 * self.vectors.shape[1] + 8 * len(self.bias)
        block = max(1, _BLOCK_BYTES // (converted + 12 * len(vectors)))
        for start in range(0, len(self.vectors), block):
            rows = slice(start, start + block)
            found = torch.addmm(found, self._values(vectors @ self.vectors[rows].float().T), self.weights[rows].double())
        return (found if self._first is None else found[:, self._first]).float()

    def _values(self, products: Tensor) -> Tensor:
        """k (T, N) float64 of inner products (T, N) float32, which may be overwritten."""
        if products.is_cuda:
            from ..kernels import kernel_values

            return kernel_values(products, self.width)
        return products.sub_(1).mul_(self.width).exp_().div_(-math.expm1(-self.width)).double()


def _rows_at_once(dimension: int, words: int) -> int:
    """Images whose vectors and weights are held in float64 at once."""
    return max(1, _BLOCK_BYTES // (8 * dimension + 32 * words + 16 * _IMAGES))


def _check_k(k: int, words: int) -> None:
    if not 1 <= k <= words:
        raise InvalidArgumentError(f"k = {k} must lie in 1…{words}, the number of words that can be given")


def _check_finite(vectors: NDArray[np.floating]) -> None:
    if not np.isfinite(vectors).all():
        raise InvalidArgumentError("the image vectors hold NaN or infinite values")


def _first_equal(weights: NDArray[np.float32], bias: NDArray[np.float32]) -> NDArray[np.int64]:
    """For each word (column), the first of the same weights and bias: products of equal columns may round differently."""
    seen: dict[bytes, int] = {}
    columns = np.vstack([weights, bias]).T + np.float32(0)  # −0 equals 0
    return np.array([seen.setdefault(column.tobytes(), number) for number, column in enumerate(columns)], dtype=np.int64)
