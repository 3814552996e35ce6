"""A threshold for each word in place of five words an image, on Corel5k: ``python -m benchmarks.thresholds FOLDER``.

Another protocol than the field's: an image gets the words whose score passes the word's threshold, none or many. Thresholds come
from scores of the training images, each left out of the fit, in three ways; cover hold-outs of training images say which one the
test images are scored with, once, by ``best`` and by ``kernel``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from benchmarks.common import parser_of, write_if_asked
from gpuannot.config import AnnotatorConfig
from gpuannot.datasets.label_files import load_benchmark
from gpuannot.experiments.feature_cache import cached_features
from gpuannot.experiments.holdout import cover_holdout, covered_words
from gpuannot.heads.systems import LeftOutSample, solve
from gpuannot.heads.word_head import WordHead
from gpuannot.metrics import harmonic_mean, word_counts
from gpuannot.model.encoder import Encoder
from gpuannot.model.fit import InProcess, learn_codebook, learn_transform
from gpuannot.model.store import FeatureStore, StoreSubset
from gpuannot.model.word_model import WordModel

PRESETS = ("best", "kernel")

Scores = NDArray[np.float64]
Truth = NDArray[np.bool_]


def own_f1(scores: Scores, truth: Truth) -> Scores:
    """For each word the threshold (W,) of its highest F1, halfway between two scores; +∞ for a word that no image carries."""
    order = np.argsort(-scores, axis=0, kind="stable")
    sorted_scores, hits = np.take_along_axis(scores, order, 0), np.take_along_axis(truth, order, 0).cumsum(axis=0)
    f1 = 2 * hits / (np.arange(1, len(scores) + 1)[:, None] + truth.sum(axis=0))
    last = f1.argmax(axis=0)
    words = np.arange(scores.shape[1])
    below = sorted_scores[np.minimum(last + 1, len(scores) - 1), words]
    return np.where(truth.any(axis=0), (sorted_scores[last, words] + below) / 2, np.inf)


def one_for_all(scores: Scores, truth: Truth) -> Scores:
    """One threshold, that of the highest F1 of the means over words."""
    return _best_of(scores, truth, [np.full(scores.shape[1], value) for value in np.quantile(scores, np.linspace(0.9, 0.999, 60))])


def by_frequency(scores: Scores, truth: Truth) -> Scores:
    """What so many times as many images pass as carry the word, the factor being one for all words, that of the highest F1."""
    ordered, counts = -np.sort(-scores, axis=0), truth.sum(axis=0)
    words = np.arange(scores.shape[1])

    def passed(factor: float) -> Scores:
        last = np.clip(np.rint(factor * counts), 1, len(scores) - 1).astype(np.int64)
        return np.where(counts > 0, (ordered[last - 1, words] + ordered[last, words]) / 2, np.inf)

    return _best_of(scores, truth, [passed(factor) for factor in np.linspace(0.4, 4, 37)])


def _best_of(scores: Scores, truth: Truth, candidates: list[Scores]) -> Scores:
    return max(candidates, key=lambda thresholds: reached(scores >= thresholds, truth)["f1"])


RULES: dict[str, Callable[[Scores, Truth], Scores]] = {
    "a word's highest F1": own_f1, "one for all words": one_for_all, "by the word's frequency": by_frequency,
}  # fmt: skip


def reached(given: Truth, truth: Truth, words: NDArray[np.int64] | None = None) -> dict[str, float]:
    """Precision, recall and F1 of the means over words, N+, and words an image."""
    index = np.where(given, np.arange(given.shape[1]), -1)
    counts = word_counts(index, sparse.csr_array(truth.astype(np.float32)))
    chosen = np.arange(given.shape[1]) if words is None else words
    precision, recall = float(counts.precision[chosen].mean()), float(counts.recall[chosen].mean())
    return {
        "precision": precision, "recall": recall, "f1": harmonic_mean(precision, recall),
        "n_plus": int((counts.correct[chosen] > 0).sum()), "words_an_image": float(given.sum() / len(given)),
    }  # fmt: skip


def scored(model: WordModel, features: FeatureStore, words: int) -> Scores:
    """What the words of images are ranked by (T, W), −∞ for words that no image taught."""
    with model.encoder.describe(features) as descriptors:
        ranked = [model.rank(vectors, len(model.bank_.known)) for _, vectors in model.encoder.encode_descriptors(descriptors)]
    index, distance = (np.concatenate(part) for part in zip(*ranked, strict=True))
    scores = np.full((len(index), words), -np.inf)
    np.put_along_axis(scores, index, -distance.astype(np.float64), axis=1)
    return scores


def learnt(
    config: AnnotatorConfig, features: FeatureStore, labels: sparse.csr_array, vocabulary: tuple[str, ...]
) -> tuple[WordModel, Scores, Truth]:
    """A model, and the scores and labels (S, W) of images that it learnt from, each left out."""
    model = WordModel(Encoder(config, device="cpu"))
    with InProcess(model, features, labels, vocabulary, progress=False) as steps:
        learn_transform(model.encoder, steps)
        learn_codebook(model.encoder, steps)
        bank = steps.word_sums()
    assert bank is not None
    sample = LeftOutSample(config, bank)
    model.learn(vocabulary, bank)
    head: WordHead = model.head
    assert head.penalty is not None
    known = torch.from_numpy(bank.known)
    scores = np.full((len(sample), len(vocabulary)), -np.inf)
    *_, scale, shift = head._affine(bank)
    scores[:, bank.known] = (sample.scores(solve(config, bank, head.penalty), known) * scale + shift).numpy()
    return model, scores, sample.labels.numpy() > 0


def main() -> None:
    parser = parser_of("benchmarks.thresholds", __doc__)
    parser.add_argument("data", help="folder of Corel5k")
    parser.add_argument("--splits", type=int, default=3, help="hold-outs of a ninth of the images (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="codebook seeds (default: %(default)s)")
    parser.add_argument("--cache", help="folder for features (default: the user's cache folder)")
    arguments = parser.parse_args()
    train, test = load_benchmark("corel5k", arguments.data)
    rows: list[dict[str, Any]] = []
    for preset in PRESETS:
        config = AnnotatorConfig.preset(preset, objective="words")
        with ExitStack() as stack:
            encoder = Encoder(config, device="cpu")
            stores = [stack.enter_context(cached_features(encoder, part, arguments.cache, False)) for part in (train, test)]
            holdouts: dict[str, list[dict[str, float]]] = {rule: [] for rule in RULES}
            for split in range(arguments.splits):
                learn, held = cover_holdout(train.labels, len(train) // 9, split)
                model, left_out, carried = learnt(config, StoreSubset(stores[0], learn), train.labels, train.vocabulary)
                scores, truth = scored(model, StoreSubset(stores[0], held), len(train.vocabulary)), train.labels[held].toarray() > 0
                for rule, choose in RULES.items():
                    given = scores >= choose(left_out, carried)
                    holdouts[rule].append(reached(given, truth, covered_words(train.labels, held)))
                    print(preset, split, rule, holdouts[rule][-1], flush=True)
            best = max(RULES, key=lambda rule: np.mean([each["f1"] for each in holdouts[rule]]))
            runs = []
            for seed in range(arguments.seeds):
                seeded = AnnotatorConfig.preset(preset, objective="words", seed=seed)
                model, left_out, carried = learnt(seeded, stores[0], train.labels, train.vocabulary)
                given = scored(model, stores[1], len(train.vocabulary)) >= RULES[best](left_out, carried)
                runs.append(reached(given, test.labels.toarray() > 0))
                print(preset, seed, best, runs[-1], flush=True)
            rows.append({"preset": preset, "rule": best, "holdouts": holdouts, "runs": runs})
    write_if_asked(parser, arguments, {"dataset": "corel5k", "rows": rows})


if __name__ == "__main__":
    main()
