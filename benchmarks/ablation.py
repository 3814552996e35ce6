"""From the preset paper to the preset best, one step at a time: what each gains and what it costs.

``python -m benchmarks.ablation corel5k FOLDER`` fits on the training images of Corel5k and scores the test images with 5 words, for
several codebook seeds; ``python -m benchmarks.ablation scenes`` does so with the two presets on drawn scenes, other ones for each
seed. The steps' settings were chosen on hold-outs of Corel5k's training images (``gpuannot tune``), never on its test images.

``python -m benchmarks.ablation holdouts FOLDER`` asks how well hold-outs tell what a step gains on the test images.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import alternate, parser_of, spread, write_if_asked
from gpuannot import Annotator
from gpuannot.config import PRESETS, AnnotatorConfig
from gpuannot.datasets.label_files import LabelledImages, load_benchmark, load_labelled_images
from gpuannot.datasets.scenes import write_scenes
from gpuannot.experiments.bootstrap import resample
from gpuannot.experiments.feature_cache import cached_features
from gpuannot.experiments.holdout import cover_holdout, covered_words
from gpuannot.experiments.reproduce import annotate_descriptors
from gpuannot.method.codebook import LayerCodebooks
from gpuannot.metrics import evaluate
from gpuannot.model.encoder import Encoder, Learnt
from gpuannot.model.fit import InProcess, learn_transform
from gpuannot.model.store import FeatureStore, StoreSubset
from gpuannot.model.word_model import WordModel

#: Settings of the preset best, in the order in which they are taken over from it.
STEPS: dict[str, tuple[str, ...]] = {
    "paper": (),
    "VLAD: signed square root, L2 norm": ("signed_sqrt", "l2"),
    "n = 128, m = 32": ("n_components", "n_centers"),
    "layers pool4, conv5_1, conv5_2, conv5_3": ("layer",),
    "joint projection, unit length": ("projection",),
    "ridge": ("head",),
    "calibration by leave-one-out odds, for every word alike": ("objective",),
    "products of the first components = best": ("quadratic", "quadratic_weight"),
}
#: What comes after them: the settings of the preset kernel that differ.
KERNEL = "kernel in place of products = kernel"
K = 5
# Settings that the descriptors and the visual words depend on: steps that agree in them share those.
_OF_DESCRIPTORS = ("layer", "n_components")
_OF_CODEBOOK = (*_OF_DESCRIPTORS, "n_centers")


def configs() -> dict[str, AnnotatorConfig]:
    """The settings of each step."""
    best, config, found = AnnotatorConfig.preset("best", objective="words"), AnnotatorConfig.preset("paper"), {}
    for step, names in STEPS.items():
        config = dataclasses.replace(config, **{name: getattr(best, name) for name in names})
        found[step] = config
    left = {name for name in PRESETS["best"] if getattr(config, name) != getattr(best, name)}
    if left:
        raise ValueError(f"the steps leave out settings of the preset best: {', '.join(sorted(left))}")
    return {**found, KERNEL: AnnotatorConfig.preset("kernel", objective="words")}


def ablation(data: str, cache: str | None, seeds: int, only: str = "") -> list[dict[str, Any]]:
    """A row for each step of Corel5k with ``only`` in its name, with F1, N+ and seconds of each seed."""
    train, test = load_benchmark("corel5k", data)
    rows: list[dict[str, Any]] = []
    with ExitStack() as open_stores:
        described: dict[Any, _Described] = {}
        books: _Books = {}
        for step, config in ((step, config) for step, config in configs().items() if only in step):
            key = tuple(getattr(config, name) for name in _OF_DESCRIPTORS)
            if key not in described:
                described[key] = _describe(config, train, test, cache, open_stores)
            runs = []
            for seed in range(seeds):
                runs.append(_run(described[key], dataclasses.replace(config, seed=seed), books))
                print(f"  seed {seed}: F1 {100 * runs[-1]['f1']:.2f}, N+ {runs[-1]['n_plus']}", flush=True)
            changed = STEPS.get(step, ("quadratic", "head"))
            rows.append({"step": step, "changed": {name: getattr(config, name) for name in changed}, "runs": runs})
            _print(rows[-1])
    return rows


def holdout_gains(data: str, cache: str | None, splits: int, seeds: int) -> list[dict[str, Any]]:
    """A row for each step of Corel5k: what it gains over the step before, on cover hold-outs and on the test images."""
    train, test = load_benchmark("corel5k", data)
    parts: list[_Split | None] = [cover_holdout(train.labels, len(train) // 9, number) for number in range(splits)]
    reached: dict[str, dict[str, list[NDArray[np.float64]]]] = {step: {"holdouts": [], "test": []} for step in configs()}
    for part in (*parts, None):
        with ExitStack() as open_stores:
            described: dict[Any, _Described] = {}
            for seed in range(seeds if part is None else 1):
                books: _Books = {}
                for step, config in configs().items():
                    key = tuple(getattr(config, name) for name in _OF_DESCRIPTORS)
                    if key not in described:
                        described[key] = _describe(config, train, test, cache, open_stores, part)
                    run = _run(described[key], dataclasses.replace(config, seed=seed), books, resampled=True)
                    reached[step]["test" if part is None else "holdouts"].append(100 * np.array(run["resampled"]))
                    print(f"{'test' if part is None else 'hold-out'}, seed {seed}, {step}: {100 * run['f1']:.2f}", flush=True)
    rows: list[dict[str, Any]] = []
    for (before, first), (step, second) in pairwise(reached.items()):
        row: dict[str, Any] = {"step": step, "after": before}
        for where in ("holdouts", "test"):  # column 0 is the images as they are, the others are bootstrap samples of them
            gains = np.mean(second[where], axis=0) - np.mean(first[where], axis=0)
            row[where] = {
                "f1": float(np.mean(second[where], axis=0)[0]),
                "gain": float(gains[0]),
                "error": float(gains[1:].std(ddof=1)),
            }
        rows.append(row)
        print(row, flush=True)
    return rows


def presets_on_scenes(train: int, test: int, seeds: int) -> list[dict[str, Any]]:
    """A row for each preset; the scenes of every seed are drawn anew."""
    rows: list[dict[str, Any]] = [{"step": name, "runs": []} for name in ("paper", "best")]
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            parts = {"train": train, "test": test}
            learnt_from, scored = (
                load_labelled_images(write_scenes(Path(folder) / part, count, seed=2 * seed + number).parent)
                for number, (part, count) in enumerate(parts.items())
            )
            for row in rows:
                config = AnnotatorConfig.preset(row["step"], seed=seed)
                with ExitStack() as open_stores:
                    row["runs"].append(_run(_describe(config, learnt_from, scored, folder, open_stores), config, {}))
    for row in rows:
        _print(row)
    return rows


def costs(data: str, images: int) -> dict[str, Any]:
    """Milliseconds an image from decoded pixels to words, of both presets in turn: trunk alone, and all."""
    import torch

    from gpuannot.images.decode import decode_image

    train, test = load_benchmark("corel5k", data)
    pixels = np.stack([decode_image(path, (224, 224)) for path in test.paths[:images]])
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    fitted = {
        name: Annotator(AnnotatorConfig.preset(name), device="cpu").fit(
            train.paths[:200], train.labels[:200], vocabulary=train.vocabulary, progress=False
        )
        for name in ("paper", "best")
    }
    calls: dict[str, Callable[[], object]] = {}
    for name, annotator in fitted.items():
        calls[f"{name}, trunk"] = lambda one=annotator: one.encoder.trunk(batch)  # type: ignore[misc]
        calls[f"{name}, all"] = lambda one=annotator: one.annotate_tensor(batch, K)  # type: ignore[misc]
    seconds = alternate(calls, repeats=5)
    return {name: {key: 1000 * value / images if key != "runs" else value for key, value in spread(times).items()}
            for name, times in seconds.items()}  # fmt: skip


class _Described(NamedTuple):
    """Both splits by their descriptors, the encoder that describes so, the seconds from the training features on, and the words
    that are scored where these are not all."""

    encoder: Encoder
    train: LabelledImages
    test: LabelledImages
    train_store: FeatureStore
    test_store: FeatureStore
    seconds: float
    words: NDArray[np.int64] | None


# Positions to learn from, and those held out.
_Split: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64]]
# Visual words and the seconds that they took, by seed and what else they depend on.
_Books: TypeAlias = dict[Any, tuple[LayerCodebooks, float]]


def _describe(
    config: AnnotatorConfig,
    train: LabelledImages,
    test: LabelledImages,
    cache: str | None,
    open_stores: ExitStack,
    split: _Split | None = None,
) -> _Described:
    """With a split, images of ``train`` are held out and take the place of ``test``."""
    encoder, words = Encoder(config, device="cpu", new=True), None
    with (
        cached_features(encoder, train, cache, False) as of_train,
        cached_features(encoder, test, cache, False) as of_test,
    ):
        train_features: FeatureStore = of_train
        test_features: FeatureStore = of_test
        if split is not None:
            train_features, test_features = (StoreSubset(of_train, rows) for rows in split)
            test, words = train, covered_words(train.labels, split[1])
        steps = open_stores.enter_context(
            InProcess(WordModel(encoder), train_features, train.labels, train.vocabulary, progress=False)
        )
        _, learning = _timed(lambda: learn_transform(encoder, steps))
        train_store, describing = _timed(lambda: steps.descriptors)
        test_store = open_stores.enter_context(encoder.describe(test_features))
    return _Described(encoder, train, test, train_store, test_store, learning + describing, words)


def _run(described: _Described, config: AnnotatorConfig, books: _Books, *, resampled: bool = False) -> dict[str, Any]:
    """What a config that describes images so reaches; visual words are taken from the books, or learnt into them.

    With ``resampled``, F1 of the images and then of bootstrap samples of them is there too.
    """
    encoder, train, test, train_store, test_store, before, words = described
    config = dataclasses.replace(config, trunk_dtype=encoder.config.trunk_dtype)
    model = WordModel(encoder.sharing_trunk(Learnt(encoder.transform_), **config.to_dict()))
    encoder = model.encoder
    steps = InProcess(model, None, train.labels, train.vocabulary, descriptors=train_store, progress=False)
    key = tuple(getattr(config, name) for name in ("seed", *_OF_CODEBOOK))
    if key not in books:
        _, clustering = _timed(lambda: encoder.fit_codebook(steps.descriptor_sample))
        books[key] = encoder.codebook_, clustering
    encoder.codebook_, clustering = books[key]

    def fit() -> None:
        if config.projection:
            encoder.fit_projection(steps.vector_sample())
        model.learn(train.vocabulary, steps.word_sums())
        _ = model.ranking  # the closed form is solved when it is first asked for

    _, fitting = _timed(fit)
    (positions, index, _), annotating = _timed(lambda: annotate_descriptors(model, test_store, K))
    truth = test.labels[positions]
    scores = evaluate(index, truth, words=words)
    if resampled:
        return {"f1": scores.f1, "resampled": [scores.f1, *resample(index, truth, words=words).f1]}
    sizes = {"with sums": _bytes(model, True)}
    if config.head == "ridge":
        sizes["without"] = _bytes(model, False)
    return {
        "seed": config.seed, "precision": scores.precision, "recall": scores.recall, "f1": scores.f1,
        "n_plus": scores.n_plus, "dimension": encoder.dimension, "fit_seconds": before + clustering + fitting,
        "annotate_ms": 1000 * annotating / len(test), "model_bytes": sizes,
    }  # fmt: skip


def _bytes(model: WordModel, sums: bool) -> int:
    return sum(tensor.nbytes for tensor in model.to_model_file(sums=sums).tensors.values())


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    return call(), time.perf_counter() - started


def _print(row: dict[str, Any]) -> None:
    f1, n_plus = (np.array([run[name] for run in row["runs"]], dtype=float) for name in ("f1", "n_plus"))
    print(f"{row['step']}: F1 {100 * f1.mean():.2f} ± {100 * f1.std(ddof=len(f1) > 1):.2f}, N+ {n_plus.mean():.1f} "
          f"({n_plus.min():.0f}…{n_plus.max():.0f}), fit {np.mean([run['fit_seconds'] for run in row['runs']]):.0f} s, "
          f"model {row['runs'][0]['model_bytes']}", flush=True)  # fmt: skip


def main() -> None:
    parser = parser_of("benchmarks.ablation", __doc__)
    parser.add_argument("what", choices=("corel5k", "scenes", "costs", "holdouts"))
    parser.add_argument("data", nargs="?", help="folder of Corel5k; not for scenes")
    parser.add_argument("--seeds", type=int, default=5, help="codebook seeds (default: %(default)s)")
    parser.add_argument("--cache", help="folder for features (default: the user's cache folder)")
    parser.add_argument("--train", type=int, default=400, help="scenes to learn from (default: %(default)s)")
    parser.add_argument("--test", type=int, default=200, help="scenes to score (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="steps with this in their name (default: all)")
    parser.add_argument("--splits", type=int, default=3, help="hold-outs of a ninth of the images (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.what != "scenes" and arguments.data is None:
        parser.error(f"{arguments.what} needs the folder of Corel5k")
    content: dict[str, Any]
    if arguments.what == "scenes":
        content = {"scenes": {"train": arguments.train, "test": arguments.test}}
        content["rows"] = presets_on_scenes(arguments.train, arguments.test, arguments.seeds)
    elif arguments.what == "costs":
        content = {"milliseconds_an_image": costs(arguments.data, 16)}
        print(content)
    elif arguments.what == "holdouts":
        rows = holdout_gains(arguments.data, arguments.cache, arguments.splits, arguments.seeds)
        gains = np.array([[row[where]["gain"] for where in ("holdouts", "test")] for row in rows])
        correlation = float(np.corrcoef(gains.T)[0, 1])
        print(f"correlation {correlation:.3f}")
        arithmetic = Encoder(new=True, device="cpu").trunk.arithmetic
        content = {"dataset": "corel5k", "splits": arguments.splits, "seeds": arguments.seeds, "trunk_dtype": arithmetic}
        content |= {"correlation": correlation, "rows": rows}
    else:
        content = {"dataset": "corel5k", "rows": ablation(arguments.data, arguments.cache, arguments.seeds, arguments.only)}
    write_if_asked(parser, arguments, {**content, "k": K})


if __name__ == "__main__":
    main()
