"""The 5 nearest words of image vectors (equation 6): ``python -m benchmarks.bench_ranking [--device cuda]``.

gpuannot orders its candidates by their distance in float64; the others take the float32 product's order and distance. Agreement
is the share of (image, rank) pairs with the word of the float64 reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.bench_nearest_center import faiss_flat
from benchmarks.peers import Missing, calls, compiled, peer
from benchmarks.rows import OURS, Row, Setting, Variants, equal_share, measure_rows, stage_main
from gpuannot.method.ranking import WordRanking

DIMENSION, K = 4096, 5
FAISS = "faiss IndexFlatL2"
_CHECKED = 64  # images compared with float64


def cdist_top_k(vectors: Tensor, word_vectors: Tensor) -> tuple[Tensor, Tensor]:
    distance, index = torch.cdist(vectors, word_vectors).topk(K, largest=False)
    return index, distance


def faiss_search(index: Any, vectors: Any) -> Any:
    return index.search(vectors, K)[::-1]


def sklearn_search(neighbours: Any, vectors: np.ndarray) -> Any:
    return neighbours.kneighbors(vectors)[::-1]


def vectors_of(images: int, words: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image vectors around the mean of 4 words' vectors each, as equation 2 has it, and the word vectors; float32."""
    generator = np.random.default_rng(seed)
    word_vectors = generator.standard_normal((words, DIMENSION), dtype=np.float32)
    vectors = generator.standard_normal((images, DIMENSION), dtype=np.float32)
    for number in range(images):
        vectors[number] += word_vectors[generator.integers(0, words, 4)].sum(axis=0)
    return vectors, word_vectors


def exact_order(vectors: np.ndarray, word_vectors: np.ndarray) -> np.ndarray:
    """The K nearest words by float64 distance, computed without any of the code that is measured."""
    distance = np.stack([np.square(word_vectors.astype(np.float64) - vector).sum(axis=1) for vector in vectors.astype(np.float64)])
    return np.argsort(distance, axis=1, kind="stable")[:, :K]


def measure(setting: Setting) -> Iterator[Row]:
    images = setting.pick(1000, 8192, 100)
    for words in setting.pick([260, 10_000], [260, 10_000, 100_000], [260]):
        vectors, word_vectors = vectors_of(images, words, setting.seed)
        x, w = (torch.from_numpy(values).to(setting.device) for values in (vectors, word_vectors))
        ranking = WordRanking(word_vectors)
        if setting.gpu:
            ours: Any = partial(ranking.on(setting.device, np.arange(words)).nearest, x, K)
        else:
            ours = partial(ranking.nearest, vectors, K)
        index = faiss_flat(word_vectors, setting.device)
        brute = peer("sklearn.neighbors", "scikit-learn").NearestNeighbors(n_neighbors=K, algorithm="brute").fit(word_vectors)
        queries = x if setting.gpu else vectors
        variants: Variants = {
            OURS: ours,
            FAISS: index if isinstance(index, Missing) else partial(faiss_search, index, queries),
            "torch cdist + topk": partial(cdist_top_k, x, w),
            "torch cdist + topk, compiled": calls(compiled(cdist_top_k, quick=setting.quick), x, w),
            "scikit-learn NearestNeighbors": Missing("runs on a CPU") if setting.gpu else partial(sklearn_search, brute, vectors),
        }
        exact = exact_order(vectors[:_CHECKED], word_vectors)
        yield from measure_rows(
            setting,
            "ranking",
            {"images": images, "words": words, "dimension": DIMENSION, "k": K},
            variants,
            items=images,
            moved=4.0 * (vectors.size + word_vectors.size),
            work=2.0 * images * words * DIMENSION,
            agreement=lambda answer, exact=exact: equal_share(answer[0][: len(exact)], exact, bound=0.99),  # type: ignore[misc]
        )


if __name__ == "__main__":
    stage_main("bench_ranking", __doc__ or "", measure)
