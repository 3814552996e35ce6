"""Nearest centre and VLAD: plain loops in float64 say what equation 1 and each normalisation step must give."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuannot.method.vlad import LayerVlad, Vlad
from gpuannot.reference import vlad as reference
from gpuannot.reference.vlad import nearest_center, residual_sums

STEPS = ("mass", "intra", "signed_sqrt", "l2")
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def squared_distances(descriptors: NDArray, centers: NDArray) -> NDArray:
    """(N, m) float64, one centre at a time."""
    exact = descriptors.astype(np.float64)
    return np.stack([((exact - center) ** 2).sum(axis=1) for center in centers.astype(np.float64)], axis=1)


def plain_nearest(descriptor: list[float], centers: list[list[float]]) -> int:
    """The nearest centre, the first of those that tie, −1 for a descriptor that has none."""
    if not all(math.isfinite(value) for value in descriptor):
        return -1
    best, least = -1, math.inf
    for j, center in enumerate(centers):
        distance = sum((x - c) ** 2 for x, c in zip(descriptor, center, strict=True))
        if distance < least:
            best, least = j, distance
    return best


def plain_vlad(image: NDArray, centers: NDArray, steps: tuple[str, ...]) -> list[float]:
    """Equation 1 for one image (P, n), residual by residual, then the steps in VLFeat's order: mass, component norm, root, norm."""
    words = centers.astype(np.float64).tolist()
    n = centers.shape[1]
    blocks = [[0.0] * n for _ in words]
    members = [0] * len(words)
    for descriptor in image.astype(np.float64).tolist():
        j = plain_nearest(descriptor, words)
        if j < 0:
            continue
        members[j] += 1
        for d in range(n):
            blocks[j][d] += descriptor[d] - words[j][d]
    for j, block in enumerate(blocks):
        if "mass" in steps and members[j]:
            block = [value / members[j] for value in block]
        if "intra" in steps and (length := math.sqrt(sum(value * value for value in block))) > 0:
            block = [value / length for value in block]
        blocks[j] = block
    vector = [value for block in blocks for value in block]
    if "signed_sqrt" in steps:
        vector = [math.copysign(math.sqrt(abs(value)), value) for value in vector]
    if "l2" in steps and (length := math.sqrt(sum(value * value for value in vector))) > 0:
        vector = [value / length for value in vector]
    return vector


def whole_numbers(rng: np.random.Generator, *shape: int, dtype: type = np.float32) -> NDArray:
    """Small whole numbers: every sum and product is exact, and ties are common."""
    return rng.integers(-3, 4, shape).astype(dtype)


# ---- nearest centre


@DTYPES
@pytest.mark.parametrize("count", [0, 1, 2, 129, 1000])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5), (3, 2), (17, 16), (64, 64), (2, 127)])
def test_ties_go_to_the_lowest_centre(count: int, n: int, m: int, dtype: type) -> None:
    rng = np.random.default_rng(count + 10 * n + m)
    descriptors, centers = whole_numbers(rng, count, n, dtype=dtype), whole_numbers(rng, m, n, dtype=dtype)
    index = nearest_center(descriptors, centers)
    assert index.dtype == np.int32 and index.shape == (count,)
    expected = [plain_nearest(descriptor, centers.tolist()) for descriptor in descriptors.tolist()]
    assert index.tolist() == expected
    if count == 1000 and n < 3 and m > 1:
        distances = squared_distances(descriptors, centers)
        assert ((distances == distances.min(axis=1, keepdims=True)).sum(axis=1) > 1).mean() > 0.05  # the data do tie


