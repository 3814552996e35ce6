"""Cross-media relevance model (Jeon, Lavrenko & Manmatha 2003) over counts of visual words."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DataError, InvalidArgumentError
from .base import Baseline, lone_array


class CMRM(Baseline):
    """Words of the training images J whose visual words ("blobs") match those of the image, weighted by how well they match.

    For an image with the visual words b_1…b_n:

        P(w | b_1…b_n) = Σ_J P(w | J)·Π_i P(b_i | J) / Σ_J Π_i P(b_i | J)
        P(w | J) = (1 − α)·#(w, J)/|J| + α·#(w, T)/|T|
        P(b | J) = (1 − β)·#(b, J)/|J| + β·#(b, T)/|T|

    #(x, J) counts x in J, #(x, T) in the whole training set; |J| and |T| are the numbers of words **and** visual words together, as
    in that work. The prior P(J) is uniform. The score is log P(w | b_1…b_n): it ranks as the model's log P(w, b_1…b_n) does, from
    which it differs by log P(b_1…b_n), which is in the hundreds and would take the digits that tell words apart.

    Features are (N, m) whole numbers, 0 or more: how often each of the m visual words occurs in an image. A visual word that no
    training image holds makes every product zero and tells none of them apart, so it is left out. An image without visual words
    gets the mean of P(w | J); a training image without words and visual words has #(·, J)/|J| = 0.

    Annotating takes T·N·m multiplications in float64: Σ_i log P(b_i | J) is a product of counts and logarithms.

    Args:
        alpha: α in 0…1, both excluded: how far words are smoothed towards the whole training set.
        beta: β in 0…1, both excluded: how far visual words are.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        ValueError: α or β out of range.
    """

    def __init__(self, alpha: float = 0.1, beta: float = 0.9, *, device: str | torch.device = "auto") -> None:
        super().__init__(device=device)
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not 0 < value < 1:
                raise InvalidArgumentError(f"{name} = {value} must lie between 0 and 1, both excluded")
        self.alpha, self.beta = alpha, beta

    def _fit(self, features: dict[str, Tensor]) -> None:
        counts = _counts(features)
        size = counts.sum(dim=1) + self.labels_.sum(dim=1, dtype=torch.float64)  # |J|
        self._share = torch.where(size > 0, 1 / size, 0.0)  # of one word or visual word in its image
        total = size.sum()
        background = counts.sum(dim=0) / total
        probability = (1 - self.beta) * counts * self._share[:, None] + self.beta * background
        self._log_probability = torch.where(background > 0, probability, 1.0).log_().T.contiguous()  # (m, N)
        self._word_share = (self.counts_.double() / total).float()

    def _scores(self, features: dict[str, Tensor]) -> Tensor:
        posterior = (_counts(features) @ self._log_probability).softmax(dim=1)  # P(J | b_1…b_n)
        own = (posterior * self._share).float() @ self.labels_
        return ((1 - self.alpha) * own + self.alpha * self._word_share).log()

    def _bytes_per_image(self) -> int:
        words, images = len(self._log_probability), len(self._share)
        return 16 * words + 28 * images + 16 * self.labels_.shape[1]


def _counts(features: dict[str, Tensor]) -> Tensor:
    """(N, m) float64 of checked counts."""
    counts = lone_array(features, "CMRM")
    if counts.ndim != 2 or not counts.shape[1]:
        raise ValueError(f"CMRM takes counts (N, m) of m ≥ 1 visual words, got features of shape {tuple(counts.shape)}")
    wrong = (counts < 0) | (counts != counts.round())
    if bool(wrong.any()):
        image, word = (int(position) for position in wrong.nonzero()[0])
        raise DataError(
            f"image {image} holds visual word {word} {float(counts[image, word]):g} times; give counts: whole numbers, 0 or more"
        )
    return counts.double()
