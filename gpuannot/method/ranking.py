"""The k nearest words (the paper's equation 6), or the k that a linear head scores highest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import METRICS
from ..errors import InvalidArgumentError
from ..reference import ranking as _reference
from ..system.precision import exact_float32
from . import pairs


class WordRanking:
    """Word vectors made ready for ranking: converted, and for ``cosine`` normalised, once.

    Args:
        word_vectors: (W, D).
        metric: ``l2``, or ``cosine`` for 1 − cosine similarity. An all-zero vector has similarity 0 to everything.

    Raises:
        ValueError: another metric.
    """

    def __init__(self, word_vectors: NDArray[np.floating], metric: str = "l2") -> None:
        if metric not in METRICS:
            raise InvalidArgumentError(f"metric {metric!r} is unknown; choose one of {', '.join(METRICS)}")
        self.metric = metric
        prepared = self._prepare(np.asarray(word_vectors, dtype=np.float64)).astype(np.float32)
        # On the unit sphere L2 and cosine rank alike, but an all-zero vector is not on it: a coordinate of its own puts it there,
        # at a right angle to every image.
        zero: NDArray[np.bool_] = ~np.any(prepared, axis=1) if metric == "cosine" else np.zeros(len(prepared), dtype=bool)
        self._extra = bool(zero.any())
        self.word_vectors = np.hstack([prepared, zero[:, None].astype(np.float32)]) if self._extra else prepared
        self._half_norms = _reference.half_norms_of(self.word_vectors)

    def nearest(self, vectors: NDArray[np.floating], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k nearest words of each image, nearest first, ties to the lowest word index.

        Args:
            vectors: (T, D).

        Returns:
            index (T, k) int64 and distance (T, k) float32. Equation 6 writes "sim" for this distance: smaller is better.

        Raises:
            ValueError: k outside 1…W, or non-finite vectors.
        """
        prepared = self._prepare(vectors.astype(np.float32, copy=False))
        if self._extra:
            prepared = np.hstack([prepared, np.zeros((len(prepared), 1), dtype=np.float32)])
        index, distance = _reference.nearest_words(prepared, self.word_vectors, k, self._half_norms, exact=pairs.squared_distances)
        if self.metric == "cosine":
            # ‖x − v‖² = ‖x‖² + 1 − 2·cos, where ‖x‖ is 1, or 0 for an image vector of zeros.
            squared_norm = np.square(prepared, dtype=np.float64).sum(axis=1, keepdims=True)
            distance = np.maximum(0.0, 1.0 - (squared_norm + 1.0 - distance**2) / 2)
            blank = squared_norm[:, 0] == 0  # at a right angle to every word: all tie, where rounding would choose
            index[blank], distance[blank] = np.arange(k), 1.0
        return index, distance.astype(np.float32)

    def on(self, device: torch.device, known: NDArray[np.intp]) -> DeviceRanking:
        """The same ranking on ``device``.

        Args:
            known: (W,) each word vector's number in the vocabulary.
        """
        return DeviceRanking(self.word_vectors, known, device, cosine=self.metric == "cosine", extra=self._extra)

    def _prepare(self, vectors: NDArray[np.floating]) -> NDArray[np.floating]:
        if self.metric == "l2":
            return vectors
        with np.errstate(invalid="ignore"):  # infinite values are refused where vectors are compared
            norm = np.linalg.norm(vectors, axis=1, keepdims=True)
            return vectors / np.where(norm > 0, norm, norm.dtype.type(1))


