"""The whole method against a chain of its stages written out by hand in float64, and every way in which images and labels come."""

from __future__ import annotations

import copy
import io
import pickle
import tempfile
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.base
import torch
from hostile_images import FAILS, write_hostile_images
from PIL import Image
from scipy import sparse
from sklearn.cluster import KMeans
from small import embedded, small_annotator

from gpuannot import Annotations, Annotator, AnnotatorConfig
from gpuannot.datasets.label_files import LabelledImages
from gpuannot.errors import DataError, DeviceError, NotFittedError
from gpuannot.images.decode import decode_image
from gpuannot.method.trunk import Trunk
from gpuannot.method.words import WordBank

SIZE = 32
SMALL: dict[str, Any] = {"layer": "pool2", "input_size": SIZE, "n_components": 8, "n_centers": 4}
PATCHES = 64  # pool2 halves 32 × 32 twice


def annotator(**changes: Any) -> Annotator:
    """A small annotator on the CPU; the weights are loaded once for all of them."""
    return small_annotator(**{**SMALL, **changes})


@pytest.fixture(scope="module")
def words(scenes: LabelledImages) -> list[list[str]]:
    return [[scenes.vocabulary[word] for word in scenes.labels[[row]].indices] for row in range(len(scenes))]


@pytest.fixture(scope="module")
def fitted(scenes: LabelledImages) -> Annotator:
    """Read only."""
    return annotator().fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary)


def same(left: Annotations, right: Annotations) -> bool:
    """Equal bit for bit."""
    return (
        (left.names, left.vocabulary, left.failures) == (right.names, right.vocabulary, right.failures)
        and np.array_equal(left.positions, right.positions)
        and np.array_equal(left.index, right.index)
        and left.distance.tobytes() == right.distance.tobytes()
    )


def digest(pixels: torch.Tensor | np.ndarray) -> str:
    return sha256(np.asarray(pixels).tobytes()).hexdigest()


def trunk_input(path: Path) -> np.ndarray:
    """What the trunk is given for an image: (3, SIZE, SIZE)."""
    return decode_image(path, SIZE).transpose(2, 0, 1)


def watch(made: Annotator) -> list[str]:
    """Digests of the images that go through the trunk from now on."""
    seen: list[str] = []
    made.encoder.trunk.register_forward_pre_hook(lambda _, given: seen.extend(map(digest, given[0])))
    return seen


# ---- the method


def by_hand(config: AnnotatorConfig, features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The paper after the trunk, in float64 and without the library's stages: VLAD vectors (N, m·n) and word vectors (W, m·n)."""
    flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
    spread = flat.std(axis=0)
    normal = np.where(spread > 0, (flat - flat.mean(axis=0)) / np.where(spread > 0, spread, 1), 0)
    values, axes = np.linalg.eigh(normal.T @ normal / len(normal))
    axes = axes[:, np.argsort(-values)[: config.n_components]]
    axes *= np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0))
    descriptors = normal @ axes
    means = KMeans(config.n_centers, n_init=1, max_iter=config.kmeans_iterations, random_state=config.seed)
    centers = means.fit(descriptors.astype(np.float32)).cluster_centers_.astype(np.float64)
    nearest = np.square(descriptors[:, None] - centers).sum(axis=2).argmin(axis=1).reshape(len(features), -1)
    descriptors = descriptors.reshape(len(features), -1, config.n_components)
    vectors = np.zeros((len(features), config.n_centers, config.n_components))
    for image in range(len(features)):
        for center in range(config.n_centers):
            members = descriptors[image][nearest[image] == center]
            residual = (members - centers[center]).sum(axis=0)
            if config.mass and len(members):
                residual = residual / len(members)
            if config.intra and residual.any():
                residual = residual / np.linalg.norm(residual)
            vectors[image, center] = np.sign(residual) * np.sqrt(np.abs(residual)) if config.signed_sqrt else residual
    flat = vectors.reshape(len(features), -1)
    if config.l2:
        flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    return flat, np.stack([flat[labels[:, word] > 0].mean(axis=0) for word in range(labels.shape[1])])


