"""K-means of a descriptor sample: ``python -m benchmarks.bench_codebook [--device cuda]``. 64 centres, at most 25 Lloyd iterations.

Libraries start and stop by rules of their own, so a time means nothing without what it bought: the value compared is the inertia,
computed in float64, divided by scikit-learn's in float64 from the same seed; within 2% counts as agreement.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.peers import Missing, peer
from benchmarks.rows import OURS, Agreement, Row, Setting, Variants, measure_rows, stage_main
from gpuannot.method.codebook import Codebook, kmeans_torch
from gpuannot.reference.vlad import nearest_center

DIMENSION, CENTERS, ITERATIONS = 64, 64, 25
_BOUND = 1.02


def sample_of(count: int, seed: int) -> np.ndarray:
    """Descriptors (count, 64) in 200 clumps of different sizes, wider in some directions: what PCA leaves."""
    generator = np.random.default_rng(seed)
    scale = np.geomspace(3, 0.5, DIMENSION).astype(np.float32)
    clumps = generator.standard_normal((200, DIMENSION), dtype=np.float32)
    share = generator.dirichlet(np.ones(200))
    noise = generator.standard_normal((count, DIMENSION), dtype=np.float32)
    return ((clumps[generator.choice(200, count, p=share)] + 0.7 * noise) * scale).astype(np.float32)


def inertia(sample: np.ndarray, centers: np.ndarray) -> float:
    exact, centers = sample.astype(np.float64), centers.astype(np.float64)
    return float(np.square(exact - centers[nearest_center(exact, centers)]).sum())


def variants(setting: Setting, sample: np.ndarray) -> Variants:
    x = torch.from_numpy(sample).to(setting.device)
    seed = setting.seed
    faiss, fast, cluster = peer("faiss", "faiss-cpu"), peer("fastkmeans"), peer("sklearn.cluster", "scikit-learn")

    def ours() -> Any:
        return Codebook(CENTERS, max_iterations=ITERATIONS, seed=seed).fit(x if setting.gpu else sample).centers

    def faiss_kmeans() -> Any:
        model = faiss.Kmeans(DIMENSION, CENTERS, niter=ITERATIONS, seed=seed, max_points_per_centroid=len(sample), gpu=setting.gpu)
        model.train(sample)
        return model.centroids

    def fast_kmeans() -> Any:
        model = fast.FastKMeans(
            DIMENSION, CENTERS, niter=ITERATIONS, seed=seed, gpu=setting.gpu, device=str(setting.device), verbose=False,
            max_points_per_centroid=len(sample), dtype=torch.float32,
        )  # fmt: skip
        model.train(sample)
        return model.centroids

    def mini_batch() -> Any:
        return cluster.MiniBatchKMeans(CENTERS, max_iter=ITERATIONS, n_init=1, random_state=seed).fit(sample).cluster_centers_

    cuml, flash = peer("cuml", "cuml-cu13", gpu=True), peer("flash_kmeans", "flash-kmeans", gpu=True)
    no_gpu_faiss = setting.gpu and not hasattr(faiss, "StandardGpuResources")
    return {
        OURS: ours,
        "gpuannot, without cuML or scikit-learn": lambda: kmeans_torch(x, CENTERS, seed=seed, max_iterations=ITERATIONS)[0],
        "scikit-learn MiniBatchKMeans": Missing("runs on a CPU") if setting.gpu else mini_batch,
        "faiss Kmeans": faiss if isinstance(faiss, Missing) else Missing("built without CUDA") if no_gpu_faiss else faiss_kmeans,
        "fastkmeans": fast if isinstance(fast, Missing) else fast_kmeans,
        "cuML KMeans": cuml if isinstance(cuml, Missing) else Missing("is what gpuannot calls here"),
        "flash-kmeans": flash
        if isinstance(flash, Missing)
        else lambda: flash.batch_kmeans_Euclid(x[None], CENTERS, max_iters=ITERATIONS)[1][0],
    }


def measure(setting: Setting) -> Iterator[Row]:
    count = setting.pick(100_000, 1_000_000, 5_000)
    sample = sample_of(count, setting.seed)
    part = sample[:200_000].astype(np.float64)  # scikit-learn's own fit in float64, on as many as it can do in seconds
    cluster = peer("sklearn.cluster", "scikit-learn")
    oracle = cluster.KMeans(CENTERS, n_init=1, max_iter=ITERATIONS, random_state=setting.seed).fit(part).cluster_centers_
    best = inertia(sample, oracle)

    def agreement(answer: Any) -> Agreement:
        centers = answer.cpu().numpy() if isinstance(answer, torch.Tensor) else np.asarray(answer)
        value = inertia(sample, centers) / best
        return Agreement("inertia to scikit-learn's in float64", value, _BOUND, value <= _BOUND)

    yield from measure_rows(
        setting,
        "codebook",
        {"descriptors": count, "n": DIMENSION, "m": CENTERS, "iterations": ITERATIONS},
        variants(setting, sample),
        items=count,
        unit="descriptors",
        agreement=partial(agreement),
    )


if __name__ == "__main__":
    stage_main("bench_codebook", __doc__ or "", measure)
