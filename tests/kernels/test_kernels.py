"""The kernels, unchanged, on the CPU: every version against a float64 reference at the sizes at which tiling breaks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cuda_on_cpu import compiler
from kernel_cases import (
    CENTERS,
    DIMS,
    DTYPES,
    ON_TENSOR_CORES,
    ROWS,
    SHAPES,
    Stored,
    assign_vlad,
    check_assignment,
    check_vlad,
    nearest_center,
    random_stored,
    store,
    vlad,
    vlad_reference,
)

from gpuannot.kernels.stream import LARGEST_DIMS, stream_sizes
from gpuannot.kernels.vlad_plan import Step

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler (g++, or the one named in CXX)")

METHODS = [(dtype, method) for dtype in DTYPES for method in ("PLAIN", "TILED")]
METHODS += [("float32", "SCREEN"), *((dtype, method) for dtype in DTYPES[1:] for method in ON_TENSOR_CORES)]
ASSIGNING = [(dtype, method) for dtype, method in METHODS if method in ("TILED", "MMA")]
SEEDS = (1, 2, 3)  # the reverse order of threads, and two random ones; 0 is the natural order


def centers_for(method: str, values: np.ndarray, dtype: str) -> Stored:
    """The centres in the type that the method takes."""
    return store(values, dtype if method in ON_TENSOR_CORES else "float32")


def integers(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Small whole numbers: sums of their products are exact in every type, so results are equal and not only close."""
    return rng.integers(-4, 5, shape).astype(np.float32)


def test_shapes_cover_all_pairs() -> None:
    for axis, others in ((DIMS, CENTERS), (DIMS, ROWS), (CENTERS, ROWS)):
        columns = [next(i for i, values in enumerate((DIMS, CENTERS, ROWS)) if values is wanted) for wanted in (axis, others)]
        assert len({tuple(shape[i] for i in columns) for shape in SHAPES}) == len(axis) * len(others)


@pytest.mark.parametrize(
    ("dims", "dtype", "method"),
    [(dims, *method) for dims in DIMS for method in METHODS if dims <= LARGEST_DIMS.get(method[1], dims)],
)
def test_nearest_center_is_the_argmin(dims: int, dtype: str, method: str) -> None:
    for case, (_, centers, rows, padding) in enumerate(shape for shape in SHAPES if shape[0] == dims):
        rng = np.random.default_rng(case)
        x = random_stored(rng, (rows, dims), dtype)
        c = centers_for(method, rng.standard_normal((centers, dims)), dtype)
        check_assignment(nearest_center(x, c, method, padding, seed=case), x.values, c.values, method)


@pytest.mark.parametrize(("dtype", "method"), METHODS)
@pytest.mark.parametrize("dims", [3, 64])
def test_ties_go_to_the_lowest_index(dims: int, dtype: str, method: str) -> None:
    rng = np.random.default_rng(dims)
    x = store(integers(rng, (197, dims)), dtype)
    distinct = integers(rng, (50, dims))
    c = centers_for(method, distinct[rng.integers(0, 50, 150)], dtype)  # each centre about three times, tiles apart
    distances = np.square(x.values[:, None].astype(np.float64) - c.values[None]).sum(2)
    for seed in SEEDS:
        result = nearest_center(x, c, method, seed=seed)
        assert np.array_equal(result.index, distances.argmin(1))
        assert np.array_equal(result.distance, distances.min(1))


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("dims", DIMS)
def test_versions_on_tensor_cores_agree_in_every_bit(dims: int, dtype: str) -> None:
    for case, (centers, rows, padding) in enumerate(((1, 1, 0), (33, 257, 1), (256, 550, 8))):
        rng = np.random.default_rng(case)
        x, c = random_stored(rng, (rows, dims), dtype), random_stored(rng, (centers, dims), dtype)
        mma = nearest_center(x, c, "MMA", padding)
        for method in ("STREAM", "WGMMA"):
            if dims <= LARGEST_DIMS[method]:
                other = nearest_center(x, c, method, padding, seed=case)
                assert np.array_equal(mma.index, other.index)
                assert np.array_equal(mma.distance, other.distance)


