"""The one way in which training images are held out: for the search of settings, and of the baselines' hyper-parameters.

A hold-out drawn at random leaves out many rare words altogether, while a benchmark's test images show all of them: what is lost on
rare words then does not show. A *cover* hold-out has every word that two images carry on both sides, and scores those words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..errors import InvalidArgumentError

_MIXING = 20  # swaps for each held image, once all words are covered
_PATIENCE = 200  # swaps tried for each held image to cover them


def cover_holdout(
    labels: sparse.csr_array, holdout: int, seed: int, groups: Sequence[Any] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions to learn from and positions to hold out, both ascending, such that words are on both sides.

    Images are drawn at random, as many of each group as its share; then learnt and held images of a group are swapped until every
    word of two images is on both sides, where that can be, and on, at random, as long as none is lost.

    Args:
        labels: (N, W) 0/1.
        holdout: images to hold out.
        seed: of the draw.
        groups: (N,) what each image belongs to, such as the source it was taken from; None takes all as one group.

    Raises:
        ValueError: a hold-out that leaves nothing to learn from, or of less than one image.
    """
    images = labels.shape[0]
    if not 1 <= holdout < images:
        raise InvalidArgumentError(f"a hold-out of {holdout} from {images} images is not possible; choose 1…{images - 1}")
    rng = np.random.default_rng(seed)
    group = np.unique(np.asarray(groups), return_inverse=True)[1].ravel() if groups is not None else np.zeros(images, np.int64)
    held = np.zeros(images, dtype=bool)
    held[_drawn(group, holdout, rng)] = True
    swaps = _Swaps(sparse.csr_array(labels), held, group, rng)
    for _ in range(_PATIENCE * holdout):
        if not swaps.towards_cover():
            break
    for _ in range(_MIXING * holdout):
        swaps.at_random()
    return np.flatnonzero(~held).astype(np.int64), np.flatnonzero(held).astype(np.int64)


def covered_words(labels: sparse.csr_array, held: NDArray[np.int64]) -> NDArray[np.int64]:
    """The words that both the held images and the others carry: those that a cover hold-out scores."""
    count, inside = _sums(labels), _sums(labels[held])
    return np.flatnonzero((inside > 0) & (inside < count)).astype(np.int64)


def _sums(labels: sparse.csr_array) -> NDArray[np.int64]:
    return np.asarray(labels.sum(axis=0)).ravel().astype(np.int64)


def _drawn(group: NDArray[np.int64], holdout: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """``holdout`` positions, of each group its share, the largest remainders rounded up."""
    sizes = np.bincount(group)
    shares = holdout * sizes / len(group)
    quota = np.floor(shares).astype(np.int64)
    quota[np.argsort(quota - shares, kind="stable")[: holdout - quota.sum()]] += 1
    return np.concatenate([rng.choice(np.flatnonzero(group == number), count, replace=False) for number, count in enumerate(quota)])


class _Swaps:
    """Exchanges of a held image for a learnt one of its group that cover no fewer words."""

    def __init__(
        self, labels: sparse.csr_array, held: NDArray[np.bool_], group: NDArray[np.int64], rng: np.random.Generator
    ) -> None:
        self._held, self._group, self._rng = held, group, rng
        self._words = [labels.indices[labels.indptr[row] : labels.indptr[row + 1]] for row in range(labels.shape[0])]
        columns = sparse.csc_array(labels)
        self._images = [columns.indices[columns.indptr[word] : columns.indptr[word + 1]] for word in range(labels.shape[1])]
        self._count = np.array([len(images) for images in self._images])
        self._inside = _sums(labels[np.flatnonzero(held)])
        self._members = [np.flatnonzero(group == number) for number in range(int(group.max()) + 1)]

    def towards_cover(self) -> bool:
        """Try to bring a word to the side where it is missing; False where none is missing that could be there."""
        missing = np.flatnonzero((self._count > 1) & ((self._inside == 0) | (self._inside == self._count)))
        if not len(missing):
            return False
        word = self._rng.choice(missing)
        self._swap(self._rng.choice(self._images[word]))
        return True

    def at_random(self) -> None:
        self._swap(int(self._rng.integers(len(self._held))))

    def _swap(self, one: int) -> None:
        """Exchange an image for a random one of its group on the other side, unless that covers fewer words."""
        members = self._members[self._group[one]]
        others = members[self._held[members] != self._held[one]]
        if not len(others):
            return
        other = self._rng.choice(others)
        leaving, entering = (one, other) if self._held[one] else (other, one)
        words = np.union1d(self._words[leaving], self._words[entering])
        before = self._inside[words]
        after = before - np.isin(words, self._words[leaving]) + np.isin(words, self._words[entering])
        count = self._count[words]
        if _covered(after, count) >= _covered(before, count):
            self._inside[words] = after
            self._held[leaving], self._held[entering] = False, True


def _covered(inside: NDArray[np.int64], count: NDArray[np.int64]) -> int:
    return int(((inside > 0) & (inside < count)).sum())
