"""Label files and benchmarks: what is read is what was written, and a file that is wrong says where and why."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gpuannot.datasets.label_files import (
    BENCHMARKS,
    LabelledImages,
    find_label_file,
    load_benchmark,
    load_labelled_images,
    named_images,
)
from gpuannot.errors import DataError

BYTE_ORDER_MARK = "\ufeff"


def pictures(folder: Path, *names: str) -> Path:
    """Small images of those names in ``folder``."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / name, "PNG")
    return folder


def json_labels(path: Path, samples: list[tuple[Any, Any]], **more: Any) -> Path:
    entries = [{"image_name": name, "image_labels": words} for name, words in samples]
    path.write_text(json.dumps({"samples": entries, **more}, ensure_ascii=False), encoding="utf-8")
    return path


def words_of(images: LabelledImages) -> dict[str, set[str]]:
    assert images.labels.shape == (len(images), len(images.vocabulary)) == (len(images.paths), len(images.vocabulary))
    return {name: {images.vocabulary[word] for word in images.labels[[row]].indices} for row, name in enumerate(images.image_names)}


# ---- the field's benchmarks


def labels_of(shared: Path, name: str) -> Path:
    folder = shared / "data" / name
    if not (folder / "train.json").is_file():
        pytest.skip(f"{folder} is missing; set GPUANNOT_SHARED to the folder that holds it")
    return folder


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_labels(name: str, shared: Path) -> None:
    folder = labels_of(shared, name)
    splits = load_benchmark(name, folder, images=False)
    vocabulary = (folder / "vocabulary.txt").read_text().split("\n")[: BENCHMARKS[name][2]]
    without = []
    for images, split in zip(splits, ("train", "test"), strict=True):
        samples = json.loads((folder / f"{split}.json").read_text())["samples"]
        assert images.name == f"{name}/{split}" and images.vocabulary == tuple(vocabulary)
        assert list(images.image_names) == [sample["image_name"] for sample in samples]
        assert list(images.paths) == [folder / "images" / sample["image_name"] for sample in samples]
        assert list(words_of(images).values()) == [set(sample["image_labels"]) for sample in samples]
        assert images.labels.nnz == sum(len(set(sample["image_labels"])) for sample in samples)
        without.append(int((images.labels.sum(axis=1) == 0).sum()))
    assert (len(splits[0]), len(splits[1])) == BENCHMARKS[name][:2]
    assert without == {"corel5k": [7, 0], "iaprtc12": [0, 0], "espgame": [2, 0]}[name]


def test_corel5k_sizes_and_word_frequencies(corel5k: Path) -> None:
    train, test = load_benchmark("corel5k", corel5k)
    assert (len(train), len(test), len(train.vocabulary)) == (4500, 499, 260)
    frequency = train.labels.sum(axis=0)
    assert (frequency.min(), frequency.max()) == (1, 1004)
    assert test.labels.sum(axis=0).min() >= 1
    assert all(path.is_file() for path in (*train.paths, *test.paths)) and not set(train.paths) & set(test.paths)


@pytest.mark.parametrize("name", ["iaprtc12", "espgame"])
def test_benchmark_whose_images_are_not_there(name: str, shared: Path) -> None:
    folder = labels_of(shared, name)
    if (folder / "images").is_dir():
        pytest.skip(f"{folder} holds its images")
    count = BENCHMARKS[name][0]
    with pytest.raises(DataError, match=rf"{count} of the {count} train images of {name} are not in {folder}/images .*put"):
        load_benchmark(name, folder)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the benchmarks' layout that passes for Corel5k: 2 + 1 images, 3 words."""
    monkeypatch.setitem(BENCHMARKS, "corel5k", (2, 1, 3))
    pictures(tmp_path / "images", "a.png", "b.png", "c.png")
    json_labels(tmp_path / "train.json", [("b.png", ["sky"]), ("a.png", [])], labels=["sea", "sky", "tree"])
    json_labels(tmp_path / "test.json", [("c.png", ["tree", "sky"])], labels=["sea", "sky", "tree"])
    (tmp_path / "vocabulary.txt").write_text("tree\nsky\n\nsea\n")
    return tmp_path


