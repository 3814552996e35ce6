"""Fitting over Dask workers: sums of partitions, added along the tree that one process adds them along, so with the same bits.

An image goes through the trunk once, on some worker, where its features and then its descriptors wait; what a worker does is in
:mod:`~gpuannot.jobs.cluster_fit_worker`, and each task goes to the worker that has what it needs.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import secrets
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from ..errors import DataError
from ..images.input import Input, is_url
from ..images.inputs import none_readable
from ..method.descriptors import LayerTransforms
from ..method.words import WordBank
from ..model.encoder import Learnt
from ..model.fit import both
from ..model.word_model import WordModel
from ..system.partitions import FAN_IN, PARTITION, TreeSum, spans
from ..system.progress import progress_bar
from .cluster import Cluster, ClusterTask, check_options, connect
from .cluster_fit_worker import (
    Excerpt,
    FitJob,
    LabelRows,
    Part,
    Read,
    Summed,
    add_up,
    as_given,
    descriptors_at,
    feature_sums,
    features_at,
    forget,
    vectors_at,
    word_sums,
    word_sums_of_images,
)

_AHEAD = 2  # partitions under way for each thread: some wait for the worker that has their features


@contextmanager
def on_cluster(
    model: WordModel,
    sources: Sequence[Any],
    labels: sparse.csr_array,
    vocabulary: Sequence[str],
    learn_from: NDArray[np.int64],
    others: NDArray[np.int64],
    workers: int | None,
    scheduler: str | None,
    dashboard: bool,
    progress: bool | None,
) -> Iterator[OnCluster]:
    """:class:`~gpuannot.model.fit.FitSteps` over the workers of a cluster; arguments as :func:`gpuannot.model.fit.reading`.

    Raises:
        ClusterError: no such cluster, or workers that keep dying of a partition.
    """
    check_options(workers, scheduler, model.config.trunk, dashboard)
    weights, trunk = model.encoder.weights, model.encoder.trunk
    job = FitJob(secrets.token_hex(8), model.config, model.device.type, trunk.arithmetic, weights.sha256)
    with connect(workers, scheduler, model.device, dashboard=dashboard) as cluster:
        try:
            yield OnCluster(model, cluster, job, _Images(sources, labels, tuple(vocabulary), learn_from, others), progress)
        finally:
            if not cluster.own:
                with suppress(Exception):  # a scheduler that is gone, with its workers, has forgotten
                    cluster.on_each(forget, job)


class _Images(NamedTuple):
    sources: Sequence[Any]
    labels: sparse.csr_array
    vocabulary: tuple[str, ...]
    learn_from: NDArray[np.int64]
    others: NDArray[np.int64]


class OnCluster:
    """:class:`~gpuannot.model.fit.FitSteps` as tasks over partitions."""

    def __init__(self, model: WordModel, cluster: Cluster, job: FitJob, images: _Images, progress: bool | None) -> None:
        self._encoder, self._cluster, self._job, self._images, self._progress = model.encoder, cluster, job, images, progress
        self._parts = {part.number: part for part in _parts(images.sources, images.learn_from)}
        self._read: list[Read] = []

    def transform_sums(self) -> LayerTransforms | None:
        count = len(self._images.learn_from)
        calls = ((part, (self._job, part), None) for part in self._parts.values())
        self._read, sums = self._summed("trunk, normalisation and PCA", count, feature_sums, calls)
        failures = self._encoder.failures_
        failures += [failure for each in self._read for failure in each.failures]
        if sums is None:
            raise DataError(none_readable(count, failures))
        return sums

    def feature_sample(self) -> Tensor:
        rows = self._gathered(
            "sample of features", self._encoder.patch_sample(self._count), self._encoder.extractor.patches, features_at
        )
        return rows.view(self._encoder.trunk.dtype)  # they travel as bytes

    def descriptor_sample(self, layer: int) -> Tensor:
        sample, columns = self._encoder.patch_sample(self._count), self._encoder.transform_.descriptor_columns(layer)
        title = "descriptors" if not layer else f"descriptors, layer {layer + 1}"
        patches, learnt = self._encoder.extractor.patches, self._learnt("transform_")
        return self._gathered(title, sample, patches, partial(descriptors_at, columns=columns), learnt)

    def vector_sample(self) -> Tensor:
        sample = self._encoder.vector_sample(np.concatenate([each.positions for each in self._read]))
        return self._gathered("sample of vectors", sample, 1, vectors_at, self._learnt("transform_", "codebook_"))

    def word_sums(self) -> WordBank | None:
        _, labels, vocabulary, _, others = self._images
        projection = ("projection_",) if self._encoder.config.projection else ()
        learnt = self._learnt("transform_", "codebook_", *projection)
        calls = (
            (part, (self._job, part, each, learnt, vocabulary, _rows_of(labels, part)), each.worker)
            for each in self._read
            if len(each.positions) and (part := self._parts[each.number])
        )
        _, sums = self._summed("word vectors", self._count, word_sums, calls, learnt)
        more = (
            (part, (self._job, part, learnt, vocabulary, _rows_of(labels, part)), None)
            for part in _parts(self._images.sources, others)
        )
        read, other_sums = self._summed("word vectors", len(others), word_sums_of_images, more, learnt)
        failures = self._encoder.failures_
        failures += [failure for each in read for failure in each.failures]
        return both(sums, other_sums)

    @property
    def _count(self) -> int:
        """Images that could be read, of those that everything is learnt from."""
        return sum(len(each.positions) for each in self._read)

    def _learnt(self, *stages: str) -> ClusterTask:
        """What has been learnt so far, as a task whose result goes to each worker once."""
        found = {stage: getattr(self._encoder, stage) for stage in stages}
        learnt = Learnt(found["transform_"].without_sums(), found.get("codebook_"), found.get("projection_"))
        return ClusterTask(lambda: "what has been learnt so far", as_given, (learnt,), gather=False, size=0)

    def _summed(
        self,
        title: str,
        images: int,
        function: Callable[..., Summed],
        calls: Iterable[tuple[Part, tuple[Any, ...], str | None]],
        learnt: ClusterTask | None = None,
    ) -> tuple[list[Read], Any]:
        """Sums over parts, in tasks; neighbours are added on the workers, what is left here. ``learnt`` is among the arguments."""
        groups: dict[int, Summed] = {}

        def tasks() -> Generator[ClusterTask]:
            if learnt is not None and learnt.future is None:
                yield learnt
            for number, group in groupby(calls, key=lambda call: call[0].number // FAN_IN):
                leaves = []
                for part, arguments, worker in group:
                    size = len(part.positions)
                    leaves.append(ClusterTask(_title(title, part), function, arguments, worker=worker, gather=False, size=size))
                    yield leaves[-1]
                yield ClusterTask(lambda: f"{title}: sums", add_up, after=tuple(leaves), number=number, size=0)

        with progress_bar(title, images, self._progress) as bar, closing(self._cluster.results(tasks(), each=_AHEAD)) as results:
            for task, result in results:
                bar.update(task.size)
                if task.after:
                    groups[task.number] = result
        tree = TreeSum[Any]()
        read: list[Read] = []
        for number in sorted(groups):
            group = groups.pop(number)
            read += group.read
            if group.sums is not None:
                tree.add(number, copy.deepcopy(group.sums), level=1)
        return read, tree.result()

    def _gathered(
        self,
        title: str,
        sample: NDArray[np.int64],
        per_image: int,
        function: Callable[..., Any],
        learnt: ClusterTask | None = None,
    ) -> Tensor:
        """Rows ``sample`` (S,), ascending, of what each image has ``per_image`` rows of, from where they are."""
        ends = np.cumsum([len(each.positions) for each in self._read]) * per_image
        rows: dict[int, Any] = {}

        def tasks() -> Generator[ClusterTask]:
            if learnt is not None and learnt.future is None:
                yield learnt
            for each, end in zip(self._read, ends, strict=True):
                start = end - len(each.positions) * per_image
                chosen = sample[np.searchsorted(sample, start) : np.searchsorted(sample, end)] - start
                part = self._parts[each.number]
                if len(chosen):
                    given = (self._job, part, each, *([] if learnt is None else [learnt]), chosen)
                    yield ClusterTask(
                        _title(title, part), function, given, worker=each.worker, size=len(each.positions), number=each.number
                    )

        with (
            progress_bar(title, self._count, self._progress) as bar,
            closing(self._cluster.results(tasks(), each=_AHEAD)) as results,
        ):
            for task, result in results:
                if task is not learnt:
                    rows[task.number] = result
                bar.update(task.size)
        # One array in the end, and each part let go as it is taken.
        gathered = np.concatenate([rows.pop(each.number) for each in self._read if each.number in rows])
        return torch.from_numpy(gathered).to(self._encoder.device)


def _rows_of(labels: sparse.csr_array, part: Part) -> LabelRows:
    return LabelRows(part.positions, labels[part.positions])


def _parts(sources: Sequence[Any], positions: NDArray[np.int64]) -> Iterator[Part]:
    for span in spans(positions, PARTITION, True):
        chosen = positions[span]
        if len(chosen):
            items = [_absolute(sources[position]) for position in chosen.tolist()]
            yield Part(int(chosen[0]) // PARTITION, chosen, Excerpt(chosen, items, len(sources)))


def _absolute(source: Any) -> Any:
    """A path as it is here, for a worker that was started elsewhere; under the same name."""
    if isinstance(source, Input):
        relative = source.place and not is_url(source.place) and not os.path.isabs(source.place)
        return dataclasses.replace(source, place=os.path.abspath(source.place)) if relative else source
    if isinstance(source, (str, os.PathLike)) and not os.path.isabs(os.fsdecode(source)):
        return Input(os.fsdecode(source), "file", os.path.abspath(os.fsdecode(source)))
    return source


def _title(title: str, part: Part) -> Callable[[], str]:
    return lambda: f"{title}, images {part.positions[0]} to {part.positions[-1]}"
