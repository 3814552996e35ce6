"""Multiple-Bernoulli relevance model (Feng, Manmatha & Lavrenko 2004) over the regions of an image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import InvalidArgumentError
from .base import Baseline, lone_array
from .normalisation import column_scaling


class MBRM(Baseline):
    """Words of the training images J whose regions look like those of image A, weighted by how well they explain it.

    With R region descriptors r_a of A and r_i of J:

        P(w | A) = Σ_J P(w | J)·Π_a P(r_a | J) / Σ_J Π_a P(r_a | J)
        P(w | J) = (μ·δ_wJ + N_w)/(μ + N)
        P(r | J) = (1/R)·Σ_i Normal(r; r_i, β·I)

    The score is log P(w | A). It ranks the words of an image as the model's log P(w, A) does: the two differ by log P(A), which is
    in the thousands and would take the digits that tell words apart. What is the same for every J (the prior 1/N, 1/R, the
    Gaussian's constant) cancels.

    Features are (N, R, D) float: R regions of each image, the same number everywhere, or (N, D), which counts as R = 1. Each of the
    D columns is brought to zero mean and unit variance over all training regions, so β is in units of that variance; a column that
    did not vary there is left out.

    Annotating takes T·N·R² distances in D dimensions. They are formed block by block, in float64; exponents are added by
    log-sum-exp.

    Args:
        mu: μ > 0, what an image's own word weighs against N_w, the word's count in the whole training set. Where μ is below the
            counts of the most frequent words, every image is given these.
        beta: β > 0, variance of the Gaussian around each training region.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        ValueError: μ or β that is not a positive finite number.
    """

    #: Bytes of one block of exponents (test regions × training regions). A small one stays in a processor's cache.
    _PAIR_BYTES = 8 << 20

    def __init__(self, mu: float = 1e5, beta: float = 2.0, *, device: str | torch.device = "auto") -> None:
        super().__init__(device=device)
        for name, value in (("mu", mu), ("beta", beta)):
            if not (math.isfinite(value) and value > 0):
                raise InvalidArgumentError(f"{name} = {value} must be a finite number above 0")
        self.mu, self.beta = mu, beta

    def _fit(self, features: dict[str, Tensor]) -> None:
        regions = _regions(lone_array(features, "MBRM"))
        self._mean, scale = column_scaling(regions.flatten(0, 1))
        self._scale = scale / math.sqrt(2 * self.beta)
        z = self._scaled(regions)
        squared = z.square().sum(dim=2, keepdim=True)
        # [2a, −‖a‖², −1]·[b, 1, ‖b‖²] = −‖a − b‖². Regions come first, so that the sum over them runs along long rows.
        self._training = torch.cat([z, torch.ones_like(squared), squared], dim=2).transpose(0, 1).contiguous()

    def _scores(self, features: dict[str, Tensor]) -> Tensor:
        z = self._scaled(_regions(lone_array(features, "MBRM")))
        squared = z.square().sum(dim=2, keepdim=True)
        queries = torch.cat([2 * z, -squared, -torch.ones_like(squared)], dim=2)
        count, step = self._training.shape[1], self._training_step()
        images = max(1, self._PAIR_BYTES // (self._pair_bytes() * step))
        likelihood = z.new_empty((len(z), count))  # log Π_a P(r_a | J), up to what is the same for every J
        for first in range(0, count, step):
            training = self._training[:, first : first + step].flatten(0, 1)
            for start in range(0, len(z), images):
                block = queries[start : start + images]
                # Products in float64 hold the distance of near regions, which decide; their exponents need no more than float32.
                exponents = (block.flatten(0, 1) @ training.T).float().unflatten(1, (len(self._training), -1))
                by_region = exponents.logsumexp(dim=1).unflatten(0, block.shape[:2])
                likelihood[start : start + images, first : first + step] = by_region.sum(dim=1, dtype=torch.float64)
        posterior = likelihood.softmax(dim=1).float()  # P(J | A)
        return ((self.mu * (posterior @ self.labels_) + self.counts_) / (self.mu + count)).log()

    def _bytes_per_image(self) -> int:
        regions, count, width = self._training.shape
        return 24 * regions * width + 20 * count + 16 * self.labels_.shape[1]

    def _pair_bytes(self) -> int:
        """Bytes of one test image against one training image."""
        return 16 * len(self._training) ** 2

    def _training_step(self) -> int:
        return max(1, min(self._training.shape[1], self._PAIR_BYTES // self._pair_bytes()))

    def _scaled(self, regions: Tensor) -> Tensor:
        return (regions.double() - self._mean) * self._scale


def _regions(features: Tensor) -> Tensor:
    """(N, R, D) of features (N, R, D) or (N, D)."""
    regions = features[:, None] if features.ndim == 2 else features
    if regions.ndim != 3 or 0 in regions.shape[1:]:
        raise ValueError(f"MBRM takes features (N, R, D) of R ≥ 1 regions, or (N, D), with D ≥ 1; got {tuple(features.shape)}")
    return regions
