"""Fitting over Dask workers: sums of partitions, added along the tree that one process adds them along, so with the same bits.

An image goes through the trunk once, on some worker, where its features and then its descriptors wait; the steps are those of
:mod:`~gpuannot.jobs.cluster_fit_worker`, and each goes to the worker that has what it needs.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from ..errors import DataError
from ..images.input import Input, is_url
from ..images.inputs import none_readable
from ..method.codebook import sample_positions
from ..system.partitions import FAN_IN, PARTITION, TreeSum, spans
from ..system.progress import progress_bar
from .cluster import Cluster, ClusterTask, check_options, connect
from .cluster_fit_worker import (
    Excerpt,
    FitJob,
    LabelRows,
    Learnt,
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

if TYPE_CHECKING:
    from ..annotator import Annotator

_AHEAD = 2  # partitions under way for each thread: some wait for the worker that has their features


def fit_on_cluster(
    annotator: Annotator,
    sources: Sequence[Any],
    labels: sparse.csr_array,
    vocabulary: Sequence[str],
    learn_from: NDArray[np.int64],
    rest: NDArray[np.int64],
    workers: int | None,
    scheduler: str | None,
    progress: bool | None,
) -> None:
    """:meth:`Annotator.fit` on a cluster: the positions in ``learn_from`` are for all of it, ``rest`` for the words.

    Raises:
        ClusterError: no such cluster, or workers that keep dying of a partition. DataError, ValueError: as :meth:`Annotator.fit`.
    """
    check_options(workers, scheduler)
    weights, trunk = annotator.weights, annotator.trunk
    job = FitJob(secrets.token_hex(8), annotator.config, annotator.device.type, str(trunk.dtype), weights.sha256)
    with connect(workers, scheduler, annotator.device) as cluster:
        try:
            fit = _Fit(annotator, cluster, job, progress)
            read = fit.transform(sources, learn_from)
            fit.codebook(read)
            if annotator.config.projection:
                fit.projection(read)
            fit.words(read, sources, rest, labels, vocabulary)
        finally:
            if not cluster.own:
                with suppress(Exception):  # a scheduler that is gone, with its workers, has forgotten
                    cluster.on_each(forget, job)


class _Fit:
    def __init__(self, annotator: Annotator, cluster: Cluster, job: FitJob, progress: bool | None) -> None:
        self._annotator, self._cluster, self._job, self._progress = annotator, cluster, job, progress
        self._parts: dict[int, Part] = {}

    def transform(self, sources: Sequence[Any], positions: NDArray[np.int64]) -> list[Read]:
        annotator = self._annotator
        self._parts = {part.number: part for part in _parts(sources, positions)}
        calls = ((part, (self._job, part), None) for part in self._parts.values())
        read, sums = self._summed("trunk, normalisation and PCA", len(positions), feature_sums, calls)
        annotator.failures_ += [failure for each in read for failure in each.failures]
        if sums is None:
            raise DataError(none_readable(len(positions), annotator.failures_))
        annotator._forget_bank()
        sample = None
        if annotator.device.type == "cuda":
            sample = self._sampled_rows("sample of features", read, features_at)
        annotator.finish_transform(sums, sample)
        return read

    def codebook(self, read: list[Read]) -> None:
        annotator = self._annotator
        learnt = self._given(Learnt(annotator.transform_.without_sums()))
        annotator.fit_codebook(self._sampled_rows("descriptors", read, descriptors_at, learnt))

    def projection(self, read: list[Read]) -> None:
        annotator = self._annotator
        learnt = self._given(Learnt(annotator.transform_.without_sums(), annotator.codebook_))
        rows = annotator.vector_sample_rows(sum(len(each.positions) for each in read))
        annotator.fit_projection(self._gathered("sample of vectors", read, rows, 1, vectors_at, learnt))

    def words(
        self,
        read: list[Read],
        sources: Sequence[Any],
        rest: NDArray[np.int64],
        labels: sparse.csr_array,
        vocabulary: Sequence[str],
    ) -> None:
        annotator = self._annotator
        projection = annotator.projection_ if annotator.config.projection else None
        learnt = self._given(Learnt(annotator.transform_.without_sums(), annotator.codebook_, projection))
        calls = (
            (part, (self._job, part, each, learnt, tuple(vocabulary), _rows_of(labels, part)), each.worker)
            for each in read
            if len(each.positions) and (part := self._parts[each.number])
        )
        _, bank = self._summed("word vectors", sum(len(each.positions) for each in read), word_sums, calls, learnt)
        annotator.set_bank(vocabulary, bank)
        others = (
            (part, (self._job, part, learnt, tuple(vocabulary), _rows_of(labels, part)), None) for part in _parts(sources, rest)
        )
        more, bank = self._summed("word vectors", len(rest), word_sums_of_images, others, learnt)
        annotator.failures_ += [failure for each in more for failure in each.failures]
        if bank is not None:
            annotator.bank_.merge(bank)

    def _given(self, learnt: Learnt) -> ClusterTask:
        return ClusterTask(lambda: "what has been learnt so far", as_given, (learnt,), gather=False, size=0)

    def _summed(
        self,
        title: str,
        images: int,
        function: Callable[..., Summed],
        calls: Iterator[tuple[Part, tuple[Any, ...], str | None]],
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
                    leaves.append(
                        ClusterTask(_title(title, part), function, arguments, worker=worker, gather=False, size=len(part.positions))
                    )
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

    def _sampled_rows(
        self, title: str, read: list[Read], function: Callable[..., Any], learnt: ClusterTask | None = None
    ) -> torch.Tensor:
        """The rows (S, C) of features or descriptors that :meth:`Encoder._sample` draws."""
        annotator, config = self._annotator, self._annotator.config
        patches = annotator.trunk.positions(config.input_size, config.input_size)
        total = sum(len(each.positions) for each in read) * patches
        sample = sample_positions(total, config.codebook_sample, config.seed)
        gathered = self._gathered(title, read, sample, patches, function, learnt)
        return gathered.view(annotator.trunk.dtype) if function is features_at else gathered

    def _gathered(
        self,
        title: str,
        read: list[Read],
        sample: NDArray[np.int64],
        per_image: int,
        function: Callable[..., Any],
        learnt: ClusterTask | None,
    ) -> torch.Tensor:
        """Rows ``sample`` (S,), ascending, of what each image has ``per_image`` rows of, from where they are."""
        ends = np.cumsum([len(each.positions) for each in read]) * per_image
        rows: dict[int, Any] = {}

        def tasks() -> Generator[ClusterTask]:
            if learnt is not None and learnt.future is None:
                yield learnt
            for each, end in zip(read, ends, strict=True):
                start = end - len(each.positions) * per_image
                chosen = sample[np.searchsorted(sample, start) : np.searchsorted(sample, end)] - start
                part = self._parts[each.number]
                if len(chosen):
                    given = (self._job, part, each, *([] if learnt is None else [learnt]), chosen)
                    yield ClusterTask(
                        _title(title, part), function, given, worker=each.worker, size=len(each.positions), number=each.number
                    )

        total = sum(len(each.positions) for each in read)
        with progress_bar(title, total, self._progress) as bar, closing(self._cluster.results(tasks(), each=_AHEAD)) as results:
            for task, result in results:
                if task is not learnt:
                    rows[task.number] = result
                bar.update(task.size)
        # One array in the end, and each part let go as it is taken.
        gathered = np.concatenate([rows.pop(each.number) for each in read if each.number in rows])
        return torch.from_numpy(gathered).to(self._annotator.device)


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