def test_vocabulary_file_gives_the_word_order(tiny: Path) -> None:
    train, test = load_benchmark("corel5k", tiny)
    assert train.vocabulary == test.vocabulary == ("tree", "sky", "sea")
    assert train.labels.toarray().tolist() == [[0, 1, 0], [0, 0, 0]] and test.labels.toarray().tolist() == [[1, 1, 0]]
    assert train.image_names == ("b.png", "a.png") and train.missing == () and train.unlabelled == 0


def test_wrong_benchmarks(tiny: Path) -> None:
    with pytest.raises(DataError, match=r"'coco' is unknown; choose one of corel5k, iaprtc12, espgame"):
        load_benchmark("coco", tiny)
    with pytest.raises(DataError, match=r"nowhere: no such folder; it should hold train\.json"):
        load_benchmark("corel5k", tiny / "nowhere")
    with pytest.raises(
        DataError, match=r"holds 2 training images, 1 test images and 3 words; the espgame split .* 18689, 2081 and 268"
    ):
        load_benchmark("espgame", tiny)
    (tiny / "images" / "c.png").unlink()
    with pytest.raises(DataError, match=r"1 of the 1 test images .*first: c\.png"):
        load_benchmark("corel5k", tiny)
    assert len(load_benchmark("corel5k", tiny, images=False)[1]) == 1
    json_labels(tiny / "test.json", [("c.png", ["cloud"])])
    with pytest.raises(DataError, match=r"test\.json: 1 word is not in the vocabulary: 'cloud'"):
        load_benchmark("corel5k", tiny, images=False)
    (tiny / "test.json").unlink()
    with pytest.raises(DataError, match=r"test\.json: No such file"):
        load_benchmark("corel5k", tiny)
    (tiny / "vocabulary.txt").write_text("\n \n")
    with pytest.raises(DataError, match=r"vocabulary\.txt holds no word"):
        load_benchmark("corel5k", tiny)
    (tiny / "vocabulary.txt").write_text("sky\nsea\nsky\n")
    with pytest.raises(DataError, match=r"train\.json: the vocabulary holds 'sky' twice"):
        load_benchmark("corel5k", tiny)


# ---- a folder or file of one's own


def test_drawn_scenes_as_folder_and_as_file(drawn_scenes: Path) -> None:
    folder, file = load_labelled_images(drawn_scenes), load_labelled_images(str(drawn_scenes / "labels.json"))
    written = json.loads((drawn_scenes / "labels.json").read_text())
    assert words_of(folder) == words_of(file) == {each["image_name"]: set(each["image_labels"]) for each in written["samples"]}
    assert list(folder.vocabulary) == written["labels"] and folder.name == "labels"
    assert folder.paths == file.paths and all(path.parent == drawn_scenes / "images" for path in folder.paths)
    assert folder.missing == () and folder.unlabelled == 0


NAMES = ("plain.png", "sub/folder/deep.png", "żółw nad rzeką 海.png", "with, comma.png", 'quo"te.png', "[red].png", "new\nline.png")
WORDS = [["sky", "sea"], ["sky"], ["żółw", "tall tree"], [], ["a, b"], ['"so"', "[bold]"], ["sea"]]


@pytest.mark.parametrize("place", [".", "images"])
def test_names_of_every_kind_in_json(tmp_path: Path, place: str) -> None:
    pictures(tmp_path / place, *NAMES)
    json_labels(tmp_path / "any name.json", list(zip(NAMES, WORDS, strict=True)))
    images = load_labelled_images(tmp_path / "any name.json")
    assert words_of(images) == {name: set(words) for name, words in zip(NAMES, WORDS, strict=True)}
    assert images.paths == tuple(tmp_path / place / name for name in NAMES)
    assert images.vocabulary == tuple(sorted(set().union(*WORDS))) and images.name == "any name"


