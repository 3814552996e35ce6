"""The report's file: what it holds, what it refuses, and the commands that write it."""

from __future__ import annotations

import base64
import json
import re
import shutil
import warnings
from collections.abc import Iterator
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_pages import HOSTILE_NAME, HOSTILE_WORDS, data_of, pictures, write_page
from runs import CHANGES
from typer.testing import CliRunner

from gpuannot import Annotations, Annotator
from gpuannot.cli.main import app
from gpuannot.datasets.label_files import LabelledImages, load_labelled_images
from gpuannot.errors import DataError
from gpuannot.jobs.writers import AnnotationWriter
from gpuannot.method.labels import label_matrix
from gpuannot.metrics import evaluate, reliability
from gpuannot.report.build import report_files, report_images
from gpuannot.report.writer import ReportWriter


@pytest.fixture(autouse=True)
def warnings_as_before() -> Iterator[None]:
    """Each command replaces how warnings are shown."""
    with warnings.catch_warnings():
        yield


@pytest.fixture(scope="module")
def annotator(scenes: LabelledImages) -> Annotator:
    return Annotator(device="cpu", **CHANGES).fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary, progress=False)


@pytest.fixture(scope="module")
def model(annotator: Annotator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return annotator.save(tmp_path_factory.mktemp("model") / "model.safetensors")


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


class Elements(HTMLParser):
    """Start tags with their attributes, and the text of scripts and styles."""

    CDATA_CONTENT_ELEMENTS = ("script", "style")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.texts.append("")
        self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[-1] += data


# ---- the file


def test_words_of_each_image(tmp_path: Path) -> None:
    paths = pictures(tmp_path / "in", ["a.jpg", "b.jpg"])
    data = write_page(
        tmp_path / "r.html", paths, [["sky", "sea"], ["car", "sky"]], [["sky"], ["sea", "sky"]], ["sky", "sea", "car"]
    )
    assert data["folder"] == f"{tmp_path}/in/" and data["images"]["names"] == ["a.jpg", "b.jpg"]
    assert data["images"]["given"] == [[0, 1], [2, 0]] and data["images"]["truth"] == [[0], [0, 1]]
    assert data["images"]["values"] == [[1.0, 2.0], [1.01, 2.01]] and data["measure"] == "distance"
    assert data["table"] == {"given": [2, 1, 1], "right": [2, 0, 0], "true": [2, 1, 0], "training": None}
    assert data["confusion"] == [[1, 1, [[2, 1]]]]
    assert data["scores"] == pytest.approx({"precision": 1 / 3, "recall": 1 / 3, "f1": 1 / 3, "n_plus": 1, "words_given": 3})
    assert (data["annotated"], data["failed"], data["unpreviewed"], data["grid"]) == (2, 0, 0, None)


def test_the_page_refers_to_nothing_outside_it(tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    write_page(page, pictures(tmp_path / "in", ["a.jpg"]), [["sky"]], None, ["sky"])
    elements = Elements(page.read_text(encoding="utf-8"))
    for _, attributes in elements.tags:
        for name in ("src", "href", "action", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    assert "sourceMappingURL" not in page.read_text(encoding="utf-8")
    assert not [text for (tag, _), text in zip(elements.tags, elements.texts, strict=True) if tag == "style" and "url(" in text]


def test_the_policy_allows_the_scripts_of_the_page_and_no_other(tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    write_page(page, pictures(tmp_path / "in", ["a.jpg"]), [["sky"]], None, ["sky"])
    elements = Elements(page.read_bytes().decode("utf-8"))
    [policy] = [a["content"] or "" for _, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "http" not in policy
    allowed = dict(re.findall(r"(script-src|style-src) ([^;]+)", policy))
    for kind, count in (("script", 3), ("style", 1)):
        texts = [text for (tag, a), text in zip(elements.tags, elements.texts, strict=True) if tag == kind and "type" not in a]
        digests = [f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'" for text in texts]
        assert len(digests) == count and allowed[f"{kind}-src"].split() == digests


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    words = list(HOSTILE_WORDS)
    paths = pictures(tmp_path / "in", [HOSTILE_NAME, "b.jpg"])
    page, title = tmp_path / "r.html", "</title><script>alert('t')</script>"
    data = write_page(page, paths, [words[:2], words[2:4]], [words[1:3], words[4:]], words, title=title)
    assert data["words"] == words and data["images"]["names"][0] == HOSTILE_NAME and data["title"] == title
    plain = tmp_path / "plain.html"
    write_page(plain, pictures(tmp_path / "in", ["a.jpg", "b.jpg"]), [["s", "t"]] * 2, [["s"]] * 2, ["s", "t"])
    tags = [[tag for tag, _ in Elements(path.read_text(encoding="utf-8")).tags] for path in (page, plain)]
    assert tags[0] == tags[1]  # the same elements as a page of harmless words


@pytest.mark.parametrize("images", [1, 63, 64, 65, 130])
def test_a_limit_shows_some_and_counts_all(tmp_path: Path, images: int) -> None:
    paths = pictures(tmp_path / "in", [f"{number:03d}.png" for number in range(images)])
    given = [["a"] if number % 2 else ["b"] for number in range(images)]
    data = write_page(tmp_path / "r.html", paths, given, None, ["a", "b"], limit=64)
    assert len(data["images"]["names"]) == min(images, 64) and data["annotated"] == images
    assert data["table"]["given"] == [images // 2, images - images // 2]
    shown = [int(name.removesuffix(".png")) for name in data["images"]["names"]]
    assert set(np.diff(shown).tolist()) <= {images // 64 or 1, -(-images // 64)}
    lines = [
        line
        for block in re.findall(r'(?s)<script type="text/plain" id="p\d+">(.*?)</script>', (tmp_path / "r.html").read_text())
        for line in block.split("\n")[:-1]
    ]
    assert len(lines) == len(shown) and len(set(lines)) == len(shown)


def test_an_image_that_is_gone_has_no_preview(tmp_path: Path) -> None:
    paths = pictures(tmp_path / "in", ["a.png", "b.png"])
    paths[0].unlink()
    data = write_page(tmp_path / "r.html", paths, [["a"], ["a"]], None, ["a"])
    assert data["unpreviewed"] == 1 and data["images"]["names"] == ["a.png", "b.png"]
    assert re.search(r'id="p0">\n[A-Za-z0-9+/=]+\n</script>', (tmp_path / "r.html").read_text())


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder for the report"):
        ReportWriter(tmp_path / "no" / "r.html", ["a"], 1)
    (tmp_path / "r.html").write_text("mine")
    with pytest.raises(DataError, match=r"exists; choose another name"):
        ReportWriter(tmp_path / "r.html", ["a"], 1)
    with pytest.raises(DataError, match="is a folder"):
        ReportWriter(tmp_path, ["a"], 1, overwrite=True)
    with pytest.raises(ValueError, match=r"truth has shape \(1, 2\), expected \(3, 2\)"):
        ReportWriter(tmp_path / "s.html", ["a", "b"], 3, truth=np.zeros((1, 2)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="limit = 0"):
        ReportWriter(tmp_path / "s.html", ["a"], 1, limit=0)
    with (
        ReportWriter(tmp_path / "r.html", ["a"], 1, overwrite=True) as writer,
        pytest.raises(DataError, match="no images were given"),
    ):
        writer.commit()
    assert (tmp_path / "r.html").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.html"]


# ---- from a model, and from annotations


def test_from_a_model(annotator: Annotator, scenes: LabelledImages, tmp_path: Path) -> None:
    failures = report_images(annotator, scenes, tmp_path / "r.html", 3, progress=False)
    data, found = data_of(tmp_path / "r.html"), annotator.annotate(scenes.paths, 3, progress=False)
    assert failures == [] and data["images"]["given"] == found.index.tolist()
    assert data["words"] == list(annotator.vocabulary) and data["table"]["training"] == annotator.bank_.counts.tolist()
    assert data["images"]["truth"] == [sorted(scenes.labels[[row]].indices.tolist()) for row in range(24)]
    facts = {title: dict(pairs) for title, pairs in data["run"]}
    assert facts["Model"]["SHA-256"] == annotator.to_model_file().sha256
    assert facts["Settings"]["n_centers"] == str(annotator.config.n_centers) and facts["Versions"]["gpuannot"]


def test_heatmaps_are_what_the_annotator_explains(annotator: Annotator, drawn_scenes: Path, tmp_path: Path) -> None:
    sources = sorted((drawn_scenes / "images").iterdir())
    report_images(annotator, sources, tmp_path / "r.html", 3, progress=False)
    data = data_of(tmp_path / "r.html")
    rows, columns = data["grid"]
    [block] = re.findall(r'(?s)<script type="text/plain" id="h0">(.*?)</script>', (tmp_path / "r.html").read_text())
    explained = annotator.explain(sources, k=3, progress=False)
    for line, found, words in zip(block.split(), explained, data["images"]["given"], strict=True):
        assert words == found.index.tolist() and (rows, columns) == found.grid
        levels = np.frombuffer(base64.b64decode(line), np.uint8).reshape(3, rows * columns)
        for level, contributions in zip(levels, found.contributions, strict=True):
            # Of two patches that say nearly as much both levels may round to the highest.
            assert level[contributions.argmax()] == 255 and not level[contributions <= 0].any()
            assert np.allclose(level / 255, np.clip(contributions, 0, None) / contributions.max(), atol=0.002)
    report_images(annotator, sources, tmp_path / "plain.html", 3, heatmaps=False, progress=False)
    assert data_of(tmp_path / "plain.html")["grid"] is None and 'id="h0"' not in (tmp_path / "plain.html").read_text()


@pytest.mark.parametrize(("head", "measure"), [("ridge", "confidence"), ("ridge", "negative score"), ("mean", "distance")])
def test_values_are_named_for_what_they_are(scenes: LabelledImages, tmp_path: Path, head: str, measure: str) -> None:
    annotator = Annotator(device="cpu", head=head, **CHANGES).fit(
        scenes.paths, scenes.labels, vocabulary=scenes.vocabulary, progress=False
    )
    if measure == "negative score":
        annotator.words.head.logistic = None  # as where all or none of the words that training images would be given were right
        annotator.words.changed()
    report_images(annotator, scenes, tmp_path / "r.html", 3, heatmaps=False, progress=False)
    data, found = data_of(tmp_path / "r.html"), annotator.annotate(scenes.paths, 3, progress=False)
    confidence = annotator.confidence(found.index, found.distance)
    assert data["measure"] == measure and (confidence is not None) == (measure == "confidence")
    assert np.allclose(data["images"]["values"], found.distance if confidence is None else confidence, rtol=1e-3)
    if confidence is None:
        assert data["reliability"] is None
    else:
        assert data["reliability"] == reliability(confidence, found.index, scenes.labels).to_dict()
        assert sum(data["reliability"]["pairs"]) == found.index.size


@pytest.mark.parametrize(("words", "expected"), [((["sea"], []), [0, 1]), (([], []), None)])
def test_images_that_were_given_no_word(words: tuple[list[str], ...], expected: list[int] | None, tmp_path: Path) -> None:
    paths = pictures(tmp_path / "in", ["a.jpg", "b.jpg"])
    rows = [{"path": str(path), "words": own, "confidences": [0.5] * len(own)} for path, own in zip(paths, words, strict=True)]
    (tmp_path / "w.jsonl").write_text("\n".join(map(json.dumps, rows)))
    labels = {"samples": [{"image_name": path.name, "image_labels": ["sky"]} for path in paths]}
    (tmp_path / "in" / "labels.json").write_text(json.dumps(labels))
    report_files(tmp_path / "w.jsonl", tmp_path / "r.html", labels=load_labelled_images(tmp_path / "in"), progress=False)
    found = data_of(tmp_path / "r.html")["reliability"]
    assert found is None if expected is None else (sum(found["pairs"]), found["error"]) == (1, 0.5)


def test_words_without_the_confidences_that_others_have(tmp_path: Path) -> None:
    paths = pictures(tmp_path / "in", ["a.jpg", "b.jpg"])
    rows = [{"path": str(path), "words": ["sky"]} for path in paths]
    (tmp_path / "w.jsonl").write_text("\n".join(map(json.dumps, [{**rows[0], "confidences": [0.75]}, rows[1]])))
    labels = {"samples": [{"image_name": path.name, "image_labels": ["sky"]} for path in paths]}
    (tmp_path / "in" / "labels.json").write_text(json.dumps(labels))
    report_files(tmp_path / "w.jsonl", tmp_path / "r.html", labels=load_labelled_images(tmp_path / "in"), progress=False)
    data = data_of(tmp_path / "r.html")
    assert data["measure"] == "confidence" and data["images"]["values"] == [[0.75], []]
    assert sum(data["reliability"]["pairs"]) == 1 and data["table"]["given"] == [2]


def test_an_image_that_goes_before_it_is_explained(annotator: Annotator, drawn_scenes: Path, tmp_path: Path) -> None:
    paths = [Path(shutil.copy(drawn_scenes / "images" / f"scene_0000{number}.jpg", tmp_path)) for number in range(3)]
    annotations = annotator.annotate(paths, 2, progress=False)
    paths[1].unlink()
    with ReportWriter(tmp_path / "r.html", annotator.vocabulary, 3, annotator=annotator) as writer:
        with pytest.warns(UserWarning, match="1 of 3 images could not be read"):
            writer.add(annotations, paths)
        writer.commit()
    [block] = re.findall(r'(?s)<script type="text/plain" id="h0">(.*?)</script>', (tmp_path / "r.html").read_text())
    assert [bool(line) for line in block.split("\n")[:-1]] == [True, False, True]
    assert data_of(tmp_path / "r.html")["unpreviewed"] == 1


def test_failures_and_words_that_the_model_lacks(annotator: Annotator, drawn_scenes: Path, tmp_path: Path) -> None:
    image = (drawn_scenes / "images" / "scene_00000.jpg").read_bytes()
    (tmp_path / "good.jpg").write_bytes(image)
    (tmp_path / "bad.jpg").write_bytes(b"junk")
    samples = [{"image_name": "bad.jpg", "image_labels": ["sky"]}, {"image_name": "good.jpg", "image_labels": ["sky", "zebra"]}]
    (tmp_path / "labels.json").write_text(json.dumps({"samples": samples}))
    failures = report_images(annotator, load_labelled_images(tmp_path), tmp_path / "r.html", progress=False)
    data = data_of(tmp_path / "r.html")
    assert [failure.path for failure in failures] == [str(tmp_path / "bad.jpg")]
    assert (data["annotated"], data["failed"], data["words"][-1]) == (1, 1, "zebra")
    assert data["failures"][0][0] == str(tmp_path / "bad.jpg") and data["failures"][0][1] == "decode"
    assert data["confusion"][-1][:2] == [len(data["words"]) - 1, 1] and data["table"]["training"][-1] == 0
    with pytest.raises(DataError, match="nothing to report in"):
        report_images(annotator, [tmp_path / "bad.jpg"], tmp_path / "none.html", progress=False)
    assert not (tmp_path / "none.html").exists()


@pytest.mark.parametrize("name", ["words.parquet", "words.jsonl", "words.csv", "parts"])
def test_from_annotations(annotator: Annotator, drawn_scenes: Path, scenes: LabelledImages, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    found = annotator.annotate(scenes.paths, progress=False)
    if name == "parts":
        (tmp_path / "bad.jpg").write_bytes(b"junk")
        annotator.batch([drawn_scenes / "images", tmp_path / "bad.jpg"], out, part_size=10, progress=False)
    else:
        with AnnotationWriter(out, model_sha256="0" * 64) as writer:
            writer.write(found)
            writer.commit()
    result = run("report", out, "-o", tmp_path / "r.html", "--labels", drawn_scenes)
    assert result.exit_code == 0, result.stderr
    data = data_of(tmp_path / "r.html")
    given = [[data["words"][word] for word in words] for words in data["images"]["given"]]
    assert given == [list(words) for words in found.words]
    assert [data["folder"] + name for name in data["images"]["names"]] == list(found.names)
    carried = [{data["words"][word] for word in words} for words in data["images"]["truth"]]
    assert carried == [{scenes.vocabulary[word] for word in scenes.labels[[row]].indices} for row in range(24)]
    assert (data["failed"], data["unpreviewed"]) == (int(name == "parts"), 0)
    plain = tmp_path / "plain.html"
    assert run("report", out, "-o", plain).exit_code == 0 and data_of(plain)["scores"] is None


@pytest.mark.parametrize("shard", ["s.tar", "s.tar.gz"])
def test_from_images_of_tar_shards(model: Path, drawn_scenes: Path, tmp_path: Path, shard: str) -> None:
    from tars import write_tar

    image = (drawn_scenes / "images" / "scene_00000.jpg").read_bytes()
    write_tar(tmp_path / shard, {"x.jpg": image, "bad.jpg": b"", "y.jpg": image})
    out = tmp_path / "parts"
    assert run("annotate", model, tmp_path / shard, "-o", out, "--report", tmp_path / "r.html").exit_code == 1
    data = data_of(tmp_path / "r.html")
    assert data["images"]["names"] == ["x.jpg", "y.jpg"] and (data["failed"], data["unpreviewed"]) == (1, 0)
    assert re.search(r'id="h0">\n?[A-Za-z0-9+/=]+\n[A-Za-z0-9+/=]+\n</script>', (tmp_path / "r.html").read_text())
    assert run("report", out, "-o", tmp_path / "again.html").exit_code == 0
    assert data_of(tmp_path / "again.html")["images"]["given"] == [
        [data_of(tmp_path / "again.html")["words"].index(data["words"][word]) for word in words]
        for words in data["images"]["given"]
    ]


def test_annotations_that_do_not_fit(model: Path, annotator: Annotator, scenes: LabelledImages, tmp_path: Path) -> None:
    path = tmp_path / "words.jsonl"
    row = {"path": "nowhere.jpg", "words": ["sky"], "distances": [1.0], "model": "0" * 64}
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"labels has labels of none of the 1 image of .* \(first: nowhere.jpg\)"):
        report_files(path, tmp_path / "r.html", labels=scenes)
    with pytest.raises(DataError, match="written with another model"):
        report_files(path, tmp_path / "r.html", annotator=annotator)
    assert not (tmp_path / "r.html").exists()
    report_files(path, tmp_path / "r.html", progress=False)
    assert data_of(tmp_path / "r.html")["unpreviewed"] == 1


def test_labels_of_some_images(model: Path, annotator: Annotator, scenes: LabelledImages, tmp_path: Path) -> None:
    """Scores are those of the labelled images, as if the others had not been given; the others are shown without marks."""
    some = LabelledImages("some", scenes.image_names[:9], scenes.paths[:9], scenes.labels[:9], scenes.vocabulary)
    found = annotator.annotate(scenes.paths, progress=False)
    with AnnotationWriter(tmp_path / "w.jsonl", model_sha256="0" * 64) as writer:
        writer.write(found)
        writer.commit()
    report_files(tmp_path / "w.jsonl", tmp_path / "r.html", labels=some, progress=False)
    data = data_of(tmp_path / "r.html")
    assert (data["annotated"], data["labelled"]) == (24, 9) and data["images"]["truth"][9:] == [None] * 15
    carried = [[scenes.vocabulary[word] for word in scenes.labels[[row]].indices] for row in range(9)]
    assert [sorted(data["words"][word] for word in row) for row in data["images"]["truth"][:9]] == list(map(sorted, carried))
    index = np.array([[data["words"].index(word) for word in words] for words in found.words[:9]])
    expected = evaluate(index, label_matrix(carried, data["words"])[0]).to_dict()
    assert data["scores"] == pytest.approx({name: expected[name] for name in data["scores"]})
    assert sum(data["table"]["given"]) == 9 * index.shape[1]


@pytest.mark.filterwarnings("default")
def test_labels_in_capitals(model: Path, drawn_scenes: Path, tmp_path: Path) -> None:
    """With --fold-case they are the model's words, from a model as from a file of annotations."""
    shutil.copytree(drawn_scenes / "images", tmp_path / "images")
    content = json.loads((drawn_scenes / "labels.json").read_text())
    for sample in content["samples"][:20]:
        sample["image_labels"] = [word.upper() for word in sample["image_labels"]]
    del content["labels"], content["samples"][20:]
    (tmp_path / "labels.json").write_text(json.dumps(content))
    assert run("annotate", model, tmp_path / "images", "-o", tmp_path / "w.csv", "-q").exit_code == 0
    for arguments in ([model, tmp_path], [tmp_path / "w.csv", "--labels", tmp_path]):
        result = run("report", *arguments, "-o", tmp_path / "r.html", "--fold-case", "--overwrite")
        assert result.exit_code == 0, result.stderr
        data = data_of(tmp_path / "r.html")
        assert not any(word.isupper() for word in data["words"]) and data["scores"]["n_plus"] > 5 and data["labelled"] == 20
    result = run("report", model, tmp_path, "-o", tmp_path / "r.html", "--overwrite")
    assert "4 images without labels left out" in result.stderr and data_of(tmp_path / "r.html")["scores"]["n_plus"] == 0


# ---- the commands


def test_report_of_a_model(model: Path, drawn_scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"junk")
    result = run("report", model, drawn_scenes, "-o", tmp_path / "labelled.html", "-k", "2", "--title", "Mine")
    assert result.exit_code == 0 and f"{tmp_path}/labelled.html: 24 images" in result.stderr
    data = data_of(tmp_path / "labelled.html")
    assert data["scores"] is not None and data["title"] == "Mine" and {len(words) for words in data["images"]["given"]} == {2}
    result = run("report", model, drawn_scenes / "images", tmp_path / "bad.jpg", "-o", tmp_path / "plain.html", "--limit", "5")
    assert result.exit_code == 1 and f"1 input failed:\n  {tmp_path}/bad.jpg" in result.stderr
    data = data_of(tmp_path / "plain.html")
    assert data["scores"] is None and (data["annotated"], len(data["images"]["names"])) == (24, 4)
    refused = run("report", model, drawn_scenes, "-o", tmp_path / "plain.html")
    assert refused.exit_code == 2 and "--overwrite" in refused.stderr
    assert run("report", model, drawn_scenes, "-o", tmp_path / "plain.html", "--overwrite").exit_code == 0
    assert run("report", model, tmp_path / "bad.jpg", "-o", tmp_path / "none.html").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["MODEL"], "images to annotate with"),
        (["words.jsonl", "images"], "leave out images"),
        (["MODEL", "images", "--labels", "labels.json"], "--labels goes with annotations"),
        (["nowhere"], "nowhere: no such file or folder"),
        (["labels.json"], "expected a model (.safetensors), or annotations ending in .parquet, .jsonl, .csv"),
        (["empty"], "empty holds no annotations"),
        (["words.jsonl", "-o", "no/r.html"], "no: no such folder for the report"),
        (["MODEL", "images", "-k", "1000"], "k = 1000 must lie in"),
    ],
)
def test_wrong_use(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "labels.json").write_text("{}")
    (tmp_path / "words.jsonl").write_text('{"path": "a.jpg", "words": []}\n')
    pictures(tmp_path / "images", ["a.png"])
    result = run("report", *(str(model) if argument == "MODEL" else argument for argument in arguments))
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and expected in result.stderr
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("to", [[], ["-o", "words.csv"], ["-o", "parts/"]])
def test_annotate_with_a_report(
    model: Path, drawn_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = run("annotate", model, drawn_scenes / "images")
    result = run("annotate", model, drawn_scenes / "images", *to, "--report", "r.html")
    assert result.exit_code == 0 and "r.html: written" in result.stderr
    assert to or result.stdout == plain.stdout
    data = data_of(tmp_path / "r.html")
    printed = [line.split("\t")[1].split(", ") for line in plain.stdout.splitlines()]
    assert [[data["words"][word] for word in words] for words in data["images"]["given"]] == printed
    refused = run("annotate", model, drawn_scenes / "images", "--report", "r.html")
    assert refused.exit_code == 2 and "r.html exists" in refused.stderr and refused.stdout == ""


def test_evaluate_with_a_report(model: Path, drawn_scenes: Path, tmp_path: Path) -> None:
    result = run("evaluate", model, drawn_scenes, "--json", "--report", tmp_path / "r.html")
    assert result.exit_code == 0
    expected, data = json.loads(result.stdout), data_of(tmp_path / "r.html")
    assert data["scores"] == pytest.approx({name: expected[name] for name in data["scores"]})


def test_demo_with_a_report(tmp_path: Path) -> None:
    page = tmp_path / "new" / "report.html"
    result = run("demo", tmp_path / "new", "--train", "4", "--test", "2", "--report", page)
    assert result.exit_code == 0 and f"look at:\n  {page}  every test scene" in result.stdout
    expected, data = json.loads((tmp_path / "new" / "scores.json").read_text())["scores"], data_of(page)
    assert data["scores"] == pytest.approx({name: expected[name] for name in data["scores"]})
    assert data["run"][0][0] == "Seconds"


def test_reproduce_with_a_report(benchmark_folder: Path, tmp_path: Path) -> None:
    arguments = ["reproduce", "corel5k", "--data", benchmark_folder, "--cache", tmp_path / "cache", "--json", "--seeds", "2"]
    settings = [part for name, value in CHANGES.items() for part in ("--set", f"{name}={value}")]
    result = run(*arguments, *settings, "--report", tmp_path / "r.html")
    assert result.exit_code == 0, result.stderr
    expected, data = json.loads(result.stdout)["runs"][0], data_of(tmp_path / "r.html")
    assert data["scores"] == pytest.approx({name: expected[name] for name in data["scores"]})
    assert data["title"] == "corel5k/test, seed 0" and data["annotated"] == 6
    refused = run(*arguments[:-2], "--table", "--report", tmp_path / "other.html")
    assert refused.exit_code == 2 and "leave out --table" in refused.stderr


def test_annotations_come_through_unchanged(annotator: Annotator, drawn_scenes: Path, tmp_path: Path) -> None:
    sources = sorted((drawn_scenes / "images").iterdir())
    with ReportWriter(tmp_path / "r.html", annotator.vocabulary, len(sources)) as writer:
        parts = list(writer.passing(annotator.stream(sources, 2, progress=False), sources))
        assert writer.annotated == 24
    joined, expected = Annotations.joined(parts, annotator.vocabulary, 2), annotator.annotate(sources, 2, progress=False)
    assert joined.names == expected.names and np.array_equal(joined.index, expected.index)
    assert not (tmp_path / "r.html").exists()  # without commit
