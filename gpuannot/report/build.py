"""``gpuannot report``: one HTML page about images and their words, from a model or from annotations that were written before."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..datasets.label_files import LabelledImages
from ..datasets.label_words import without_case
from ..errors import DataError, counted
from ..images.decode_task import ImageFailure
from ..images.input import utf8
from ..jobs.readers import AnnotationFiles
from ..method.labels import label_matrix
from ..system.progress import progress_bar
from .writer import LIMIT, ReportWriter, check_report_path

if TYPE_CHECKING:
    from ..annotator import Annotator


def report_images(
    annotator: Annotator,
    images: Sequence[Any] | LabelledImages,
    path: str | Path,
    k: int | None = None,
    *,
    threshold: float | None = None,
    heatmaps: bool = True,
    title: str = "Annotated images",
    limit: int = LIMIT,
    overwrite: bool = False,
    progress: bool | None = None,
) -> list[ImageFailure]:
    """Annotate images and write the report; arguments without a line here are those of `ReportWriter`.

    Args:
        annotator: gives the words.
        images: a sequence of sources, or `LabelledImages`, whose labels are then the truth.
        k: words an image, or with a ``threshold`` the most; None is 5, or as many as have an image.
        threshold: confidence that a word needs to be given; None gives k words to every image.
        progress: show a bar; None shows one on terminals, elsewhere lines.

    Returns:
        the images that failed.

    Raises:
        DataError: not one image could be read, no folder for the file, or it exists.
        ValueError: k out of range.
    """
    sources: Sequence[Any]
    truth, vocabulary = None, annotator.vocabulary
    if isinstance(images, LabelledImages):
        sources = images.paths
        truth, vocabulary = truth_of(images, vocabulary)
    else:
        sources = images
    annotator.words.check_giving(k, threshold)
    failures: list[ImageFailure] = []
    with ReportWriter(
        path, vocabulary, len(sources), truth=truth, annotator=annotator, heatmaps=heatmaps, title=title, limit=limit,
        overwrite=overwrite,
    ) as report:  # fmt: skip
        for part in report.passing(annotator.stream(sources, k, threshold=threshold, progress=progress), sources):
            failures.extend(part.failures)
        report.commit()
    return failures


def report_files(
    source: str | Path,
    path: str | Path,
    *,
    labels: LabelledImages | None = None,
    fold_case: bool = False,
    annotator: Annotator | None = None,
    heatmaps: bool = True,
    title: str = "Annotated images",
    limit: int = LIMIT,
    overwrite: bool = False,
    progress: bool | None = None,
) -> None:
    """Write the report of annotations that were written before; arguments without a line here are those of `ReportWriter`.

    Args:
        source: an annotation file, or a folder of them, such as a batch run's.
        labels: the truth, of all images or some; found by the images' paths.
        fold_case: a label that differs from a word that was given in capitals alone is that word.
        annotator: that gave the words; with ``heatmaps`` it says where it saw them.
        progress: show a bar; None shows one on terminals, elsewhere lines.

    Raises:
        DataError: as `AnnotationFiles`; annotations of another model than ``annotator``; labels of none of the images; no
            folder for the file, or it exists.
    """
    check_report_path(path, overwrite)
    found = AnnotationFiles(source, None if annotator is None else annotator.vocabulary)
    if annotator is not None and found.model not in (None, annotator.to_model_file().sha256):
        raise DataError(f"{source} was written with another model ({found.model})")
    truth, labelled, vocabulary = None, None, found.vocabulary
    if labels is not None:
        labels = without_case(labels, found.vocabulary) if fold_case else labels
        rows = _rows_of(found.paths, labels, source)
        matrix, vocabulary = truth_of(labels, found.vocabulary)
        labelled = rows >= 0
        truth = sparse.csr_array(sparse.diags_array(labelled.astype(matrix.dtype)) @ matrix[np.maximum(rows, 0)])
    with (
        ReportWriter(
            path, vocabulary, len(found), truth=truth, labelled=labelled, annotator=annotator, heatmaps=heatmaps, title=title,
            limit=limit, overwrite=overwrite,
        ) as report,
        progress_bar("report", len(found), progress) as bar,
    ):  # fmt: skip
        for annotations, sources in found:
            report.add(annotations, sources)
            bar.update(len(annotations))
        report.commit(run=[("Annotations", {"from": str(source), "model, SHA-256": found.model})])


def _rows_of(paths: Sequence[str], labels: LabelledImages, source: str | Path) -> NDArray[np.int64]:
    """Where ``labels`` have each of the annotated images; −1 where they do not."""
    row = {utf8(os.path.realpath(path)): number for number, path in enumerate(labels.paths)}
    rows = np.array([row.get(utf8(os.path.realpath(path)), -1) for path in paths], np.int64)
    if len(rows) and rows.max() < 0:
        raise DataError(f"{labels.name} has labels of none of the {counted(len(rows), 'image')} of {source} (first: {paths[0]})")
    return rows


def truth_of(images: LabelledImages, vocabulary: Sequence[str]) -> tuple[sparse.csr_array, tuple[str, ...]]:
    """The truth of labelled images, in a vocabulary that holds all their words.

    Returns:
        labels (N, W') of all images by their position, and the vocabulary with the words that only the labels have appended.
    """
    words = [[images.vocabulary[word] for word in images.labels[[row]].indices] for row in range(len(images))]
    return label_matrix(words, vocabulary, extend=True)
