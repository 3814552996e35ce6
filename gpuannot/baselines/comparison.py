"""Every system of the paper's tables on one benchmark: same images, features, metrics and clock.

Hyper-parameters come from a hold-out of the training images (:func:`~gpuannot.baselines.search.holdout_search`); the test images
are annotated once, with the values chosen.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from ..config import AnnotatorConfig
from ..datasets.label_files import LabelledImages, load_benchmark
from ..errors import DeviceError, InvalidArgumentError, WeightsError
from ..experiments.bootstrap import resample
from ..experiments.reproduce import PAPER
from ..metrics import evaluate
from ..system.environment import record
from .base import Baseline
from .benchmark_features import KINDS, BenchmarkFeatures
from .cmrm import CMRM
from .end_to_end import EndToEnd
from .jec import JEC
from .linear import LinearRidge, LinearSVM
from .mbrm import MBRM
from .positive_mean import PositiveMean
from .search import SearchResult, holdout_search
from .tagprop import TagProp
from .two_pass_knn import TwoPassKNN

Networks: TypeAlias = Literal["none", "fixed", "all"]

SCHEMA = "gpuannot.comparison/1"

#: Runs of the timed part; the median is given.
_REPEATS = 3


@dataclass(frozen=True)
class Row:
    """One system of the comparison.

    Attributes:
        method: its name.
        features: a key of ``KINDS``.
        build: makes the unfitted estimator from the hyper-parameters.
        grid: their values to try; empty where there are none.
        paper: the row of the paper that it answers to, a key of ``PAPER``; None where the paper has none.
        network: for a network on ``images``, whether its convolutions are ``fixed`` or ``trained``.
    """

    method: str
    features: str
    build: Callable[..., Baseline | EndToEnd]
    grid: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    paper: str | None = None
    network: Literal["fixed", "trained"] | None = None

    @property
    def name(self) -> str:
        return f"{self.method}, {KINDS[self.features]}"


_KNN_GRID = {"metric": ("cosine",), "nearest_per_word": (1, 2, 3, 4, 5, 6, 8, 10), "beta": (10.0, 20.0, 30.0, 40.0, 60.0)}
# Makadia compares Lab histograms by Kullback-Leibler divergence, all else by L1.
_HISTOGRAMS = {"rgb": "l1", "hsv": "l1", "lab": "kl", "gabor": "l1", "haar": "l1", "haar_q": "l1"}
_DEEP = "VGG-16 end-to-end features"

#: The paper's rows, then the same systems on our VLAD vectors, then others.
ROWS: tuple[Row, ...] = (
    Row("MBRM", "grid", MBRM, {"beta": (1.0, 2.0, 4.0), "mu": (1e4, 1e5, 1e6)}, "MBRM, hand-made features"),
    Row("JEC", "histograms", partial(JEC, metric=_HISTOGRAMS), {}, "JEC, several hand-made features"),
    Row("JEC", "layers", partial(JEC, metric="cosine"), {}, f"JEC, {_DEEP}"),
    Row("2PKNN", "layers", TwoPassKNN, _KNN_GRID, f"2PKNN, {_DEEP}"),
    Row("positive mean", "vlad", PositiveMean, {}, "conv5_2 + VLAD + positive mean"),
    Row("positive mean", "vlad-normalised", PositiveMean),
    Row("positive mean", "conv5_3", PositiveMean),
    Row("JEC", "vlad-normalised", JEC, {"metric": ("cosine",)}),
    Row("2PKNN", "vlad", TwoPassKNN, _KNN_GRID),
    Row("2PKNN", "vlad-normalised", TwoPassKNN, _KNN_GRID),
    Row("TagProp", "vlad-normalised", TagProp, {"metric": ("cosine",), "neighbours": (100, 200, 400)}),
    Row("CMRM", "visual-words", CMRM, {"alpha": (0.001, 0.01, 0.1), "beta": (0.5, 0.8, 0.9)}),
    Row("ridge", "vlad", LinearRidge, {"regularisation": (0.3, 1.0, 3.0), "balance": (0.25, 0.5, 0.75)}),
    Row(
        "VGG-16, fixed, with a trained last layer",
        "images",
        partial(EndToEnd, mode="frozen", crop=False, flip=False),
        network="fixed",
    ),
    Row("AlexNet, from scratch", "images", partial(EndToEnd, "alexnet", "scratch"), paper="AlexNet, end to end", network="trained"),
    Row("VGG-16, fine-tuned", "images", EndToEnd, paper="VGG-16, end to end", network="trained"),
    Row("linear SVM", "vlad-normalised", partial(LinearSVM, tolerance=1e-2), {"cost": (1.0,), "balance": (0.0, 0.5)}),
)


def compare(
    name: str,
    data: str | Path,
    config: AnnotatorConfig | None = None,
    *,
    k: int = 5,
    splits: int = 2,
    rows: Sequence[Row] | None = None,
    networks: Networks = "none",
    cache: str | Path | None = None,
    device: str = "auto",
    progress: bool | None = None,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Fit and score every row.

    Args:
        name: ``corel5k``, ``iaprtc12`` or ``espgame``.
        data: its folder.
        config: what our own row and the VLAD features are; None is the preset ``paper``.
        k: words given to each image.
        splits: hold-outs that each hyper-parameter is judged on; each holds out 500 training images, or a ninth where there are
            fewer than 4,500.
        rows: the systems; None for all of ``ROWS``.
        networks: which networks on ``images`` run: ``none``, with ``fixed`` convolutions (minutes on a CPU), or ``all`` (days).
        cache: folder of features; None is the user's cache folder.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        progress: show bars; None shows them on terminals.
        report: called with each row's result as soon as it is there, unless it did not run.

    Returns:
        a dictionary ready for JSON: settings, environment, the rows' scores with the standard error of F1 over images, chosen
        values, every trial and seconds, and the paper's rows. A row whose features cannot be had here carries ``missing`` with the
        reason in the place of scores.

    Raises:
        DataError: the data set is not there or not whole, or an image of it cannot be read.
    """
    config = config or AnnotatorConfig()
    train, test = load_benchmark(name, data)
    features = BenchmarkFeatures(train, test, config, cache=cache, device=device, progress=progress)
    results = []
    for row in ROWS if rows is None else rows:
        result: dict[str, Any] = {
            "method": row.method,
            "features": KINDS[row.features],
            "paper_row": row.paper if row.paper in PAPER and name in PAPER[row.paper] else None,
        }
        if row.network and not (networks == "all" or networks == row.network):
            wanted = "fixed" if row.network == "fixed" else "all"
            results.append(result | {"missing": f"networks run where they are asked for (--networks {wanted}), best on a GPU"})
            continue
        try:
            train_features, test_features = features.get(row.features)
        except (DeviceError, WeightsError, InvalidArgumentError) as error:  # the last where pool5 finds no patch
            result["missing"] = str(error)
        else:
            result |= _run(row, train_features, test_features, train, test, k, splits, device, progress)
        results.append(result)
        if report is not None:
            report(result)
    return {
        "schema": SCHEMA,
        "dataset": name,
        "images": {"train": len(train), "test": len(test)},
        "config": config.to_dict(),
        "k": k,
        "environment": record(),
        "feature_seconds": features.seconds,
        "rows": results,
        "paper": {method: values[name] for method, values in PAPER.items() if name in values},
    }


