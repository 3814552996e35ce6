"""From images to the local features of the trunk, batch by batch: where every fit and every annotation begins."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import AnnotatorConfig
from ..errors import DataError
from ..images.batches import ImageBatches, ImageFailure
from ..images.inputs import Images, as_sequence, none_readable
from ..method.trunk import Trunk, split_layers
from ..method.weights import TrunkWeights, load_weights
from ..system.device import resolve_device
from ..system.progress import progress_bar
from .device_store import DeviceStore, new_store
from .store import FeatureStore

Store: TypeAlias = FeatureStore | DeviceStore


class FeatureExtractor:
    """Reads images and runs them through the trunk.

    Args:
        config: an :class:`~gpuannot.AnnotatorConfig`; None is the preset ``paper``.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:1``.
        changes: fields of the config to change: ``FeatureExtractor(layer="pool4")``.

    Attributes:
        failures_: images of the last call that could not be read.
    """

    def __init__(self, config: AnnotatorConfig | None = None, *, device: str | torch.device = "auto", **changes: Any) -> None:
        self.config = dataclasses.replace(config or AnnotatorConfig(), **changes)
        self.device = resolve_device(device)
        self.failures_: list[ImageFailure] = []
        split_layers(self.config.layer)
        self._weights: TrunkWeights | None = None
        self._trunk: Trunk | None = None
        self._room: int | None = None  # images that the GPU has memory for, once it had none for a batch

    def extract(
        self, images: Images, store: Store, *, positions: NDArray[np.int64] | None = None, progress: bool | None = None
    ) -> Store:
        """Run images through the trunk into a feature store; unreadable ones are added to ``failures_``.

        Args:
            positions: which of the images, ascending; None for all.

        Raises:
            DataError: not one image could be read, or the disk is full.
        """
        sources = as_sequence(images)
        chosen = np.arange(len(sources)) if positions is None else positions
        before = len(self.failures_)
        self.extract_into(sources, store, chosen, progress=progress)
        if not len(store):
            raise DataError(none_readable(len(chosen), self.failures_[before:]))
        return store

    def extract_into(
        self, sources: Sequence[Any], store: Store, positions: NDArray[np.int64], *, progress: bool | None = None
    ) -> None:
        """:meth:`extract` for which it is no error that not one image can be read."""
        for index, features in self._features(sources, positions, "trunk", progress, within_partitions=True):
            store.append(index, features)

    def new_store(self, images: int) -> Store:
        """An empty store for the features of ``images`` images: on a GPU that has room for them, else in a temporary folder."""
        patches = self.trunk.positions(self.config.input_size, self.config.input_size)
        return new_store(self.device, images, patches, self.trunk.channels, self.trunk.dtype)

    @property
    def weights(self) -> TrunkWeights:
        """The trunk's weights, loaded at first use."""
        if self._weights is None:
            self._weights = load_weights(self.config.weights, self.config.weights_convention)
        return self._weights

    @property
    def trunk(self) -> Trunk:
        """The trunk, built at first use."""
        if self._trunk is None:
            self._trunk = Trunk(
                self.weights, self.config.layer, relu=self.config.relu, dtype=self.config.trunk_dtype, device=self.device
            )
        return self._trunk

    def _features(
        self,
        sources: Sequence[Any],
        positions: NDArray[np.int64],
        title: str,
        progress: bool | None,
        failures: list[ImageFailure] | None = None,
        *,
        within_partitions: bool = False,
    ) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Decoded and run through the trunk, batch by batch: positions (B,) and features (B, P, C)."""
        failures = self.failures_ if failures is None else failures
        batches = ImageBatches(
            sources,
            size=self.config.input_size,
            batch_size=self.config.batch_size,
            positions=positions,
            interpolation=self.config.interpolation,
            within_partitions=within_partitions,
        )
        seen = 0
        with progress_bar(title, len(positions), progress) as bar:
            for index, batch in batches:
                failures.extend(batches.failures[seen:])
                seen = len(batches.failures)
                if self._on_gpu:
                    batch = batch.pin_memory().to(self.device, non_blocking=True)
                yield index, self._run_trunk(batch)
                bar.update(int(np.searchsorted(positions, index[-1])) + 1 - bar.n)
        failures.extend(batches.failures[seen:])

    def _run_trunk(self, images: Tensor) -> Tensor:
        """Features of a batch; where the GPU has no room for its activations, of its halves, and so with all later batches."""
        room = self._room
        if room is not None and len(images) > room:
            return torch.cat([self._run_trunk(part) for part in images.split(room)])
        try:
            return self.trunk(images)
        except torch.OutOfMemoryError:
            if len(images) < 2:
                raise
        torch.cuda.empty_cache()
        self._room = (len(images) + 1) // 2
        if room is None:
            warnings.warn(
                f"the GPU has no room for a batch of {len(images)} images and takes it in halves; a smaller batch_size avoids that",
                stacklevel=2,
            )
        return self._run_trunk(images)

    @property
    def _on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def _statistics_positions(self, count: int) -> NDArray[np.int64]:
        if count <= self.config.statistics_images:
            return np.arange(count, dtype=np.int64)
        generator = np.random.default_rng(np.random.SeedSequence((self.config.seed, 0)))
        return np.sort(generator.choice(count, size=self.config.statistics_images, replace=False)).astype(np.int64)