@DTYPES
@pytest.mark.parametrize(("n", "m"), [(1, 2), (3, 5), (33, 17), (64, 64), (128, 127)])
def test_nearest_in_float64(n: int, m: int, dtype: type) -> None:
    """Exactly the float64 choice, but where two centres are so near each other that rounding of the scores must decide."""
    rng = np.random.default_rng(n)
    descriptors, centers = (2 + rng.standard_normal((count, n)).astype(dtype) for count in (3001, m))
    index = nearest_center(descriptors, centers)
    distances = squared_distances(descriptors, centers)
    chosen = distances[np.arange(len(index)), index]
    norms = np.linalg.norm(centers.astype(np.float64), axis=1).max()
    size = np.linalg.norm(descriptors.astype(np.float64), axis=1) * norms + norms**2 / 2
    bound = 4 * (n + 2) * np.finfo(dtype).eps * size  # two scores of n + 2 roundings each, and d² is twice a score
    assert (chosen - distances.min(axis=1) <= bound).all()
    assert (index != distances.argmin(axis=1)).mean() < 1e-3


@DTYPES
def test_equal_centres_tie_exactly(dtype: type) -> None:
    """However the product rounds in one column and in another, the first of two equal centres is chosen."""
    rng = np.random.default_rng(0)
    for n, m, count in product((1, 3, 7, 16, 33, 64, 128), (2, 5, 17, 64, 127), (1, 2, 7, 100)):
        centers = rng.standard_normal((m, n)).astype(dtype)
        first, second = sorted(rng.choice(m, 2, replace=False))
        centers[second] = centers[first]
        descriptors = (centers[first] + 0.1 * rng.standard_normal((count, n))).astype(dtype)
        assert not (nearest_center(descriptors, centers) == second).any(), (n, m, count, first, second)


def test_more_descriptors_than_a_block() -> None:
    block = reference._SCORES // 3  # of descriptors beside 3 centres
    rng = np.random.default_rng(0)
    centers = whole_numbers(rng, 3, 2)
    for count in (block - 1, block, block + 1, 2 * block + 1):
        descriptors = whole_numbers(rng, count, 2)
        descriptors[[0, count - 2], 1] = np.nan
        descriptors[-1] = centers[2] = [40, 40]
        index = nearest_center(descriptors, centers)
        expected = squared_distances(descriptors, centers).argmin(axis=1)
        expected[[0, count - 2]] = -1
        assert np.array_equal(index, expected) and index[-1] == 2


@DTYPES
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_descriptor_that_is_not_finite_has_no_centre(value: float, dtype: type) -> None:
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((5, 4)).astype(dtype)
    descriptors = rng.standard_normal((40, 4)).astype(dtype)
    expected = nearest_center(descriptors, centers)
    for row in range(0, 40, 3):
        descriptors[row, row % 4] = value
    descriptors[3] = value
    descriptors[6, :2] = [np.inf, -np.inf]
    expected[::3] = -1
    assert np.array_equal(nearest_center(descriptors, centers), expected)
    assert nearest_center(np.full((2, 4), value, dtype), centers).tolist() == [-1, -1]
    assert (expected[1::3] >= 0).all() and (expected[2::3] >= 0).all()


def test_descriptors_beside_centres_of_zeros() -> None:
    """0 · NaN and 0 · ∞ are NaN, whatever a product skips."""
    descriptors = np.array([[1, 2], [np.nan, 0], [0, np.inf], [-np.inf, 3], [0, 0]], dtype=np.float32)
    for m in (1, 3):
        assert nearest_center(descriptors, np.zeros((m, 2), np.float32)).tolist() == [0, -1, -1, -1, 0]
        assert [nearest_center(row[None], np.zeros((m, 2), np.float32))[0] for row in descriptors] == [0, -1, -1, -1, 0]


def test_descriptors_whose_scores_overflow_have_no_centre() -> None:
    centers = np.array([[1e30, 0], [-1e30, 1], [1, 1]], dtype=np.float32)
    descriptors = np.array([[1e20, 0], [0, 5], [0, -1e20]], dtype=np.float32)
    with np.errstate(over="ignore"):
        assert nearest_center(descriptors, centers[2:]).tolist() == [0, 0, 0]
        assert nearest_center(descriptors, centers).tolist() == [-1, -1, -1]


