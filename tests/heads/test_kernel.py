"""Kernel regression against plain NumPy: the double-centred system solved directly, refits without an image, sums over loops."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import sparse

from gpuannot.config import AnnotatorConfig
from gpuannot.errors import InvalidArgumentError
from gpuannot.heads import kernel as kernel_module
from gpuannot.heads.kept_images import KeptImages
from gpuannot.heads.kernel import KernelSystem
from gpuannot.heads.kernel_exact import ExactKernel
from gpuannot.heads.kernel_landmarks import LandmarkKernel
from gpuannot.heads.kernel_ranking import KernelRanking
from gpuannot.heads.systems import LeftOutSample
from gpuannot.method.words import WordBank
from gpuannot.system import threads
from gpuannot.system.threads import one_torch_thread

W, D, PENALTY = 5, 12, 0.3


def data(count: int, seed: int = 0, words: int = W) -> tuple[NDArray, sparse.csr_array]:
    """Unit vectors that depend on their words; some images carry none."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, words)) < 0.3).astype(np.float32)
    vectors = labels @ np.random.default_rng(99).standard_normal((words, D)) + rng.standard_normal((count, D))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), sparse.csr_array(labels)


def kept(vectors: NDArray, labels: sparse.csr_array) -> KeptImages:
    images = KeptImages(labels.shape[1], vectors.shape[1])
    images.update(vectors, labels, 1, np.arange(len(vectors)))
    return images


def kernel(left: NDArray, right: NDArray, width: float) -> NDArray:
    return np.exp(width * (left @ right.T - 1)) / (1 - np.exp(-width))


class Plain:
    """α, and scores, from (HkH + λI)·α = HY."""

    def __init__(self, vectors: NDArray, labels: NDArray, penalty: float = PENALTY, width: float = 2.0) -> None:
        self.u, self.width, count = vectors.astype(np.float16).astype(np.float64), width, len(vectors)
        self.k, self.h = kernel(self.u, self.u, width), np.eye(count) - 1 / count
        self.system = self.h @ self.k @ self.h + penalty * np.eye(count)
        self.alpha = np.linalg.solve(self.system, self.h @ labels)
        self.leverages = 1 - penalty * np.diag(np.linalg.inv(self.system)) + 1 / count
        self.mean = labels.mean(axis=0, dtype=np.float64)

    def scores(self, vectors: NDArray) -> NDArray:
        across = kernel(vectors.astype(np.float64), self.u, self.width)
        return (across - self.k.mean(axis=0)) @ self.h @ self.alpha


def assert_close(found: Any, expected: NDArray, relative: float = 1e-9) -> None:
    """To this part of the spread of what is expected."""
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=relative * max(float(np.std(expected)), 1e-3))


def assert_as_refitted(system: KernelSystem, vectors: NDArray, labels: NDArray) -> None:
    plain, test = Plain(vectors, labels), data(9, seed=5)[0]
    assert np.array_equal(system.images.vectors.numpy(), vectors.astype(np.float16))
    assert np.array_equal(system.images.labels.toarray(), labels) and np.array_equal(system.counts.numpy(), labels.sum(axis=0))
    assert_close(system.scores(test), plain.scores(test), 1e-7)
    assert_close(system.solution, plain.alpha, 1e-7)
    assert float(system.leverage) == pytest.approx(plain.leverages.mean(), rel=1e-7)
    assert_close(system.left_out_scores(np.arange(len(vectors)), own=True), left_out(plain, vectors, labels), 1e-6)


def left_out(plain: Plain, vectors: NDArray, labels: NDArray) -> NDArray:
    h = plain.leverages[:, None]
    return (plain.scores(plain.u) - h * (labels - plain.mean)) / np.maximum(1 - h, 1e-9)


# ---- the system


