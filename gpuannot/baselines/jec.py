"""JEC: labels of the nearest images, by joint equal contribution of the features (Makadia, Pavlovic and Kumar, 2008)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import InvalidArgumentError
from .neighbours import NeighbourBaseline, nearest


class JEC(NeighbourBaseline):
    """Gives the words of the nearest training image, then those of its next neighbours.

    Of the K nearest labelled training images I₁ … I_K (ties to the lowest index):

    1. the words of I₁, by training frequency;
    2. the other words of I₂ … I_K, by (number of I₂ … I_K that carry the word) × (its co-occurrence with the words of I₁: the
       number of training images, summed over those words, that carry both);
    3. all other words by training frequency, so that there are always k words.

    Ties go to the lowest word index. A score is 1 − r/W where r is the word's place in this order, so the k highest are the k
    words that the label transfer gives, for every k. The transfer reads k nowhere else: where I₁ alone has k words or more, steps
    2 and 3 come after them.

    Args:
        neighbours: K, at least 1; only as many as there are labelled training images are used.
        metric: see :class:`~gpuannot.baselines.neighbours.NeighbourBaseline`.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        ValueError: K below 1, or an unknown metric.
    """

    query_parameters = ("neighbours",)

    def __init__(
        self, *, neighbours: int = 5, metric: str | Mapping[str, str] | None = None, device: str | torch.device = "auto"
    ) -> None:
        super().__init__(metric=metric, device=device)
        if neighbours < 1:
            raise InvalidArgumentError(f"neighbours = {neighbours} must be at least 1")
        self.neighbours = neighbours

    def _fit(self, features: dict[str, Tensor]) -> None:
        super()._fit(features)
        self._together = (self.labels_.T @ self.labels_).double()  # (W, W) images that carry both words; exact below 2²⁴ images

    def _scores(self, features: dict[str, Tensor]) -> Tensor:
        index, _ = nearest(self._distances(features), min(self.neighbours, len(self.labels_)))
        first = self.labels_[index[:, 0]]
        others = torch.zeros_like(first)
        for neighbour in index.T[1:]:
            others += self.labels_[neighbour]
        counts = self.counts_.double()
        product = others * (first.double() @ self._together)
        # A step above all that a word can reach in one part of the order, so that the parts do not mix.
        step = 1 + torch.maximum(product.max(), counts.max())
        value = torch.where(first > 0, 2 * step + counts, torch.where(others > 0, step + product, counts))
        place = value.sort(dim=1, descending=True, stable=True).indices.argsort(dim=1)
        return 1 - place.float() / place.shape[1]
