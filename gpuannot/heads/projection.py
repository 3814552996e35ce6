"""The joint projection of VLAD vectors, and products of its leading coordinates.

VLAD vectors of several layers are long and say much twice. Their leading principal components, brought to unit length, keep what
tells images apart; the products of the first few of them let a linear score see which come together, as a kernel of second degree
does, at a cost that does not depend on the number of training images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InvalidArgumentError, NotFittedError
from ..method.descriptors import product_float32
from ..system.threads import one_blas_thread, one_torch_thread
from .calibration import random_numbers
from .products import gram, leading_eigenvectors, product

#: A part of the vectors is raised by so much at most: what hardly varies is rounding.
MOST_RAISED = 100.0


class Block(NamedTuple):
    """Part of the vectors (S, D): ``length`` columns, whose Σ‖v − μ‖² is to be ``power`` times that of the first block."""

    length: int
    power: float = 1.0


# Vectors that are squared at once.
_ROWS = 256


def projection_images(images: int, most: int) -> int:
    """Of how many of a fit's images the projection is learnt: ``most``, but of no more than seven in eight.

    An image that it was learnt from has part of its variance in components that are its own. Brought to unit length, such an image
    scores lower than one that comes later; how much, the images that are left show.
    """
    return min(most, images - images // 8)


def projection_sample(positions: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """Which of the images at these positions (N,) a projection is learnt from, ascending: the last by their random numbers, as a
    sample of a fit's images takes the first."""
    order = np.argsort(random_numbers(positions, seed), kind="stable")
    return np.sort(order[len(order) - projection_images(len(order), most) :])


