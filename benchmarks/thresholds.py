"""Words by thresholds of their own, in place of five an image: ``python -m benchmarks.thresholds FOLDER --cache CACHE``.

A word is given to every image whose prediction reaches the word's threshold: the one at which the word's F1 over the training
images is highest, each of which is predicted by all the others, in closed form. The test images are scored once, with thresholds
settled. ``--holdouts N`` scores cover hold-outs of 500 training images instead, which is where the rule was chosen.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from benchmarks.common import keep_if_asked, parser_of, write_if_asked
from gpuannot.config import AnnotatorConfig
from gpuannot.datasets.label_files import load_benchmark
from gpuannot.experiments.feature_cache import cached_features
from gpuannot.experiments.holdout import cover_holdout, covered_words
from gpuannot.experiments.reproduce import annotate_descriptors
from gpuannot.heads.left_out import left_out_predictions
from gpuannot.metrics import WordCounts, evaluate, harmonic_mean
from gpuannot.model.encoder import Encoder, Learnt, to_host
from gpuannot.model.fit import InProcess, fit_from_descriptors, learn_transform
from gpuannot.model.store import FeatureStore, StoreSubset
from gpuannot.model.word_model import WordModel

K = 5


def best_thresholds(predictions: NDArray[np.floating], labels: sparse.csr_array) -> NDArray[np.float64]:
    """The threshold (W,) at which each word's F1 is highest, half-way to the next lower prediction; +∞ for words without an image.

    Args:
        predictions: (N, W), each by the other images.
        labels: (N, W) 0/1.
    """
    truth = labels.toarray() > 0
    order = np.argsort(-predictions, axis=0, kind="stable")
    ranked = np.take_along_axis(predictions, order, axis=0).astype(np.float64)
    right = np.cumsum(np.take_along_axis(truth, order, axis=0), axis=0)
    given = np.arange(1, len(truth) + 1)[:, None]
    f1 = 2 * right / (given + truth.sum(axis=0))
    below = np.vstack([ranked[1:], ranked[-1:] - 1])
    f1[ranked == below] = -1  # equal predictions are given the word together
    best = f1.argmax(axis=0)[None]
    thresholds = (np.take_along_axis(ranked, best, axis=0) + np.take_along_axis(below, best, axis=0))[0] / 2
    return np.where(truth.any(axis=0), thresholds, np.inf)


def scores_of(given: NDArray[np.bool_], truth: sparse.csr_array, words: NDArray[np.int64]) -> dict[str, float]:
    """The protocol's measures of words given (T, W), of which an image may have none."""
    carried = truth.toarray() > 0
    counts = WordCounts(*(part[:, words].sum(axis=0) for part in (given & carried, given, carried)))
    precision, recall = float(counts.precision.mean()), float(counts.recall.mean())
    return {
        "precision": precision,
        "recall": recall,
        "f1": harmonic_mean(precision, recall),
        "n_plus": int((counts.correct > 0).sum()),
        "words_an_image": float(given.sum(axis=1).mean()),
        "images_without_a_word": int((~given.any(axis=1)).sum()),
    }


def run(
    encoder: Encoder,
    train: FeatureStore,
    test: FeatureStore,
    labels: tuple[sparse.csr_array, sparse.csr_array],
    vocabulary: tuple[str, ...],
    words: NDArray[np.int64],
) -> dict[str, dict[str, float]]:
    """Scores of five words and of words by thresholds, for descriptors to learn from and to score."""
    model = WordModel(encoder)
    steps = InProcess(model, None, labels[0], vocabulary, descriptors=train, progress=False)
    fit_from_descriptors(model, vocabulary, steps)
    vectors, learnt = steps.vectors(), labels[0][train.positions]
    predictions = left_out_predictions(model.head, model.bank_, vectors, learnt)
    share = np.asarray(learnt.mean(axis=0)).ravel()
    # Of images that the projection has seen predictions are lower: they get the spread of the others', as for confidences.
    seen = np.zeros(len(vectors), bool)
    seen[encoder.vector_sample(train.positions)] = True
    if not seen.all():
        own = predictions[seen] - share
        predictions[seen] = share + own * np.sqrt(np.square(predictions[~seen] - share).mean() / np.square(own).mean())
    system, _ = model.head.solved(model.bank_)
    positions, queries = zip(*encoder.encode_descriptors(test), strict=True)
    rows = np.concatenate([to_host(part) for part in queries]).astype(np.float64) - system.mean.numpy()
    asked = rows @ system.solution.numpy().T + share
    truth = labels[1][np.concatenate(positions)]
    index = annotate_descriptors(model, test, K)[1]
    five = evaluate(index, truth, words=words)
    return {
        "five": {name: getattr(five, name) for name in ("precision", "recall", "f1", "n_plus")},
        "thresholds": scores_of(asked >= best_thresholds(predictions, learnt), truth, words),
    }


def main() -> None:
    parser = parser_of("benchmarks.thresholds", __doc__)
    parser.add_argument("data", help="folder of Corel5k")
    parser.add_argument("--cache", help="folder of features")
    parser.add_argument("--seeds", type=int, default=5, help="of the codebook")
    parser.add_argument("--holdouts", type=int, default=0, metavar="N", help="score so many hold-outs of training images instead")
    arguments = parser.parse_args()
    train, test = load_benchmark("corel5k", arguments.data)
    config = AnnotatorConfig.preset("best", objective="words")
    splits = [cover_holdout(train.labels, len(train) // 9, number) for number in range(arguments.holdouts)]
    runs: list[dict[str, Any]] = []
    for number, split in enumerate(splits or [None]):
        with ExitStack() as stack:
            first = Encoder(config, device="cpu", new=True)
            of_train = stack.enter_context(cached_features(first, train, arguments.cache, False))
            if split is None:
                stores: tuple[FeatureStore, FeatureStore] = (
                    of_train,
                    stack.enter_context(cached_features(first, test, arguments.cache, False)),
                )
                labels, words = (train.labels, test.labels), np.arange(len(train.vocabulary))
            else:
                stores = (StoreSubset(of_train, split[0]), StoreSubset(of_train, split[1]))
                labels, words = (train.labels, train.labels), covered_words(train.labels, split[1])
            steps = stack.enter_context(InProcess(WordModel(first), stores[0], labels[0], train.vocabulary, progress=False))
            learn_transform(first, steps)
            described = steps.descriptors, stack.enter_context(first.describe(stores[1]))
            for seed in range(arguments.seeds):
                began = time.perf_counter()
                encoder = first.sharing_trunk(Learnt(first.transform_), seed=seed)
                found = run(encoder, *described, labels, train.vocabulary, words)
                runs.append({"holdout": number if split is not None else None, "seed": seed, **found})
                print(f"{time.perf_counter() - began:.0f} s", runs[-1], flush=True)
                keep_if_asked(parser, arguments, content(runs, first.config))
    for way, measures in content(runs, first.config)["summary"].items():
        print(way, {name: f"{value['mean']:.4f} ± {value['std']:.4f}" for name, value in measures.items()})
    write_if_asked(parser, arguments, content(runs, first.config))


def content(runs: list[dict[str, Any]], config: AnnotatorConfig) -> dict[str, Any]:
    """Settings, runs, and their means and standard deviations."""
    summary = {
        way: {
            measure: {"mean": float(values.mean()), "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0}
            for measure in runs[0][way]
            for values in [np.array([each[way][measure] for each in runs], np.float64)]
        }
        for way in ("five", "thresholds")
    }
    return {"dataset": "corel5k", "config": config.to_dict(), "k": K, "runs": runs, "summary": summary}


if __name__ == "__main__":
    main()
