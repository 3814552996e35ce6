"""The paper's experiment on a benchmark: fit on its training split, annotate its test split with k words, score by the protocol.

Features are kept in a cache folder, keyed by trunk weights, layer, arithmetic and images, so that a second run, or a run with other
settings after the trunk, needs no trunk.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..annotator import Annotator
from ..config import AnnotatorConfig
from ..datasets.label_files import LabelledImages, load_benchmark
from ..errors import InvalidArgumentError
from ..metrics import evaluate
from ..model.annotations import Annotations
from ..model.encoder import Encoder, Learnt, to_host
from ..model.fit import InProcess, fit_from_descriptors, learn_transform
from ..model.store import FeatureStore
from ..model.word_model import WordModel
from ..report.writer import ReportWriter, check_report_path
from ..system.environment import record
from .feature_cache import cached_features

SCHEMA = "gpuannot.reproduce/1"

#: The paper's tables: method → data set → (P, R, F1, N+), in %.
PAPER: dict[str, dict[str, tuple[float, float, float, int]]] = {
    "MBRM, hand-made features": {
        "corel5k": (24.00, 25.00, 24.88, 122), "iaprtc12": (24.00, 23.00, 23.48, 223), "espgame": (18.00, 19.00, 18.50, 209),
    },
    "JEC, several hand-made features": {
        "corel5k": (27.00, 32.00, 29.28, 139), "iaprtc12": (28.00, 29.00, 28.49, 250), "espgame": (22.00, 25.00, 23.40, 224),
    },
    "JEC, VGG-16 end-to-end features": {
        "corel5k": (31.00, 32.00, 32.00, 141), "iaprtc12": (28.00, 21.00, 24.00, 237), "espgame": (26.00, 22.00, 23.83, 234),
    },
    "2PKNN, VGG-16 end-to-end features": {
        "corel5k": (33.00, 30.00, 32.00, 160), "iaprtc12": (38.00, 23.00, 29.00, 261), "espgame": (40.00, 23.00, 29.20, 250),
    },
    "AlexNet, end to end": {"corel5k": (25.80, 29.33, 27.45, 130)},
    "VGG-16, end to end": {"corel5k": (0.21, 1.92, 0.38, 5)},
    "conv5_2 + VLAD + positive mean": {
        "corel5k": (26.93, 41.43, 32.64, 161), "iaprtc12": (46.15, 32.80, 38.35, 258), "espgame": (43.74, 33.08, 37.67, 258),
    },
}  # fmt: skip


def reproduce(
    name: str,
    data: str | Path,
    config: AnnotatorConfig | None = None,
    *,
    seeds: int = 1,
    k: int = 5,
    cache: str | Path | None = None,
    report: str | Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    progress: bool | None = None,
) -> dict[str, Any]:
    """Run the experiment with seeds ``config.seed``, ``config.seed + 1``, …

    Args:
        name: ``corel5k``, ``iaprtc12`` or ``espgame``. data: its folder.
        seeds: how many codebooks; each seed draws its own K-means sample and start.
        cache: folder for features; None is the user's cache folder.
        report: an HTML page to write about the test images, as the first seed annotates them.
        overwrite: replace a report that exists.

    Returns:
        A dictionary ready for JSON: settings, environment, each seed's scores, their mean, standard deviation, minimum and maximum,
        the paper's rows and the seconds each step took.

    Raises:
        DataError: the data set is not there or not whole, or an image of it cannot be read.
    """
    if seeds < 1:
        raise InvalidArgumentError(f"seeds = {seeds} must be at least 1")
    if report is not None:
        check_report_path(report, overwrite)
    config = config or AnnotatorConfig(objective="words")
    train, test = load_benchmark(name, data)
    first = Encoder(config, device=device, new=True)
    config = first.config
    started = time.perf_counter()
    with (
        cached_features(first, train, cache, progress) as train_store,
        cached_features(first, test, cache, progress) as test_store,
    ):
        seconds = {"features": time.perf_counter() - started, "descriptors": 0.0, "fit": 0.0, "annotate": 0.0}
        runs: list[dict[str, Any]] = []
        with (
            InProcess(WordModel(first), train_store, train.labels, train.vocabulary, progress=progress) as steps,
            ExitStack() as stack,
        ):
            learn_transform(first, steps)  # normalisation and PCA do not depend on the seed
            train_descriptors, test_descriptors = steps.descriptors, stack.enter_context(first.describe(test_store))
            seconds["descriptors"] = time.perf_counter() - started - seconds["features"]
            for seed in range(config.seed, config.seed + seeds):
                model = WordModel(first.sharing_trunk(Learnt(first.transform_), seed=seed))
                began = time.perf_counter()
                rest = InProcess(model, None, train.labels, train.vocabulary, descriptors=train_descriptors, progress=progress)
                fit_from_descriptors(model, train.vocabulary, rest)
                fitted = time.perf_counter()
                positions, index, distance = annotate_descriptors(model, test_descriptors, k)
                seconds["fit"] += fitted - began
                seconds["annotate"] += time.perf_counter() - fitted
                scores = evaluate(index, test.labels[positions])
                if report is not None and seed == config.seed:
                    _write_report(report, model, test, positions, index, distance)
                runs.append({"seed": seed, "model_sha256": model.to_model_file().sha256, **scores.to_dict()})
    return {
        "schema": SCHEMA,
        "dataset": name,
        "images": {"train": len(train), "test": len(test)},
        "config": config.to_dict(),
        "trunk": {"weights_sha256": first.weights.sha256, "dtype": first.trunk.arithmetic},
        "k": k,
        "environment": record(),
        "seconds": {step: round(value, 1) for step, value in seconds.items()},
        "runs": runs,
        "summary": _summary(runs),
        "paper": {method: rows[name] for method, rows in PAPER.items() if name in rows},
    }


def annotate_descriptors(
    model: WordModel, descriptors: FeatureStore, k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """The k nearest words of images by their stored descriptors: positions (T,), index (T, k), distance (T, k)."""
    model.check_k(k)
    ranked = [[to_host(part) for part in model.rank(vectors, k)] for _, vectors in model.encoder.encode_descriptors(descriptors)]
    index, distance = (np.concatenate(part) for part in zip(*ranked, strict=True))
    return descriptors.positions, index, distance


def _write_report(
    path: str | Path,
    model: WordModel,
    test: LabelledImages,
    positions: NDArray[np.int64],
    index: NDArray[np.int64],
    distance: NDArray[np.float32],
) -> None:
    paths = [test.paths[position] for position in positions]
    confidence = model.confidence(index, distance)
    annotations = Annotations(tuple(map(str, paths)), positions, index, distance, test.vocabulary, confidence=confidence)
    title = f"{test.name}, seed {model.config.seed}"
    with ReportWriter(
        path, test.vocabulary, len(test), truth=test.labels, annotator=Annotator.of(model), title=title, overwrite=True
    ) as page:
        page.add(annotations, paths)
        page.commit()


def _summary(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    summary = {}
    for measure in ("precision", "recall", "f1", "n_plus", "words_given", "image_f1", "micro_f1"):
        values = np.array([run[measure] for run in runs], dtype=np.float64)
        spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        summary[measure] = {"mean": float(values.mean()), "std": spread, "min": float(values.min()), "max": float(values.max())}
    return summary
