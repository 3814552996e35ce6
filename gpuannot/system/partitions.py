"""A data set in partitions of a fixed number of images: what is summed over one, and how the sums are added, never changes.

So a fit has the same bits however many workers share the partitions. Memory holds one sum for each level of the tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

#: Images of a partition: image p of a data set is in partition p // PARTITION. What a worker that is lost costs, and a multiple of
#: the usual batch sizes, so that none is cut.
PARTITION = 256
#: Sums of this many neighbouring partitions, and of as many such sums again, are added up in order.
FAN_IN = 16


class _Sums(Protocol):
    def merge(self, other: Any, /) -> Self: ...


S = TypeVar("S", bound=_Sums)
B = TypeVar("B")


def spans(positions: NDArray[np.int64], size: int, within_partitions: bool) -> list[slice]:
    """Cuts ``positions`` (N,) into pieces of up to ``size``; with ``within_partitions`` also where a partition ends."""
    cuts = np.flatnonzero(np.diff(positions // PARTITION)) + 1 if within_partitions else np.empty(0, np.int64)
    edges = pairwise([0, *cuts.tolist(), len(positions)])
    return [slice(start, min(start + size, stop)) for first, stop in edges for start in range(first, stop, size)]


def by_partition(blocks: Iterable[tuple[NDArray[np.int64], B]]) -> Iterator[tuple[int, Iterator[tuple[NDArray[np.int64], B]]]]:
    """Groups (positions, …) blocks that come in order, none across partitions, by the number of their partition."""
    return groupby(blocks, key=lambda block: int(block[0][0]) // PARTITION)


class TreeSum(Generic[S]):
    """Adds the sums of partitions, given in ascending order, along one tree: FAN_IN neighbours at a time, level by level.

    A sum has ``merge(other)``, which adds another to it and returns it.
    """

    def __init__(self) -> None:
        self._levels: list[tuple[int, S] | None] = []

    def add(self, number: int, sums: S, *, level: int = 0) -> None:
        """Add the sums of a partition.

        Args:
            number: of the partition.
            level: with 1 they are those of partitions FAN_IN·number and following, already added.
        """
        self._levels.extend([None] * (level + 1 - len(self._levels)))
        node, held = number // FAN_IN, self._levels[level]
        if held is not None and held[0] != node:
            self._levels[level] = None
            self.add(*held, level=level + 1)
            held = None
        self._levels[level] = (node, sums if held is None else held[1].merge(sums))

    def result(self) -> S | None:
        """The sum of all; None where there was nothing to add."""
        level = 0
        while level < len(self._levels):
            held, self._levels[level] = self._levels[level], None
            if held is not None:
                if not any(self._levels[level + 1 :]):
                    return held[1]
                self.add(*held, level=level + 1)
            level += 1
        return None


def tree_sum(sums: Iterable[tuple[int, S]]) -> S | None:
    """The sum of (number, sums of that partition), in ascending order; None of nothing."""
    tree = TreeSum[S]()
    for number, part in sums:
        tree.add(number, part)
    return tree.result()


def picked(
    blocks: Iterable[tuple[NDArray[np.int64], B]], chosen: NDArray[np.int64], each: int = 1
) -> Iterator[tuple[NDArray[np.int64], B]]:
    """Of (positions (N,), …) blocks that come in order those with chosen rows: the rows within the block, and what came with it.

    Args:
        blocks: of any length.
        chosen: numbers of rows of all blocks together, ascending.
        each: rows of a position.
    """
    start = 0
    for positions, block in blocks:
        stop = start + len(positions) * each
        within = chosen[np.searchsorted(chosen, start) : np.searchsorted(chosen, stop)] - start
        if len(within):
            yield within, block
        start = stop
