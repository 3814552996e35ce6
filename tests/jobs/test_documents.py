"""Documents that other tools read, held against their own libraries or formats, and read back as labels."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from gpuannot.datasets import load_labelled_images
from gpuannot.errors import DataError
from gpuannot.jobs.writers import AnnotationWriter, Naming
from gpuannot.model.annotations import Annotations

WORDS = ("sky", "sea, calm", "AC|DC", "Öl", "日本")
NAMES = ("a.jpg", "sub/ü b.png", "sub/日本;1.jpg", "100%#?.jpg", "'q\".png")
GIVEN = ((0, 1), (2, -1), (3, 4), (-1, -1), (1, 0))
MODEL = "m" * 64


@pytest.fixture
def annotations(tmp_path: Path) -> Annotations:
    for number, name in enumerate(NAMES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 0 else 1  # turned: as it is seen, its width is its height
        Image.new("RGB", (30 + number, 20), (9, 99, 9)).save(tmp_path / name, exif=exif)
    index = np.array(GIVEN, np.int64)
    confidence = np.where(index >= 0, np.float32([0.75, 0.5]), np.float32(0))
    distance = np.where(index >= 0, np.float32(1), np.float32(np.inf))
    names = tuple(str(tmp_path / name) for name in NAMES)
    return Annotations(names, np.arange(len(names)), index, distance, WORDS, confidence=confidence)


def written(annotations: Annotations, format: str, to: Path, naming: Naming | None = None) -> tuple[AnnotationWriter, Any]:
    with AnnotationWriter(to, model_sha256=MODEL, format=format, naming=naming) as writer:
        for start in range(0, len(annotations), 2):
            writer.write(annotations.at(range(start, min(start + 2, len(annotations)))))
        writer.commit()
    assert os.listdir(to.parent).count(to.name) == 1 and not list(to.parent.glob(".*"))
    return writer, json.loads(to.read_text("utf-8")) if to.suffix == ".json" else None


def labels(source: Path, **options: Any) -> dict[str, set[str]]:
    images = load_labelled_images(source, **options)
    return {name: {images.vocabulary[word] for word in images.labels[[row]].indices} for row, name in enumerate(images.image_names)}


EXPECTED = {name: {WORDS[word] for word in words if word >= 0} for name, words in zip(NAMES, GIVEN, strict=True)}


def test_coco_by_its_own_library(annotations: Annotations, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    writer, content = written(annotations, "coco", tmp_path / "coco.json")
    assert writer.rows == 5 and not writer.failures
    with contextlib.redirect_stdout(io.StringIO()):
        read = coco.COCO(str(tmp_path / "coco.json"))
        results = read.loadRes(
            [{key: each[key] for key in ("image_id", "category_id", "bbox", "score")} for each in content["annotations"]]
        )
    names = {category["id"]: category["name"] for category in read.loadCats(read.getCatIds())}
    assert tuple(names.values()) == WORDS and len(results.getAnnIds()) == 7
    for image, (name, words) in zip(read.loadImgs(read.getImgIds()), EXPECTED.items(), strict=True):
        found = read.loadAnns(read.getAnnIds(imgIds=[image["id"]]))
        assert image["file_name"] == name and {names[each["category_id"]] for each in found} == words
        seen = (20, 30) if name == "a.jpg" else (30 + NAMES.index(name), 20)
        assert (image["width"], image["height"]) == seen
        assert all(each["bbox"] == [0, 0, *seen] and each["area"] == seen[0] * seen[1] for each in found)
    assert [each["score"] for each in content["annotations"][:2]] == [0.75, 0.5]
    assert labels(tmp_path / "coco.json") == EXPECTED


TASKS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["data", "predictions"],
        "properties": {
            "data": {"type": "object", "required": ["image"], "properties": {"image": {"type": "string"}}},
            "predictions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["model_version", "result"],
                    "properties": {
                        "score": {"type": "number", "minimum": 0, "maximum": 1},
                        "result": {
                            "items": {
                                "required": ["from_name", "to_name", "type", "value"],
                                "properties": {
                                    "type": {"const": "choices"},
                                    "value": {
                                        "required": ["choices"],
                                        "properties": {"choices": {"type": "array", "items": {"type": "string"}}},
                                    },
                                },
                            }
                        },
                    },
                },
            },
        },
    },
}


@pytest.mark.parametrize("prefix", [None, "/data/local-files/?d=", "https://host/x/"])
def test_label_studio_there_and_back(prefix: str | None, annotations: Annotations, tmp_path: Path) -> None:
    file = tmp_path / "tasks.json"
    _, tasks = written(annotations, "label-studio", file, Naming(prefix=prefix))
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema, which the test extra brings")
    jsonschema.Draft202012Validator(TASKS).validate(tasks)
    assert [task["predictions"][0].get("score") for task in tasks] == [0.625, 0.75, 0.625, None, 0.625]
    if prefix == "/data/local-files/?d=":
        assert [parse_qs(urlsplit(task["data"]["image"]).query)["d"] for task in tasks] == [[name] for name in NAMES]
    assert labels(file, machine_words=True) == EXPECTED
    with pytest.raises(DataError, match="not one of its 5 tasks has an annotation; their predictions"):
        load_labelled_images(file)
    for task in tasks[:3]:  # a person accepts these, and adds a word to one
        [prediction] = task.pop("predictions")
        task["annotations"] = [{"result": prediction["result"], "was_cancelled": False}, {"result": [], "was_cancelled": True}]
    tasks[1]["annotations"][0]["result"].append({"type": "taxonomy", "value": {"taxonomy": [["animals", "dog"]]}})
    file.write_text(json.dumps(tasks))
    assert labels(file) == {"a.jpg": EXPECTED["a.jpg"], NAMES[1]: {"AC|DC", "dog"}, NAMES[2]: EXPECTED[NAMES[2]]}


def test_fiftyone_as_it_documents_it(annotations: Annotations, tmp_path: Path) -> None:
    twin = annotations.at([0, 1, 2, 3, 4, 0])
    object.__setattr__(twin, "names", (*annotations.names, str(tmp_path / "a.png")))
    writer, content = written(twin, "fiftyone", tmp_path / "labels.json")
    assert content["classes"] == list(WORDS)
    assert content["labels"] == {
        os.path.splitext(name)[0]: [
            {"label": WORDS[word], "confidence": confidence}
            for word, confidence in zip(words, (0.75, 0.5), strict=True)
            if word >= 0
        ]
        for name, words in zip(NAMES, GIVEN, strict=True)
    }
    [failure] = writer.failures
    assert failure.path.endswith("a.png") and "without the suffix" in failure.reason and writer.rows == 5
    nested, _ = written(annotations, "fiftyone", tmp_path / "other.json", Naming(base=tmp_path / "sub"))
    assert [Path(each.path).name for each in nested.failures] == ["a.jpg", "100%#?.jpg", "'q\".png"]


def test_an_image_folder_of_hugging_face(annotations: Annotations, tmp_path: Path) -> None:
    written(annotations, "imagefolder", tmp_path / "metadata.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text("utf-8").splitlines()]
    assert [line["file_name"] for line in lines] == list(NAMES) and lines[2]["confidences"] == [0.75, 0.5]
    assert labels(tmp_path) == EXPECTED  # the folder, by that file
    (tmp_path / "deeper").mkdir()
    writer, _ = written(annotations, "imagefolder", tmp_path / "deeper" / "metadata.jsonl")
    assert writer.rows == 0 and len(writer.failures) == 5 and "is not below the folder" in writer.failures[0].reason


def test_names_that_are_no_files(tmp_path: Path) -> None:
    names = ("https://host/a%20b.jpg", str(tmp_path / "shard.tar" / "a.jpg"), str(tmp_path / "odd\udcff.jpg"))
    found = Annotations(names, np.arange(3), np.zeros((3, 1), np.int64), np.ones((3, 1), np.float32), WORDS)
    _, content = written(found, "coco", tmp_path / "coco.json")
    assert content["images"] == [
        {"id": 1, "file_name": "https://host/a%20b.jpg"},
        {"id": 2, "file_name": "shard.tar/a.jpg"}, {"id": 3, "file_name": "odd\\udcff.jpg"},
    ]  # fmt: skip
    assert content["annotations"][0] == {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0}
    assert written(found, "label-studio", tmp_path / "t.json", Naming(prefix="u/"))[1][2]["data"]["image"] == "u/odd%FF.jpg"


def test_a_document_is_whole_or_absent(annotations: Annotations, tmp_path: Path) -> None:
    for format in ("coco", "label-studio", "fiftyone"):
        with pytest.raises(KeyboardInterrupt), AnnotationWriter(tmp_path / "x.json", model_sha256=MODEL, format=format) as writer:
            writer.write(annotations)
            raise KeyboardInterrupt
        assert not [name for name in os.listdir(tmp_path) if "x.json" in name]
    for format, name, reason in (("coco", "x.txt", "x.json"), ("imagefolder", "x.jsonl", "metadata.jsonl")):
        with pytest.raises(DataError, match=reason):
            AnnotationWriter(tmp_path / name, model_sha256=MODEL, format=format)
    empty, content = written(annotations.at([]), "coco", tmp_path / "empty.json")
    assert empty.rows == 0 and content["images"] == content["annotations"] == []
