"""The neighbour vote, by plain loops; and an annotator with it, whose images and words come and go."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import sparse

from gpuannot import Annotator, AnnotatorConfig
from gpuannot import voters as module
from gpuannot.calibration import gaussian_odds
from gpuannot.datasets import LabelledImages, load_labelled_images
from gpuannot.errors import ModelFileError
from gpuannot.heads import WordHead, new_bank
from gpuannot.model_file import ModelFile
from gpuannot.ranking import LinearRanking, VotedRanking
from gpuannot.ridge import LeftOut
from gpuannot.tune import tune
from gpuannot.voters import Voters, leading_coordinates
from gpuannot.weights import TrunkWeights, load_weights

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "layer": "pool2", "input_size": 32, "n_components": 8, "n_centers": 4, "signed_sqrt": True, "l2": True, "projection": 6,
    "quadratic": 3, "head": "ridge", "calibration": "odds", "balance": 1.0, "vote": 0.5, "vote_sharpness": 8.0,
}  # fmt: skip


def drawn(images: int, dimension: int, words: int, seed: int = 0) -> tuple[NDArray[np.float32], sparse.csr_array]:
    """Vectors of unit length that float16 holds almost exactly, and labels; the last word is nobody's."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(images, dimension)) + 1
    labels = (rng.random((images, words)) < 0.3) & (np.arange(words) < words - 1)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), sparse.csr_array(labels.astype(np.int8))


def made_of(vectors: NDArray, labels: sparse.csr_array, sharpness: float = 5.0, parts: int = 3) -> Voters:
    voters = Voters(vectors.shape[1], labels.shape[1], sharpness)
    for rows in np.array_split(np.arange(len(vectors)), parts):
        voters.add(vectors[rows], labels[rows])
    return voters


def plain_votes(images: NDArray, voters: NDArray, labels: NDArray, sharpness: float, own: list[int] | None = None) -> NDArray:
    """One image, one voter and one word at a time, in float64."""
    shares = np.zeros((len(images), labels.shape[1]))
    for row, image in enumerate(images.astype(np.float64)):
        total = 0.0
        for place, voter in enumerate(voters.astype(np.float64)):
            if own is None or own[row] != place:
                weight = float(np.exp(sharpness * float(image @ voter)))
                total += weight
                shares[row] += weight * labels[place]
        shares[row] /= total or 1.0
    return shares


# ---- votes