@pytest.mark.parametrize("start", ["", BYTE_ORDER_MARK])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_names_of_every_kind_in_csv(tmp_path: Path, start: str, end: str, quoting: int) -> None:
    pictures(tmp_path, *NAMES)
    with open(tmp_path / "labels.csv", "w", encoding="utf-8", newline="") as file:
        file.write(start)
        writer = csv.writer(file, lineterminator=end, quoting=quoting)  # type: ignore[arg-type]
        writer.writerow(["image", "words"])
        writer.writerows((name, " ; ".join(words)) for name, words in zip(NAMES, WORDS, strict=True))
    images = load_labelled_images(tmp_path)
    assert words_of(images) == {name: set(words) for name, words in zip(NAMES, WORDS, strict=True)}


@pytest.mark.parametrize(
    "text",
    [
        "image,words\na.png,sky;sea\nb.png,\n",
        "image,words\na.png,sky\nb.png,\na.png,sea\na.png,sky\n",  # several rows an image
        "words,image\nsky; sea ;;sky,a.png\n ;,b.png\n",
        "Filename , id, LABELS \na.png,7,sky;sea\nb.png,8,\n",
        "path,tag,tags\na.png,x,sky;sea\nb.png,y,\n\n\n",
        '"image_name","word"\r\n"a.png","sky"\r\n"a.png","sea"\r\n"b.png",""',
        'image;words\na.png;"sky;sea"\nb.png;\n',  # a spreadsheet's, where the comma is the decimal sign
        "image;words\r\na.png;sky, sea\r\nb.png;\r\n",
        "image\twords\na.png\tsky;sea\nb.png\t\n",
    ],
)
def test_csv_variants(tmp_path: Path, text: str) -> None:
    pictures(tmp_path, "a.png", "b.png")
    (tmp_path / "labels.csv").write_bytes(text.encode())
    images = load_labelled_images(tmp_path)
    assert words_of(images) == {"a.png": {"sky", "sea"}, "b.png": set()}
    assert images.labels.data.tolist() == [1, 1] and images.vocabulary == ("sea", "sky")


def test_tab_separated_by_its_suffix_too(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    (tmp_path / "tags.TSV").write_text("image\twords\na.png\tsky;sea, deep\n")
    assert words_of(load_labelled_images(tmp_path / "tags.TSV")) == {"a.png": {"sky", "sea, deep"}}


def test_words_with_commas_between_are_warned_of(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    (tmp_path / "labels.csv").write_text('image,words\na.png,"sky, sea"\nb.png,"sun, tree"\n')
    with pytest.warns(UserWarning, match=r"labels\.csv: 'sky, sea' was taken as one word, and 1 more like it; .* with ';'"):
        images = load_labelled_images(tmp_path)
    assert images.vocabulary == ("sky, sea", "sun, tree")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"", "it is empty; expected a column of image names"),
        (b"\n\n", "it is empty"),
        (b"image,words\n", "names no image"),
        (b"a.png,sky\n", r"its header is a\.png, sky; expected"),
        (
            b"image,colour\na.png,red\n",
            r"its header is image, colour; .* one of words, called words, labels, .* or else one of 0 and 1 for each",
        ),
        (b"id,words\n1,red\n", r"its header is id, words; expected a column of image names, called image, path, file_name or"),
        (b'image,words\n"a.png,sky\n', r"line 2: a quote \(\"\) is opened and not closed"),
        (b'image,words\n"a".png,sky\n', r"line 2: '\"a\"\.png' has text behind a closing quote"),
        (b'"image,words\na.png,sky\n', r"its header: a quote \(\"\) is opened and not closed"),
        (b"image,words,confidence\na.png,sky,1\na.png,sea,high\n", "line 3: 'confidence' is 'high', expected a number; 0 says"),
        (b"image,words,confidence\na.png,sky,\n", "line 2: 'confidence' is '', expected a number"),
        (b"image,sky,sea\na.png,1,0\nb.png,0,1\nc.png,2,0\n", "line 4: 'sky' is '2', expected 0 or 1"),
        (b"image,sky,sea\na.png,1,0\nb.png,-1,1\n", "line 3: 'sky' is '-1', expected 0 or 1"),
        (b"image,sky,sea\na.png,1,0\nb.png,,1\n", "line 3: 'sky' is '', expected 0 or 1"),
        (b"image,words\na.png,sky\nb.png," + b"x" * 3_000_000 + b",sea\n", r"line 3: .*xxx…$"),
        (b"image,words\na.png\n", r"line 2: expected an image name and words .* got \['a\.png'\]"),
        (b"image,words\na.png,sky\n,sea\n", "line 3: expected an image name and words"),
        (
            b"image,words\na.png,sky,sea\n",
            r"line 2: .* words with ';' between, in 2 columns as in the header, got \['a\.png', 'sky', 'sea'\]",
        ),  # commas between the words: sea must not be lost silently
        (b"image,words\na.png,caf\x81\n", r"is not UTF-8 text \(byte 21\); save it as UTF-8"),
        ("image,words\na.png,sky\n".encode("utf-16-le"), "is not UTF-8 text|its header is"),
    ],
)
def test_wrong_csv(tmp_path: Path, text: bytes, complaint: str) -> None:
    pictures(tmp_path, "a.png")
    (tmp_path / "labels.csv").write_bytes(text)
    with pytest.raises(DataError, match=rf"{tmp_path}/labels\.csv.*{complaint}"):
        load_labelled_images(tmp_path)