@pytest.mark.parametrize("width", [0.01, 2.0, 8.0])
@pytest.mark.parametrize("penalty", [1e-2, 3.0])
@pytest.mark.parametrize("count", [1, 2, 3, 57])
def test_scores_are_those_of_the_double_centred_system(count: int, penalty: float, width: float) -> None:
    vectors, labels = data(count)
    system, plain = KernelSystem(kept(vectors, labels), penalty, width), Plain(vectors, labels.toarray(), penalty, width)
    test = data(31, seed=1)[0]
    assert_close(system.scores(test), plain.scores(test), 1e-7)
    assert_close(system.solution, plain.alpha, 1e-7)
    assert float(system.leverage) == pytest.approx(plain.leverages.mean(), rel=1e-7)
    assert_close(system.scores(plain.u).mean(dim=0), np.zeros(W), 1e-7)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuannot.heads.kernel_exact._BLOCK", 8)
    monkeypatch.setattr("gpuannot.heads.kernel_exact._ROWS", 3)
    monkeypatch.setattr(kernel_module, "_BLOCK", 5)
    vectors, labels = data(57)
    assert_as_refitted(KernelSystem(kept(vectors, labels), PENALTY), vectors, labels.toarray())


@pytest.mark.parametrize("count", [2, 3, 40])
def test_scores_of_a_left_out_image_are_those_of_a_fit_without_it(count: int) -> None:
    """What a fit to all the others predicts, less the mean of all labels."""
    vectors, labels = data(count)
    dense, expected = labels.toarray().astype(np.float64), np.empty((count, W))
    for image in range(count):
        others = np.arange(count) != image
        fit = Plain(vectors[others], dense[others])
        own = vectors[[image]].astype(np.float16).astype(np.float64)
        expected[image] = fit.scores(own)[0] + fit.mean - dense.mean(axis=0)
    found = KernelSystem(kept(vectors, labels), PENALTY).left_out_scores(np.arange(count), own=True)
    assert_close(found, expected, 1e-8)


@pytest.mark.parametrize("most", [100, 25])
def test_left_out_statistics_are_those_of_the_left_out_scores(most: int) -> None:
    vectors, labels = data(61)
    dense = labels.toarray().astype(np.float64)
    system = KernelSystem(kept(vectors, labels), PENALTY, most=most)
    scores = system.left_out_scores(np.arange(61)).numpy()
    fitted = system.scores(vectors.astype(np.float16)).numpy()
    h = float(system.leverage)
    assert 0.2 < h < 0.9
    assert_close(scores, (fitted - h * (dense - dense.mean(axis=0))) / (1 - h), 1e-8)
    found = system.left_out()
    for word in range(W):
        carry = dense[:, word] > 0
        assert float(found.spread[word]) == pytest.approx(scores[:, word].std(), rel=1e-6)
        assert float(found.with_word[word]) == pytest.approx(scores[carry, word].mean(), rel=1e-6)
        assert float(found.without_word[word]) == pytest.approx(scores[~carry, word].mean(), rel=1e-6)


def test_words_of_no_image_and_of_all() -> None:
    vectors, labels = data(20)
    dense = labels.toarray()
    dense[:, 0], dense[:, 1] = 0, 1
    system = KernelSystem(kept(vectors, sparse.csr_array(dense)), PENALTY)
    assert_close(system.solution[:, :2], np.zeros((20, 2)))
    assert all(torch.isfinite(part).all() for part in system.left_out())
    assert float(system.left_out().spread[:2].max()) < 1e-7 < float(system.left_out().spread[2:].min())


def test_what_cannot_be_solved_is_refused() -> None:
    vectors, labels = data(3)
    for images, penalty, width in (
        (KeptImages(W, D), 1.0, 2.0),
        (kept(vectors, labels), 0.0, 2.0),
        (kept(vectors, labels), 1.0, 0.0),
    ):
        with pytest.raises(ValueError, match="above 0"):
            KernelSystem(images, penalty, width)
    system = KernelSystem(kept(vectors, labels), PENALTY)
    with pytest.raises(ValueError, match="no image would be left"):
        system.update(vectors, labels, -1)
    assert_as_refitted(system, vectors, labels.toarray())


