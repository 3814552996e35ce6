"""Distances between the feature vectors of two sets of images, tile by tile: only the result grows with them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import InvalidArgumentError

#: Bytes of a tile: of converted rows where distances are a matrix product, of differences (b, n, D) for ``chi2``.
_TILE_BYTES = 32 << 20
#: Share of a histogram that is spread evenly over its bins before the logarithm of ``kl``.
KL_SMOOTHING = 1e-3


def distances(x: Tensor, y: Tensor, metric: str) -> Tensor:
    """Distance of every row of ``x`` to every row of ``y``.

    ========== ======================================================================================================
    ``l2``     ‖x − y‖
    ``l1``     Σ|x − y|
    ``chi2``   ½·Σ (x − y)²/(x + y), an empty bin counting 0; histograms
    ``kl``     ½·(KL(p‖q) + KL(q‖p)), symmetric; p = 0.999·x/Σx + 0.001/D, so no bin is empty; histograms
    ``cosine`` 1 − x·y/(‖x‖·‖y‖); a row of zeros has distance 1 to everything
    ========== ======================================================================================================

    ``l2``, ``kl`` and ``cosine`` are one matrix product in float64: its rounding (10⁻¹⁶ of ‖x‖²) leaves equal rows a distance of
    10⁻⁷·‖x‖ at most for ``l2``. ``l1`` and ``chi2`` are sums of differences in float32, 0 for equal rows.

    Args:
        x: (B, D) float32.
        y: (N, D) float32, same device.
        metric: a name of the table.

    Returns:
        (B, N) float32, 0 or more, on that device.

    Raises:
        ValueError: another metric, shapes that do not fit, or negative values in histograms.
    """
    check_metric(metric)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"distances need two arrays of rows of one length, got shapes {tuple(x.shape)} and {tuple(y.shape)}")
    if metric in ("chi2", "kl") and any(bool((rows < 0).any()) for rows in (x, y)):
        raise InvalidArgumentError(f"metric {metric!r} compares histograms, and these have negative values; choose 'l1' or 'l2'")
    measure = METRICS[metric]
    dimension = max(1, x.shape[1])
    step = max(1, int((_TILE_BYTES / (4 * dimension)) ** 0.5) if metric == "chi2" else _TILE_BYTES // (8 * dimension))
    result = torch.empty((len(x), len(y)), device=x.device)
    for top in range(0, len(x), step):
        rows = x[top : top + step]
        for left in range(0, len(y), step):
            result[top : top + step, left : left + step] = measure(rows, y[left : left + step])
    return result


def check_metric(metric: str) -> None:
    """Refuse a name that :func:`distances` does not know.

    Raises:
        ValueError: such a name.
    """
    if metric not in METRICS:
        raise InvalidArgumentError(f"metric {metric!r} is unknown; choose one of {', '.join(METRICS)}")


def _l2(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x.double(), y.double(), compute_mode="use_mm_for_euclid_dist")


def _l1(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y, p=1)


def _chi2(x: Tensor, y: Tensor) -> Tensor:
    total = x[:, None] + y
    share = (x[:, None] - y).square_().div_(total.clamp_(min=torch.finfo(total.dtype).tiny))
    return share.sum(dim=2).div_(2)


def _kl(x: Tensor, y: Tensor) -> Tensor:
    p, q = _smoothed(x), _smoothed(y)
    log_p, log_q = p.log(), q.log()
    own = (p * log_p).sum(dim=1)[:, None] + (q * log_q).sum(dim=1)
    return own.sub_(p @ log_q.T).sub_(log_p @ q.T).div_(2).clamp_(min=0)


def _smoothed(histograms: Tensor) -> Tensor:
    """Rows that sum to 1 (D > 0), float64; an empty histogram is an even one."""
    total = histograms.sum(dim=1, keepdim=True, dtype=torch.float64)
    even = 1 / max(1, histograms.shape[1])
    shares = torch.where(total > 0, histograms / torch.where(total > 0, total, 1.0), even)
    return shares * (1 - KL_SMOOTHING) + KL_SMOOTHING * even


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    return (1 - _unit(x) @ _unit(y).T).clamp_(min=0)


def _unit(rows: Tensor) -> Tensor:
    rows = rows.double()
    norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(norm > 0, norm, 1.0)


METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l2": _l2, "l1": _l1, "chi2": _chi2, "kl": _kl, "cosine": _cosine}