def assert_follows_the_paper(made: Annotator, scenes: LabelledImages, features: np.ndarray, shown: int, tolerance: float) -> None:
    """``features`` are those of the scenes that were learnt from; the first ``shown`` of them are annotated."""
    config, k = made.config, 5
    vectors, bank = by_hand(config, features, scenes.labels[: len(features)].toarray()[:, made.bank_.known])
    vectors = vectors[:shown]
    _, found = made.encoder.encode(scenes.paths[:shown])
    vector_error = np.linalg.norm(found - vectors, axis=1).max()
    word_error = np.linalg.norm(made.bank_.vectors() - bank, axis=1).max()
    length, word_length = (np.linalg.norm(each, axis=1) for each in (vectors, bank))
    assert max(vector_error, word_error) < tolerance * length.mean()

    if config.metric == "cosine":
        distances = 1 - (vectors / length[:, None]) @ (bank / word_length[:, None]).T
        bound = 2 * (vector_error / length.min() + word_error / word_length.min())
    else:
        distances = np.sqrt(np.square(vectors[:, None] - bank).sum(axis=2))
        bound = vector_error + word_error  # by the triangle inequality
    bound += 1e-6 * distances.max()
    result = made.annotate(scenes.paths[:shown], k)
    given, expected = np.searchsorted(made.bank_.known, result.index), np.argsort(distances, axis=1, kind="stable")[:, :k]
    of_given, of_expected = (np.take_along_axis(distances, index, axis=1) for index in (given, expected))
    assert np.abs(of_given - result.distance).max() <= bound
    assert np.abs(of_given - of_expected).max() <= 2 * bound  # another word only where the two are as near as makes no difference
    assert (given == expected).mean() > 0.95


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"metric": "cosine", "mass": True, "signed_sqrt": True, "l2": True, "seed": 5, "trunk_dtype": "float32"},
        {"intra": True, "layer": "conv2_1", "relu": False, "interpolation": "bilinear"},
    ],
)
def test_fit_and_annotate_follow_the_paper(scenes: LabelledImages, changes: dict[str, Any]) -> None:
    made = annotator(**changes).fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary)
    config = made.config
    pixels = np.stack([decode_image(path, SIZE, interpolation=config.interpolation) for path in scenes.paths])
    trunk = Trunk(embedded(), config.layer, relu=config.relu, dtype=config.trunk_dtype)
    features = trunk(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert_follows_the_paper(made, scenes, features.float().numpy(), len(scenes), 1e-3)


def test_the_paper_preset_follows_the_paper(scenes: LabelledImages) -> None:
    made = Annotator(AnnotatorConfig.preset("paper"), device="cpu")
    assert (made.config.layer, made.config.input_size, made.config.n_components, made.config.n_centers) == ("conv5_2", 224, 64, 64)
    features: list[torch.Tensor] = []
    hook = made.encoder.trunk.register_forward_hook(lambda _, given, output: features.append(output.float()))
    made.fit(scenes.paths[:12], scenes.labels[:12], vocabulary=scenes.vocabulary)
    hook.remove()
    assert_follows_the_paper(made, scenes, torch.cat(features).numpy(), 4, 1e-2)


# ---- learning


FEW = 8


def test_the_same_seed_gives_the_same_model_bit_for_bit(scenes: LabelledImages, words: list[list[str]]) -> None:
    one, again = (annotator().fit(scenes.paths[:FEW], words[:FEW]) for _ in range(2))
    assert one.to_model_file().sha256 == again.to_model_file().sha256
    assert same(one.annotate(scenes.paths), again.annotate(scenes.paths))
    other = annotator(seed=1).fit(scenes.paths[:FEW], words[:FEW])
    assert np.array_equal(other.encoder.transform_.matrix_, one.encoder.transform_.matrix_)
    assert not np.allclose(np.sort(other.encoder.codebook_.centers, axis=0), np.sort(one.encoder.codebook_.centers, axis=0))
    refitted = annotator(seed=1).fit(scenes.paths[10:15], [["a"]] * 5).fit(scenes.paths[:FEW], words[:FEW])
    assert refitted.to_model_file().sha256 == other.to_model_file().sha256


def test_more_images_than_are_read_at_a_time() -> None:
    images = np.random.default_rng(0).integers(0, 256, (70, SIZE, SIZE, 3), dtype=np.uint8)  # stores are read 64 images at a time
    labels = sparse.csr_array(np.eye(3, dtype=np.float32)[np.arange(70) % 3])
    made = annotator(codebook_sample=500, seed=3)
    features: list[torch.Tensor] = []
    hook = made.encoder.trunk.register_forward_hook(lambda _, given, output: features.append(output.float()))
    made.fit(images, labels, vocabulary=["a", "b", "c"])
    hook.remove()
    descriptors = made.encoder.transform_.transform(torch.cat(features).numpy()).reshape(-1, 8)
    sample = np.random.default_rng(np.random.SeedSequence((3, 1))).choice(70 * PATCHES, size=500, replace=False, shuffle=False)
    centers = KMeans(4, n_init=1, max_iter=100, random_state=3).fit(descriptors[np.sort(sample)]).cluster_centers_
    assert np.allclose(made.encoder.codebook_.centers, centers, rtol=1e-4, atol=1e-4)
    _, vectors = made.encoder.encode(images)
    sums = np.stack([vectors[word::3].sum(axis=0, dtype=np.float64) for word in range(3)])
    assert np.abs(made.bank_.sums - sums).max() <= 1e-6 * np.abs(sums).max()


def test_labels_as_words_and_as_matrices(scenes: LabelledImages, words: list[list[str]]) -> None:
    matrix = scenes.labels[:FEW]
    forms: list[Any] = [words[:FEW], [set(each) for each in words[:FEW]], matrix, matrix.toarray(), sparse.csc_matrix(matrix)]
    models = [annotator().fit(scenes.paths[:FEW], labels, vocabulary=scenes.vocabulary) for labels in forms]
    assert len({made.to_model_file().sha256 for made in models}) == 1
    assert models[0].bank_.counts.tolist() == matrix.sum(axis=0).tolist()
    assert annotator().fit(scenes.paths[:FEW], words[:FEW]).vocabulary == tuple(sorted(set().union(*words[:FEW])))


def test_parts_in_any_order_make_the_same_word_vectors(fitted: Annotator, scenes: LabelledImages, words: list[list[str]]) -> None:
    order = np.random.default_rng(3).permutation(len(scenes))
    parts = annotator()
    parts.encoder.transform_, parts.encoder.codebook_ = fitted.encoder.transform_, fitted.encoder.codebook_
    parts.words.restore(WordBank((), fitted.encoder.dimension))
    known: tuple[str, ...] = ()
    for start in range(0, len(order), 7):
        chosen = order[start : start + 7]
        parts.partial_fit([scenes.paths[i] for i in chosen], [words[i] for i in chosen])
        new = sorted(set().union(*(words[i] for i in chosen)) - set(known))
        known = (*known, *new)
        assert parts.vocabulary == known  # new words are appended
    column = [scenes.vocabulary.index(word) for word in parts.vocabulary]
    assert parts.bank_.counts.tolist() == fitted.bank_.counts[column].tolist() == scenes.labels.sum(axis=0)[column].tolist()
    error = np.abs(parts.bank_.sums - fitted.bank_.sums[column]).max()
    assert error <= 1e-6 * np.abs(fitted.bank_.sums).max()
    left, right = parts.annotate(scenes.paths), fitted.annotate(scenes.paths)
    assert np.mean([a == b for x, y in zip(left.words, right.words, strict=True) for a, b in zip(x, y, strict=True)]) > 0.99


def test_partial_fit_adds_words_and_keeps_the_rest(scenes: LabelledImages, words: list[list[str]]) -> None:
    made = annotator().partial_fit(scenes.paths[:12], words[:12])  # the first time it is fit
    vocabulary, matrix, centers = made.vocabulary, made.encoder.transform_.matrix_.copy(), made.encoder.codebook_.centers.copy()
    before = made.annotate(scenes.paths[:3], k=1)
    assert made.partial_fit([], []) is made and made.vocabulary == vocabulary
    made.partial_fit(scenes.paths[12:14], [["zebra", vocabulary[1]], ["aardvark"]])
    assert made.vocabulary == (*vocabulary, "aardvark", "zebra")
    assert np.array_equal(made.encoder.transform_.matrix_, matrix) and np.array_equal(made.encoder.codebook_.centers, centers)
    assert made.bank_.counts[-2:].tolist() == [1, 1]
    # The zebra is that one image, so it is what this image is nearest to; the words before it keep their numbers.
    assert (
        made.annotate([scenes.paths[12]], k=1).words == [("zebra",)]
        and made.annotate([scenes.paths[12]], k=1).distance[0, 0] < 1e-3
    )
    assert before.vocabulary == vocabulary and made.annotate(scenes.paths[:3], k=1).vocabulary[: len(vocabulary)] == vocabulary
    with pytest.raises(DataError, match="2 images but labels for 1"):
        made.partial_fit(scenes.paths[:2], [["sky"]])


def test_each_image_goes_through_the_trunk_once(scenes: LabelledImages, words: list[list[str]]) -> None:
    made = annotator(statistics_images=10, batch_size=4)
    seen = watch(made)
    made.fit(scenes.paths, words)
    pixels = {digest(trunk_input(path)): row for row, path in enumerate(scenes.paths)}
    assert sorted(seen) == sorted(pixels) and len(seen) == 24
    learnt_from = [pixels[each] for each in seen[:10]]
    assert learnt_from == sorted(learnt_from) != list(range(10))  # a sample of all images, not the first ones
    assert made.encoder.transform_.parts[0].count_ == 10 * PATCHES
    sample = annotator().fit([scenes.paths[i] for i in learnt_from], [words[i] for i in learnt_from])
    assert np.array_equal(made.encoder.transform_.matrix_, sample.encoder.transform_.matrix_)
    assert np.array_equal(made.encoder.codebook_.centers, sample.encoder.codebook_.centers)
    assert dict(zip(made.vocabulary, made.bank_.counts.tolist(), strict=True)) == {
        word: sum(word in each for each in words) for word in made.vocabulary
    }
    sample.words.restore(WordBank((), sample.encoder.dimension))
    sample.partial_fit(scenes.paths, words)
    assert sample.vocabulary == made.vocabulary
    assert np.abs(sample.bank_.sums - made.bank_.sums).max() <= 1e-6 * np.abs(made.bank_.sums).max()


def test_images_without_words_count_for_the_statistics_only(scenes: LabelledImages, words: list[list[str]]) -> None:
    some = annotator().fit(scenes.paths[:FEW], [*words[: FEW - 3], [], [], []])
    everything = annotator().fit(scenes.paths[:FEW], words[:FEW])
    assert np.array_equal(some.encoder.transform_.matrix_, everything.encoder.transform_.matrix_)
    assert np.array_equal(some.encoder.codebook_.centers, everything.encoder.codebook_.centers)
    assert some.encoder.transform_.parts[0].count_ == FEW * PATCHES
    assert some.bank_.counts.sum() == sum(map(len, words[: FEW - 3]))


def test_a_word_without_image_cannot_be_given(fitted: Annotator, scenes: LabelledImages, words: list[list[str]]) -> None:
    vocabulary = ["aardvark", *scenes.vocabulary, "zebra"]
    made = annotator().fit(scenes.paths, words, vocabulary=vocabulary)
    known = len(made.bank_.known)
    assert made.vocabulary == tuple(vocabulary) and known == len(fitted.bank_.known) == len(vocabulary) - 2
    result = made.annotate(scenes.paths, k=known)
    assert all(sorted(row) == sorted(scenes.vocabulary) for row in result.words)
    for k in (known + 1, 0, -1):
        with pytest.raises(ValueError, match=rf"k = {k} must lie in 1…{known}, .*; 2 words of the vocabulary have no image"):
            made.annotate(scenes.paths, k=k)
    with pytest.raises(ValueError, match=rf"k = {known + 1} must lie in 1…{known}, the number of words that can be given$"):
        fitted.stream(scenes.paths, k=known + 1)  # at the call, not at the first batch


@pytest.mark.parametrize("wrong", ["images", "labels", "none", "vocabulary", "string", "empty"])
def test_labels_that_do_not_fit(scenes: LabelledImages, words: list[list[str]], wrong: str) -> None:
    cases: dict[str, tuple[Any, Any, Any, str]] = {
        "images": (scenes.paths[:20], words, None, "20 images but labels for 24"),
        "labels": (scenes.paths, words[:-1], None, "24 images but labels for 23; .* in the same order"),
        "none": (scenes.paths, [[]] * 24, ["sky"], "no image carries a word"),
        "vocabulary": (scenes.paths, words, ["sky"], "words are not in the vocabulary"),
        "string": (scenes.paths, ["sky"] * 24, None, r"labels\[0\] is the string 'sky'; give a list"),
        "empty": ([], [], None, "no image carries a word"),
    }
    images, labels, vocabulary, complaint = cases[wrong]
    made = annotator()
    seen = watch(made)
    with pytest.raises(DataError, match=complaint):
        made.fit(images, labels, vocabulary=vocabulary)
    assert seen == []


def test_too_few_or_too_uniform_descriptors(scenes: LabelledImages, words: list[list[str]]) -> None:
    with pytest.raises(ValueError, match=rf"{PATCHES} .*{PATCHES + 1} centres; use fewer centres, or more"):
        annotator(n_centers=PATCHES + 1).fit(scenes.paths[:1], words[:1])
    black = [np.zeros((40, 40, 3), np.uint8)] * 6
    with pytest.raises(ValueError, match=r"only \d+ distinct values for 32 centres; use fewer centres, or more varied images"):
        annotator(n_centers=32).fit(black, [["night"]] * 6)
    with pytest.raises(ValueError, match=r"n_components = 65 is more than the \d+ of 64 channels that vary"):
        annotator(layer="conv1_1", n_components=65).fit(scenes.paths[:2], words[:2])


def test_a_failed_fit_never_leaves_a_mixture(scenes: LabelledImages, words: list[list[str]]) -> None:
    made = annotator(n_centers=32).fit(scenes.paths[:FEW], words[:FEW])
    before, model = made.annotate(scenes.paths), made.to_model_file().sha256
    with pytest.raises(DataError, match="not one of 6 images"):  # nothing was learnt: all is as it was
        made.fit([b"junk"] * 6, [["night"]] * 6)
    assert made.to_model_file().sha256 == model and same(made.annotate(scenes.paths), before)
    with pytest.raises(ValueError, match="distinct"):  # normalisation and PCA are new, the codebook is none
        made.fit([np.zeros((40, 40, 3), np.uint8)] * 6, [["night"]] * 6)
    with pytest.raises(NotFittedError, match="call fit"):
        made.annotate(scenes.paths)
    with pytest.raises(NotFittedError, match="call fit"):
        made.save("never.safetensors")
    made.partial_fit(scenes.paths[:FEW], words[:FEW])
    assert made.to_model_file().sha256 == model


def test_an_interrupted_partial_fit_ranks_by_what_it_has_learnt(
    scenes: LabelledImages, words: list[list[str]], tmp_path: Path
) -> None:
    made = annotator(batch_size=4).fit(scenes.paths[:FEW], words[:FEW], vocabulary=["aardvark", *scenes.vocabulary])
    made.annotate(scenes.paths[:2])
    passes: list[int] = []

    def stop_at_the_second(*_: Any) -> None:
        passes.append(1)
        if len(passes) == 2:
            raise KeyboardInterrupt

    hook = made.encoder.trunk.register_forward_hook(stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        made.partial_fit(scenes.paths[FEW:], [["aardvark"]] * (len(scenes) - FEW))
    hook.remove()
    assert made.bank_.counts[0] == 4
    again = Annotator.load(made.save(tmp_path / "m"), device="cpu")
    assert same(made.annotate(scenes.paths), again.annotate(scenes.paths))


@pytest.mark.parametrize("fails", [False, True])
def test_the_temporary_folder_is_removed(
    scenes: LabelledImages, words: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = annotator(n_centers=3000 if fails else 4, batch_size=4)
    during: list[int] = []
    made.encoder.trunk.register_forward_hook(lambda *_: during.append(len(list(tmp_path.iterdir()))))
    if fails:
        with pytest.raises(ValueError, match="3000 centres"):
            made.fit(scenes.paths, words)
    else:
        made.fit(scenes.paths, words)
    assert during == [1] * 6 and list(tmp_path.iterdir()) == []

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    made.encoder.trunk.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        made.fit(scenes.paths, words)
    assert list(tmp_path.iterdir()) == []


# ---- images that cannot be read


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")  # Pillow's
def test_bad_images_are_listed_and_good_ones_done(scenes: LabelledImages, words: list[list[str]], tmp_path: Path) -> None:
    hostile = write_hostile_images(tmp_path)
    mixed = [path for pair in zip(hostile.values(), [*scenes.paths, *scenes.paths], strict=False) for path in pair]
    labels = [[path.suffix or "none"] for path in mixed]
    readable = [path for path in mixed if path not in {hostile[name] for name in FAILS}]
    made = annotator(batch_size=4)
    with pytest.warns(UserWarning, match=rf"{len(FAILS)} of {len(mixed)} images could not be read .*see failures_\); the first: "):
        made.fit(mixed, labels)
    failed = {each.path: each for each in made.failures_}
    assert list(failed) == [str(hostile[name]) for name in FAILS]
    for name, (stage, reason) in FAILS.items():
        assert failed[str(hostile[name])].stage == stage and reason in failed[str(hostile[name])].reason
    assert made.bank_.counts.sum() == len(readable) == len(mixed) - len(FAILS)

    with pytest.warns(UserWarning, match=r"\(see failures\)"):
        result = made.annotate(mixed, k=2)
    assert result.names == tuple(map(str, readable)) and result.failures == tuple(made.failures_)
    assert [str(mixed[position]) for position in result.positions] == list(result.names)
    assert len(result) + len(result.failures) == len(mixed)
    alone = made.annotate(readable, k=2)
    assert np.abs(alone.distance - result.distance).max() <= 1e-5 * result.distance.max()
    with pytest.warns(UserWarning, match="images could not be read"):
        positions, _ = made.encoder.encode(mixed)
    assert positions.tolist() == result.positions.tolist()
    with pytest.warns(UserWarning, match="1 of 2 images could not be read"):
        made.partial_fit([hostile["zero bytes"], hostile["bmp"]], [["never"], ["bitmap"]])
    assert made.vocabulary[-2:] == ("bitmap", "never") and made.bank_.counts[-2:].tolist() == [1, 0]
    made.partial_fit([hostile["bmp"]], [["bitmap"]])
    assert made.failures_ == []


def test_good_images_are_enough_whichever_were_sampled(scenes: LabelledImages, words: list[list[str]]) -> None:
    images: list[Any] = [*scenes.paths[:8], b"", b"junk"]
    with pytest.warns(UserWarning, match="2 of 10 images"):
        made = annotator(statistics_images=6).fit(images, [*words[:8], ["x"], ["y"]], vocabulary=[*scenes.vocabulary, "x", "y"])
    assert [each.path for each in sorted(made.failures_, key=lambda each: each.path)] == ["image 8", "image 9"]
    assert made.bank_.counts[-2:].tolist() == [0, 0]
    assert made.bank_.counts.sum() == sum(map(len, words[:8]))


def test_not_one_readable_image(fitted: Annotator, tmp_path: Path) -> None:
    bad = list(write_hostile_images(tmp_path, FAILS).values())
    made = annotator()
    with pytest.raises(DataError, match=rf"not one of {len(bad)} images could be read; the first: {bad[0]}: truncated"):
        made.fit(bad, [["x"]] * len(bad))
    with pytest.raises(NotFittedError):
        made.annotate(bad)
    with pytest.raises(DataError, match=f"not one of {len(bad)} images"):
        made.partial_fit(bad, [["x"]] * len(bad))
    with pytest.warns(UserWarning, match=rf"{len(bad)} of {len(bad)} images could not be read and were left out \(see failures\);"):
        result = fitted.annotate(bad)
    assert len(result) == 0 and result.index.shape == (0, 5) and len(result.failures) == len(bad)
    [part] = fitted.stream(bad)
    assert same(part, result)


# ---- forms of images


def test_stream_gives_what_annotate_gives(scenes: LabelledImages, words: list[list[str]]) -> None:
    made = annotator(batch_size=5).fit(scenes.paths, words)
    images: list[Any] = [b"", *scenes.paths[:11], b"", b"", b"", b"", b"", b""]  # the third batch of five is a lost one
    with pytest.warns(UserWarning, match="7 of 18 images could not be read"):
        whole = made.annotate(images, k=3)
    parts = list(made.stream(images, k=3))
    assert [len(part) for part in parts] == [4, 5, 2, 0]
    assert [len(part.failures) for part in parts] == [1, 0, 3, 3]
    joined = Annotations(
        tuple(name for part in parts for name in part.names),
        *(np.concatenate([getattr(part, field) for part in parts]) for field in ("positions", "index", "distance")),
        whole.vocabulary,
        tuple(failure for part in parts for failure in part.failures),
    )
    assert same(joined, whole)
    assert whole.index.dtype == whole.positions.dtype == np.int64 and whole.distance.dtype == np.float32
    assert (np.diff(whole.distance, axis=1) >= 0).all()
    first = next(made.stream(images, k=3))
    assert same(first, parts[0])


def test_annotate_tensor_gives_what_annotate_gives(fitted: Annotator, scenes: LabelledImages) -> None:
    batch = torch.from_numpy(np.stack([trunk_input(path) for path in scenes.paths]))
    result = fitted.annotate(scenes.paths, k=4)
    index, distance = fitted.annotate_tensor(batch, k=4)
    assert index.dtype == torch.int64 and distance.dtype == torch.float32
    assert np.array_equal(index, result.index) and np.array_equal(distance, result.distance)
    assert np.array_equal(fitted.encode_tensor(batch), fitted.encoder.encode(scenes.paths)[1])
    flipped, _ = fitted.annotate_tensor(batch.flip(0).contiguous(memory_format=torch.channels_last), k=4)
    assert torch.equal(flipped.flip(0), index)
    empty, none = fitted.annotate_tensor(batch[:0], k=4)
    assert empty.shape == none.shape == (0, 4)


@pytest.mark.parametrize(
    ("images", "error", "complaint"),
    [
        (torch.zeros(2, 3, SIZE, SIZE), TypeError, r"must be a torch\.uint8 tensor .*float32"),
        (np.zeros((2, 3, SIZE, SIZE), np.uint8), TypeError, "ndarray"),
        (torch.zeros(2, 3, 24, 40, dtype=torch.uint8), ValueError, "images are 24×40, .* made for 32×32; resize them first"),
        (torch.zeros(3, SIZE, SIZE, dtype=torch.uint8), ValueError, r"\(B, 3, H, W\), got \(3, 32, 32\)"),
        (torch.zeros(2, 4, SIZE, SIZE, dtype=torch.uint8), ValueError, r"\(B, 3, H, W\), got \(2, 4, 32, 32\)"),
    ],
)
def test_wrong_tensors(fitted: Annotator, images: Any, error: type[Exception], complaint: str) -> None:
    for method in (fitted.annotate_tensor, fitted.encode_tensor):
        with pytest.raises(error, match=complaint):
            method(images)
    with pytest.raises(ValueError, match="k = 99"):
        fitted.annotate_tensor(torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8), k=99)


def forms(path: Path) -> list[tuple[Any, str | None]]:
    """One image in every form, with the name that annotations give it (None: its number)."""
    pixels = decode_image(path)
    return [
        (str(path), str(path)),
        (path, str(path)),
        (path.read_bytes(), None),
        (Image.fromarray(pixels), None),
        (Image.open(io.BytesIO(path.read_bytes())), None),
        (pixels, None),
        (torch.from_numpy(pixels).permute(2, 0, 1), None),
    ]


def test_every_form_of_image_gives_the_same_words(fitted: Annotator, scenes: LabelledImages) -> None:
    mixed = [form for path in scenes.paths[:3] for form in forms(path)]
    result = fitted.annotate([source for source, _ in mixed])
    assert result.names == tuple(name or f"image {number}" for number, (_, name) in enumerate(mixed))
    expected = fitted.annotate(scenes.paths[:3])
    kinds = len(mixed) // 3
    assert np.array_equal(result.index, expected.index.repeat(kinds, axis=0))
    assert np.abs(result.distance - expected.distance.repeat(kinds, axis=0)).max() <= 1e-5 * expected.distance.max()


def test_one_array_tensor_folder_or_file(fitted: Annotator, scenes: LabelledImages, drawn_scenes: Path) -> None:
    expected = fitted.annotate(list(scenes.paths))
    array = np.stack([decode_image(path) for path in scenes.paths])
    several: list[Any] = [
        array,
        torch.from_numpy(array).permute(0, 3, 1, 2),
        iter(scenes.paths),
        np.array(list(map(str, scenes.paths))),
    ]
    for images in several:
        result = fitted.annotate(images)
        assert np.array_equal(result.index, expected.index) and np.array_equal(result.distance, expected.distance)
    for folder in (str(drawn_scenes), drawn_scenes / "images"):
        assert same(fitted.annotate(folder), expected)
    one = fitted.annotate(str(scenes.paths[3]))
    assert one.names == (str(scenes.paths[3]),) and np.array_equal(one.index, expected.index[3:4])
    with pytest.raises(DataError, match=r"nowhere\.jpg': no such file or folder"):
        fitted.annotate("nowhere.jpg")


def test_one_image_where_several_may_be(fitted: Annotator, scenes: LabelledImages) -> None:
    """Annotated, explained, learnt from: as the only one of a list. A grey picture of 3 × W pixels is one too."""
    path = scenes.paths[0]
    for image, _ in forms(path):
        assert same(fitted.annotate(image), fitted.annotate([image])) and len(fitted.annotate(image)) == 1
        assert [same(part, fitted.annotate(image)) for part in fitted.stream(image)] == [True]
        assert fitted.explain(image, k=2)[0].words == fitted.annotate(path, k=2).words[0]
    grey = np.arange(60, dtype=np.uint8).reshape(20, 3)
    assert same(fitted.annotate(grey), fitted.annotate([grey])) and len(fitted.annotate(grey)) == 1
    taught = annotator().fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary)
    taught.partial_fit(Image.open(path), [["new"]])
    assert taught.add_word("newer", path.read_bytes()).bank_.counts[-2:].tolist() == [1, 1]


@pytest.mark.parametrize("image", [np.zeros((48, 64, 5), np.uint8), torch.zeros(5, 48, 64, dtype=torch.uint8), 7])
def test_what_is_no_image_is_refused(fitted: Annotator, image: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        fitted.annotate(image)


def test_what_annotate_cannot_read_is_warned_of(fitted: Annotator, scenes: LabelledImages) -> None:
    floats = np.stack([decode_image(path) for path in scenes.paths[:2]]) / 255
    for images in (floats, list(floats), torch.from_numpy(floats).permute(0, 3, 1, 2), floats.astype(np.float32)):
        with pytest.warns(UserWarning, match=r"2 of 2 images .* of float(32|64); multiply values of 0…1 by 255, round"):
            assert len(fitted.annotate(images)) == 0
    with pytest.warns(UserWarning, match=r"1 of 1 image could not be read .*; the first: image 0: expected an array"):
        fitted.annotate(floats[0])
    with pytest.warns(UserWarning, match=r"1 of 2 images could not be read .*; the first: gone.jpg: no such file"):
        found = fitted.annotate([scenes.paths[0], "gone.jpg"])
    assert len(found) == len(found.failures) == 1


def test_no_images(fitted: Annotator) -> None:
    result = fitted.annotate([])
    assert len(result) == 0 and result.words == [] and result.index.shape == result.distance.shape == (0, 5)
    assert list(fitted.stream([])) == []
    positions, vectors = fitted.encoder.encode([])
    assert positions.shape == (0,) and vectors.shape == (0, fitted.encoder.dimension)


def test_images_of_a_lazy_sequence_are_loaded_in_turn(fitted: Annotator, scenes: LabelledImages) -> None:
    class Lazy(Sequence[np.ndarray]):
        loaded = 0

        def __len__(self) -> int:
            return 1000

        def __getitem__(self, number: Any) -> Any:
            self.loaded += 1
            return decode_image(scenes.paths[number % 24])

    images = Lazy()
    first = next(fitted.stream(images))
    assert len(first) == 32 and images.loaded <= 6 * 32
    assert np.array_equal(first.index[:24], fitted.annotate(scenes.paths).index)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))], ids=["deepcopy", "pickle"])
