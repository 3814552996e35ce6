"""The linear system behind the head ``ridge``, solved once and kept current as images come and go."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from ..method.words import WordBank
from .moments import Moments
from .products import inverse, product


class LeftOut(NamedTuple):
    """Scores of each word over the images it was learnt from, every image scored as if it had been left out: (W,) each.

    Attributes:
        spread: standard deviation over all images.
        with_word: mean over the images with the word.
        without_word: mean over those without.
    """

    spread: Tensor
    with_word: Tensor
    without_word: Tensor


# Low-rank terms of the inverse that are kept apart before they are added to it.
_APART = 1024
# Images that are scored at once.
_ROWS = 128


class RidgeSystem:
    """A = Σ(x − μ)(x − μ)ᵀ + λI over all images, and for every word K_j = A⁻¹·C_j with C_j = Σ_{I ∈ S_j}(x − μ).

    K_j is the ridge solution for the 0/1 labels of word j with a bias that is free of the penalty. Made from a bank in O(D³); after
    that, B images more or fewer cost O(D²·B + D·W·B) by the Woodbury identity: A changes by B + 1 outer products, the last one
    because μ moves. Float64 on the device of the bank's moments. On a CPU callers hold torch to one thread, for the same bits on
    any number of cores, as :class:`~gpuannot.heads.word_head.WordHead` does.

    Args:
        bank: with moments.
        penalty: λ > 0.

    Attributes:
        solution: K (W, D).
        mean: μ (D,).
        images: N.
        counts: (W,) float64, N_j.
        penalty: λ.
        trace: tr A⁻¹, ().
    """

    def __init__(self, bank: WordBank, penalty: float) -> None:
        moments = bank.extra(Moments)
        assert moments is not None
        self.penalty, self.images, self.mean = penalty, moments.images, moments.mean
        system = moments.centred_scatter()
        system.diagonal().add_(penalty)
        self._inverse = inverse(system)
        self._apart: list[tuple[Tensor, Tensor]] = []
        self.trace = self._inverse.diagonal().sum()
        self.counts = self._tensor(bank.counts)
        self.solution = product(self._tensor(bank.sums) - self.counts[:, None] * self.mean, self._inverse)

    def update(self, vectors: NDArray[np.floating] | Tensor, labels: sparse.csr_array, sign: int = 1) -> None:
        """Add images, or take them out; some must be left.

        Args:
            vectors: (B, D).
            labels: (B, W) 0/1.
            sign: 1 to add, −1 to take out.
        """
        rows = self._tensor(vectors) - self.mean
        indicator = self._tensor(labels.toarray())
        images = self.images + sign * len(rows)
        shift = sign * rows.sum(dim=0)  # N'·(μ' − μ)
        self.counts = self.counts + sign * indicator.sum(dim=0)
        # A' = A + UᵀΓU and C' = C + E·U, with the rows of U the images around the old mean and last the shift of it.
        basis = torch.vstack([rows, shift])
        gamma = rows.new_full((len(basis),), float(sign))
        gamma[-1] = -1.0 / images
        change = torch.hstack([sign * indicator.T, -self.counts[:, None] / images])
        projected = self._times_inverse(basis)  # U·A⁻¹
        between = product(basis, projected.T)
        inner = torch.linalg.inv(torch.diag(1.0 / gamma) + between)
        correction = product(product(self.solution, basis.T) + product(change, between), inner)
        self.solution += product(change - correction, projected)
        self.trace = self.trace - (inner * product(projected, projected.T)).sum()
        self._apart.append((inner, projected))
        self.images, self.mean = images, self.mean + shift / images
        if sum(len(inner) for inner, _ in self._apart) > _APART:
            for inner, projected in self._apart:
                self._inverse -= product(projected.T, product(inner, projected))
            self._apart.clear()

    def left_out(self, sums: Tensor) -> LeftOut:
        """Statistics of the scores s = (x − μ)·K_j of all words, generalised leave-one-out, from the sums alone.

        A linear smoother's prediction without image i is (s_i − h_i·y_i)/(1 − h_i), with h_i that image's leverage. With the mean
        leverage h = (1 + tr A⁻¹Σ(x − μ)(x − μ)ᵀ)/N in its place, means and variances of s without the image follow from var(s),
        cov(s, y) and var(y), as in generalised cross-validation.

        Args:
            sums: Σ_{I ∈ S_j} x (W, D), of the bank.
        """
        share = self.counts / self.images
        at_mean = product(self.solution, self.mean[:, None])[:, 0]
        explained = torch.linalg.vecdot(self.solution, sums) - self.counts * at_mean  # K_j·C_j
        squared = torch.linalg.vecdot(self.solution, self.solution)
        score_variance = (explained - self.penalty * squared) / self.images
        label_variance = share * (1 - share)
        leverage, kept = self.leverage, self.kept
        variance = (score_variance - 2 * leverage * explained / self.images + leverage**2 * label_variance) / kept**2
        with_word = (explained / self.counts.clamp(min=1) - leverage * (1 - share)) / kept
        without_word = -with_word * share / (1 - share).clamp(min=0.5 / self.images)
        return LeftOut(variance.clamp(min=0).sqrt(), with_word, without_word)

    def left_out_scores(self, vectors: Tensor, labels: Tensor, words: Tensor) -> Tensor:
        """Scores (B, len(words)) of images that were learnt from, each by all the other images alone.

        Args:
            vectors: (B, D).
            labels: (B, len(words)) 0/1.
            words: numbers of the words to score.
        """
        solution, share = self.solution[words].T, self.counts[words] / self.images
        scores = labels.new_empty(labels.shape)
        for start in range(0, len(vectors), _ROWS):
            own = slice(start, start + _ROWS)
            rows = self._tensor(vectors[own]) - self.mean
            leverage = (rows * self._times_inverse(rows)).sum(dim=1, keepdim=True) + 1 / self.images
            left = product(rows, solution) - leverage * (labels[own] - share)
            scores[own] = left / (1 - leverage).clamp(min=1e-9)
        return scores

    @property
    def leverage(self) -> Tensor:
        """Mean leverage of an image, bias included: how much of its own label a prediction holds, ()."""
        return (1 + len(self.mean) - self.penalty * self.trace) / self.images

    @property
    def kept(self) -> Tensor:
        """1 − the mean leverage, which a single image, being its own prediction, would leave at 0."""
        return (1 - self.leverage).clamp(min=1e-9)

    def add_words(self, words: int) -> None:
        """Append words that no image carries."""
        self.counts = torch.nn.functional.pad(self.counts, (0, words))
        self.solution = torch.nn.functional.pad(self.solution, (0, 0, 0, words))

    def keep_words(self, numbers: list[int]) -> None:
        """Keep the words of these numbers, in this order."""
        self.counts, self.solution = self.counts[numbers], self.solution[numbers]

    def merge_words(self, word: int, into: int, both: NDArray[np.floating] | Tensor) -> None:
        """Let one word be that of the images that carry it or another.

        Args:
            word: number of the word that goes into the other.
            into: number of the other.
            both: (B, D), vectors of the images that carry both.
        """
        rows = self._tensor(both) - self.mean
        self.counts[into] += self.counts[word] - len(rows)
        self.solution[into] += self.solution[word] - self._times_inverse(rows.sum(dim=0, keepdim=True))[0]

    def _times_inverse(self, rows: Tensor) -> Tensor:
        # A CPU's product of 11 rows takes half as long again as one of 16.
        found = product(torch.nn.functional.pad(rows, (0, 0, 0, -len(rows) % 8)), self._inverse)[: len(rows)]
        for inner, projected in self._apart:
            found -= product(product(product(rows, projected.T), inner), projected)
        return found

    def _tensor(self, values: NDArray[np.generic] | Tensor) -> Tensor:
        return torch.as_tensor(values).to(self.mean.device, torch.float64)
