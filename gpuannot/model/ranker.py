"""From image vectors to words and how likely they are: what is derived once from a bank of words and its head."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..heads.kernel_ranking import DeviceKernelRanking, KernelRanking
from ..heads.word_head import WordHead
from ..method.ranking import DeviceLinearRanking, DeviceRanking, LinearRanking, WordRanking
from ..method.words import WordBank
from ..system.threads import one_blas_thread
from .encoder import Vectors

_LEAST = 1e-12  # a score whose logarithm makes any word unlikely


class WordRanker:
    """Ranks words and says how likely they are. It holds for one state of a bank: after a change, make another.

    Args:
        head: what makes a ranking of a bank.
        device: where image vectors are.
        ranking: where it is known; None makes it of the bank.
        curves: as :meth:`curves`, where they are known; False says that there are none, None makes them of the bank.
    """

    def __init__(
        self,
        head: WordHead,
        device: torch.device,
        ranking: LinearRanking | KernelRanking | None = None,
        curves: NDArray[np.float32] | Literal[False] | None = None,
    ) -> None:
        self._head, self._device = head, device
        self._ranking: WordRanking | LinearRanking | KernelRanking | None = ranking
        self._curves = curves
        self._device_ranking: DeviceRanking | DeviceLinearRanking | DeviceKernelRanking | None = None
        self._device_curves: Tensor | None = None

    def ranking(self, bank: WordBank) -> WordRanking | LinearRanking | KernelRanking:
        """What ranks the words that have an image."""
        if self._ranking is None:
            self._ranking = self._head.ranking(bank)
        return self._ranking

    def derive(self, bank: WordBank) -> None:
        """Make ranking and curves while the head has the solved system that they come from, and let go of that."""
        if len(bank.known):
            self.ranking(bank)
            self.curves(bank)
        self._head.release()

    def rank(self, bank: WordBank, vectors: Vectors, k: int) -> tuple[Vectors, Vectors]:
        """Nearest words of image vectors (T, D), where those are: index (T, k) int64 into the vocabulary, distance (T, k)."""
        if isinstance(vectors, Tensor):
            if self._device_ranking is None:
                self._device_ranking = self.ranking(bank).on(self._device, bank.known)
            return self._device_ranking.nearest(vectors, k)
        with one_blas_thread():
            index, distance = self.ranking(bank).nearest(vectors, k)
        return bank.known[index].astype(np.int64), distance

    def confidence(self, bank: WordBank, index: NDArray[np.int64] | Tensor, distance: Vectors) -> Any:
        """How likely each word that was given is right, 0…1 float32, by its number and distance as :meth:`rank` gives them.

        Learnt at ``fit`` from the words that training images would be given, each scored as if left out; it holds for words that
        are among the first few of an image.

        Args:
            bank: of the words.
            index: (T, k) int64.
            distance: (T, k) float32.

        Returns:
            (T, k): of arrays an array, of tensors a tensor on their device, without a wait for it. None where the model has no such
            calibration: with other heads than ``ridge`` and ``kernel``, or when all or none of those words were right.
        """
        curves = self.curves(bank)
        if curves is None:
            return None
        if isinstance(distance, Tensor):
            if self._device_curves is None or self._device_curves.device != distance.device:
                self._device_curves = torch.from_numpy(curves).to(distance.device)
            slope, offset, level = self._device_curves[:, torch.as_tensor(index)]
            on_device = (-distance).clamp(min=_LEAST).log() if self._head.of_logarithms else -distance
            return torch.sigmoid(offset + slope * on_device - level * distance)
        slope, offset, level = curves[:, index]
        score = np.log(np.maximum(-distance, _LEAST)) if self._head.of_logarithms else -distance
        from scipy.special import expit  # a tenth of a second, which a model without confidences does not need

        return expit(offset + slope * score - level * distance)

    def weak_below(self, bank: WordBank) -> float | None:
        """The confidence under which a word is weak: what the fit chose, or else a half; None without confidences."""
        if self.curves(bank) is None:
            return None
        chosen = self._head.chosen
        return 0.5 if chosen is None or chosen.threshold is None else chosen.threshold

    def curves(self, bank: WordBank) -> NDArray[np.float32] | None:
        """Slope, offset and level of each word's confidence, (3, W), as :meth:`WordHead.confidence
        <gpuannot.heads.word_head.WordHead.confidence>` has them; None where there are none."""
        if self._curves is None:
            found = self._head.confidence(bank)
            self._curves = False
            if found is not None:
                self._curves = np.zeros((3, len(bank.vocabulary)), np.float32)
                self._curves[:, bank.known] = found
        return None if self._curves is False else self._curves