def rows_named(parts: Sequence[str]) -> tuple[Row, ...]:
    """The rows of ``ROWS`` whose name (method, features) holds one of ``parts``, in whatever case; without parts all rows.

    Raises:
        ValueError: a part that is in no row's name.
    """
    for part in parts:
        if not any(part.lower() in row.name.lower() for row in ROWS):
            raise InvalidArgumentError(f"no system has {part!r} in its name; there are {'; '.join(row.name for row in ROWS)}")
    return tuple(row for row in ROWS if not parts or any(part.lower() in row.name.lower() for part in parts))


def _run(
    row: Row,
    train_features: Any,
    test_features: Any,
    train: LabelledImages,
    test: LabelledImages,
    k: int,
    splits: int,
    device: str,
    progress: bool | None,
) -> dict[str, Any]:
    build: Callable[..., Any] = partial(row.build, device=device)
    search: SearchResult | None = None
    began = time.perf_counter()
    if row.grid:
        search = holdout_search(
            build,
            row.grid,
            train_features,
            train.labels,
            train.vocabulary,
            k=k,
            holdout=min(500, max(1, len(train) // 9)),
            splits=splits,
            progress=progress,
        )
    searched = time.perf_counter() - began
    baseline = build(**(search.best if search else {}))
    fit = _seconds(lambda: baseline.fit(train_features, train.labels, train.vocabulary), baseline.device, 1)
    annotate = _seconds(lambda: baseline.annotate(test_features, k), baseline.device, 1 if row.features == "images" else _REPEATS)
    index, _ = baseline.annotate(test_features, k)
    everything = baseline.scores(test_features).nan_to_num(neginf=torch.finfo(torch.float32).min)  # words that cannot be given
    scores = evaluate(index.cpu().numpy(), test.labels, everything.cpu().numpy())
    return {
        "chosen": search.best if search else {},
        "search": search.to_dict() if search else None,
        "seconds": {"search": round(searched, 2), "fit": round(fit, 3), "annotate_an_image": annotate / len(test)},
        "scores": {**scores.to_dict(), "f1_error": resample(index.cpu().numpy(), test.labels).standard_errors()["f1"]},
    }


def _seconds(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median seconds of ``work``, what it started on a GPU included."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)
