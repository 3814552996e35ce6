"""Drawn scenes: the same seed gives the same files, the labels fit the files, and every word given to a picture shows in it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpuannot.datasets import scenes
from gpuannot.datasets.scenes import WORDS, draw_scene, write_scenes
from gpuannot.errors import DataError

COUNT = 400
SIZE = (256, 192)


@pytest.fixture(scope="module")
def drawn() -> list[tuple[np.ndarray, tuple[str, ...]]]:
    return [(np.asarray(picture), words) for picture, words in map(draw_scene, range(COUNT))]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "images").iterdir())}


def test_vocabulary_is_sorted_and_without_repeats() -> None:
    assert list(WORDS) == sorted(set(WORDS))
    assert len(WORDS) >= 16


def test_same_seed_same_picture_and_words() -> None:
    for seed in range(20):
        (first, first_words), (again, again_words) = draw_scene(seed), draw_scene(seed)
        assert first.tobytes() == again.tobytes()
        assert first_words == again_words


def test_numpy_global_state_has_no_part() -> None:
    np.random.seed(1)
    first = draw_scene(3)[0].tobytes()
    np.random.seed(2)
    assert draw_scene(3)[0].tobytes() == first


def test_seeds_differ(drawn: list[tuple[np.ndarray, tuple[str, ...]]]) -> None:
    assert len({picture.tobytes() for picture, _ in drawn}) == COUNT
    assert len({words for _, words in drawn}) > COUNT / 5


def test_words_of_a_scene(drawn: list[tuple[np.ndarray, tuple[str, ...]]]) -> None:
    for _, words in drawn:
        assert len(words) >= 2
        assert list(words) == sorted(set(words))
        assert set(words) <= set(WORDS)


def test_word_frequencies_are_uneven_and_none_is_absent(drawn: list[tuple[np.ndarray, tuple[str, ...]]]) -> None:
    share = {word: sum(word in words for _, words in drawn) / COUNT for word in WORDS}
    assert min(share.values()) > 0.02, share
    assert max(share.values()) > 0.6, share
    assert sum(value < 0.1 for value in share.values()) >= 3, share


@pytest.mark.parametrize("word", WORDS)
def test_a_word_shows_in_its_pictures(word: str, drawn: list[tuple[np.ndarray, tuple[str, ...]]]) -> None:
    # Leaving out the word's layer, and nothing else, must change the pixels that it shows in. A change of 20 of 255 in some channel
    # is one that an eye notices; the smallest things, a flock of birds, take one pixel in 500.
    seeds = [seed for seed, (_, words) in enumerate(drawn) if word in words][:15]
    assert seeds
    for seed in seeds:
        picture = drawn[seed][0].astype(int)
        without = np.asarray(scenes._draw(seed, SIZE, without=word)[0]).astype(int)
        area = (np.abs(picture - without).max(axis=2) > 20).mean()
        assert area > 0.002, f"{word} covers {area:.3%} of scene {seed}"


def test_a_word_not_given_has_no_layer(drawn: list[tuple[np.ndarray, tuple[str, ...]]]) -> None:
    for seed, word in enumerate(WORDS):
        picture, words = drawn[seed]
        if word not in words:
            assert np.array_equal(np.asarray(scenes._draw(seed, SIZE, without=word)[0]), picture)


@pytest.mark.parametrize("size", [(256, 192), (97, 61), (61, 97), (32, 32), (33, 200), (224, 224), (501, 333)])
def test_sizes_are_kept(size: tuple[int, int]) -> None:
    for seed in range(12):
        picture, words = draw_scene(seed, size)
        assert picture.size == size
        assert picture.mode == "RGB"
        assert words == draw_scene(seed)[1]
        assert np.asarray(picture).std() > 5


def test_label_file_names_the_files(tmp_path: Path) -> None:
    labels = write_scenes(tmp_path / "new" / "set", 12, seed=5, size=(97, 61))
    assert labels == tmp_path / "new" / "set" / "labels.json"
    table = json.loads(labels.read_text(encoding="utf-8"))
    assert table["labels"] == list(WORDS)
    names = [sample["image_name"] for sample in table["samples"]]
    assert names == [f"scene_{index:05d}.jpg" for index in range(12)]
    assert sorted(path.name for path in (labels.parent / "images").iterdir()) == names
    assert sorted(path.name for path in labels.parent.iterdir()) == ["images", "labels.json"]
    for index, sample in enumerate(table["samples"]):
        drawn, words = scenes._draw((5, index), (97, 61))
        assert sample["image_labels"] == list(words)
        with Image.open(labels.parent / "images" / sample["image_name"]) as picture:
            assert picture.format == "JPEG"
            assert picture.size == (97, 61)
            loss = np.abs(np.asarray(picture).astype(float) - np.asarray(drawn)).mean()
        assert loss < 8


def test_a_shorter_set_is_the_start_of_a_longer_one(tmp_path: Path) -> None:
    short = write_scenes(tmp_path / "short", 5, seed=9, size=(96, 72))
    long = write_scenes(tmp_path / "long", 20, seed=9, size=(96, 72))
    few, many = files(short.parent), files(long.parent)
    assert few.items() <= many.items()
    assert json.loads(short.read_text())["samples"] == json.loads(long.read_text())["samples"][:5]
    other = write_scenes(tmp_path / "other", 5, seed=10, size=(96, 72))
    assert not set(files(other.parent).values()) & set(many.values())


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    first, again = (write_scenes(tmp_path / name, 6, seed=2, size=(96, 72)) for name in ("first", "again"))
    assert files(first.parent) == files(again.parent)
    assert first.read_bytes() == again.read_bytes()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    labels = write_scenes(tmp_path, 2, size=(48, 48))
    before = files(tmp_path)
    with pytest.raises(DataError, match=r"already holds images.*remove"):
        write_scenes(tmp_path, 2, seed=1, size=(48, 48))
    assert files(tmp_path) == before
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "labels.json").write_bytes(labels.read_bytes())
    with pytest.raises(DataError, match=r"already holds labels\.json"):
        write_scenes(tmp_path / "labels", 2, size=(48, 48))
    assert not (tmp_path / "labels" / "images").exists()


@pytest.mark.parametrize(("seed", "count", "size"), [(-1, 2, (64, 64)), (0, 0, (64, 64)), (0, 2, (64, 31)), (0, 2, (0, 64))])
def test_wrong_arguments_leave_no_folder(tmp_path: Path, seed: int, count: int, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="got"):
        write_scenes(tmp_path / "set", count, seed=seed, size=size)
    assert not (tmp_path / "set").exists()


def test_progress_goes_to_the_error_stream(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    write_scenes(tmp_path / "quiet", 2, size=(48, 48))
    assert capsys.readouterr() == ("", "")
    write_scenes(tmp_path / "shown", 2, size=(48, 48), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "2/2" in err