def test_copies_of_one_that_was_used(copied: Callable[[Annotator], Annotator], scenes: LabelledImages) -> None:
    made = annotator(head="ridge", calibration="odds").fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary)
    expected = made.annotate(scenes.paths[:5], k=3)
    other = copied(made)
    found = other.annotate(scenes.paths[:5], k=3)
    assert found.words == expected.words and np.array_equal(found.distance, expected.distance)
    assert other.to_model_file().sha256 == made.to_model_file().sha256
    other.remove_words([other.vocabulary[0]])
    assert made.vocabulary == scenes.vocabulary


def test_clones(scenes: LabelledImages) -> None:
    """By scikit-learn or by itself, fitted, loaded or neither: the same settings, nothing learnt, and then the same model."""
    made = annotator(head="ridge", regularisation=0.5, seed=3)
    assert Annotator(**made.get_params()).config == made.config and made.get_params()["device"] == "cpu"
    made.fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary)
    for other in (made.clone(), sklearn.base.clone(made), sklearn.base.clone(Annotator.of(made.words))):
        assert other.config == made.config and other.device == made.device
        with pytest.raises(NotFittedError):
            other.annotate(scenes.paths[0])
    again = made.clone().fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary)
    assert again.to_model_file().sha256 == made.to_model_file().sha256


