"""Labels reviewed in headless Chromium, with keys and with a finger, and what was corrected learnt by a model."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from browser import By, Keys, Reader, WebDriverWait, touch
from report_pages import pictures, write_page
from small import load_weights_once, small_annotator
from typer.testing import CliRunner

from gpuannot import Annotator
from gpuannot.cli.main import app
from gpuannot.datasets.corrections import corrected, load_corrections
from gpuannot.datasets.label_files import LabelledImages, load_labelled_images
from gpuannot.datasets.scenes import write_scenes
from gpuannot.experiments.audit import audit_images
from gpuannot.method import trunks
from gpuannot.report.audited import write_audit

# `best` at a small size; λ and balance are told, so that a fit to other labels has the same.
SMALL_BEST: dict[str, Any] = {
    "layer": "pool2", "input_size": 32, "n_components": 8, "n_centers": 4, "signed_sqrt": True, "l2": True, "projection": 12,
    "quadratic": 3, "head": "ridge", "regularisation": 0.5, "balance": 0.0,
}  # fmt: skip


class Reviewed(NamedTuple):
    images: LabelledImages
    model: Path
    page: Path
    undoubted: Path
    only_once: list[str]


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory: pytest.TempPathFactory) -> Reviewed:
    """40 drawn scenes, of which every other one calls the sky heaven, and a copy of one with a word less; a model of them, and the
    page of their audit."""
    folder = tmp_path_factory.mktemp("reviewed")
    labels = write_scenes(folder, 40)
    samples = json.loads(labels.read_text())["samples"]
    for sample in samples[::2]:
        sample["image_labels"] = ["heaven" if word == "sky" else word for word in sample["image_labels"]]
    shutil.copy(folder / "images" / samples[1]["image_name"], folder / "images" / "copy.jpg")
    samples.append({"image_name": "copy.jpg", "image_labels": samples[1]["image_labels"][1:]})
    labels.write_text(json.dumps({"samples": samples}))
    images = load_labelled_images(labels)
    annotator = small_annotator(**SMALL_BEST)
    found = audit_images(annotator, images, progress=False)
    page = write_audit(found.audit, images, annotator, folder / "audit.html", title="Drawn <scenes>")
    nothing = dataclasses.replace(found.audit, wrong=(), missing=(), alike=(), confused=(), few=())
    undoubted = write_audit(nothing, images, annotator, folder / "undoubted.html", limit=1)
    return Reviewed(images, annotator.save(folder / "model.safetensors"), page, undoubted, samples[1]["image_labels"][:1])


def exported(reader: Reader, folder: Path) -> Any:
    """What pressing E downloads."""
    reader.browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    reader.press("e")
    WebDriverWait(reader.browser, 10, poll_frequency=0.05).until(lambda _: (folder / "corrections.json").is_file())
    return json.loads((folder / "corrections.json").read_text())


def shown_words(reader: Reader) -> list[tuple[str, bool]]:
    """The words of the image, and whether it carries them."""
    script = (
        "return [...document.querySelectorAll('#review-words button')]"
        ".map((each) => [each.querySelector('.text').textContent, each.getAttribute('aria-pressed') === 'true'])"
    )
    return [(text, on) for text, on in reader.script(script)]


def test_twenty_corrections_are_exported_and_learnt_as_a_fit_would(
    read: Any, reviewed: Reviewed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = read(reviewed.page)
    reader.script("localStorage.clear()")
    reader = read(reviewed.page)
    assert reader.one("h1").text == "Drawn <scenes>" and reader.one(".tabs [aria-current]").text == "Review"
    expected: dict[str, set[str]] = {}
    for number in range(20):
        before = shown_words(reader)
        now = {word for word, on in before if on}
        name = reader.one("#review-name").text
        if number % 4 == 0:  # turn the most doubtful word round
            word, on = before[0]
            reader.press("n" if on else "y")
            now ^= {word}
        elif number % 4 == 1:  # the second word off, or on; a word of the vocabulary in other capitals
            word, on = before[1]
            reader.press(Keys.ARROW_DOWN, "n" if on else "y", "a", "NIGHT", Keys.ENTER, Keys.ESCAPE)
            now = (now ^ {word}) | {"night"}
        elif number % 4 == 2:  # a new word, and another that is taken off again
            reader.press("a", "zébra crossing", Keys.ENTER, "slip", Keys.ENTER, Keys.ESCAPE, "n")
            now |= {"zébra crossing"}
        else:  # all undone, then the first one off
            reader.press("n", "n", "u", Keys.ARROW_UP, Keys.ARROW_UP, "n")
            now -= {before[0][0]}
        assert {word for word, on in shown_words(reader) if on} == now, number
        expected[name] = now
        reader.press("c")
    assert reader.one("#review-count").text.startswith("20 reviewed, ")
    reader.browser.refresh()  # what was decided is kept, and the review goes on where it was
    assert reader.one("#review-count").text.startswith("20 reviewed, ") and reader.one("#review-place").text.startswith("21 of ")
    content = exported(reader, tmp_path)
    assert {Path(sample["image_name"]).name: set(sample["image_labels"]) for sample in content["samples"]} == expected

    corrections = load_corrections(tmp_path / "corrections.json")
    monkeypatch.setattr(trunks, "load_weights", load_weights_once)
    with warnings.catch_warnings():
        ran = CliRunner().invoke(
            app,
            ["learn", str(reviewed.model), str(tmp_path / "corrections.json"), "-o", str(tmp_path / "new.safetensors"), "--json"],
        )
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout)
    assert told["corrected"] + told["same"] == 20 and told["added"] == 0
    assert told["words"]["zébra crossing"] == {"images_before": 0, "images": 5, "gained": 5, "lost": 0}
    words = corrected(reviewed.images, corrections)
    learnt = Annotator.load(tmp_path / "new.safetensors", device="cpu")
    fitted = small_annotator(**SMALL_BEST).fit(reviewed.images.paths, words, vocabulary=learnt.vocabulary, progress=False)
    scores = [every_score(each, reviewed.images) for each in (learnt, fitted)]
    assert np.abs(scores[0] - scores[1]).max() < 1e-5 * np.ptp(scores[1])


def every_score(annotator: Annotator, images: LabelledImages) -> Any:
    """(N, W), 0 for words without an image."""
    index, distance = annotator.words.rank(annotator.encoder.encode(images.paths, progress=False)[1], len(annotator.bank_.known))
    found = np.zeros((len(images), len(annotator.vocabulary)))
    np.put_along_axis(found, index, distance.astype(np.float64), axis=1)
    return found


def test_pairs_and_words_of_an_audit(read: Any, reviewed: Reviewed) -> None:
    reader = read(reviewed.page)
    data = json.loads(reader.script("return document.getElementById('data').textContent"))
    reader.script("location.hash = 'words'")
    texts = [[cell.text for cell in row.find_elements(By.TAG_NAME, "td")] for row in reader.all("#confused-table tbody tr")]
    assert texts[0][:2] == ["heaven", "sky"] and 50 <= int(texts[0][2].rstrip("%")) < 75 and len(texts) == len(data["confused"])
    assert len(reader.all("#few-table tbody tr")) == len(data["few"]) > 0 and reader.one("#few-table").is_displayed()
    reader.script("location.hash = 'alike'")
    assert len(reader.all("#alike-list > li")) == len(data["alike"]) > 0
    pair = reader.one("#alike-list > li")
    assert "copy.jpg" in pair.text and [each.text for each in pair.find_elements(By.CLASS_NAME, "chip")] == reviewed.only_once
    pair.find_elements(By.CLASS_NAME, "open")[1].click()
    assert reader.turns_to("Review") and reader.one("#review-name").text == "copy.jpg"


def test_an_audit_that_finds_nothing(read: Any, reviewed: Reviewed) -> None:
    """Its images can be reviewed all the same, as many as fit."""
    reader = read(reviewed.undoubted)
    assert reader.all(".tiles dd")[-1].text == "1" and reader.one("#review-place").text.startswith("1 of 1 image")
    reader.press(Keys.ARROW_RIGHT, Keys.ARROW_LEFT, "c")
    assert reader.one("#review-count").text == "1 reviewed, 0 corrected" and reader.one("#review-place").text.endswith("confirmed")
    reader.script("localStorage.clear()")


@pytest.mark.usefixtures("phone")
def test_a_review_with_a_finger(read: Any, tmp_path: Path) -> None:
    """Of a report: words that the model was sure of begin as accepted, and as its images are new, nothing says what they were."""
    paths = pictures(tmp_path / "in", ["a.png", "b.png"])
    confidence = [[0.9, 0.8], [0.6, 0.3]]
    write_page(tmp_path / "r.html", paths, [["sky", "sea"]] * 2, None, ["sky", "sea", "tree"], confidence, weak_below=0.5)
    reader = read(tmp_path / "r.html")
    reader.script("localStorage.clear(); location.hash = 'review'")
    assert reader.one("#review-name").text == "b.png" and shown_words(reader) == [("sky", True), ("sea", False)]
    assert not reader.one(".keys").is_displayed()
    touch(reader, reader.all("#review-words button")[1])
    WebDriverWait(reader.browser, 5, poll_frequency=0.05).until(lambda _: shown_words(reader) == [("sky", True), ("sea", True)])
    touch(reader, reader.one("#review-word"))
    reader.one("#review-word").send_keys("tre")
    assert [option.get_attribute("value") for option in reader.all("#vocabulary option")] == ["sea", "sky", "tree"]
    reader.one("#review-word").send_keys("e")
    touch(reader, reader.one("#review-add button"))
    wait = WebDriverWait(reader.browser, 5, poll_frequency=0.05)
    wait.until(lambda _: shown_words(reader)[-1] == ("tree", True))
    assert reader.script("return document.querySelector('#review-picture').getBoundingClientRect().top") >= 0  # above its words
    touch(reader, reader.one("#review-next"))
    wait.until(lambda _: reader.one("#review-name").text == "a.png")
    assert reader.script("return [document.documentElement.scrollWidth, innerWidth]") == [390, 390]
    for button in reader.all("#review button, #review input"):
        box = button.rect
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["height"] >= 38, button.text
    assert exported(reader, tmp_path)["samples"] == [{"image_name": str(paths[1]), "image_labels": ["sea", "sky", "tree"]}]
