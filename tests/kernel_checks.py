"""Checks that the right kernels pass and that each of kernel_mutants.py's wrong ones must fail."""

from __future__ import annotations

import numpy as np
import trunk_cases
import vector_cases
from kernel_cases import ON_TENSOR_CORES, Stored, assign_vlad, nearest_center, store, vlad, vlad_reference

from gpuannot.kernels.vlad_plan import Step

SEEDS = (0, 1, 2, 3)


def _whole_numbers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-4, 5, shape).astype(np.float32)


def _check_nearest(method: str, dtype: str, shared_limit: int = 227 * 1024) -> None:
    """Rows and centres that fill no last tile, three steps of depth, each centre twice: exact for whole numbers."""
    rng = np.random.default_rng(1)
    x = store(_whole_numbers(rng, 263, 136), dtype)
    distinct = _whole_numbers(rng, 65, 136)
    c = store(np.concatenate([distinct, distinct[::-1]]), dtype if method in ON_TENSOR_CORES else "float32")
    distances = np.square(x.values[:, None].astype(np.float64) - c.values[None]).sum(2)
    values = x.values.copy()
    values[7, 130] = np.inf
    distances[7] = np.nan
    for seed in SEEDS:
        result = nearest_center(store(values, dtype), c, method, padding=8, seed=seed, shared_limit=shared_limit)
        expected = np.where(np.isnan(distances[:, 0]), -1, distances.argmin(1))
        assert np.array_equal(result.index, expected)
        assert np.array_equal(result.distance, distances.min(1), equal_nan=True)
        assert result.invalid == 1
    overflowing, mixed = np.zeros((2, 8)), np.zeros((66, 8))
    overflowing[:, :2], mixed[1::2, :2] = 3e38, (-4, 4)  # scores of 0 and +inf, though x.c is 0
    result = nearest_center(store(overflowing, dtype), store(mixed, c.dtype), method)
    assert (result.index == -1).all() and result.invalid == 2


def check_plain() -> None:
    _check_nearest("PLAIN", "float32")


def check_tiled() -> None:
    _check_nearest("TILED", "float32")


def check_mma() -> None:
    _check_nearest("MMA", "bfloat16")


def _check_resident(method: str, apart: int) -> None:
    """Also ties and overflows that one lane meets alone: centres ``apart``, in one tile and in several."""
    _check_nearest(method, "bfloat16")
    rng = np.random.default_rng(7)
    x, distinct = store(_whole_numbers(rng, 520, 64), "bfloat16"), _whole_numbers(rng, 8, 64)
    result = nearest_center(x, store(np.tile(distinct, (20, 1)), "bfloat16"), method)
    assert np.array_equal(result.index, np.square(x.values[:, None].astype(np.float64) - distinct).sum(2).argmin(1))
    for overflowing in (3, 3 + apart):
        x, c = np.zeros((2, 8)), np.zeros((16, 8))
        x[1, :2], c[overflowing, :2] = 3e38, (-4, 4)
        assert nearest_center(store(x, "bfloat16"), store(c, "bfloat16"), method).index.tolist() == [0, -1]


def check_stream() -> None:
    _check_resident("STREAM", 8)


def check_stream_in_parts() -> None:
    _check_nearest("STREAM", "bfloat16", shared_limit=48 * 1024)


def check_wgmma() -> None:
    _check_resident("WGMMA", 1)


def check_wgmma_in_parts() -> None:
    _check_nearest("WGMMA", "bfloat16", shared_limit=80 * 1024)
    rng = np.random.default_rng(7)
    x, c = (store(_whole_numbers(rng, rows, 64), "bfloat16") for rows in (40, 300))
    expected = np.square(x.values[:, None].astype(np.float64) - c.values).sum(2).argmin(1)
    for seed in SEEDS:
        assert np.array_equal(nearest_center(x, c, "WGMMA", seed=seed, shared_limit=20 * 1024).index, expected)


def check_screen() -> None:
    """Codebooks in which fmaf alone tells centres apart, or bfloat16 does not, to plain's bits; rows that only plain may judge."""
    rng = np.random.default_rng(10)

    def near(c: np.ndarray, spread: float = 3e-7) -> np.ndarray:
        return c + spread * rng.standard_normal(c.shape)

    values = rng.standard_normal((140, 68))
    values[5, 67], values[6, 0], values[139, 1] = np.nan, 3e38, 1e17
    d = rng.standard_normal((4, 8, 68))
    codebooks = [
        np.concatenate([d[0], near(d[0])]),  # close ones a lane's two of one tile,
        np.concatenate([d[0], d[1], near(d[0]), d[2]]),  # its of two tiles,
        near(np.repeat(d[0], 2, axis=0)),  # and those of two lanes
        *(near(np.tile(d[3, :1], (75, 1)), spread) for spread in (3e-2, 1e-2, 3e-3, 0.0)),
    ]
    for seed, codebook in enumerate(codebooks):
        x, c = store(values, "float32"), store(codebook, "float32")
        plain, screened = nearest_center(x, c, "PLAIN", padding=4), nearest_center(x, c, "SCREEN", padding=4, seed=seed)
        assert np.array_equal(plain.index, screened.index) and plain.invalid == screened.invalid
        assert np.array_equal(plain.distance, screened.distance, equal_nan=True)
    # A row that bfloat16 rounds past the middle of two centres.
    middle = np.full((1, 64), 1.0038)
    either = store(np.concatenate([middle - 0.104, middle + 0.1]), "float32")
    assert nearest_center(store(middle, "float32"), either, "SCREEN").index == [1]
    huge = np.zeros((1, 32))
    huge[0, :2] = 1.2e19  # one of its scores overflows, |x|^2 does not
    assert nearest_center(store(huge, "float32"), store(np.concatenate([0 * huge, -huge]), "float32"), "SCREEN").index == [-1]


