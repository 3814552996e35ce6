"""Which of the words of labelled images are learnt: one for all capitals, and none that too few images carry."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from .label_files import LabelledImages


def without_case(images: LabelledImages, known: Sequence[str] = ()) -> LabelledImages:
    """Words that differ in capitals alone as one.

    Args:
        images: with their words.
        known: words of a model, whose spelling counts where it has one; else that which most images carry, and of those the first
            in the alphabet.
    """
    counts = np.asarray(images.labels.sum(axis=0)).ravel()
    spelling: dict[str, str] = {}
    for number in sorted(range(len(images.vocabulary)), key=lambda number: (-counts[number], images.vocabulary[number])):
        word = images.vocabulary[number]
        spelling.setdefault(word.casefold(), word)
    spelling |= {word.casefold(): word for word in reversed(known)}
    folded = [word if word in known else spelling[word.casefold()] for word in images.vocabulary]
    vocabulary = tuple(dict.fromkeys(folded))
    column = {word: number for number, word in enumerate(vocabulary)}
    onto = sparse.csr_array(
        (np.ones(len(folded), np.float32), (np.arange(len(folded)), [column[word] for word in folded])),
        shape=(len(folded), len(vocabulary)),
    )
    labels = sparse.csr_array(images.labels @ onto)
    labels.data[:] = 1
    labels.sort_indices()
    return dataclasses.replace(images, labels=labels, vocabulary=vocabulary)


def without_rare(images: LabelledImages, min_count: int) -> LabelledImages:
    """Without the words that fewer than ``min_count`` images carry; their images stay, and ``rare`` lists the words."""
    counts = np.asarray(images.labels.sum(axis=0)).ravel()
    kept = np.flatnonzero(counts >= min_count)
    rare = tuple(word for word, count in zip(images.vocabulary, counts, strict=True) if count < min_count)
    vocabulary = tuple(images.vocabulary[number] for number in kept)
    return dataclasses.replace(images, labels=sparse.csr_array(images.labels[:, kept]), vocabulary=vocabulary, rare=rare)
