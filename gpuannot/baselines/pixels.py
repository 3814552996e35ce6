"""The images a network learns from: decoded once and kept, or decoded again in every epoch; crops and flips on the device."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ModelFileError
from ..images.batches import ImageBatches, ImageFailure
from ..system.atomic_files import replacing
from ..system.progress import progress_bar


class DecodedImages:
    """All readable images of a data set as S×S pixels.

    Every image is decoded once here, so that unreadable ones are known before training. The pixels are kept where all of them fit
    into ``memory`` bytes; else :meth:`batches` decodes again, ahead of the training.

    Args:
        size: S.
        batch_size: images decoded at a time.

    Attributes:
        positions: (N,) int64, ascending: the images that could be read.
        failures: the others.
        sha256: of positions and pixels.
    """

    def __init__(
        self, sources: Sequence[Any], size: int, *, interpolation: str, batch_size: int, memory: int, progress: bool | None
    ) -> None:
        self._sources, self._size, self._interpolation = sources, size, interpolation
        kept = len(sources) * size * size * 3 <= memory
        self._pixels = np.empty((len(sources), size, size, 3), np.uint8) if kept else None
        digest = hashlib.sha256()
        read: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        batches = ImageBatches(sources, size=size, batch_size=batch_size, interpolation=interpolation)
        with progress_bar("decode", len(sources), progress) as bar:
            for index, batch in batches:
                pixels = batch.permute(0, 2, 3, 1).numpy()
                digest.update(index.tobytes())
                digest.update(pixels.data)
                if self._pixels is not None:
                    self._pixels[index] = pixels
                read.append(index)
                bar.update(int(index[-1]) + 1 - bar.n)
        self.positions = np.concatenate(read)
        self.failures: list[ImageFailure] = batches.failures
        self.sha256 = digest.hexdigest()

    def batches(self, positions: NDArray[np.int64], batch_size: int) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """The images at ``positions``, in that order: positions (B,) and pixels (B, 3, S, S) uint8, channels-last, on the CPU.

        Raises:
            ImageError: an image that could be read before cannot be read now.
        """
        if self._pixels is None:
            yield from ImageBatches(
                self._sources,
                size=self._size,
                batch_size=batch_size,
                positions=positions,
                interpolation=self._interpolation,
                on_error="raise",
            )
            return
        for start in range(0, len(positions), batch_size):
            index = positions[start : start + batch_size]
            yield index, torch.from_numpy(self._pixels[index]).permute(0, 3, 1, 2)


class Inputs:
    """Batches of what the trained layers see: windows of the images on the device, or features that never change.

    Args:
        size: side of the windows.
        flip: mirror every other image, at random.
        batch_size: images of a batch.

    Attributes:
        features: (N, …) float16 by position, once :meth:`fix` has computed them: on the device, or mapped from a file.
    """

    features: Tensor | None = None

    def __init__(self, decoded: DecodedImages, size: int, *, flip: bool, batch_size: int, device: torch.device) -> None:
        self._decoded, self._size, self._flip, self._batch_size, self._device = decoded, size, flip, batch_size, device

    def batches(self, positions: NDArray[np.int64], rng: np.random.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The images at ``positions``, in that order.

        Args:
            rng: draws windows and mirrored images; None takes the middle of each image as it is.

        Yields:
            positions (B,) int64, and (B, 3, size, size) uint8 or features (B, …) float16, all on the device.
        """
        if self.features is not None:
            for start in range(0, len(positions), self._batch_size):
                index = torch.from_numpy(positions[start : start + self._batch_size])
                here = to_device(index, self._device)
                yield here, to_device(self.features[here if self.features.is_cuda else index], self._device)
            return
        for chosen, pixels in self._decoded.batches(positions, self._batch_size):
            index, images = (to_device(part, self._device) for part in (torch.from_numpy(chosen), pixels))
            if rng is None:
                yield index, centre_crop(images, self._size)
                continue
            window = rng.integers(images.shape[2] - self._size + 1, size=(2, len(chosen)))
            flip = rng.integers(2, size=len(chosen)) == 1 if self._flip else np.zeros(len(chosen), bool)
            top, left, mirrored = (to_device(torch.from_numpy(values), self._device) for values in (*window, flip))
            yield index, crops(images, self._size, top, left, mirrored)

    def fix(self, embed: Callable[[Tensor], Tensor], memory: int, file: Path | None, progress: bool | None) -> None:
        """Compute ``embed`` (B, 3, size, size) → (B, …) float16 of the middle of every image, once and for all.

        Args:
            memory: bytes that the features may take on the device; more stay in the file, or without one are not kept.
            file: where they go; what is there already is taken for them.

        Raises:
            ModelFileError: the file cannot be written.
        """
        positions = self._decoded.positions
        blank = torch.zeros((1, 3, self._size, self._size), dtype=torch.uint8, device=self._device)
        shape = (int(positions[-1]) + 1, *embed(blank).shape[1:])
        fits = 2 * math.prod(shape) <= memory
        if file is not None:
            try:
                if not file.is_file():
                    with replacing(file) as partial:
                        kept = np.lib.format.open_memmap(partial, "w+", np.float16, shape)
                        self._fill(torch.from_numpy(kept), embed, progress)
                        kept.flush()
                mapped = torch.from_numpy(np.lib.format.open_memmap(file, "r+"))
            except OSError as error:
                raise ModelFileError(f"cannot write the frozen layers' features to {file} ({error})") from error
            self.features = mapped.to(self._device, copy=True) if fits else mapped
        elif fits:
            features = torch.zeros(shape, dtype=torch.float16, device=self._device)
            self._fill(features, embed, progress)
            self.features = features

    def _fill(self, features: Tensor, embed: Callable[[Tensor], Tensor], progress: bool | None) -> None:
        with progress_bar("features", len(self._decoded.positions), progress) as bar:
            for index, images in self.batches(self._decoded.positions):
                features[index.to(features.device)] = embed(images).to(features.device)
                bar.update(len(index))


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """``values`` of the CPU on ``device``, without waiting for it."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values


def crops(images: Tensor, size: int, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """From each image its own size×size window, mirrored where ``flip``.

    Args:
        images: (B, C, H, W).
        size: side of the windows.
        top: (B,) int64, the window's first row, on the images' device.
        left: (B,) int64, its first column, likewise.
        flip: (B,) bool, likewise.

    Returns:
        (B, C, size, size) in channels-last memory.
    """
    steps = torch.arange(size, device=images.device)
    rows = top[:, None] + steps
    columns = left[:, None] + torch.where(flip[:, None], steps.flip(0), steps)
    batch = torch.arange(len(images), device=images.device)
    return images.permute(0, 2, 3, 1)[batch[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def centre_crop(images: Tensor, size: int) -> Tensor:
    """The middle size×size window of images (B, C, H, W), as a view."""
    top, left = ((side - size) // 2 for side in images.shape[2:])
    return images[:, :, top : top + size, left : left + size]
