"""The kernels of image vectors on the CPU, over guarded inputs, and what they must give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from cuda_on_cpu import Guarded
from kernel_cases import Stored, alignment_of, guarded_rows, run, store

from gpuannot.kernels.features import MOST_LAYERS, plan_affine_map
from gpuannot.kernels.projection import plan_unit_products
from gpuannot.kernels.ranking import plan_rank_candidates

Array = np.ndarray


def rank_candidates(
    vectors: Array, words: Array, candidates: Array, k: int, score: str, bias: Array | None = None, padding: int = 0, seed: int = 0
) -> tuple[Array, Array]:
    """Run rank_candidates.cu; a word's number in the vocabulary is 3 more than twice its own."""
    x, (stride,) = guarded_rows(store(vectors, "float32"), padding)
    index, distance = (Guarded(np.full((len(vectors), k), -7, kind)) for kind in (np.int64, np.float32))
    buffers = {
        "vectors": x.array,
        "word_vectors": Guarded(words).array,
        "bias": None if bias is None else Guarded(bias).array,
        "known": Guarded(2 * np.arange(len(words)) + 3).array,
        "candidates": Guarded(candidates).array,
        "index": index.array,
        "distance": distance.array,
    }
    run(plan_rank_candidates(*vectors.shape, stride, candidates.shape[1], k, score), buffers, seed)
    index.check()
    distance.check()
    return index.array.copy(), distance.array.copy()


def ranked(vectors: Array, words: Array, candidates: Array, k: int, score: str, bias: Array | None = None) -> tuple[Array, Array]:
    """The same, every candidate of every image in float64 and sorted by (not a number, score, word)."""
    index, distance = np.empty((len(vectors), k), np.int64), np.empty((len(vectors), k))
    for t, x in enumerate(vectors.astype(np.float64)):
        rows = words[candidates[t]].astype(np.float64)
        scores = np.sqrt(np.square(rows - x).sum(1)) if bias is None else -(rows @ x + bias[candidates[t]])
        order = np.lexsort((candidates[t], scores))[:k]  # NaN is sorted last
        index[t], distance[t] = 2 * candidates[t][order] + 3, scores[order]
        if score == "cosine":
            distance[t] = np.maximum(0, 1 - (x @ x + 1 - distance[t] ** 2) / 2)
            if not x.any():
                index[t], distance[t] = 2 * np.arange(k) + 3, 1
    return index, distance


def ranking_case(
    images: int, words: int, dims: int, take: int, score: str, whole: bool = False
) -> tuple[Array, Array, Array, Array | None]:
    """Vectors, words of which every second pair is equal, candidates in any order, and for linear scores a bias."""
    rng = np.random.default_rng([images, words, dims, take])

    def drawn(*shape: int) -> Array:
        return rng.integers(-3, 4, shape).astype(np.float32) if whole else rng.standard_normal(shape, np.float32)

    vectors, rows = drawn(images, dims), drawn(words, dims)
    rows[2::4] = rows[1::4][: len(rows[2::4])]
    bias = drawn(words)
    bias[2::4] = bias[1::4][: len(bias[2::4])]
    if score == "cosine":
        vectors, rows = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30) for x in (vectors, rows))
    candidates = np.stack([rng.permutation(words)[:take] for _ in range(images)]) if images else np.empty((0, take), np.int64)
    return vectors.astype(np.float32), rows.astype(np.float32), candidates, bias if score == "linear" else None


def affine_map(features: Sequence[Stored], matrices: Sequence[Stored], offset: Array, padding: int = 0, seed: int = 0) -> Array:
    """Run affine_map.cu on (rows, channels) and (2, n, channels) of each layer; what lies between the rows of the output stays."""
    rows, (layers, components) = len(features[0].bits), offset.shape
    given = [guarded_rows(own, padding) for own in features]
    arrays = [x.array for x, _ in given], [Guarded(matrix.bits).array for matrix in matrices]
    columns = layers * components
    out_stride = columns + padding
    out = Guarded(np.full(max(0, rows * out_stride - padding), -7, np.float32))
    channels, strides = tuple(own.bits.shape[1] for own in features), tuple(stride for _, (stride,) in given)
    plan = plan_affine_map(
        rows, channels, components, features[0].dtype, strides, out_stride, alignment=alignment_of(*arrays[0], *arrays[1])
    )
    buffers: dict[str, Array | None] = {"offset": Guarded(offset).array, "out": out.array}
    for name, of_layers in zip(("features", "matrix"), arrays, strict=True):
        buffers |= {f"{name}{number}": of_layers[number] if number < layers else None for number in range(MOST_LAYERS)}
    if rows:
        run(plan, buffers, seed)
    out.check()
    padded = np.append(out.array, np.full(padding if rows else 0, -7, np.float32)).reshape(rows, out_stride)
    assert (padded[:, columns:] == -7).all()
    return padded[:, :columns].copy()


def mapped(features: Array, matrix: Array, offset: Array) -> tuple[Array, Array]:
    """The same in float64, and a bound on the errors of a sum of float32 products that may be cut instead of rounded."""
    x, m = features.astype(np.float64), matrix.astype(np.float64)
    magnitude = np.abs(x) @ np.abs(m).sum(0).T + np.abs(offset)
    return x @ m.sum(0).T + offset, (2 * x.shape[1] + 2) * 2.0**-23 * magnitude


def unit_products(product: Array, offset: Array, quadratic: int, weight: float, seed: int = 0) -> Array:
    """Run unit_products.cu on (R, B, C, d)."""
    row_parts, images, column_parts, dims = product.shape
    out = Guarded(np.full((images, dims + quadratic * (quadratic + 1) // 2), np.nan, np.float32))
    plan = plan_unit_products(images, row_parts, column_parts, dims, quadratic, weight)
    if images:
        run(plan, {"product": Guarded(product).array, "offset": Guarded(offset).array, "out": out.array}, seed)
    out.check()
    return out.array.copy()


def multiplied(product: Array, offset: Array, quadratic: int, weight: float) -> Array:
    """The same in float64, products one by one."""
    p = product.astype(np.float64).sum((0, 2)) + offset
    norm = np.linalg.norm(p, axis=1, keepdims=True)
    u = p / np.where(norm == 0, 1, norm)
    pairs = [(i, j) for i in range(quadratic) for j in range(i, quadratic)]
    columns = [u[:, i] * u[:, j] * np.sqrt(weight if i == j else 2 * weight) for i, j in pairs]
    return np.concatenate([u, np.stack(columns, axis=1)], axis=1) if columns else u
