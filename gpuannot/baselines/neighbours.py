"""What the neighbour baselines share: distances to the training images over one or several features, and the nearest of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .base import Baseline
from .distances import check_metric, distances

#: Most training images between which the largest distance is looked for.
_SCALE_IMAGES = 5000
#: Images whose distances to the others are held at once.
_SCALE_BLOCK = 1024


class NeighbourBaseline(Baseline):
    """A baseline that compares an image with every training image.

    The distance of two images is the mean, over the features, of each feature's distance divided by its largest value between two
    training images (of up to 5,000, a fixed random sample where there are more). So training distances lie in [0, 1]; an image
    unlike any of them may lie beyond 1.

    Training images that carry no word say nothing about words; they are left out.

    Args:
        metric: a name of :func:`~gpuannot.baselines.distances.distances`, or one for each feature, by the feature's name. None is
            ``l2`` for a single array and ``l1`` for features by name, which most often are histograms.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Attributes:
        metrics_: the metric of each feature (a single array is named ``""``).
        scales_: its largest training distance, a tensor ().
        labels_: (N, W) float32 0/1, of the N training images that carry a word.
    """

    metrics_: dict[str, str]
    scales_: dict[str, Tensor]
    _images: dict[str, Tensor]

    def __init__(self, *, metric: str | Mapping[str, str] | None = None, device: str | torch.device = "auto") -> None:
        super().__init__(device=device)
        for name in metric.values() if isinstance(metric, Mapping) else [metric] if metric is not None else []:
            check_metric(name)
        self.metric = metric

    def _fit(self, features: dict[str, Tensor]) -> None:
        carries = self.labels_.any(dim=1)
        self.labels_ = self.labels_[carries]
        self.metrics_ = self._metrics(features)
        self._images = {name: _rows(array[carries]) for name, array in features.items()}
        self.scales_ = {name: self._scale(name) for name in features}

    def _metrics(self, features: Mapping[str, Tensor]) -> dict[str, str]:
        if isinstance(self.metric, Mapping):
            if set(self.metric) != set(features):
                raise ValueError(f"metric names the features {sorted(self.metric)}, the features given are {sorted(features)}")
            return {name: self.metric[name] for name in features}
        return {name: self.metric or ("l1" if name else "l2") for name in features}

    def _scale(self, name: str) -> Tensor:
        images = self._images[name]
        if len(images) > _SCALE_IMAGES:
            chosen = np.random.default_rng(0).choice(len(images), _SCALE_IMAGES, replace=False)
            images = images[torch.from_numpy(chosen).to(images.device)]
        # Every metric is symmetric: the pairs on one side of the diagonal are all there are.
        blocks = (
            distances(images[start : start + _SCALE_BLOCK], images[start:], self.metrics_[name])
            for start in range(0, len(images), _SCALE_BLOCK)
        )
        largest = torch.stack([block.max() for block in blocks]).max()
        if not bool(torch.isfinite(largest)):
            label = f"feature {name!r}" if name else "features"
            raise DataError(f"{label}: distances between training images exceed float32; scale the values down")
        return torch.where(largest > 0, largest, 1.0)  # where all training images are alike, every distance between them is 0

    def _feature_distances(self, features: Mapping[str, Tensor]) -> Iterator[Tensor]:
        """(B, N) of each feature, divided by its scale."""
        for name, array in features.items():
            yield distances(_rows(array), self._images[name], self.metrics_[name]).div_(self.scales_[name])

    def _distances(self, features: Mapping[str, Tensor]) -> Tensor:
        """(B, N), the mean over the features."""
        total: Tensor | None = None
        for part in self._feature_distances(features):
            total = part if total is None else total.add_(part)
        assert total is not None
        return total.div_(len(features))

    def _bytes_per_image(self) -> int:
        # (N,) distances of one feature and of all, and sort keys; (W,) values that are ranked in float64, and their order.
        return 20 * len(self.labels_) + 80 * self.labels_.shape[1]


def nearest(distances: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of each row: index (B, k) int64 and distance (B, k), nearest first, ties to the lowest index.

    Args:
        distances: (B, N) float32, 0 or more.
        k: 1…N.
    """
    index = order_keys(distances).topk(k, dim=1, largest=False).values & 0xFFFFFFFF
    return index, distances.gather(1, index)


def order_keys(distances: Tensor) -> Tensor:
    """(B, N) int64 that sort as (distance, index) do; their lower 32 bits are the index.

    Unlike distances, keys never tie, so that the k smallest of them are the same on every device. The bits of a non-negative float,
    read as an integer, sort as the float does.
    """
    bits = (distances + 0.0).view(torch.int32).long()  # adding 0 makes −0 a 0
    return bits.bitwise_left_shift_(32).bitwise_or_(torch.arange(distances.shape[1], device=distances.device))


def _rows(array: Tensor) -> Tensor:
    return array.flatten(1)
