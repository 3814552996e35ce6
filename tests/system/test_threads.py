"""Blocks of rows on several threads give what one thread gives."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from gpuannot.reference.ranking import nearest_words
from gpuannot.reference.vlad import vlad
from gpuannot.system import threads
from gpuannot.system.threads import for_blocks, one_torch_thread


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 17])
@pytest.mark.parametrize("cores", [1, 2])
def test_every_row_is_in_one_block(count: int, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cpus", lambda: cores)
    seen = np.zeros(count, dtype=int)
    blocks = []

    def work(start: int, stop: int) -> None:
        seen[start:stop] += 1
        blocks.append((start, stop))

    for_blocks(work, count, 4)
    assert (seen == 1).all()
    assert sorted(blocks) == [(start, min(start + 4, count)) for start in range(0, count, 4)]


def test_an_error_in_a_block_is_the_callers() -> None:
    def work(start: int, stop: int) -> None:
        if start == 4:
            raise ValueError("block 4")

    with pytest.raises(ValueError, match="block 4"):
        for_blocks(work, 12, 4)


def test_blocks_run_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cpus", lambda: 2)
    threads._pool.cache_clear()
    met = threading.Barrier(2, timeout=10)
    for_blocks(lambda start, stop: met.wait() and None, 2, 1)  # one alone would wait in vain
    threads._pool.cache_clear()


def test_the_number_of_threads_does_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    descriptors, centers = (rng.standard_normal(shape, dtype=np.float32) for shape in ((70, 49, 16), (32, 16)))
    vectors, words = (rng.standard_normal((count, 512), dtype=np.float32) for count in (70, 300))
    found = []
    for cores in (1, 2):
        monkeypatch.setattr(threads, "cpus", lambda cores=cores: cores)
        found.append((vlad(descriptors, centers), *nearest_words(vectors, words, 5)))
    assert all(np.array_equal(one, other) for one, other in zip(*found, strict=True))


@pytest.fixture
def three_torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_torch_threads")
def test_torch_has_its_threads_back_after_blocks_within_blocks_and_errors() -> None:
    with one_torch_thread():
        with pytest.raises(ValueError, match="inside"), one_torch_thread():
            raise ValueError("inside")
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_torch_threads")
def test_torch_has_its_threads_back_whichever_thread_ends_first() -> None:
    entered, left, seen = threading.Event(), threading.Event(), []

    def other() -> None:
        with one_torch_thread():
            entered.set()
            left.wait(10)
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=other)
    with one_torch_thread():
        thread.start()
        assert entered.wait(10)
    assert torch.get_num_threads() == 3
    left.set()
    thread.join()
    assert seen == [1, 3]
