"""K-means visual words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidArgumentError


def kmeans(
    descriptors: NDArray[np.floating],
    n_centers: int,
    *,
    seed: int = 0,
    max_iterations: int = 100,
    overwrite: bool = False,
) -> tuple[NDArray[np.float32], float]:
    """Centres of a descriptor sample by Lloyd's algorithm from a k-means++ start (scikit-learn), in float32, seeded.

    On two threads at most: each adds up its own part of the descriptors, and the parts are added in the order in which the threads
    finish, which changes the sum of three but not that of two. So the same sample and seed give the same bits, run to run.

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
    from sklearn.cluster import KMeans  # half a second to import, and annotating never needs it
    from threadpoolctl import threadpool_limits

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
    model = KMeans(n_centers, init="k-means++", n_init=1, max_iter=max_iterations, random_state=seed, copy_x=False)
    with threadpool_limits(2, user_api="openmp"):
        model.fit(sample)
    return model.cluster_centers_.astype(np.float32), float(model.inertia_)


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
