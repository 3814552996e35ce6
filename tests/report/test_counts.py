"""What a report says of images and words, against counts made by hand and by plain loops."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from gpuannot.metrics import evaluate
from gpuannot.report import previews
from gpuannot.report.counts import (
    NO_WORD,
    as_lists,
    confusion,
    folder_of,
    given_matrix,
    padded,
    rounded,
    scores,
    word_totals,
)
from gpuannot.report.previews import BLOCK, PreviewForm, TextBlocks, heat_levels, preview, preview_form


def matrix(rows: list[list[int]], words: int) -> sparse.csr_array:
    dense = np.zeros((len(rows), words), np.float32)
    for row, columns in enumerate(rows):
        dense[row, columns] = 1
    return sparse.csr_array(dense)


def test_by_hand() -> None:
    # sky, sea, tree, car; the second image got one word only
    given = given_matrix(np.array([[0, 1], [2, NO_WORD], [3, 0]]), 4)
    truth = matrix([[0], [0, 1], [1, 2]], 4)
    totals = word_totals(given, truth)
    assert totals.correct.tolist() == [1, 0, 0, 0]
    assert totals.given.tolist() == [2, 1, 1, 1]
    assert totals.true.tolist() == [2, 2, 1, 0]
    # sea was missed in images 1 and 2, sky in 1, tree in 2; image 1 wrongly got tree, image 2 car and sky
    assert confusion(given, truth) == [(1, 2, [(0, 1), (2, 1), (3, 1)]), (0, 1, [(2, 1)]), (2, 1, [(0, 1), (3, 1)])]
    assert confusion(given, truth, most=1) == [(1, 2, [(0, 1)]), (0, 1, [(2, 1)]), (2, 1, [(0, 1)])]
    assert as_lists(truth) == [[0], [0, 1], [1, 2]]


@pytest.mark.parametrize(("images", "words", "k"), [(1, 1, 1), (7, 5, 5), (65, 13, 3), (129, 40, 4)])
def test_against_plain_loops(images: int, words: int, k: int) -> None:
    random = np.random.default_rng(images)
    index = np.array([random.permutation(words)[:k] for _ in range(images)])
    carried = [sorted(random.permutation(words)[: random.integers(0, words + 1)].tolist()) for _ in range(images)]
    truth, given = matrix(carried, words), given_matrix(index, words)
    times = np.zeros(words, int)
    together = np.zeros((words, words), int)
    for got, true in zip(index.tolist(), carried, strict=True):
        for missed in set(true) - set(got):
            times[missed] += 1
            for wrong in set(got) - set(true):
                together[missed, wrong] += 1
    found = confusion(given, truth, most=words)
    assert [(word, count) for word, count, _ in found] == sorted(
        ((word, count) for word, count in enumerate(times.tolist()) if count), key=lambda pair: (-pair[1], pair[0])
    )
    for word, _, instead in found:
        pairs = [(other, count) for other, count in enumerate(together[word].tolist()) if count]
        assert instead == sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
    expected = evaluate(index, truth).to_dict()
    assert scores(word_totals(given, truth)) == pytest.approx(
        {name: expected[name] for name in ("precision", "recall", "f1", "n_plus", "words_given")}
    )


def test_no_image_and_no_truth() -> None:
    none = given_matrix(np.empty((0, 5), np.int64), 3)
    assert confusion(none, matrix([], 3)) == [] and as_lists(none) == []
    totals = word_totals(given_matrix(np.array([[0], [2]]), 3), None)
    assert (totals.given.tolist(), totals.true.tolist()) == ([1, 0, 1], [0, 0, 0])


@pytest.mark.parametrize(("index", "message"), [([[0, 4]], r"outside 0…3"), ([[-2, 0]], "outside"), ([[1, 1]], "twice")])
def test_wrong_annotations_are_refused(index: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        given_matrix(np.array(index), 4)


def test_rows_without_their_padding() -> None:
    assert padded(np.array([[3, 1], [2, NO_WORD], [NO_WORD, NO_WORD]])) == [[3, 1], [2], []]
    assert rounded(np.array([[123.456, 0.000123456], [7, np.nan]])) == [[123.5, 0.0001235], [7.0]]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], ""),
        (["a.jpg"], ""),
        (["x/a.jpg"], "x/"),
        (["x/a.jpg", "x/ab.jpg"], "x/"),
        (["x/ab/1.jpg", "x/ac/1.jpg"], "x/"),
        (["/a.jpg", "b.jpg"], ""),
        (["s3://b/k/1.jpg", "s3://b/k/2.jpg"], "s3://b/k/"),
    ],
)
def test_the_folder_of_all(names: list[str], expected: str) -> None:
    assert folder_of(names) == expected


def test_heat_levels() -> None:
    levels = heat_levels(np.array([[-3.0, 4.0, 1.0], [5.0, 5.0, 5.0], [-1.0, 0.0, -2.0]], np.float32))
    assert levels.dtype == np.uint8 and levels.tolist() == [[0, 255, 64], [255, 255, 255], [0, 0, 0]]


@pytest.mark.parametrize("items", [0, 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
def test_blocks_hold_every_line_once(items: int) -> None:
    with TextBlocks() as blocks:
        for number in range(items):
            blocks.append(None if number % 5 == 4 else bytes([number % 256]) * 3)
        for _ in range(2):  # a second reading gives the same
            found = [block.split("\n")[:-1] for block in blocks]
            assert [len(block) for block in found] == [BLOCK] * (items // BLOCK) + ([items % BLOCK] if items % BLOCK else [])
            lines = [line for block in found for line in block]
            assert [line == "" for line in lines] == [number % 5 == 4 for number in range(items)]


def test_previews() -> None:
    made = preview(np.full((300, 600, 3), 200, np.uint8), "wide", PreviewForm(100, 72))
    assert isinstance(made, tuple)
    assert made[0][8:12] == b"WEBP" and made[1] == 2.0 and len(made[0]) < 1000
    tiny = preview(np.zeros((1, 1, 3), np.uint8), "dot", PreviewForm(100, 72))
    assert isinstance(tiny, tuple) and tiny[1] == 1.0
    broken = preview(b"junk", "bad.jpg", PreviewForm(100, 72))
    assert isinstance(broken, Exception) and "bad.jpg" in str(broken)
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    coarse, fine = (preview(noise, "noise", PreviewForm(60, quality)) for quality in (50, 72))
    assert isinstance(coarse, tuple) and isinstance(fine, tuple) and len(coarse[0]) < len(fine[0])


def test_previews_are_sharp_in_the_gallery_at_two_pixels_a_point() -> None:
    """However many there are; on the narrowest card that the style allows, and with few images on one that fills a phone."""
    style = (Path(previews.__file__).parent / "page" / "images.css").read_text()
    found = re.search(r"auto-fill, minmax\((\d+)px", style)
    assert found is not None
    forms = [preview_form(count) for count in (1, 200, 201, 1000, 1001, 10_000)]
    assert all(form.side >= 2 * int(found[1]) for form in forms) and forms[1].side >= 2 * 390
    assert forms == sorted(forms, reverse=True)
