"""Errors planted into labels, and how an audit finds them: ``python -m benchmarks.audit_planted --data LABEL_FILE``.

One part of the labels is swapped for words that the image does not carry, drawn as often as images carry them, and as large a part
is dropped. Each image's words are then predicted by the other images: in closed form, by leave-one-out, and by refits on four
fifths of the images, with the λ that the closed form chose. The refits' predictions rank labels as confident learning does: by
self-confidence, the probability of the label, as it is and less the word's average where it is carried; by margin, against the
likeliest word that the image does not carry, or for a missing word against the least likely one that it does; and as the audit
ranks. The labels of Corel5k are themselves incomplete, so what counts as a false alarm may be right: precision is a lower bound.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from benchmarks.common import keep_if_asked, parser_of, write_if_asked
from gpuannot.annotator import Annotator
from gpuannot.config import AnnotatorConfig
from gpuannot.datasets.label_files import LabelledImages, load_labelled_images
from gpuannot.experiments.feature_cache import cached_features
from gpuannot.heads.kernel import KernelSystem
from gpuannot.heads.products import product
from gpuannot.model.audit import audit, doubt_of_carried, probabilities, regression_of
from gpuannot.model.encoder import Encoder, Learnt
from gpuannot.model.fit import InProcess, learn_codebook, learn_transform
from gpuannot.model.word_model import WordModel
from gpuannot.system.threads import one_torch_thread

SHARE, FOLDS, AT = 0.05, 5, 100


class Planted(NamedTuple):
    """Labels (N, W) with errors, and where: words that are wrong and words that are missing, (N, W) each."""

    labels: sparse.csr_array
    wrong: NDArray[np.bool_]
    missing: NDArray[np.bool_]


def plant(labels: NDArray[np.bool_], seed: int) -> Planted:
    rng = np.random.default_rng(seed)
    pairs = np.argwhere(labels)
    count = round(SHARE * len(pairs))
    chosen = pairs[rng.permutation(len(pairs))[: 2 * count]]
    wrong, missing = np.zeros_like(labels), np.zeros_like(labels)
    missing[tuple(chosen.T)] = True
    frequency = labels.sum(axis=0) / labels.sum()
    for image, _ in chosen[:count]:  # the first half is swapped, the others are dropped
        free = np.where(labels[image] | wrong[image], 0, frequency)
        wrong[image, rng.choice(len(free), p=free / free.sum())] = True
    found = (labels & ~missing) | wrong
    return Planted(sparse.csr_array(found.astype(np.float32)), wrong, missing)


def refit_predictions(learnt: WordModel, vectors: NDArray[np.float32], labels: sparse.csr_array) -> NDArray[np.float32]:
    """Predictions (N, W) of each image by a refit on the folds that it is not in, with λ as it is in ``learnt``."""
    fold = np.random.default_rng(0).permutation(len(vectors)) % FOLDS
    found = np.zeros(labels.shape, np.float32)
    for number in range(FOLDS):
        inside, held = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        made = WordModel(learnt.encoder)
        made.restore(made.word_sums([(inside, vectors[inside])], labels, learnt.vocabulary))
        # Of ridge λ is a multiple of the images' variance, summed over them.
        share = len(inside) / len(vectors) if learnt.config.head == "ridge" else 1.0
        made.head.penalty = learnt.head.penalty * share
        system, known = made.head.solved(made.bank_)
        with one_torch_thread():
            if isinstance(system, KernelSystem):
                scores = system.scores(vectors[held])[:, known]
            else:
                rows = torch.from_numpy(vectors[held]).double() - system.mean
                scores = product(rows, system.solution[known].T)
        found[np.ix_(held, known.numpy())] = (scores + system.counts[known] / len(inside)).numpy()
    return found


def margins(probability: NDArray[np.float32], carried: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How much likelier a carried word is than all that are not, and a word not carried than the least likely one that is."""
    likeliest = np.where(carried, -np.inf, probability).max(axis=1, keepdims=True)
    least = np.where(carried, probability, np.inf).min(axis=1, keepdims=True)
    least[np.isinf(least)] = 1
    return np.where(carried, probability - likeliest, probability - least)


