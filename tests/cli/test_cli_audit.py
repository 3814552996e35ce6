"""``gpuannot audit`` and ``learn``: files in, files out, and what they refuse."""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gpuannot import Annotator, Inputs
from gpuannot.cli.main import app
from gpuannot.datasets import LabelledImages, load_labelled_images
from gpuannot.datasets.scenes import write_scenes
from gpuannot.images.input import utf8

pytestmark = pytest.mark.usefixtures("weights_read_once")
SMALL = [
    "--preset=paper",
    "--set=layer=pool2",
    "--set=input_size=32",
    "--set=n_components=8",
    "--set=n_centers=4",
    "--set=signed_sqrt=true",
    "--set=l2=true",
    "--set=head=ridge",
]


@pytest.fixture(autouse=True)
def warnings_as_before() -> Iterator[None]:
    """Each command replaces how warnings are shown."""
    with warnings.catch_warnings():
        yield


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.exit_code == 2 and "Traceback" not in result.stderr, result.output
    return " ".join(result.stderr.split())


def write(path: Path, samples: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"samples": samples}))
    return path


def words_of(images: LabelledImages) -> list[list[str]]:
    return [[images.vocabulary[word] for word in images.labels[[row]].indices] for row in range(len(images))]


@pytest.fixture
def scenes_here(tmp_path: Path) -> Path:
    """A label file of 60 scenes, of which one is missing and one no image."""
    path = write_scenes(tmp_path / "scenes", 60)
    (path.parent / "images" / "scene_00023.jpg").unlink()
    (path.parent / "images" / "scene_00022.jpg").write_bytes(b"no image")
    return path


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    """Nothing is lost for it, and corrections under the name that the page has for it are of that file."""
    images = write_scenes(tmp_path / "drawn", 20).parent / "images"
    folder = tmp_path / os.fsdecode(b"photos\xfc")
    for number, path in enumerate(sorted(images.iterdir())):
        place = folder / ("sea" if number % 2 else "sky") / (path.name if number else os.fsdecode(b"\xfc.jpg"))
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    model, found, page = tmp_path / "m.safetensors", tmp_path / "found.json", tmp_path / "a.html"
    result = run("audit", folder, *SMALL, "--device", "cpu", "-o", found, "--report", page, "--save-model", model)
    assert result.exit_code == 0, result.output
    assert json.loads(found.read_text())["images"] == 20 and model.exists() and "photos\\udcfc" in page.read_text()
    odd = str(folder / "sky" / os.fsdecode(b"\xfc.jpg"))
    corrections = write(tmp_path / "c.json", [{"image_name": utf8(odd), "image_labels": ["sea"], "was": ["sky"]}])
    corrected = tmp_path / "corrected.json"
    assert run("audit", folder, "--apply", corrections, "-o", corrected).exit_code == 0
    again = load_labelled_images(corrected)
    assert dict(zip(map(str, again.paths), words_of(again), strict=True))[odd] == ["sea"] and not again.missing


