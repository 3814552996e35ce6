"""Cover hold-outs: parts that never overlap, words on both sides wherever that can be, groups with their share."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from gpuannot.datasets import load_benchmark
from gpuannot.experiments.holdout import cover_holdout, covered_words


def random_labels(images: int, words: int, seed: int = 0) -> sparse.csr_array:
    """Words as uneven as those of a benchmark: the first is frequent, the last ones are in two images or one."""
    rng = np.random.default_rng(seed)
    labels = rng.random((images, words)) < 1 / (3 + np.arange(words))
    for word in range(words // 2, words):
        labels[:, word] = False
        labels[rng.choice(images, 1 + word % 2, replace=False), word] = True
    return sparse.csr_array(labels.astype(np.float32))


@pytest.mark.parametrize(("images", "holdout"), [(2, 1), (10, 3), (10, 9), (300, 60), (301, 150)])
def test_parts_never_overlap(images: int, holdout: int) -> None:
    labels = random_labels(images, 12)
    for seed in range(5):
        learn, held = cover_holdout(labels, holdout, seed)
        assert len(held) == holdout and np.array_equal(np.sort(np.concatenate([learn, held])), np.arange(images))
        assert (np.diff(learn) > 0).all() and (np.diff(held) > 0).all()
        assert all(np.array_equal(*pair) for pair in zip((learn, held), cover_holdout(labels, holdout, seed), strict=True))
    assert images < 20 or len({tuple(cover_holdout(labels, holdout, seed)[1]) for seed in range(4)}) == 4


@pytest.mark.parametrize("seed", range(4))
def test_every_word_of_two_images_is_on_both_sides(seed: int) -> None:
    labels = random_labels(400, 60, seed)
    dense = labels.toarray() > 0
    learn, held = cover_holdout(labels, 60, seed)
    both = dense[learn].any(axis=0) & dense[held].any(axis=0)
    assert both[dense.sum(axis=0) > 1].all() and not both[dense.sum(axis=0) < 2].any()
    assert covered_words(labels, held).tolist() == np.flatnonzero(both).tolist()
    drawn = np.random.default_rng(seed).choice(400, 60, replace=False)
    assert len(covered_words(labels, np.sort(drawn))) < both.sum()  # what chance alone covers


def test_groups_have_their_share() -> None:
    labels = random_labels(400, 40)
    groups = [f"source {number % 7}" for number in range(400)]
    _, held = cover_holdout(labels, 70, 1, groups)
    counts = np.bincount(held % 7)
    sizes = np.bincount(np.arange(400) % 7)
    assert counts.sum() == 70 and (np.abs(counts - 70 * sizes / 400) < 1).all()


def test_words_that_cannot_be_on_both_sides_end_the_attempt() -> None:
    """One image of all words can be on one side only; two that share a group of two with it cannot be swapped together."""
    labels = sparse.csr_array(np.array([[1, 1], [1, 0], [0, 1], [0, 0]], np.float32))
    learn, held = cover_holdout(labels, 1, 0)
    assert len(learn) == 3 and len(held) == 1
    assert cover_holdout(sparse.csr_array((5, 3)), 2, 0)[1].shape == (2,)  # no word at all


def test_mixing_draws_images_evenly() -> None:
    """Without words that hold it back, every image is held out as often: standard error 0.018."""
    labels = sparse.csr_array((20, 3))
    share = np.bincount(np.concatenate([cover_holdout(labels, 5, seed)[1] for seed in range(600)]), minlength=20) / 600
    assert abs(share - 0.25).max() < 0.07


@pytest.mark.parametrize("holdout", [0, -1, 4, 5])
def test_impossible_hold_outs(holdout: int) -> None:
    with pytest.raises(ValueError, match=rf"a hold-out of {holdout} from 4 images is not possible; choose 1…3"):
        cover_holdout(random_labels(4, 3), holdout, 0)


def test_corel5k_is_covered(corel5k: object) -> None:
    """257 of its 260 words have two training images; ten images of each of its 50 sources."""
    train, _ = load_benchmark("corel5k", corel5k, images=False)  # type: ignore[arg-type]
    groups = [name.split(".")[0][:-3] for name in train.image_names]
    _, held = cover_holdout(train.labels, 500, 0, groups)
    assert len(covered_words(train.labels, held)) == 257
    assert (np.unique([groups[row] for row in held], return_counts=True)[1] == 10).all()
