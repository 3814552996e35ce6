"""2PKNN: nearest images of every word first, so that rare words have a say (Verma and Jawahar, 2012)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import InvalidArgumentError
from .neighbours import NeighbourBaseline, order_keys


class TwoPassKNN(NeighbourBaseline):
    """Two passes over the training images for an image A.

    1. For each word, the K₁ nearest training images that carry it (all where there are fewer; ties to the lowest index). T_A is
       their union.
    2. s(w) = Σ_{I ∈ T_A} exp(−β·d(A, I))·1[w ∈ Y_I], with d as :class:`~gpuannot.baselines.neighbours.NeighbourBaseline` scales it.

    The score of a word is log s(w), from float64: it ranks alike, and words stay apart until all their images are 700/β farther
    than the nearest of T_A.

    Args:
        nearest_per_word: K₁, 1…10 in the original.
        beta: β, 0 or more.
        metric: see :class:`~gpuannot.baselines.neighbours.NeighbourBaseline`.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        ValueError: K₁ below 1, a negative or infinite β, or an unknown metric.
    """

    query_parameters = ("nearest_per_word", "beta")

    def __init__(
        self,
        *,
        nearest_per_word: int = 4,
        beta: float = 10.0,
        metric: str | Mapping[str, str] | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        super().__init__(metric=metric, device=device)
        if nearest_per_word < 1:
            raise InvalidArgumentError(f"nearest_per_word = {nearest_per_word} must be at least 1")
        if not 0 <= beta < float("inf"):
            raise InvalidArgumentError(f"beta = {beta} must be a finite number of at least 0")
        self.nearest_per_word, self.beta = nearest_per_word, beta

    def _fit(self, features: dict[str, Tensor]) -> None:
        super()._fit(features)
        words, images = self.labels_.T.nonzero(as_tuple=True)
        self._images_of = images.split(torch.bincount(words, minlength=self.labels_.shape[1]).tolist())
        self._indicator = self.labels_.double()

    def _scores(self, features: dict[str, Tensor]) -> Tensor:
        distances = self._distances(features)
        keys = order_keys(distances)
        chosen = torch.zeros_like(distances, dtype=torch.bool)
        for images in self._images_of:
            if take := min(self.nearest_per_word, len(images)):
                nearest = keys[:, images].topk(take, dim=1, largest=False, sorted=False).values & 0xFFFFFFFF
                chosen.scatter_(1, nearest, True)
        exponent = distances.double().mul_(-self.beta)
        largest = exponent.max(dim=1, keepdim=True).values  # taken out of the sum, or exp could underflow for every image
        weights = exponent.sub_(largest).exp_().mul_(chosen)
        return ((weights @ self._indicator).clamp_(min=torch.finfo(torch.float64).tiny).log_() + largest).float()

    def _bytes_per_image(self) -> int:
        return super()._bytes_per_image() + 9 * len(self.labels_)  # exponents in float64, and which images are chosen