def test_an_audit_its_corrections_and_a_model_that_learns_them(scenes_here: Path, tmp_path: Path) -> None:
    before = scenes_here.read_bytes()
    model, found = tmp_path / "model.safetensors", tmp_path / "found.json"
    files = ["-o", found, "--report", tmp_path / "a.html", "--save-model", model]
    result = run("audit", scenes_here, *SMALL, "--device", "cpu", *files, "--rows", "2")
    assert result.exit_code == 1 and "scene_00023.jpg" in result.stderr and "scene_00022.jpg" in result.stderr, result.output
    content = json.loads(found.read_text())
    assert content["images"] == 58 and content["schema"] == "gpuannot.audit/1" and content["missing"]
    assert f"words that are probably wrong: {len(content['wrong'])} of {content['labels']} labels" in result.stdout
    assert content["missing"][0]["image_name"] in result.stdout and len(result.stdout.splitlines()) < 40
    images = load_labelled_images(scenes_here)
    words = {
        name: [images.vocabulary[word] for word in images.labels[[row]].indices] for row, name in enumerate(images.image_names)
    }
    few = {word: sum(word in carried for name, carried in words.items() if name != "scene_00022.jpg") for word in images.vocabulary}
    assert {each["word"]: each["images"] for each in content["few"]} == {word: count for word, count in few.items() if count < 5}
    for doubt in content["wrong"]:
        assert doubt["word"] in words[doubt["image_name"]]
    for doubt in content["missing"]:
        assert doubt["word"] not in words[doubt["image_name"]]

    place = scenes_here.parent / "images" / "scene_00003.jpg"
    was = words[place.name]
    corrections = write(tmp_path / "corrections.json", [{"image_name": str(place), "image_labels": ["sky", "comet"], "was": was}])
    apart = tmp_path / "elsewhere"
    apart.mkdir()
    for to in (scenes_here.parent / "corrected.json", apart / "corrected.json"):
        assert run("audit", scenes_here, "--apply", corrections, "-o", to).exit_code == 0
        again = load_labelled_images(to)
        assert [os.path.realpath(path) for path in again.paths] == [os.path.realpath(path) for path in images.paths]
        carried = {
            path.name: {again.vocabulary[word] for word in again.labels[[row]].indices} for row, path in enumerate(again.paths)
        }
        assert carried == {**{name: set(each) for name, each in words.items()}, place.name: {"sky", "comet"}}
        assert again.vocabulary == (*images.vocabulary, "comet")
    assert scenes_here.read_bytes() == before
    names = [sample["image_name"] for sample in json.loads((scenes_here.parent / "corrected.json").read_text())["samples"]]
    assert names == list(images.image_names)  # where the file lies beside the other, as that has them

    assert "would be replaced" in refused("learn", model, corrections)
    result = run("learn", model, corrections, "--overwrite", "--device", "cpu")
    assert result.exit_code == 0 and "1 image corrected, 0 images added" in " ".join(result.stderr.split()), result.output
    assert "comet (new)" in result.stdout
    learnt = Annotator.load(model, device="cpu")
    assert dict(zip(learnt.vocabulary, learnt.bank_.counts.tolist(), strict=True))["comet"] == 1


