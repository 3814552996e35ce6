"""The demonstration: draw scenes, learn from some, annotate the others, score the result, and leave files one can open."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..annotator import Annotator
from ..config import AnnotatorConfig
from ..datasets.label_files import LabelledImages, load_labelled_images
from ..datasets.scenes import WORDS, write_scenes
from ..errors import DataError
from ..jobs.writers import AnnotationWriter
from ..method.labels import label_matrix
from ..metrics import Scores, evaluate
from ..model.annotations import Annotations
from ..report.writer import ReportWriter, check_report_path


def run_demo(
    folder: str | Path,
    *,
    train: int = 400,
    test: int = 100,
    k: int = 5,
    seed: int = 0,
    preset: str = "paper",
    report: str | Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    progress: bool | None = None,
) -> dict[str, Any]:
    """Draw scenes into a new folder and run the whole method on them.

    Writes ``train/`` and ``test/`` (scenes and labels), ``model.safetensors``, ``annotations.csv``, ``annotations.parquet``,
    ``contact_sheet.png`` and ``scores.json``.

    Args:
        folder: made where it is missing.
        train: scenes to learn from.
        test: scenes to annotate.
        k: words an image.
        seed: of the scenes.
        preset: of the method's settings.
        report: file of a page to look at; None writes none.
        overwrite: replace a report that exists.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        progress: show bars.

    Returns:
        The content of ``scores.json``: our scores, those of giving every image the k most frequent words, and seconds a step.

    Raises:
        DataError: ``folder`` is a file, or holds something.
        InvalidArgumentError: no such preset, or a seed or number of scenes out of range.
    """
    folder, config = Path(folder), AnnotatorConfig.preset(preset, seed=seed)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is there already; the demo draws its images into a new folder: gpuannot demo NAME")
    if report is not None and Path(report).parent != folder:  # the folder is about to be made
        check_report_path(report, overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    clock = _Clock()
    write_scenes(folder / "train", train, seed=seed, progress=progress)
    write_scenes(folder / "test", test, seed=seed + 1, progress=progress)
    clock.mark("draw")
    training, testing = load_labelled_images(folder / "train"), load_labelled_images(folder / "test")
    annotator = Annotator(config, device=device)
    annotator.fit(training.paths, training.labels, vocabulary=training.vocabulary, progress=progress)
    annotator.save(folder / "model.safetensors")
    clock.mark("fit")
    annotations = annotator.annotate(testing.paths, k, progress=progress)
    clock.mark("annotate")
    scores = evaluate(annotations.index, testing.labels)
    for name in ("annotations.csv", "annotations.parquet"):
        with AnnotationWriter(
            folder / name,
            model_sha256=annotator.to_model_file().sha256,
            overwrite=True,
            confidence=annotator.words.has_confidence,
        ) as writer:
            writer.write(annotations)
            writer.commit()
    contact_sheet(annotations, testing).save(folder / "contact_sheet.png")
    if report is not None:
        with ReportWriter(
            report,
            annotator.vocabulary,
            len(testing),
            truth=testing.labels,
            annotator=annotator,
            title="Drawn scenes",
            overwrite=overwrite,
        ) as page:
            page.add(annotations, [testing.paths[position] for position in annotations.positions])
            page.commit(run=[("Seconds", dict(clock.seconds))])
    clock.mark("write")
    result = {
        "images": {"train": train, "test": test},
        "words": len(WORDS),
        "scores": scores.to_dict(),
        "most_frequent_words": most_frequent_words(training, testing, k).to_dict(),
        "seconds": clock.seconds,
    }
    (folder / "scores.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def most_frequent_words(training: LabelledImages, testing: LabelledImages, k: int) -> Scores:
    """The score of the simplest guess: every image gets the k words that most training images carry."""
    frequency = np.asarray(training.labels.sum(axis=0)).ravel()
    guess = np.argsort(-frequency, kind="stable")[:k]
    return evaluate(np.tile(guess, (len(testing), 1)), testing.labels)


def contact_sheet(annotations: Annotations, truth: LabelledImages, *, columns: int = 4, rows: int = 5) -> Image.Image:
    """A picture of the first images with the words given: right ones + and green, wrong ones - and red, missed ones grey."""
    width, height, line = 240, 180, 17
    k = annotations.index.shape[1]
    cell = height + line * (k + 2)
    shown = min(columns * rows, len(annotations))
    sheet = Image.new("RGB", (columns * (width + 12) + 12, -(-shown // columns) * cell + 12), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    carried, _ = label_matrix(truth.labels, truth.vocabulary)
    for number in range(shown):
        left, top = 12 + number % columns * (width + 12), 12 + number // columns * cell
        position = int(annotations.positions[number])
        with Image.open(truth.paths[position]) as image:
            sheet.paste(image.convert("RGB").resize((width, height)), (left, top))
        true_words = [truth.vocabulary[word] for word in carried[[position]].indices]
        lines = _caption(annotations.words[number], true_words, annotations.distance[number])
        for offset, (text, colour) in enumerate(lines):
            draw.text((left, top + height + 3 + offset * line), _fit(draw, text, font, width), fill=colour, font=font)
    return sheet


def _caption(words: Sequence[str], true_words: Sequence[str], distance: NDArray[np.float32]) -> list[tuple[str, str]]:
    lines = [
        (f"{'+' if word in true_words else '-'} {word}  {value:.0f}", "#117733" if word in true_words else "#bb2222")
        for word, value in zip(words, distance, strict=True)
    ]
    missed = [word for word in true_words if word not in words]
    return [*lines, ("missed: " + ", ".join(missed), "#777777")] if missed else lines


def _fit(draw: ImageDraw.ImageDraw, text: str, font: Any, width: int) -> str:
    while draw.textlength(text, font=font) > width:
        text = text[:-2] + "…"
    return text


class _Clock:
    """Seconds since the last mark, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def mark(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._last = round(now - self._last, 1), now