@pytest.mark.parametrize(("images", "count", "dimension", "words"), [(0, 3, 4, 2), (1, 1, 1, 1), (3, 7, 5, 4), (33, 130, 65, 9)])
@pytest.mark.parametrize("block", [1, 1 << 20])
def test_votes_by_plain_loops(
    images: int, count: int, dimension: int, words: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK_BYTES", block)
    vectors, labels = drawn(count, dimension, words)
    behind = np.full((images, 2), np.nan, np.float32)  # which counts for nothing
    asked = np.hstack([drawn(images, dimension, 1, seed=1)[0], behind])
    voters = made_of(vectors, labels)
    expected = plain_votes(asked[:, :dimension], voters.vectors, labels.toarray(), 5.0)
    found = voters.votes(asked)
    assert found.dtype == np.float32 and found.shape == (images, words)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    on_device = voters.on(CPU).votes(torch.from_numpy(asked))
    np.testing.assert_allclose(on_device.numpy(), expected, rtol=1e-5, atol=1e-7)
    own = np.arange(min(images, count)) if count > 1 else np.zeros(min(images, 1), np.int64)
    left = voters.votes(asked[: len(own)], own)
    np.testing.assert_allclose(
        left, plain_votes(asked[: len(own), :dimension], voters.vectors, labels.toarray(), 5.0, list(own)), rtol=1e-5, atol=1e-7
    )


def test_a_voter_of_its_own_and_none_at_all() -> None:
    vectors, labels = drawn(1, 4, 3)
    assert not made_of(vectors, labels).votes(vectors, np.zeros(1, np.int64)).any()
    assert not Voters(4, 3, 5.0).votes(vectors).any()


def test_a_sharp_vote_is_the_nearest_image() -> None:
    vectors, labels = drawn(40, 6, 8)
    voters = made_of(vectors, labels, sharpness=1e6)
    asked = drawn(9, 6, 1, seed=3)[0]
    nearest = (asked.astype(np.float64) @ voters.vectors.T.astype(np.float64)).argmax(axis=1)
    assert np.array_equal(voters.votes(asked), labels.toarray()[nearest].astype(np.float32))


@pytest.mark.parametrize("measured", [5000, 30])
def test_left_out_votes_by_plain_loops(measured: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEASURED_IMAGES", measured)
    vectors, labels = drawn(61, 6, 5)
    voters, dense = made_of(vectors, labels), labels.toarray().astype(np.float64)
    rows = np.arange(61) if measured > 61 else np.unique(np.linspace(0, 60, 30).round().astype(int))
    votes = plain_votes(voters.vectors[rows], voters.vectors, dense, 5.0, list(rows))
    found, counts = voters.left_out()
    assert np.array_equal(counts.numpy(), dense[rows].sum(axis=0))
    np.testing.assert_allclose(found.spread.numpy(), votes.std(axis=0), atol=1e-6)
    for word in range(4):
        carries = dense[rows, word] > 0
        np.testing.assert_allclose(float(found.with_word[word]), votes[carries, word].mean(), rtol=1e-5)
        np.testing.assert_allclose(float(found.without_word[word]), votes[~carries, word].mean(), rtol=1e-5)


def test_leading_coordinates() -> None:
    for kept in range(1, 40):
        for quadratic in range(0, 50):
            used = min(kept, quadratic)
            assert leading_coordinates(kept + used * (used + 1) // 2, quadratic) == kept


# ---- ranking


def test_words_are_ranked_by_score_and_vote() -> None:
    rng = np.random.default_rng(0)
    vectors, labels = drawn(50, 6, 12)
    known = np.array([0, 2, 3, 5, 6, 7, 10])
    weights, bias, slope, offset = (rng.normal(size=shape).astype(np.float32) for shape in ((7, 8), 7, 7, 7))
    weights[4], bias[4] = weights[1], bias[1]  # their votes tell them apart
    voters = made_of(vectors, labels)
    ranking = VotedRanking(LinearRanking(weights, bias), voters, known, 3 * slope, offset)
    asked = np.hstack([drawn(20, 6, 1, seed=2)[0], rng.normal(size=(20, 2)).astype(np.float32)])
    votes = plain_votes(asked[:, :6], voters.vectors, labels.toarray(), 5.0)[:, known]
    scores = asked.astype(np.float64) @ weights.T + bias + 3 * slope * votes + offset
    index, negative = ranking.nearest(asked, 4)
    assert np.array_equal(index, np.argsort(-scores, axis=1, kind="stable")[:, :4])
    np.testing.assert_allclose(-negative, -np.sort(-scores, axis=1)[:, :4], rtol=1e-4, atol=1e-5)
    numbers, same = ranking.on(CPU, known).nearest(torch.from_numpy(asked), 4)
    assert np.array_equal(numbers.numpy(), known[index])
    np.testing.assert_allclose(same.numpy(), negative, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="k = 8 must lie in 1…7"):
        ranking.nearest(asked, 8)
    with pytest.raises(ValueError, match="NaN or infinite"):
        ranking.nearest(np.full((1, 8), np.nan, np.float32), 2)


@pytest.mark.parametrize(
    "changes",
    [{"head": "lda"}, {"calibration": "spread"}, {"projection": 0, "quadratic": 0}, {"head": "mean", "calibration": "none"}],
)
def test_settings_that_a_vote_needs(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"vote adds to log-odds .* it needs head 'ridge', calibration 'odds' and a projection"):
        AnnotatorConfig(**{**SMALL, **changes})


# ---- an annotator with it


@cache
def embedded() -> TrunkWeights:
    return load_weights()


def annotator(**changes: Any) -> Annotator:
    made = Annotator(**{"device": "cpu", **SMALL, **changes})
    made._weights = embedded()
    return made


@pytest.fixture(scope="module")
def scenes(drawn_scenes: Path) -> LabelledImages:
    return load_labelled_images(drawn_scenes)


@pytest.fixture(scope="module")
def model(scenes: LabelledImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = annotator().fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary, progress=False)
    return made.save(tmp_path_factory.mktemp("model") / "vote.safetensors")


@pytest.fixture
def fitted(model: Path) -> Annotator:
    return Annotator.load(model, device="cpu")


def words_of(scenes: LabelledImages) -> list[list[str]]:
    return [[scenes.vocabulary[word] for word in scenes.labels[[row]].indices] for row in range(len(scenes))]


def refit(made: Annotator, scenes: LabelledImages, words: list[list[str]], rows: list[int]) -> Annotator:
    """An annotator that learnt these words of these scenes alone, with all that is learnt without labels and λ of ``made``."""
    other = annotator()
    other.transform_, other.codebook_, other.projection_ = made.transform_, made.codebook_, made.projection_
    other.bank_ = new_bank(other.config, made.vocabulary, other.dimension, "cpu")
    other._head = WordHead(other.config)
    other._head.penalty, other._head.logistic = made._head.penalty, made._head.logistic
    return other.partial_fit([scenes.paths[row] for row in rows], [words[row] for row in rows], progress=False)


def assert_same(made: Annotator, other: Annotator, scenes: LabelledImages) -> None:
    assert made.vocabulary == other.vocabulary
    left, right = (each.annotate(scenes.paths, k=4) for each in (made, other))
    np.testing.assert_allclose(left.distance, right.distance, rtol=1e-4, atol=1e-4)
    assert (left.index == right.index).mean() > 0.99  # words that tie but for rounding may change places


def test_a_vote_is_added_to_the_calibrated_score(fitted: Annotator, scenes: LabelledImages) -> None:
    vectors = fitted.encode(scenes.paths)[1]
    voters, bank = fitted.bank_.voters, fitted.bank_
    assert voters is not None and len(voters) == len(scenes) and voters.dimension == fitted.projection_.n_components
    dense = scenes.labels.toarray().astype(np.float64)
    votes = plain_votes(vectors[:, : voters.dimension], voters.vectors, dense, 8.0)
    own = plain_votes(voters.vectors, voters.vectors, dense, 8.0, list(range(len(scenes))))
    parts = [
        (own[:, word].std(), own[dense[:, word] > 0, word].mean(), own[dense[:, word] == 0, word].mean()) for word in bank.known
    ]
    odds = gaussian_odds(
        LeftOut(*(torch.tensor(part) for part in zip(*parts, strict=True))), torch.from_numpy(bank.counts[bank.known] * 1.0)
    )
    linear = fitted._head.linear(bank)
    scores = vectors.astype(np.float64) @ linear.weights.numpy().T + linear.bias.numpy()
    scores += 0.5 * (odds.slope.numpy() * votes[:, bank.known] + odds.offset.numpy())
    found = fitted.annotate(scenes.paths, k=3)
    np.testing.assert_allclose(-found.distance, -np.sort(-scores, axis=1)[:, :3], rtol=1e-3, atol=1e-3)
    assert found.confidence is not None and (found.confidence > 0).all() and (found.confidence < 1).all()
    plain = annotator(vote=0.0).fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary, progress=False)
    assert not np.array_equal(found.index, plain.annotate(scenes.paths, k=3).index)


def test_confidences_are_learnt_from_votes_too(fitted: Annotator, scenes: LabelledImages) -> None:
    found = fitted.annotate(scenes.paths, k=5)
    truth = scenes.labels.toarray()
    right = np.take_along_axis(truth, found.index, axis=1)
    assert found.confidence is not None
    assert abs(found.confidence.mean() - right.mean()) < 0.15  # of images that were learnt from, which a vote knows


def test_the_file_annotates_and_goes_on_learning(fitted: Annotator, model: Path, scenes: LabelledImages, tmp_path: Path) -> None:
    words, found = words_of(scenes), fitted.annotate(scenes.paths, k=4)
    bare = Annotator.load(fitted.save(tmp_path / "bare.safetensors", sums=False), device="cpu")
    again = bare.annotate(scenes.paths, k=4)
    assert np.array_equal(again.index, found.index) and np.array_equal(again.distance, found.distance)
    assert ModelFile.read(fitted.save(tmp_path / "again.safetensors")).sha256 == ModelFile.read(model).sha256
    fitted.partial_fit(scenes.paths[:2], words[:2], progress=False)
    assert len(fitted.bank_.voters or ()) == len(scenes) + 2


def test_images_and_words_come_and_go(fitted: Annotator, scenes: LabelledImages) -> None:
    words, everything = words_of(scenes), list(range(len(scenes)))
    new = [3, 8]
    fitted.forget([scenes.paths[row] for row in new], [words[row] for row in new])
    assert_same(fitted, refit(fitted, scenes, words, [row for row in everything if row not in new]), scenes)
    fitted.add_word("zebra", [scenes.paths[row] for row in new])
    for row in new:
        words[row] = ["zebra"]
    assert_same(fitted, refit(fitted, scenes, words, everything), scenes)
    first, second, third, fourth = scenes.vocabulary[:4]
    both = [row for row, each in enumerate(words) if third in each and fourth in each]
    fitted.merge_words(third, fourth, [scenes.paths[row] for row in both], [words[row] for row in both])
    fitted.remove_words([first])
    fitted.rename_word(second, "second")
    renamed = [sorted({{second: "second", third: fourth}.get(word, word) for word in each if word != first}) for each in words]
    assert_same(fitted, refit(fitted, scenes, renamed, everything), scenes)


def test_an_image_that_never_voted_cannot_be_forgotten(fitted: Annotator, scenes: LabelledImages) -> None:
    words = words_of(scenes)
    before = fitted.annotate(scenes.paths, k=3)
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="image 1 was not learnt from with these labels"):
        fitted.forget([scenes.paths[0], noise], [words[0], words[0]])
    with pytest.raises(ValueError, match="image 0 was not learnt from with these labels"):
        fitted.forget(scenes.paths[:1], [scenes.vocabulary[:3] if words[0] != list(scenes.vocabulary[:3]) else [words[0][0]]])
    assert np.array_equal(fitted.annotate(scenes.paths, k=3).distance, before.distance)


def test_explanations_leave_the_vote_out(fitted: Annotator, scenes: LabelledImages) -> None:
    explained = fitted.explain(scenes.paths[:2], k=2)
    linear, vectors = fitted._head.linear(fitted.bank_), fitted.encode(scenes.paths[:2])[1]
    for row, each in enumerate(explained):
        place = np.searchsorted(fitted.bank_.known, each.index)
        exact = vectors[row].astype(np.float64) @ linear.weights.numpy()[place].T + linear.bias.numpy()[place]
        np.testing.assert_allclose(each.scores, exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vote_odds": None}, "has only some of the tensors that a vote needs"),
        ({"voter_words": np.array([[10**6, 0]])}, "voter_words names an image or a word that there is not"),
        ({"voter_words": np.array([[0, -1]])}, "voter_words names an image or a word that there is not"),
        ({"vote_odds": None, "voters": None, "voter_words": None}, "disagree on whether there is a vote"),
    ],
)
def test_a_file_whose_voters_do_not_fit(model: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    content = ModelFile.read(model)
    tensors = {name: tensor for name, tensor in {**content.tensors, **change}.items() if tensor is not None}
    path = ModelFile(tensors, content.metadata).write(tmp_path / "edited.safetensors")
    with pytest.raises(ModelFileError, match=message):
        Annotator.load(path, device="cpu")


def test_the_vote_is_searched_like_other_settings(scenes: LabelledImages, tmp_path: Path) -> None:
    config = annotator(vote=0.0).config
    found = tune(
        scenes, config, {"vote": [0.3, 1.0], "regularisation": [0.5]}, splits=1, cache=tmp_path, device="cpu", progress=False
    )
    assert [(trial.setting, trial.value) for trial in found.trials[:3]] == [("vote", 0.0), ("vote", 0.3), ("vote", 1.0)]
    assert len({(trial.f1, trial.n_plus) for trial in found.trials[:3]}) > 1