# ---- images and words that come and go


@pytest.mark.parametrize("seed", range(10))
def test_any_sequence_of_changes_is_a_refit(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuannot.heads.kernel_exact._SPARE", 3)  # so that the room for more images ends now and then
    rng = np.random.default_rng(seed)
    vectors, labels = data(50, seed)
    dense = labels.toarray()
    system = KernelSystem(kept(vectors, labels), PENALTY)
    solved = system._solve()
    assert isinstance(solved, ExactKernel)
    for step in range(14):
        words = dense.shape[1]
        kind = rng.integers(5)
        if kind == 0:
            more, of_more = data(int(rng.integers(1, 5)), 100 * seed + step, words)
            system.update(more, of_more)
            vectors, dense = np.vstack([vectors, more]), np.vstack([dense, of_more.toarray()])
        elif kind == 1:
            gone = rng.choice(len(vectors), 3, replace=False)
            system.update(torch.from_numpy(vectors[gone]), sparse.csr_array(dense[gone]), -1)
            vectors, dense = np.delete(vectors, gone, axis=0), np.delete(dense, gone, axis=0)
        elif kind == 2:
            system.add_words(2)
            dense = np.pad(dense, ((0, 0), (0, 2)))
        elif kind == 3 and words > 3:
            numbers = rng.permutation(words)[: words - 1].tolist()
            system.keep_words(numbers)
            dense = dense[:, numbers]
        elif kind == 4:
            word, into = rng.choice(words, 2, replace=False)
            system.merge_words(int(word), int(into))
            dense = dense.copy()
            dense[:, into] = np.maximum(dense[:, into], dense[:, word])
        assert_as_refitted(system, vectors, dense)
    assert system._solved is solved  # it was updated, not solved anew


def test_many_changes_mean_solving_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_module, "_CHANGES", 3)
    vectors, labels = data(40)
    system = KernelSystem(kept(vectors[:32], labels[:32]), PENALTY)
    first = system._solve()
    system.update(vectors[32:35], labels[32:35])
    assert system._solved is first
    system.update(vectors[35:36], labels[35:36])
    assert system._solved is None
    assert_as_refitted(system, vectors[:36], labels[:36].toarray())


def test_an_eighth_of_the_images_at_once_means_solving_anew() -> None:
    vectors, labels = data(40)
    system = KernelSystem(kept(vectors, labels), PENALTY)
    first = system._solve()
    system.update(vectors[:5], labels[:5], -1)
    assert system._solved is first
    system.update(vectors[:5], labels[:5])
    assert system._solved is None
    assert_as_refitted(system, np.roll(vectors, -5, axis=0), np.roll(labels.toarray(), -5, axis=0))


def test_an_unknown_image_is_not_forgotten() -> None:
    vectors, labels = data(30)
    system = KernelSystem(kept(vectors, labels), PENALTY)
    before = system.solution.clone()
    other = sparse.csr_array(1 - labels.toarray())
    unknown = data(1, seed=77)[0]
    for given, of_given, numbers in (
        (np.vstack([vectors[:2], unknown]), labels[:3], "number 2"),
        (vectors[:2], sparse.csr_array(sparse.vstack([other[:1], labels[1:2]])), "number 0"),
        (vectors[[4, 4]], labels[[4, 4]], "number 1"),  # it was learnt from once
    ):
        with pytest.raises(InvalidArgumentError, match=numbers):
            system.update(given, of_given, -1)
    assert torch.equal(system.solution, before)
    assert_as_refitted(system, vectors, labels.toarray())


