"""Ranking: brute force in float64, ties to the lowest word, says which words are the k nearest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gpuannot.method import pairs
from gpuannot.method.ranking import DeviceRanking, WordRanking
from gpuannot.reference import ranking as reference
from gpuannot.reference.ranking import nearest_words

CPU = torch.device("cpu")
EPSILON = float(np.finfo(np.float32).eps)


def plain_nearest(vectors: NDArray, word_vectors: NDArray, k: int) -> tuple[NDArray, NDArray]:
    """Every distance of every image in float64, then a sort by (distance, word)."""
    index, distance = np.empty((len(vectors), k), dtype=int), np.empty((len(vectors), k))
    for t, x in enumerate(vectors.astype(np.float64)):
        every = [(float(np.sqrt(((x - v) ** 2).sum())), j) for j, v in enumerate(word_vectors.astype(np.float64))]
        nearest = sorted(every)[:k]
        index[t], distance[t] = [j for _, j in nearest], [d for d, _ in nearest]
    return index, distance


def cosine_distances(vectors: NDArray, word_vectors: NDArray) -> NDArray:
    """1 − cosine similarity (T, W) in float64; 1 where a vector is zero."""
    distances = np.ones((len(vectors), len(word_vectors)))
    for t, x in enumerate(vectors.astype(np.float64)):
        for j, v in enumerate(word_vectors.astype(np.float64)):
            if x.any() and v.any():
                distances[t, j] = 1 - float(x @ v) / float(np.linalg.norm(x) * np.linalg.norm(v))
    return distances


def normal(*shape: int, seed: int = 0, dtype: type = np.float32) -> NDArray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# ---- L2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("images", "words", "dimension", "k"),
    [(1, 1, 1, 1), (5, 2, 3, 1), (33, 40, 1, 7), (40, 260, 65, 5), (7, 13, 4, 13), (9, 14, 300, 5), (0, 3, 4, 2)],
)
def test_brute_force(images: int, words: int, dimension: int, k: int, dtype: type) -> None:
    vectors, word_vectors = normal(images, dimension, dtype=dtype), normal(words, dimension, seed=1, dtype=dtype)
    index, distance = nearest_words(vectors, word_vectors, k)
    expected, exact = plain_nearest(vectors, word_vectors, k)
    assert index.dtype == np.int64 and index.shape == (images, k) and np.array_equal(index, expected)
    assert distance.dtype == np.float64 and np.allclose(distance, exact, rtol=1e-12, atol=0)
    if dtype == np.float32:
        index, distance = WordRanking(word_vectors).nearest(vectors, k)
        assert index.dtype == np.int64 and np.array_equal(index, expected)
        assert distance.dtype == np.float32 and np.array_equal(distance, exact.astype(np.float32))


@pytest.mark.parametrize("words", [3, 15, 40])
def test_ties_go_to_the_lowest_word(words: int) -> None:
    """Whole numbers: distances are exact, and many tie."""
    rng = np.random.default_rng(words)
    vectors, word_vectors = (rng.integers(-1, 2, (count, 3)).astype(np.float32) for count in (200, words))
    for k in {1, 2, 5, words - 1, words} - {0}:
        if k <= words:
            index, _ = nearest_words(vectors, word_vectors, k)
            assert np.array_equal(index, plain_nearest(vectors, word_vectors, k)[0])


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize(("words", "dimension"), [(7, 1), (40, 33), (300, 4096)])
def test_equal_word_vectors_tie_exactly(words: int, dimension: int, metric: str) -> None:
    """However the product rounds in one column and in another."""
    rng = np.random.default_rng(dimension)
    word_vectors = normal(words, dimension, seed=2)
    twins = rng.permutation(words)[: words // 2 * 2].reshape(-1, 2)
    word_vectors[twins.max(axis=1)] = word_vectors[twins.min(axis=1)]
    vectors = np.concatenate([word_vectors[:20] + 0.3 * normal(min(20, words), dimension, seed=3), normal(10, dimension, seed=4)])
    index, distance = WordRanking(word_vectors, metric).nearest(vectors, words)
    place = np.argsort(index, axis=1)
    for first, second in np.sort(twins, axis=1):
        at_first, at_second = place[:, first], place[:, second]
        rows = np.arange(len(vectors))
        assert np.array_equal(distance[rows, at_first], distance[rows, at_second])
        if dimension > 1:  # no third word at the same distance
            assert (at_second == at_first + 1).all()
    few, _ = WordRanking(word_vectors, metric).nearest(vectors, 3)
    assert np.array_equal(few, index[:, :3])


@pytest.mark.parametrize("where", ["numpy", "torch"])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_more_ties_than_candidates(metric: str, where: str) -> None:
    """As when one image brings many new words: they have one vector."""
    word_vectors = normal(150, 24)
    word_vectors[60:110] = word_vectors[60]
    word_vectors[149] = 1.01 * word_vectors[60]
    if metric == "cosine":  # a little to the side
        word_vectors[149, 0] += 1
    vectors = np.stack([0.99 * word_vectors[60], 1.01 * word_vectors[60], word_vectors[0]])
    ranking = WordRanking(word_vectors, metric)
    if where == "numpy":
        index, _ = ranking.nearest(vectors, 5)
    else:
        index = ranking.on(torch.device("cpu"), np.arange(150)).nearest(torch.from_numpy(vectors), 5)[0].numpy()
    assert index[0].tolist() == [60, 61, 62, 63, 64]
    if metric == "l2":
        assert index[1].tolist() == [149, 60, 61, 62, 63]
    assert index[2, 0] == 0


@pytest.mark.parametrize("where", ["numpy", "torch"])
def test_all_words_alike(where: str) -> None:
    ranking = WordRanking(np.tile(normal(1, 8), (70, 1)))
    vectors = normal(4, 8, seed=1)
    if where == "numpy":
        index, distance = ranking.nearest(vectors, 6)
    else:
        result = ranking.on(torch.device("cpu"), np.arange(70)).nearest(torch.from_numpy(vectors), 6)
        index, distance = (part.numpy() for part in result)
    assert index.tolist() == [[0, 1, 2, 3, 4, 5]] * 4 and (distance == distance[:, :1]).all()


@pytest.mark.parametrize("dimension", [2, 64, 4096])
def test_long_vectors_that_nearly_tie(dimension: int) -> None:
    """Norms of 10⁴ and words a millionth apart: the product alone cannot order them, their differences can."""
    base = normal(1, dimension)
    base *= 1e4 / np.linalg.norm(base)
    word_vectors = (base * (1 + 1e-6 * np.random.default_rng(1).permutation(60)[:, None])).astype(np.float32)
    vectors = np.concatenate([base * np.float32(factor) for factor in (1, 1.00003, 1.1, 0.5, -1)])
    vectors = np.concatenate([vectors, base + normal(5, dimension, seed=2)]).astype(np.float32)
    index, distance = WordRanking(word_vectors).nearest(vectors, 5)
    expected, exact = plain_nearest(vectors, word_vectors, 5)
    assert np.array_equal(index, expected) and np.array_equal(distance, exact.astype(np.float32))


def test_distance_of_a_word_to_itself_is_zero() -> None:
    word_vectors = 1e3 * normal(30, 500)
    index, distance = WordRanking(word_vectors).nearest(word_vectors, 1)
    assert index[:, 0].tolist() == list(range(30)) and not distance.any()


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_more_images_than_a_block(extra: int) -> None:
    count = 2 * reference._IMAGES + extra
    vectors, word_vectors = normal(count, 3), normal(20, 3, seed=1)
    index, distance = WordRanking(word_vectors).nearest(vectors, 4)
    exact = np.sqrt(((vectors[:, None].astype(np.float64) - word_vectors) ** 2).sum(axis=2))
    assert np.array_equal(index, np.argsort(exact, axis=1, kind="stable")[:, :4])
    assert np.allclose(distance, np.sort(exact, axis=1)[:, :4], rtol=1e-6)


def test_float64_image_vectors_and_any_layout() -> None:
    vectors, word_vectors = normal(9, 6), normal(20, 6, seed=1)
    expected = WordRanking(word_vectors).nearest(vectors, 5)
    for same in (vectors.astype(np.float64), np.asfortranarray(vectors), np.repeat(vectors, 2, axis=1)[:, ::2]):
        for result, value in zip(WordRanking(np.asfortranarray(word_vectors)).nearest(same, 5), expected, strict=True):
            assert np.array_equal(result, value)


# ---- cosine


@pytest.mark.parametrize(("images", "words", "dimension", "k"), [(1, 1, 1, 1), (30, 50, 8, 5), (20, 9, 400, 9), (0, 4, 3, 2)])
def test_cosine_distances(images: int, words: int, dimension: int, k: int) -> None:
    vectors = normal(images, dimension) * np.geomspace(1e-3, 1e3, max(images, 1), dtype=np.float32)[:images, None]
    word_vectors = normal(words, dimension, seed=1) * np.geomspace(1e3, 1e-3, words)[:, None]
    index, distance = WordRanking(word_vectors, "cosine").nearest(vectors, k)
    exact = cosine_distances(vectors, word_vectors)
    assert index.shape == distance.shape == (images, k) and distance.dtype == np.float32
    assert all(len(set(row)) == k for row in index.tolist())
    chosen = np.take_along_axis(exact, index, axis=1)
    # Each unit vector is rounded once to float32.
    assert np.allclose(distance, chosen, rtol=0, atol=4 * EPSILON)
    assert np.allclose(chosen, np.sort(exact, axis=1)[:, :k], rtol=0, atol=4 * EPSILON)
    assert (np.diff(distance, axis=1) >= 0).all()


def test_cosine_knows_no_length() -> None:
    vectors, word_vectors = normal(9, 6), normal(20, 6, seed=1)
    expected = WordRanking(word_vectors, "cosine").nearest(vectors, 20)
    lengths = 2.0 ** np.random.default_rng(0).integers(-8, 9, 29)
    other = WordRanking(word_vectors * lengths[:20, None], "cosine").nearest(vectors * lengths[20:, None].astype(np.float32), 20)
    assert np.array_equal(expected[0], other[0]) and np.array_equal(expected[1], other[1])
    assert not np.array_equal(expected[0], WordRanking(word_vectors * lengths[:20, None]).nearest(vectors, 20)[0])


def test_image_vector_of_zeros() -> None:
    word_vectors = normal(30, 6)
    vectors = np.concatenate([np.zeros((1, 6), np.float32), normal(2, 6, seed=1), np.zeros((1, 6), np.float32)])
    index, distance = WordRanking(word_vectors, "cosine").nearest(vectors, 5)
    assert index[[0, 3]].tolist() == [[0, 1, 2, 3, 4]] * 2 and (distance[[0, 3]] == 1).all()
    assert np.array_equal(index[1:3], WordRanking(word_vectors, "cosine").nearest(vectors[1:3], 5)[0])
    index, _ = WordRanking(word_vectors).nearest(vectors[:1], 30)
    assert index[0].tolist() == np.argsort(np.linalg.norm(word_vectors.astype(np.float64), axis=1)).tolist()


def test_word_vectors_of_zeros() -> None:
    word_vectors = normal(12, 6)
    word_vectors[[3, 7]] = 0
    vectors = np.concatenate([normal(20, 6, seed=1), np.zeros((1, 6), np.float32)])
    index, distance = WordRanking(word_vectors, "cosine").nearest(vectors, 12)
    exact = cosine_distances(vectors, word_vectors)
    assert np.allclose(distance, np.take_along_axis(exact, index, axis=1), rtol=0, atol=4 * EPSILON)
    assert np.array_equal(index[:20], np.argsort(exact[:20], axis=1, kind="stable"))  # 3 before 7, at distance 1
    assert index[20].tolist() == list(range(12)) and (distance[20] == 1).all()
    index, distance = WordRanking(np.zeros((4, 6)), "cosine").nearest(vectors, 3)
    assert index.tolist() == [[0, 1, 2]] * 21 and np.allclose(distance, 1, rtol=0, atol=4 * EPSILON)


# ---- wrong input


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("images", [0, 3])
@pytest.mark.parametrize("k", [0, -1, 8, 100])
def test_k_lies_within_the_words(k: int, images: int, metric: str) -> None:
    with pytest.raises(ValueError, match=rf"k = {k} must lie in 1…7, the number of words"):
        WordRanking(normal(7, 4), metric).nearest(normal(images, 4), k)
    with pytest.raises(ValueError, match=rf"k = {k} must lie in 1…7"):
        WordRanking(normal(7, 4), metric).on(torch.device("cpu"), np.arange(7)).nearest(torch.zeros(images, 4), k)


def test_no_words() -> None:
    with pytest.raises(ValueError, match=r"k = 1 must lie in 1…0"):
        WordRanking(np.zeros((0, 4))).nearest(normal(3, 4), 1)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_image_vectors(metric: str, value: float) -> None:
    vectors = normal(3, 4)
    vectors[2, 1] = value
    with pytest.raises(ValueError, match="the image vectors hold NaN or infinite values"):
        WordRanking(normal(7, 4), metric).nearest(vectors, 2)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_word_vectors(metric: str, value: float) -> None:
    word_vectors = normal(7, 4)
    word_vectors[2, 1] = value
    with pytest.raises(ValueError, match="the word vectors hold NaN or infinite values"):
        WordRanking(word_vectors, metric).nearest(normal(3, 4), 2)


@pytest.mark.parametrize("metric", ["euclidean", "L2", ""])
def test_unknown_metric(metric: str) -> None:
    with pytest.raises(ValueError, match=f"metric '{metric}' is unknown; choose one of l2, cosine"):
        WordRanking(normal(7, 4), metric)


# ---- the code that GPUs run, here on the CPU


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize(("images", "words", "k"), [(0, 3, 2), (1, 1, 1), (33, 260, 5), (100, 37, 37)])
def test_tensors_are_ranked_like_arrays(rng: np.random.Generator, metric: str, images: int, words: int, k: int) -> None:
    vectors, word_vectors = rng.standard_normal((images, 96)).astype(np.float32), rng.standard_normal((words, 96))
    word_vectors[words // 2] = word_vectors[0]
    if images > 1:
        vectors[1] = 0
    ranking = WordRanking(word_vectors, metric)
    index, distance = ranking.nearest(vectors, k)
    numbers = np.arange(words) * 3  # the words that have images are not all words
    device_index, device_distance = ranking.on(CPU, numbers).nearest(torch.from_numpy(vectors), k)
    assert device_index.dtype == torch.int64
    assert np.array_equal(device_index.numpy(), index * 3)
    np.testing.assert_allclose(device_distance.numpy(), distance, rtol=1e-5, atol=1e-6)


def test_ranking_in_blocks_is_ranking_at_once(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = torch.from_numpy(rng.standard_normal((50, 8)).astype(np.float32))
    ranking = WordRanking(rng.standard_normal((20, 8))).on(CPU, np.arange(20))
    whole = ranking.nearest(vectors, 4)
    monkeypatch.setattr(DeviceRanking, "_BLOCK_BYTES", 1)  # one image a block
    assert torch.equal(ranking.nearest(vectors, 4)[0], whole[0])
    with pytest.raises(ValueError, match="k = 21"):
        ranking.nearest(vectors, 21)


@pytest.mark.parametrize("dimension", [1, 7, 4096])
def test_pairs_are_those_of_the_reference_and_do_not_depend_on_each_other(rng: np.random.Generator, dimension: int) -> None:
    vectors, words = (rng.standard_normal((rows, dimension), dtype=np.float32) for rows in (9, 30))
    words[3], words[20] = vectors[4], words[8]  # at a distance of zero, and equal to another
    words[5] = vectors[0] * np.float32(1 + 1e-4)  # near enough for ‖x‖² + ‖v‖² − 2·x·v to have few digits
    chosen = rng.random((9, 30)) < 0.4
    chosen[2], chosen[4, 3], chosen[0, 5], chosen[:, 8], chosen[:, 20] = False, True, True, True, True
    image, word = np.nonzero(chosen)
    for fast, plain in ((pairs.products, reference.products), (pairs.squared_distances, reference.squared_distances)):
        found, exact = fast(vectors, words, image, word), plain(vectors, words, image, word)
        scale = np.square(vectors[image], dtype=np.float64).sum(axis=1) + np.square(words[word], dtype=np.float64).sum(axis=1)
        assert np.abs(found - exact).max() <= 1e-14 * scale.max()
        np.testing.assert_array_equal(found[word == 8], found[word == 20])
        some = rng.random(len(image)) < 0.3
        np.testing.assert_array_equal(fast(vectors, words, image[some], word[some]), found[some])
    assert found[(image == 4) & (word == 3)] == 0
    np.testing.assert_allclose(found, exact, rtol=1e-12)
    assert len(fast(vectors, words, image[:0], word[:0])) == 0