class DeviceRanking:
    """:class:`WordRanking` on the device of the image vectors and without a wait for it.

    Candidates come from one product, ‖v‖²/2 − x·v, with ‖v‖² computed once; the k nearest and their order from ‖x − v‖² of the
    candidates, summed in float64, ties to the lowest index: by one kernel on a GPU, in torch elsewhere and for candidates by the
    thousand, with differences and squares in float32. At most a block of images × words is held.

    Of equal word vectors only the first k can be given, so the others are no candidates; 2k candidates then hold every one that a
    tie could bring in.

    Args:
        word_vectors: (W, D) float32, prepared by :class:`WordRanking`.
        known: (W,) their numbers in the vocabulary.
    """

    _BLOCK_BYTES = 256 << 20
    _MARGIN = 8

    def __init__(
        self, word_vectors: NDArray[np.float32], known: NDArray[np.intp], device: torch.device, *, cosine: bool, extra: bool
    ) -> None:
        self.cosine, self.extra = cosine, extra
        self.word_vectors = torch.from_numpy(word_vectors).to(device)
        half_norms = (0.5 * self.word_vectors.double().square().sum(dim=1)).float()
        self._base = _WithoutCopies(half_norms, _copy_number(word_vectors), torch.inf)
        self.known = torch.from_numpy(known.astype(np.int64)).to(device)

    def nearest(self, vectors: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest words of each image, nearest first.

        Args:
            vectors: (T, D) float32.

        Returns:
            index (T, k) int64 and distance (T, k) float32.

        Raises:
            ValueError: k outside 1…W.
        """
        words, dimension = self.word_vectors.shape
        take = _candidates_for(k, words, self._MARGIN)
        gathered = 0 if _by_kernel(vectors, take) else 3 * take * dimension
        block = max(1, self._BLOCK_BYTES // (4 * (words + gathered)))
        return in_blocks(lambda rows: self._nearest(rows, k, take), vectors, k, block)

    @exact_float32()
    def _nearest(self, rows: Tensor, k: int, take: int) -> tuple[Tensor, Tensor]:
        if self.cosine:
            norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
            rows = rows / torch.where(norm > 0, norm, 1.0)
        if self.extra:
            rows = torch.nn.functional.pad(rows, (0, 1))
        scores = torch.addmm(self._base(k), rows, self.word_vectors.T, alpha=-1)
        candidates = scores.topk(take, dim=1, largest=False, sorted=False).indices
        if _by_kernel(rows, take):
            from ..kernels import rank_candidates

            metric = "cosine" if self.cosine else "l2"
            return rank_candidates(rows.contiguous(), self.word_vectors, self.known, candidates, k, score=metric)
        # Ascending numbers, so that the stable sort below leaves ties in the order of the vocabulary.
        candidates = candidates.sort(dim=1).values
        squared = (rows[:, None, :] - self.word_vectors[candidates]).square().sum(dim=2, dtype=torch.float64)
        squared, order = squared.sort(dim=1, stable=True)
        index, squared = candidates.gather(1, order[:, :k]), squared[:, :k]
        if self.cosine:
            squared_norm = rows.double().square().sum(dim=1, keepdim=True)
            distance = (1.0 - (squared_norm + 1.0 - squared) / 2).clamp_(min=0.0)
            blank = squared_norm == 0
            index = torch.where(blank, torch.arange(k, device=index.device), index)
            distance = torch.where(blank, torch.ones_like(distance), distance)
        else:
            distance = squared.sqrt()
        return self.known[index], distance.float()


class LinearRanking:
    """Words ranked by the linear score x·v_w + b_w, the highest first.

    Args:
        weights: (W, D), kept in float32, which is what is ranked by.
        bias: (W,), likewise.
    """

    def __init__(self, weights: NDArray[np.floating], bias: NDArray[np.floating]) -> None:
        # In C order, as they come back from a file: a product rounds otherwise in the other order.
        self.weights, self.bias = np.array(weights, dtype=np.float32, order="C"), bias.astype(np.float32)

    def nearest(self, vectors: NDArray[np.floating], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k best words of each image, best first, ties to the lowest word index.

        Args:
            vectors: (T, D).

        Returns:
            index (T, k) int64 and the negative score (T, k) float32, which stands where :class:`WordRanking` has a distance:
            smaller is better.

        Raises:
            ValueError: k outside 1…W, or non-finite vectors.
        """
        rows = vectors.astype(np.float32, copy=False)
        index, score = _reference.best_words(rows, self.weights, self.bias, k, exact=pairs.products)
        return index, -score.astype(np.float32)

    def on(self, device: torch.device, known: NDArray[np.intp]) -> DeviceLinearRanking:
        """The same ranking on ``device``.

        Args:
            known: (W,) each word's number in the vocabulary.
        """
        return DeviceLinearRanking(self.weights, self.bias, known, device)


class DeviceLinearRanking:
    """:class:`LinearRanking` on the device of the image vectors and without a wait for it.

    Candidates come from one product; the k best and their order from products summed in float64, ties to the lowest index: where,
    and of which words, as in :class:`DeviceRanking`.

    Args:
        weights: (W, D) float32.
        bias: (W,) float32.
        known: (W,) the words' numbers in the vocabulary.
    """

    _BLOCK_BYTES = 256 << 20
    _MARGIN = 8

    def __init__(
        self, weights: NDArray[np.float32], bias: NDArray[np.float32], known: NDArray[np.intp], device: torch.device
    ) -> None:
        self.weights, self.bias = torch.from_numpy(weights).to(device), torch.from_numpy(bias).to(device)
        self._base = _WithoutCopies(self.bias, _copy_number(np.hstack([weights, bias[:, None]])), -torch.inf)
        self.known = torch.from_numpy(known.astype(np.int64)).to(device)

    def nearest(self, vectors: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k best words of each image, best first.

        Args:
            vectors: (T, D) float32.

        Returns:
            index (T, k) int64 and the negative score (T, k) float32.

        Raises:
            ValueError: k outside 1…W.
        """
        words, dimension = self.weights.shape
        take = _candidates_for(k, words, self._MARGIN)
        gathered = 0 if _by_kernel(vectors, take) else 5 * take * dimension
        block = max(1, self._BLOCK_BYTES // (4 * (words + gathered)))
        return in_blocks(lambda rows: self._nearest(rows, k, take), vectors, k, block)

    @exact_float32()
    def _nearest(self, rows: Tensor, k: int, take: int) -> tuple[Tensor, Tensor]:
        candidates = torch.addmm(self._base(k), rows, self.weights.T).topk(take, dim=1, sorted=False).indices
        if _by_kernel(rows, take):
            from ..kernels import rank_candidates

            return rank_candidates(rows.contiguous(), self.weights, self.known, candidates, k, score="linear", bias=self.bias)
        candidates = candidates.sort(dim=1).values
        exact = (rows[:, None, :].double() * self.weights[candidates]).sum(dim=2) + self.bias[candidates]
        exact, order = exact.sort(dim=1, descending=True, stable=True)
        return self.known[candidates.gather(1, order[:, :k])], -exact[:, :k].float()


class _WithoutCopies:
    """What is added to the products of a ranking, such that of equal words the first k alone are candidates.

    Args:
        base: (W,) of all words.
        copy: (W,) how many words before each equal it.
        never: what keeps a word out.
    """

    def __init__(self, base: Tensor, copy: NDArray[np.int64], never: float) -> None:
        self._base, self._most, self._never = base, int(copy.max(initial=0)), never
        self._copy = torch.from_numpy(copy).to(base.device)

    def __call__(self, k: int) -> Tensor:
        return self._base if k > self._most else self._base.masked_fill(self._copy >= k, self._never)


def _by_kernel(vectors: Tensor, take: int) -> bool:
    """Whether the kernel ranks that many candidates."""
    if not vectors.is_cuda:
        return False
    from ..kernels.ranking import MOST_CANDIDATES

    return take <= MOST_CANDIDATES


def _candidates_for(k: int, words: int, margin: int) -> int:
    """Candidates that hold the k first words, ties at the cut included."""
    if not 1 <= k <= words:
        raise InvalidArgumentError(f"k = {k} must lie in 1…{words}, the number of words that can be given")
    return min(max(2 * k, k + margin), words)


def in_blocks(nearest: Callable[[Tensor], tuple[Tensor, Tensor]], vectors: Tensor, k: int, block: int) -> tuple[Tensor, Tensor]:
    """``nearest`` of image vectors (T, D), ``block`` of them at once: index (T, k) int64 and distance (T, k) float32."""
    parts = [nearest(vectors[start : start + block]) for start in range(0, len(vectors), block)]
    if len(parts) == 1:
        return parts[0]
    if not parts:
        empty = vectors.new_empty((0, k), dtype=torch.float32)
        return empty.long(), empty
    index, distance = (torch.cat(part) for part in zip(*parts, strict=True))
    return index, distance


def _copy_number(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """For each row, how many rows before it equal it."""
    seen: dict[bytes, int] = {}
    numbers = np.empty(len(vectors), dtype=np.int64)
    for position, row in enumerate(vectors + np.float32(0)):  # −0 equals 0
        key = row.tobytes()
        numbers[position] = seen.get(key, 0)
        seen[key] = int(numbers[position]) + 1
    return numbers
