"""Settings by search on held-out training images. Test images have no place here, and are refused.

One setting after the other: each is tried at its values while the others keep theirs, and keeps the value of the highest F1, so
that the work grows with the sum of the values. What is learnt without labels (normalisation, PCA, visual words, projection) is
learnt anew from the images of each split that are not held out.
"""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from ..config import AnnotatorConfig
from ..datasets.label_files import LabelledImages, load_labelled_images, named_images
from ..datasets.label_photos import Source
from ..datasets.label_text import LABEL_SUFFIXES
from ..errors import DataError, InvalidArgumentError, counted
from ..heads.word_head import WordHead, new_bank
from ..method.words import WordBank
from ..metrics import evaluate
from ..model.annotations import given_words
from ..model.encoder import Encoder, to_host
from ..model.fit import InProcess, learn_codebook, learn_transform
from ..model.ranker import WordRanker
from ..model.store import FeatureStore
from ..model.word_model import WordModel
from ..system.atomic_files import write_whole
from .bootstrap import resample
from .feature_cache import cached_features
from .holdout import cover_holdout, covered_words

SCHEMA = "gpuannot.config/1"
#: What is searched where nothing is named: what decides most, and costs no further run of the trunk.
DEFAULT_SPACE: dict[str, tuple[Any, ...]] = {
    "regularisation": (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
    "balance": (0.0, 0.5, 0.75, 1.0),
}
#: Settings that only the words depend on: the image vectors of a split serve all their values.
WORD_SETTINGS = ("metric", "head", "objective", "regularisation", "balance", "calibration", "kernel_width")
#: Settings that ask for other features; of these the trunk itself, with ``@LAYER``, can be searched.
TRUNK_SETTINGS = ("trunk", "weights", "weights_convention", "layer", "relu", "trunk_dtype", "input_size", "interpolation")


@dataclass(frozen=True)
class SettingTrial:
    """One setting at one value, and what it reached on the held-out images: means over the splits, F1 0…1.

    Attributes:
        f1: of the words, as the literature counts it, or for the objective ``images`` of an image.
        f1_error: standard error of ``f1``, by the bootstrap over the held-out images.
        gain, gain_error: F1 above that of the settings that the search began with, and the standard error of the difference.
    """

    setting: str
    value: Any
    f1: float
    n_plus: float
    f1_error: float
    gain: float
    gain_error: float


@dataclass(frozen=True)
class Tuned:
    """The settings that were found, and how."""

    config: AnnotatorConfig
    trials: tuple[SettingTrial, ...]
    f1: float
    n_plus: float
    holdout: int
    splits: int
    k: int

    def write(self, path: str | Path) -> Path:
        """Write a JSON file that :func:`read_config` reads.

        Raises:
            OutputError: the file cannot be written.
        """
        search = {name: value for name, value in asdict(self).items() if name != "config"}
        content = {"schema": SCHEMA, "config": self.config.to_dict(), "search": search}
        write_whole(Path(path), (json.dumps(content, indent=2) + "\n").encode())
        return Path(path)


def read_config(path: str | Path) -> AnnotatorConfig:
    """The settings in a file that :meth:`Tuned.write` wrote; settings that it does not name have their defaults.

    Raises:
        DataError: no such file, not of this form, or a setting that is unknown or out of range.
    """
    try:
        content = json.loads(Path(path).read_text())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error})") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or not isinstance(content.get("config"), dict):
        raise DataError(f"{path} is not a file of settings: expected {SCHEMA!r} as 'gpuannot tune' writes it")
    try:
        return AnnotatorConfig.from_dict(content["config"])
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error


def training_images(source: str | Path, *, labels: Source = "auto", **reading: Any) -> LabelledImages:
    """Labelled images for :func:`tune`, as :func:`~gpuannot.datasets.label_files.load_labelled_images` reads them; with ``labels``
    ``auto`` a folder may also hold ``train.json`` or ``train.csv`` (``.jsonl``, ``.tsv``).

    Args:
        source, labels: as there. reading: its other arguments.

    Raises:
        DataError: these are test images: the file is called ``test``, or names images that a ``test.json`` or ``test.csv`` beside
            it names too. Otherwise as :func:`~gpuannot.datasets.label_files.load_labelled_images`.
    """
    path = training_file(source) if labels == "auto" else Path(source)
    images = load_labelled_images(path, labels=labels, **reading)
    folder = path if path.is_dir() else path.parent
    refuse_test_images(images)
    own = set(map(os.path.realpath, images.paths))
    for suffix in LABEL_SUFFIXES:
        file = folder / f"test{suffix}"
        if not file.is_file():
            continue
        shared = sorted(own & set(map(os.path.realpath, named_images(file))))
        if shared:
            are = counted(len(shared), f"image of {path} is a test image", f"images of {path} are test images")
            raise DataError(
                f"{are} by {file} (the first: {os.path.basename(shared[0])}); settings "
                "chosen by test images would make every number measured on them worthless: give training images alone"
            )
    return images


