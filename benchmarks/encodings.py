"""What other encodings gain over the preset best, on hold-outs of training images: ``python -m benchmarks.encodings FOLDER``.

Each variant changes how an image of Corel5k becomes a VLAD vector; projection, products and calibrated ridge are the preset's.
Normalisation, PCA and visual words come from all training images without their labels, projection and words from those that are
not held out; the words that both sides carry are scored. Test images have no part in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from benchmarks.common import parser_of, write_if_asked
from gpuannot.config import AnnotatorConfig
from gpuannot.datasets.label_files import LabelledImages, load_benchmark
from gpuannot.experiments.feature_cache import cached_features
from gpuannot.experiments.holdout import cover_holdout, covered_words
from gpuannot.heads.calibration import SampledImages
from gpuannot.heads.projection import JointProjection
from gpuannot.heads.word_head import WordHead, new_bank
from gpuannot.images.decode import decode_image
from gpuannot.metrics import evaluate
from gpuannot.model.encoder import Encoder, Learnt, to_host
from gpuannot.model.fit import InProcess, learn_transform
from gpuannot.model.store import FeatureStore
from gpuannot.model.word_model import WordModel

K = 5
_SOFT = 3  # centres that a descriptor is shared among
BEST = AnnotatorConfig.preset("best", objective="words")

Vectors = NDArray[np.float32]


class Mirrored(Sequence[Any]):
    """Images as in a mirror, decoded when they are asked for."""

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: Any) -> Any:
        return np.ascontiguousarray(decode_image(self.paths[number], (self.size, self.size))[:, ::-1])


def steps_over(
    encoder: Encoder, train: LabelledImages, features: FeatureStore | None, descriptors: FeatureStore | None = None
) -> InProcess:
    """The steps by which the encoder learns from all training images."""
    return InProcess(WordModel(encoder), features, train.labels, train.vocabulary, descriptors=descriptors, progress=False)


def over(descriptors: FeatureStore, encode: Callable[[NDArray[np.float32]], Vectors]) -> Vectors:
    """The vectors of stored descriptors (N, P, L·n), block by block."""
    return np.concatenate([encode(block.numpy()) for _, block in descriptors.blocks(within_partitions=True)])


def plain(encoder: Encoder, block: NDArray[np.float32]) -> Vectors:
    return to_host(encoder.vlad(torch.from_numpy(block)))


def bands(encoder: Encoder, block: NDArray[np.float32]) -> Vectors:
    """The whole image and its upper, middle and lower third, each a vector."""
    side = int(block.shape[1] ** 0.5)
    grid = block.reshape(len(block), side, side, -1)
    thirds = np.array_split(np.arange(side), 3)
    parts = [block, *(np.ascontiguousarray(grid[:, rows]).reshape(len(block), -1, grid.shape[-1]) for rows in thirds)]
    return np.hstack([plain(encoder, part) for part in parts])


def soft(encoder: Encoder, block: NDArray[np.float32]) -> Vectors:
    """Each descriptor shared among its nearest centres by exp(−d²/s), s being the mean d² to the nearest; then as the preset."""
    centers = encoder.codebook_.centers
    n = centers.shape[2]
    return np.hstack([_soft(block[..., number * n : (number + 1) * n], words) for number, words in enumerate(centers)])


def _soft(block: NDArray[np.float32], centers: NDArray[np.float32]) -> Vectors:
    squared = np.square(block).sum(axis=2)[..., None] - 2 * block @ centers.T + np.square(centers).sum(axis=1)
    nearest = np.argpartition(squared, _SOFT, axis=2)[..., :_SOFT]
    away = np.take_along_axis(squared, nearest, axis=2)
    weights = np.exp(-(away - away.min(axis=2, keepdims=True)) / away.min(axis=2).mean())
    weights /= weights.sum(axis=2, keepdims=True)
    shares = np.zeros_like(squared)
    np.put_along_axis(shares, nearest, weights, axis=2)
    sums = shares.transpose(0, 2, 1) @ block - shares.sum(axis=1)[..., None] * centers
    rooted = (np.sign(sums) * np.sqrt(np.abs(sums))).reshape(len(block), -1)
    return (rooted / np.maximum(np.linalg.norm(rooted, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def variants(train: LabelledImages, cache: str | None) -> Iterator[tuple[str, Vectors]]:
    """The name and the vectors (N, D) of every variant, as each is made."""
    encoder = Encoder(BEST, device="cpu")
    with cached_features(encoder, train, cache, False) as features, steps_over(encoder, train, features) as steps:
        learn_transform(encoder, steps)
        encoder.fit_codebook(steps.descriptor_sample)
        store = steps.descriptors
        best = over(store, partial(plain, encoder))
        yield "best", best
        second = encoder.sharing_trunk(Learnt(encoder.transform_), seed=1)
        second.fit_codebook(steps_over(second, train, None, store).descriptor_sample)
        yield "two codebooks", np.hstack([best, over(store, partial(plain, second))])
        yield "soft assignment", over(store, partial(soft, encoder))
        yield "bands", over(store, partial(bands, encoder))
    images = Mirrored(train.paths, BEST.input_size)
    with encoder.extractor.new_store(len(images)) as mirrored:
        encoder.extractor.extract(images, mirrored, np.arange(len(images)))
        with encoder.describe(mirrored) as store:
            yield "mirror images averaged", (best + over(store, partial(plain, encoder))) / np.float32(2)
    larger = Encoder(BEST, device="cpu", input_size=320)
    with larger.extractor.new_store(len(train)) as enlarged:
        larger.extractor.extract(train.paths, enlarged, np.arange(len(train)))
        with steps_over(larger, train, enlarged) as steps:
            learn_transform(larger, steps)
            larger.fit_codebook(steps.descriptor_sample)
            large = over(steps.descriptors, partial(plain, larger))
    yield "input 320", large
    yield "inputs 224 and 320", np.hstack([best, large])


def reached(vectors: Vectors, train: LabelledImages, splits: int) -> list[dict[str, float]]:
    """F1 and N+ on each cover hold-out of 500."""
    found = []
    for number in range(splits):
        learn, held = cover_holdout(train.labels, 500, number)
        projection = JointProjection(BEST.projection, BEST.quadratic, BEST.quadratic_weight)
        projection.fit(torch.from_numpy(vectors[learn]))
        encoded = to_host(projection.transform(torch.from_numpy(vectors)))
        bank, head = new_bank(BEST, train.vocabulary, encoded.shape[1], "cpu"), WordHead(BEST)
        bank.drop(SampledImages)  # confidences, which nobody asks for
        for rows in np.array_split(learn, 8):
            bank.partial_fit(encoded[rows], train.labels[rows])
        head.settle(bank)
        index, _ = head.ranking(bank).nearest(encoded[held], K)
        scores = evaluate(bank.known[index], sparse.csr_array(train.labels[held]), words=covered_words(train.labels, held))
        found.append({"f1": scores.f1, "n_plus": scores.n_plus})
    return found


def main() -> None:
    parser = parser_of("benchmarks.encodings", __doc__)
    parser.add_argument("data", help="folder of Corel5k")
    parser.add_argument("--splits", type=int, default=3, help="hold-outs (default: %(default)s)")
    parser.add_argument("--cache", help="folder for features (default: the user's cache folder)")
    arguments = parser.parse_args()
    train, _ = load_benchmark("corel5k", arguments.data)
    rows: list[dict[str, Any]] = []
    for name, vectors in variants(train, arguments.cache):
        start = time.perf_counter()
        splits = reached(vectors, train, arguments.splits)
        gain = [100 * (each["f1"] - base["f1"]) for each, base in zip(splits, rows[0]["splits"] if rows else splits, strict=True)]
        rows.append({"variant": name, "dimension": vectors.shape[1], "splits": splits, "gain": gain})
        mean = {key: np.mean([each[key] for each in splits]) for key in ("f1", "n_plus")}
        print(f"{name}: F1 {100 * mean['f1']:.2f}, N+ {mean['n_plus']:.1f}, gain {np.mean(gain):+.2f} "
              f"({', '.join(f'{value:+.2f}' for value in gain)}), {time.perf_counter() - start:.0f} s", flush=True)  # fmt: skip
    write_if_asked(parser, arguments, {"dataset": "corel5k, training images", "k": K, "rows": rows})


if __name__ == "__main__":
    main()