@pytest.mark.parametrize(
    ("method", "dims", "tight"),
    [
        ("STREAM", 31, 32 << 10),
        ("STREAM", 64, 40 << 10),
        ("STREAM", 128, 64 << 10),
        ("STREAM", 512, 64 << 10),
        ("WGMMA", 64, 20 << 10),
        ("WGMMA", 256, 80 << 10),
    ],
)
def test_a_codebook_in_parts_gives_the_bits_of_a_resident_one(method: str, dims: int, tight: int) -> None:
    rng = np.random.default_rng(6)
    x, c = random_stored(rng, (300, dims), "bfloat16"), random_stored(rng, (131, dims), "bfloat16")
    resident = 227 << 10
    parts = {limit: stream_sizes(300, dims, 131, 8, 1, limit, method).part_tiles for limit in (tight, resident)}
    assert 1 <= parts[tight] < parts[resident] == {"STREAM": 10, "WGMMA": 2}[method]
    first = nearest_center(x, c, method, shared_limit=resident)
    for seed in (0, *SEEDS):
        again = nearest_center(x, c, method, shared_limit=tight, seed=seed)
        assert np.array_equal(first.index, again.index)
        assert np.array_equal(first.distance, again.distance)


@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-5, 1e-7, 0.0])
@pytest.mark.parametrize("scale", [1e-17, 1.0, 1e18])
def test_screening_gives_plains_bits_however_close_centers_are(scale: float, spread: float) -> None:
    """Spread is how far the centres lie apart, in their own size: from clear to ties."""
    rng = np.random.default_rng(8)
    for dims, padding, limit in ((64, 0, 227 << 10), (100, 1, 227 << 10), (128, 4, 80 << 10)):
        values = rng.standard_normal((140, dims)) * scale
        values[11, 2], values[12, 0], values[139, dims - 1] = np.nan, 3e38, np.inf
        x = store(values, "float32")
        c = store((rng.standard_normal(dims) + spread * rng.standard_normal((75, dims))) * scale, "float32")
        plain, screened = nearest_center(x, c, "PLAIN", padding), nearest_center(x, c, "SCREEN", padding, 1, limit)
        assert np.array_equal(plain.index, screened.index) and plain.invalid == screened.invalid >= 2
        assert np.array_equal(plain.distance, screened.distance, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_and_tiled_agree_in_every_bit(dtype: str) -> None:
    rng = np.random.default_rng(5)
    for rows, dims, centers in ((197, 31, 7), (130, 64, 256), (33, 512, 100)):
        x, c = random_stored(rng, (rows, dims), dtype), random_stored(rng, (centers, dims), "float32")
        plain, tiled = nearest_center(x, c, "PLAIN"), nearest_center(x, c, "TILED")
        assert np.array_equal(plain.index, tiled.index)
        assert np.array_equal(plain.distance, tiled.distance)


@pytest.mark.parametrize(("dtype", "method"), METHODS)
@pytest.mark.parametrize(("dims", "centers"), [(31, 7), (64, 256)])
def test_rows_that_are_not_finite_are_invalid_and_alone_in_it(dims: int, centers: int, dtype: str, method: str) -> None:
    rng = np.random.default_rng(7)
    values = rng.standard_normal((300, dims)).astype(np.float32)
    c = centers_for(method, rng.standard_normal((centers, dims)), dtype)
    clean = nearest_center(store(values, dtype), c, method)
    wrong = [0, 15, 16, 127, 128, 255, 256, 299]
    for i, row in enumerate(wrong):
        values[row, (0, dims // 2, dims - 1)[i % 3]] = (np.nan, np.inf, -np.inf)[i // 3]
    result = nearest_center(store(values, dtype), c, method, seed=2)
    assert (result.index[wrong] == -1).all() and np.isnan(result.distance[wrong]).all()
    assert result.invalid == len(wrong)
    others = np.delete(np.arange(300), wrong)
    assert np.array_equal(result.index[others], clean.index[others])
    assert np.array_equal(result.distance[others], clean.distance[others])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("dtype", "method"), METHODS)
def test_a_row_is_invalid_whatever_the_signs_of_the_centers(dtype: str, method: str, value: float) -> None:
    x = store(np.full((3, 4), value), dtype)
    for signs in (np.ones(4), -np.ones(4), np.zeros(4)):  # scores of -inf, +inf and NaN
        result = nearest_center(x, centers_for(method, np.tile(signs, (2, 1)), dtype), method)
        assert (result.index == -1).all() and result.invalid == 3


@pytest.mark.parametrize(
    ("dtype", "method"),
    [
        ("float32", "PLAIN"),
        ("float32", "TILED"),
        ("float32", "SCREEN"),
        ("bfloat16", "TILED"),
        ("bfloat16", "MMA"),
        ("bfloat16", "STREAM"),
        ("bfloat16", "WGMMA"),
    ],
)
@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_tiny_and_huge_values(scale: float, dtype: str, method: str) -> None:
    rng = np.random.default_rng(9)
    x = store(rng.standard_normal((100, 64)) * scale, dtype)
    c = centers_for(method, rng.standard_normal((70, 64)) * scale, dtype)
    check_assignment(nearest_center(x, c, method), x.values, c.values, method)
    overflowing = store(np.where(np.arange(100)[:, None] % 9 == 0, 3e37, x.values), dtype)
    result = nearest_center(overflowing, centers_for(method, c.values / scale * 1e15, dtype), method)
    assert (result.index[::9] == -1).all() and result.invalid == 12


@pytest.mark.parametrize(("dtype", "method"), [(dtype, method) for dtype, method in METHODS if dtype != "float16"])
def test_one_score_that_overflows_makes_a_row_invalid(dtype: str, method: str) -> None:
    x, c = np.zeros((3, 8)), np.zeros((2, 8))
    x[1, :2], c[1, :2] = 3e38, (-4, 4)  # row 1 scores 0 and, though x.c is 0, +inf
    result = nearest_center(store(x, dtype), centers_for(method, c, dtype), method)
    assert result.index.tolist() == [0, -1, 0] and result.invalid == 1


@pytest.mark.parametrize(("dtype", "method"), METHODS)
def test_nearest_center_does_not_depend_on_the_order_of_threads(dtype: str, method: str) -> None:
    rng = np.random.default_rng(11)
    for dims, centers, padding in ((64, 130, 0), (100, 65, 1)):
        x = random_stored(rng, (270, dims), dtype)
        c = centers_for(method, rng.standard_normal((centers, dims)), dtype)
        first = nearest_center(x, c, method, padding)
        for seed in SEEDS:
            again = nearest_center(x, c, method, padding, seed=seed)
            assert np.array_equal(first.index, again.index)
            assert np.array_equal(first.distance, again.distance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", DIMS)
def test_vlad_against_float64(dims: int, dtype: str) -> None:
    for case, (_, centers, patches, padding) in enumerate(shape for shape in SHAPES if shape[0] == dims):
        rng = np.random.default_rng(case)
        x = random_stored(rng, (2, patches, dims), dtype)
        c = rng.standard_normal((centers, dims), np.float32)
        labels = rng.integers(-2, centers + 2, (2, patches))
        steps = Step((5 * case + dims) % 16)
        out, skipped = vlad(x, labels, c, steps, padding, seed=case)
        check_vlad(out, x.values, labels, c, steps)
        assert np.array_equal(skipped, ((labels < 0) | (labels >= centers)).sum(1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("steps", [Step(bits) for bits in range(16)], ids=str)
def test_every_chain_of_normalisations(steps: Step, dtype: str) -> None:
    rng = np.random.default_rng(13)
    x, c = random_stored(rng, (3, 60, 24), dtype), rng.standard_normal((16, 24), np.float32)
    labels = rng.integers(-1, 12, (3, 60))  # centres 12 … 15 stay empty
    labels[1] = -1  # an image without a valid patch
    out, _ = vlad(x, labels, c, steps)
    check_vlad(out, x.values, labels, c, steps)
    assert not out[1].any() and not out.reshape(3, 16, 24)[:, 12:].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_vlad_of_whole_numbers_is_exact(dtype: str) -> None:
    rng = np.random.default_rng(17)
    for dims, centers, patches in ((64, 64, 196), (31, 7, 784), (3, 1000, 33)):
        x, c = store(integers(rng, (2, patches, dims)), dtype), integers(rng, (centers, dims))
        labels = rng.integers(0, centers, (2, patches))
        assert np.array_equal(vlad(x, labels, c, Step(0), seed=1)[0], vlad_reference(x.values, labels, c, Step(0)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("dims", "centers", "padding"), [(64, 100, 0), (31, 70, 0), (128, 64, 1)])
def test_vlad_has_the_same_bits_for_every_order_grid_and_chunk(dims: int, centers: int, padding: int, dtype: str) -> None:
    rng = np.random.default_rng(19)
    x, c = random_stored(rng, (2, 197, dims), dtype), rng.standard_normal((centers, dims), np.float32)
    labels = rng.integers(0, centers, (2, 197)) // rng.integers(1, 9, (2, 197))  # some centres take many patches
    for steps in (Step(0), Step.INTRA | Step.L2, Step.MASS | Step.SIGNED_SQRT | Step.L2):
        first, _ = vlad(x, labels, c, steps, padding)
        for seed, choice in enumerate(
            (
                {},
                {"chunk": 32},
                {"chunk": 96, "centers_per_block": 33},
                {"centers_per_block": 1},
                {"shared_limit": 4096},  # values in the output instead of shared memory
                {"shared_limit": 4096, "centers_per_block": 17, "chunk": 64},
            ),
            start=1,
        ):
            again, _ = vlad(x, labels, c, steps, padding, seed=seed, **choice)
            assert np.array_equal(first, again), choice


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_norms_do_not_overflow_or_vanish(scale: float) -> None:
    rng = np.random.default_rng(23)
    x, c = rng.standard_normal((1, 50, 64)), rng.standard_normal((8, 64))
    labels = rng.integers(0, 8, (1, 50))
    for steps in (Step.L2, Step.INTRA | Step.L2):
        out, _ = vlad(store(x * scale, "float32"), labels, (c * scale).astype(np.float32), steps)
        assert np.abs(out - vlad_reference(x, labels, c, steps)).max() < 1e-6


@pytest.mark.parametrize(("dtype", "method"), ASSIGNING)
@pytest.mark.parametrize("dims", DIMS)
def test_assign_vlad_is_vlad_of_nearest_center_bit_for_bit(dims: int, dtype: str, method: str) -> None:
    for case, (_, centers, patches, padding) in enumerate(shape for shape in SHAPES if shape[0] == dims):
        if centers * dims > 64 * 512:
            continue  # more than a block's shared memory on any device: the plan makes it two launches
        rng = np.random.default_rng(case)
        x = random_stored(rng, (2, patches, dims), dtype)
        if patches > 2:
            values = x.values.copy()
            values[1, patches // 2, dims // 2] = np.nan
            x = store(values, dtype)
        c = centers_for(method, rng.standard_normal((centers, dims)), dtype)
        steps = Step((3 * case + dims) % 16)
        labels = nearest_center(Stored(dtype, x.bits.reshape(-1, dims), x.values.reshape(-1, dims)), c, method, padding)
        expected, skipped = vlad(x, labels.index.reshape(2, patches), c.values, steps, padding)
        out, invalid = assign_vlad(x, c, steps, method, padding, seed=case)
        assert np.array_equal(out, expected)
        assert np.array_equal(invalid, skipped) and invalid[1] == (patches > 2)


@pytest.mark.parametrize(("dtype", "method"), ASSIGNING)
def test_assign_vlad_does_not_depend_on_the_order_of_threads(dtype: str, method: str) -> None:
    rng = np.random.default_rng(29)
    x, c = random_stored(rng, (3, 300, 64), dtype), centers_for(method, rng.standard_normal((80, 64)), dtype)
    first, _ = assign_vlad(x, c, Step.MASS | Step.L2, method)
    for seed in SEEDS:
        assert np.array_equal(first, assign_vlad(x, c, Step.MASS | Step.L2, method, seed=seed)[0])


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("method", ["TILED", "MMA"])
@pytest.mark.parametrize(("layers", "patches", "dims", "centers"), [(1, 197, 16, 7), (3, 40, 24, 32), (2, 33, 5, 33)])
def test_assign_vlad_of_layers_is_that_of_each(
    layers: int, patches: int, dims: int, centers: int, method: str, split: bool
) -> None:
    rng = np.random.default_rng([layers, dims])
    dtype = "bfloat16" if method == "MMA" else "float32"
    x, c = random_stored(rng, (3, patches, layers * dims), dtype), random_stored(rng, (layers, centers, dims), dtype)
    x.bits[1, 5, -1] = 0x7FC0 if method == "MMA" else np.nan
    steps = Step.SIGNED_SQRT | Step.L2
    out, skipped = assign_vlad(x, c, steps, method, 8, split=split)
    alone = []
    for layer in range(layers):
        own = slice(layer * dims, (layer + 1) * dims)
        part, left_out = assign_vlad(
            Stored(dtype, x.bits[..., own], x.values[..., own]), Stored(dtype, c.bits[layer], c.values[layer]), steps, method
        )
        alone.append(part)
        assert np.array_equal(left_out, skipped[:, layer])
    vectors = np.concatenate(alone, axis=1)
    assert skipped.sum() == 1
    if split:
        high = torch.from_numpy(vectors).bfloat16()
        low = (torch.from_numpy(vectors) - high.float()).bfloat16()
        vectors = torch.stack([high, low]).float().numpy()
        assert np.abs(out.sum(0) - np.concatenate(alone, axis=1)).max(initial=0) <= 2.0**-17
    assert np.array_equal(out, vectors)