@pytest.mark.parametrize("count", [1, 2, 30])
def test_landmarks_that_are_all_images_give_the_exact_system(count: int) -> None:
    vectors, labels = data(count)
    exact = KernelSystem(kept(vectors, labels), PENALTY)
    spanned = LandmarkKernel(exact.images, PENALTY, 2.0, count, 0)
    rows = np.arange(count)
    assert_close(spanned.fitted(rows), exact._solve().fitted(rows).numpy(), 1e-6)
    assert_close(spanned.leverages_of(rows), exact._solve().leverages_of(rows).numpy(), 1e-6)
    assert float(spanned.leverage) == pytest.approx(float(exact.leverage), rel=1e-6)


def test_landmarks_minimise_in_their_span(monkeypatch: pytest.MonkeyPatch) -> None:
    """Least squares over stacked rows, with a free bias, after images came and went."""
    monkeypatch.setattr("gpuannot.heads.kernel_landmarks._BLOCK", 16)
    vectors, labels = data(60)
    system = KernelSystem(kept(vectors[:55], labels[:55]), PENALTY, most=20, seed=3)
    before = system.solution
    system.update(vectors[55:], labels[55:])
    system.update(vectors[:3], labels[:3], -1)
    system.merge_words(1, 2)
    system.keep_words([0, 2, 3])
    assert before.shape == (20, W) and system.solution.shape == (20, 3)
    rows, targets = vectors[3:].astype(np.float16).astype(np.float64), labels[3:].toarray()
    targets = np.stack([targets[:, 0], np.maximum(targets[:, 1], targets[:, 2]), targets[:, 3]], axis=1)
    marks = system.vectors.numpy().astype(np.float64)
    assert all(np.any(np.all(rows == mark, axis=1)) for mark in marks)
    root = np.linalg.cholesky(kernel(marks, marks, 2.0)).T * np.sqrt(PENALTY)
    design = np.block([[kernel(rows, marks, 2.0), np.ones((57, 1))], [root, np.zeros((20, 1))]])
    solution, *_ = np.linalg.lstsq(design, np.vstack([targets, np.zeros((20, 3))]), rcond=None)
    test = data(9, seed=5)[0].astype(np.float64)
    expected = kernel(test, marks, 2.0) @ solution[:-1] + solution[-1] - targets.mean(axis=0)
    assert_close(system.scores(test), expected, 1e-6)
    hat = design @ np.linalg.pinv(design)
    assert float(system.leverage) == pytest.approx(np.trace(hat[:57, :57]) / 57, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_any_sequence_of_changes_is_a_new_solution_by_landmarks(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change is made on what was solved before, whether landmarks come and go with it or not."""
    monkeypatch.setattr("gpuannot.heads.kernel_landmarks._BLOCK", 16)
    rng = np.random.default_rng(seed)
    vectors, labels = data(200, seed)
    system = KernelSystem(kept(vectors, labels), PENALTY, most=40, seed=seed)
    test, kinds = data(9, seed=5)[0], set()
    for step in range(50):
        before, marks, words = system._solve(), system.vectors, system.images.labels.shape[1]
        kind = step % 5
        if kind == 0:
            system.update(*data(int(rng.integers(1, 4)), 100 * seed + step, words))
        elif kind == 1:
            gone = rng.choice(len(system.images), 2, replace=False)
            system.update(system.images.vectors[torch.from_numpy(gone)], system.images.labels[gone], -1)
        elif kind == 2:
            system.add_words(2)
        elif kind == 3 and words > 3:
            system.keep_words(rng.permutation(words)[: words - 1].tolist())
        elif kind == 4:
            system.merge_words(*map(int, rng.choice(words, 2, replace=False)))
        anew = KernelSystem(system.images, PENALTY, most=40, seed=seed)
        assert system._solve() is before
        kinds.add((kind, system.vectors is marks))
        assert {*map(tuple, system.vectors.tolist())} == {*map(tuple, anew.vectors.tolist())}
        assert torch.equal(system.counts, anew.counts)
        assert_close(system.scores(test), anew.scores(test).numpy(), 1e-6)
        assert float(system.leverage) == pytest.approx(float(anew.leverage), rel=1e-7)
        rows = np.arange(len(anew.images))
        assert_close(system.left_out_scores(rows, own=True), anew.left_out_scores(rows, own=True).numpy(), 1e-6)
        for found, expected in zip(system.left_out(), anew.left_out(), strict=True):
            assert_close(found, expected.numpy(), 1e-6)
    assert {(0, True), (0, False), (1, True), (1, False)} <= kinds


def test_landmarks_are_drawn_by_position_and_seed() -> None:
    vectors, labels = data(40)
    backwards = KeptImages(W, D)
    for row in range(39, -1, -1):
        backwards.update(vectors[[row]], labels[[row]], 1, np.array([row]))
    drawn = [KernelSystem(kept(vectors, labels), PENALTY, most=20, seed=seed).vectors for seed in (0, 1)]
    assert torch.equal(drawn[0], KernelSystem(backwards, PENALTY, most=20).vectors)
    assert not torch.equal(*drawn)
    halves = [np.isin(np.arange(40), [backwards.vectors.tolist().index(mark) for mark in marks.tolist()]) for marks in drawn]
    assert all(half.sum() == 20 and 0 < half[:20].sum() < 20 for half in halves)


def test_images_that_are_left_out_are_no_landmarks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What λ and confidences are learnt from would else know nothing of images that are none."""
    monkeypatch.setattr("gpuannot.heads.systems.SAMPLE_IMAGES", 60)
    vectors, labels = data(300)
    bank = WordBank([f"word {number}" for number in range(W)], D, [kept(vectors, labels)])
    for seed in range(5):
        sample = LeftOutSample(AnnotatorConfig(head="kernel", l2=True, seed=seed), bank)
        marks = {*map(tuple, KernelSystem(kept(vectors, labels), PENALTY, most=60, seed=seed).vectors.tolist())}
        assert 3 < sum(tuple(row) in marks for row in sample._vectors.tolist()) < 25  # 12 of 60 by chance


def test_the_number_of_threads_does_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuannot.heads.kernel_exact._BLOCK", 64)
    vectors, labels = data(600)
    more, of_more = data(20, seed=4)
    found: list[list[NDArray]] = []
    for cores in (1, 2):
        monkeypatch.setattr(threads, "cpus", lambda cores=cores: cores)
        with one_torch_thread():
            system = KernelSystem(kept(vectors, labels), PENALTY)
            spanned = KernelSystem(kept(vectors, labels), PENALTY, most=300)
            parts = [system.solution.numpy().copy()]
            system.update(more, of_more)
            system.update(vectors[5:9], labels[5:9], -1)
            ranking = system.ranking(np.arange(W), torch.ones(W), torch.zeros(W))
            parts += [system.solution.numpy(), *(part.numpy() for part in system.left_out()), spanned.solution.numpy()]
        found.append([*parts, ranking.scores(vectors)])
    assert all(np.array_equal(one, two) for one, two in zip(*found, strict=True))


# ---- the images


def test_the_order_is_that_of_the_positions_whatever_the_batches_and_parts() -> None:
    vectors, labels = data(23)
    whole = kept(vectors, labels)
    parts = [KeptImages(W, D) for _ in range(3)]
    for batch in (range(20, 23), range(0, 1), range(9, 20), range(1, 9)):
        rows = np.array(batch)
        parts[rows[0] % 3].update(torch.from_numpy(vectors[rows]), labels[rows], 1, rows)
    merged = pickle.loads(pickle.dumps(parts[2])).merge(parts[0]).merge(pickle.loads(pickle.dumps(parts[1]))).to("cpu")
    later, of_later = data(4, seed=8)
    merged.update(later[:1], of_later[:1], 1, None)
    merged.update(later[1:3], of_later[1:3], 1, None)
    merged.update(vectors[:0], labels[:0], 1, None)
    other = KeptImages(W, D)
    other.update(later[3:], of_later[3:], 1, None)
    merged.merge(other)
    assert len(merged) == 27 and len(set(merged.keys.tolist())) == 27
    assert torch.equal(merged.vectors, torch.cat([whole.vectors, torch.from_numpy(later).half()]))
    assert np.array_equal(merged.labels.toarray(), np.vstack([labels.toarray(), of_later.toarray()]))


def test_vectors_are_kept_in_16_bits_and_found_again() -> None:
    vectors, labels = data(9)
    images = kept(vectors, labels)
    assert images.vectors.dtype == torch.float16
    np.testing.assert_array_equal(images.vectors.numpy(), vectors.astype(np.float16))
    assert images.rows_of(vectors[[7, 2]], labels[[7, 2]]).tolist() == [7, 2]
    moved = vectors + np.random.default_rng(0).standard_normal(vectors.shape).astype(np.float32) * 2e-3
    assert not np.any(np.all(moved.astype(np.float16) == vectors.astype(np.float16), axis=1))
    assert images.rows_of(moved, labels).tolist() == list(range(9))


def test_of_alike_images_the_exact_one_goes_first() -> None:
    vectors, labels = data(4)
    near = vectors[:1] + np.float32(2e-3) * vectors[1:2]
    images = kept(np.vstack([vectors[:1], near, vectors[:1]]), labels[[0, 0, 0]])
    assert images.rows_of(near, labels[:1]).tolist() == [1]
    nearer = vectors[:1] + np.float32(5e-4) * vectors[1:2]
    # The nearest of the first is the first row, which the second is exactly.
    assert images.rows_of(np.vstack([nearer, vectors[:1]]), labels[[0, 0]]).tolist() == [2, 0]
    images.remove(np.array([0, 2]))
    assert len(images) == 1 and torch.equal(images.vectors, torch.from_numpy(near).half())


def test_images_of_zeros_are_images_and_long_vectors_are_not() -> None:
    vectors, labels = data(3)
    vectors[1] = 0
    images = kept(vectors, labels)
    images.update(vectors[[1]], labels[[1]], -1, None)
    assert np.array_equal(images.keys, [0, 2])
    with pytest.raises(InvalidArgumentError, match=r"takes image vectors of length 1.*number 0 of those given has length 2"):
        images.check(2 * vectors)
    with pytest.raises(ValueError, match="expected vectors"):
        images.update(vectors[:2], labels, 1, None)
    assert len(images) == 2


def test_words_of_kept_images() -> None:
    vectors, labels = data(30)
    dense, images = labels.toarray(), kept(vectors, labels)
    snapshot = images.copy()
    assert images.with_both(1, 3) == int((dense[:, 1] * dense[:, 3]).sum()) > 0
    images.merge_words(1, 3, labels[:0])
    images.keep_words([3, 0])
    images.add_words(1)
    expected = np.stack([np.maximum(dense[:, 1], dense[:, 3]), dense[:, 0], np.zeros(30)], axis=1)
    assert np.array_equal(images.labels.toarray(), expected)
    assert np.array_equal(snapshot.labels.toarray(), dense)


def test_a_bank_keeps_its_images_current() -> None:
    vectors, labels = data(60)
    dense = labels.toarray()
    bank = WordBank("abcde", D, [KeptImages(W, D)])
    bank.partial_fit(vectors[15:], labels[15:], np.arange(15, 60)).partial_fit(vectors[:15], labels[:15], np.arange(15))
    both = np.flatnonzero(dense[:, 0] * dense[:, 2])
    assert len(both) > 1
    with pytest.raises(InvalidArgumentError, match=f"{len(both)} images carry both"):
        bank.merge_words("a", "c", vectors[both[:1]], labels[both[:1]])
    sums = bank.sums.copy()
    with pytest.raises(InvalidArgumentError, match="cannot forget 1 of the 2"):
        bank.forget(np.vstack([vectors[:1], -vectors[1:2]]), labels[:2])
    assert np.array_equal(bank.sums, sums)
    bank.merge_words("a", "c")  # it knows which images carry both
    dense[:, 2] = np.maximum(dense[:, 0], dense[:, 2])
    dense = dense[:, 1:]
    bank.forget(vectors[[3, 8]], sparse.csr_array(dense[[3, 8]]))
    bank.add_words(["f"]).remove_words(["b"])
    images, left = bank.extra(KeptImages), np.delete(np.arange(60), [3, 8])
    assert images is not None and torch.equal(images.vectors, torch.from_numpy(vectors[left]).half())
    assert np.array_equal(images.labels.toarray(), np.pad(dense[left, 1:], ((0, 0), (0, 1))))
    assert np.array_equal(images.labels.sum(axis=0), bank.counts)


# ---- the ranking


def ranking_of(count: int = 40) -> tuple[KernelSystem, KernelRanking, NDArray, NDArray]:
    vectors, labels = data(count)
    system = KernelSystem(kept(vectors, labels), PENALTY)
    scale, shift = np.array([1.0, 2.0, 0.5]), np.array([0.0, -1.0, 0.3])
    known = np.array([0, 2, 4])
    return system, system.ranking(known, torch.from_numpy(scale), torch.from_numpy(shift)), scale, shift


@pytest.mark.parametrize("block", [64 << 20, 1])
@pytest.mark.parametrize("images", [0, 1, 17, 130])
def test_the_ranking_is_that_of_the_scores(images: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuannot.heads.kernel_ranking._BLOCK_BYTES", block)
    monkeypatch.setattr("gpuannot.heads.kernel_ranking._AT_ONCE", 128)
    system, ranking, scale, shift = ranking_of()
    test = data(images, seed=3)[0]
    expected = scale * system.scores(test).numpy()[:, [0, 2, 4]] + shift
    known = np.array([0, 2, 4])
    device = ranking.on(torch.device("cpu"), known)
    for scores in (ranking.scores(test), device.scores(torch.from_numpy(test)).numpy()):
        assert scores.dtype == np.float32 and scores.shape == (images, 3)
        np.testing.assert_allclose(scores, expected, atol=1e-5)
    for index, distance in (ranking.nearest(test, 2), device.nearest(torch.from_numpy(test), 2)):
        assert str(index.dtype).endswith("int64") and str(distance.dtype).endswith("float32")
        numbers = np.asarray(index) if isinstance(index, np.ndarray) else np.searchsorted(known, index.numpy())
        assert np.array_equal(numbers, np.argsort(-expected, axis=1)[:, :2])
        np.testing.assert_allclose(np.asarray(distance), np.take_along_axis(-expected, numbers, axis=1), atol=1e-5)


def test_equal_words_tie_to_the_lowest_index() -> None:
    rng = np.random.default_rng(0)
    vectors, weights = data(70)[0], rng.standard_normal((70, 3))
    copies = [0, 1, 1, 2, 0, 1, 2, 2, 0]
    ranking = KernelRanking(vectors, weights[:, copies], np.zeros(9), 2.0)
    index, distance = ranking.nearest(vectors, 9)
    on_device, other = ranking.on(torch.device("cpu"), np.arange(9)).nearest(torch.from_numpy(vectors), 9)
    for found, far in ((index, distance), (on_device.numpy(), other.numpy())):
        assert np.array_equal(np.sort(found, axis=1), np.tile(np.arange(9), (70, 1)))
        for row in range(0, 9, 3):
            assert np.all(far[:, row] == far[:, row + 2])
            assert np.all(np.diff(found[:, row : row + 3], axis=1) > 0)


@pytest.mark.parametrize(("learnt", "dimension", "words"), [(300, 12, 3), (301, 12, 300), (700, 500, 3), (700, 500, 140)])
def test_an_image_has_the_same_bits_in_any_batch(learnt: int, dimension: int, words: int) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((learnt + 150, dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ranking = KernelRanking(vectors[150:], rng.standard_normal((learnt, words)), np.zeros(words), 2.0)
    test = vectors[:150]
    whole = ranking.scores(test)
    assert np.array_equal(whole, np.vstack([ranking.scores(test[row : row + 1]) for row in range(150)]))
    assert np.array_equal(whole[7:60], ranking.scores(test[7:60]))


def test_sums_are_exact() -> None:
    """Each image comes twice, with opposite weights, in an order of its own: nothing is left, where rounding would leave 10⁻⁹."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((560, 333)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors, test = vectors[:500], vectors[500:]
    weights = rng.standard_normal((500, 7)) * 10.0 ** rng.integers(-4, 7, (500, 7))
    order = rng.permutation(1000)
    twice, opposite = np.vstack([vectors, vectors])[order], np.vstack([weights, -weights])[order]
    assert not KernelRanking(twice, opposite, np.zeros(7), 2.0).scores(test).any()


def test_images_without_weight_are_left_out() -> None:
    vectors = data(6)[0]
    weights = np.arange(12.0).reshape(6, 2)
    weights[[1, 4]] = 0
    ranking = KernelRanking(vectors, weights, np.array([1.0, 2.0]), 2.0)
    assert np.array_equal(ranking.vectors, vectors[[0, 2, 3, 5]].astype(np.float16))
    expected = kernel(vectors.astype(np.float64), vectors.astype(np.float16).astype(np.float64), 2.0) @ weights + [1, 2]
    np.testing.assert_allclose(ranking.scores(vectors), expected, rtol=1e-5)
    empty = KernelRanking(vectors, 0 * weights, np.array([1.0, 2.0]), 2.0)
    assert np.array_equal(empty.scores(vectors), np.tile(np.float32([1, 2]), (6, 1)))
    assert empty.nearest(vectors, 1)[0].ravel().tolist() == [1] * 6


def test_bad_input_is_refused() -> None:
    _, ranking, *_ = ranking_of()
    test = data(3)[0]
    for k in (0, 4):
        with pytest.raises(InvalidArgumentError, match="1…3"):
            ranking.nearest(test, k)
        with pytest.raises(InvalidArgumentError, match="1…3"):
            ranking.on(torch.device("cpu"), np.arange(3)).nearest(torch.from_numpy(test), k)
    for value in (np.nan, np.inf, -np.inf):
        test[1, 2] = value
        with pytest.raises(InvalidArgumentError, match="NaN or infinite"):
            ranking.nearest(test, 1)


@pytest.mark.parametrize("block", [64 << 20, 1])
def test_first_order_touches_the_score(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuannot.heads.kernel_ranking._BLOCK_BYTES", block)
    system, ranking, scale, shift = ranking_of()
    x = data(1, seed=3)[0][0]
    weights, remainder = ranking.first_order(x, np.array([2, 0]))

    def score(at: NDArray) -> NDArray:
        return (scale * system.scores(at[None]).numpy()[0, [0, 2, 4]] + shift)[[2, 0]]

    np.testing.assert_allclose(weights @ x.astype(np.float64) + remainder, score(x.astype(np.float64)), atol=1e-6)
    for axis in range(D):
        step = np.eye(D)[axis] * 1e-4
        np.testing.assert_allclose((score(x + step) - score(x - step)) / 2e-4, weights[:, axis], atol=1e-5)


def test_a_bank_that_refuses_vectors_is_as_it_was() -> None:
    vectors, labels = data(9)
    bank = WordBank([f"word {number}" for number in range(W)], D, [KeptImages(W, D)])
    bank.partial_fit(vectors, labels)
    sums, counts = bank.sums.copy(), bank.counts.copy()
    vectors[4] *= 3
    with pytest.raises(InvalidArgumentError, match="number 4 of those given has length 3"):
        bank.partial_fit(vectors, labels)
    assert np.array_equal(bank.sums, sums) and np.array_equal(bank.counts, counts)
    assert [len(extra) for extra in bank.extras] == [9]
