"""Labels as people write them become one sparse matrix, or an error that names what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse

from gpuannot.errors import DataError
from gpuannot.method.labels import label_matrix, number_of, spelled
from gpuannot.method.words import WordBank

WORDS = ("sea", "sky", "tree")


def assert_matrix(matrix: sparse.csr_array, expected: list[list[int]]) -> None:
    assert isinstance(matrix, sparse.csr_array) and matrix.dtype == np.float32
    assert matrix.has_canonical_format and (matrix.data == 1).all()
    assert matrix.shape == np.array(expected).reshape(len(expected), -1).shape or matrix.shape == (len(expected), 0)
    assert matrix.toarray().tolist() == expected


# ---- lists of words


def test_words_that_occur_sorted() -> None:
    matrix, words = label_matrix([["sky", "sea"], [], ["tree", "sky"]])
    assert words == WORDS
    assert_matrix(matrix, [[1, 1, 0], [0, 0, 0], [0, 1, 1]])


def test_a_vocabulary_keeps_its_order() -> None:
    matrix, words = label_matrix([["sea"], ["tree", "sky"]], ["tree", "cat", "sky", "sea"])
    assert words == ("tree", "cat", "sky", "sea")
    assert_matrix(matrix, [[0, 0, 0, 1], [1, 0, 1, 0]])


@pytest.mark.parametrize(
    "given", [["sky", "sea", "sky"], ("sea", "sky"), {"sky", "sea"}, {"sky": 1, "sea": 2}, iter(["sea", "sky"])]
)
def test_any_iterable_of_words(given: Any) -> None:
    assert_matrix(label_matrix([given], WORDS)[0], [[1, 1, 0]])


def test_strings_of_numpy_are_strings() -> None:
    matrix, words = label_matrix([np.array(["sky", "sea"])], np.array(["sky", "sea"]))
    assert_matrix(matrix, [[1, 1]])
    assert words == ("sky", "sea")


def test_words_with_spaces_and_of_any_script() -> None:
    matrix, words = label_matrix([["blue sky", "天空"], ["Himmel", "himmel"]])
    assert words == ("Himmel", "blue sky", "himmel", "天空")
    assert_matrix(matrix, [[0, 1, 0, 1], [1, 0, 1, 0]])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_images_without_words(count: int) -> None:
    matrix, words = label_matrix([[]] * count)
    assert matrix.shape == (count, 0) and words == () and matrix.dtype == np.float32
    matrix, words = label_matrix([[]] * count, WORDS)
    assert matrix.shape == (count, 3) and words == WORDS and matrix.nnz == 0


def test_new_words_are_appended_sorted() -> None:
    matrix, words = label_matrix([["zebra", "sky"], ["ant"]], ["tree", "sky"], extend=True)
    assert words == ("tree", "sky", "ant", "zebra")
    assert_matrix(matrix, [[0, 1, 0, 1], [0, 0, 1, 0]])
    assert label_matrix([["sky"]], ["tree", "sky"], extend=True)[1] == ("tree", "sky")


def test_unknown_words_are_named() -> None:
    with pytest.raises(DataError, match=r"2 words are not in the vocabulary: 'ant', 'zebra'; add them to it"):
        label_matrix([["zebra", "sky"], ["ant"]], ["tree", "sky"])
    with pytest.raises(DataError, match=r"9 words are not in the vocabulary: '0', '1', '2', '3', '4' …; add") as caught:
        label_matrix([[str(number) for number in range(9)]], WORDS)
    assert "'5'" not in str(caught.value)


def test_many_images() -> None:
    rng = np.random.default_rng(0)
    dense = rng.random((500, 40)) < 0.1
    words = [f"word {number:02}" for number in range(40)]
    matrix, vocabulary = label_matrix([[words[j] for j in rng.permutation(np.flatnonzero(row))] for row in dense])
    assert vocabulary == tuple(words)
    assert_matrix(matrix, dense.astype(int).tolist())


# ---- spellings of one word

COMPOSED, APART = "caf\u00e9", "cafe\u0301"


def test_spellings_of_one_word_are_that_word() -> None:
    assert spelled(f"\t{APART} ") == spelled(COMPOSED) == COMPOSED and spelled("\u00a0sky\n") == "sky"
    matrix, words = label_matrix([["sky ", COMPOSED], [" sky", "sky", APART], ["Sky"]])
    assert words == ("Sky", COMPOSED, "sky")
    assert_matrix(matrix, [[0, 1, 1], [0, 1, 1], [1, 0, 0]])
    matrix, words = label_matrix([["sky "], [APART]], [" sky", COMPOSED])
    assert words == ("sky", COMPOSED)
    assert_matrix(matrix, [[1, 0], [0, 1]])
    assert label_matrix(np.eye(2), ["sky ", APART])[1] == ("sky", COMPOSED)


def test_two_spellings_of_one_word_in_a_vocabulary() -> None:
    with pytest.raises(DataError, match=r"the vocabulary holds 'sky' twice, as 'sky' and 'sky '"):
        label_matrix([["sky"]], ["sky", "sea", "sky "])


@pytest.mark.parametrize("options", [{"known": True}, {"extend": True}])
def test_the_words_of_a_model_keep_their_spelling(options: dict[str, bool]) -> None:
    """Models from before words were spelled in one way have ``sky `` beside ``sky``, or alone."""
    odd = ["sky ", "sky", APART, " sea"]
    matrix, words = label_matrix([["sky "], ["sky"], [" sky"], [COMPOSED, APART], ["sea", "sea "]], odd, **options)
    assert words == tuple(odd)
    assert_matrix(matrix, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert [number_of(word, odd) for word in ("sky ", "sky", " sky", COMPOSED, "sea", "Sea")] == [0, 1, 1, 2, 3, None]


def test_new_words_beside_a_models_own() -> None:
    matrix, words = label_matrix([["new ", "sky"], ["new"]], ["sky "], extend=True)
    assert words == ("sky ", "new")
    assert_matrix(matrix, [[1, 1], [0, 1]])
    with pytest.raises(DataError, match=r"1 word is not in the vocabulary: 'new'"):
        label_matrix([["new "]], ["sky "], known=True)


def test_long_words_are_quoted_in_part() -> None:
    long = "x" * 3_000_000
    for labels, vocabulary in (([[long]], ["sea"]), ([long], None), ([["sea"]], [long, long]), ([[long, 3]], long)):
        with pytest.raises(DataError) as caught:
            label_matrix(labels, vocabulary)
        assert "xxx…'" in str(caught.value) and len(str(caught.value)) < 400


# ---- matrices


@pytest.mark.parametrize("dtype", [bool, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("kind", ["array", "csr_array", "csr_matrix", "coo_array", "csc_array", "lil_array"])
def test_matrices(kind: str, dtype: type) -> None:
    dense = np.array([[1, 0, 1], [0, 0, 0]], dtype=dtype)
    matrix, words = label_matrix(dense if kind == "array" else getattr(sparse, kind)(dense), WORDS)
    assert words == WORDS
    assert_matrix(matrix, [[1, 0, 1], [0, 0, 0]])


def test_stored_zeros_are_dropped_and_the_input_is_left_as_it_was() -> None:
    given = sparse.csr_array((np.array([0, 1, 1], np.float32), [2, 1, 0], [0, 2, 3]), shape=(2, 3))
    matrix, _ = label_matrix(given, WORDS)
    assert_matrix(matrix, [[0, 1, 0], [1, 0, 0]])
    matrix.data[:] = 5
    assert given.nnz == 3 and given.data.tolist() == [0, 1, 1] and given.indices.tolist() == [2, 1, 0]


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_empty_matrices(shape: tuple[int, int]) -> None:
    matrix, _ = label_matrix(np.zeros(shape), WORDS[: shape[1]])
    assert matrix.shape == shape and matrix.dtype == np.float32


@pytest.mark.parametrize("value", [2, -1, 0.5, 1.0000001, np.nan, np.inf])
def test_a_matrix_holds_0_and_1(value: float) -> None:
    with pytest.raises(DataError, match="a label matrix may hold 0 and 1 only"):
        label_matrix(np.array([[1, 0, value]]), WORDS)


def test_an_entry_stored_twice_is_2() -> None:
    twice = sparse.coo_array((np.ones(2), ([0, 0], [1, 1])), shape=(1, 3))
    with pytest.raises(DataError, match="a label matrix may hold 0 and 1 only"):
        label_matrix(twice, WORDS)


@pytest.mark.parametrize("dtype", [str, object, complex])
def test_a_matrix_of_other_things(dtype: type) -> None:
    """An array of words, a row an image, is two-dimensional too."""
    given = np.array([["sea", "sky"], ["sky", "tree"]], dtype=dtype) if dtype is not complex else np.array([[1j, 0, 1]])
    with pytest.raises(DataError, match="label matrix"):
        label_matrix(given, WORDS[: given.shape[1]])


def test_a_matrix_needs_its_words() -> None:
    with pytest.raises(DataError, match="labels are a matrix of 3 columns: give the vocabulary that names them"):
        label_matrix(np.eye(3))


@pytest.mark.parametrize("words", [2, 4, 0])
def test_a_matrix_of_another_width(words: int) -> None:
    with pytest.raises(DataError, match=f"labels have 3 columns, the vocabulary has {words} words"):
        label_matrix(np.eye(3), ("sea", "sky", "tree", "cat")[:words])


# ---- wrong words


@pytest.mark.parametrize("given", ["sky", "", "sea sky"])
def test_words_as_one_string(given: str) -> None:
    with pytest.raises(DataError, match=rf"labels\[1\] is the string '{given}'; give a list of words for each image"):
        label_matrix([["sea"], given])
    with pytest.raises(DataError, match=r"labels\[0\] is the string 'sea'"):
        label_matrix(["sea", "sky"])


@pytest.mark.parametrize("word", ["", "  ", "\t", None, 3, 1.5, b"sky", ("sky",)])
def test_a_word_is_a_string_with_letters(word: Any) -> None:
    with pytest.raises(DataError, match=r"labels\[1\] holds .*expected a non-empty word") as caught:
        label_matrix([["sea"], ["sky", word]])
    assert repr(word) in str(caught.value)


@pytest.mark.parametrize("given", [None, 3, np.float32(1), [["sky"]], [{}]])
def test_the_words_of_an_image_are_a_list_of_words(given: Any) -> None:
    with pytest.raises(DataError, match=r"labels\[1\]"):
        label_matrix([["sea"], given])
    with pytest.raises(DataError, match=r"labels\[0\]"):
        label_matrix(np.array([1, 0, 1]), WORDS)


@pytest.mark.parametrize(
    ("vocabulary", "problem"),
    [
        (["sea", "sky", "sea"], "'sea' twice"),
        (["sea", ""], "'', expected a non-empty word"),
        (["sea", " "], "' ', expected a non-empty word"),
        (["sea", None], "None, expected a non-empty word"),
        (["sea", 3], "3, expected a non-empty word"),
    ],
)
def test_a_vocabulary_holds_each_word_once(vocabulary: list[Any], problem: str) -> None:
    for labels in ([["sea"]], np.ones((1, len(vocabulary)))):
        with pytest.raises(DataError, match=f"the vocabulary holds {problem}"):
            label_matrix(labels, vocabulary)


def test_a_vocabulary_as_one_string() -> None:
    with pytest.raises(DataError, match="the vocabulary is the string 'sky'"):
        label_matrix([["s"]], "sky")


@pytest.mark.parametrize("word", ["\ud800", "s\udcff", "  "])
def test_what_a_model_file_cannot_hold_is_no_word(word: str) -> None:
    with pytest.raises(DataError, match="expected a non-empty word"):
        label_matrix([[word]])
    with pytest.raises(DataError, match="expected a non-empty word"):
        label_matrix([], [word])
    with pytest.raises(ValueError, match="the new name is"):
        WordBank(["sky"], 2).rename_word("sky", word)
