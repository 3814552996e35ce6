"""What a change of the vocabulary costs, whether it equals a refit, and whether confidences mean what they say, on Corel5k.

``python -m benchmarks.bench_vocabulary --data FOLDER --preset best``: the vectors of the training images are computed once; then a
word more from ten of them, a word less and ten images less are timed, each ready to annotate, and compared with a refit. For
the confidences the head is learnt from 4,000 training images, and the words given to the other 500 are counted; the vectors' own
codebook and projection, which need no labels, come from all 4,500. No test image is looked at.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import expit

from benchmarks.common import parser_of, spread, write_if_asked
from gpuannot import Annotations, Annotator, AnnotatorConfig
from gpuannot.cli.settings import config_from_options
from gpuannot.datasets.label_files import load_benchmark
from gpuannot.experiments.feature_cache import cached_features
from gpuannot.experiments.holdout import cover_holdout
from gpuannot.heads.calibration import SampledImages
from gpuannot.heads.word_head import WordHead, new_bank
from gpuannot.metrics import evaluate
from gpuannot.model.fit import InProcess, fit

EXAMPLES = 10
BINS = 10


def main() -> None:
    parser = parser_of("benchmarks.bench_vocabulary", __doc__)
    parser.add_argument("--data", type=Path, required=True, help="the Corel5k folder")
    parser.add_argument("--preset", default="best")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="settings")
    parser.add_argument("--cache", type=Path, help="folder for features")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    config = config_from_options(options.preset, None, None, 0, options.settings)
    annotator, vectors, labels = _learnt(config, options.data, options.cache)
    vocabulary = annotator.vocabulary
    content: dict[str, Any] = {
        "config": config.to_dict(),
        "dimension": annotator.encoder.dimension,
        "vocabulary": _changes(annotator, vectors, labels, options.repeats),
        "confidence": _reliability(config, vocabulary, vectors, labels, annotator.device),
    }
    print(json.dumps({name: content[name] for name in ("vocabulary", "confidence")}, indent=2))
    write_if_asked(parser, options, content)


def _learnt(config: AnnotatorConfig, data: Path, cache: Path | None) -> tuple[Annotator, NDArray[np.float32], sparse.csr_array]:
    """An annotator of the training images, and their vectors and labels."""
    train, _ = load_benchmark("corel5k", data)
    annotator = Annotator(config)
    words = annotator.words
    with (
        cached_features(annotator.encoder, train, cache) as features,
        InProcess(words, features, train.labels, train.vocabulary) as steps,
    ):
        fit(words, train.vocabulary, steps)
        return annotator, steps.vectors(), train.labels


def _changes(annotator: Annotator, vectors: NDArray[np.float32], labels: sparse.csr_array, repeats: int) -> dict[str, Any]:
    chosen = np.sort(np.random.default_rng(0).choice(len(vectors), EXAMPLES, replace=False))
    examples = torch.from_numpy(vectors[chosen])
    seconds: dict[str, list[float]] = {"add": [], "remove": [], "forget": []}
    cpu: dict[str, list[float]] = {name: [] for name in seconds}
    load_before = os.getloadavg()[0]

    def timed(name: str, change: Callable[[], object]) -> None:
        start, busy = time.perf_counter(), time.process_time()
        change()
        _ = annotator.words.ranking
        seconds[name].append(time.perf_counter() - start)
        cpu[name].append(time.process_time() - busy)

    start = time.perf_counter()
    annotator.words.head.settle(annotator.bank_)
    _ = annotator.words.changed().ranking
    solve = time.perf_counter() - start
    for _ in range(repeats):
        timed("add", lambda: annotator.add_word("a new word", examples))
        timed("remove", lambda: annotator.remove_words(["a new word"]))
        timed("forget", lambda: annotator.forget(examples, [[]] * EXAMPLES))
    annotator.add_word("a new word", examples)
    return {
        "examples": EXAMPLES,
        "words_before": len(annotator.vocabulary) - 1,
        "solve_seconds": solve,
        **{f"{name}_seconds": spread(values) for name, values in seconds.items()},
        # Of all threads. Where the machine does other work at once, wall time is far above its share of this.
        **{f"{name}_cpu_seconds": spread(values) for name, values in cpu.items()},
        "load_average": {"before": load_before, "after": os.getloadavg()[0]},
        "against_refit": _against_refit(annotator, vectors, labels, chosen),
    }


def _against_refit(
    annotator: Annotator, vectors: NDArray[np.float32], labels: sparse.csr_array, chosen: NDArray[np.int64]
) -> dict[str, float]:
    """Largest difference of weights, relative to the largest weight, and how many of all images' five words are the same."""
    bank = new_bank(annotator.config, annotator.vocabulary, annotator.encoder.dimension, annotator.device)
    wide = sparse.csr_array(sparse.hstack([labels, sparse.csr_array((len(vectors), 1), dtype=labels.dtype)]))
    bank.partial_fit(vectors, wide)
    alone = np.zeros((len(chosen), len(annotator.vocabulary)), np.float32)
    alone[:, -1] = 1
    bank.partial_fit(vectors[chosen], sparse.csr_array(alone))
    head = WordHead(annotator.config)
    head.penalty = annotator.words.head.penalty
    mine, other = annotator.words.head.linear(annotator.bank_).weights, head.linear(bank).weights
    index = [ranking.nearest(vectors, 5)[0] for ranking in (annotator.words.ranking, head.ranking(bank))]
    return {
        "largest_relative_difference": float((mine - other).abs().max() / other.abs().max()),
        "same_words": float((index[0] == index[1]).mean()),
    }