def training_file(source: str | Path) -> Path:
    """The label file of a folder's training images, where it has one that is called so; else ``source`` itself."""
    path = Path(source)
    return next((file for suffix in LABEL_SUFFIXES if (file := path / f"train{suffix}").is_file()), path)


def refuse_test_images(images: LabelledImages) -> None:
    """Raise DataError if the images are, by their name, a test split."""
    if images.name.replace("\\", "/").rsplit("/", 1)[-1].lower() == "test":
        raise DataError(f"{images.name} is a test split; settings are chosen on training images alone")


def tune(
    images: LabelledImages,
    config: AnnotatorConfig | None = None,
    space: Mapping[str, Sequence[Any]] | None = None,
    *,
    holdout: int | None = None,
    splits: int = 3,
    k: int = 5,
    cache: str | Path | None = None,
    device: str = "auto",
    progress: bool | None = None,
) -> Tuned:
    """Search settings on cover hold-outs of the **training** images.

    Args:
        images: see :func:`training_images`. config: where the search starts; None is the preset ``best``.
        space: values of each setting, tried in this order; None is :data:`DEFAULT_SPACE`. The value in ``config`` is tried too.
        holdout: images held out in each split; None is a ninth of them, as in the 4,000/500 of Corel5k.
        k: words an image; for the objective ``images``, with confidences, those that pass the threshold that a fit chooses.
        cache: folder for features; None is the user's cache folder.

    Raises:
        DataError: a test split, or images that cannot be read. ValueError: a setting that is unknown or asks for other features of
            the trunk (but for ``trunk`` itself), a value out of range, no split, or a hold-out that leaves nothing to learn from.
    """
    config = Encoder(config or AnnotatorConfig.preset("best"), device=device, new=True).config
    refuse_test_images(images)
    grid = _checked(config, DEFAULT_SPACE if space is None else space, device)
    if splits < 1:
        raise InvalidArgumentError(f"splits = {splits} must be at least 1")
    held = max(1, len(images) // 9) if holdout is None else holdout
    parts = [cover_holdout(images.labels, held, config.seed + number) for number in range(splits)]
    trials: list[SettingTrial] = []
    best, reached = config, (-1.0, -1.0)
    with ExitStack() as opened:

        def features_of(asked: AnnotatorConfig) -> FeatureStore:
            return opened.enter_context(cached_features(Encoder(asked, device=device), images, cache, progress))

        search = _Search(features_of, images, parts, k, device)
        for setting, values in grid.items():
            there = f"{best.trunk}@{best.layer}" if setting == "trunk" else getattr(best, setting)
            candidates: dict[AnnotatorConfig, Any] = {}
            for value in (there, *values):
                try:
                    candidates.setdefault(_with(best, setting, value, device), value)
                except InvalidArgumentError as error:
                    warnings.warn(f"{setting} = {value} does not go with what was chosen before: {error}", stacklevel=2)
            for candidate, value in candidates.items():
                trial = search.trial(setting, value, candidate, config)
                trials.append(trial)
                if (trial.f1, trial.n_plus) > reached:
                    chosen, reached = candidate, (trial.f1, trial.n_plus)
            best = chosen
    return Tuned(best, tuple(trials), *reached, held, splits, k)


def _with(config: AnnotatorConfig, setting: str, value: Any, device: str) -> AnnotatorConfig:
    """The settings with another value; another trunk has its own layer, input size and weights, and what ``@LAYER`` names."""
    if setting != "trunk":
        return dataclasses.replace(config, **{setting: value})
    name, _, layer = value.partition("@")
    if name == config.trunk:
        return dataclasses.replace(config, layer=layer or config.layer)
    dtype = "auto" if config.trunk_dtype == "int8" else config.trunk_dtype  # which VGG-16 alone has, and a fit of it chooses
    return Encoder(config.changed(trunk=value, trunk_dtype=dtype), device=device, new=True).config


def _checked(config: AnnotatorConfig, space: Mapping[str, Sequence[Any]], device: str) -> dict[str, Sequence[Any]]:
    fixed = (*TRUNK_SETTINGS[1:], "objective", "seed", "batch_size")
    fields = [field.name for field in dataclasses.fields(config) if field.name not in fixed]
    for setting, values in space.items():
        if setting not in fields:
            raise InvalidArgumentError(f"{setting} cannot be searched; choose from {', '.join(fields)}")
        if not values:
            raise InvalidArgumentError(f"{setting} needs at least one value")
        for value in values:
            candidate = _with(config, setting, value, device)
            if setting == "trunk":
                Encoder(candidate, device=device).trunk  # noqa: B018 -- refuses what does not fit it
    if not space:
        raise InvalidArgumentError("there is nothing to search: name at least one setting")
    return dict(space)


class _Reached(NamedTuple):
    """F1 and N+ on held-out images, and F1 over their bootstrap samples."""

    f1: float
    n_plus: float
    resampled: NDArray[np.float64]


def _error(resampled: NDArray[np.float64]) -> float:
    return float(resampled.std(ddof=1))


class _Search:
    """What settings reach on the held-out images; image vectors and sums are kept while they serve."""

    def __init__(
        self,
        features_of: Callable[[AnnotatorConfig], FeatureStore],
        images: LabelledImages,
        parts: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
        k: int,
        device: str,
    ) -> None:
        self._features_of, self.images, self.parts, self.k, self.device = features_of, images, parts, k, device
        self._features: dict[tuple[Any, ...], FeatureStore] = {}
        self._known: dict[AnnotatorConfig, _Reached] = {}
        self._vectors: dict[AnnotatorConfig, list[NDArray[np.float32]]] = {}
        self._banks: dict[tuple[AnnotatorConfig, int], WordBank] = {}

    def trial(self, setting: str, value: Any, config: AnnotatorConfig, start: AnnotatorConfig) -> SettingTrial:
        """What ``config`` reaches, and how that compares with ``start``."""
        found, first = self._reached(config), self._reached(start)
        gains = found.resampled - first.resampled
        return SettingTrial(setting, value, found.f1, found.n_plus, _error(found.resampled), found.f1 - first.f1, _error(gains))

    def _reached(self, config: AnnotatorConfig) -> _Reached:
        if config not in self._known:
            scores = [self._score(config, number) for number in range(len(self.parts))]
            f1, n_plus, resampled = zip(*scores, strict=True)
            self._known[config] = _Reached(float(np.mean(f1)), float(np.mean(n_plus)), np.mean(resampled, axis=0))
        return self._known[config]

    def _score(self, config: AnnotatorConfig, split: int) -> _Reached:
        vectors, held = self._encoded(config)[split], self.parts[split][1]
        bank, head = copy(self._bank(config, split)), WordHead(config)
        head.settle(bank)
        ranker, chosen = WordRanker(head, torch.device("cpu")), head.chosen
        threshold = None if chosen is None else chosen.threshold
        most = self.k if chosen is None or threshold is None else chosen.words
        index, distance = (to_host(part) for part in ranker.rank(bank, vectors[held], min(most, len(bank.known))))
        if threshold is not None:
            index = np.where(given_words(ranker.confidence(bank, index, distance), threshold), index, -1)
        truth, words = sparse.csr_array(self.images.labels[held]), covered_words(self.images.labels, held)
        scores, resampled = evaluate(index, truth, words=words), resample(index, truth, words=words, seed=split)
        if config.objective == "images":
            return _Reached(scores.image_f1, scores.n_plus, resampled.image_f1)
        return _Reached(scores.f1, scores.n_plus, resampled.f1)

    def _bank(self, config: AnnotatorConfig, split: int) -> WordBank:
        """The sums over the images of a split that are not held out: what λ, balance and calibration have no part in."""
        key = _without(config, *(name for name in WORD_SETTINGS if name != "head")), split
        if key not in self._banks:
            if any(known != key[0] for known, _ in self._banks):
                self._banks.clear()
            vectors, learn = self._encoded(config)[split], self.parts[split][0]
            bank = self._banks[key] = new_bank(config, self.images.vocabulary, vectors.shape[1], "cpu")
            for rows in np.array_split(learn, max(1, len(learn) // 512)):
                bank.partial_fit(vectors[rows], self.images.labels[rows], rows)
        return self._banks[key]

    def _encoded(self, config: AnnotatorConfig) -> list[NDArray[np.float32]]:
        """The vectors (N, D) of all images, for each split, by what its images that are not held out teach."""
        key = _without(config, *WORD_SETTINGS)
        if key not in self._vectors:
            self._vectors = {key: [self._encode(key, learn) for learn, _ in self.parts]}
        return self._vectors[key]

    def _encode(self, config: AnnotatorConfig, learn: NDArray[np.int64]) -> NDArray[np.float32]:
        model = WordModel(Encoder(config, device=self.device))
        labels, words = self.images.labels, self.images.vocabulary
        key = tuple(getattr(config, name) for name in TRUNK_SETTINGS)
        if key not in self._features:
            self._features[key] = self._features_of(config)
        with InProcess(model, self._features[key], labels, words, learn_from=learn, progress=False) as steps:
            learn_transform(model.encoder, steps)
            learn_codebook(model.encoder, steps)
            return steps.vectors()


def _without(config: AnnotatorConfig, *settings: str) -> AnnotatorConfig:
    """The config with these settings at their defaults."""
    defaults = AnnotatorConfig()
    return dataclasses.replace(config, **{name: getattr(defaults, name) for name in settings})
