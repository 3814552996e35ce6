"""What a worker does of a fit: sums over parts, whose features and descriptors wait on its disk from one step to the next.

A step whose features are not here, because the worker that had them was lost, computes them again from the images.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from ..errors import ClusterError, DataError
from ..images.decode_task import ImageFailure
from ..model.encoder import Encoder, Learnt
from ..model.store import FeatureStore, new_store
from ..model.word_model import WordModel


class FitJob(NamedTuple):
    """What a worker needs to know; ``key`` tells fits apart."""

    key: str
    config: Any
    device: str
    dtype: str
    weights_sha256: str


class Excerpt(Sequence[Any]):
    """Items ``positions`` of a longer sequence, under the numbers they have there."""

    def __init__(self, positions: NDArray[np.int64], items: Sequence[Any], length: int) -> None:
        self._items, self._length = dict(zip(positions.tolist(), items, strict=True)), length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: Any) -> Any:
        return self._items[int(position)]


class LabelRows(NamedTuple):
    """Rows ``positions`` of a label matrix, under the numbers they have there."""

    positions: NDArray[np.int64]
    matrix: sparse.csr_array

    def __getitem__(self, chosen: Any) -> Any:
        return self.matrix[np.searchsorted(self.positions, chosen)]


@dataclass(frozen=True)
class Part:
    """Some images of partition ``number``: ``positions`` (B,) in the data set and what they are read from."""

    number: int
    positions: NDArray[np.int64]
    sources: Excerpt


@dataclass(frozen=True)
class Read:
    """What became of a part's images: ``positions`` (R,) that were read, failures, and the ``worker`` that did it."""

    number: int
    positions: NDArray[np.int64]
    failures: tuple[ImageFailure, ...]
    worker: str


@dataclass(frozen=True)
class Summed:
    """Sums over the parts that were ``read``; None where no image was."""

    read: tuple[Read, ...]
    sums: Any

    def plus(self, other: Summed) -> Summed:
        if self.sums is None or other.sums is None:
            return Summed(self.read + other.read, other.sums if self.sums is None else self.sums)
        return Summed(self.read + other.read, self.sums.merge(other.sums))


@dataclass
class _Local:
    """What this worker has of one fit: stores of features and descriptors by part."""

    folder: Path
    features: dict[int, FeatureStore] = field(default_factory=dict)
    descriptors: dict[int, FeatureStore] = field(default_factory=dict)

    def close(self) -> None:
        for store in (*self.features.values(), *self.descriptors.values()):
            store.close()
        shutil.rmtree(self.folder, ignore_errors=True)


_lock = threading.Lock()
_locals: dict[str, _Local] = {}
_ended: set[str] = set()
_encoders: dict[tuple[Any, str], Encoder] = {}


def feature_sums(job: FitJob, part: Part) -> Summed:
    """Trunk, and the sums of normalisation and PCA; the features stay here."""
    encoder = _encoder(job)
    store = _extract(job, encoder, part)
    read = Read(part.number, store.positions, tuple(encoder.failures_), _address())
    return Summed((read,), encoder.transform_sums(store.blocks(within_partitions=True)) if len(store) else None)


