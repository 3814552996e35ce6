"""The regression behind the head ``kernel``: solved once, and kept current as images and words come and go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from ..method.words import Vectors
from .kept_images import KeptImages
from .kernel_exact import ExactKernel, kernel_values
from .kernel_landmarks import LandmarkKernel
from .kernel_ranking import KernelRanking
from .products import product
from .ridge import LeftOut

#: Images whose kernel matrix is inverted: 3.2 GB, on a GPU four times as many for a moment. Of more, so many are landmarks.
MAX_IMAGES = 20_000

# Images that may come and go, one after another, before P is made anew; rounding adds up with each.
_CHANGES = 1000
# Images whose scores are formed at once.
_BLOCK = 1024


class KernelSystem:
    """Kernel ridge regression of the 0/1 labels Y (N, W) of N images u, with a bias that is free of the penalty.

    With k(u, u') = e^(γ(u·u' − 1))/(1 − e^(−γ)) and P = (k + λI)⁻¹, the labels' prediction k(x)ᵀα + b minimises
    ‖Y − kα − 1bᵀ‖² + λ·αᵀkα where [k + λI, 1; 1ᵀ, 0]·[α; b] = [Y; 0], so b = 1ᵀPY/(1ᵀP1) and α = P(Y − 1bᵀ) = QY with
    Q = P − P11ᵀP/(1ᵀP1). The columns of α sum to 0: α = Hα with H = I − 11ᵀ/N, and H times the first row of the system reads
    (HkH + λI)·α = HY, ridge regression with the double-centred kernel matrix. Its score of x, s(x) = k̃(x)ᵀα with
    k̃(x) = H(k(x) − k1/N), differs from the prediction by ȳ alone, because over the images (kα + 1bᵀ = Y − λα) it has mean ȳ:
    s(x) = k(x)ᵀα + constant with constant = b − ȳ, and s of the images themselves is HY − λα. Centring so costs no image a thing.

    An image's leverage is h_i = 1 − λQ_ii, the same as 1 − λ[(HkH + λI)⁻¹]_ii + 1/N. By all the other images its score would be
    (s_i − h_i(y_i − ȳ))/(1 − h_i), exactly: what a fit without it predicts, less ȳ of all.

    B images more or fewer cost O(N²·B) by the inverse of a block matrix; P is made anew from the images once 1,000 changed, or an
    eighth of them at once. Of more than ``most`` images, as many are landmarks
    (:class:`~gpuannot.heads.kernel_landmarks.LandmarkKernel`), where images come and go likewise. What is to be solved
    is, when something is first asked for. Float64 on the images' device, 8·min(N, most)² bytes, on a GPU four times as many while
    it is solved. On a CPU callers hold torch to one thread, for the same bits on any number of cores, as
    :class:`~gpuannot.heads.word_head.WordHead` does.

    Args:
        images: at least one; they may change afterwards without changing this.
        penalty: λ > 0.
        width: γ > 0.
        most: images in the exact system.
        seed: of the draw of landmarks.

    Attributes:
        images: as given, kept current by the methods below.
        penalty, width, most: as given.

    Raises:
        ValueError: no image, or λ or γ is not above 0.
    """

    def __init__(self, images: KeptImages, penalty: float, width: float = 2.0, *, most: int = MAX_IMAGES, seed: int = 0) -> None:
        if not len(images) or not penalty > 0 or not width > 0:
            raise ValueError(f"expected images, λ and γ above 0; got {len(images)} images, λ = {penalty}, γ = {width}")
        self.images = images.copy()
        self.penalty, self.width, self.most, self._seed = penalty, width, most, seed
        self._solved: ExactKernel | LandmarkKernel | None = None
        self._changed = 0

    # -- what it gives ----------------------------------------------------------------------------------------------------------

    @property
    def counts(self) -> Tensor:
        """N_j (W,) float64."""
        return torch.from_numpy(self.images.labels.sum(axis=0)).to(self.images.device, torch.float64)

    @property
    def vectors(self) -> Tensor:
        """u (M, d) float16, the images that scores are sums over: all, or the landmarks."""
        return self._solve().vectors

    @property
    def solution(self) -> Tensor:
        """α (M, W)."""
        return self._solve().solution

    @property
    def constant(self) -> Tensor:
        """(W,), what s(x) is beside k(x)ᵀα."""
        return self._solve().constant

    @property
    def leverage(self) -> Tensor:
        """Mean leverage of an image, bias included: how much of its own label a prediction holds, ()."""
        return self._solve().leverage

    @property
    def kept(self) -> Tensor:
        """1 − the mean leverage, which a single image, being its own prediction, would leave at 0."""
        return (1 - self.leverage).clamp(min=1e-9)

    def scores(self, vectors: Vectors) -> Tensor:
        """s (B, W) float64 of images (B, d) that need not have been learnt from."""
        solved = self._solve()
        rows = torch.as_tensor(vectors).to(self.images.device)
        starts = range(0, max(1, len(rows)), _BLOCK)
        values = (kernel_values(rows[start : start + _BLOCK], solved.vectors, self.width) for start in starts)
        parts = [product(value, solved.solution) for value in values]
        return torch.cat(parts) + solved.constant

    def left_out(self) -> LeftOut:
        """Statistics of the scores of all words over all images, each left out of the fit; with the mean leverage."""
        solved, counts, images = self._solve(), self.counts, len(self.images)
        explained, squares = solved.sums()
        share = counts / images
        leverage, kept = self.leverage, self.kept
        variance = (squares - 2 * leverage * explained) / images + leverage**2 * share * (1 - share)
        with_word = (explained / counts.clamp(min=1) - leverage * (1 - share)) / kept
        # Scores without the images sum to 0 too.
        without_word = -with_word * share / (1 - share).clamp(min=0.5 / images)
        return LeftOut((variance / kept**2).clamp(min=0).sqrt(), with_word, without_word)

    def left_out_scores(self, rows: NDArray[np.int64], *, own: bool = False) -> Tensor:
        """Scores (B, W) of images that were learnt from, each by all the other images alone.

        Args:
            rows: which of :attr:`images`.
            own: by each image's own leverage, rather than the mean of all: exact, but that a landmark stays one.
        """
        solved = self._solve()
        fitted, labels = solved.fitted(rows), solved.targets(rows) - self.counts / len(self.images)
        leverage = solved.leverages_of(rows)[:, None] if own else self.leverage
        return (fitted - leverage * labels) / (1 - leverage).clamp(min=1e-9)

    def ranking(self, known: NDArray[np.intp], scale: Tensor, shift: Tensor) -> KernelRanking:
        """What ranks some words by κ·s + τ.

        Args:
            known: (K,) their numbers.
            scale: κ (K,).
            shift: τ (K,).
        """
        solved = self._solve()
        words = torch.from_numpy(known).to(solved.solution.device)
        weights = solved.solution[:, words] * scale
        bias = solved.constant[words] * scale + shift
        return KernelRanking(solved.vectors.cpu().numpy(), weights.cpu().numpy(), bias.cpu().numpy(), self.width)

    # -- images and words that come and go --------------------------------------------------------------------------------------

    def update(self, vectors: Vectors, labels: sparse.csr_array, sign: int = 1) -> None:
        """Add images, or take them out; some must be left.

        Args:
            vectors: (B, d) of length 1.
            labels: (B, W) 0/1.
            sign: 1 to add, −1 to take out.

        Raises:
            ValueError: shapes that do not fit, or no image would be left; nothing is changed then, as with the next.
            InvalidArgumentError: an image to take out was not learnt from.
        """
        gone = self.images.rows_of(vectors, labels) if sign < 0 else np.empty(0, np.int64)
        if len(gone) == len(self.images):
            raise ValueError("no image would be left")
        small = len(vectors) * 8 <= len(self.images)
        if sign < 0:
            self.images.remove(gone)
        else:
            self.images.update(vectors, labels, 1, None)
        self._changed += len(vectors)
        by_landmarks = isinstance(self._solved, LandmarkKernel)
        if self._solved is None or not small or self._changed > _CHANGES or by_landmarks != (len(self.images) > self.most):
            self._solved = None
        elif len(gone):
            self._solved.shrink(self.images, gone)
        elif len(vectors):
            self._solved.grow(self.images)

    def add_words(self, words: int) -> None:
        """Append words that no image carries."""
        numbers = np.arange(self.images.labels.shape[1])
        self.images.add_words(words)
        self._change_words(np.concatenate([numbers, np.full(words, -1)]))

    def keep_words(self, numbers: Sequence[int]) -> None:
        """Keep the words of these numbers, in this order."""
        self.images.keep_words(numbers)
        self._change_words(np.array(numbers, dtype=np.int64))

    def merge_words(self, word: int, into: int) -> None:
        """Let ``into`` be the word of the images that carry it or ``word``, which stays as it is."""
        both = self.images.rows_with_both(word, into)
        self.images.merge_words(word, into)
        if self._solved is not None:
            self._solved.merge_words(self.images, word, into, both)

    def _change_words(self, words: NDArray[np.int64]) -> None:
        if self._solved is not None:
            self._solved.change_words(self.images, words)

    def _solve(self) -> ExactKernel | LandmarkKernel:
        if self._solved is None:
            self._changed = 0
            if len(self.images) <= self.most:
                self._solved = ExactKernel(self.images, self.penalty, self.width)
            else:
                self._solved = LandmarkKernel(self.images, self.penalty, self.width, self.most, self._seed)
        return self._solved