def adjusted(probability: NDArray[np.float32], carried: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Probabilities less those of the average image that carries the word: confident learning's adjustment of self-confidence."""
    return probability - (probability * carried).sum(axis=0) / np.maximum(carried.sum(axis=0), 1)


def measures(order: NDArray[np.float32], candidates: NDArray[np.bool_], errors: NDArray[np.bool_]) -> dict[str, float]:
    """Precision of the first :data:`AT`, recall of the first as many as there are errors; what ``order`` has smallest is first."""
    ranked = errors[candidates][np.argsort(order[candidates], kind="stable")]
    return {f"precision_at_{AT}": float(ranked[:AT].mean()), "recall": float(ranked[: errors.sum()].sum() / errors.sum())}


def rows_of(model: WordModel, vectors: NDArray[np.float32], data: LabelledImages, seed: int) -> list[dict[str, Any]]:
    planted = plant(data.labels.toarray() > 0, seed)
    carried = planted.labels.toarray() > 0
    times = [time.perf_counter()]
    learnt = regression_of(model, vectors, planted.labels, data.vocabulary)
    times.append(time.perf_counter())
    found = audit(learnt, vectors, planted.labels)
    times.append(time.perf_counter())
    judged = ~np.isnan(found.probability).any(axis=0)
    refitted = np.full_like(found.probability, np.nan)
    predictions = refit_predictions(learnt, vectors, planted.labels)
    refitted[:, judged] = probabilities(predictions[:, judged], carried[:, judged])
    times.append(time.perf_counter())
    fit, closed, refits = map(float, np.diff(times))
    of_refits = {
        "self-confidence": refitted,
        "self-confidence, adjusted": adjusted(refitted, carried),
        "margin": margins(np.nan_to_num(refitted), carried),
        "as the audit ranks": np.where(carried, doubt_of_carried(refitted, carried), refitted),
    }
    leave_one_out = np.where(carried, doubt_of_carried(found.probability, carried), found.probability)
    rankings = {"leave-one-out, closed form": (leave_one_out, closed)}
    rankings |= {f"{FOLDS} refits, {name}": (values, refits) for name, values in of_refits.items()}
    rows: list[dict[str, Any]] = []
    for kind, candidates, errors, doubts, sign in (
        ("wrong", carried, planted.wrong, found.wrong, 1),
        ("missing", ~carried, planted.missing, found.missing, -1),
    ):
        common = {"head": learnt.config.head, "seed": seed, "kind": kind, "planted": int(errors.sum())}
        for name, (values, seconds) in rankings.items():
            scores = measures(sign * values, candidates & judged, errors)
            rows.append({**common, "ranking": name, **scores, "fit_seconds": fit, "seconds": seconds})
        chance = float(errors.sum() / candidates.sum())
        rows.append({**common, "ranking": "chance", f"precision_at_{AT}": chance, "recall": chance})
        hits = sum(bool(errors[doubt.image, doubt.word]) for doubt in doubts)
        listed = {"listed": len(doubts), "precision": hits / max(len(doubts), 1), "recall": hits / int(errors.sum())}
        rows.append({**common, "ranking": "all that the audit lists", **listed})
    return rows


def encoded(data: LabelledImages, cache: str | None) -> tuple[Annotator, NDArray[np.float32]]:
    """An annotator of the preset ``best`` whose encoder, in which labels have no part, is fitted to the images; their vectors."""
    annotator = Annotator(AnnotatorConfig.preset("best"))
    store = cached_features(annotator.encoder, data, cache)
    with store, InProcess(annotator.words, store, data.labels, data.vocabulary) as steps:
        learn_transform(annotator.encoder, steps)
        learn_codebook(annotator.encoder, steps)
        return annotator, steps.vectors()


def kernel_model(encoder: Encoder) -> WordModel:
    """A word model of the preset ``kernel`` over the same components, without their products."""
    stages = Learnt(encoder.transform_, encoder.codebook_, None)
    other = encoder.sharing_trunk(stages, quadratic=0, head="kernel")
    other.projection_ = other.new_projection()
    other.projection_.mean_, other.projection_.matrix_ = encoder.projection_.mean_, encoder.projection_.matrix_
    return WordModel(other)


def main() -> None:
    parser = parser_of("benchmarks.audit_planted", __doc__)
    parser.add_argument("--data", required=True, help="label file, such as the train.json of Corel5k")
    parser.add_argument("--cache", help="folder for the features (default: that of the user)")
    parser.add_argument("--seeds", type=int, default=3, help="plantings (default: %(default)s)")
    arguments = parser.parse_args()
    data = load_labelled_images(arguments.data)
    annotator, vectors = encoded(data, arguments.cache)
    content: dict[str, Any] = {"share": SHARE, "folds": FOLDS, "images": len(data), "labels": int(data.labels.nnz), "rows": []}
    kernel = kernel_model(annotator.encoder)
    models = [(annotator.words, vectors), (kernel, np.ascontiguousarray(vectors[:, : kernel.encoder.dimension]))]
    for seed in range(1, 1 + arguments.seeds):  # by the planting of seed 0 the audit's order was chosen
        for model, given in models:
            content["rows"] += rows_of(model, given, data, seed)
            for row in content["rows"][-14:]:
                print({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}, flush=True)
            keep_if_asked(parser, arguments, content)
    write_if_asked(parser, arguments, content)


if __name__ == "__main__":
    main()
