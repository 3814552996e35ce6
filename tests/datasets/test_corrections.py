"""Corrections and the labels that they make right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from gpuannot.datasets.corrections import Corrections, corrected
from gpuannot.datasets.label_files import LabelledImages
from gpuannot.errors import DataError

VOCABULARY = ("sea", "sky", "rare")


@pytest.mark.parametrize(
    ("now", "before", "after", "expected"),
    [
        (["sea", "sky"], ["sea", "sky"], ["sky", "tree"], ["sky", "tree"]),
        (["sea", "sky"], None, ["tree"], ["tree"]),  # a review that does not know what was there says what is
        (["sea", "rare"], ["sea"], ["sky"], ["rare", "sky"]),  # audited without rare words, which stay
        (["sky", "rare"], ["sea"], ["sky"], ["sky", "rare"]),  # corrected before
        (["sky"], [], ["sky"], ["sky"]),
        (["sky"], ["sky"], [], []),
        (["sea"], ["sky"], ["rare"], None),  # other labels than those that were reviewed
        (["sea"], ["sky"], ["sea", "sky"], None),
    ],
)
def test_corrected_labels(now: list[str], before: list[str] | None, after: list[str], expected: list[str] | None) -> None:
    labels = sparse.csr_array(np.array([[word in now for word in VOCABULARY], [True, True, True]], np.float32))
    images = LabelledImages("labels", ("a.jpg", "b.jpg"), (Path("/x/a.jpg"), Path("/x/b.jpg")), labels, VOCABULARY)
    corrections = Corrections((Path("/x/y/../a.jpg"),), (tuple(after),), (None if before is None else tuple(before),))
    if expected is None:
        with pytest.raises(DataError, match=r"a\.jpg carried \['sky'\] when it was reviewed and carries \['sea'\] in labels"):
            corrected(images, corrections)
    else:
        assert corrected(images, corrections) == [expected, list(VOCABULARY)]
