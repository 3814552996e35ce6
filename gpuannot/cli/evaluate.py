"""``gpuannot evaluate``: how many of the words that a model gives are right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import counted
from .exit import errors, errors_to_exit_code, exit_for
from .opening import open_model
from .options import (
    AsJson,
    Convention,
    Device,
    FoldCase,
    K,
    KeywordPaths,
    Labels,
    LabelSource,
    MachineWords,
    Model,
    Overwrite,
    Progress,
    Threshold,
    Weights,
    check_carried,
)
from .report import ReportTo, reporting
from .tables import output, plain, reliability_table, scores_table, some


@errors_to_exit_code
def evaluate(
    model: Model,
    data: Annotated[Path, typer.Argument(help="Labelled test images, in the forms that 'fit' takes.", show_default=False)],
    k: K = None,
    threshold: Threshold = None,
    labels: Labels = LabelSource.auto,
    hierarchy: KeywordPaths = False,
    machine_words: MachineWords = False,
    fold_case: FoldCase = False,
    report: ReportTo = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    weights: Weights = None,
    weights_convention: Convention = None,
    device: Device = "auto",
    progress: Progress = None,
) -> None:
    """Annotate labelled images and score the words given.

    Precision and recall are means over all words of the vocabulary (0 for words never given), F1 is that of the two means ± its
    standard error (bootstrap over the images), N+ the number of words given correctly at least once. With confidences, a table
    says how many of the words of about each confidence were right, and the mean gap, the expected calibration error, beside
    what chance alone would make it, were the confidences true.
    """
    from ..datasets.label_files import load_labelled_images
    from ..datasets.label_words import without_case
    from ..experiments.bootstrap import resample
    from ..method.labels import label_matrix
    from ..metrics import evaluate as score
    from ..metrics import reliability
    from ..model.annotations import Annotations
    from ..model.header import check_is_file

    if report is not None:
        from ..report.writer import check_report_path

        check_report_path(report, overwrite)
    check_is_file(model)
    images = load_labelled_images(data, fold_case=fold_case, labels=labels.value, hierarchy=hierarchy, machine_words=machine_words)
    check_carried(images, data, "score")
    annotator = open_model(model, weights, weights_convention, device)
    if fold_case:
        images = without_case(images, annotator.vocabulary)
    with reporting(report, annotator, images.paths, labelled=images, title=f"Evaluation on {data}", overwrite=overwrite) as passing:
        parts = list(passing(annotator.stream(images.paths, k, threshold=threshold, progress=progress)))
    annotations = Annotations.joined(parts, annotator.vocabulary, annotator.words.check_giving(k, threshold)[0])
    failures = [*images.missing, *annotations.failures]
    if not len(annotations):
        exit_for(failures, done=0)
    words = [[images.vocabulary[word] for word in images.labels[[row]].indices] for row in annotations.positions]
    truth, vocabulary = label_matrix(words, annotator.vocabulary, extend=True)
    unknown = vocabulary[len(annotator.vocabulary) :]
    if unknown:
        are = counted(len(unknown), "word is unknown to the model and counts", "words are unknown to the model and count")
        errors.print(f"[yellow]warning:[/] {are} as missed: {plain(some(unknown))}")
    scores, f1_error = score(annotations.index, truth), resample(annotations.index, truth).standard_errors()["f1"]
    true = None if annotations.confidence is None else reliability(annotations.confidence, annotations.index, truth)
    if as_json:
        content = {**scores.to_dict(), "f1_error": f1_error, "failed": len(failures)}
        typer.echo(json.dumps({**content, **({} if true is None else {"reliability": true.to_dict()})}, indent=2))
    else:
        output.print(scores_table(scores, f1_error=f1_error))
        if true is not None:
            output.print(reliability_table(true))
    exit_for(failures, done=len(annotations))
