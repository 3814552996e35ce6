"""The word-vector bank: however images come, go and are merged, a word's vector is the mean of its images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import sparse

from gpuannot.method.words import WordBank, _word_sums_cuda
from gpuannot.reference.words import word_sums

WORDS = ("sea", "sky", "sun", "tree", "boat", "bird")


def data(count: int = 57, dimension: int = 9, *, seed: int = 0, dtype: type = np.float64) -> tuple[NDArray, sparse.csr_array]:
    """Image vectors and labels; the word "boat" has one image, "bird" none, and some images carry no word."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, len(WORDS))) < 0.3).astype(np.float32)
    labels[::10] = 0
    labels[:, 4:] = 0
    labels[count // 2, 4] = 1
    return (3 + rng.standard_normal((count, dimension))).astype(dtype), sparse.csr_array(labels)


def plain_means(vectors: NDArray, labels: sparse.csr_array) -> dict[str, list[float]]:
    """Equation 4, word by word, image by image."""
    means, dense = {}, labels.toarray()
    for j, word in enumerate(WORDS):
        own = [vectors[i].astype(np.float64) for i in range(len(vectors)) if dense[i, j]]
        if own:
            means[word] = (sum(own) / len(own)).tolist()
    return means


def bank_of(vectors: NDArray, labels: sparse.csr_array) -> WordBank:
    return WordBank(WORDS, vectors.shape[1]).partial_fit(vectors, labels)


def assert_same(bank: WordBank, other: WordBank, tolerance: float = 1e-12) -> None:
    assert bank.vocabulary == other.vocabulary and np.array_equal(bank.counts, other.counts)
    np.testing.assert_allclose(bank.sums, other.sums, rtol=tolerance, atol=0)
    np.testing.assert_allclose(bank.vectors(), other.vectors(), rtol=tolerance, atol=0)


# ---- the mean


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize(("count", "dimension"), [(2, 1), (57, 9), (300, 130)])
def test_a_words_vector_is_the_mean_of_its_images(count: int, dimension: int, dtype: type) -> None:
    vectors, labels = data(count, dimension, dtype=dtype)
    bank = bank_of(vectors, labels)
    expected = plain_means(vectors, labels)
    assert [WORDS[j] for j in bank.known] == list(expected)
    assert bank.sums.dtype == bank.vectors().dtype == np.float64 and bank.counts.dtype == np.int64
    np.testing.assert_allclose(bank.vectors(), list(expected.values()), rtol=1e-12)
    assert bank.counts.tolist() == labels.toarray().sum(axis=0).tolist()
    assert bank.dimension == dimension


def test_sums_and_counts_of_a_batch() -> None:
    vectors = np.array([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]])
    sums, counts = word_sums(vectors, sparse.csr_array(np.array([[1, 0, 1], [1, 0, 0], [0, 0, 1]])))
    assert sums.tolist() == [[11.0, 22.0], [0.0, 0.0], [101.0, 202.0]] and counts.tolist() == [2, 0, 2]
    assert sums.dtype == np.float64 and counts.dtype == np.int64


def test_sums_are_float64_whatever_comes() -> None:
    vectors = np.full((4097, 1), 1.0, dtype=np.float16)  # float16 counts to 2,048, then stands still
    vectors[0] = 2.0**-10
    labels = sparse.csr_array(np.ones((4097, len(WORDS)), dtype=np.int8))
    bank = bank_of(vectors, labels)
    assert bank.sums[:, 0].tolist() == [4096 + 2.0**-10] * len(WORDS) and bank.counts.tolist() == [4097] * len(WORDS)