EXPECTED = r'expected \{"samples": \[\{"image_name": …, "image_labels": \[…\]\}, …\]\}'


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not valid JSON: "),
        ('{"samples": [', "is not valid JSON: .*line 1 column 14"),
        ("[" * 100_000, "is not valid JSON"),
        ("image,words\na.png,sky\n", "is not valid JSON"),
        ("null", EXPECTED),
        ('{"images": [], "annotations": []}', EXPECTED + ", found an object with the keys 'images', 'annotations'"),
        ("[1, 2]", EXPECTED + ", found a list of 2"),
        ("[]", EXPECTED),
        ('[{"image_name": "a.png", "image_labels": ["sky"]}]', EXPECTED),
        ("{}", EXPECTED),
        ('{"samples": {"a.png": ["sky"]}}', EXPECTED),
        ('{"samples": []}', "names no image"),
        ('{"samples": ["a.png"]}', rf"samples\[0\] is 'a\.png'; {EXPECTED}"),
        ('{"samples": [{"image_name": "a.png"}]}', r"samples\[0\] is .*expected"),
        ('{"samples": [{"image_labels": ["sky"]}]}', r"samples\[0\] is .*expected"),
        ('{"samples": [{"image_name": 7, "image_labels": ["sky"]}]}', r"samples\[0\] is .*expected"),
        ('{"samples": [{"image_name": "a.png", "image_labels": []}, {"image_name": "b", "image_labels": ""}]}', r"samples\[1\]"),
        ('{"samples": [{"image_name": "a.png", "image_labels": [3]}]}', "3"),
        ('{"samples": [{"image_name": "a.png", "image_labels": [["sky"]]}]}', "'sky'"),
        ('{"samples": [{"image_name": "a.png", "image_labels": [{"name": "sky"}]}]}', "'sky'"),
        ('{"samples": [{"image_name": "a.png", "image_labels": [null]}]}', "None"),
        ('{"samples": [{"image_name": "a.png", "image_labels": [" "]}]}', "' '"),
        ('{"samples": [{"image_name": "a.png", "image_labels": []}], "labels": "sky"}', '"labels" must be the list of all words'),
        ('{"samples": [{"image_name": "a.png", "image_labels": []}], "labels": ["sky", "sky"]}', "holds 'sky' twice"),
        ('{"samples": [{"image_name": "a.png", "image_labels": []}], "labels": [["sky"]]}', "vocabulary holds"),
        ('{"samples": [{"image_name": "a.png", "image_labels": ["b", "c", "a"]}], "labels": ["a"]}', "2 words .*'b', 'c'"),
    ],
)  # fmt: skip
def test_wrong_json(tmp_path: Path, text: str, complaint: str) -> None:
    pictures(tmp_path, "a.png")
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(DataError, match=rf"{tmp_path}/labels\.json.*{complaint}"):
        load_labelled_images(tmp_path)


def test_json_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_bytes(b'{"samples": "\xff"}')
    with pytest.raises(DataError, match=r"labels\.json is not UTF-8 text \(byte 13\)"):
        load_labelled_images(tmp_path)
    (tmp_path / "labels.json").write_bytes(
        BYTE_ORDER_MARK.encode() + json_labels(tmp_path / "x.json", [("a.png", [])]).read_bytes()
    )
    pictures(tmp_path, "a.png")
    assert load_labelled_images(tmp_path).image_names == ("a.png",)