@pytest.mark.parametrize("archive", ["photos.zip", "photos.tar", "photos.tar.gz"])
def test_corrections_of_images_in_an_archive_are_learnt(
    archive: str, scenes: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of a report of the archive are exported: what follows is what they change as files."""
    monkeypatch.chdir(tmp_path)
    shutil.make_archive("photos", {"photos.tar.gz": "gztar"}.get(archive, archive[-3:]), scenes.paths[0].parent)
    settings = {"layer": "pool2", "input_size": 32, "n_components": 8, "n_centers": 4}
    Annotator(device="cpu", **settings).fit(scenes.paths[:20], words_of(scenes)[:20]).save("m.safetensors")
    after = [["comet", *words] for words in words_of(scenes)]
    rows = [3, 1, 22]  # in no order: of 3 and 1 it is known what they were, 22 is new
    was = {row: {"was": words_of(scenes)[row]} if row < 20 else {} for row in rows}
    [*_, name] = [item.name for item in Inputs(archive)]
    assert name.startswith(f"{archive}/")
    models = []
    for to, places in (
        ("file", [scenes.paths[row] for row in rows]),
        ("member", [tmp_path / archive / scenes.paths[row].name for row in rows]),
    ):
        found = [
            {"image_name": str(place), "image_labels": after[row], **was[row]} for place, row in zip(places, rows, strict=True)
        ]
        result = run("learn", "m.safetensors", write(Path(f"{to}.json"), found), "-o", f"{to}.safetensors", "--device", "cpu")
        assert result.exit_code == 0 and "2 images corrected, 1 image added" in " ".join(result.stderr.split()), result.output
        models.append(Annotator.load(f"{to}.safetensors", device="cpu").to_model_file().sha256)
    assert models[0] == models[1]
    gone = write(Path("gone.json"), [{"image_name": f"{archive}/gone.jpg", "image_labels": ["sky"]}])
    assert f"{archive} holds no such image" in refused("learn", "m.safetensors", gone, "-o", "gone.safetensors")


def test_what_is_refused(scenes_here: Path, tmp_path: Path) -> None:
    scene = scenes_here.parent / "images" / "scene_00000.jpg"
    good = write(tmp_path / "good.json", [{"image_name": str(scene), "image_labels": ["sky"]}])
    assert "is the label file itself" in refused("audit", scenes_here, "--apply", good, "-o", scenes_here, "--overwrite")
    link = tmp_path / "link.json"
    link.symlink_to(scenes_here)
    assert "is the label file itself" in refused("audit", scenes_here, "--apply", good, "-o", link, "--overwrite")
    assert "is the label file itself" in refused("audit", scenes_here.parent, "-o", scenes_here, "--overwrite")
    assert "--apply writes a label file: name it" in refused("audit", scenes_here, "--apply", good)
    assert "corrected.json exists" in refused("audit", scenes_here, "--apply", good, "-o", write(tmp_path / "corrected.json", []))
    to = tmp_path / "to.json"
    other = write(tmp_path / "other.json", [{"image_name": "a.jpg", "image_labels": []}])
    assert f"{tmp_path / 'a.jpg'} was corrected, and is none of the 59 images" in refused(
        "audit", scenes_here, "--apply", other, "-o", to
    )
    was = write(tmp_path / "was.json", [{"image_name": str(scene), "image_labels": ["sky"], "was": ["other"]}])
    assert "carried ['other'] when it was reviewed" in refused("audit", scenes_here, "--apply", was, "-o", to)
    twice = write(tmp_path / "twice.json", [{"image_name": str(scene), "image_labels": ["sky"]}] * 2)
    assert "for the second time" in refused("audit", scenes_here, "--apply", twice, "-o", to)
    odd = write(tmp_path / "odd.json", [{"image_name": str(scene), "image_labels": ["sky"], "was": "sky"}])
    assert "samples[0] has the words 'sky'; expected a list" in refused("audit", scenes_here, "--apply", odd, "-o", to)
    empty = write(tmp_path / "empty.json", [])
    assert "holds no corrections" in refused("audit", scenes_here, "--apply", empty, "-o", to)
    assert "no such file of corrections" in refused("audit", scenes_here, "--apply", tmp_path / "none.json", "-o", to)
    assert "--preset is for a model that is fitted here" in refused(
        "audit", scenes_here, "--model", "m.safetensors", "--preset", "best"
    )
    assert not to.exists()


def test_photos_are_read_as_fit_reads_them_and_again_to_be_corrected(
    scenes: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for path, words in zip(scenes.paths, words_of(scenes), strict=True):
        (Path("photos") / path.name).write_bytes(path.read_bytes())
        (Path("photos") / path.name).with_suffix(".txt").write_text(", ".join(words))
    packet = (
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description xmlns:dc="http://purl.org/dc/elements/'
    )
    packet += '1.1/"><dc:subject><rdf:Bag><rdf:li>by hand</rdf:li></rdf:Bag></dc:subject></rdf:Description></rdf:RDF>'
    (Path("photos") / scenes.paths[0].name).with_suffix(".xmp").write_text(packet)
    assert "say which are the labels" in refused("audit", "photos", *SMALL)
    result = run("audit", "photos", "--labels", "captions", *SMALL, "--report", "a.html", "-o", "found.json")
    assert result.exit_code == 0, result.output
    assert json.loads(Path("found.json").read_text())["labels"] == scenes.labels.nnz
    told = re.search(r"next: .*gpuannot (audit photos --apply corrections.json --labels captions -o corrected.json)", result.stderr)
    assert told, result.stderr
    place = Path("photos") / scenes.paths[0].name
    write(Path("corrections.json"), [{"image_name": str(place), "image_labels": ["comet"], "was": words_of(scenes)[0]}])
    assert run(*told[1].split()).exit_code == 0
    assert sorted(map(sorted, words_of(load_labelled_images("corrected.json")))) == sorted(
        map(sorted, [["comet"], *words_of(scenes)[1:]])
    )