def test_a_word_without_images_has_no_vector() -> None:
    vectors, labels = data()
    bank = bank_of(vectors, labels)
    assert bank.known.tolist() == [0, 1, 2, 3, 4] and bank.counts[5] == 0 and bank.vectors().shape == (5, 9)
    np.testing.assert_allclose(bank.vectors()[4], vectors[len(vectors) // 2], rtol=1e-15)
    empty = WordBank(WORDS, 9)
    assert empty.known.tolist() == [] and empty.vectors().shape == (0, 9)


# ---- streams


@pytest.mark.parametrize("seed", range(20))
def test_any_order_and_any_batches_give_one_pass(seed: int) -> None:
    vectors, labels = data(dtype=np.float32)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(vectors))
    cuts = np.sort(rng.integers(0, len(vectors) + 1, rng.integers(0, 12)))
    bank = WordBank(WORDS, 9)
    for part in np.split(order, cuts):  # parts of 0 and of 1 too
        assert bank.partial_fit(vectors[part], labels[part]) is bank
    assert_same(bank, bank_of(vectors, labels))


@pytest.mark.parametrize("seed", range(5))
def test_merged_banks_are_one_bank(seed: int) -> None:
    vectors, labels = data()
    parts = np.array_split(np.random.default_rng(seed).permutation(len(vectors)), [1, 1, 20])
    merged = WordBank(WORDS, 9)
    for part in parts:
        other = bank_of(vectors[part], labels[part])
        sums = other.sums.copy()
        assert merged.merge(other) is merged
        assert np.array_equal(other.sums, sums)
    assert_same(merged, bank_of(vectors, labels))


@pytest.mark.parametrize(("vocabulary", "dimension"), [(WORDS[::-1], 9), (WORDS[:5], 9), ((*WORDS, "cat"), 9), (WORDS, 8)])
def test_other_banks_cannot_be_merged(vocabulary: tuple[str, ...], dimension: int) -> None:
    bank = bank_of(*data())
    sums = bank.sums.copy()
    with pytest.raises(ValueError, match="only banks of the same vocabulary, in the same order, and the same dimension"):
        bank.merge(WordBank(vocabulary, dimension))
    assert np.array_equal(bank.sums, sums)


@pytest.mark.parametrize("seed", range(10))
def test_forgetting_is_never_having_seen(seed: int) -> None:
    vectors, labels = data(dtype=np.float32)
    gone = np.random.default_rng(seed).permutation(len(vectors))[: 5 * seed + 1]
    kept = np.setdiff1d(np.arange(len(vectors)), gone)
    bank = bank_of(vectors, labels)
    assert bank.forget(vectors[gone], labels[gone]) is bank
    assert_same(bank, bank_of(vectors[kept], labels[kept]))
    bank.partial_fit(vectors[gone], labels[gone])
    assert_same(bank, bank_of(vectors, labels))


def test_nothing_is_left_when_all_is_forgotten() -> None:
    vectors, labels = data()
    order = np.random.default_rng(0).permutation(len(vectors))
    bank = bank_of(vectors, labels).forget(vectors[order], labels[order])
    assert not bank.counts.any() and not bank.sums.any() and bank.known.size == 0


def test_what_was_never_there_cannot_be_forgotten() -> None:
    vectors, labels = data()
    half = len(vectors) // 2
    bank = bank_of(vectors[:half], labels[:half])
    sums, counts = bank.sums.copy(), bank.counts.copy()
    with pytest.raises(ValueError, match=r"cannot forget 1 images of 'boat': the bank holds 0 of that word"):
        bank.forget(vectors[half : half + 1], labels[half : half + 1])
    assert np.array_equal(bank.sums, sums) and np.array_equal(bank.counts, counts)


def test_input_is_left_as_it_was() -> None:
    vectors, labels = data()
    copies = vectors.copy(), labels.copy()
    bank = bank_of(vectors, labels)
    vectors[:] = 0
    assert np.array_equal(bank.sums, bank_of(*copies).sums) and (labels != copies[1]).nnz == 0


# ---- words


def test_added_words_come_last_and_start_empty() -> None:
    vectors, labels = data()
    bank = bank_of(vectors, labels)
    sums = bank.sums.copy()
    assert bank.add_words(["cat", "sea", "ant", "cat"]) is bank
    assert bank.vocabulary == (*WORDS, "cat", "ant")
    assert np.array_equal(bank.sums, np.vstack([sums, np.zeros((2, 9))])) and bank.counts.tolist()[-2:] == [0, 0]
    bank.partial_fit(np.full((1, 9), 7.0), sparse.csr_array(np.array([[0, 0, 0, 0, 0, 0, 1, 0]])))
    assert bank.known.tolist() == [0, 1, 2, 3, 4, 6] and bank.vectors()[-1].tolist() == [7.0] * 9
    np.testing.assert_allclose(bank.vectors()[:5], bank_of(vectors, labels).vectors())


def test_words_are_found_by_their_spelling() -> None:
    """Also those of a model from before words were spelled in one way; a new name mends them."""
    bank = WordBank(["sky ", "cafe\u0301", "sea"], 2)
    assert [bank.number(word) for word in ("sky ", "sky", "caf\u00e9", " sea")] == [0, 0, 1, 2]
    assert bank.rename_word("sky", "sky").vocabulary == ("sky", "cafe\u0301", "sea")
    assert bank.rename_word("caf\u00e9", " caf\u00e9").vocabulary == ("sky", "caf\u00e9", "sea")
    with pytest.raises(ValueError, match="the vocabulary has 'sea' already"):
        bank.rename_word("sky", "sea ")
    assert bank.remove_words(["sky "]).vocabulary == ("caf\u00e9", "sea")


def test_adding_no_words_changes_nothing() -> None:
    bank = bank_of(*data()).add_words([]).add_words(["sky"])
    assert_same(bank, bank_of(*data()))


# ---- labels and shapes


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.float32, np.float64])
def test_labels_of_any_type(dtype: type) -> None:
    vectors, labels = data()
    assert_same(bank_of(vectors, sparse.csr_array(labels.astype(dtype))), bank_of(vectors, labels))


