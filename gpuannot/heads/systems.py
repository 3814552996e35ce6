"""The regressions behind the heads ``ridge`` and ``kernel``, and what both are asked for: one over sums, one over the images."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import AnnotatorConfig
from ..method.ranking import LinearRanking
from ..method.words import Vectors, WordBank
from .calibration import SAMPLE_IMAGES, SampledImages, random_numbers
from .kept_images import KeptImages
from .kernel import KernelSystem
from .kernel_exact import kernel_values
from .kernel_ranking import KernelRanking
from .moments import Moments
from .products import gram, product
from .projection import projection_images
from .ridge import LeftOut, RidgeSystem

System: TypeAlias = RidgeSystem | KernelSystem

# Fewer images that the projection has not seen do not tell how much the others' scores fall short.
_FEWEST = 20


def solve(config: AnnotatorConfig, bank: WordBank, penalty: float) -> System:
    """The regression of ``config.head`` over the images of a bank, λ being ``penalty``."""
    if config.head == "kernel":
        return KernelSystem(kept_images(bank), penalty, config.kernel_width, seed=config.seed)
    return RidgeSystem(bank, penalty)


def images_of(system: System) -> int:
    """N, the images that were learnt from."""
    return len(system.images) if isinstance(system, KernelSystem) else system.images


def device_of(system: System) -> torch.device:
    return system.images.device if isinstance(system, KernelSystem) else system.mean.device


def left_out(system: System, bank: WordBank) -> LeftOut:
    """Statistics of the scores of all words, each image left out of the fit."""
    if isinstance(system, KernelSystem):
        return system.left_out()
    return system.left_out(torch.from_numpy(bank.sums).to(system.mean.device))


def ranking(system: System, known: Tensor, scale: Tensor, shift: Tensor) -> LinearRanking | KernelRanking:
    """What ranks the words ``known`` (K,) by κ·s + τ, κ and τ (K,)."""
    if isinstance(system, KernelSystem):
        return system.ranking(known.cpu().numpy(), scale, shift)
    weights, bias = linear(system, known, scale, shift)
    return LinearRanking(weights.cpu().numpy(), bias.cpu().numpy())


def linear(system: RidgeSystem, known: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """κ·s + τ as weights (K, D) and bias (K,)."""
    solution = system.solution if len(known) == len(system.solution) else system.solution[known]
    return solution * scale[:, None], shift - scale * product(solution, system.mean[:, None])[:, 0]


def merge_words(system: System, word: int, into: int, both: Vectors) -> None:
    """Make one word of two, ``both`` (B, D) being the images that carry both, and remove ``word``."""
    if isinstance(system, KernelSystem):
        system.merge_words(word, into)
    else:
        system.merge_words(word, into, both)
    system.keep_words([number for number in range(len(system.counts)) if number != word])


class LeftOutSample:
    """Images that were learnt from, to be scored as if they had been left out: at most so many as a bank samples.

    Attributes:
        labels: (S, W) float64 0/1.
    """

    labels: Tensor

    def __init__(self, config: AnnotatorConfig, bank: WordBank) -> None:
        self._width = config.kernel_width
        self._rows: NDArray[np.int64] | None = None
        if config.head == "kernel":
            images = kept_images(bank)
            self._rows = np.argsort(random_numbers(images.keys, config.seed), kind="stable")[:SAMPLE_IMAGES]
            self._vectors = images.vectors[torch.from_numpy(self._rows).to(images.device)]
            self.labels = torch.from_numpy(images.labels[self._rows].toarray()).to(images.device, torch.float64)
            self._unseen = self._count_unseen(config, len(images))
            return
        sample, device = bank.extra(SampledImages), moments_of(bank).device
        if sample is None or not len(sample):
            self._vectors, self.labels = torch.empty((0, bank.dimension)), torch.empty((0, len(bank.vocabulary)))
        else:
            self._vectors, self.labels = sample.vectors(device), sample.labels(device)
        self._unseen = self._count_unseen(config, moments_of(bank).images)

    def _count_unseen(self, config: AnnotatorConfig, images: int) -> int:
        """How many of the images the projection was not learnt from; they come first."""
        left = images - projection_images(images, config.projection_sample) if config.projection else images
        return min(len(self), left)

    def __len__(self) -> int:
        return len(self.labels)

    def scores(self, system: System, known: Tensor) -> Tensor:
        """Scores (S, K) of the words ``known`` by all the other images that the system was solved from.

        Those of images that the projection was learnt from are lower than those of images that come later, see
        :func:`~gpuannot.heads.projection.projection_images`: they are brought to the root mean square of the others.
        """
        if isinstance(system, KernelSystem):
            assert self._rows is not None
            scores = system.left_out_scores(self._rows, own=True)[:, known]
        else:
            scores = system.left_out_scores(self._vectors, self.labels[:, known], known)
        if _FEWEST <= self._unseen < len(self):
            unseen, seen = scores[: self._unseen], scores[self._unseen :]
            power = seen.square().mean()
            seen *= torch.where(power > 0, unseen.square().mean() / power, 1.0).sqrt()
        return scores

    def gram(self) -> Tensor:
        """The centred inner products (S, S) of these images alone, by the kernel where there is one."""
        if self._rows is None:
            exact = self._vectors.double()
            return gram(exact.sub_(exact.mean(dim=0)))
        values = kernel_values(self._vectors, self._vectors, self._width)
        mean = values.mean(dim=0)
        return values - mean - mean[:, None] + mean.mean()


def kept_images(bank: WordBank) -> KeptImages:
    """The images that a bank of the head ``kernel`` keeps."""
    images = bank.extra(KeptImages)
    if images is None:
        raise ValueError("this bank keeps no images, which the head needs; make it with new_bank")
    return images


def moments_of(bank: WordBank) -> Moments:
    """The sums over all images that a bank keeps for the heads ``demixed`` and ``ridge``."""
    moments = bank.extra(Moments)
    if moments is None:
        raise ValueError("this bank keeps no sums over all images, which the head needs; make it with new_bank")
    return moments