class JointProjection:
    """u = Pᵀ(v − μ)/‖Pᵀ(v − μ)‖, followed by √q·u_i² and √(2q)·u_i·u_j, i < j, of the first t coordinates.

    The inner product of two such vectors is ⟨u, u'⟩ + q·⟨u_t, u'_t⟩², u_t being the first t coordinates of u. What is zero
    stays zero.

    Args:
        n_components: d, the coordinates of u, when there are four times as many vectors to learn from; with fewer a quarter of
            them, as components of few vectors are those vectors' own.
        quadratic: t, at most d; 0 for none.
        weight: q.

    Attributes:
        mean_: μ (D,) float32.
        matrix_: P (D, d) float32, whose values are of 16 bits: that is what a model file holds of them.
    """

    mean_: NDArray[np.float32]
    matrix_: NDArray[np.float32]

    def __init__(self, n_components: int, quadratic: int = 0, weight: float = 0.5) -> None:
        self.most_components, self.most_quadratic, self.weight = n_components, quadratic, weight
        self._device: tuple[torch.device, Tensor, Tensor] | None = None

    @property
    def n_components(self) -> int:
        """d."""
        self._require_fit()
        return self.matrix_.shape[1]

    @property
    def quadratic(self) -> int:
        """t."""
        return min(self.most_quadratic, self.n_components)

    @property
    def dimension(self) -> int:
        """d + t(t + 1)/2, the length of what :meth:`transform` makes."""
        return self.n_components + self.quadratic * (self.quadratic + 1) // 2

    @one_torch_thread()
    def fit(self, vectors: Tensor, *, overwrite: bool = False, blocks: Sequence[Block] = ()) -> JointProjection:
        """Learn μ and P from vectors (S, D) float32, on their device; on the CPU the same bits with any number of threads.

        Args:
            overwrite: their memory may be used as scratch instead of a copy.
            blocks: of the vectors, whose lengths add up to D, where each is to say what its power states: P then first brings it
                to that, by a factor of :data:`MOST_RAISED` at most.

        Raises:
            ValueError: fewer than 4 vectors, too few directions in which they vary, or non-finite values.
        """
        keep = min(self.most_components, len(vectors) // 4)
        if not keep:
            raise InvalidArgumentError(f"a projection of image vectors needs at least 4 images, got {len(vectors)}")
        mean = vectors.mean(dim=0, dtype=torch.float64).float()
        if not bool(torch.isfinite(mean).all()):
            raise InvalidArgumentError("the image vectors hold NaN or infinite values")
        centred = vectors.sub_(mean) if overwrite else vectors - mean
        scale = _even(centred, blocks) if sum(block.length > 0 for block in blocks) > 1 else None
        if scale is not None:
            centred *= scale
        tall = len(centred) > centred.shape[1]
        # The smaller of the two systems has the same eigenvalues.
        values, found = leading_eigenvectors(gram(centred.T if tall else centred), keep)
        varying = int((values > 1e-6 * values[:1].clamp(min=1e-30)).sum())
        if varying < keep:
            raise InvalidArgumentError(
                f"projection = {self.most_components}: the vectors of {len(vectors)} images vary in {varying} directions only, not "
                f"in {keep}; leave out copies of images or choose a smaller projection"
            )
        matrix = found if tall else product(centred.T, found / values.sqrt())
        if scale is not None:
            matrix = matrix * scale[:, None]
        # The sign of a component is arbitrary; a fixed one makes models that can be compared.
        matrix *= matrix.gather(0, matrix.abs().argmax(dim=0, keepdim=True)).sign()
        # Rounded before anything is learnt by it, so that a model that comes back from a file has the same bits.
        self.mean_, self.matrix_ = mean.cpu().numpy(), np.ascontiguousarray(matrix.half().float().cpu().numpy())
        self._device = None
        return self

    def transform(self, vectors: Tensor) -> Tensor:
        """Image vectors (B, :attr:`dimension`) float32 of VLAD vectors (B, D) float32, on their device, without a wait for it.

        On a GPU with tensor cores for bfloat16 vectors and matrix are multiplied in two parts of bfloat16 each, 2⁻¹⁷ and less at
        fault in each value, with float32 accumulation; there the vectors may come as these parts, (2, B, D), from
        :meth:`~gpuannot.method.vlad.LayerVlad.encode_cuda`.
        """
        if vectors.device.type == "cpu":
            return self.expand(self.unit(vectors))
        from ..kernels import unit_products

        offset, matrix = self._on(vectors.device)
        if matrix.dtype == torch.bfloat16:
            parts = vectors if vectors.ndim == 3 else bfloat16_parts(vectors)
            found = product_float32(parts.flatten(0, 1), matrix).view(2, parts.shape[1], 2, -1)
        else:
            found = product(vectors, matrix).view(1, len(vectors), 1, -1)
        return unit_products(found, offset, quadratic=self.quadratic, weight=self.weight)

    def unit(self, vectors: Tensor) -> Tensor:
        """u (B, d) of VLAD vectors (B, D)."""
        if vectors.device.type != "cpu":
            return self.transform(vectors)[:, : self.n_components]
        self._require_fit()
        with one_blas_thread():
            given = (vectors.numpy() - self.mean_) @ self.matrix_
        length = np.linalg.norm(given, axis=1, keepdims=True)
        return torch.from_numpy(given / np.where(length > 0, length, np.float32(1)))

    def expand(self, unit: Tensor) -> Tensor:
        """u (B, d) on the CPU with the products behind it."""
        if not self.quadratic:
            return unit
        first, second = self._pair_indices()
        scale = torch.where(first == second, self.weight**0.5, (2 * self.weight) ** 0.5).to(unit.dtype)
        return torch.cat([unit, unit[:, first] * unit[:, second] * scale], dim=1)

    def pull_back(
        self, vector: NDArray[np.floating], weights: NDArray[np.floating]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """A linear score of one image's transformed vector as a linear score of its VLAD vector.

        The products are split by u_i·u_j = (u_i·u_j + u_j·u_i)/2, one factor held at the image's value. So the weights hold for
        this image alone.

        Args:
            vector: its VLAD vector (D,).
            weights: (k, :attr:`dimension`).

        Returns:
            ``transformed (dimension,), pulled (k, D), constant (k,)``, float64, with ``pulled @ vector + constant`` being
            ``weights @ transformed``.
        """
        mean, matrix = self.mean_.astype(np.float64), self.matrix_.astype(np.float64)
        projected = (np.asarray(vector, dtype=np.float64) - mean) @ matrix
        norm = np.linalg.norm(projected) or 1.0
        unit = projected / norm
        linear = np.array(weights[:, : self.n_components], dtype=np.float64)
        if self.quadratic:
            first, second = (part.numpy() for part in self._pair_indices())
            scaled = weights[:, self.n_components :] * np.where(first == second, self.weight**0.5, (2 * self.weight) ** 0.5) / 2
            for number, row in enumerate(scaled):
                np.add.at(linear[number], first, row * unit[second])
                np.add.at(linear[number], second, row * unit[first])
        pulled = linear @ matrix.T / norm
        transformed = self.expand(torch.from_numpy(unit)[None])[0].numpy()
        return transformed, pulled, -(pulled @ mean)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_device": None}

    def _pair_indices(self) -> Tensor:
        """(2, t(t + 1)/2) int64: i and j of the products."""
        return torch.triu_indices(self.quadratic, self.quadratic)

    def _require_fit(self) -> None:
        if not hasattr(self, "matrix_"):
            raise NotFittedError("this JointProjection has learnt nothing yet; call fit first")

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """−Pᵀμ (d,) float32, and P on a GPU: (D, d) float32, or (D, 2·d) bfloat16, its two parts side by side."""
        self._require_fit()
        if self._device is None or self._device[0] != device:
            matrix = torch.from_numpy(self.matrix_).to(device)
            offset = -(torch.from_numpy(self.mean_).to(device).double() @ matrix.double()).float()
            if takes_parts(device):
                matrix = torch.cat(tuple(bfloat16_parts(matrix)), dim=1)
            self._device = device, offset, matrix
        return self._device[1:]


def _even(centred: Tensor, blocks: Sequence[Block]) -> Tensor:
    """Factors (D,) that bring blocks of the columns of (S, D) to their power of the first one's sum of squares."""
    lengths = [block.length for block in blocks]
    power = torch.zeros(len(blocks), dtype=torch.float64, device=centred.device)
    for rows in centred.split(_ROWS):  # squares of all would take as much memory again
        power += torch.stack([part.square().sum(dtype=torch.float64) for part in rows.split(lengths, dim=1)])
    asked = torch.tensor([block.power for block in blocks], dtype=torch.float64, device=centred.device)
    factor = torch.where((power > 0) & (power[0] > 0), asked * power[0] / power.clamp(min=1e-30), 1.0)
    scale = factor.sqrt().clamp(max=MOST_RAISED).float()
    return scale.repeat_interleave(torch.tensor(lengths, device=scale.device))


def takes_parts(device: torch.device) -> bool:
    """Whether :meth:`JointProjection.transform` multiplies parts in bfloat16 on this device."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8


def bfloat16_parts(values: Tensor) -> Tensor:
    """(2, ...) bfloat16: what that type holds of float32 values, and what it holds of the rest."""
    high = values.bfloat16()
    return torch.stack([high, (values - high.float()).bfloat16()])
