"""Each preset for each objective, on data sets of other kinds: ``python -m benchmarks.generality NAME=FOLDER … [--scenes]``.

A folder holds ``train.json`` and ``test.json``, labelled images to learn from and to score. With ``--scenes``, drawn scenes are
one data set more. Settings are those of the presets, which choose for themselves what depends on the data; the test images are
only scored. ``k`` is 5 for the objective ``words`` and for ``paper``; for ``images`` words are those that the fit finds likely.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import parser_of, write_if_asked
from gpuannot import Annotator, AnnotatorConfig
from gpuannot.config import OBJECTIVES, PRESETS
from gpuannot.datasets.label_files import LabelledImages, load_labelled_images
from gpuannot.datasets.scenes import write_scenes
from gpuannot.experiments.bootstrap import resample
from gpuannot.experiments.feature_cache import cached_features
from gpuannot.metrics import evaluate, reliability
from gpuannot.model.annotations import given_words
from gpuannot.model.fit import InProcess, fit
from gpuannot.model.store import FeatureStore

K = 5


def rows_of(train: LabelledImages, test: LabelledImages, cache: str | None, seed: int) -> list[dict[str, Any]]:
    """What each preset reaches for each objective, learnt from ``train`` and scored on ``test``."""
    rows = []
    with ExitStack() as stack:
        for preset in PRESETS:
            for objective in OBJECTIVES if preset != "paper" else OBJECTIVES[:1]:
                annotator = Annotator(AnnotatorConfig.preset(preset, objective=objective, seed=seed), device="cpu")
                stores = [stack.enter_context(cached_features(annotator.encoder, part, cache, False)) for part in (train, test)]
                with InProcess(annotator.words, stores[0], train.labels, train.vocabulary, progress=False) as steps:
                    fit(annotator.words, train.vocabulary, steps)
                rows.append({"preset": preset, "objective": objective, **_scores(annotator, stores[1], train, test)})
                print(rows[-1], flush=True)
    return rows


def _scores(annotator: Annotator, features: FeatureStore, train: LabelledImages, test: LabelledImages) -> dict[str, Any]:
    words, known = annotator.words, len(annotator.bank_.known)
    most, threshold = words.check_giving(None if words.config.objective == "images" else min(K, known), None)
    with words.encoder.describe(features) as descriptors:
        ranked = [words.rank(vectors, known) for _, vectors in words.encoder.encode_descriptors(descriptors)]
    index, distance = (np.concatenate(part) for part in zip(*ranked, strict=True))
    if test.vocabulary != train.vocabulary:
        raise ValueError(f"{test.name} has other words than {train.name}")
    truth = test.labels
    scores = np.full(truth.shape, -np.inf)
    np.put_along_axis(scores, index, -distance, axis=1)
    index, distance = index[:, :most], distance[:, :most]
    confidence = words.confidence(index, distance)
    if threshold is not None:
        index = np.where(given_words(confidence, threshold), index, -1)
    found, error = evaluate(index, truth, scores), resample(index, truth).standard_errors()
    true = None if confidence is None else reliability(confidence, index, truth)
    measures = ("precision", "recall", "f1", "n_plus", "image_f1", "micro_precision", "mean_average_precision")
    return {
        **{name: getattr(found, name) for name in measures},
        "f1_error": error["f1"], "image_f1_error": error["image_f1"], "words_an_image": float((index >= 0).sum(axis=1).mean()),
        "calibration_error": None if true is None else true.error,
        "calibration_error_by_chance": None if true is None else true.error_by_chance,
        "chosen": None if words.head.chosen is None else words.head.chosen._asdict(),
    }  # fmt: skip


def main() -> None:
    parser = parser_of("benchmarks.generality", __doc__)
    parser.add_argument("data", nargs="*", metavar="NAME=FOLDER", help="data sets")
    parser.add_argument("--scenes", action="store_true", help="also 400 drawn scenes to learn from and 200 to score")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", help="folder for features (default: the user's cache folder)")
    arguments = parser.parse_args()
    sets = {}
    for name, folder in (item.split("=", 1) for item in arguments.data):
        parts = [load_labelled_images(Path(folder) / f"{part}.json") for part in ("train", "test")]
        sets[name] = rows_of(parts[0], parts[1], arguments.cache, arguments.seed)
    if arguments.scenes:
        with tempfile.TemporaryDirectory() as folder:
            parts = [
                load_labelled_images(write_scenes(Path(folder) / part, count, seed=number).parent)
                for number, (part, count) in enumerate({"train": 400, "test": 200}.items())
            ]
            sets["drawn scenes"] = rows_of(parts[0], parts[1], folder, arguments.seed)
    write_if_asked(parser, arguments, {"sets": sets, "k": K, "seed": arguments.seed})


if __name__ == "__main__":
    main()
