"""K-means visual words."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..errors import InvalidArgumentError
from ..system.threads import for_blocks

# Descriptors are summed in parts that do not depend on the number of threads: so many of them, or fewer of so many descriptors.
_PARTS, _PART_ROWS = 32, 256
# Scores that a thread holds at once: few enough for the cache.
_SCORES = 1 << 18
# The centres stand still when their squared movement is at most this share of the mean variance of the dimensions.
_TOLERANCE = 1e-4


def kmeans(
    descriptors: NDArray[np.floating],
    n_centers: int,
    *,
    seed: int = 0,
    max_iterations: int = 100,
    overwrite: bool = False,
) -> tuple[NDArray[np.float32], float]:
    """Centres of a descriptor sample by Lloyd's algorithm from a greedy k-means++ start, in float32, seeded.

    Sums are formed over parts of the descriptors that do not depend on the number of threads, and added in the order of the parts:
    the same sample and seed give the same bits on any number of cores. A centre left without descriptors moves to one that is far
    from its own centre. It ends, by scikit-learn's rule, when the centres stand still or no assignment changes.

    Args:
        descriptors: (N, n).
        n_centers: m.
        seed: of the start.
        max_iterations: of Lloyd's algorithm, at most.
        overwrite: use the memory of float32 descriptors as scratch instead of a copy.

    Returns:
        ``centers (m, n) float32`` and the inertia, the sum of squared distances to the nearest centre.

    Raises:
        ValueError: non-finite descriptors, or fewer distinct descriptors than centres.
    """
    with np.errstate(over="ignore"):
        sample = np.array(descriptors, dtype=np.float32, order="C", copy=None if overwrite else True)
    sample += np.float32(0)  # −0 becomes 0
    if not np.isfinite(sample).all():
        raise InvalidArgumentError("the descriptors hold NaN or infinite values")
    if len(sample) < n_centers:
        raise InvalidArgumentError(f"{len(sample)} descriptors cannot make {n_centers} centres; use fewer centres, or more images")
    distinct = len(np.unique(sample, axis=0)) if len(sample) <= 20 * n_centers else _distinct_up_to(sample, n_centers)
    if distinct < n_centers:
        raise InvalidArgumentError(too_few(distinct, n_centers))
    mean = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    sample -= mean  # smaller numbers, and products that round less
    centers, inertia = _lloyd(sample, _plus_plus(sample, n_centers, seed), max_iterations)
    return centers + mean, inertia


def too_few(distinct: int, n_centers: int) -> str:
    """The message for descriptors that cannot make the centres asked for."""
    return f"the descriptors hold only {distinct} distinct values for {n_centers} centres; use fewer centres, or more varied images"


def _distinct_up_to(descriptors: NDArray[np.floating], enough: int) -> int:
    """Number of distinct rows; counting stops once there are ``enough``, so that varied data costs next to nothing."""
    seen: set[bytes] = set()
    for row in descriptors:
        seen.add(row.tobytes())
        if len(seen) >= enough:
            break
    return len(seen)


def _plus_plus(sample: NDArray[np.float32], n_centers: int, seed: int) -> NDArray[np.float32]:
    """Greedy k-means++: each next centre is the best of 2 + ln m descriptors drawn in proportion to d², the squared distance to
    the nearest centre so far; the best leaves the smallest sum of d².
    """
    random, trials = np.random.RandomState(seed), 2 + int(math.log(n_centers))
    chosen = [int(random.random_sample() * len(sample))]
    norms = _squared(sample, np.zeros((1, sample.shape[1]), np.float32), np.zeros(len(sample), np.intp))
    nearest = _nearest_squared(sample, norms, np.array(chosen), np.full(len(sample), np.inf))[0]
    while len(chosen) < n_centers:
        drawn = random.uniform(size=trials) * nearest.sum()
        candidates = np.minimum(np.searchsorted(np.cumsum(nearest), drawn), len(sample) - 1)
        left = _nearest_squared(sample, norms, candidates, nearest)
        best = int(left.sum(axis=1).argmin())
        chosen.append(int(candidates[best]))
        nearest = left[best]
    return sample[chosen]


def _nearest_squared(
    sample: NDArray[np.float32], norms: NDArray[np.float64], candidates: NDArray[np.intp], nearest: NDArray[np.float64]
) -> NDArray[np.float64]:
    """d² (K, N) where each of K candidates, by their places in the sample, joins centres that leave ``nearest`` (N,).

    Args:
        norms: ‖x‖² (N,).
    """
    # In float64, as products that all but cancel make the distances of neighbours.
    points = -2 * sample[candidates].astype(np.float64)
    left = np.empty((len(points), len(sample)))

    def measure(start: int, stop: int) -> None:
        squared = points @ sample[start:stop].T.astype(np.float64)
        squared += norms[start:stop]
        squared += norms[candidates, None]
        np.minimum(np.maximum(squared, 0), nearest[start:stop], out=left[:, start:stop])

    for_blocks(measure, len(sample), _SCORES // 64)
    left[np.arange(len(points)), candidates] = 0
    return left


class _Assigned(NamedTuple):
    """Which centre each descriptor (N,) is nearest to, and each centre's sum (m, n) float64 of its descriptors and count (m,)."""

    nearest: NDArray[np.intp]
    sums: NDArray[np.float64]
    counts: NDArray[np.int64]