def test_zeros_that_are_stored_are_zeros() -> None:
    vectors, labels = data()
    dense = labels.toarray()
    stored = sparse.csr_array((dense.ravel(), np.tile(np.arange(6), len(dense)), np.arange(len(dense) + 1) * 6), dense.shape)
    assert stored.nnz == dense.size
    assert_same(bank_of(vectors, stored), bank_of(vectors, labels))
    assert_same(WordBank(WORDS, 9).partial_fit(torch.from_numpy(vectors), stored), bank_of(vectors, labels))
    assert stored.nnz == dense.size


@pytest.mark.parametrize("value", [2, -1, 0.5, np.nan])
def test_labels_are_0_or_1(value: float) -> None:
    vectors, labels = data()
    labels.data[3] = value
    for use in (bank_of(*data()).partial_fit, bank_of(*data()).forget):
        with pytest.raises(ValueError, match="labels must be 0 or 1"):
            use(vectors, labels)


def test_a_word_given_twice_to_an_image_is_no_label_of_1() -> None:
    vectors = np.ones((1, 9))
    twice = sparse.csr_array((np.ones(2), [0, 0], [0, 2]), shape=(1, 6))  # SciPy adds such entries: 2
    with pytest.raises(ValueError, match="labels must be 0 or 1"):
        WordBank(WORDS, 9).partial_fit(vectors, twice)


@pytest.mark.parametrize("shape", [(57, 8), (57, 10), (9,), (57, 1, 9)])
def test_wrong_shape_of_vectors(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"vectors must have shape \(B, 9\), got") as caught:
        WordBank(WORDS, 9).partial_fit(np.zeros(shape), data()[1])
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("shape", [(56, 6), (58, 6), (57, 5), (57, 7), (6, 57)])
def test_wrong_shape_of_labels(shape: tuple[int, int]) -> None:
    bank = bank_of(*data())
    sums = bank.sums.copy()
    for use in (bank.partial_fit, bank.forget):
        with pytest.raises(ValueError, match=r"labels must have shape \(57, 6\), got") as caught:
            use(data()[0], sparse.csr_array(shape))
        assert str(shape) in str(caught.value)
    assert np.array_equal(bank.sums, sums)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_non_finite_vectors_are_refused_whole(kind: str, value: float) -> None:
    vectors, labels = data()
    bank = bank_of(vectors, labels)
    vectors[-1, -1] = value
    with pytest.raises(ValueError, match="the image vectors hold NaN or infinite values"):
        bank.partial_fit(vectors if kind == "numpy" else torch.from_numpy(vectors), labels)
    assert_same(bank, bank_of(*data()))


# ---- tensors


def test_tensors_stream_like_arrays() -> None:
    vectors, labels = data(dtype=np.float32)
    mixed = WordBank(WORDS, 9)
    for position, part in enumerate(np.array_split(np.arange(len(vectors)), 9)):
        mixed.partial_fit(torch.from_numpy(vectors[part]) if position % 3 else vectors[part], labels[part])
    assert_same(mixed, bank_of(vectors, labels))
    gone = np.arange(20)
    mixed.forget(torch.from_numpy(vectors[gone]), labels[gone])
    assert_same(mixed, bank_of(vectors[20:], labels[20:]))
    mixed.partial_fit(torch.from_numpy(vectors[gone]), labels[gone]).add_words(["cat"])
    assert_same(mixed, bank_of(vectors, labels).add_words(["cat"]))
    other = WordBank((*WORDS, "cat"), 9)
    other.partial_fit(torch.from_numpy(vectors), sparse.csr_array(np.ones((57, 7))))
    expected = np.vstack([bank_of(vectors, labels).sums, np.zeros((1, 9))]) + vectors.astype(np.float64).sum(axis=0)
    np.testing.assert_allclose(mixed.merge(other).sums, expected, rtol=1e-12)


# ---- the code that GPUs run, here on the CPU


@pytest.mark.parametrize(("images", "words"), [(0, 3), (1, 1), (33, 40)])
def test_word_sums_of_tensors(rng: np.random.Generator, images: int, words: int) -> None:
    vectors = rng.standard_normal((images, 50)).astype(np.float32)
    labels = sparse.csr_array((rng.random((images, words)) < 0.3).astype(np.float32))
    sums, counts = word_sums(vectors, labels)
    device_sums, device_counts = _word_sums_cuda(torch.from_numpy(vectors), labels)
    np.testing.assert_allclose(device_sums.numpy(), sums, rtol=1e-13, atol=1e-13)
    assert np.array_equal(device_counts, counts)
