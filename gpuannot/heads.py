"""Heads: from the sums over labelled images to what ranks the words, each in closed form.

``mean`` and ``demixed`` make a vector for every word, and an image's words are those whose vectors are nearest. ``centred``,
``ridge`` and ``lda`` make a linear score x·v_w + b_w, and an image's words are those that score highest. Annotating costs O(W·D) an
image with all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from .config import LINEAR_HEADS, AnnotatorConfig
from .moments import Moments
from .ranking import LinearRanking, WordRanking
from .ridge import RidgeSystem
from .words import WordBank

_SOLVED = ("ridge", "lda")


class LinearWords(NamedTuple):
    """The score x·v + b of the words that have an image: ``weights`` (len(known), D) and ``bias`` (len(known),), float64."""

    weights: Tensor
    bias: Tensor


def new_bank(config: AnnotatorConfig, vocabulary: tuple[str, ...], dimension: int, device: torch.device | str) -> WordBank:
    """An empty bank with the sums that the head of ``config`` needs.

    Raises:
        ValueError: vectors too long for that head.
    """
    if config.head == "mean":
        return WordBank(vocabulary, dimension)
    return WordBank(vocabulary, dimension, Moments(dimension, device, scatter=config.head in _SOLVED))


class WordHead:
    """Turns a bank's sums into a ranking, as the config's head says.

    With N_j the images of word j, μ_j their mean vector, μ that of all N images, C_j = N_j·(μ_j − μ) and A = Σ(x − μ)(x − μ)ᵀ + λI:

    * ``mean``: μ_j, the paper's equation 4.
    * ``demixed``: the paper's equation 3, I = Σ_j a_j·w_j, solved by ridge regression: (YᵀY + λI)·w = YᵀX, one W × W system.
    * ``centred``: (x − μ)·u_j with u_j the unit vector along μ_j − μ. For one image it orders words as the cosine of both does.
    * ``ridge``: regression of the 0/1 labels, v_j = A⁻¹C_j and b_j = N_j/N − μ·v_j, which leaves the bias free of the penalty. With
      ``balance`` g all of a word's targets are multiplied by (N/N_j)^g, which raises rare words. With ``calibration`` γ a word's
      scores are divided by σ_j^γ, the spread of its scores over the training images, each as if left out of the fit
      (:meth:`~gpuannot.ridge.RidgeSystem.left_out`).
    * ``lda``: the two-class discriminant of every word, images with it against images without, with their common covariance
      S_j = A/N − p(1 − p)·δδᵀ, p = N_j/N and δ the difference of the two means: x·S_j⁻¹δ − mid·S_j⁻¹δ + (1 − g)·log(p/(1 − p)),
      from the same A by the Sherman–Morrison identity. With g = 0 it is the log-odds of the word.

    λ is ``regularisation`` times the mean diagonal of the system, taken by :meth:`settle` at the end of a fit, and held: so adding
    and forgetting images gives what a fit to all of them with that λ gives.

    Args:
        config: its ``head``, ``metric``, ``regularisation`` and ``balance``.

    Attributes:
        penalty: λ, None where the head has none or it is not settled.
    """

    def __init__(self, config: AnnotatorConfig) -> None:
        self.config = config
        self.penalty: float | None = None
        self._system: RidgeSystem | None = None

    def settle(self, bank: WordBank) -> None:
        """Choose λ by the bank's sums."""
        self._system, self.penalty = None, None
        if self.config.head in _SOLVED and bank.moments is not None:
            mean_diagonal = float(bank.moments.total_variance()) / bank.dimension
        elif self.config.head == "demixed":
            mean_diagonal = float(bank.counts.mean()) if len(bank.counts) else 0.0
        else:
            return
        # Images that are all alike leave nothing to divide by; any λ then gives weights of zero.
        self.penalty = self.config.regularisation * (mean_diagonal if mean_diagonal > 0 else 1.0)

    def ranking(self, bank: WordBank) -> WordRanking | LinearRanking:
        """What ranks the words of :attr:`WordBank.known`, in that order."""
        if self.config.head in LINEAR_HEADS:
            weights, bias = (part.cpu().numpy() for part in self.linear(bank))
            return LinearRanking(weights, bias)
        return WordRanking(bank.vectors() if self.config.head == "mean" else self._demixed(bank), self.config.metric)

    def linear(self, bank: WordBank) -> LinearWords:
        """Weights and bias of a linear head."""
        return {"centred": self._centred, "ridge": self._ridge, "lda": self._lda}[self.config.head](bank)

    # -- sums that change -------------------------------------------------------------------------------------------------------

    def changed(self, vectors: NDArray[np.floating] | Tensor, labels: sparse.csr_array, sign: int) -> None:
        """Images were added to the bank (``sign`` 1) or taken out (−1): vectors (B, D), labels (B, W)."""
        system = self._system
        if system is None:
            return
        if len(vectors) > vectors.shape[1] // 8 or system.images + sign * len(vectors) < 1:
            self._system = None  # to solve anew costs less
        else:
            system.update(vectors, labels, sign)

    def add_words(self, words: int) -> None:
        """Words without images were appended to the bank."""
        if self._system is not None and words:
            self._system.add_words(words)

    def keep_words(self, numbers: list[int]) -> None:
        """The bank kept the words of these numbers, in this order."""
        if self._system is not None:
            self._system.keep_words(numbers)

    def merge_words(self, word: int, into: int, both: NDArray[np.floating] | Tensor) -> None:
        """The bank merged ``word`` with ``into``, ``both`` (B, D) being the images that carry both, and removed it."""
        if self._system is not None:
            self._system.merge_words(word, into, both)
            self._system.keep_words([number for number in range(len(self._system.counts)) if number != word])

    # -- the heads --------------------------------------------------------------------------------------------------------------

    def _demixed(self, bank: WordBank) -> NDArray[np.float64]:
        assert bank.cooccurrence is not None
        known = bank.known
        system = bank.cooccurrence[known][:, known].toarray().astype(np.float64)
        system[np.diag_indices_from(system)] += self._settled(bank)
        return np.linalg.solve(system, bank.sums[known])

    def _centred(self, bank: WordBank) -> LinearWords:
        mean = _moments(bank).mean
        offsets = torch.from_numpy(bank.vectors()).to(mean.device) - mean
        norm = torch.linalg.vector_norm(offsets, dim=1, keepdim=True)
        weights = offsets / torch.where(norm > 0, norm, 1.0)
        return LinearWords(weights, -(weights @ mean))

    def _ridge(self, bank: WordBank) -> LinearWords:
        system, known = self._solved(bank)
        share = system.counts[known] / system.images
        scale = share**-self.config.balance
        if self.config.calibration:
            spread = system.left_out(self._differences(bank, system, known), known).spread
            scale = scale / torch.where(spread > 0, scale * spread, 1.0) ** self.config.calibration
        weights = system.solution[known] * scale[:, None]
        return LinearWords(weights, share * scale - weights @ system.mean)

    def _lda(self, bank: WordBank) -> LinearWords:
        system, known = self._solved(bank)
        images, counts = system.images, system.counts[known]
        others = (images - counts).clamp(min=0.5)  # a word that every image carries has weights of 0
        share = counts / (counts + others)
        # δ = C_j·N/(N_j·(N − N_j)), so that (A/N)⁻¹δ is K_j times that and N.
        to_difference = images / (counts * others)
        direction = system.solution[known] * (images * to_difference)[:, None]
        difference = self._differences(bank, system, known) * to_difference[:, None]
        separation = (direction * difference).sum(dim=1)
        weights = direction / (1 - share * (1 - share) * separation)[:, None]
        # Half-way between the two means: μ + δ·(½ − p).
        middle = system.mean + difference * (0.5 - share)[:, None]
        prior = (1 - self.config.balance) * (counts / others).log()
        return LinearWords(weights, prior - (weights * middle).sum(dim=1))

    def _differences(self, bank: WordBank, system: RidgeSystem, known: Tensor) -> Tensor:
        """C_j (len(known), D)."""
        sums = torch.from_numpy(bank.sums).to(system.mean.device)[known]
        return sums - system.counts[known, None] * system.mean

    def _solved(self, bank: WordBank) -> tuple[RidgeSystem, Tensor]:
        if self._system is None:
            self._system = RidgeSystem(bank, self._settled(bank))
        return self._system, torch.from_numpy(bank.known).to(self._system.mean.device)

    def _settled(self, bank: WordBank) -> float:
        if self.penalty is None:
            self.settle(bank)
        assert self.penalty is not None
        return self.penalty


def _moments(bank: WordBank) -> Moments:
    if bank.moments is None:
        raise ValueError("this bank keeps no sums over all images, which the head needs; make it with heads.new_bank")
    return bank.moments
