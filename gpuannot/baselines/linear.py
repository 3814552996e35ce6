"""One linear classifier a word: ridge regression and the squared-hinge support vector machine."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from ..errors import InvalidArgumentError
from .base import Baseline, lone_array
from .normalisation import column_scaling, unit_rows
from .squared_hinge import fit_squared_hinge

Normalisation = Literal["l2", "standard", "none"]


class _Linear(Baseline):
    """x·W + b on normalised features; subclasses find W and b."""

    coef_: Tensor
    intercept_: Tensor

    def __init__(self, normalise: Normalisation, balance: float, device: str | torch.device) -> None:
        super().__init__(device=device)
        if normalise not in ("l2", "standard", "none"):
            raise InvalidArgumentError(f'normalise = {normalise!r} is unknown; use "l2", "standard" or "none"')
        if not 0 <= balance <= 1:
            raise InvalidArgumentError(f"balance = {balance} must lie in 0…1")
        self.normalise, self.balance = normalise, balance

    def _fit(self, features: dict[str, Tensor]) -> None:
        vectors = self._vectors(features)
        if self.normalise == "standard":
            self._mean, self._scale = column_scaling(vectors)
        rows = self._normalised(vectors)
        # Weights multiply what is left after the mean: in float32, x·W − mean·W would lose what a large mean has in common.
        self._centre = rows.mean(dim=0)
        rows -= self._centre
        coefficients, intercept = self._solve(rows)
        self.coef_, self.intercept_ = coefficients.float(), intercept.float()

    def _scores(self, features: dict[str, Tensor]) -> Tensor:
        rows = self._normalised(self._vectors(features)).sub_(self._centre)
        return torch.addmm(self.intercept_, rows.float(), self.coef_)

    @abstractmethod
    def _solve(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (D, W) and intercepts (W,) of centred rows (N, D) float64."""

    def _bytes_per_image(self) -> int:
        return 32 * len(self.coef_) + 8 * self.labels_.shape[1]

    def _normalised(self, vectors: Tensor) -> Tensor:
        """(N, D) float64, in memory of its own."""
        rows = vectors.to(torch.float64, copy=True)
        if self.normalise == "l2":
            return unit_rows(rows)
        return (rows - self._mean) * self._scale if self.normalise == "standard" else rows

    def _vectors(self, features: dict[str, Tensor]) -> Tensor:
        vectors = lone_array(features, type(self).__name__)
        if vectors.ndim != 2 or not vectors.shape[1]:
            raise ValueError(f"{type(self).__name__} takes vectors (N, D) of D ≥ 1 values, got shape {tuple(vectors.shape)}")
        return vectors


class LinearRidge(_Linear):
    """Ridge regression of every word's 0/1 labels, in closed form.

    Minimises Σ_i (y_iw − x_i·v_w − b_w)² + λ·τ·‖v_w‖², with the bias free and τ the mean diagonal of whichever is smaller of XᵀX
    and XXᵀ, X being centred: the mean of the variances, times N, that can differ from zero. λ = 1 halves the fit along a direction
    of mean variance, whatever the features' unit and number. The system is solved by Cholesky factorisation in float64: D × D
    (primal) where D ≤ N, else N × N (dual); both give the same weights.

    Args:
        regularisation: λ > 0.
        normalise: ``l2`` brings each image's vector to unit norm; ``standard`` brings each column to zero mean and unit variance on
            the training images (a column that did not vary is left out); ``none`` takes vectors as they are.
        balance: g in 0…1. An image that carries the word has the target (N/N_w)^g instead of 1. 0 ranks by the expected label,
            which favours frequent words where an image says little; 1 makes all words' mean scores equal; between them is a
            compromise. All W words share one system, so balance scales targets instead of weighting images.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Attributes:
        coef_: (D, W) float32.
        intercept_: (W,) float32, the score of the mean training image.

    Raises:
        ValueError: a value out of range.
    """

    def __init__(
        self,
        regularisation: float = 1.0,
        *,
        normalise: Normalisation = "l2",
        balance: float = 0.0,
        device: str | torch.device = "auto",
    ) -> None:
        super().__init__(normalise, balance, device)
        self.regularisation = _positive("regularisation", regularisation)

    def _solve(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        images, dimension = rows.shape
        targets = self.labels_.double() * (images / self.counts_.double().clamp(min=1)) ** self.balance
        mean = targets.mean(dim=0)
        primal = dimension <= images
        system = rows.T @ rows if primal else rows @ rows.T
        average = system.diagonal().mean()
        # Images that are all alike leave nothing to divide by; any λ then gives weights of zero.
        system.diagonal().add_(self.regularisation * torch.where(average > 0, average, 1.0))
        factor = torch.linalg.cholesky(system)
        if primal:
            return torch.cholesky_solve(rows.T @ (targets - mean), factor), mean
        return rows.T @ torch.cholesky_solve(targets - mean, factor), mean


class LinearSVM(_Linear):
    """One-vs-rest support vector machine with squared hinge loss.

    For each word, minimises ½‖v‖² + C·Σ_i s_i·max(0, 1 − y_i·(x_i·v + b))², y_i = ±1, with the bias free of the penalty
    (see :func:`~gpuannot.baselines.squared_hinge.fit_squared_hinge`). The score is the output x·v + b itself: words are compared
    by it, uncalibrated, as is common where every image gets k words.

    Args:
        cost: C > 0.
        normalise: as in :class:`LinearRidge`.
        balance: g in 0…1. An image that carries the word weighs s = ((N − N_w)/N_w)^g, one without it 1. 0 weights all images
            alike, which holds rare words near −1 and so favours frequent ones; at 1 the two classes weigh the same for every word.
        tolerance: how small the gradient must be, against that of zero weights.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Attributes:
        coef_: (D, W) float32.
        intercept_: (W,) float32, the score of the mean training image.

    Raises:
        ValueError: a value out of range.
    """

    def __init__(
        self,
        cost: float = 1.0,
        *,
        normalise: Normalisation = "l2",
        balance: float = 0.0,
        tolerance: float = 1e-4,
        device: str | torch.device = "auto",
    ) -> None:
        super().__init__(normalise, balance, device)
        self.cost, self.tolerance = _positive("cost", cost), _positive("tolerance", tolerance)

    def _solve(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        known = self.counts_.nonzero()[:, 0]
        positives = self.counts_[known].double()
        weight = ((len(rows) - positives) / positives) ** self.balance
        coefficients, intercept = rows.new_zeros((rows.shape[1], len(self.counts_))), rows.new_zeros(len(self.counts_))
        coefficients[:, known], intercept[known], left = fit_squared_hinge(
            rows, self.labels_[:, known].double(), self.cost, weight, tolerance=self.tolerance
        )
        if left:
            warnings.warn(f"{left} of {len(known)} words' machines did not converge; lower cost or raise tolerance", stacklevel=4)
        return coefficients, intercept


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise InvalidArgumentError(f"{name} = {value} must be a finite number above 0")
    return value