def _vlad_case() -> tuple[Stored, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    labels = rng.integers(-1, 41, (2, 100))
    labels[0, :50] = 3  # more than one round of loads
    return store(_whole_numbers(rng, 2, 100, 20), "float32"), labels, _whole_numbers(rng, 40, 20)


def check_vlad_kernel() -> None:
    """Several chunks; sums of whole numbers exactly; normalised within rounding; the same bits for every order of threads."""
    x, labels, c = _vlad_case()
    exact = vlad_reference(x.values, labels, c, Step(0))
    for seed in SEEDS:
        out, skipped = vlad(x, labels, c, Step(0), padding=4, seed=seed, chunk=64)
        assert np.array_equal(out, exact)
        assert np.array_equal(skipped, ((labels < 0) | (labels >= 40)).sum(1))
    chain = Step.MASS | Step.INTRA | Step.SIGNED_SQRT | Step.L2
    values = store(np.random.default_rng(3).standard_normal(x.values.shape), "float32")
    first, _ = vlad(values, labels, c, chain, chunk=64)
    assert np.abs(first - vlad_reference(values.values, labels, c, chain)).max() < 1e-6
    for seed in SEEDS[1:]:
        assert np.array_equal(vlad(values, labels, c, chain, seed=seed, chunk=64)[0], first)


def check_vlad_split() -> None:
    """Blocks that share an image, the last with fewer centres than the others."""
    x, labels, c = _vlad_case()
    for seed in SEEDS:
        out, _ = vlad(x, labels, c, Step.L2, seed=seed, centers_per_block=17)
        assert np.abs(out - vlad_reference(x.values, labels, c, Step.L2)).max() < 1e-6


def check_patch_order() -> None:
    """Values of many magnitudes: their float32 sum shows the order in which they were added."""
    rng = np.random.default_rng(4)
    x = store(rng.standard_normal((1, 90, 4)) * 10.0 ** rng.integers(-4, 5, (1, 90, 4)), "float32")
    labels = rng.integers(0, 2, (1, 90))
    in_order = np.zeros((2, 4), np.float32)
    for patch, label in enumerate(labels[0]):
        in_order[label] += x.values[0, patch]
    for seed in SEEDS:
        out, _ = vlad(x, labels, np.zeros((2, 4), np.float32), Step(0), seed=seed)
        assert np.array_equal(out.reshape(2, 4), in_order)


def _check_assign(method: str, dtype: str) -> None:
    rng = np.random.default_rng(5)
    x = store(_whole_numbers(rng, 2, 300, 72), dtype)
    values = x.values.copy()
    values[1, 290, 70] = np.nan
    c = store(np.repeat(_whole_numbers(rng, 36, 72), 2, axis=0), dtype if method == "MMA" else "float32")
    labels = np.square(values[:, :, None].astype(np.float64) - c.values).sum(3).argmin(2)
    labels[1, 290] = -1
    finite = np.nan_to_num(values)
    for seed in SEEDS:
        out, skipped = assign_vlad(store(values, dtype), c, Step(0), method, padding=8, seed=seed)
        assert np.array_equal(out, vlad_reference(finite, labels, c.values, Step(0)))
        assert np.array_equal(skipped, [0, 1])
    out, _ = assign_vlad(store(values, dtype), c, Step.L2, method, padding=8, seed=1)
    assert np.abs(out - vlad_reference(finite, labels, c.values, Step.L2)).max() < 1e-6


def check_assign_tiled() -> None:
    _check_assign("TILED", "float32")


def check_assign_mma() -> None:
    _check_assign("MMA", "bfloat16")


def check_max_pool() -> None:
    """Vectors and single elements, an odd row and column, more than a block in y; NaN in each place; the first of a tie."""
    rng = np.random.default_rng(8)
    for shape in ((2, 5, 7, 24), (1, 3, 2, 515)):
        values = store(rng.standard_normal(shape), "bfloat16").values.copy()
        for square in range(4):
            values[0, square // 2, square % 2, square] = np.nan
        result = trunk_cases.max_pool(store(values, "bfloat16"), padding=8)
        assert np.array_equal(result, trunk_cases.pooled(values), equal_nan=True)
    zeros = np.zeros((1, 2, 2, 8), np.float32)
    zeros[0, 0, 0] = -0.0
    assert np.signbit(trunk_cases.max_pool(store(zeros, "bfloat16"))).all()


def check_normalise_pixels() -> None:
    rng = np.random.default_rng(9)
    scale, offset = np.array([0.017, 1.0, 1 / 57.4], np.float32), np.array([-2.1, -123.68, 1e-3], np.float32)
    for width, channels in ((6, 4), (5, 4), (6, 8), (600, 8)):
        if width == 600:
            scale, offset = np.ones(3, np.float32), np.full(3, 256, np.float32)  # every odd byte lies half-way
        images = rng.integers(0, 256, (2, 3, 3, width), np.uint8)
        for planes in (True, False):
            out = trunk_cases.normalise_pixels(images, scale, offset, channels, "bfloat16", planes)
            assert np.array_equal(out, trunk_cases.normalised(images, scale, offset, channels, "bfloat16"))


def check_rank_candidates() -> None:
    """Ties, an image of zeros, scores that are not numbers, more candidates than warps; for every order of threads."""
    for score in ("l2", "cosine", "linear"):
        vectors, rows, candidates, bias = vector_cases.ranking_case(3, 40, 70, 19, score, whole=True)
        vectors[1] = 0
        vectors[2, 5] = rows[candidates[0, 3], 0] = np.nan
        with np.errstate(invalid="ignore"):
            expected, exact = vector_cases.ranked(vectors, rows, candidates, 7, score, bias)
        for seed in SEEDS:
            index, distance = vector_cases.rank_candidates(vectors, rows, candidates, 7, score, bias, padding=1, seed=seed)
            assert np.array_equal(index, expected)
            assert np.allclose(distance[:2], exact[:2], rtol=1e-6, atol=1e-7)


def check_affine_map() -> None:
    """Four layers, rows and components that fill no last tile, a stride of the output; exact for whole numbers."""
    rng = np.random.default_rng(11)
    channels = (72, 32, 40, 8)
    x = [store(_whole_numbers(rng, 263, size), "bfloat16") for size in channels]
    m = [store(_whole_numbers(rng, 2, 70, size), "bfloat16") for size in channels]
    offset = _whole_numbers(rng, 4, 70)
    exact = [vector_cases.mapped(a.values, b.values, c)[0] for a, b, c in zip(x, m, offset, strict=True)]
    for seed in SEEDS:
        assert np.array_equal(vector_cases.affine_map(x, m, offset, padding=8, seed=seed), np.concatenate(exact, axis=1))


def check_assign_layers() -> None:
    """Three layers of as many centres as the small tile has, in two parts: together the values, each rounded to nearest even."""
    rng = np.random.default_rng(12)
    x, c = store(_whole_numbers(rng, 2, 70, 60), "float32"), store(_whole_numbers(rng, 3, 32, 20), "float32")
    x.values[1, 3, 45] = x.bits[1, 3, 45] = np.inf
    expected, left_out = [], []
    for layer in range(3):
        part = x.values[..., 20 * layer : 20 * layer + 20]
        with np.errstate(invalid="ignore"):
            labels = np.square(part[:, :, None].astype(np.float64) - c.values[layer]).sum(3).argmin(2)
        labels[~np.isfinite(part).all(2)] = -1
        expected.append(vlad_reference(np.nan_to_num(part, posinf=0), labels, c.values[layer], Step(0)))
        left_out.append((labels < 0).sum(1))
    for seed in SEEDS:
        out, skipped = assign_vlad(x, c, Step(0), "TILED", padding=4, seed=seed)
        assert np.array_equal(out, np.concatenate(expected, axis=1)) and np.array_equal(skipped, np.stack(left_out, axis=1))
    parts, _ = assign_vlad(x, store(c.values + 0.00123, "float32"), Step.SIGNED_SQRT, "TILED", split=True)
    whole, _ = assign_vlad(x, store(c.values + 0.00123, "float32"), Step.SIGNED_SQRT, "TILED")
    high = store(whole, "bfloat16").values
    assert np.array_equal(parts[0], high) and np.array_equal(parts[1], store(whole - high, "bfloat16").values)


def check_unit_products() -> None:
    """Parts that add up, more dimensions than threads and more rows of products than warps; for every order of threads."""
    rng = np.random.default_rng(13)
    product, offset = rng.standard_normal((2, 3, 2, 300), np.float32), rng.standard_normal(300, np.float32)
    product[:, 1] = 0
    offset[299] = 9
    for seed in SEEDS:
        out = vector_cases.unit_products(product, offset, 37, 0.3, seed)
        assert np.allclose(out, vector_cases.multiplied(product, offset, 37, 0.3), rtol=1e-5, atol=1e-6)
    assert not vector_cases.unit_products(0 * product, 0 * offset, 3, 0.3).any()
