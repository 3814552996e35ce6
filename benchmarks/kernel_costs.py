"""What the head kernel costs as images grow, on synthetic vectors: ``python -m benchmarks.kernel_costs``.

Unit vectors of d = 1,024 coordinates and the number and frequency of words of Corel5k; each size in a process of its own, so that
its peak memory is its own. The features before it cost the same for every head.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch
from scipy import sparse

from benchmarks.common import alternate, keep_if_asked, parser_of, with_peak_memory, write_if_asked
from gpuannot.config import AnnotatorConfig
from gpuannot.heads.word_head import WordHead, new_bank
from gpuannot.model.ranker import WordRanker

DIMENSION, WORDS, AN_IMAGE, BATCH, K = 1024, 260, 3.5, 32, 5
CONFIG = AnnotatorConfig.preset("kernel", objective="words")


def drawn(images: int, seed: int) -> tuple[np.ndarray, sparse.csr_array]:
    """Unit vectors (N, d) that depend on their words, and labels (N, W)."""
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, WORDS + 1)
    labels = sparse.csr_array((rng.random((images, WORDS)) < AN_IMAGE * frequency / frequency.sum()).astype(np.float32))
    means = np.random.default_rng(1).standard_normal((WORDS, DIMENSION), dtype=np.float32)
    vectors = rng.standard_normal((images, DIMENSION), dtype=np.float32)
    vectors += labels @ means
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), labels


def costs(images: int) -> dict[str, Any]:
    vectors, labels = drawn(images, 0)
    vocabulary = tuple(f"word {number}" for number in range(WORDS))
    bank, head = new_bank(CONFIG, vocabulary, DIMENSION, "cpu"), WordHead(CONFIG)
    bank.partial_fit(vectors, labels, np.arange(images)).flush()

    def fit() -> None:
        head.settle(bank)
        head.ranking(bank)

    start = time.perf_counter()
    _, peak = with_peak_memory(fit)
    seconds = time.perf_counter() - start
    ranker = WordRanker(head, torch.device("cpu"))
    batch, _ = drawn(BATCH, 2)
    annotate = alternate({"rank": lambda: ranker.rank(bank, batch, K)}, repeats=7)["rank"]
    one, _ = drawn(1, 3)
    head.add_words(1)
    bank.add_words((*vocabulary, "new"))
    more = sparse.csr_array((np.ones(1, np.float32), ([0], [WORDS])), (1, WORDS + 1))
    start = time.perf_counter()
    bank.partial_fit(one, more)
    head.changed(one, more, 1)
    head.ranking(bank)
    new_word = time.perf_counter() - start
    ranking = ranker.ranking(bank)
    tensors = [np.asarray(ranking.vectors), np.asarray(ranking.weights), np.asarray(ranking.bias)]
    small = sum(tensor.nbytes for tensor in tensors)
    assert head.chosen is not None
    return {
        "images": images, "landmarks": len(tensors[0]), "regularisation": head.chosen.regularisation, "fit_seconds": seconds,
        "peak_bytes": peak, "annotate_microseconds": 1e6 * float(np.median(annotate)) / BATCH, "new_word_seconds": new_word,
        "annotating_bytes": small, "learning_bytes": small + 2 * DIMENSION * images + 8 * WORDS * DIMENSION,
    }  # fmt: skip


def main() -> None:
    parser = parser_of("benchmarks.kernel_costs", __doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[4500, 20_000, 100_000], help="sizes (default: %(default)s)")
    parser.add_argument("--one", type=int, help="this size, in this process: its row as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(costs(arguments.one)))
        return
    rows: list[dict[str, Any]] = []
    content = {"dimension": DIMENSION, "words": WORDS, "k": K, "batch": BATCH, "rows": rows}
    for images in arguments.images:
        command = [sys.executable, "-m", "benchmarks.kernel_costs", "--one", str(images)]
        rows.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
        print(rows[-1], flush=True)
        keep_if_asked(parser, arguments, content)
    write_if_asked(parser, arguments, content)


if __name__ == "__main__":
    main()