# ---- before fit, and devices


BATCH = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)
CALLS: dict[str, Callable[[Annotator], Any]] = {
    "annotate": lambda made: made.annotate([]),
    "stream": lambda made: made.stream([]),
    "annotate_tensor": lambda made: made.annotate_tensor(BATCH),
    "encode": lambda made: made.encoder.encode([]),
    "encode_tensor": lambda made: made.encode_tensor(BATCH),
    "vocabulary": lambda made: made.vocabulary,
    "check_k": lambda made: made.words.check_k(1),
    "to_model_file": lambda made: made.to_model_file(),
}


@pytest.mark.parametrize("name", CALLS)
def test_nothing_works_before_fit(name: str) -> None:
    with pytest.raises(NotFittedError, match="nothing has been learnt yet; call fit"):
        CALLS[name](annotator())


def test_devices() -> None:
    for device in ("tpu", "", "gpu"):
        with pytest.raises(DeviceError, match=rf"device '{device}' is unknown"):
            Annotator(device=device)
    if not torch.cuda.is_available():
        for name in ("cuda", "cuda:1", torch.device("cuda")):
            with pytest.raises(DeviceError, match="cuda"):
                Annotator(device=name)
        assert Annotator().device == Annotator(device="cpu").device == torch.device("cpu")


def test_settings() -> None:
    told = AnnotatorConfig(trunk_dtype="float32")
    assert Annotator(told, n_centers=32, metric="cosine").config == told.changed(n_centers=32, metric="cosine")
    assert Annotator(told.changed(seed=3), n_centers=32).config == told.changed(seed=3, n_centers=32)
    assert Annotator(trunk_dtype="float32").config == AnnotatorConfig.preset("paper", trunk_dtype="float32")
    with pytest.raises(TypeError, match="n_centres"):
        Annotator(n_centres=32)
    with pytest.raises(ValueError, match="n_centers must be a whole number"):
        Annotator(n_centers=0)
    with pytest.raises(ValueError, match="conv9_9"):
        Annotator(layer="conv9_9").fit([np.zeros((9, 9, 3), np.uint8)], [["x"]])
    with pytest.raises(ValueError, match="too small: conv5_2 needs 16×16"):
        Annotator(input_size=8, device="cpu").fit([np.zeros((9, 9, 3), np.uint8)], [["x"]])
