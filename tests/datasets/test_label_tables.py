"""Forms of labels that people have: what is read is what was meant, or a warning or an error says that it may not be."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gpuannot import Annotations
from gpuannot.datasets.label_files import LabelledImages, find_label_file, load_labelled_images
from gpuannot.datasets.label_text import words_of_cells
from gpuannot.errors import DataError
from gpuannot.jobs.writers import AnnotationWriter

COMPOSED, APART = "caf\u00e9", "cafe\u0301"


def load(folder: Path, text: str, name: str = "labels.csv") -> LabelledImages:
    """A label file beside the images a.jpg, b.jpg and c.jpg."""
    for image in "abc":
        Image.new("RGB", (8, 8)).save(folder / f"{image}.jpg")
    (folder / name).write_text(text, encoding="utf-8")
    return load_labelled_images(folder / name)


def words_of(images: LabelledImages) -> list[set[str]]:
    """Of a.jpg, b.jpg and c.jpg as far as they are there."""
    found = {
        name: {images.vocabulary[word] for word in images.labels[[row]].indices} for row, name in enumerate(images.image_names)
    }
    return [found[name] for name in sorted(found)]


# ---- words


@pytest.mark.parametrize("form", ["json", "csv", "jsonl", "coco", "hot"])
def test_spellings_of_one_word(tmp_path: Path, form: str) -> None:
    given: list[tuple[str, list[str]]] = [("a.jpg", ["sky ", COMPOSED]), ("b.jpg", [" sky", APART])]
    words = dict.fromkeys(word for _, each in given for word in each)
    numbers = {word: number for number, word in enumerate(words)}
    texts = {
        "json": json.dumps(
            {"samples": [{"image_name": name, "image_labels": each} for name, each in given], "labels": list(words)}
        ),
        "csv": "image,words\n" + "".join(f"{name},{';'.join(each)}\n" for name, each in given),
        "jsonl": "".join(json.dumps({"image": name, "words": each}) + "\n" for name, each in given),
        "coco": json.dumps(
            {
                "images": [{"id": name, "file_name": name} for name, _ in given],
                "annotations": [{"image_id": name, "category_id": numbers[word]} for name, each in given for word in each],
                "categories": [{"id": number, "name": word} for word, number in numbers.items()],
            }
        ),
        "hot": "image,sky ,cafe\u0301\na.jpg,1,1\nb.jpg,1,1\n",
    }
    images = load(tmp_path, texts[form], "labels." + {"coco": "json", "hot": "csv"}.get(form, form))
    assert words_of(images) == [{"sky", COMPOSED}] * 2 and sorted(images.vocabulary) == [COMPOSED, "sky"]


def test_class_folders_of_one_word(tmp_path: Path) -> None:
    for number, folder in enumerate(["sky", "sky ", COMPOSED, APART]):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / folder / f"{number}.jpg")
    images = load_labelled_images(tmp_path)
    assert images.vocabulary == (COMPOSED, "sky") and images.labels.sum(axis=0).tolist() == [2, 2]


def test_class_folders_that_differ_in_capitals_alone(tmp_path: Path) -> None:
    for folder in ("sky", "Sky"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "1.jpg")
    with pytest.warns(UserWarning, match=r"words that differ in capitals alone .*: 'Sky' and 'sky'; "):
        assert load_labelled_images(tmp_path).vocabulary == ("Sky", "sky")


def test_words_that_differ_in_capitals_alone(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"labels\.csv: words that differ in capitals .*: 'SEA' and 'sea', 'Sky' and 'sky'; .* alike"
    ):
        images = load(tmp_path, "image,words\na.jpg,Sky;sea\nb.jpg,sky;SEA;tree\n")
    assert images.vocabulary == ("SEA", "Sky", "sea", "sky", "tree")


@pytest.mark.parametrize(
    ("cells", "delimiter", "expected"),
    [
        (["sky;sea", "a, b"], ",", [["sky", "sea"], ["a, b"]]),
        (["sky;sea", "a, b"], ";", [["sky", "sea"], ["a", "b"]]),
        (["sky;sea", "a|b"], ",", [["sky", "sea"], ["a|b"]]),
        (["polar bear", "sky", "sea"], ",", [["polar bear"], ["sky"], ["sea"]]),
        (["polar bear", "red fox", "sky"], ",", [["polar bear"], ["red fox"], ["sky"]]),  # nothing recurs
        (["a\\;b;c", "\\\\;d\\e\\"], ",", [["a;b", "c"], ["\\", "d\\e\\"]]),
        ([" ; ;x; ", ""], ",", [["x"], []]),
        ([], ",", []),
    ],
)
def test_words_of_cells(cells: list[str], delimiter: str, expected: list[list[str]]) -> None:
    assert words_of_cells(Path("x"), cells, delimiter=delimiter) == expected


@pytest.mark.parametrize(
    ("cells", "warning", "expected"),
    [
        (["sky|sea", "tree", "a, b | c"], "'sky|sea' and cells like it were taken as words with '|' between", "|"),
        (["Paris, France", "Lyon, France", "sea"], "'Paris, France' was taken as one word, and 1 more like it", None),
        (
            ["haze primary", "clear primary road"],
            "'haze primary' was taken as one word, and 1 more like it; are they several",
            None,
        ),
        (["x " * 50_000, "x y"], "x x x…' was taken as one word", None),
    ],
)
def test_cells_that_look_as_if_they_held_several_words(cells: list[str], warning: str, expected: str | None) -> None:
    with pytest.warns(UserWarning, match=re.escape(warning)) as caught:
        words = words_of_cells(Path("x"), cells)
    assert words == [[word.strip() for word in (cell.split(expected) if expected else [cell])] for cell in cells]
    assert len(caught) == 1 and len(str(caught[0].message)) < 300


def test_words_with_spaces_where_images_have_a_row_for_each(tmp_path: Path) -> None:
    images = load(tmp_path, "image,label\na.jpg,Human face\na.jpg,Human eye\nb.jpg,Human face\n")
    assert words_of(images) == [{"Human face", "Human eye"}, {"Human face"}]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_annotations_are_labels_too(tmp_path: Path, suffix: str) -> None:
    words = ("sky", "a;b", "c\\d", "e, f")
    index, distance = np.array([[0, 1, 2], [3, -1, -1], [-1, -1, -1]]), np.array([[0, 1, 2], [0, 0, 0], [0, 0, 0]], np.float32)
    given = Annotations(("a.jpg", "b.jpg", "c.jpg"), np.arange(3), index, distance, words, confidence=0 * distance)
    with AnnotationWriter(tmp_path / f"words{suffix}", model_sha256="0", confidence=True) as writer:
        writer.write(given)
        writer.commit()
    images = load(tmp_path, (tmp_path / f"words{suffix}").read_text(), f"words{suffix}")
    assert words_of(images) == [{"sky", "a;b", "c\\d"}, {"e, f"}, set()]


# ---- columns


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("ImageID,LabelName", "a.jpg,sky"),
        ("IMAGE PATH,x,Class", "a.jpg,1,sky"),
        ("category-name|file_name", "sky|a.jpg"),
        ("filename\twidth\tclass\txmin", "a.jpg\t8\tsky\t0"),
        ("path;words;distances", "a.jpg;sky;0.5"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".TSV"])
def test_headers(tmp_path: Path, header: str, row: str, suffix: str) -> None:
    images = load(tmp_path, f"{header}\n{row}\n", f"t{suffix}")
    assert words_of(images) == [{"sky"}] and find_label_file(tmp_path / f"t{suffix}") == tmp_path / f"t{suffix}"


def test_a_column_of_numbers_beside_one_of_words(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"its column 'label' holds numbers alone; the words were taken from 'class'$"):
        images = load(tmp_path, "path,label,class\na.jpg,0,cat\nb.jpg,1,dog\n")
    assert words_of(images) == [{"cat"}, {"dog"}]
    with pytest.warns(UserWarning, match=r"its column 'label' holds numbers alone; the words were taken from 'Name'$"):
        images = load(tmp_path, "path,label,class,Name\na.jpg,0;2,7,cat\nb.jpg,1,8,dog\n")
    assert words_of(images) == [{"cat"}, {"dog"}]
    with pytest.warns(UserWarning, match=r"its column 'label' holds numbers alone, each of which became a word; if they stand"):
        images = load(tmp_path, '{"image": "a.jpg", "label": 3}\n{"image": "b.jpg", "label": [3, 4]}\n', "l.jsonl")
    assert words_of(images) == [{"3"}, {"3", "4"}]
    assert words_of(load(tmp_path, "path,label,class\na.jpg,4x4,1\nb.jpg,,2\n")) == [{"4x4"}, set()]
    assert words_of(load(tmp_path, f"path,label\na.jpg,{'1' * 5000}x\n")) == [{"1" * 5000 + "x"}]  # nothing to try in many ways


def test_a_confidence_of_0_says_that_a_word_is_absent(tmp_path: Path) -> None:
    text = "ImageID,LabelName,Confidence\na,sky,1\na,sea,0\nb,sky,0.0\nc,sea,0.3\nc,tree,0\nc,tree,1\n"
    with pytest.warns(UserWarning, match=r"labels\.csv: 3 of 6 rows have a 'Confidence' of 0, which says that their words are not"):
        images = load(tmp_path, text)
    assert images.image_names == ("a", "b", "c") and words_of(images) == [{"sky"}, set(), {"sea", "tree"}]
    assert words_of(load(tmp_path, "image,words,confidences\na.jpg,sky;sea,0;0\n")) == [{"sky", "sea"}]  # as annotate writes them
    with pytest.warns(UserWarning, match="1 of 2 rows"):
        lines = load(tmp_path, '{"path": "a.jpg", "label": "sky", "confidence": 0}\n{"path": "b.jpg", "label": "sky"}\n', "l.jsonl")
    assert words_of(lines) == [set(), {"sky"}]


# ---- a column for each word


@pytest.mark.parametrize(("no", "yes"), [("0", "1"), ("-1", "1"), ("0.0", "1.0"), ("False", "True"), (" 0", "1 ")])
def test_one_hot(tmp_path: Path, no: str, yes: str) -> None:
    text = f"sky,image,sea,tree\n{yes},a.jpg,{no},{no}\n{yes},b.jpg,{yes},{no}\n{no},c.jpg,{no},{no}\n"
    images = load(tmp_path, text)
    assert images.vocabulary == ("sky", "sea", "tree") and words_of(images) == [{"sky"}, {"sky", "sea"}, set()]
    assert find_label_file(tmp_path / "labels.csv") == tmp_path / "labels.csv"


def test_one_hot_beside_other_columns(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"columns that are not of 0 and 1 are no words and were left out: 'id', 'split', 'age'$"):
        images = load(tmp_path, ",id,image,split,sky,age\n0,1,a.jpg,train,1,30\n1,0,b.jpg,test,0,2\n")
    assert images.vocabulary == ("sky",) and words_of(images) == [{"sky"}, set()]
    assert find_label_file(tmp_path / "labels.csv") is None  # one such column may say anything


@pytest.mark.parametrize("text", ["image,note\na.jpg,good\n", "image\na.jpg\n", "image,n\n", "id,words\n1,sky\n", "", '"image\n'])
def test_tables_without_words_are_no_label_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    assert find_label_file(tmp_path / "t.csv") is None


# ---- JSON


def coco(**changes: Any) -> str:
    content = {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 3, "file_name": "b.jpg"}, {"id": 5, "file_name": "c.jpg"}],
        "annotations": [{"image_id": image, "category_id": category} for image, category in ((3, 90), (7, 1), (3, 1), (3, 90))],
        "categories": [{"id": 90, "name": "tooth brush"}, {"id": 1, "name": "person"}, {"id": 2, "name": "kite"}],
    }
    return json.dumps({**content, **changes})


def test_coco(tmp_path: Path) -> None:
    images = load(tmp_path, coco(info={}, licenses=[]), "instances.json")
    assert images.vocabulary == ("tooth brush", "person", "kite")
    assert words_of(images) == [{"person"}, {"person", "tooth brush"}, set()]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"annotations": [{"image_id": 4, "category_id": 1}]},
            r"annotations\[0\] is \{'image_id': 4, .* \"image_id\" of one of its",
        ),
        ({"annotations": [{"image_id": 3}]}, r"annotations\[0\] is \{'image_id': 3\}; expected"),
        ({"annotations": [{"image_id": [3], "category_id": 1}]}, r"annotations\[0\] is "),
        ({"annotations": ["x" * 3_000_000]}, r"annotations\[0\] is 'xxx.*…'; expected"),
        ({"images": [{"id": 3}]}, r"images\[0\] is \{'id': 3\}; expected \{\"id\": …, \"file_name\": …\}"),
        ({"images": [{"id": 3, "file_name": "a"}, {"id": 3, "file_name": "b"}]}, r"images\[1\] has the id 3, as 'a' has"),
        ({"categories": ["person"]}, r"categories\[0\] is 'person'; expected \{\"id\": …, \"name\": …\}"),
        ({"images": []}, r"annotations\[0\] is "),
        ({"images": [], "annotations": []}, "names no image"),
    ],
)
def test_wrong_coco(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DataError, match=rf"instances\.json:? {complaint}") as caught:
        load(tmp_path, coco(**changes), "instances.json")
    assert len(str(caught.value)) < 500


def test_json_lines(tmp_path: Path) -> None:
    lines = ['{"path": "a.jpg", "words": ["sky", "a;b"], "model": "0"}', "", '{"words": "sea;sky", "path": "b.jpg"}']
    images = load(
        tmp_path, "\ufeff" + "\n".join(lines) + '\n{"path": "c.jpg", "words": []}\n{"path": "a.jpg", "words": ["sea"]}', "l.jsonl"
    )
    assert words_of(images) == [{"sky", "a;b", "sea"}, {"sea", "sky"}, set()]
    assert find_label_file(tmp_path / "l.jsonl") == tmp_path / "l.jsonl"
    (tmp_path / "m.jsonl").write_text('{"path": "a.jpg", "reason": "cut"}\n')
    assert find_label_file(tmp_path / "m.jsonl") is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", ": it is empty"),
        ("{}\n", ": it is empty"),
        ('{"path": "a.jpg"}\n', ": its first object has the keys path; expected"),
        ("".join(f'{{"{"x" * 1000}{number}": 1}}\n' for number in range(9)), ": its first object has the keys x{200}; expected"),
        ('{"path": "a.jpg", "words": ["sky"]}\n{"path": \n', ", line 2: is not valid JSON"),
        ('{"path": "a.jpg", "words": ["sky"]}\n\n[3]\n', r", line 3: \[3\], expected an object"),
        ('{"path": "a.jpg", "words": ["sky"]}\n{"words": []}\n', r", line 2: expected an image name and words, got \{'path': None"),
        ('{"path": "a.jpg", "words": ["sky"]}\n{"path": "b.jpg"}\n', ", line 2: 'words' is None, expected words in a list"),
        ('{"path": "a.jpg", "words": [{"name": "sky"}]}\n', ", line 1: 'words' is .*'sky'.*, expected words in a list"),
        ('{"path": "a.jpg", "words": [true]}\n', r", line 1: 'words' is \[True\]"),
        ('{"path": 3, "words": ["sky"]}\n', ", line 1: expected an image name"),
    ],
)
def test_wrong_json_lines(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(DataError, match=rf"l\.jsonl{complaint}"):
        load(tmp_path, text, "l.jsonl")
