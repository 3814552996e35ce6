"""Local features or descriptors of many images, so that the trunk runs once for each image however often a fit reads them.

:class:`DiskStore` is one file of raw records in the trunk's dtype beside a small JSON file that is written last, says that the
first is whole and holds a checksum of both. Records are read with plain file reads: pages of a memory map would count as this
process's memory. :class:`DeviceStore` is the same in GPU memory, where the device has room for it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError
from ..system.partitions import picked, spans

_STORED = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}
# The rest is for the trunk's activations, and for what others keep on the device.
_SHARE_OF_FREE_MEMORY = 0.4


class FeatureStore(ABC):
    """Records (N, P, C) of N images, each with the position it has in its data set.

    Attributes:
        patches: P.
        channels: C.
        dtype: of the records.
    """

    def __init__(self, patches: int, channels: int, dtype: torch.dtype) -> None:
        self.patches, self.channels, self.dtype = patches, channels, dtype

    @property
    @abstractmethod
    def positions(self) -> NDArray[np.int64]:
        """(N,) int64, ascending: which image each record belongs to."""

    @abstractmethod
    def blocks(self, *, within_partitions: bool = False) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """All records in order, some images at a time: positions (B,) and records (B, P, C) where the store keeps them.

        Args:
            within_partitions: those of one block lie in one partition.
        """

    def __len__(self) -> int:
        return len(self.positions)

    def close(self) -> None:  # noqa: B027 - a view has nothing to let go of
        """Let go of what the store holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def rows(self, chosen: NDArray[np.int64]) -> Iterator[Tensor]:
        """Records of some images, block by block: (B, P, C).

        Args:
            chosen: their places in the store, ascending.
        """
        for rows, block in picked(self.blocks(within_partitions=True), chosen):
            yield block[torch.from_numpy(rows).to(block.device)]

    def patch_rows(self, chosen: NDArray[np.int64]) -> Iterator[Tensor]:
        """Rows (S, C) of the store as one matrix (N·P, C), block by block.

        Args:
            chosen: their numbers, ascending.
        """
        for rows, block in picked(self.blocks(within_partitions=True), chosen, self.patches):
            yield block.flatten(0, 1)[torch.from_numpy(rows).to(block.device)]


class WritableStore(FeatureStore):
    """A store that features are added to."""

    @abstractmethod
    def append(self, positions: NDArray[np.int64], features: Tensor) -> None:
        """Add features (B, P, C) of the images at ``positions`` (B,).

        Raises:
            DataError: the disk is full.
        """


