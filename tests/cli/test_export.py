"""``annotate --format``, ``export`` and ``untag``."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import CHANGES, files, ledger, read
from small import RIDGE
from tars import write_tar
from typer.testing import CliRunner

from gpuannot import Annotator
from gpuannot.cli.main import app
from gpuannot.datasets import load_labelled_images
from gpuannot.datasets.label_files import LabelledImages
from gpuannot.images.xmp import Packet


@pytest.fixture(autouse=True)
def warnings_as_before() -> Iterator[None]:
    """Each command replaces how warnings are shown."""
    with warnings.catch_warnings():
        yield


@pytest.fixture(scope="module")
def model(scenes: LabelledImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    annotator = Annotator(device="cpu", **CHANGES, **RIDGE)
    annotator.fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary, progress=False)
    return annotator.save(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture
def photos(scenes: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights_read_once: None) -> Path:
    """Six scenes in a folder from which commands are run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for path in scenes.paths[:6]:
        shutil.copy(path, "photos")
    return Path("photos")


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def sidecars(folder: Path) -> dict[str, list[str]]:
    return {path.name: list(Packet(path.read_bytes()).keywords().flat) for path in sorted(folder.glob("*.xmp"))}


def test_images_that_all_fail_are_listed(model: Path, photos: Path) -> None:
    Path("broken.jpg").write_bytes(b"no image")
    for to in ("words.jsonl", "parts/"):
        result = run("annotate", model, "broken.jpg", "-o", to, "--format", "xmp")
        assert result.exit_code == 2 and "1 input failed:" in result.stderr and "broken.jpg: not an image" in result.stderr
    assert [entry["path"] for entry in map(json.loads, Path("words.jsonl.failures.jsonl").read_text().splitlines())] == [
        "broken.jpg"
    ]
    assert not Path("broken.xmp").exists()


def test_words_beside_images_and_out_again(model: Path, photos: Path) -> None:
    before = files(photos)
    dry = run("annotate", model, photos, "-k", "3", "--format", "xmp", "--dry-run")
    assert dry.exit_code == 0 and "xmp: 6 files would change, 0 as they were, 0 failed" in dry.stderr and files(photos) == before
    (photos / "scene_00003.xmp").write_text("<html/>")
    done = run("annotate", model, photos, "-k", "3", "--format", "xmp", "--json")
    assert done.exit_code == 1 and json.loads(done.stdout) == {"format": "xmp", "changed": 5, "unchanged": 0, "failed": 1}
    assert "photos/scene_00003.jpg: its XML is no XMP: it begins with <html>" in done.stderr
    (photos / "scene_00003.xmp").unlink()
    assert run("annotate", model, photos, "-k", "3", "--format", "xmp").exit_code == 0
    found = sidecars(photos)
    lines = [line.split("\t") for line in dry.stdout.splitlines()]
    assert {Path(path).name: words.replace("+", "").split(", ") for path, words in lines} == found and len(found) == 6
    assert run("untag", photos, "--dry-run").stdout.count("(removed)") == 6 and sidecars(photos) == found
    assert "photos: 6 sidecars changed, 0 failed" in run("untag", photos).stderr and files(photos) == before