def _reliability(
    config: AnnotatorConfig, vocabulary: tuple[str, ...], vectors: NDArray[np.float32], labels: sparse.csr_array, device: Any
) -> dict[str, Any]:
    """Confidence against the share of right words, on a hold-out of 500 training images."""
    learn, held = cover_holdout(labels, 500, seed=0)
    bank = new_bank(config, vocabulary, vectors.shape[1], device).partial_fit(vectors[learn], labels[learn], learn)
    assert bank.extra(SampledImages) is not None, "only the heads that are solved give confidences"
    head = WordHead(config)
    head.settle(bank)
    place, distance = head.ranking(bank).nearest(vectors[held], 5)
    index = bank.known[place]
    right = np.take_along_axis(labels[held].toarray(), index, axis=1) > 0
    curves = head.confidence(bank)
    assert curves is not None and head.logistic is not None
    confidence = expit(curves[1][place] - curves[0][place] * distance)
    # The two Gaussians' own posterior: the confidence before the logistic curve.
    prior = np.log(bank.counts[index] / (len(learn) - bank.counts[index]))
    slope = head.logistic.slope(torch.from_numpy(prior)).numpy()
    odds = (np.log(confidence / (1 - confidence)) - head.logistic.prior * prior - head.logistic.constant) / np.maximum(slope, 1e-9)
    scores = evaluate(index, labels[held])
    return {
        "images": {"learnt": len(learn), "held_out": len(held)},
        "f1": scores.f1,
        "n_plus": scores.n_plus,
        "logistic": head.logistic._asdict(),
        "calibrated": _curve(confidence, right),
        "raw_two_gaussians": _curve(expit(odds + prior), right),
        "share_right": float(right.mean()),
        "thresholds": _thresholds(head, bank, vectors[held], labels[held]),
    }


def _thresholds(head: WordHead, bank: Any, vectors: NDArray[np.float32], labels: sparse.csr_array) -> list[dict[str, float]]:
    """Per-image measures where each image gets its likely words, of ten at most."""
    place, distance = head.ranking(bank).nearest(vectors, 10)
    curves = head.confidence(bank)
    assert curves is not None
    confidence = expit(curves[1][place] - curves[0][place] * distance).astype(np.float32)
    names, positions = tuple(map(str, range(len(vectors)))), np.arange(len(vectors))
    ten = Annotations(names, positions, bank.known[place], distance, bank.vocabulary, confidence=confidence)
    rows = []
    for threshold in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7):
        likely = ten.likely(threshold)
        scores = evaluate(likely.index, labels)
        given = float((likely.index >= 0).sum(axis=1).mean())
        rows.append({
            "threshold": threshold, "words_an_image": given, "image_precision": scores.image_precision,
            "image_recall": scores.image_recall, "image_f1": scores.image_f1, "micro_f1": scores.micro_f1, "f1": scores.f1,
        })  # fmt: skip
    return rows


def _curve(confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> dict[str, Any]:
    """Expected calibration error, and mean confidence and share of right words by tenths of confidence."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    rows = [
        {
            "words": int((bins == number).sum()),
            "confidence": float(confidence[bins == number].mean()),
            "right": float(right[bins == number].mean()),
        }
        for number in range(BINS)
        if (bins == number).any()
    ]
    error = sum(row["words"] * abs(row["confidence"] - row["right"]) for row in rows) / confidence.size
    return {"expected_calibration_error": error, "reliability": rows}


if __name__ == "__main__":
    main()