class DiskStore(WritableStore):
    """Records on disk. Use :meth:`create` and :meth:`append`, then :meth:`commit`; or :meth:`open` a committed one."""

    def __init__(self, folder: Path, patches: int, channels: int, dtype: torch.dtype) -> None:
        super().__init__(patches, channels, dtype)
        self.folder = folder
        self._positions: list[NDArray[np.int64]] = []
        self._file: Any = None  # a buffered file of bytes
        self._temporary = False
        self._checksum = 0  # CRC-32 of the records: damage is what it has to see, and SHA-256 takes twice as long

    @classmethod
    def create(cls, folder: str | Path | None, patches: int, channels: int, dtype: torch.dtype) -> DiskStore:
        """A new, empty store in ``folder``, or for None in a temporary folder that :meth:`close` removes."""
        temporary = folder is None
        path = Path(tempfile.mkdtemp(prefix="gpuannot-")) if folder is None else Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        store = cls(path, patches, channels, dtype)
        store._temporary = temporary
        store._file = open(store._partial("features.bin"), "w+b")  # noqa: SIM115 - closed by close()
        return store

    @classmethod
    def open(cls, folder: str | Path) -> DiskStore | None:
        """The committed store in ``folder``, or None where there is none, or its files were cut, mixed up or damaged.

        All records are read for that, about 3 GB a second once they are in memory.
        """
        path = Path(folder)
        try:
            header = json.loads((path / "features.json").read_text())
            store = cls(path, header["patches"], header["channels"], _STORED[header["dtype"]])
            store._positions = [np.array(header["positions"], dtype=np.int64)]
            stated = header.pop("crc32")
            if (path / "features.bin").stat().st_size != len(store) * store.record_bytes:
                return None
            if stated != _checked(header, _file_checksum(path / "features.bin")):
                return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return None
        store._file = open(path / "features.bin", "rb")  # noqa: SIM115 - closed by close()
        return store

    @property
    def record_bytes(self) -> int:
        return self.patches * self.channels * self.dtype.itemsize

    @property
    def positions(self) -> NDArray[np.int64]:
        if len(self._positions) != 1:
            self._positions = [np.concatenate([np.empty(0, np.int64), *self._positions])]
        return self._positions[0]

    def append(self, positions: NDArray[np.int64], features: Tensor) -> None:
        assert self._file is not None
        raw = features.to("cpu", self.dtype).contiguous().flatten().view(torch.uint8).numpy()
        try:
            self._file.seek(0, os.SEEK_END)  # a reading may have left it elsewhere
            self._file.write(raw.data)
            self._file.flush()
            self._checksum = zlib.crc32(raw.data, self._checksum)
        except OSError as error:
            raise DataError(
                f"cannot write features to {self.folder} ({error.strerror}); {len(positions)} images need "
                f"{len(positions) * self.record_bytes / 1e6:.0f} MB: free some space, or set TMPDIR to a larger disk"
            ) from error
        self._positions.append(np.asarray(positions, dtype=np.int64))

    def commit(self) -> DiskStore:
        """Mark the store as whole: from now on :meth:`open` finds it."""
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        dtype = next(name for name, value in _STORED.items() if value == self.dtype)
        header = {"patches": self.patches, "channels": self.channels, "dtype": dtype, "positions": self.positions.tolist()}
        self._partial("features.json").write_text(json.dumps({**header, "crc32": _checked(header, self._checksum)}))
        (self.folder / "features.json").unlink(missing_ok=True)
        for name in ("features.bin", "features.json"):
            self._partial(name).replace(self.folder / name)
        return self

    def _partial(self, name: str) -> Path:
        return self.folder / f"{name}.{os.getpid()}.part"

    def blocks(self, size: int = 32, *, within_partitions: bool = False) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """:meth:`FeatureStore.blocks` of up to ``size`` images, as CPU tensors."""
        assert self._file is not None
        positions = self.positions
        for span in spans(positions, size, within_partitions):
            chunk = positions[span]
            self._file.seek(span.start * self.record_bytes)  # there may be several readings at a time
            block = torch.empty((len(chunk), self.patches, self.channels), dtype=self.dtype)
            if self._file.readinto(block.flatten().view(torch.uint8).numpy()) != len(chunk) * self.record_bytes:
                raise DataError(f"{self.folder}/features.bin ends early; delete the folder and run again")
            yield chunk, block

    def close(self) -> None:
        """Close the files; a temporary store is removed."""
        if self._file is not None:
            with suppress(OSError):  # a full disk: append has said so
                self._file.close()
            self._file = None
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)
        for name in ("features.bin", "features.json"):
            self._partial(name).unlink(missing_ok=True)


def _checked(header: dict[str, Any], records: int) -> int:
    """The checksum of a header, and of the records by theirs."""
    return zlib.crc32(json.dumps(header, sort_keys=True).encode(), records)


def _file_checksum(path: Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while part := file.read(1 << 22):
            checksum = zlib.crc32(part, checksum)
    return checksum


class DeviceStore(WritableStore):
    """Records in the memory of one CUDA device."""

    def __init__(self, patches: int, channels: int, dtype: torch.dtype) -> None:
        super().__init__(patches, channels, dtype)
        self._blocks: list[tuple[NDArray[np.int64], Tensor]] = []

    @property
    def positions(self) -> NDArray[np.int64]:
        return np.concatenate([np.empty(0, np.int64), *(positions for positions, _ in self._blocks)])

    def append(self, positions: NDArray[np.int64], features: Tensor) -> None:
        """Add features (B, P, C) of the images at ``positions`` (B,); the tensor is kept, not copied."""
        self._blocks.append((np.asarray(positions, dtype=np.int64), features))

    def blocks(self, *, within_partitions: bool = False) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """All records in order, as they were appended: within partitions where they were."""
        yield from self._blocks

    def close(self) -> None:
        self._blocks.clear()


class StoreSubset(FeatureStore):
    """Some images of a store, which stays open with it.

    Args:
        rows: their places in the store, ascending.
    """

    def __init__(self, store: FeatureStore, rows: NDArray[np.int64]) -> None:
        super().__init__(store.patches, store.channels, store.dtype)
        self._store, self._rows = store, rows

    @property
    def positions(self) -> NDArray[np.int64]:
        return self._store.positions[self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def blocks(self, *, within_partitions: bool = False) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        start, positions = 0, self.positions
        for rows, block in picked(self._store.blocks(within_partitions=within_partitions), self._rows):
            yield positions[start : start + len(rows)], block[torch.from_numpy(rows).to(block.device)]
            start += len(rows)


def new_store(
    device: torch.device, images: int, patches: int, channels: int, dtype: torch.dtype, folder: str | Path | None = None
) -> WritableStore:
    """A store for ``images`` images: on a GPU that has room for them there, else on disk."""
    if device.type == "cuda" and folder is None:
        free, _ = torch.cuda.mem_get_info(device)
        if images * patches * channels * dtype.itemsize <= _SHARE_OF_FREE_MEMORY * free:
            return DeviceStore(patches, channels, dtype)
    return DiskStore.create(folder, patches, channels, dtype)
