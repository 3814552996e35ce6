"""From the preset paper to the preset best, one step at a time: what each gains and what it costs.

``python -m benchmarks.ablation corel5k FOLDER`` fits on the training images of Corel5k and scores the test images with 5 words, for
several codebook seeds; ``python -m benchmarks.ablation scenes`` does so with the two presets on drawn scenes, other ones for each
seed. The steps' settings were chosen on hold-outs of Corel5k's training images (``gpuannot tune``), never on its test images.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import write_result
from gpuannot import Annotator
from gpuannot.config import PRESETS, AnnotatorConfig
from gpuannot.datasets.label_files import LabelledImages, load_benchmark, load_labelled_images
from gpuannot.datasets.scenes import write_scenes
from gpuannot.experiments.feature_cache import cached_features
from gpuannot.metrics import evaluate
from gpuannot.model.extractor import Store

#: Settings of the preset best, in the order in which they are taken over from it.
STEPS: dict[str, tuple[str, ...]] = {
    "paper": (),
    "VLAD: signed square root, L2 norm": ("signed_sqrt", "l2"),
    "n = 128, m = 32": ("n_components", "n_centers"),
    "layers pool4, conv5_1, conv5_2, conv5_3": ("layer",),
    "joint projection, unit length": ("projection",),
    "ridge": ("head", "regularisation"),
    "calibration by leave-one-out odds, balance": ("calibration", "balance"),
    "products of the first components = best": ("quadratic", "quadratic_weight"),
}
K = 5
# Settings that the descriptors and the visual words depend on: steps that agree in them share those.
_OF_DESCRIPTORS = ("layer", "n_components")
_OF_CODEBOOK = (*_OF_DESCRIPTORS, "n_centers")


def configs() -> dict[str, AnnotatorConfig]:
    """The settings of each step."""
    best, config, found = AnnotatorConfig.preset("best"), AnnotatorConfig.preset("paper"), {}
    for step, names in STEPS.items():
        config = dataclasses.replace(config, **{name: getattr(best, name) for name in names})
        found[step] = config
    left = {name for name in PRESETS["best"] if getattr(config, name) != getattr(best, name)}
    if left:
        raise ValueError(f"the steps leave out settings of the preset best: {', '.join(sorted(left))}")
    return found


def ablation(data: str, cache: str | None, seeds: int, only: str = "") -> list[dict[str, Any]]:
    """A row for each step of Corel5k with ``only`` in its name, with F1, N+ and seconds of each seed."""
    train, test = load_benchmark("corel5k", data)
    rows: list[dict[str, Any]] = []
    with ExitStack() as open_stores:
        stores: dict[Any, tuple[Annotator, Store, Store, float]] = {}
        books: dict[Any, tuple[Any, float]] = {}
        for step, config in ((step, config) for step, config in configs().items() if only in step):
            key = tuple(getattr(config, name) for name in _OF_DESCRIPTORS)
            if key not in stores:
                stores[key] = _described(config, train, test, cache, open_stores)
            first, train_store, test_store, prepared = stores[key]
            runs = []
            for seed in range(seeds):
                annotator = Annotator(dataclasses.replace(config, seed=seed), device="cpu")
                annotator._trunk, annotator._weights, annotator.transform_ = first._trunk, first._weights, first.transform_
                book = (seed, *(getattr(config, name) for name in _OF_CODEBOOK))
                if book not in books:
                    books[book] = _timed(lambda: annotator.learn_codebook(train_store))  # noqa: B023 - called at once
                annotator.codebook_, clustering = books[book]
                runs.append(_run(annotator, train_store, test_store, train, test, prepared + clustering))
                print(f"  seed {seed}: F1 {100 * runs[-1]['f1']:.2f}, N+ {runs[-1]['n_plus']}", flush=True)
            rows.append({"step": step, "changed": {name: getattr(config, name) for name in STEPS[step]}, "runs": runs})
            _print(rows[-1])
    return rows


def presets_on_scenes(train: int, test: int, seeds: int) -> list[dict[str, Any]]:
    """A row for each preset; the scenes of every seed are drawn anew."""
    rows: list[dict[str, Any]] = [{"step": name, "runs": []} for name in ("paper", "best")]
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            parts = {"train": train, "test": test}
            drawn = [
                load_labelled_images(write_scenes(Path(folder) / part, count, seed=2 * seed + number).parent)
                for number, (part, count) in enumerate(parts.items())
            ]
            for row in rows:
                config = AnnotatorConfig.preset(row["step"], seed=seed)
                with ExitStack() as open_stores:
                    first, train_store, test_store, prepared = _described(config, *drawn, folder, open_stores)
                    _, clustering = _timed(lambda: first.learn_codebook(train_store))  # noqa: B023 - called at once
                    row["runs"].append(_run(first, train_store, test_store, *drawn, prepared + clustering))
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
        calls[f"{name}, trunk"] = lambda one=annotator: one.trunk(batch)  # type: ignore[misc]
        calls[f"{name}, all"] = lambda one=annotator: one.annotate_tensor(batch, K)  # type: ignore[misc]
    from benchmarks.common import alternate, spread

    seconds = alternate(calls, repeats=5)
    return {name: {key: 1000 * value / images if key != "runs" else value for key, value in spread(times).items()}
            for name, times in seconds.items()}  # fmt: skip


@contextmanager
def _closing(store: Store) -> Iterator[Store]:
    try:
        yield store
    finally:
        store.close()


def _described(
    config: AnnotatorConfig, train: LabelledImages, test: LabelledImages, cache: str | None, open_stores: ExitStack
) -> tuple[Annotator, Store, Store, float]:
    """An annotator with normalisation and PCA, the descriptors of both splits, and the seconds that those took from features on."""
    annotator = Annotator(config, device="cpu")
    with (
        cached_features(annotator, train, cache, False) as train_features,
        cached_features(annotator, test, cache, False) as test_features,
    ):
        started = time.perf_counter()
        annotator.learn_transform(train_features, progress=False)
        train_store = open_stores.enter_context(_closing(annotator.describe(train_features, progress=False)))
        seconds = time.perf_counter() - started
        test_store = open_stores.enter_context(_closing(annotator.describe(test_features, progress=False)))
    return annotator, train_store, test_store, seconds


def _run(
    annotator: Annotator, train_store: Store, test_store: Store, train: LabelledImages, test: LabelledImages, before: float
) -> dict[str, Any]:
    def fit() -> None:
        annotator.learn_projection(train_store)
        annotator.fit_words(train_store, train.labels, train.vocabulary)
        annotator._words_ranking()  # the closed form is solved when it is first asked for

    _, fitting = _timed(fit)
    (positions, index, _), annotating = _timed(lambda: annotator.annotate_descriptors(test_store, K))
    scores = evaluate(index, test.labels[positions])
    sizes = {"with sums": _bytes(annotator, True)}
    if annotator.config.head == "ridge":
        sizes["without"] = _bytes(annotator, False)
    return {
        "seed": annotator.config.seed, "precision": scores.precision, "recall": scores.recall, "f1": scores.f1,
        "n_plus": scores.n_plus, "dimension": annotator.dimension, "fit_seconds": before + fitting,
        "annotate_ms": 1000 * annotating / len(test), "model_bytes": sizes,
    }  # fmt: skip


def _bytes(annotator: Annotator, sums: bool) -> int:
    return sum(tensor.nbytes for tensor in annotator.to_model_file(sums=sums).tensors.values())


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    return call(), time.perf_counter() - started


def _print(row: dict[str, Any]) -> None:
    f1, n_plus = (np.array([run[name] for run in row["runs"]], dtype=float) for name in ("f1", "n_plus"))
    print(f"{row['step']}: F1 {100 * f1.mean():.2f} ± {100 * f1.std(ddof=len(f1) > 1):.2f}, N+ {n_plus.mean():.1f} "
          f"({n_plus.min():.0f}…{n_plus.max():.0f}), fit {np.mean([run['fit_seconds'] for run in row['runs']]):.0f} s, "
          f"model {row['runs'][0]['model_bytes']}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("corel5k", "scenes", "costs"))
    parser.add_argument("data", nargs="?", help="folder of Corel5k; not for scenes")
    parser.add_argument("--seeds", type=int, default=5, help="codebook seeds (default: %(default)s)")
    parser.add_argument("--cache", help="folder for features (default: the user's cache folder)")
    parser.add_argument("--train", type=int, default=400, help="scenes to learn from (default: %(default)s)")
    parser.add_argument("--test", type=int, default=200, help="scenes to score (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="steps with this in their name (default: all)")
    parser.add_argument("--write", metavar="NAME", help="also write benchmarks/results/NAME.json")
    arguments = parser.parse_args()
    if arguments.what != "scenes" and arguments.data is None:
        parser.error(f"{arguments.what} needs the folder of Corel5k")
    content: dict[str, Any]
    if arguments.what == "scenes":
        content = {"scenes": {"train": arguments.train, "test": arguments.test}}
        content["rows"] = presets_on_scenes(arguments.train, arguments.test, arguments.seeds)
        command = (
            f"python -m benchmarks.ablation scenes --seeds {arguments.seeds} --train {arguments.train} --test {arguments.test}"
        )
    elif arguments.what == "costs":
        content = {"milliseconds_an_image": costs(arguments.data, 16)}
        print(content)
        command = "python -m benchmarks.ablation costs FOLDER"
    else:
        content = {"dataset": "corel5k", "rows": ablation(arguments.data, arguments.cache, arguments.seeds, arguments.only)}
        command = f"python -m benchmarks.ablation corel5k FOLDER --seeds {arguments.seeds}"
        command += f" --only {arguments.only!r}" if arguments.only else ""
    if arguments.write:
        content["k"] = K
        print(write_result(arguments.write, command, content))


if __name__ == "__main__":
    main()
