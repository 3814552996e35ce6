"""What other encodings and heads gain over the preset kernel, on hold-outs of training images.

``python -m benchmarks.encodings FOLDER --objective words``: each variant changes how an image becomes a vector, or what is made
of the vectors; the rest is the preset's. Everything is learnt from the images that are not held out. The words that both sides
carry are scored, and the held images resampled for standard errors. Test images have no part in it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import expit

from benchmarks.common import keep_if_asked, parser_of, write_if_asked
from gpuannot.config import OBJECTIVES, AnnotatorConfig
from gpuannot.datasets.label_files import LabelledImages, load_labelled_images
from gpuannot.experiments.bootstrap import resample
from gpuannot.experiments.feature_cache import cached_features
from gpuannot.experiments.holdout import cover_holdout, covered_words
from gpuannot.heads.kernel import KernelSystem
from gpuannot.heads.projection import Block, JointProjection, projection_sample
from gpuannot.heads.second_order import Pooling
from gpuannot.heads.systems import kept_images
from gpuannot.heads.word_head import WordHead, new_bank
from gpuannot.images.decode import decode_image
from gpuannot.method.words import WordBank
from gpuannot.metrics import evaluate, reliability
from gpuannot.model.annotations import given_words
from gpuannot.model.encoder import Encoder, Learnt, to_host
from gpuannot.model.fit import InProcess, learn_transform
from gpuannot.model.store import FeatureStore
from gpuannot.model.word_model import WordModel

K = 5
#: Which of the blocks of :meth:`~gpuannot.heads.second_order.Pooling.blocks` a variant has.
BLOCKS = {"moments beside it": [0, 1], "colours beside it": [0, 2], "moments and colours beside it": [0, 1, 2]}
LARGER = (320, 448)
WIDTHS = (1.0, 4.0)
MOMENTS = 96  # PCA components of a layer whose second moments are taken
_CANONICAL = 100  # directions that go with the labels
_COMPLETED = 0.5  # of a word's images: where an image without it scores higher than so many of them, it is given the word

Vectors = NDArray[np.float32]


class Mirrored(Sequence[Any]):
    """Images as in a mirror, decoded when they are asked for."""

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: Any) -> Any:
        return np.ascontiguousarray(decode_image(self.paths[number], (self.size, self.size))[:, ::-1])


class Variant(NamedTuple):
    """What the words are learnt from, and how held images are given them.

    Attributes:
        views: vectors (N or 2N, d) of length 1; a head learns from each, and their scores are averaged.
        labels: (rows of a view, W).
        learn: the rows to learn from.
        width: γ, where it is not the preset's.
    """

    name: str
    views: list[Vectors]
    labels: sparse.csr_array
    learn: NDArray[np.int64]
    width: float | None = None


class Stores:
    """What does not depend on what is held out, each computed once, when it is asked for."""

    def __init__(self, images: LabelledImages, config: AnnotatorConfig, cache: str | None, stack: ExitStack) -> None:
        self.images, self.config, self.cache, self.stack = images, config, cache, stack

    def _kept(self, **changes: Any) -> tuple[Encoder, FeatureStore]:
        encoder = Encoder(replace(self.config, **changes), device="cpu", new=True)
        return encoder, self.stack.enter_context(cached_features(encoder, self.images, self.cache, False))

    @cached_property
    def plain(self) -> tuple[Encoder, FeatureStore]:
        """Features as the preset has them."""
        return self._kept()

    @cached_property
    def mirrored(self) -> FeatureStore:
        """Features of the images in a mirror."""
        extractor = self.plain[0].extractor
        mirrored = self.stack.enter_context(extractor.new_store(len(self.images)))
        extractor.extract(Mirrored(self.images.paths, self.config.input_size), mirrored, np.arange(len(self.images)))
        return mirrored

    @cached_property
    def larger(self) -> list[tuple[Encoder, FeatureStore]]:
        """Features at larger inputs."""
        return [self._kept(input_size=size) for size in LARGER]

    @cached_property
    def coloured(self) -> tuple[Encoder, FeatureStore]:
        """Features with a layer of colours."""
        return self._kept(layer=f"colours+{self.config.layer}")


class _Layers:
    """What a split's images teach of normalisation, PCA and visual words, and vectors by that."""

    def __init__(self, encoder: Encoder, features: FeatureStore, images: LabelledImages, learn: NDArray[np.int64]) -> None:
        self.encoder = encoder
        self.steps = InProcess(WordModel(encoder), features, images.labels, images.vocabulary, learn_from=learn, progress=False)
        learn_transform(encoder, self.steps)

    def __enter__(self) -> _Layers:
        return self

    def __exit__(self, *_: object) -> None:
        self.steps.close()

    def vlad(self, encoder: Encoder | None = None) -> Vectors:
        """Vectors (N, D) of all images before any projection, by the visual words of ``encoder``, None being the split's own."""
        chosen = encoder or self.encoder
        chosen.fit_codebook(self.steps.descriptor_sample)
        return encoded(chosen, self.steps.descriptors)


