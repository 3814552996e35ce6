"""Heads: from the sums over labelled images to what ranks the words, each in closed form.

``mean`` and ``demixed`` make a vector for every word, and an image's words are those whose vectors are nearest. ``ridge`` makes a
linear score x·v_w + b_w, and ``kernel`` one of the similarities to all images; an image's words are those that score highest.
Annotating costs O(W·D) an image, with ``kernel`` O(N·(D + W)).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from ..config import REGRESSIONS, AnnotatorConfig
from ..method.ranking import LinearRanking, WordRanking
from ..method.words import BankExtra, WordBank
from ..system.threads import one_blas_thread, one_torch_thread
from .calibration import SAMPLE_WORDS, Logistic, Odds, SampledImages, fit_logistic, fit_rising, gaussian_odds
from .choosing import (
    DEFAULT_REGULARISATION,
    LEAST_REGULARISATION,
    Chosen,
    Reached,
    choose_regularisation,
    choose_threshold,
    most_words,
    reached,
)
from .cooccurrence import Cooccurrence
from .kept_images import KeptImages
from .kernel_ranking import KernelRanking
from .moments import Moments
from .ridge import LeftOut, RidgeSystem
from .systems import (
    LeftOutSample,
    System,
    device_of,
    images_of,
    kept_images,
    left_out,
    linear,
    merge_words,
    moments_of,
    ranking,
    solve,
)

# Predictions below this say no more against a word.
_LEAST = 1e-3


# Of more images than these, a kernel's λ is chosen by the sample alone: to solve for each is a matter of minutes.
_REFINED = 8000


def new_bank(config: AnnotatorConfig, vocabulary: tuple[str, ...], dimension: int, device: torch.device | str) -> WordBank:
    """An empty bank with the sums that the head of ``config`` needs.

    Raises:
        ValueError: vectors too long for that head.
    """
    extras: list[BankExtra] = []
    if config.head == "kernel":
        extras = [KeptImages(len(vocabulary), dimension, device)]
    elif config.head != "mean":
        extras = [Moments(dimension, device, scatter=config.head == "ridge"), Cooccurrence(len(vocabulary))]
    if config.head == "ridge":
        extras.append(SampledImages(config.seed))
    return WordBank(vocabulary, dimension, extras)


class WordHead:
    """Turns a bank's sums into a ranking, as the config's head says.

    With N_j the images of word j, μ_j their mean vector, μ that of all N images, C_j = N_j·(μ_j − μ) and A = Σ(x − μ)(x − μ)ᵀ + λI:

    * ``mean``: μ_j, the paper's equation 4.
    * ``demixed``: the paper's equation 3, I = Σ_j a_j·w_j, solved by ridge regression: (YᵀY + λI)·w = YᵀX, one W × W system.
    * ``kernel``: as ``ridge``, with the kernel matrix of all images in the place of their inner products, see
      :class:`~gpuannot.heads.kernel.KernelSystem`; λ is ``regularisation`` itself.
    * ``ridge``: regression of the 0/1 labels, v_j = A⁻¹C_j and b_j = N_j/N − μ·v_j, which leaves the bias free of the penalty.
      ``calibration`` then brings the words to one scale, by their scores over the training images as if each had been left out of
      the fit (:meth:`~gpuannot.heads.ridge.RidgeSystem.left_out`). ``none``: a word's targets are multiplied by (N/N_j)^g, g being
      ``balance``, which raises rare words. ``odds``: the log-odds of the score (:func:`~gpuannot.heads.calibration.gaussian_odds`)
      + (1 − g)·log(N_j/(N − N_j)).

    λ is ``regularisation`` times the mean diagonal of the system, taken by :meth:`settle` at the end of a fit, and held: so adding
    and forgetting images gives what a fit to all of them with that λ gives. What the config leaves open is chosen there too, by the
    bank's sample of images, each scored as if it had been left out (:mod:`~gpuannot.heads.choosing`), and held.

    Args:
        config: its ``head``, ``metric``, ``objective``, ``regularisation``, ``balance`` and ``calibration``.

    Attributes:
        penalty: λ, None where the head has none or it is not settled.
        chosen: of ``ridge`` and ``kernel``, what the fit works with; None before :meth:`settle`, and in models of old versions.
        logistic: what makes confidences of scores; learnt once by :meth:`settle`, and held. None without.
    """

    def __init__(self, config: AnnotatorConfig) -> None:
        self.config = config
        self.penalty: float | None = None
        self.chosen: Chosen | None = None
        self.logistic: Logistic | None = None
        self._system: System | None = None

    def has_sums(self, bank: WordBank) -> bool:
        """Whether the bank has what this head learns from: a model that was saved without sums has not."""
        if self.config.head == "kernel":
            return bank.extra(KeptImages) is not None
        return self.config.head == "mean" or bank.extra(Moments) is not None

    @one_torch_thread()
    def settle(self, bank: WordBank) -> None:
        """Choose λ by the bank's sums, and by its sample of images, if there is one, what the config leaves open and what makes
        confidences of scores."""
        self._system, self.penalty, self.chosen, self.logistic = None, None, None, None
        given = self.config.regularisation
        if self.config.head == "demixed":
            mean_diagonal = float(bank.counts.mean()) if len(bank.counts) else 0.0
            self.penalty = (DEFAULT_REGULARISATION if given is None else given) * _or_one(mean_diagonal)
        if self.config.head not in REGRESSIONS:
            return
        mean_diagonal, sample = 1.0, LeftOutSample(self.config, bank)  # a kernel is at most about 1
        if self.config.head == "ridge":
            mean_diagonal = _or_one(float(moments_of(bank).total_variance()) / bank.dimension)
        self.chosen = Chosen(DEFAULT_REGULARISATION if given is None else given, self._balance, None, SAMPLE_WORDS)
        self.penalty = self.chosen.regularisation * mean_diagonal
        if len(sample):
            if given is None:
                self._choose_regularisation(bank, sample, mean_diagonal)
            self._learn_confidence(bank, sample)
        bank.drop(SampledImages)

    def release(self) -> None:
        """Let go of the solved system, as large as Σxxᵀ or the kernel matrix; it is solved anew when the words change."""
        self._system = None

    @property
    def calibration(self) -> str:
        """``none`` or ``odds``, as told or as the objective has it."""
        return self.config.calibration or ("odds" if self.config.objective == "words" else "none")

    @property
    def of_logarithms(self) -> bool:
        """Whether confidences go by the logarithm of a word's score, which then is its prediction (N/N_j)^g-fold."""
        return self.config.head in REGRESSIONS and self.chosen is not None and self.calibration == "none"

    def _evidence(self, bank: WordBank, system: System, known: Tensor, scores: Tensor) -> Tensor:
        """What scores (S, len(known)) say of their words: the logarithm of the predictions, or the log-odds."""
        if self.of_logarithms:
            return (scores + self._share(system, known)).clamp(min=_LEAST).log()
        odds = self._odds(bank, system, known)
        return odds.slope * scores + odds.offset

    def _frequency(self, system: System, known: Tensor) -> Tensor:
        """log N_j/N beside logarithms, else log N_j/(N − N_j): (len(known),)."""
        return self._share(system, known).log() if self.of_logarithms else _prior(system, known)

    @property
    def _balance(self) -> float:
        """g, as it was chosen or told; where it was not, that of the objective."""
        if self.chosen is not None:
            return self.chosen.balance
        if self.config.balance is not None:
            return self.config.balance
        return 1.0 if self.config.objective == "words" else 0.0

    def _choose_regularisation(self, bank: WordBank, sample: LeftOutSample, mean_diagonal: float) -> None:
        """By the sample alone, and where that is not all images on from there, by the system of all, for as long as it gains."""
        assert self.chosen is not None
        objective = self.config.objective

        def take(regularisation: float) -> None:
            assert self.chosen is not None
            self.chosen = self.chosen._replace(regularisation=regularisation)
            self.penalty, self._system = regularisation * mean_diagonal, None

        def value() -> Reached:
            system, known = self.solved(bank)
            scores = sample.scores(system, known)
            if self.calibration == "odds":
                odds = self._odds(bank, system, known)
                return reached(odds.slope * scores + odds.offset, sample.labels[:, known], objective)
            return reached(scores + self._share(system, known), sample.labels[:, known], objective)

        gram = sample.gram()
        unit = 1.0 if self.config.head == "kernel" else _or_one(float(gram.diagonal().sum()) / bank.dimension)
        take(choose_regularisation(gram, unit, sample.labels, objective, self.calibration))
        images = len(kept_images(bank)) if self.config.head == "kernel" else moments_of(bank).images
        if len(sample) == images or len(bank.known) < 2 or (self.config.head == "kernel" and images > _REFINED):
            return
        best = value()
        while (now := self.chosen.regularisation) / 2 >= LEAST_REGULARISATION:
            take(now / 2)
            if (found := value()).value <= best.value:
                take(now)  # to solve for it again costs less than the memory of two systems
                return
            best = found

    @one_torch_thread()
    def confidence(self, bank: WordBank) -> NDArray[np.float32] | None:
        """Slope, offset and level, (3, len(known)), of a word's confidence σ(slope·t + offset + level·s), s being its score and t
        with :attr:`of_logarithms` the logarithm of it, else s itself; None where nothing was learnt."""
        if self.logistic is None:
            return None
        system, known, scale, shift = self._affine(bank)
        curve = self.logistic
        constant = curve.prior * self._frequency(system, known) + curve.constant
        if self.of_logarithms:  # of the prediction, which is the score divided by its scale
            slope, offset = torch.full_like(scale, curve.odds), constant - curve.odds * scale.log()
        else:
            odds, by = self._odds(bank, system, known), curve.slope(self._frequency(system, known))
            of_score = torch.where(scale > 0, odds.slope / scale, 0.0)
            slope, offset = by * of_score, by * (odds.offset - of_score * shift) + constant
        return torch.stack([slope, offset, torch.full_like(slope, curve.level)]).cpu().numpy().astype(np.float32)

    def _learn_confidence(self, bank: WordBank, sample: LeftOutSample) -> None:
        """From the words that the images of a sample would be given, each image scored as if it had been left out.

        Where the balance is open, it becomes that of the curve, by which words come in order of confidence.
        """
        assert self.chosen is not None
        system, known = self.solved(bank)
        images = self.config.objective == "images"
        truth, scores = sample.labels[:, known], sample.scores(system, known)
        evidence, prior = self._evidence(bank, system, known, scores), self._frequency(system, known)
        most = most_words(truth, len(known)) if images else min(SAMPLE_WORDS, len(known))
        follow = images and self.config.balance is None and self.calibration == "none"
        curve: Logistic | None = None
        for _ in range(3 if follow else 1):  # which words are given depends on the balance
            *_, scale, shift = self._affine(bank)
            given = (scores * scale + shift).topk(most, dim=1).indices
            picked = evidence.gather(1, given), prior[given], truth.gather(1, given) > 0
            values, frequency, right = (part.cpu().numpy() for part in picked)
            curve = self.logistic = fit_logistic(values.ravel(), frequency.ravel(), right.ravel(), together=not images)
            if curve is None:
                return
            if follow and curve.odds > 0:
                self.chosen = self.chosen._replace(balance=float(np.clip(-curve.prior / curve.odds, 0, 1)))
        if follow:  # by what they are ranked by alone, so that words come in order of confidence
            score = np.exp(values - self.chosen.balance * frequency)
            curve = self.logistic = fit_rising(score.ravel(), right.ravel())
            if curve is None:
                return
            curve = self.logistic = curve._replace(prior=-self.chosen.balance * curve.odds)
        if images and curve is not None:
            from scipy.special import expit  # a tenth of a second, which annotating does not need

            level = curve.level * np.exp(values - self._balance * frequency) if curve.level else 0.0
            confidence = expit(curve.odds * values + curve.prior * frequency + curve.constant + level)
            carried = truth.sum(dim=1).cpu().numpy().astype(np.int64)
            self.chosen = self.chosen._replace(threshold=choose_threshold(confidence, right, carried), words=most)

    @one_torch_thread()
    def ranking(self, bank: WordBank) -> WordRanking | LinearRanking | KernelRanking:
        """What ranks the words of :attr:`WordBank.known`, in that order."""
        if self.config.head in REGRESSIONS:
            return ranking(*self._affine(bank))
        return WordRanking(bank.vectors() if self.config.head == "mean" else self._demixed(bank), self.config.metric)

    @one_torch_thread()
    def linear(self, bank: WordBank) -> tuple[Tensor, Tensor]:
        """The score x·v + b of the words that have an image, of ``ridge``: v (len(known), D) and b (len(known),), float64."""
        system, known, scale, shift = self._affine(bank)
        assert isinstance(system, RidgeSystem)
        return linear(system, known, scale, shift)

    # -- sums that change -------------------------------------------------------------------------------------------------------

    @one_torch_thread()
    def changed(self, vectors: NDArray[np.floating] | Tensor, labels: sparse.csr_array, sign: int) -> None:
        """Images were added to the bank (``sign`` 1) or taken out (−1): vectors (B, D), labels (B, W)."""
        system = self._system
        if system is None:
            return
        many = isinstance(system, RidgeSystem) and len(vectors) > vectors.shape[1] // 8
        if many or images_of(system) + sign * len(vectors) < 1:
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

    @one_torch_thread()
    def merge_words(self, word: int, into: int, both: NDArray[np.floating] | Tensor) -> None:
        """The bank merged ``word`` with ``into``, ``both`` (B, D) being the images that carry both, and removed it."""
        if self._system is not None:
            merge_words(self._system, word, into, both)

    # -- the heads --------------------------------------------------------------------------------------------------------------

    def _demixed(self, bank: WordBank) -> NDArray[np.float64]:
        pairs = bank.extra(Cooccurrence)
        assert pairs is not None
        known = bank.known
        system = pairs.counts[known][:, known].toarray().astype(np.float64)
        system[np.diag_indices_from(system)] += self._settled(bank)
        with one_blas_thread():
            return np.linalg.solve(system, bank.sums[known])

    def _affine(self, bank: WordBank) -> tuple[System, Tensor, Tensor, Tensor]:
        """The system, the known words, and κ and τ of each: it is ranked by κ·s + τ, s being the prediction less its mean."""
        system, known = self.solved(bank)
        if self.calibration == "odds":
            odds = self._odds(bank, system, known)
            return system, known, odds.slope, odds.offset + (1 - self._balance) * _prior(system, known)
        share = self._share(system, known)
        scale = share**-self._balance
        return system, known, scale, scale * share

    def _odds(self, bank: WordBank, system: System, known: Tensor) -> Odds:
        return gaussian_odds(LeftOut(*(part[known] for part in left_out(system, bank))), system.counts[known])

    def _share(self, system: System, known: Tensor) -> Tensor:
        """N_j/N."""
        return system.counts[known] / images_of(system)

    def solved(self, bank: WordBank) -> tuple[System, Tensor]:
        """The regression over the images of a bank, of ``ridge`` and ``kernel``, and the numbers of the words with an image."""
        if self._system is None:
            self._system = solve(self.config, bank, self._settled(bank))
        return self._system, torch.from_numpy(bank.known).to(device_of(self._system))

    def _settled(self, bank: WordBank) -> float:
        if self.penalty is None:
            self.settle(bank)
        assert self.penalty is not None
        return self.penalty


def _prior(system: System, known: Tensor) -> Tensor:
    """log N_j/(N − N_j)."""
    counts = system.counts[known]
    return (counts / (images_of(system) - counts).clamp(min=0.5)).log()


def _or_one(mean_diagonal: float) -> float:
    """What λ is a multiple of. Images that are all alike leave nothing to multiply; any λ then gives weights of zero."""
    return mean_diagonal if mean_diagonal > 0 else 1.0