def test_the_descriptors_own_norm_decides_nothing() -> None:
    """‖x‖² of these is beyond float32, and beside it centres could not be told apart."""
    rng = np.random.default_rng(0)
    descriptors = (1e25 * rng.standard_normal((50, 3))).astype(np.float32)
    centers = rng.standard_normal((6, 3)).astype(np.float32)
    expected = (-descriptors.astype(np.float64) @ centers.astype(np.float64).T).argmin(axis=1)
    assert np.array_equal(nearest_center(descriptors, centers), expected)
    near = np.array([[4096.25, 4096.0]], dtype=np.float32)
    assert nearest_center(near, np.array([[0.0, 0.0], [0.5, -0.5], [-0.5, 0.5]], dtype=np.float32)).tolist() == [0]
    assert nearest_center(near, np.array([[0.0, 0.0], [0.125, -0.125]], dtype=np.float32)).tolist() == [1]


@DTYPES
def test_memory_layout_does_not_matter(dtype: type) -> None:
    rng = np.random.default_rng(0)
    descriptors, centers = whole_numbers(rng, 31, 6, dtype=dtype), whole_numbers(rng, 7, 6, dtype=dtype)
    expected = nearest_center(descriptors, centers)
    wide, tall = np.repeat(descriptors, 2, axis=1), np.repeat(descriptors, 3, axis=0)
    for same in (wide[:, ::2], tall[::3], np.asfortranarray(descriptors), descriptors[::-1][::-1]):
        assert np.array_equal(nearest_center(same, centers), expected)
    for same in (np.repeat(centers, 2, axis=1)[:, ::2], np.asfortranarray(centers)):
        assert np.array_equal(nearest_center(descriptors, same), expected)


# ---- residual sums


@DTYPES
@pytest.mark.parametrize(
    ("batch", "patches", "n", "m"), [(1, 1, 1, 1), (3, 7, 4, 5), (2, 196, 3, 9), (5, 1, 2, 3), (0, 4, 2, 3), (2, 0, 2, 3)]
)
def test_residual_sums(batch: int, patches: int, n: int, m: int, dtype: type) -> None:
    rng = np.random.default_rng(batch + patches)
    descriptors, centers = (rng.standard_normal(shape).astype(dtype) for shape in ((batch, patches, n), (m, n)))
    index = rng.integers(-1, m, (batch, patches)).astype(np.int32)
    expected, members = np.zeros((batch, m, n)), np.zeros((batch, m), dtype=int)
    for b, p in product(range(batch), range(patches)):
        if index[b, p] >= 0:
            expected[b, index[b, p]] += descriptors[b, p].astype(np.float64) - centers[index[b, p]]
            members[b, index[b, p]] += 1
    descriptors[index < 0] = np.nan  # left out whatever it holds
    residuals, counts = residual_sums(descriptors, index, centers)
    assert residuals.dtype == dtype and residuals.shape == (batch, m, n)
    assert counts.dtype == np.int64 and np.array_equal(counts, members)
    size = np.abs(descriptors[index >= 0]).max(initial=0) + np.abs(centers).max()
    assert np.abs(residuals - expected).max(initial=0) <= 2 * np.finfo(dtype).eps * max(1, patches) * size
    assert (residuals[counts == 0] == 0).all()


def test_residual_of_one_descriptor_is_rounded_once() -> None:
    rng = np.random.default_rng(0)
    descriptors, centers = (1000 + rng.standard_normal((200, 1, 3)).astype(np.float32) for _ in range(2))
    centers = centers[:, 0]
    index = rng.integers(0, 200, (200, 1)).astype(np.int32)
    residuals, _ = residual_sums(descriptors, index, centers)
    assert np.array_equal(residuals[np.arange(200), index[:, 0]], descriptors[:, 0] - centers[index[:, 0]])