def encoded(encoder: Encoder, descriptors: FeatureStore) -> Vectors:
    return np.concatenate([to_host(encoder.vlad(block)) for _, block in descriptors.blocks(within_partitions=True)])


def fresh(encoder: Encoder, **changes: Any) -> Encoder:
    """An encoder of the same trunk that has learnt nothing."""
    return encoder.sharing_trunk(**changes)


def projected(vectors: Vectors, learn: NDArray[np.int64], config: AnnotatorConfig, blocks: Sequence[Block] = ()) -> Vectors:
    """Unit vectors by the joint projection, which is learnt as a fit learns it."""
    projection = JointProjection(config.projection)
    sample = projection_sample(learn, config.projection_sample, config.seed)
    projection.fit(torch.from_numpy(vectors[sample]), blocks=blocks)
    return to_host(projection.transform(torch.from_numpy(vectors)))


def with_canonical(unit: Vectors, labels: sparse.csr_array, learn: NDArray[np.int64]) -> Vectors:
    """The unit vectors and as long a part of directions that go with the labels: of the regularised canonical correlations."""
    x, y = unit[learn].astype(np.float64), labels[learn].toarray().astype(np.float64)
    x_mean, y = x.mean(axis=0), (y - y.mean(axis=0)) / np.maximum(y.std(axis=0), 1e-9)
    covariance = (x - x_mean).T @ (x - x_mean)
    covariance[np.diag_indices_from(covariance)] += np.trace(covariance) / len(covariance)
    values, directions = np.linalg.eigh(covariance)
    whitening = directions / np.sqrt(values) @ directions.T
    left, _, _ = np.linalg.svd(whitening @ (x - x_mean).T @ y, full_matrices=False)
    canonical = (unit - x_mean) @ (whitening @ left[:, :_CANONICAL])
    canonical /= np.maximum(np.linalg.norm(canonical, axis=1, keepdims=True), 1e-12)
    return (np.hstack([unit, canonical]) / np.sqrt(2)).astype(np.float32)


def completed(unit: Vectors, labels: sparse.csr_array, learn: NDArray[np.int64], config: AnnotatorConfig) -> sparse.csr_array:
    """Labels with words added where an image, left out of the fit, scores above the middle of the images that carry the word."""
    bank, head = learnt(unit, labels, learn, config)
    assert head.penalty is not None
    scores = KernelSystem(kept_images(bank), head.penalty, config.kernel_width).left_out_scores(np.arange(len(learn))).numpy()
    dense = kept_images(bank).labels.toarray() > 0
    middle = np.array([np.quantile(scores[has, word], _COMPLETED) if has.any() else np.inf for word, has in enumerate(dense.T)])
    full = labels.toarray()
    full[learn] = np.maximum(full[learn], scores > middle)
    return sparse.csr_array(full)


def with_blocks(
    stores: Stores, images: LabelledImages, learn: NDArray[np.int64], config: AnnotatorConfig, variants: dict[str, list[int]]
) -> Iterator[Variant]:
    """What settings put beside the preset's VLAD vectors: the first block, which knows nothing of the others."""
    encoder, features = stores.coloured
    with _Layers(fresh(encoder, moments=MOMENTS if len(variants) > 1 else 0), features, images, learn) as layers:
        vectors, blocks = layers.vlad(), Pooling.blocks(layers.encoder.config)
    parts = np.split(vectors, np.cumsum([block.length for block in blocks])[:-1], axis=1)
    for name, chosen in variants.items():
        together = np.hstack([parts[block] for block in chosen])
        views = [projected(together, learn, config, [blocks[block] for block in chosen])]
        yield Variant(name, views, images.labels, learn)


