"""The regression behind the head ``kernel`` on a CUDA device beside the CPU's, which ``test_kernel.py`` holds against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor

from gpuannot.heads.kept_images import KeptImages
from gpuannot.heads.kernel import KernelSystem

pytestmark = pytest.mark.gpu
IMAGES, D, W = 1100, 33, 7  # more than the columns of an inverse that one product fills


def data(count: int, seed: int) -> tuple[Tensor, sparse.csr_array]:
    """Unit vectors that depend on their words."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, W)) < 0.3).astype(np.float32)
    vectors = labels @ np.random.default_rng(99).standard_normal((W, D)) + rng.standard_normal((count, D))
    return torch.from_numpy((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)), sparse.csr_array(labels)


@pytest.mark.parametrize("most", [2000, 100])
def test_images_and_words_come_and_go_as_on_a_cpu(most: int) -> None:
    """By all images, and by landmarks, of which one goes; each change made on what was solved before."""
    vectors, labels = data(IMAGES, 0)
    systems = []
    for device in ("cuda", "cpu"):
        images = KeptImages(W, D, device)
        images.update(vectors, labels, 1, np.arange(IMAGES))
        systems.append(KernelSystem(images, 0.3, most=most, seed=1))
    more, of_more = data(3, 1)
    marks = {tuple(mark) for mark in systems[1].vectors.tolist()}
    gone = [next(row for row in range(8, IMAGES) if tuple(vectors[row].half().tolist()) in marks), 7]
    changes = {
        "nothing": lambda system: None,
        "more images": lambda system: system.update(more, of_more),
        "fewer images": lambda system: system.update(vectors[gone], labels[gone], -1),
        "a word more": lambda system: system.add_words(1),
        "two words are one": lambda system: system.merge_words(1, 2),
        "a word less": lambda system: system.keep_words([0, 2, 3, 5, 4, 6, 7]),
    }
    test, rows = data(9, 2)[0], np.arange(40)
    for name, change in changes.items():
        for system in systems:
            solved = system._solve()
            change(system)
            assert system._solve() is solved
        found, expected = ([*one.left_out(), one.leverage, one.scores(test.to(one.images.device)),
                            one.left_out_scores(rows, own=True)] for one in systems)  # fmt: skip
        for part, other in zip(found, expected, strict=True):
            assert part.is_cuda
            torch.testing.assert_close(part.cpu(), other, rtol=1e-6, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}")
