"""How cost grows: ``python -m benchmarks.bench_scaling [--device cuda]``, by synthetic descriptors and vectors after the trunk.

* "scaling_images": descriptors in, 5 of 260 words out, batch by batch, up to a million images; memory is that of the whole run.
* "scaling_fit": word-vector sums of as many images.
* "scaling_words": ranking of 256 images among 100 to 100,000 words.
* "scaling_centers", "scaling_components": nearest centre and VLAD as m and n grow.
* "scaling_batch": descriptors to words as the batch grows; the trunk's own growth is in bench_trunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.bench_nearest_center import PATCHES
from benchmarks.bench_ranking import DIMENSION, K, vectors_of
from benchmarks.bench_words import labels_of
from benchmarks.rows import OURS, Row, Setting, measure_rows, stage_main
from gpuannot.method.ranking import WordRanking
from gpuannot.method.words import WordBank
from gpuannot.reference.vlad import vlad

WORDS, N, M, BATCH = 260, 64, 64, 100


def annotate(setting: Setting, centers: np.ndarray, words: int = WORDS) -> Callable[[Any], Any]:
    """Descriptors (B, P, n) → the 5 nearest words."""
    generator = np.random.default_rng(setting.seed)
    ranking = WordRanking(generator.standard_normal((words, centers.size), dtype=np.float32))
    if not setting.gpu:
        return lambda descriptors: ranking.nearest(vlad(descriptors, centers), K)
    from gpuannot.kernels import assign_vlad, check_centers

    there = torch.from_numpy(centers).to(setting.device)
    half_norms, nearest = check_centers(there), ranking.on(setting.device, np.arange(words)).nearest
    return lambda descriptors: nearest(
        assign_vlad(descriptors, there, half_norms, mass=False, intra=False, signed_sqrt=False, l2=False), K
    )


def data(setting: Setting, *shape: int) -> Any:
    """Random float32 numbers where the stage takes them."""
    values = np.random.default_rng(setting.seed).standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(values).to(setting.device) if setting.gpu else values


def image_rows(setting: Setting) -> Iterator[Row]:
    centers = np.random.default_rng(1).standard_normal((M, N), dtype=np.float32)
    run = annotate(setting, centers)
    batches = [data(setting, BATCH, PATCHES, N) + np.float32(0.1 * number) for number in range(8)]
    labels = [labels_of(BATCH, WORDS, number) for number in range(8)]
    vectors = [data(setting, BATCH, DIMENSION) + np.float32(number) for number in range(8)]

    def annotate_all(images: int) -> None:
        for number in range(images // BATCH):
            run(batches[number % 8])

    def fit_all(images: int) -> Any:
        bank = WordBank([str(number) for number in range(WORDS)], DIMENSION)
        for number in range(images // BATCH):
            bank.partial_fit(vectors[number % 8], labels[number % 8])
        return bank.sums

    counts = setting.pick([100, 1000, 10_000, 100_000, 1_000_000], [100, 1000, 10_000, 100_000, 1_000_000], [100, 1000])
    for stage, call in (("scaling_images", annotate_all), ("scaling_fit", fit_all)):
        for images in counts:
            few = setting if images <= 10_000 else _fewer(setting, images)
            yield from measure_rows(few, stage, {"images": images}, {OURS: partial(call, images)}, items=images)


def _fewer(setting: Setting, images: int) -> Setting:
    """A long run averages over itself: 3 timings of 100,000 images, 1 of a million."""
    return Setting(setting.device, setting.limits, setting.quick, 3 if images <= 100_000 else 1, setting.seed)


def word_rows(setting: Setting) -> Iterator[Row]:
    for words in setting.pick([100, 1000, 10_000, 100_000], [100, 1000, 10_000, 100_000], [100, 1000]):
        vectors, word_vectors = vectors_of(256, words, setting.seed)
        ranking = WordRanking(word_vectors)
        if setting.gpu:
            nearest: Any = ranking.on(setting.device, np.arange(words)).nearest
            call = partial(nearest, torch.from_numpy(vectors).to(setting.device), K)
        else:
            call = partial(ranking.nearest, vectors, K)
        yield from measure_rows(
            setting,
            "scaling_words",
            {"words": words, "images": 256},
            {OURS: call},
            items=256,
            work=2.0 * 256 * words * DIMENSION,
            moved=4.0 * (vectors.size + word_vectors.size),
        )


def codebook_rows(setting: Setting) -> Iterator[Row]:
    images = setting.pick(64, 1024, 8)
    cases = [("scaling_centers", N, m) for m in setting.pick([16, 64, 256, 1024], [16, 64, 256, 1024], [16, 64])]
    cases += [("scaling_components", n, M) for n in setting.pick([16, 64, 128, 256, 512], [16, 64, 128, 256, 512], [16, 64])]
    for stage, n, m in cases:
        descriptors, centers = data(setting, images, PATCHES, n), data(setting, m, n)
        yield from measure_rows(
            setting,
            stage,
            {"m": m, "n": n, "images": images},
            {OURS: _vlad(setting, descriptors, centers)},
            items=images,
            work=2.0 * images * PATCHES * n * m,
            moved=4.0 * images * (PATCHES * n + m * n),
        )


def _vlad(setting: Setting, descriptors: Any, centers: Any) -> Callable[[], Any]:
    if not setting.gpu:
        return partial(vlad, descriptors, centers)
    from gpuannot.kernels import assign_vlad, check_centers

    steps: dict[str, Any] = {"mass": False, "intra": False, "signed_sqrt": False, "l2": False}
    half_norms: Tensor = check_centers(centers)
    return partial(assign_vlad, descriptors, centers, half_norms, **steps)


def batch_rows(setting: Setting) -> Iterator[Row]:
    run = annotate(setting, np.random.default_rng(1).standard_normal((M, N), dtype=np.float32))
    for batch in setting.pick([1, 4, 16, 64, 256], [1, 16, 64, 256, 1024], [1, 8]):
        call = partial(run, data(setting, batch, PATCHES, N))
        yield from measure_rows(setting, "scaling_batch", {"batch": batch}, {OURS: call}, items=batch)


def measure(setting: Setting) -> Iterator[Row]:
    yield from image_rows(setting)
    yield from word_rows(setting)
    yield from codebook_rows(setting)
    yield from batch_rows(setting)


if __name__ == "__main__":
    stage_main("bench_scaling", __doc__ or "", measure)
