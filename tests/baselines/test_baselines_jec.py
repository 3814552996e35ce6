"""JEC: the label transfer by hand and by plain loops, for one feature and several; and what all neighbour baselines share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import sparse

from gpuannot.baselines import neighbours
from gpuannot.baselines.jec import JEC
from gpuannot.baselines.neighbours import NeighbourBaseline, nearest
from gpuannot.baselines.two_pass_knn import TwoPassKNN
from gpuannot.errors import DataError

# ---- by hand

# Twelve images on a line, at 0, 10, … 110; words by image. Counts: a 6, b 4, c 3, d 3, e 1, f 1, and g 0.
PLACES = np.arange(12.0)[:, None] * 10
LABELS = [["c", "b"], ["d", "a"], ["d", "e"], ["a"], ["b", "a"], ["a", "c"], ["a", "b"], ["a"], ["b"], ["c"], ["d"], ["f"]]
WORDS = list("abcdefg")


def words(baseline: NeighbourBaseline, image: float, k: int) -> str:
    return "".join(WORDS[i] for i in baseline.annotate(np.array([[image]]), k)[0][0].tolist())


def test_label_transfer_by_hand() -> None:
    """The image at 1 has the neighbours 0 (c b), 1 (d a), 2 (d e), 3 (a) and 4 (b a).

    First b (4 images), then c (3). Of the other neighbours' words, a occurs 3 times, d 2, e once; with b or c together they
    occur: a 2 (with b: images 4 and 6) + 1 (with c: image 5) = 3, d and e 0. So a (3·3 = 9), then d and e (0 each, lowest
    index first), then f.
    """
    baseline = JEC(device="cpu").fit(PLACES, LABELS, WORDS)
    assert baseline.counts_.tolist() == [6, 4, 3, 3, 1, 1, 0]
    for k in range(1, 7):
        assert words(baseline, 1.0, k) == "bcadef"[:k]
    assert baseline.scores([[1.0]])[0].tolist() == pytest.approx([5 / 7, 7 / 7, 6 / 7, 4 / 7, 3 / 7, 2 / 7, -np.inf])  # type: ignore[arg-type]


def test_co_occurrence_and_frequency_by_hand() -> None:
    """The image at 42 has the neighbours 4 (b a), 5 (a c), 3 (a), 6 (a b), 2 (d e).

    First a, b. c, d and e are in one other neighbour each; c is with a in image 5 and with b in image 0: 2; d with a in image 1:
    1; e with neither: 0. Then f.
    """
    baseline = JEC(device="cpu").fit(PLACES, LABELS, WORDS)
    assert words(baseline, 42.0, 6) == "abcdef"
    # At 72, neighbours 7 (a), 8 (b), 6 (a b), 9 (c), 5 (a c): b 2·2 = 4, c 2·1 = 2, and no d, e, f: by frequency 3, 1, 1.
    assert words(baseline, 72.0, 6) == "abcdef"
    # At 108, neighbours 11 (f), 10 (d), 9, 8, 7: nothing is with f, so of d, c, b, a (0 each) the lowest index first; then e.
    assert words(baseline, 108.0, 6) == "fabcde"
    assert words(JEC(neighbours=1, device="cpu").fit(PLACES, LABELS, WORDS), 108.0, 6) == "fabcde"
    assert words(JEC(neighbours=2, device="cpu").fit(PLACES, LABELS, WORDS), 108.0, 6) == "fdabce"


def test_the_nearest_image_without_a_word_is_passed_over() -> None:
    labels = [row if place != 11 else [] for place, row in enumerate(LABELS)]
    baseline = JEC(device="cpu").fit(PLACES, labels, WORDS)
    assert baseline.labels_.shape == (11, 7)
    assert words(baseline, 110.0, 2) == "da"  # image 10 (d); a is with it in image 1, b and c are not
    assert words(baseline, 110.0, 5) == "dabce"  # f has no image left


# ---- plain loops


def plain_distances(train: dict[str, NDArray], test: dict[str, NDArray], metric: dict[str, str]) -> NDArray:
    def pairs(x: NDArray, y: NDArray, name: str) -> NDArray:
        difference = x[:, None].astype(np.float64) - y
        return np.abs(difference).sum(2) if metric[name] == "l1" else np.sqrt((difference**2).sum(2))

    return np.mean([pairs(test[n], train[n], n) / pairs(train[n], train[n], n).max() for n in train], axis=0)


def plain_jec(distance: NDArray, labels: NDArray, neighbours: int) -> list[int]:
    """All words of one image, best first. distance (N,), labels (N, W)."""
    counts = labels.sum(axis=0)
    order = sorted(range(len(distance)), key=lambda i: (distance[i], i))[:neighbours]
    given = sorted(np.flatnonzero(labels[order[0]]), key=lambda w: (-counts[w], w))
    local = {w: sum(labels[i, w] for i in order[1:]) for w in range(labels.shape[1])}
    together = {w: sum(np.sum(labels[:, w] * labels[:, v]) for v in given) for w in local}
    given += sorted((w for w in local if local[w] and w not in given), key=lambda w: (-local[w] * together[w], w))
    return given + sorted((w for w in local if w not in given), key=lambda w: (-counts[w], w))


def random_case(seed: int, images: int = 40, tests: int = 7, n_words: int = 9) -> tuple[dict, dict, NDArray]:
    """Whole-number features, so that many distances tie; some words and images have nothing."""
    rng = np.random.default_rng(seed)
    train = {
        "colour": rng.integers(0, 4, (images, 3)).astype(np.float32),
        "gist": rng.integers(0, 3, (images, 2, 2)).astype(np.float32),
    }
    test = {name: rng.integers(0, 4, (tests, *rows.shape[1:])).astype(np.float32) for name, rows in train.items()}
    labels = (rng.random((images, n_words)) < rng.uniform(0, 0.5, n_words)).astype(np.float32)
    labels[::9], labels[:, 4] = 0, 0
    return train, test, labels


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("neighbours", [1, 2, 5, 100])
def test_plain_loops_for_one_feature_with_ties(seed: int, neighbours: int) -> None:
    train, test, labels = random_case(seed)
    learn, see, carries = train["colour"], test["colour"], labels.any(axis=1)
    known = np.flatnonzero(labels.any(axis=0))
    index, _ = JEC(neighbours=neighbours, device="cpu").fit(learn, labels).annotate(see, len(known))
    # To the float32 of the baseline, so that what ties there ties here.
    distance = plain_distances({"": learn[carries]}, {"": see}, {"": "l2"}).astype(np.float32)
    for row, found in enumerate(index.tolist()):
        assert found == [word for word in plain_jec(distance[row], labels[carries], neighbours) if word in known]


@pytest.mark.parametrize("seed", range(12))
def test_plain_loops_for_several_features(seed: int) -> None:
    train, test, labels = random_case(seed)
    rng = np.random.default_rng(seed)  # sums of scaled distances that tie in exact numbers differ by rounding: let none tie
    train, test = ({name: rows + rng.random(rows.shape, np.float32) for name, rows in part.items()} for part in (train, test))
    carries, known, metric = labels.any(axis=1), np.flatnonzero(labels.any(axis=0)), {"colour": "l2", "gist": "l1"}
    baseline = JEC(metric=metric, device="cpu").fit(train, labels)
    index, _ = baseline.annotate(test, len(known))
    flat = [{name: rows.reshape(len(rows), -1) for name, rows in part.items()} for part in (train, test)]
    distance = plain_distances({name: rows[carries] for name, rows in flat[0].items()}, flat[1], metric)
    found = baseline._distances({name: torch.from_numpy(rows) for name, rows in test.items()})
    np.testing.assert_allclose(found.numpy(), distance, rtol=1e-6)
    for row, given in enumerate(index.tolist()):
        assert given == [word for word in plain_jec(distance[row], labels[carries], 5) if word in known]


def test_large_counts_stay_in_order() -> None:
    """2,000 images, nearly all neighbours: the products pass 2²⁴, where float32 would tie them."""
    rng = np.random.default_rng(0)
    labels = (rng.random((2000, 60)) < 0.8).astype(np.float32)
    images = rng.permutation(2000).astype(np.float32)[:, None]
    index, _ = JEC(neighbours=1900, device="cpu").fit(images, labels).annotate(np.array([[0.0], [999.0]]), 60)
    for found, image in zip(index.tolist(), (0.0, 999.0), strict=True):
        assert found == plain_jec(np.abs(images[:, 0] - image), labels.astype(int), 1900)


def test_blocks_of_any_size_give_the_same() -> None:
    train, test, labels = random_case(3, tests=11)
    baseline = JEC(device="cpu").fit(train, labels)
    expected = baseline.scores(test)
    for at_once in (1, 2, 10, 11):
        baseline.block_bytes = at_once * baseline._bytes_per_image()
        assert torch.equal(baseline.scores(test), expected)


# ---- what the neighbour baselines share


def test_nearest_ties_go_to_the_lowest_index() -> None:
    distance = torch.tensor([[2.0, 0, 1, -0.0, 1, 1], [1, 1, 1, 1, 1, 1]])
    index, value = nearest(distance, 4)
    assert index.tolist() == [[1, 3, 2, 4], [0, 1, 2, 3]] and value.tolist() == [[0, 0, 1, 1], [1] * 4]
    rng = np.random.default_rng(0)
    many = rng.integers(0, 50, (5, 3000)).astype(np.float32) / 7
    assert nearest(torch.from_numpy(many), 200)[0].tolist() == np.argsort(many, axis=1, kind="stable")[:, :200].tolist()
    tiny = torch.tensor([[3e-45, 1e-45, torch.inf, 1e38, 0]])  # subnormal, infinite
    assert nearest(tiny, 5)[0].tolist() == [[4, 1, 0, 3, 2]]


def test_default_metrics_and_scales() -> None:
    train, _, labels = random_case(0)
    carries = labels.any(axis=1)
    baseline = JEC(device="cpu").fit(train, labels)
    assert baseline.metrics_ == {"colour": "l1", "gist": "l1"}
    rows = train["colour"][carries]
    assert float(baseline.scales_["colour"]) == np.abs(rows[:, None] - rows).sum(2).max()
    assert JEC(device="cpu").fit(train["colour"], labels).metrics_ == {"": "l2"}
    assert JEC(device="cpu", metric="cosine").fit(train, labels).metrics_ == {"colour": "cosine", "gist": "cosine"}
    # Beyond 0…1 only for an image unlike any of training.
    assert float(baseline._distances({name: torch.from_numpy(part[carries]) for name, part in train.items()}).max()) <= 1
    assert float(baseline._distances({name: torch.full(part[:1].shape, 99.0) for name, part in train.items()}).min()) > 1


def test_features_count_alike_whatever_their_size() -> None:
    train, test, labels = random_case(1)
    expected = JEC(device="cpu").fit(train, labels).scores(test)
    larger = [{"colour": part["colour"] * 1024, "gist": part["gist"]} for part in (train, test)]
    assert torch.equal(JEC(device="cpu").fit(larger[0], labels).scores(larger[1]), expected)


@pytest.mark.parametrize("block", [1, 7, 29, 30, 31])
def test_the_scale_is_the_largest_distance_whatever_the_block(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(3).random((30, 4))
    monkeypatch.setattr(neighbours, "_SCALE_BLOCK", block)
    baseline = JEC(device="cpu", metric="l1").fit(images, np.ones((30, 1)))
    single = images.astype(np.float32)
    assert float(baseline.scales_[""]) == pytest.approx(max(np.abs(a - b).sum() for a in single for b in single), rel=1e-6)


def test_a_scale_from_a_sample_where_there_are_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.random((300, 2)), rng.random((300, 3)) < 0.9
    exact = float(JEC(device="cpu").fit(images, labels).scales_[""])
    monkeypatch.setattr(neighbours, "_SCALE_IMAGES", 100)
    sampled = [float(JEC(device="cpu").fit(images, labels).scales_[""]) for _ in range(2)]
    assert sampled[0] == sampled[1] and 0.8 * exact < sampled[0] <= exact


def test_images_that_are_all_alike() -> None:
    baseline = JEC(device="cpu").fit(np.ones((3, 2)), [["b"], ["a"], ["a"]])
    assert baseline.annotate(np.ones((2, 2)), 2)[0].tolist() == [[1, 0], [1, 0]]  # the lowest index is nearest
    assert baseline.annotate(np.zeros((1, 2)), 2)[0].tolist() == [[1, 0]]


def test_the_model_keeps_its_own_copy() -> None:
    images = np.arange(4, dtype=np.float32)[:, None]
    baseline = JEC(device="cpu").fit(images, [["a"], ["b"], ["b"], ["b"]])
    images[:] = 7
    assert baseline.annotate(np.zeros((1, 1)), 1)[0].tolist() == [[0]]


@pytest.mark.parametrize("build", [JEC, TwoPassKNN])
def test_bad_settings(build: type[NeighbourBaseline]) -> None:
    with pytest.raises(ValueError, match="metric 'euclid' is unknown; choose one of l2"):
        build(metric="euclid")
    with pytest.raises(ValueError, match="metric 'euclid' is unknown"):
        build(metric={"colour": "l1", "gist": "euclid"})
    train, _, labels = random_case(0)
    for metric in ({"colour": "l1"}, {"colour": "l1", "gist": "l1", "texture": "l1"}, {}):
        with pytest.raises(ValueError, match=r"metric names the features \[.*\], the features given are \['colour', 'gist'\]"):
            build(metric=metric, device="cpu").fit(train, sparse.csr_array(labels))
    with pytest.raises(ValueError, match="have negative values"):
        build(metric="chi2", device="cpu").fit(-train["colour"], labels)
    with pytest.raises(DataError, match="features: distances between training images exceed float32; scale the values down"):
        build(device="cpu").fit(np.array([[3e38, 0], [-3e38, 1]]), [["a"], ["b"]])


def test_bad_numbers_of_neighbours() -> None:
    for count in (0, -3):
        with pytest.raises(ValueError, match=f"neighbours = {count} must be at least 1"):
            JEC(neighbours=count)
