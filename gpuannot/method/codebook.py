"""The codebook: m visual words, found by K-means in a sample of descriptors.

On the CPU by NumPy, with the same bits on any number of cores, on a GPU by cuML, or by :func:`kmeans_torch` where cuML is missing.
Each layer has a codebook of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InvalidArgumentError, NotFittedError
from ..reference import codebook as _reference
from ..system.device import cuml_module
from ..system.precision import exact_float32


def sample_positions(total: int, size: int, seed: int) -> NDArray[np.int64]:
    """Which of ``total`` descriptors make the K-means sample: ``size`` of them, uniform without replacement, ascending.

    The choice depends on the three numbers alone, so a fit that sees the descriptors in pieces draws the same sample.

    Returns:
        (min(size, total),) int64.
    """
    if size >= total:
        return np.arange(total, dtype=np.int64)
    generator = np.random.default_rng(np.random.SeedSequence((seed, 1)))
    return np.sort(generator.choice(total, size=size, replace=False, shuffle=False)).astype(np.int64)


class Codebook:
    """K-means visual words.

    Args:
        n_centers: m. max_iterations: most Lloyd iterations. seed: of the k-means++ start.

    Attributes:
        centers_: (m, n) float32. inertia_: sum of squared distances of the sample to its nearest centres.
    """

    centers_: NDArray[np.float32]
    inertia_: float

    def __init__(self, n_centers: int = 64, *, max_iterations: int = 100, seed: int = 0) -> None:
        self.n_centers, self.max_iterations, self.seed = n_centers, max_iterations, seed

    def fit(self, descriptors: NDArray[np.floating] | Tensor, *, overwrite: bool = False) -> Codebook:
        """Learn the centres of descriptors (N, n): a NumPy array, or a float32 CUDA tensor, which never leaves its device.

        Args:
            overwrite: a float32 array may be used as scratch memory instead of being copied.

        Raises:
            ValueError: fewer distinct descriptors than centres, or non-finite values.
        """
        if not isinstance(descriptors, Tensor):
            self.centers_, self.inertia_ = _reference.kmeans(
                descriptors, self.n_centers, seed=self.seed, max_iterations=self.max_iterations, overwrite=overwrite
            )
            return self
        _check_sample(descriptors, self.n_centers)
        cuml = cuml_module("cluster")
        fit = kmeans_torch if cuml is None else _kmeans_cuml(cuml)
        centers, self.inertia_ = fit(descriptors, self.n_centers, seed=self.seed, max_iterations=self.max_iterations)
        self.centers_ = centers.cpu().numpy()
        return self

    def on(self, device: torch.device) -> Tensor:
        """The centres (m, n) float32 on ``device``."""
        return torch.from_numpy(self.centers).to(device)

    @property
    def centers(self) -> NDArray[np.float32]:
        if not hasattr(self, "centers_"):
            raise NotFittedError("this Codebook has no centres yet; call fit first")
        return self.centers_


class LayerCodebooks:
    """A :class:`Codebook` for each layer's descriptors; arguments as there, and the number of layers first.

    Attributes:
        parts: the codebooks.
    """

    def __init__(self, layers: int, n_centers: int = 64, *, max_iterations: int = 100, seed: int = 0) -> None:
        self.parts = [Codebook(n_centers, max_iterations=max_iterations, seed=seed) for _ in range(layers)]

    def fit(self, descriptors: Callable[[int], NDArray[np.floating] | Tensor]) -> LayerCodebooks:
        """Learn the centres of one layer after another, so that the descriptors of one alone need room; errors as
        :meth:`Codebook.fit`.

        Args:
            descriptors: (N, n) of a layer, by its number; they may be overwritten.
        """
        for layer, part in enumerate(self.parts):
            part.fit(descriptors(layer), overwrite=True)
        return self

    def restore(self, centers: NDArray[np.float32]) -> None:
        """Take what :attr:`centers` gave."""
        for part, own in zip(self.parts, centers, strict=True):
            part.centers_ = own

    def on(self, device: torch.device) -> Tensor:
        """The centres (L, m, n) float32 on ``device``."""
        return torch.from_numpy(self.centers).to(device)

    @property
    def centers(self) -> NDArray[np.float32]:
        """(L, m, n) float32."""
        return np.stack([part.centers for part in self.parts])


@exact_float32()
def kmeans_torch(
    descriptors: Tensor,  # (N, n) float32
    n_centers: int,
    *,
    seed: int = 0,
    max_iterations: int = 100,
    tolerance: float = 1e-4,
) -> tuple[Tensor, float]:
    """Lloyd's algorithm from a k-means++ start, in torch, on the descriptors' device.

    Sums over a cluster are products with the indicator matrix, not atomic additions: the same seed gives the same bits. A centre
    left without descriptors moves to the descriptor that is farthest from its own. It ends when the centres' squared movement
    falls below ``tolerance`` times the mean variance of the dimensions (scikit-learn's rule), or no assignment changes.

    Returns:
        centers (m, n) float32 and the inertia.
    """
    generator = torch.Generator(descriptors.device).manual_seed(seed)
    centers = _plus_plus(descriptors, n_centers, generator)
    limit = tolerance * float(descriptors.var(dim=0, correction=0).mean())
    index, squared = _assign(descriptors, centers)
    for _ in range(max_iterations):
        moved = _update(descriptors, centers, index, squared)
        shift = float((moved - centers).square().sum())
        centers, before = moved, index
        index, squared = _assign(descriptors, centers)
        if shift <= limit or torch.equal(index, before):
            break
    return centers, float(squared.sum(dtype=torch.float64))


def _plus_plus(descriptors: Tensor, n_centers: int, generator: torch.Generator) -> Tensor:
    """Greedy k-means++: each next centre is the best of 2 + ln m descriptors drawn in proportion to d², the squared distance to
    the nearest centre so far; the best leaves the smallest sum of d².

    The draw takes the largest values of d²/e with e exponential, which has that distribution and needs no cumulative sum, whose
    float additions have no fixed order on a GPU.
    """
    trials = min(2 + int(math.log(n_centers)), len(descriptors))
    chosen = torch.randint(len(descriptors), (1,), generator=generator, device=descriptors.device)
    squared = (descriptors - descriptors[chosen]).square().sum(dim=1)
    while len(chosen) < n_centers:
        noise = torch.empty_like(squared).exponential_(generator=generator)
        candidates = (squared / noise).topk(trials).indices
        left = [torch.minimum(squared, (descriptors - descriptors[one]).square().sum(dim=1)) for one in candidates]
        best = torch.stack([part.sum(dtype=torch.float64) for part in left]).argmin()
        chosen = torch.cat([chosen, candidates[best].view(1)])
        squared = left[int(best)]
    return descriptors[chosen]


def _assign(descriptors: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest centre (N,) and squared distance to it (N,)."""
    scores = torch.addmm(0.5 * centers.square().sum(dim=1), descriptors, centers.T, alpha=-1)
    index = scores.argmin(dim=1)
    return index, (descriptors - centers[index]).square().sum(dim=1)


def _update(descriptors: Tensor, centers: Tensor, index: Tensor, squared: Tensor) -> Tensor:
    """The mean of each cluster; an empty one takes a descriptor that is far from its centre."""
    indicator = torch.nn.functional.one_hot(index, len(centers)).to(descriptors.dtype)
    counts = indicator.sum(dim=0)
    moved = indicator.T @ descriptors / counts.clamp(min=1)[:, None]
    empty = torch.nonzero(counts == 0).flatten()
    if len(empty):
        moved[empty] = descriptors[squared.topk(len(empty)).indices]
    return moved


def _kmeans_cuml(cuml: Any) -> Any:
    def fit(descriptors: Tensor, n_centers: int, *, seed: int, max_iterations: int) -> tuple[Tensor, float]:
        import cupy

        with cupy.cuda.Device(descriptors.device.index):  # cuML works on CuPy's current device
            model = cuml.KMeans(n_clusters=n_centers, max_iter=max_iterations, random_state=seed, n_init=1, output_type="cupy")
            model.fit(cupy.from_dlpack(descriptors.contiguous()))
            return torch.from_dlpack(cupy.ascontiguousarray(model.cluster_centers_, dtype=cupy.float32)), float(model.inertia_)

    return fit


def _check_sample(descriptors: Tensor, n_centers: int) -> None:
    if not bool(torch.isfinite(descriptors).all()):
        raise InvalidArgumentError("the descriptors hold NaN or infinite values")
    # Some are enough to see that there are enough; only then are all of them sorted.
    if len(descriptors) < n_centers or len(torch.unique(descriptors[: 64 * n_centers], dim=0)) < n_centers:
        distinct = len(torch.unique(descriptors, dim=0))
        if distinct < n_centers:
            raise InvalidArgumentError(_reference.too_few(distinct, n_centers))
