"""Folders of images, one for each word."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from gpuannot.datasets.label_files import LabelledImages, load_labelled_images
from gpuannot.errors import DataError


def pictures(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)


def words_of(images: LabelledImages) -> dict[str, set[str]]:
    rows = (images.labels[[row]].indices for row in range(len(images)))
    return {name: {images.vocabulary[word] for word in row} for name, row in zip(images.image_names, rows, strict=True)}


def test_the_name_of_a_subfolder_is_the_word_of_its_images(tmp_path: Path) -> None:
    pictures(tmp_path, "sea/1.png", "sea/2.PNG", "Żaba [x]/1.png", "sky/far/away/1.png", "loose.png", ".hidden/1.png")
    (tmp_path / "sea" / "notes.txt").write_text("no image")
    images = load_labelled_images(tmp_path)
    assert words_of(images) == {
        "sea/1.png": {"sea"},
        "sea/2.PNG": {"sea"},
        "sky/far/away/1.png": {"sky"},
        "Żaba [x]/1.png": {"Żaba [x]"},
    }
    assert images.vocabulary == ("sea", "sky", "Żaba [x]") and images.labels.data.tolist() == [1] * 4
    assert images.paths == tuple(tmp_path / name for name in images.image_names) and all(path.is_file() for path in images.paths)
    assert images.missing == () and images.unlabelled == 1 and images.subfolders


def test_an_empty_subfolder_is_a_word_without_images(tmp_path: Path) -> None:
    pictures(tmp_path, "sea/1.png", "sky/1.png")
    (tmp_path / "dog").mkdir()
    images = load_labelled_images(tmp_path)
    assert images.vocabulary == ("dog", "sea", "sky") and images.labels.sum(axis=0).tolist() == [0, 1, 1] and not images.missing


def test_links_give_an_image_several_words(tmp_path: Path) -> None:
    pictures(tmp_path, "sea/1.png", "sky/2.png")
    (tmp_path / "sky" / "sea too.png").symlink_to(tmp_path / "sea" / "1.png")
    (tmp_path / "sky" / "nowhere.png").symlink_to(tmp_path / "gone.png")
    images = load_labelled_images(tmp_path)
    # A link that leads nowhere is left to decoding, which reports it with the other unreadable images.
    assert words_of(images) == {"sea/1.png": {"sea", "sky"}, "sky/2.png": {"sky"}, "sky/nowhere.png": {"sky"}}


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root lists folders of any permission")
def test_a_subfolder_that_cannot_be_listed_is_a_failure(tmp_path: Path) -> None:
    pictures(tmp_path, "sea/1.png", "sky/1.png", "tree/1.png")
    (tmp_path / "tree").chmod(0)
    images = load_labelled_images(tmp_path)
    assert len(images) == 2 and [failure.path for failure in images.missing] == [str(tmp_path / "tree")]


def test_a_label_file_comes_first(tmp_path: Path) -> None:
    pictures(tmp_path, "sea/1.png", "sky/1.png")
    (tmp_path / "labels.csv").write_text("image,words\nsea/1.png,water\n")
    assert words_of(load_labelled_images(tmp_path)) == {"sea/1.png": {"water"}}


def test_folders_that_are_no_words(tmp_path: Path) -> None:
    pictures(tmp_path, "train/sea/1.png", "train/sky/1.png", "Test/sea/1.png", "Test/sky/1.png")
    with pytest.raises(DataError, match=rf"holds Test and train, which are splits .*name one of them: {tmp_path}/Test"):
        load_labelled_images(tmp_path)
    assert load_labelled_images(tmp_path / "train").vocabulary == ("sea", "sky")


def test_a_subfolder_with_a_label_file_is_no_word(tmp_path: Path) -> None:
    pictures(tmp_path, "photos/1.png", "holiday/1.png")
    (tmp_path / "photos" / "labels.csv").write_text("image,words\n1.png,sea\n")
    with pytest.raises(DataError, match=rf"but its subfolder photos does; name that: {tmp_path}/photos"):
        load_labelled_images(tmp_path)


def test_one_subfolder_is_not_a_vocabulary(tmp_path: Path) -> None:
    pictures(tmp_path, "images/1.png", "images/2.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no labels\.json or labels\.csv, no two subfolders .*; name the label file$"):
        load_labelled_images(tmp_path)
    (tmp_path / "tags.csv").write_text("image,words\n1.png,sea\n")
    with pytest.raises(DataError, match=rf"; if tags\.csv is the label file, name it: {tmp_path}/tags\.csv$"):
        load_labelled_images(tmp_path)


def test_files_that_are_no_images_by_their_names_are_counted(tmp_path: Path) -> None:
    for name in ("cat/a.jpg", "dog/b.jpg", "dog/c.xyz", "dog/deep/d.XYZ", "cat/notes"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert load_labelled_images(tmp_path).left_out == {".xyz": 2, "": 1}
