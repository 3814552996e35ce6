"""Sums of word vectors (equation 4): ``python -m benchmarks.bench_words [--device cuda]``. 4 words an image, sums in float64."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import sparse

from benchmarks.peers import Missing
from benchmarks.rows import OURS, Row, Setting, measure_rows, relative_error, stage_main
from gpuannot.method.words import _word_sums_cuda
from gpuannot.reference.words import word_sums

DIMENSION, WORDS_AN_IMAGE = 4096, 4


def labels_of(images: int, words: int, seed: int) -> sparse.csr_array:
    """Labels (images, words) with 4 distinct words an image, some words far more frequent than others."""
    generator = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, words + 1)
    columns = np.stack(
        [generator.choice(words, WORDS_AN_IMAGE, replace=False, p=frequency / frequency.sum()) for _ in range(images)]
    )
    rows = np.repeat(np.arange(images), WORDS_AN_IMAGE)
    return sparse.csr_array((np.ones(rows.size), (rows, columns.ravel())), shape=(images, words))


def measure(setting: Setting) -> Iterator[Row]:
    images = setting.pick(4096, 16_384, 64)
    for words in setting.pick([260, 10_000], [260, 10_000], [260]):
        labels = labels_of(images, words, setting.seed)
        vectors = np.random.default_rng(setting.seed).standard_normal((images, DIMENSION), dtype=np.float32)
        exact, _ = word_sums(vectors.astype(np.float64), labels)
        x = torch.from_numpy(vectors).to(setting.device)
        pairs = labels.tocoo()
        image, word = (torch.from_numpy(part.astype(np.int64)).to(setting.device) for part in (pairs.row, pairs.col))
        dense = torch.from_numpy(labels.toarray().T.astype(np.float32)).to(setting.device)

        mostly_zeros = Missing("too many zeros to multiply by; see 260 words") if words > 1000 else None

        def add(x: Any = x, image: Any = image, word: Any = word, words: int = words) -> Any:
            sums = torch.zeros(words, DIMENSION, dtype=torch.float64, device=x.device)
            return sums.index_add_(0, word, x[image].double())

        yield from measure_rows(
            setting,
            "words",
            {"images": images, "words": words, "dimension": DIMENSION},
            {
                OURS: partial(_word_sums_cuda, x, labels) if setting.gpu else partial(word_sums, vectors, labels),
                "torch index_add, float64": add,
                "torch product with dense labels, float64": mostly_zeros or (lambda d=dense, x=x: d.double() @ x.double()),  # type: ignore[misc]
                "torch product with dense labels, float32": mostly_zeros or (lambda d=dense, x=x: d @ x),  # type: ignore[misc]
            },
            items=images,
            moved=4.0 * vectors.size + 8.0 * words * DIMENSION,
            work=2.0 * labels.nnz * DIMENSION,
            dtype="float64",
            agreement=lambda answer, exact=exact: relative_error(  # type: ignore[misc]
                answer[0] if isinstance(answer, tuple) else answer, exact, bound=1e-12
            ),
        )


if __name__ == "__main__":
    stage_main("bench_words", __doc__ or "", measure)
