"""What feature columns and rows are scaled by before distances and products."""

from __future__ import annotations

import torch
from torch import Tensor


def column_scaling(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and 1/standard deviation of each column of (M, D): both (D,) float64, on the rows' device.

    A column that does not vary gets the scale 0: nothing was learnt of how much a change in it means.
    """
    wide = rows.double()
    mean = wide.mean(dim=0)
    deviation = wide.var(dim=0, correction=0).sqrt()
    low, high = torch.aminmax(rows, dim=0)  # rounding leaves the deviation of equal values above zero
    return mean, torch.where(low == high, 0.0, 1.0 / deviation)


def unit_rows(rows: Tensor) -> Tensor:
    """Each row of (M, D) at unit L2 norm, in the rows' dtype; a row of zeros stays one."""
    # Divided by its largest value first, so that no square overflows or vanishes.
    largest = rows.abs().amax(dim=1, keepdim=True) if rows.shape[1] else rows.new_ones((len(rows), 1))
    scaled = rows / torch.where(largest > 0, largest, 1.0)
    norm = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return scaled / torch.where(norm > 0, norm, 1.0)