def variants(
    stores: Stores, images: LabelledImages, learn: NDArray[np.int64], config: AnnotatorConfig, only: str | None
) -> Iterator[Variant]:
    """Every variant, the preset's own first, as each is made."""
    if only is not None:
        blocks = BLOCKS if only == "blocks" else {}
        yield from with_blocks(stores, images, learn, config, {"kernel": [0], **blocks})
        return
    labels = images.labels

    def of(name: str, *vectors: Vectors) -> Variant:
        return Variant(name, [projected(each, learn, config) for each in vectors], labels, learn)

    with _Layers(fresh(stores.plain[0]), stores.plain[1], images, learn) as layers:
        vlad = layers.vlad()
        own = of("kernel", vlad)
        yield own
        unit = own.views[0]
        for width in WIDTHS:
            yield own._replace(name=f"γ = {width:g}", width=width)
        yield Variant("directions of the labels beside it", [with_canonical(unit, labels, learn)], labels, learn)
        yield Variant("labels completed", [unit], completed(unit, labels, learn, config), learn)
        yield of("a kernel for each layer, scores averaged", *np.split(vlad, len(layers.encoder.trunk.layers), axis=1))
        with layers.encoder.describe(stores.mirrored) as descriptors:
            mirrored = encoded(layers.encoder, descriptors)
        yield of("mirror images averaged", (vlad + mirrored) / np.float32(2))
        both, rows = np.vstack([vlad, mirrored]), np.concatenate([learn, learn + len(vlad)])
        views = [projected(both, rows, config)]
        yield Variant("mirror images learnt too", views, sparse.csr_array(sparse.vstack([labels, labels])), rows)
        other = layers.vlad(layers.encoder.sharing_trunk(Learnt(layers.encoder.transform_), seed=config.seed + 1))
        yield of("two codebooks side by side", np.hstack([vlad, other]))
        yield of("two codebooks, scores averaged", vlad, other)
    yield from with_blocks(stores, images, learn, config, BLOCKS)
    for encoder, features in stores.larger:
        size = encoder.config.input_size
        with _Layers(fresh(encoder), features, images, learn) as layers:
            large = layers.vlad()
        yield of(f"input {size}", large)
        yield of(f"inputs {config.input_size} and {size}", np.hstack([vlad, large]))