def test_a_run_is_exported_and_goes_on_after_a_stop(model: Path, photos: Path) -> None:
    scenes = sorted(photos.iterdir())
    write_tar(Path("more.tar"), {"x.jpg": scenes[0].read_bytes()})
    arguments = ["annotate", model, photos, "more.tar", "-o", "words/", "--part-size", "2", "-k", "4"]
    first = run(*arguments, "--format", "xmp", "--exclude-words", "sky")
    assert first.exit_code == 1 and "more.tar/x.jpg: is no local file" in first.stderr
    assert [(row["path"], row["stage"]) for row in ledger(Path("words"))] == [("more.tar/x.jpg", "write")]
    assert "words: " not in first.stdout and len(sidecars(photos)) == 6
    (photos / "scene_00001.xmp").unlink()
    Path("words/_gpuannot/done/00001.json").unlink()  # stopped before this part was whole
    again = run(*arguments, "--resume", "--format", "xmp", "--exclude-words", "sky")
    assert "4 parts, 3 of them from before" in again.stderr and "xmp: 1 file written, 5 as they were, 1 failed" in again.stderr
    assert not any("sky" in words for words in sidecars(photos).values())

    rows = [json.loads(line) for line in _exported("-o", "all.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == [*map(str, scenes), "more.tar/x.jpg"] and all(len(row["words"]) == 4 for row in rows)
    likely = [json.loads(line) for line in _exported("-o", "likely.jsonl", "--threshold", "0.6").read_text().splitlines()]
    for row, every in zip(likely, rows, strict=True):
        sure = [word for word, confidence in zip(every["words"], every["confidences"], strict=True) if confidence >= 0.6]
        assert row["words"] == (sure or every["words"][:1])
    assert "no image was given skyy" in run("export", "words", "--format", "txt", "--dry-run", "--exclude-words", "skyy").stderr
    word = rows[0]["words"][0]
    strict = [
        json.loads(line) for line in _exported("-o", "strict.jsonl", "--word-threshold", f"{word}=1").read_text().splitlines()
    ]
    assert [row["words"] for row in strict] == [[each for each in row["words"] if each != word] for row in rows]

    assert run("export", "words", "--format", "xmp", "--into", "beside", "--whole-names").exit_code == 0
    assert len(list(Path("beside").rglob("*.jpg.xmp"))) == 7 and not ledger(Path("words"))
    coco = json.loads(_exported("--format", "coco", "-o", "c.json", "--relative-to", "photos").read_text())
    assert [image["file_name"] for image in coco["images"]][:2] == ["scene_00000.jpg", "scene_00001.jpg"]


def _exported(*arguments: str) -> Path:
    result = run("export", "words", *arguments)
    assert result.exit_code == 0, result.stderr
    return Path(arguments[arguments.index("-o") + 1])


def test_a_document_at_once_is_that_of_a_run(model: Path, photos: Path) -> None:
    (photos / "bad.jpg").write_bytes(b"junk")
    assert run("annotate", model, photos, "-k", "2", "-o", "words/").exit_code == 1
    found = {row["path"]: row["words"] for row in read(Path("words"))}
    for format, name in (("coco", "c.json"), ("label-studio", "t.json"), ("fiftyone", "f.json"), ("imagefolder", "metadata.jsonl")):
        at_once = run("annotate", model, photos, "-k", "2", "--format", format, "-o", name)
        assert at_once.exit_code == 1 and "6 images annotated, 1 failed" in at_once.stderr
        assert json.loads(Path(f"{name}.failures.jsonl").read_text())["path"] == "photos/bad.jpg"
        first = words_of(Path(name))
        refused = run("export", "words", "--format", format, "-o", name)
        assert refused.exit_code == 2 and f"{name} exists" in refused.stderr
        assert run("export", "words", "--format", format, "-o", name, "--overwrite").exit_code == 0
        assert words_of(Path(name)) == first == {path: set(words) for path, words in found.items()}, format
        assert not Path(f"{name}.failures.jsonl").exists()


def words_of(document: Path) -> dict[str, set[str]]:
    if document.name == "f.json":
        labels = json.loads(document.read_text())["labels"]
        return {f"{key}.jpg": {each["label"] for each in found} for key, found in labels.items()}
    images = load_labelled_images(document, machine_words=True)
    carried = ({images.vocabulary[word] for word in images.labels[[row]].indices} for row in range(len(images)))
    return dict(zip(images.image_names, carried, strict=True))


def test_learning_from_photos_that_were_tagged_by_hand(model: Path, photos: Path) -> None:
    for number, path in enumerate(sorted(photos.glob("*.jpg"))):
        path.with_suffix(".txt").write_text("sky, sea\n" if number % 2 else "tree\n")
    settings = [option for name, value in CHANGES.items() for option in ("--set", f"{name}={value}")]
    fitted = run("fit", photos, "-o", "new.safetensors", *settings)
    assert fitted.exit_code == 0 and "the words are those that photos in photos carry: sea, sky, tree" in fitted.stderr
    assert run("annotate", "new.safetensors", photos, "-k", "1", "--format", "xmp").exit_code == 0
    none = run("fit", photos, "-o", "x.safetensors", "--labels", "keywords")
    assert none.exit_code == 2 and "not one of its 6 images has a keyword" in none.stderr
    assert run("evaluate", "new.safetensors", photos, "--labels", "keywords", "--machine-words", "-k", "1").exit_code == 0
    assert load_labelled_images(photos, labels="keywords", machine_words=True).labels.sum() == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["annotate", "M", "photos", "--format", "coco"], "--format coco writes one file: name it with -o"),
        (["annotate", "M", "photos", "--format", "coco", "-o", "x/"], "and then 'gpuannot export' that folder"),
        (["annotate", "M", "photos", "--format", "coco", "-o", "x.csv"], "is one .json file; write it for example to x.json"),
        (["annotate", "M", "photos", "--format", "csv"], "--format needs a folder for the output"),
        (["annotate", "M", "photos", "--format", "xmp", "-o", "x/", "--dry-run"], "--dry-run changes nothing"),
        (["annotate", "M", "photos", "-o", "x/", "--exclude-words", "sky"], "a folder of parts keeps all words"),
        (["annotate", "M", "photos", "--exclude-words", "skyy"], "'skyy' is no word of the model; is 'sky' meant?"),
        (["annotate", "M", "photos", "--word-threshold", "sky"], "expected WORD=VALUE"),
        (["annotate", "M", "photos", "--into", "x"], "--into is for --format xmp or txt"),
        (["annotate", "M", "photos", "--format", "txt", "--hierarchy"], "--hierarchy is for --format xmp"),
        (["export", "photos", "--format", "xmp"], "holds no annotations"),
        (["export", "photos"], "name the file to write with -o"),
        (["export", "photos", "--format", "xmp", "-o", "x"], "leave out -o"),
        (["export", "photos", "--format", "csv", "-o", "x.jsonl"], "do not fit"),
        (["untag", "nowhere"], "nowhere: no such folder"),
        (["watch", "M", "nowhere", "-o", "w.jsonl"], "nowhere: no such folder to watch"),
        (["watch", "photos", "M", "-o", "w.jsonl"], "the model comes first, as everywhere: gpuannot watch"),
        (["watch", "M", "photos", "-o", "w.csv"], "call it w.jsonl"),
        (["watch", "M", "photos", "-o", "w.jsonl", "--format", "coco"], "watch writes rows (jsonl), and beside images xmp or txt"),
    ],
)
def test_what_does_not_fit_is_said(arguments: list[str], message: str, model: Path, photos: Path) -> None:
    before = files(photos)
    result = run(*(str(model) if argument == "M" else argument for argument in arguments))
    assert result.exit_code == 2 and message in result.stderr and files(photos) == before


@pytest.mark.parametrize("name", ["w.jsonl", "w2.csv", "w.parquet"])
def test_words_without_distances(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.csv").write_text("path,words\na.jpg,sky;sea\nb.jpg,sky\n")
    assert run("export", "w.csv", "-o", name).exit_code == 0
    assert "nan" not in Path(name).read_bytes().decode("latin-1").lower()
    assert run("export", name, "-o", "again.jsonl").exit_code == 0
    again = [json.loads(line) for line in Path("again.jsonl").read_text().splitlines()]
    assert [(row["path"], row["words"], row["distances"]) for row in again] == [
        ("a.jpg", ["sky", "sea"], []),
        ("b.jpg", ["sky"], []),
    ]
