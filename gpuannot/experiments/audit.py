"""``gpuannot audit``: labelled images through the encoder once, and what their labels leave to doubt."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..annotator import Annotator
from ..config import REGRESSIONS
from ..datasets.label_files import LabelledImages
from ..errors import DataError, counted
from ..images.decode_task import ImageFailure
from ..model.audit import FEW, Audit, audit, kept_vectors, learn_vectors, regression_of
from ..model.encoder import to_host
from ..model.fit import learn_codebook, learn_transform, reading, statistics_positions
from ..model.word_model import WordModel
from ..system.progress import progress_bar


class Audited(NamedTuple):
    """An audit, the images that it is about, and those that could not be read."""

    audit: Audit
    images: LabelledImages
    failures: list[ImageFailure]


def audit_images(annotator: Annotator, images: LabelledImages, *, progress: bool | None = None) -> Audited:
    """Audit the labels of images: :func:`gpuannot.model.audit.audit`.

    Args:
        annotator: one that has learnt nothing learns these images here, as :meth:`~gpuannot.Annotator.fit` would; of one that has
            learnt, the encoder serves and stays as it is. Where it has the head ``kernel`` and learnt these very images and labels,
            their vectors are taken from it.
        images: with their words.
        progress: show bars; None shows them on terminals.

    Raises:
        DataError: no word is carried by enough images to judge its labels, or not one image can be read.
    """
    counts = np.asarray(images.labels.sum(axis=0)).ravel()
    if not (counts >= FEW).any():
        most = int(counts.max(initial=0))
        raise DataError(
            f"{images.name}: no word is carried by {FEW} images, only by up to {most}, which is too few to judge its labels by"
        )
    words = annotator.words
    learns = not hasattr(words, "bank_")
    if not learns and (vectors := kept_vectors(words, images.labels, images.vocabulary)) is not None:
        return Audited(audit(words, vectors, images.labels), images, [])
    positions, vectors = _fitted(words, images, progress) if learns else words.encoder.encode(images.paths, progress=progress)
    if not len(positions):
        raise DataError(f"not one of the {counted(len(images), 'image')} of {images.name} can be read")
    read = _at(images, positions)
    if learns:
        learn_vectors(words, vectors, read.labels, read.vocabulary)
    serves = learns and words.config.head in REGRESSIONS
    learnt = words if serves else regression_of(words, vectors, read.labels, read.vocabulary)
    return Audited(audit(learnt, vectors, read.labels), read, list(words.encoder.failures_))


def _fitted(words: WordModel, images: LabelledImages, progress: bool | None) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Fit the encoder: positions (T,) of the images that can be read, ascending, and their vectors (T, D)."""
    encoder = words.encoder
    encoder.extractor.failures = []
    learn_from = statistics_positions(words, len(images))
    others = np.setdiff1d(np.arange(len(images)), learn_from)
    with reading(words, images.paths, images.labels, images.vocabulary, learn_from, others, progress) as steps:
        learn_transform(encoder, steps)
        learn_codebook(encoder, steps)
        parts = [(steps.descriptors.positions, steps.vectors())]
        with progress_bar("trunk", len(others), progress) as bar:
            parts += [(rows, to_host(found)) for rows, found in encoder.encode_images(images.paths, others, advance=bar.update)]
    positions = np.concatenate([rows for rows, _ in parts])
    order = np.argsort(positions, kind="stable")
    return positions[order], np.concatenate([found for _, found in parts])[order]


def _at(images: LabelledImages, positions: NDArray[np.int64]) -> LabelledImages:
    rows = positions.tolist()
    return dataclasses.replace(
        images,
        image_names=tuple(images.image_names[row] for row in rows),
        paths=tuple(images.paths[row] for row in rows),
        labels=images.labels[positions],
    )