# ---- VLAD


@DTYPES
@pytest.mark.parametrize("chosen", list(product([False, True], repeat=4)), ids=lambda chosen: "".join("ny"[on] for on in chosen))
def test_every_combination_of_steps(chosen: tuple[bool, ...], dtype: type) -> None:
    rng = np.random.default_rng(1)
    steps = tuple(step for step, on in zip(STEPS, chosen, strict=True) if on)
    for batch, patches, n, m in ((4, 9, 3, 6), (1, 1, 2, 3), (2, 33, 1, 2), (3, 5, 7, 1)):
        descriptors, centers = whole_numbers(rng, batch, patches, n, dtype=dtype), whole_numbers(rng, m, n, dtype=dtype)
        descriptors[0, 0] = np.nan
        descriptors[-1, :, -1] = np.inf  # an image without one usable descriptor
        vectors = reference.vlad(descriptors, centers, **dict.fromkeys(steps, True))
        assert vectors.shape == (batch, m * n) and vectors.dtype == dtype
        expected = np.array([plain_vlad(image, centers, steps) for image in descriptors])
        # The residuals are exact whole numbers; each step rounds a few times, a norm once a value.
        assert np.allclose(vectors, expected, rtol=(m * n + 8) * np.finfo(dtype).eps, atol=0)
        assert (vectors[-1] == 0).all() and ((vectors == 0) == (expected == 0)).all()
        encoded = Vlad(**dict.fromkeys(steps, True)).encode(descriptors, centers)
        assert encoded.dtype == np.float32 and np.array_equal(encoded, vectors.astype(np.float32))


@DTYPES
@pytest.mark.parametrize("steps", [(), ("mass",), ("intra", "l2"), ("signed_sqrt", "l2"), STEPS], ids="+".join)
def test_real_valued_descriptors(steps: tuple[str, ...], dtype: type) -> None:
    rng = np.random.default_rng(2)
    descriptors, centers = rng.standard_normal((3, 196, 8)).astype(dtype), rng.standard_normal((16, 8)).astype(dtype)
    vectors = reference.vlad(descriptors, centers, **dict.fromkeys(steps, True))
    expected = np.array([plain_vlad(image, centers, steps) for image in descriptors])
    assert np.abs(vectors - expected).max() <= 1000 * np.finfo(dtype).eps * np.abs(expected).max()


def test_the_order_of_the_steps_is_vlfeats() -> None:
    """One image of two words, by hand. Word 0 at 0: descriptors 3 and 5, residual 8; word 1 at 100: descriptor 98, residual −2."""
    descriptors, centers = np.array([[[3.0], [98.0], [5.0]]]), np.array([[0.0], [100.0]])

    def encode(*steps: str) -> list[float]:
        return reference.vlad(descriptors, centers, **dict.fromkeys(steps, True))[0].tolist()

    assert encode() == [8, -2]
    assert encode("mass") == [4, -2]
    assert encode("intra") == encode("mass", "intra") == [1, -1]
    assert encode("signed_sqrt") == pytest.approx([8**0.5, -(2**0.5)])
    assert encode("mass", "signed_sqrt") == pytest.approx([2, -(2**0.5)])
    assert encode("l2") == pytest.approx([8 / 68**0.5, -2 / 68**0.5])
    assert encode("signed_sqrt", "l2") == pytest.approx([0.8**0.5, -(0.2**0.5)])
    assert encode("mass", "signed_sqrt", "l2") == pytest.approx([(2 / 3) ** 0.5, -((1 / 3) ** 0.5)])
    assert encode("intra", "signed_sqrt", "l2") == pytest.approx([0.5**0.5, -(0.5**0.5)])


