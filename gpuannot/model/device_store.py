"""Local features of many images in GPU memory: :class:`~gpuannot.model.store.FeatureStore` where the device has room for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .store import FeatureStore

# The rest is for the trunk's activations, and for what others keep on the device.
_SHARE_OF_FREE_MEMORY = 0.4


class DeviceStore:
    """Features (N, P, C) of N images on one CUDA device, with the interface of FeatureStore."""

    def __init__(self, patches: int, channels: int, dtype: torch.dtype) -> None:
        self.patches, self.channels, self.dtype = patches, channels, dtype
        self._blocks: list[tuple[NDArray[np.int64], Tensor]] = []

    @property
    def positions(self) -> NDArray[np.int64]:
        return np.concatenate([np.empty(0, np.int64), *(positions for positions, _ in self._blocks)])

    def __len__(self) -> int:
        return sum(len(positions) for positions, _ in self._blocks)

    def append(self, positions: NDArray[np.int64], features: Tensor) -> None:
        """Add features (B, P, C) of the images at ``positions`` (B,); the tensor is kept, not copied."""
        self._blocks.append((np.asarray(positions, dtype=np.int64), features))

    def blocks(self, *, within_partitions: bool = False) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """All features in order, as they were appended: within partitions where they were."""
        yield from self._blocks

    def close(self) -> None:
        """Let go of the memory."""
        self._blocks.clear()

    def __enter__(self) -> DeviceStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def new_store(
    device: torch.device, images: int, patches: int, channels: int, dtype: torch.dtype, folder: str | Path | None = None
) -> FeatureStore | DeviceStore:
    """A store for ``images`` images: on a GPU that has room for them there, else on disk."""
    if device.type == "cuda" and folder is None:
        free, _ = torch.cuda.mem_get_info(device)
        if images * patches * channels * dtype.itemsize <= _SHARE_OF_FREE_MEMORY * free:
            return DeviceStore(patches, channels, dtype)
    return FeatureStore.create(folder, patches, channels, dtype)
