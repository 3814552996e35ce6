"""The paper's own head on any features: mean vector of each word's images, nearest words in L2 (equations 4 and 6)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..errors import InvalidArgumentError
from .base import Baseline, lone_array


class PositiveMean(Baseline):
    """v_j = (1/N_j) Σ_{I ∈ S_j} I, and the words whose v_j are nearest to the image's vector.

    :class:`~gpuannot.Annotator` does this on VLAD vectors. Here the features may be any (N, D), so that what the features bring
    and what the head brings can be told apart. Scores are −‖x − v_j‖, or cosines. Annotating costs O(T·W·D), whatever N.

    Args:
        metric: ``l2`` or ``cosine``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        ValueError: another metric.
    """

    def __init__(self, metric: str = "l2", *, device: str | torch.device = "auto") -> None:
        if metric not in ("l2", "cosine"):
            raise InvalidArgumentError(f"metric {metric!r} is unknown; choose l2 or cosine")
        super().__init__(device=device)
        self.metric = metric

    def _fit(self, features: dict[str, Tensor]) -> None:
        vectors = lone_array(features, "PositiveMean")
        sums = self.labels_.T.double() @ vectors.double()
        self.word_vectors_ = sums / self.counts_.double().clamp(min=1)[:, None]

    def _scores(self, features: dict[str, Tensor]) -> Tensor:
        vectors = lone_array(features, "PositiveMean").double()
        if self.metric == "cosine":
            return (normalize(vectors) @ normalize(self.word_vectors_).T).float()
        return -torch.cdist(vectors, self.word_vectors_).float()

    def _bytes_per_image(self) -> int:
        return 16 * (self.word_vectors_.shape[1] + len(self.word_vectors_))
