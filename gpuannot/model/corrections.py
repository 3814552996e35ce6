"""Corrected labels, learnt exactly: as if the images had been fitted to with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ..errors import DataError, InvalidArgumentError, counted
from ..images.decode_task import ImageFailure
from ..images.inputs import as_sequence, none_readable
from ..method.labels import label_matrix
from .word_model import WordModel


class Changes(NamedTuple):
    """What corrections changed.

    Attributes:
        changed: images that had been learnt with other words.
        added: images that are new.
        same: images whose words are what they were learnt with.
        gained, lost: for each word, how many images got it and how many lost it.
        failures: images that could not be read; they are as they were.
    """

    changed: int
    added: int
    same: int
    gained: Counter[str]
    lost: Counter[str]
    failures: list[ImageFailure]


def learn_corrections(
    model: WordModel,
    images: Sequence[Any],
    after: Sequence[Sequence[str]],
    before: Sequence[Sequence[str] | None],
    *,
    progress: bool | None = None,
) -> Changes:
    """Take images out with the words that they were learnt with, and in with those that they carry.

    The words become those of a fit to the corrected labels, with the codebook, PCA and λ that are there. Each image that changes
    goes through the trunk once.

    Args:
        images: N paths or images.
        after: the words that each carries.
        before: the words that each was learnt with; None for a new image.
        progress: show a bar; None shows one on terminals.

    Raises:
        DataError: what is no word, an image that was not learnt with the words that ``before`` says, or not one that can be read;
            nothing is changed then.
    """
    model.require_sums()
    moved = [row for row, was in enumerate(before) if was is None or set(was) != set(after[row])]
    same = len(before) - len(moved)
    if not moved:
        return Changes(0, 0, same, Counter(), Counter(), [])
    positions, encoded = model.encoder.encode(as_sequence([images[row] for row in moved]), progress=progress)
    failures = list(model.encoder.failures_)
    if not len(positions):
        raise DataError(none_readable(len(moved), failures))
    rows = [moved[position] for position in positions]
    learnt = [after[row] for row in rows]
    label_matrix(learnt, model.vocabulary, extend=True)  # what it refuses must not be found when the images are out already
    vectors, known = torch.from_numpy(encoded), np.array([before[row] is not None for row in rows])
    try:
        if known.any():
            model.forget(vectors[known], [before[row] or () for row in rows if before[row] is not None])
    except (InvalidArgumentError, DataError) as error:
        raise DataError(
            f"{counted(int(known.sum()), 'image')} cannot be corrected: this model did not learn them with the words that the "
            f"corrections say they had ({error})"
        ) from error
    model.partial_fit(vectors, learnt)
    gained, lost = Counter[str](), Counter[str]()
    for row in rows:
        was, now = set(before[row] or ()), set(after[row])
        gained.update(now - was)
        lost.update(was - now)
    return Changes(int(known.sum()), int((~known).sum()), same, gained, lost, failures)
