"""Linear support vector machines with squared hinge loss: one for each word, all at once."""

from __future__ import annotations

import torch
from torch import Tensor

_CONJUGATE_STEPS = 60
_SEARCH_STEPS = 12
_FORCING = 0.1


def fit_squared_hinge(
    rows: Tensor,
    labels: Tensor,
    cost: float,
    positive_weight: Tensor,
    *,
    tolerance: float = 1e-4,
    max_iterations: int = 100,
) -> tuple[Tensor, Tensor, int]:
    """Minimise, for each word, ½‖w‖² + C·Σ_i s_i·max(0, 1 − y_i·(x_i·w + b))² over w and b.

    y_i is 1 with the word and −1 without; s_i is ``positive_weight`` with it and 1 without. The bias is free of the penalty.

    Newton's method: conjugate gradients solve each step from products with X alone, and the step's length comes from a line search
    on the margins. Most products are those of conjugate gradients; they run in float32, as a step need only be about right, and
    gradients and outputs in float64, which say where the minimum is. All words go through the same products. The same input on the
    same device gives the same bits.

    Args:
        rows: X (N, D) float64.
        labels: (N, W) float64, 0 or 1.
        cost: C.
        positive_weight: (W,) float64.
        tolerance: a word leaves when its gradient is below this times the share of the smaller of its two classes times the
            gradient at 0 (LIBLINEAR's rule).
        max_iterations: Newton steps, at most.

    Returns:
        w (D, W) and b (W,) float64, and the number of words that had not converged.
    """
    images, dimension = rows.shape
    mean = rows.mean(dim=0)
    x = rows - mean  # the bias is free, so this changes b alone; conjugate gradients take fewer steps
    weights, bias = rows.new_zeros((dimension, labels.shape[1])), rows.new_zeros(labels.shape[1])
    active = torch.arange(labels.shape[1], device=rows.device)
    positives = labels.sum(dim=0)
    smaller_class = torch.minimum(positives, images - positives).clamp(min=1) / images
    state = _State(x, 2 * labels - 1, cost * torch.where(labels > 0, positive_weight, 1.0), weights.clone(), bias.clone())
    limit: Tensor | None = None
    for _ in range(max_iterations):
        gradient = state.gradient()
        norm = torch.linalg.vector_norm(gradient, dim=0)
        if limit is None:
            limit = tolerance * smaller_class * norm
        weights[:, active], bias[active] = state.w, state.b
        kept = (norm > limit).nonzero()[:, 0]
        active, limit, gradient = active[kept], limit[kept], gradient[:, kept]
        if not len(active):
            break
        state.keep(kept)
        state.descend(gradient)
    return weights, bias - mean @ weights, len(active)


class _State:
    """The words that are still moving: sign and loss weight (N, W), w (D, W), b (W,) and the outputs x·w + b (N, W)."""

    def __init__(self, x: Tensor, sign: Tensor, loss_weight: Tensor, w: Tensor, b: Tensor) -> None:
        self.x, self.x32, self.squared_norms = x, x.float(), x.square().sum(dim=1)
        self.sign, self.loss_weight, self.w, self.b = sign, loss_weight, w, b
        self.output = torch.zeros_like(sign)

    def keep(self, columns: Tensor) -> None:
        """Go on with some of the words."""
        if len(columns) < len(self.b):
            self.sign, self.loss_weight, self.output = (part[:, columns] for part in (self.sign, self.loss_weight, self.output))
            self.w, self.b = self.w[:, columns], self.b[columns]

    def gradient(self) -> Tensor:
        """(D + 1, W), the bias last."""
        self.output = torch.addmm(self.b, self.x, self.w)
        residual = 2 * self.loss_weight * self.sign * (1 - self.sign * self.output).clamp_(min=0)
        return torch.cat([self.w - self.x.T @ residual, -residual.sum(dim=0, keepdim=True)])

    def descend(self, gradient: Tensor) -> None:
        """One Newton step of every word."""
        curvature = 2 * self.loss_weight * (self.sign * self.output < 1)
        step, change = (part.double() for part in self._newton_direction(gradient.float(), curvature.float()))
        length = self._line_search(gradient, step, change)
        self.w += length * step[:-1]
        self.b += length * step[-1]

    def _newton_direction(self, gradient: Tensor, curvature: Tensor) -> tuple[Tensor, Tensor]:
        """d with H·d ≈ −gradient, (D + 1, W) with the bias last, and what it changes the outputs by, (N, W); float32.

        H = diag(1, …, 1, 0) + [X 1]ᵀ·diag(curvature)·[X 1]. Its diagonal, averaged over the D weights, preconditions.
        """
        dimension = len(gradient) - 1
        diagonal = torch.cat([
            (1 + self.squared_norms.float() @ curvature / dimension).expand(dimension, -1),
            curvature.sum(dim=0, keepdim=True),
        ])  # fmt: skip
        diagonal = torch.where(diagonal > 0, diagonal, 1.0)
        step, change = torch.zeros_like(gradient), torch.zeros_like(curvature)
        left = -gradient
        direction = scaled = left / diagonal
        product = (left * scaled).sum(dim=0)
        goal = _FORCING * torch.linalg.vector_norm(gradient, dim=0)
        for _ in range(_CONJUGATE_STEPS):
            moved = self.x32 @ direction[:-1] + direction[-1]
            pulled = curvature * moved
            image = torch.cat([direction[:-1] + self.x32.T @ pulled, pulled.sum(dim=0, keepdim=True)])
            bend = (direction * image).sum(dim=0)
            going = (torch.linalg.vector_norm(left, dim=0) > goal) & (bend > 0)
            if not bool(going.any()):
                break
            rate = torch.where(going, product / torch.where(going, bend, 1.0), 0.0)
            step += rate * direction
            change += rate * moved
            left = left - rate * image
            scaled = left / diagonal
            product, before = (left * scaled).sum(dim=0), product
            direction = scaled + torch.where(going, product / torch.where(going, before, 1.0), 0.0) * direction
        return step, change

    def _line_search(self, gradient: Tensor, step: Tensor, change: Tensor) -> Tensor:
        """The length t (W,) at which the objective along the step is smallest, near enough.

        Its slope in t is piecewise linear and rises: Newton's method on it, halving where that leaves the bracket. Near the minimum
        the slope is tiny against its terms, so only what the step changes is summed.
        """
        slope_here = (gradient * step).sum(dim=0)
        squared = step[:-1].square().sum(dim=0)
        slack, closing = 1 - self.sign * self.output, self.sign * change
        weighted = 2 * self.loss_weight * closing
        length, low, high = torch.ones_like(squared), torch.zeros_like(squared), torch.full_like(squared, torch.inf)
        for _ in range(_SEARCH_STEPS):
            margin = slack - length * closing
            slope = slope_here + length * squared + (weighted * (slack.clamp(min=0) - margin.clamp(min=0))).sum(dim=0)
            bend = squared + (weighted * closing * (margin > 0)).sum(dim=0)
            low, high = torch.where(slope < 0, length, low), torch.where(slope > 0, length, high)
            proposed = length - slope / torch.where(bend > 0, bend, 1.0)
            halved = torch.where(high.isfinite(), (low + high) / 2, 2 * length)
            proposed = torch.where((proposed > low) & (proposed < high), proposed, halved)
            length = torch.where(slope.abs() <= _FORCING * slope_here.abs(), length, proposed)
        return length
