"""The features that the compared systems look at, of a benchmark's training and test images, from the feature cache."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import AnnotatorConfig
from ..datasets.label_files import LabelledImages
from ..errors import InvalidArgumentError
from ..experiments.feature_cache import cached_arrays, cached_features
from ..model.encoder import Encoder, to_host
from ..model.fit import InProcess, fit
from ..model.word_model import WordModel
from ..reference.vlad import nearest_center
from ..system.environment import versions
from .base import Features
from .global_features import GlobalFeatures
from .handmade import grid_features, handmade_features

#: What each kind of features is, as tables print it.
KINDS = {
    "vlad": "VLAD of the configuration",
    "vlad-normalised": "VLAD, signed sqrt and L2",
    "visual-words": "counts of the codebook's visual words",
    "conv5_3": "VGG-16 conv5_3, mean square root over positions",
    "layers": "VGG-16 pool4, conv5_1, conv5_2, conv5_3: mean square root over positions; pool5: maximum",
    "pool5": "VGG-16 pool5, flattened",
    "fc7": "VGG-16 fc7",
    "histograms": "hand-made: RGB, HSV, Lab, Gabor, Haar",
    "grid": "hand-made: colour and Gabor statistics of 24 regions",
    "images": "pixels",
}

# Nearest images under square roots carry the right words more often than under means, on hold-outs of Corel5k's training images.
_POOLING = {"conv5_3": "root", "pool5": "flatten"}
#: The arrays of ``layers``.
LAYERS = ("pool4", "conv5_1", "conv5_2", "conv5_3", "pool5")


class BenchmarkFeatures:
    """Features of both splits by kind (see ``KINDS``), computed when first asked for.

    Args:
        train: the training split.
        test: the test split.
        config: what ``vlad`` and ``visual-words`` mean, and the trunk's weights and arithmetic for all deep features.
        cache: folder; None is the user's cache folder.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        progress: show bars; None shows them on terminals.

    Attributes:
        seconds: what each kind took, reading from the cache included.
    """

    def __init__(
        self,
        train: LabelledImages,
        test: LabelledImages,
        config: AnnotatorConfig,
        *,
        cache: str | Path | None = None,
        device: str = "auto",
        progress: bool | None = None,
    ) -> None:
        self._model = WordModel(Encoder(config, device=device, new=True))
        self.train, self.test, self.config = train, test, self._model.config
        self.cache, self.device, self.progress = cache, device, progress
        self.seconds: dict[str, float] = {}

    def get(self, kind: str) -> tuple[Any, Any]:
        """Training and test features: (N, …) and (T, …), or dictionaries of them; for ``images`` their paths.

        Raises:
            ValueError: an unknown kind.
            DataError: images that are not there.
            WeightsError: weights that are not there.
        """
        if kind not in KINDS:
            raise InvalidArgumentError(f"features {kind!r} are unknown; choose one of {', '.join(KINDS)}")
        started = time.perf_counter()
        train, test = (self._of(kind, split) for split in (self.train, self.test))
        self.seconds[kind] = round(time.perf_counter() - started, 1)
        return train, test

    def _of(self, kind: str, split: LabelledImages) -> Features | tuple[Path, ...]:
        if kind in ("vlad", "vlad-normalised", "visual-words"):
            arrays = self._encoded(split)
            return _normalised(arrays["vlad"]) if kind == "vlad-normalised" else arrays[kind]
        if kind == "images":
            return split.paths
        if kind == "histograms":
            return self._kept(kind, split, lambda: handmade_features(split.paths, progress=self.progress))
        if kind == "grid":
            return self._kept(kind, split, lambda: {"grid": grid_features(split.paths, progress=self.progress)})["grid"]
        return self._deep(kind, split)

    def _deep(self, kind: str, split: LabelledImages) -> Features:
        if kind == "layers":
            return self._kept((*LAYERS, "root", "max", *self._trunk_key()), split, lambda: self._by_layer(split))

        def encode() -> dict[str, NDArray[Any]]:
            return {kind: self._global(kind, _POOLING.get(kind), split)}

        return self._kept((kind, _POOLING.get(kind), *self._trunk_key()), split, encode)[kind]

    def _by_layer(self, split: LabelledImages) -> dict[str, NDArray[Any]]:
        *before, last = LAYERS
        parts = np.split(self._global("+".join(before), "root", split), len(before), axis=1)
        return {**dict(zip(before, parts, strict=True)), last: self._global(last, "max", split)}

    def _global(self, layer: str, pooling: str | None, split: LabelledImages) -> NDArray[Any]:
        config = self.config
        describe = GlobalFeatures(
            layer,
            pooling,
            weights=config.weights,
            convention=config.weights_convention,
            input_size=config.input_size,
            interpolation=config.interpolation,
            dtype=config.trunk_dtype,
            device=self.device,
        )
        return describe.encode(split.paths, progress=self.progress)

    def _encoded(self, split: LabelledImages) -> dict[str, NDArray[Any]]:
        """VLAD vectors and visual-word counts by an encoder that learnt from the training images."""
        settings = self.config.to_dict()
        return self._kept(("vlad", settings, self.train.name, *self._trunk_key()), split, lambda: self._encode(split))

    def _encode(self, split: LabelledImages) -> dict[str, NDArray[Any]]:
        encoder = self._fitted().encoder
        vectors, counts = [], []
        with (
            cached_features(encoder, split, self.cache, self.progress) as features,
            encoder.describe(features) as descriptors,
        ):
            vectors = [to_host(block) for _, block in encoder.encode_descriptors(descriptors)]
            for _, block in descriptors.blocks():
                counts.append(_visual_word_counts(to_host(block), encoder.codebook_.centers[0]))
        return {"vlad": np.concatenate(vectors), "visual-words": np.concatenate(counts)}

    def _fitted(self) -> WordModel:
        model, train = self._model, self.train
        if not hasattr(model, "bank_"):
            with (
                cached_features(model.encoder, train, self.cache, self.progress) as features,
                InProcess(model, features, train.labels, train.vocabulary, progress=self.progress) as steps,
            ):
                fit(model, train.vocabulary, steps)
        return model

    def _trunk_key(self) -> tuple[Any, ...]:
        encoder = self._model.encoder
        return encoder.weights.sha256, f"torch.{encoder.trunk.arithmetic}", self.config.input_size, self.config.interpolation

    def _kept(self, key: Any, split: LabelledImages, compute: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        return cached_arrays((key, versions()["gpuannot"]), split, compute, self.cache)


def _normalised(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """sign(v)·√|v|, then unit L2 norm."""
    rooted = np.sign(vectors) * np.sqrt(np.abs(vectors))
    norm = np.linalg.norm(rooted, axis=1, keepdims=True)
    return (rooted / np.where(norm > 0, norm, 1)).astype(np.float32, copy=False)


def _visual_word_counts(descriptors: NDArray[np.float32], centers: NDArray[np.float32]) -> NDArray[np.int64]:
    """(B, m): how many of each image's descriptors (B, P, n) are nearest to each centre."""
    index = nearest_center(descriptors.reshape(-1, descriptors.shape[-1]), centers).reshape(len(descriptors), -1)
    return np.stack([np.bincount(row[row >= 0], minlength=len(centers)) for row in index])