def features_at(job: FitJob, part: Part, read: Read, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Rows (S, C) of a part's features, as bytes: NumPy has no bfloat16."""
    store = _features(job, _encoder(job), part, read)
    return _joined(store.patch_rows(rows)).contiguous().view(torch.uint8).numpy()


def as_given(learnt: Learnt) -> Learnt:
    """What later tasks need, as a result that goes to each worker once."""
    return learnt


def descriptors_at(
    job: FitJob, part: Part, read: Read, learnt: Learnt, rows: NDArray[np.int64], columns: slice
) -> NDArray[np.float32]:
    """Describe a part, where that was not done, and give rows (S, n) of some columns of its descriptors."""
    return _joined(block[:, columns] for block in _describe(job, part, read, learnt).patch_rows(rows)).numpy()


def vectors_at(job: FitJob, part: Part, read: Read, learnt: Learnt, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Vectors of :meth:`Encoder.vlad` (S, D) of some images of a part that has been described."""
    encoder, descriptors = _encoder(job, learnt), _describe(job, part, read, learnt)
    return _joined(torch.as_tensor(encoder.vlad(block.to(encoder.device))) for block in descriptors.rows(rows)).numpy()


def word_sums(job: FitJob, part: Part, read: Read, learnt: Learnt, vocabulary: Sequence[str], labels: LabelRows) -> Summed:
    """The sums that words are learnt from, over a part that has been described."""
    encoder = _encoder(job, learnt)
    vectors = encoder.encode_descriptors(_describe(job, part, read, learnt))
    return Summed((), WordModel(encoder).word_sums(vectors, labels, vocabulary))


def word_sums_of_images(job: FitJob, part: Part, learnt: Learnt, vocabulary: Sequence[str], labels: LabelRows) -> Summed:
    """The sums that words are learnt from, over a part that nothing else is learnt from."""
    encoder = _encoder(job, learnt)
    sums = WordModel(encoder).word_sums(encoder.encode_images(part.sources, part.positions), labels, vocabulary)
    read = Read(part.number, np.empty(0, np.int64), tuple(encoder.failures_), _address())
    return Summed((read,), sums if len(encoder.failures_) < len(part.positions) else None)


def add_up(parts: list[Summed]) -> Summed:
    """Neighbouring sums, in order. What Dask holds is not to be changed."""
    total = Summed(parts[0].read, copy.deepcopy(parts[0].sums))
    for part in parts[1:]:
        total = total.plus(part if total.sums is not None else copy.deepcopy(part))
    return total


def forget(job: FitJob) -> None:
    """Remove what this worker has of a fit that has ended."""
    with _lock:
        _ended.add(job.key)
        local = _locals.pop(job.key, None)
    if local is not None:
        local.close()


def _extract(job: FitJob, encoder: Encoder, part: Part) -> FeatureStore:
    local, extractor = _local(job), encoder.extractor
    folder = None if extractor.on_gpu else local.folder / f"features-{part.number}"
    trunk = encoder.trunk
    store = new_store(encoder.device, len(part.positions), extractor.patches, trunk.channels, trunk.dtype, folder)
    try:
        extractor.extract(part.sources, store, part.positions)
        local.features[part.number] = store
    except BaseException:
        store.close()
        raise
    return store


def _features(job: FitJob, encoder: Encoder, part: Part, read: Read) -> FeatureStore:
    store = _local(job).features.get(part.number) or _extract(job, encoder, part)
    if not np.array_equal(store.positions, read.positions):
        raise DataError(
            f"images {part.positions[0]} to {part.positions[-1]}: others of them can be read now than before; fit again when they "
            "stand still"
        )
    return store


def _describe(job: FitJob, part: Part, read: Read, learnt: Learnt) -> FeatureStore:
    local = _local(job)
    if part.number not in local.descriptors:
        encoder = _encoder(job, learnt)
        folder = None if encoder.extractor.on_gpu else local.folder / f"descriptors-{part.number}"
        local.descriptors[part.number] = encoder.describe(_features(job, encoder, part, read), folder)
        local.features.pop(part.number).close()
    return local.descriptors[part.number]


def _joined(blocks: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.cat([block.cpu() for block in blocks])


def _local(job: FitJob) -> _Local:
    with _lock:
        if job.key in _ended:
            raise ClusterError("this fit has ended")
        if job.key not in _locals:
            from distributed import get_worker

            # There Dask removes what a worker leaves that was killed.
            _locals[job.key] = _Local(Path(tempfile.mkdtemp(prefix="gpuannot-", dir=get_worker().local_directory)))
        return _locals[job.key]


def _encoder(job: FitJob, learnt: Learnt | None = None) -> Encoder:
    """An encoder for one task, with a trunk that is loaded once on each worker."""
    key = (job.config, job.device)
    with _lock:
        if key not in _encoders:
            _encoders.clear()
            encoder = Encoder(job.config, device=job.device)
            if (encoder.weights.sha256, encoder.trunk.arithmetic) != (job.weights_sha256, job.dtype):
                raise ClusterError(
                    f"the worker at {_address()} has other trunk weights or another dtype ({encoder.trunk.arithmetic}) than this "
                    f"machine ({job.dtype}): give all the same weights, and state trunk_dtype"
                )
            _encoders[key] = encoder
        return _encoders[key].sharing_trunk(learnt)


def _address() -> str:
    from distributed import get_worker

    return str(get_worker().address)
