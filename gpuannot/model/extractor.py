"""From images to the local features of the trunk, batch by batch: where every fit and every annotation begins."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import AnnotatorConfig
from ..images.batches import ImageBatches, ImageFailure
from ..method import trunks
from ..method.trunks.protocol import LoadedTrunk, LocalFeatures
from ..system.device import out_of_memory, resolve_device
from .store import WritableStore, new_store

_Found = TypeVar("_Found")


class FeatureExtractor:
    """Reads images and runs them through the trunk.

    Args:
        config: trunk, layers, input size and weights.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:1``. With a trunk that is given: its own.
        loaded: the weights that the config names, where they are loaded already, or a trunk; None loads them at first use.
        new: a fit begins with it, see :func:`~gpuannot.method.trunks.settle`.

    Attributes:
        config: with what it leaves to the trunk.
        failures: images of the last call that could not be read; callers start a new list.
    """

    def __init__(
        self,
        config: AnnotatorConfig,
        device: str | torch.device = "auto",
        *,
        loaded: LoadedTrunk | None = None,
        new: bool = False,
    ) -> None:
        given = loaded if isinstance(loaded, trunks.GivenTrunk) else None
        self.config = trunks.resolve(config, given)
        self.device = given.device(device) if given is not None else resolve_device(device)
        if new and given is None:
            self.config = trunks.settle(self.config, self.device)
        self.failures: list[ImageFailure] = []
        self._weights = loaded
        self._trunk: LocalFeatures | None = None
        self._room: int | None = None  # images that the GPU has memory for, once it had none for a batch

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a CUDA device."""
        return self.device.type == "cuda"

    @property
    def loaded(self) -> LoadedTrunk | None:
        """The trunk's weights, if they are loaded already."""
        return self._weights

    @property
    def weights(self) -> LoadedTrunk:
        """The trunk's weights, loaded at first use."""
        if self._weights is None:
            self._weights = trunks.load(self.config)
        return self._weights

    @property
    def trunk(self) -> LocalFeatures:
        """The trunk, built at first use."""
        if self._trunk is None:
            self._trunk = trunks.build(self.weights, self.config, self.device)
        return self._trunk

    def share(self, other: FeatureExtractor) -> None:
        """Take the trunk and weights of another extractor of the same device and trunk settings."""
        self._weights, self._trunk = other.weights, other.trunk

    def __getstate__(self) -> dict[str, Any]:
        # A trunk that has run holds oneDNN's packed weights, which can be neither copied nor pickled; the copy builds its own.
        return {**vars(self), "_trunk": None}

    @property
    def patches(self) -> int:
        """P, local features of an image."""
        return self.trunk.positions(self.config.input_size, self.config.input_size)

    def new_store(self, images: int) -> WritableStore:
        """An empty store for the features of ``images`` images: on a GPU that has room for them, else in a temporary folder."""
        return new_store(self.device, images, self.patches, self.trunk.channels, self.trunk.dtype)

    def extract(
        self,
        sources: Sequence[Any],
        store: WritableStore,
        positions: NDArray[np.int64],
        *,
        advance: Callable[[int], object] | None = None,
    ) -> None:
        """Run images through the trunk into a store; unreadable ones are added to ``failures``.

        Args:
            sources: images of a data set.
            positions: which of them, ascending.
            advance: told how many images each batch took.

        Raises:
            DataError: the disk is full.
        """
        for index, features in self.features(sources, positions, advance=advance, within_partitions=True):
            store.append(index, features)

    def features(
        self,
        sources: Sequence[Any],
        positions: NDArray[np.int64] | None = None,
        *,
        advance: Callable[[int], object] | None = None,
        within_partitions: bool = False,
        apart: bool = False,
    ) -> Iterator[tuple[NDArray[np.int64], Any]]:
        """Images decoded and run through the trunk, batch by batch: positions (B,) and features (B, P, C).

        Args:
            sources: images of a data set.
            positions: which of them, ascending; None takes all.
            advance: told how many images each batch took.
            within_partitions: no batch lies in two partitions.
            apart: give what :meth:`run_layers` gives.
        """
        run = self.run_layers if apart else self.run_trunk
        batches = ImageBatches(
            sources,
            size=self.config.input_size,
            batch_size=self.config.batch_size,
            positions=positions,
            interpolation=self.config.interpolation,
            within_partitions=within_partitions,
        )
        seen = taken = 0
        for index, batch in batches:
            self.failures.extend(batches.failures[seen:])
            seen = len(batches.failures)
            yield index, run(batch.pin_memory().to(self.device, non_blocking=True) if self.on_gpu else batch)
            if advance is not None:
                reached = int(np.searchsorted(batches.positions, index[-1])) + 1
                advance(reached - taken)
                taken = reached
        self.failures.extend(batches.failures[seen:])
        if advance is not None:
            advance(len(batches.positions) - taken)

    def run_trunk(self, images: Tensor) -> Tensor:
        """Features (B, P, C) of a decoded batch (B, 3, S, S) uint8.

        Where the GPU has no room for its activations, they are those of its halves, and so with all later batches.
        """
        return self._in_room(images, self.trunk, torch.cat)

    def run_layers(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """:meth:`run_trunk`, but on a GPU the features (B, P, C) of each layer by themselves, as encoding takes them."""
        if not self.on_gpu:
            return self.run_trunk(images)
        return self._in_room(images, self.trunk.layer_features, lambda parts: tuple(map(torch.cat, zip(*parts, strict=True))))

    def _in_room(self, images: Tensor, run: Callable[[Tensor], _Found], join: Callable[[list[_Found]], _Found]) -> _Found:
        room = self._room
        if room is not None and len(images) > room:
            return join([self._in_room(part, run, join) for part in images.split(room)])
        try:
            return run(images)
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if len(images) < 2 or not out_of_memory(error):
                raise
        torch.cuda.empty_cache()
        self._room = (len(images) + 1) // 2
        if room is None:
            warnings.warn(
                f"the GPU has no room for a batch of {len(images)} images and takes it in halves; a smaller batch_size avoids that",
                stacklevel=3,
            )
        return self._in_room(images, run, join)