def learnt(
    vectors: Vectors, labels: sparse.csr_array, learn: NDArray[np.int64], config: AnnotatorConfig
) -> tuple[WordBank, WordHead]:
    """The words of the images to learn from."""
    vocabulary, head = tuple(map(str, range(labels.shape[1]))), WordHead(config)
    bank = new_bank(config, vocabulary, vectors.shape[1], "cpu")
    for rows in np.array_split(learn, max(1, len(learn) // 512)):
        bank.partial_fit(vectors[rows], labels[rows], rows)
    head.settle(bank)
    return bank, head


class Given(NamedTuple):
    """Words (H, k) given to held images, −1 where fewer are, and their confidences (H, k), where there are any."""

    index: NDArray[np.int64]
    confidence: NDArray[np.float64] | None = None


def given(variant: Variant, held: NDArray[np.int64], config: AnnotatorConfig) -> Given:
    """The words of held images."""
    total, confidence = None, None
    config = replace(config, kernel_width=variant.width or config.kernel_width)
    for view in variant.views:
        bank, head = learnt(view, variant.labels, variant.learn, config)
        scores = head.ranking(bank).scores(view[held])
        total = scores if total is None else total + scores
        curves = head.confidence(bank)
        if head.chosen is not None and head.chosen.threshold is not None and curves is not None:
            slope, offset, level = curves
            own = expit(offset + slope * np.log(np.maximum(scores, 1e-12)) + level * scores)
            confidence = own if confidence is None else confidence + own
    assert total is not None and head.chosen is not None
    most = head.chosen.words if head.chosen.threshold is not None else K
    order = np.argsort(-total, axis=1, kind="stable")[:, :most]
    index = bank.known[order]
    if confidence is None:
        return Given(index)
    likely = np.take_along_axis(confidence, order, 1) / len(variant.views)
    return Given(np.where(given_words(likely, head.chosen.threshold), index, -1), likely)


def calibration(splits: list[tuple[Given, sparse.csr_array]]) -> dict[str, float]:
    """How true the confidences of the words given are over all splits, and what chance alone would make of it."""
    if any(part.confidence is None for part, _ in splits):
        return {}
    index, confidence = (np.concatenate([getattr(part, name).reshape(-1, 1) for part, _ in splits]) for name in Given._fields)
    truth = sparse.vstack([truth[np.repeat(np.arange(truth.shape[0]), part.index.shape[1])] for part, truth in splits])
    found = reliability(confidence, index, sparse.csr_array(truth))
    return {"words_given": int(found.pairs.sum()), "calibration_error": found.error, "error_by_chance": found.error_by_chance}


def content(
    found: dict[str, list[dict[str, float]]],
    samples: dict[str, list[NDArray[np.float64]]],
    annotated: dict[str, list[tuple[Given, sparse.csr_array]]],
    about: dict[str, Any],
) -> dict[str, Any]:
    """A row for each variant: its scores on each split, its gains, their standard error over the images, and calibration."""
    rows, measure = [], about["measure"]
    for name, splits in found.items():
        gains = [100 * (each[measure] - base[measure]) for each, base in zip(splits, found["kernel"], strict=True)]
        error = 100 * float(np.mean(samples[name], axis=0).std(ddof=1))
        rows.append({"variant": name, "splits": splits, "gain": gains, "gain_error": error, **calibration(annotated[name])})
    return {**about, "k": K, "rows": rows}


def main() -> None:
    parser = parser_of("benchmarks.encodings", __doc__)
    parser.add_argument("data", help="folder with train.json")
    parser.add_argument("--objective", choices=OBJECTIVES, default="words")
    parser.add_argument("--splits", type=int, default=3, help="hold-outs of a ninth of the images (default: %(default)s)")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--only-blocks", action="store_const", const="blocks", dest="only", help="the blocks beside VLAD alone")
    only.add_argument("--only-kernel", action="store_const", const="kernel", dest="only", help="the preset alone")
    parser.add_argument("--cache", help="folder for features (default: the user's cache folder)")
    parser.add_argument("--trunk-dtype", default="auto")
    arguments = parser.parse_args()
    images = load_labelled_images(Path(arguments.data) / "train.json")
    config = AnnotatorConfig.preset("kernel", objective=arguments.objective, trunk_dtype=arguments.trunk_dtype)
    measure = "f1" if arguments.objective == "words" else "image_f1"
    found: dict[str, list[dict[str, float]]] = {}
    samples: dict[str, list[NDArray[np.float64]]] = {}
    annotated: dict[str, list[tuple[Given, sparse.csr_array]]] = {}
    with ExitStack() as stack:
        stores = Stores(images, config, arguments.cache, stack)
        arithmetic = stores.coloured[0].trunk.arithmetic
        about: dict[str, Any] = {"dataset": images.name, "objective": arguments.objective, "measure": measure}
        about |= {"trunk_dtype": arithmetic, "images": len(images)}
        for split in range(arguments.splits):
            learn, held = cover_holdout(images.labels, len(images) // 9, split)
            truth, words = sparse.csr_array(images.labels[held]), covered_words(images.labels, held)
            first: NDArray[np.float64] | None = None
            for variant in variants(stores, images, learn, config, arguments.only):
                start = time.perf_counter()
                words_given = given(variant, held, config)
                annotated.setdefault(variant.name, []).append((words_given, truth))
                scores = evaluate(words_given.index, truth, words=words)
                drawn = getattr(resample(words_given.index, truth, words=words, seed=split), measure)
                first = drawn if first is None else first
                found.setdefault(variant.name, []).append({name: getattr(scores, name) for name in ("f1", "n_plus", "image_f1")})
                samples.setdefault(variant.name, []).append(drawn - first)
                base = found["kernel"][split][measure]
                print(f"{split} {variant.name}: {100 * scores.f1:.2f} / N+ {scores.n_plus} / image {100 * scores.image_f1:.2f}, "
                      f"gain {100 * (found[variant.name][split][measure] - base):+.2f} ± {100 * (drawn - first).std(ddof=1):.2f}, "
                      f"{time.perf_counter() - start:.0f} s", flush=True)  # fmt: skip
            keep_if_asked(parser, arguments, content(found, samples, annotated, about))
    write_if_asked(parser, arguments, content(found, samples, annotated, about))


if __name__ == "__main__":
    main()
