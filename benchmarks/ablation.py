"""From the preset paper to the preset best, one step at a time: what each gains and what it costs.

``python -m benchmarks.ablation corel5k FOLDER`` fits on the training images of Corel5k and scores the test images with 5 words, for
several codebook seeds; ``python -m benchmarks.ablation scenes`` does so with the two presets on drawn scenes, other ones for each
seed. The steps' settings were chosen on hold-outs of Corel5k's training images (``gpuannot tune``), never on its test images.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from benchmarks.common import alternate, parser_of, spread, write_if_asked
from gpuannot import Annotator
from gpuannot.config import PRESETS, AnnotatorConfig
from gpuannot.datasets.label_files import LabelledImages, load_benchmark, load_labelled_images
from gpuannot.datasets.scenes import write_scenes
from gpuannot.experiments.feature_cache import cached_features
from gpuannot.experiments.reproduce import annotate_descriptors
from gpuannot.method.codebook import LayerCodebooks
from gpuannot.metrics import evaluate
from gpuannot.model.encoder import Encoder, Learnt
from gpuannot.model.fit import InProcess, learn_transform
from gpuannot.model.store import FeatureStore
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
    return found


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
            rows.append({"step": step, "changed": {name: getattr(config, name) for name in STEPS[step]}, "runs": runs})
            _print(rows[-1])
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
    """Both splits by their descriptors, the encoder that describes so, and the seconds from the training features on."""

    encoder: Encoder
    train: LabelledImages
    test: LabelledImages
    train_store: FeatureStore
    test_store: FeatureStore
    seconds: float


# Visual words and the seconds that they took, by seed and what else they depend on.
_Books: TypeAlias = dict[Any, tuple[LayerCodebooks, float]]


def _describe(
    config: AnnotatorConfig, train: LabelledImages, test: LabelledImages, cache: str | None, open_stores: ExitStack
) -> _Described:
    encoder = Encoder(config, device="cpu")
    with (
        cached_features(encoder, train, cache, False) as train_features,
        cached_features(encoder, test, cache, False) as test_features,
    ):
        steps = open_stores.enter_context(
            InProcess(WordModel(encoder), train_features, train.labels, train.vocabulary, progress=False)
        )
        _, learning = _timed(lambda: learn_transform(encoder, steps))
        train_store, describing = _timed(lambda: steps.descriptors)
        test_store = open_stores.enter_context(encoder.describe(test_features))
    return _Described(encoder, train, test, train_store, test_store, learning + describing)


def _run(described: _Described, config: AnnotatorConfig, books: _Books) -> dict[str, Any]:
    """What a config that describes images so reaches; visual words are taken from the books, or learnt into them."""
    encoder, train, test, train_store, test_store, before = described
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
    scores = evaluate(index, test.labels[positions])
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
    parser.add_argument("what", choices=("corel5k", "scenes", "costs"))
    parser.add_argument("data", nargs="?", help="folder of Corel5k; not for scenes")
    parser.add_argument("--seeds", type=int, default=5, help="codebook seeds (default: %(default)s)")
    parser.add_argument("--cache", help="folder for features (default: the user's cache folder)")
    parser.add_argument("--train", type=int, default=400, help="scenes to learn from (default: %(default)s)")
    parser.add_argument("--test", type=int, default=200, help="scenes to score (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="steps with this in their name (default: all)")
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
    else:
        content = {"dataset": "corel5k", "rows": ablation(arguments.data, arguments.cache, arguments.seeds, arguments.only)}
    write_if_asked(parser, arguments, {**content, "k": K})


if __name__ == "__main__":
    main()