def test_which_label_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such file or folder"):
        load_labelled_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no labels\.json or labels\.csv"):
        load_labelled_images(tmp_path)
    pictures(tmp_path, "a.png")
    with pytest.raises(DataError, match=r"a\.png: a label file is \.json or \.csv, \.jsonl or \.tsv"):
        load_labelled_images(tmp_path / "a.png")
    json_labels(tmp_path / "labels.json", [("a.png", ["json"])])
    (tmp_path / "labels.csv").write_text("image,words\na.png,csv\n")
    with pytest.raises(DataError, match=r"holds both labels\.json and labels\.csv; name the one to use"):
        load_labelled_images(tmp_path)
    assert load_labelled_images(tmp_path / "labels.json").vocabulary == ("json",)
    assert load_labelled_images(tmp_path / "labels.csv").vocabulary == ("csv",)
    (tmp_path / "UPPER.CSV").write_text("image,words\na.png,upper\n")
    assert load_labelled_images(tmp_path / "UPPER.CSV").vocabulary == ("upper",)


def test_label_files_of_a_folder_in_any_form(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    (tmp_path / "labels.tsv").write_text("image\twords\na.png\ttsv\n")
    assert load_labelled_images(tmp_path).vocabulary == ("tsv",) and find_label_file(tmp_path) == tmp_path / "labels.tsv"
    (tmp_path / "labels.jsonl").write_text('{"image": "a.png", "words": ["jsonl"]}\n')
    with pytest.raises(DataError, match=r"holds both labels\.jsonl and labels\.tsv"):
        load_labelled_images(tmp_path)


def test_vocabulary_in_the_file_is_kept_in_its_order(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    json_labels(tmp_path / "labels.json", [("a.png", ["sea"])], labels=["tree", "sea", "sky"])
    images = load_labelled_images(tmp_path)
    assert images.vocabulary == ("tree", "sea", "sky") and images.labels.toarray().tolist() == [[0, 1, 0]]


# ---- images and entries that do not match


def test_an_image_named_twice(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    path = json_labels(tmp_path / "labels.json", [("a.png", ["sky", "sea"]), ("b.png", []), ("a.png", ["sea", "sky", "sea"])])
    images = load_labelled_images(tmp_path)  # the same words: no warning, which would be an error here
    assert words_of(images) == {"a.png": {"sky", "sea"}, "b.png": set()} and images.labels.data.tolist() == [1, 1]
    json_labels(path, [("a.png", ["sky"]), ("b.png", ["tree"]), ("a.png", ["sea"]), ("b.png", [])])
    with pytest.warns(
        UserWarning, match=r"labels\.json names 2 images twice with different words \(first: a\.png\); they were joined"
    ):
        images = load_labelled_images(tmp_path)
    assert words_of(images) == {"a.png": {"sky", "sea"}, "b.png": {"tree"}}


def test_entries_without_image_and_images_without_entry(tmp_path: Path) -> None:
    pictures(tmp_path / "images", "a.png", "sub/b.png", "other.png", "sub/another.png", ".hidden.png")
    (tmp_path / "images" / "notes.txt").write_text("no image")
    long, missing = "x" * 300 + ".png", ["gone.png", "sub/gone too.png"]
    json_labels(
        tmp_path / "labels.json",
        [
            (missing[0], ["never"]),
            ("a.png", ["sky"]),
            (missing[1], []),
            ("sub/b.png", ["sea"]),
            ("sub", ["folder"]),
            (long, []),
            ("", []),
        ],
    )
    images = load_labelled_images(tmp_path)
    assert words_of(images) == {"a.png": {"sky"}, "sub/b.png": {"sea"}}
    assert images.vocabulary == ("sea", "sky") and images.unlabelled == 2
    assert [failure.path for failure in images.missing][:4] == [str(tmp_path / "images" / name) for name in (*missing, "sub", long)]
    assert len(images.missing) == 5
    assert {(each.stage, each.reason) for each in images.missing} == {("find", "no such file, but labels.json names it")}


def test_all_images_missing(tmp_path: Path) -> None:
    json_labels(tmp_path / "labels.json", [("a.png", ["sky"]), ("b.png", ["sea"])])
    with pytest.raises(DataError, match=rf"none of the 2 images that .*labels\.json names is in {tmp_path} \(the first: a\.png\)"):
        load_labelled_images(tmp_path)
    pictures(tmp_path, "A.PNG", "sub/c.png")
    with pytest.raises(DataError, match=r"the first: a\.png.*; A\.PNG is there, and capital letters count"):
        load_labelled_images(tmp_path)
    json_labels(tmp_path / "labels.json", [("sub\\c.png", ["sky"])])
    with pytest.raises(DataError, match=r"; write it with / between the folders: sub/c\.png"):
        load_labelled_images(tmp_path)
    json_labels(tmp_path / "labels.json", [("c.png", ["sky"])])
    with pytest.raises(DataError, match=rf"; it is in {tmp_path / 'sub'}: move the label file there"):
        load_labelled_images(tmp_path)


def test_images_beside_the_label_file_and_in_its_subfolder(tmp_path: Path) -> None:
    pictures(tmp_path, "beside.png", "both.png", "images/both.png", "images/inside.png")
    json_labels(
        tmp_path / "labels.json", [("beside.png", ["a"]), ("both.png", ["b"]), ("inside.png", ["c"]), ("images/both.png", ["d"])]
    )
    images = load_labelled_images(tmp_path)
    inside = tmp_path / "images"
    assert images.paths == (tmp_path / "beside.png", inside / "both.png", inside / "inside.png", inside / "both.png")
    assert images.unlabelled == 0


def test_links_to_one_file_are_labelled(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    json_labels(tmp_path / "labels.json", [("b.png", ["sky"])])
    assert load_labelled_images(tmp_path).unlabelled == 0


def test_a_link_to_itself_beside_the_label_file(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    path = json_labels(tmp_path / "labels.json", [("a.png", ["sky"]), ("loop.jpg", ["sea"])])
    images = load_labelled_images(path)
    assert words_of(images) == {"a.png": {"sky"}} and images.unlabelled == 1
    assert [failure.path for failure in images.missing] == [str(tmp_path / "loop.jpg")]


def test_spellings_of_one_name(tmp_path: Path) -> None:
    composed, apart = "caf\u00e9.png", "cafe\u0301.png"
    pictures(tmp_path, "a.png", "sub/b.png", composed, "0a1b.jpg")
    samples = [
        ("./a.png", ["x"]),
        ("a.png", ["y"]),
        (".//sub/./b.png", ["x"]),
        ("sub//b.png", ["x"]),
        (apart, ["x"]),
        ("0a1b", ["y"]),
    ]
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps({"image": name, "words": words}) + "\n" for name, words in samples))
    images = load_labelled_images(path)
    assert words_of(images) == {"a.png": {"x", "y"}, "sub/b.png": {"x"}, apart: {"x"}, "0a1b": {"y"}}
    assert images.paths == (tmp_path / "a.png", tmp_path / "sub/b.png", tmp_path / composed, tmp_path / "0a1b.jpg")
    assert named_images(path) == [images.paths[row] for row in (0, 0, 1, 1, 2, 3)] and images.unlabelled == 0


def test_images_without_a_suffix(tmp_path: Path) -> None:
    pictures(tmp_path, "0a1b2c", "3d4e5f")
    json_labels(tmp_path / "labels.json", [("0a1b2c", ["sky"]), ("3d4e5f", ["sea"])])
    images = load_labelled_images(tmp_path)
    assert words_of(images) == {"0a1b2c": {"sky"}, "3d4e5f": {"sea"}} and images.unlabelled == 0


def test_unicode_line_separators_end_no_csv_row(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    (tmp_path / "labels.csv").write_text("image,words\na.png,one\u2028word;x\x0cy\nb.png,n\x85el\n", encoding="utf-8")
    assert Counter(load_labelled_images(tmp_path).vocabulary) == Counter(["one\u2028word", "x\x0cy", "n\x85el"])
