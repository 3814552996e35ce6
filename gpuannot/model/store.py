"""Local features of many images on disk, so that the trunk runs once for each image however often a fit reads them.

One file of raw records in the trunk's dtype beside a small JSON file that is written last and says that the first is whole. Records
are read with plain file reads: pages of a memory map would count as this process's memory.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError
from ..system.partitions import spans

if TYPE_CHECKING:
    from .device_store import DeviceStore

_STORED = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


class FeatureStore:
    """Features (N, P, C) of N images, each with the position it has in its data set.

    Use :meth:`create` and :meth:`append`, then :meth:`commit`; or :meth:`open` a committed one.

    Attributes:
        positions: (N,) int64, ascending: which image each record belongs to.
    """

    def __init__(self, folder: Path, patches: int, channels: int, dtype: torch.dtype) -> None:
        self.folder, self.patches, self.channels, self.dtype = folder, patches, channels, dtype
        self._positions: list[NDArray[np.int64]] = []
        self._file: IO[Any] | None = None
        self._temporary = False

    @classmethod
    def create(cls, folder: str | Path | None, patches: int, channels: int, dtype: torch.dtype) -> FeatureStore:
        """A new, empty store in ``folder``, or for None in a temporary folder that :meth:`close` removes."""
        temporary = folder is None
        path = Path(tempfile.mkdtemp(prefix="gpuannot-")) if folder is None else Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        store = cls(path, patches, channels, dtype)
        store._temporary = temporary
        store._file = open(store._partial("features.bin"), "w+b")  # noqa: SIM115 - closed by close()
        return store

    @classmethod
    def open(cls, folder: str | Path) -> FeatureStore | None:
        """The committed store in ``folder``, or None where there is none or its files do not fit together."""
        path = Path(folder)
        try:
            header = json.loads((path / "features.json").read_text())
            store = cls(path, header["patches"], header["channels"], _STORED[header["dtype"]])
            store._positions = [np.array(header["positions"], dtype=np.int64)]
            if (path / "features.bin").stat().st_size != len(store) * store.record_bytes:
                return None
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
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

    def __len__(self) -> int:
        return len(self.positions)

    def append(self, positions: NDArray[np.int64], features: Tensor) -> None:
        """Add features (B, P, C) of the images at ``positions`` (B,).

        Raises:
            DataError: the disk is full.
        """
        assert self._file is not None
        raw = features.to("cpu", self.dtype).contiguous().flatten().view(torch.uint8).numpy()
        try:
            self._file.seek(0, os.SEEK_END)  # a reading may have left it elsewhere
            self._file.write(raw.data)
            self._file.flush()
        except OSError as error:
            raise DataError(
                f"cannot write features to {self.folder} ({error.strerror}); {len(positions)} images need "
                f"{len(positions) * self.record_bytes / 1e6:.0f} MB: free some space, or set TMPDIR to a larger disk"
            ) from error
        self._positions.append(np.asarray(positions, dtype=np.int64))

    def commit(self) -> FeatureStore:
        """Mark the store as whole: from now on :meth:`open` finds it."""
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        dtype = next(name for name, value in _STORED.items() if value == self.dtype)
        header = {"patches": self.patches, "channels": self.channels, "dtype": dtype, "positions": self.positions.tolist()}
        self._partial("features.json").write_text(json.dumps(header))
        (self.folder / "features.json").unlink(missing_ok=True)
        for name in ("features.bin", "features.json"):
            self._partial(name).replace(self.folder / name)
        return self

    def _partial(self, name: str) -> Path:
        return self.folder / f"{name}.{os.getpid()}.part"

    def blocks(self, size: int = 64, *, within_partitions: bool = False) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """All records in order: ``(positions (B,), features (B, P, C) CPU tensor)`` of up to ``size`` images at a time.

        With ``within_partitions`` those of one block lie in one partition.
        """
        assert self._file is not None
        positions = self.positions
        for span in spans(positions, size, within_partitions):
            chunk = positions[span]
            self._file.seek(span.start * self.record_bytes)  # there may be several readings at a time
            buffer = bytearray(self._file.read(len(chunk) * self.record_bytes))
            if len(buffer) != len(chunk) * self.record_bytes:
                raise DataError(f"{self.folder}/features.bin ends early; delete the folder and run again")
            yield chunk, torch.frombuffer(buffer, dtype=self.dtype).view(len(chunk), self.patches, self.channels)

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

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class StoreSubset:
    """Some images of a store, to learn from: its records at ``rows``, ascending."""

    def __init__(self, store: FeatureStore | DeviceStore, rows: NDArray[np.int64]) -> None:
        self.patches, self.channels, self.dtype = store.patches, store.channels, store.dtype
        self.positions: NDArray[np.int64] = store.positions[rows]
        self._store, self._rows = store, rows

    def __len__(self) -> int:
        return len(self._rows)

    def blocks(self, *, within_partitions: bool = False) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """As :meth:`FeatureStore.blocks`."""
        start = 0
        for positions, block in self._store.blocks(within_partitions=within_partitions):
            stop = start + len(positions)
            rows = self._rows[np.searchsorted(self._rows, start) : np.searchsorted(self._rows, stop)] - start
            if len(rows):
                yield positions[rows], block[torch.from_numpy(rows).to(block.device)]
            start = stop