@pytest.mark.parametrize("chosen", [(False,) * 4, (True,) * 4])
@pytest.mark.parametrize(("batch", "patches"), [(0, 5), (3, 0), (0, 0)])
def test_no_images_and_no_descriptors(batch: int, patches: int, chosen: tuple[bool, ...]) -> None:
    vectors = Vlad(*chosen).encode(np.zeros((batch, patches, 4), np.float32), np.eye(3, 4, dtype=np.float32))
    assert vectors.shape == (batch, 12) and vectors.dtype == np.float32 and not vectors.any()


@pytest.mark.parametrize(("patches", "n", "m"), [(196, 64, 64), (196, 128, 64), (97, 64, 256), (49, 300, 300)])
def test_an_images_bits_do_not_depend_on_batch_or_cores(patches: int, n: int, m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(5)
    descriptors = generator.standard_normal((23, patches, n), dtype=np.float32)
    centers = generator.standard_normal((m, n), dtype=np.float32)
    # Halfway between two centres, where the last bit of a score decides.
    descriptors[:, ::3] = (centers[generator.integers(m, size=(23, patches))] + centers[0])[:, ::3] / 2
    monkeypatch.setattr(reference, "_SCORES", 3 * patches * m)  # several blocks
    found = reference.vlad(descriptors, centers)
    alone = np.concatenate([reference.vlad(descriptors[number : number + 1], centers) for number in range(23)])
    np.testing.assert_array_equal(found, alone)
    monkeypatch.setattr("gpuannot.system.threads.cpus", lambda: 1)
    np.testing.assert_array_equal(reference.vlad(descriptors[5:], centers), found[5:])


def test_images_do_not_mix() -> None:
    rng = np.random.default_rng(0)
    descriptors, centers = whole_numbers(rng, 7, 11, 4), whole_numbers(rng, 5, 4)
    together = Vlad(l2=True).encode(descriptors, centers)
    for position in range(7):
        assert np.array_equal(Vlad(l2=True).encode(descriptors[position : position + 1], centers)[0], together[position])
    shuffled = descriptors[:, rng.permutation(11)]
    assert np.array_equal(Vlad(l2=True).encode(shuffled, centers), together)
    strided = np.repeat(np.repeat(descriptors, 2, axis=1), 2, axis=2)[:, ::2, ::2]
    assert np.array_equal(Vlad(l2=True).encode(strided, centers), together)


def test_input_is_left_as_it_was() -> None:
    rng = np.random.default_rng(0)
    descriptors, centers = whole_numbers(rng, 3, 11, 4), whole_numbers(rng, 5, 4)
    descriptors[1, 1, 1] = np.nan
    copies = descriptors.copy(), centers.copy()
    Vlad(True, True, True, True).encode(descriptors, centers)
    assert np.array_equal(descriptors, copies[0], equal_nan=True) and np.array_equal(centers, copies[1])


def test_no_step_by_default() -> None:
    assert Vlad() == Vlad(mass=False, intra=False, signed_sqrt=False, l2=False)


# ---- several layers side by side


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_vlad_of_layers_by_plain_loops(batch: int) -> None:
    rng = np.random.default_rng(4)
    descriptors, centers = rng.normal(size=(batch, 11, 6)).astype(np.float32), rng.normal(size=(2, 5, 3)).astype(np.float32)
    expected = np.zeros((batch, 2 * 5 * 3))
    for image in range(batch):
        for layer in range(2):
            sums = np.zeros((5, 3))
            for patch in range(11):
                x = descriptors[image, patch, 3 * layer : 3 * layer + 3].astype(np.float64)
                nearest = min(range(5), key=lambda j: float(np.square(x - centers[layer, j]).sum()))
                sums[nearest] += x - centers[layer, nearest]
            root = np.sign(sums) * np.sqrt(np.abs(sums))
            expected[image, 15 * layer : 15 * layer + 15] = (root / np.linalg.norm(root)).ravel()
    found = LayerVlad(Vlad(signed_sqrt=True, l2=True)).encode(descriptors, centers)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