def _lloyd(sample: NDArray[np.float32], centers: NDArray[np.float32], max_iterations: int) -> tuple[NDArray[np.float32], float]:
    limit = _TOLERANCE * float(sample.var(axis=0, dtype=np.float64).mean())
    assigned = _assign(sample, centers)
    for _ in range(max_iterations):
        moved = (assigned.sums / np.maximum(assigned.counts, 1)[:, None]).astype(np.float32)
        if len(empty := np.flatnonzero(assigned.counts == 0)):
            far = np.argsort(-_squared(sample, centers, assigned.nearest), kind="stable")
            moved[empty] = sample[far[: len(empty)]]
        shift = float(np.square(moved - centers, dtype=np.float64).sum())
        centers, before = moved, assigned.nearest
        assigned = _assign(sample, centers)
        if shift <= limit or np.array_equal(assigned.nearest, before):
            break
    return centers, float(_squared(sample, centers, assigned.nearest).sum())


def _assign(sample: NDArray[np.float32], centers: NDArray[np.float32]) -> _Assigned:
    rows = max(_PART_ROWS, -(-len(sample) // _PARTS))
    parts = -(-len(sample) // rows)
    negative, half_norms = np.ascontiguousarray(-centers.T), 0.5 * np.square(centers).sum(axis=1)
    index = np.empty(len(sample), np.intp)
    sums = np.zeros((parts, *centers.shape))

    def assign(start: int, stop: int) -> None:
        for first in range(start, stop, size := max(1, _SCORES // len(centers))):
            own = sample[first : min(first + size, stop)]
            scores = own @ negative
            scores += half_norms
            nearest = index[first : first + len(own)] = scores.argmin(axis=1)
            ones = np.ones(len(own), np.float32)
            indicator = sparse.csc_array((ones, nearest, np.arange(len(own) + 1)), shape=(len(centers), len(own)))
            sums[start // rows] += indicator @ own

    for_blocks(assign, len(sample), rows)
    return _Assigned(index, sums.sum(axis=0), np.bincount(index, minlength=len(centers)))


def _squared(sample: NDArray[np.float32], centers: NDArray[np.float32], index: NDArray[np.intp]) -> NDArray[np.float64]:
    """Squared distance (N,) of each descriptor to its centre."""
    squared = np.empty(len(sample))

    def measure(start: int, stop: int) -> None:
        squared[start:stop] = np.square(sample[start:stop] - centers[index[start:stop]], dtype=np.float64).sum(axis=1)

    for_blocks(measure, len(sample), _SCORES // 64)
    return squared
