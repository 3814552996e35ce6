"""Partitions of a data set: where they end, and in which order their sums are added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from gpuannot.reference.descriptors import transform
from gpuannot.system.partitions import FAN_IN, PARTITION, TreeSum, by_partition, spans, tree_sum
from gpuannot.system.threads import one_blas_thread


@dataclass
class Text:
    """A sum that shows how it was added up."""

    text: str

    def merge(self, other: Text) -> Text:
        self.text = f"({self.text}+{other.text})"
        return self


def folded(values: list[str]) -> str:
    total = values[0]
    for value in values[1:]:
        total = f"({total}+{value})"
    return total


def expected(numbers: list[int]) -> str:
    """Level by level, from the definition: what has one parent number is added in order."""
    level = {number: str(number) for number in numbers}
    while len(level) > 1:
        parents = sorted({number // FAN_IN for number in level})
        level = {parent: folded([level[n] for n in sorted(level) if n // FAN_IN == parent]) for parent in parents}
    return next(iter(level.values()))


RUNS = [*(list(range(count)) for count in (1, 2, 15, 16, 17, 31, 32, 33, 255, 256, 257, 513)), [3], [15, 16], [0, 255, 256, 9999]]
RUNS += [[number for number in range(700) if number % 7 not in (2, 3)], list(range(240, 272))]


@pytest.mark.parametrize("numbers", RUNS)
def test_the_tree_depends_on_the_numbers_alone(numbers: list[int]) -> None:
    found = tree_sum((number, Text(str(number))) for number in numbers)
    assert found is not None and found.text == expected(numbers)
    tree = TreeSum[Text]()  # what workers add up among neighbours first
    for group in sorted({number // FAN_IN for number in numbers}):
        tree.add(group, Text(folded([str(n) for n in numbers if n // FAN_IN == group])), level=1)
    found = tree.result()
    assert found is not None and found.text == expected(numbers)


def test_a_sum_of_nothing() -> None:
    assert tree_sum([]) is None


def test_memory_of_the_tree_is_a_sum_a_level() -> None:
    tree = TreeSum[Text]()
    for number in range(FAN_IN**2 * 3 + 5):
        tree.add(number, Text("x"))
        assert len(tree._levels) <= 4


@pytest.mark.parametrize("size", [1, 32, 100, PARTITION, 1000])
@pytest.mark.parametrize("count", [0, 1, PARTITION - 1, PARTITION, PARTITION + 1, 3 * PARTITION])
def test_spans(size: int, count: int) -> None:
    positions = np.sort(np.random.default_rng(count).choice(5 * PARTITION, count, replace=False)).astype(np.int64)
    plain, within = spans(positions, size, False), spans(positions, size, True)
    for cut in (plain, within):
        assert np.concatenate([np.empty(0, np.int64), *(positions[span] for span in cut)]).tolist() == positions.tolist()
        assert all(0 < span.stop - span.start <= size for span in cut if count)
    assert len(plain) == max(1, -(-count // size)) if count else True
    blocks = [(positions[span], span) for span in within if count]
    assert all(len(set((chunk // PARTITION).tolist())) == 1 for chunk, _ in blocks)
    numbers = [number for number, _ in by_partition(blocks)]
    assert numbers == sorted(set((positions // PARTITION).tolist()))
    cuts = sum(-(-len(positions[positions // PARTITION == number]) // size) for number in numbers)
    assert len(blocks) == cuts  # no more than the size and the partitions ask for


def threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_products_have_the_same_bits_whatever_the_number_of_threads() -> None:
    rng = np.random.default_rng(0)
    features, matrix = rng.normal(size=(3, 196, 512)).astype(np.float32), rng.normal(size=(512, 64)).astype(np.float32)

    def product(count: int) -> bytes:
        with threadpool_limits(count, user_api="blas"), one_blas_thread():
            return bytes(transform(features, matrix, np.zeros(64, np.float32)))

    assert len({product(count) for count in (1, 2, 3, 5)}) == 1


def test_one_thread_ends_with_the_last_block_that_asked_for_it() -> None:
    with threadpool_limits(2, user_api="blas"):
        assert set(threads()) == {2}
        first, second = one_blas_thread(), one_blas_thread()
        with first:
            second.__enter__()
            assert set(threads()) == {1}
        assert set(threads()) == {1}
        second.__exit__(None, None, None)
        assert set(threads()) == {2}


def test_one_thread_is_left_by_an_error() -> None:
    with threadpool_limits(2, user_api="blas"):
        error: Any = None
        try:
            with one_blas_thread():
                raise KeyError
        except KeyError as caught:
            error = caught
        assert error is not None and set(threads()) == {2}
