"""TagProp σML: neighbours weighted by a learnt distance, and a sigmoid for each word (Guillaumin et al., 2009)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import DataError, InvalidArgumentError
from .neighbours import NeighbourBaseline, nearest

#: Alternations of the two steps, as in the paper.
_ROUNDS = 3
#: Precision of the zero-mean Gaussian prior on α and β, in units of one positive label's cost: it keeps separable words finite.
_PRIOR = 0.01


class TagProp(NeighbourBaseline):
    """Predicts words from K neighbours whose weights and whose trust, word by word, are learnt from the training images.

    For image i with neighbours j and their vector d_ij of distances, one a feature::

        π_ij = softmax_j(−w·d_ij)        w ≥ 0, one number a feature
        x_iw = Σ_j π_ij·1[w ∈ Y_j]
        p(w | i) = σ(α_w·x_iw + β_w)

    The K neighbours are the union of each feature's nearest: first all features' nearest, then all second nearest, and so on, in
    the order of the features, until there are K.

    ``fit`` maximises Σ_i Σ_w c_iw·ln p(y_iw | i) where every training image is predicted from the others alone; c_iw is 1/n₊ where
    image i carries word w and 1/n₋ where it does not, n₊ and n₋ the numbers of such pairs. Alternately, α and β are found by
    Newton's method (for given w the problem is convex, two unknowns a word) and ln w by L-BFGS. A weak Gaussian prior on α and β
    keeps them finite. No random numbers: same input, same result.

    The score of a word is α_w·x_iw + β_w, which ranks as p does and does not saturate.

    Args:
        neighbours: K, at least 1; only as many as there are other labelled training images are used.
        metric: see :class:`~gpuannot.baselines.neighbours.NeighbourBaseline`.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Attributes:
        weights_: (F,) float32, w in the order of ``metrics_``.
        alpha_: (W,) float32.
        beta_: (W,) float32.
        log_likelihood_: n₊ times the objective, without the prior.

    Raises:
        ValueError: K below 1, or an unknown metric. ``fit`` raises DataError for less than two images that carry a word.
    """

    weights_: Tensor
    alpha_: Tensor
    beta_: Tensor
    log_likelihood_: float

    def __init__(
        self, *, neighbours: int = 200, metric: str | Mapping[str, str] | None = None, device: str | torch.device = "auto"
    ) -> None:
        super().__init__(metric=metric, device=device)
        if neighbours < 1:
            raise InvalidArgumentError(f"neighbours = {neighbours} must be at least 1")
        self.neighbours = neighbours

    def _fit(self, features: dict[str, Tensor]) -> None:
        super()._fit(features)
        images = len(self.labels_)
        if images < 2:
            raise DataError("one image alone carries a word: TagProp predicts each training image from others, so it needs two")
        step = max(1, self.block_bytes // self._bytes_per_image())
        parts = []
        for start in range(0, images, step):
            rows = {name: array[start : start + step] for name, array in self._images.items()}
            parts.append(self._neighbourhood(rows, first=start))
        index, distance = (torch.cat(part) for part in zip(*parts, strict=True))  # (N, K) and (N, K, F)
        positive = float(self.labels_.sum())
        self._negative_cost = positive / max(1.0, self.labels_.numel() - positive)
        # At first, the mean neighbour has 1/e of the nearest one's weight.
        spread = (distance.mean(dim=1) - distance.amin(dim=1)).mean(dim=0) * distance.shape[2]
        log_weights = -torch.where(spread > 0, spread, 1.0).log()
        for _ in range(_ROUNDS):
            self._fit_sigmoids(self._presence_of_all(log_weights, index, distance))
            log_weights = self._fit_weights(log_weights, index, distance)
        presence = self._presence_of_all(log_weights, index, distance)
        self._fit_sigmoids(presence)
        self.weights_ = log_weights.exp()
        self.log_likelihood_ = -float(self._loss(presence, self.labels_))

    def _neighbourhood(self, features: Mapping[str, Tensor], first: int | None = None) -> tuple[Tensor, Tensor]:
        """Neighbours (B, K) int64 and their distances (B, K, F).

        With ``first``, row b is training image ``first + b``, and no neighbour of itself.
        """
        parts = list(self._feature_distances(features))
        images, others = len(self.labels_), len(self.labels_)
        if first is not None:
            others -= 1
            for part in parts:
                part.diagonal(first).fill_(torch.inf)
        count = min(self.neighbours, others)
        place = torch.full((len(parts[0]), images), torch.iinfo(torch.int64).max, device=self.device)
        ranks = torch.arange(count, device=self.device) * len(parts)
        for number, part in enumerate(parts):
            index, _ = nearest(part, count)
            place.scatter_(1, index, torch.minimum(place.gather(1, index), ranks + number))
        chosen = place.topk(count, dim=1, largest=False).indices
        return chosen, torch.stack([part.gather(1, chosen) for part in parts], dim=2)

    def _presence(self, log_weights: Tensor, index: Tensor, distance: Tensor) -> Tensor:
        """x (B, W): the weight of the neighbours that carry each word."""
        weights = (distance @ -log_weights.clamp(-20, 20).exp()).softmax(dim=1)
        spread = torch.zeros((len(index), len(self.labels_)), device=self.device).scatter(1, index, weights)
        return spread @ self.labels_

    def _presence_of_all(self, log_weights: Tensor, index: Tensor, distance: Tensor) -> Tensor:
        return torch.cat([self._presence(log_weights, *block) for block in self._blocks(index, distance)])

    def _blocks(self, *arrays: Tensor) -> list[tuple[Tensor, ...]]:
        step = max(1, self.block_bytes // (16 * sum(self.labels_.shape)))
        return list(zip(*(array.split(step) for array in arrays), strict=True))

    def _loss(self, presence: Tensor, labels: Tensor) -> Tensor:
        """−n₊·Σ c_iw·ln p(y_iw | i) of some images, float64."""
        value = self.alpha_ * presence + self.beta_
        cost = torch.where(labels > 0, 1.0, self._negative_cost)
        return -(cost * torch.nn.functional.logsigmoid(torch.where(labels > 0, value, -value))).sum(dtype=torch.float64)

    @torch.enable_grad()
    def _fit_weights(self, log_weights: Tensor, index: Tensor, distance: Tensor) -> Tensor:
        """ln w by L-BFGS with α and β as they are."""
        unknown = log_weights.clone().requires_grad_()
        optimiser = torch.optim.LBFGS([unknown], max_iter=20, line_search_fn="strong_wolfe")
        blocks = self._blocks(index, distance, self.labels_)

        def loss() -> Tensor:
            optimiser.zero_grad()
            total = torch.zeros((), dtype=torch.float64, device=self.device)
            for neighbours, distances, labels in blocks:
                part = self._loss(self._presence(unknown, neighbours, distances), labels)
                part.backward()
                total += part.detach()
            return total

        optimiser.step(loss)
        return unknown.detach()

    def _fit_sigmoids(self, presence: Tensor) -> None:
        """α and β by Newton's method with w as it is, some words at a time: they do not depend on each other."""
        step = max(1, self.block_bytes // (64 * len(presence)))
        parts = [
            fit_sigmoids(x.double(), y.double(), self._negative_cost)
            for x, y in zip(presence.split(step, dim=1), self.labels_.split(step, dim=1), strict=True)
        ]
        self.alpha_, self.beta_ = (torch.cat(part).float() for part in zip(*parts, strict=True))

    def _scores(self, features: dict[str, Tensor]) -> Tensor:
        return self.alpha_ * self._presence(self.weights_.log(), *self._neighbourhood(features)) + self.beta_

    def _bytes_per_image(self) -> int:
        images, words = self.labels_.shape
        return 4 * images * (len(self.metrics_) + 8) + 12 * words


def fit_sigmoids(
    x: Tensor,
    y: Tensor,
    negative_cost: float,
    *,
    iterations: int = 50,
) -> tuple[Tensor, Tensor]:
    """α, β that maximise Σ_i c_iw·ln σ(±(α_w·x_iw + β_w)) − 0.005·(α_w² + β_w²), c = 1 where y = 1, else ``negative_cost``.

    Args:
        x: (N, W) float64.
        y: (N, W) float64, 0 or 1.
        negative_cost: c where y = 0.
        iterations: of Newton's method, at most.

    Returns:
        α (W,) and β (W,) float64.
    """
    cost = torch.where(y > 0, 1.0, negative_cost)

    def objective(alpha: Tensor, beta: Tensor) -> Tensor:
        value = alpha * x + beta
        fit = (cost * torch.nn.functional.logsigmoid(torch.where(y > 0, value, -value))).sum(dim=0)
        return fit - 0.5 * _PRIOR * (alpha.square() + beta.square())

    alpha, beta = torch.zeros_like(x[0]), torch.zeros_like(x[0])
    reached = objective(alpha, beta)
    for _ in range(iterations):
        probability = torch.sigmoid(alpha * x + beta)
        slope, curvature = cost * (y - probability), cost * probability * (1 - probability)
        slope_alpha, slope_beta = (slope * x).sum(dim=0) - _PRIOR * alpha, slope.sum(dim=0) - _PRIOR * beta
        mixed = (curvature * x).sum(dim=0)
        aa, bb = (curvature * x.square()).sum(dim=0) + _PRIOR, curvature.sum(dim=0) + _PRIOR
        determinant = aa * bb - mixed.square()
        step_alpha = (bb * slope_alpha - mixed * slope_beta) / determinant
        step_beta = (aa * slope_beta - mixed * slope_alpha) / determinant
        for _ in range(30):  # half the step for words that it would take too far
            found = objective(alpha + step_alpha, beta + step_beta)
            worse = found < reached
            step_alpha, step_beta = torch.where(worse, step_alpha / 2, step_alpha), torch.where(worse, step_beta / 2, step_beta)
            if not bool(worse.any()):
                break
        better = found >= reached
        alpha, beta = torch.where(better, alpha + step_alpha, alpha), torch.where(better, beta + step_beta, beta)
        gained, reached = torch.where(better, found - reached, 0.0), torch.where(better, found, reached)
        if float(gained.max()) < 1e-10:
            break
    return alpha, beta
