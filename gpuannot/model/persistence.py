"""A fitted word model to its file and back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from ..config import AnnotatorConfig
from ..errors import DeviceError, InvalidArgumentError, ModelFileError, WeightsError
from ..heads.calibration import Logistic
from ..heads.choosing import Chosen
from ..heads.cooccurrence import Cooccurrence
from ..heads.kept_images import KeptImages
from ..heads.kernel_ranking import KernelRanking
from ..heads.moments import Moments
from ..method.ranking import LinearRanking, WordRanking
from ..method.trunks import GivenTrunk, load, resolve
from ..method.trunks.protocol import LocalFeatures
from ..method.words import WordBank
from ..system.version import __version__
from .checks import check_settings, resizing
from .encoder import Encoder
from .file import ModelFile
from .ranker import WordRanker
from .word_model import WordModel

# In a model of one layer these have no axis of layers.
_PER_LAYER = ("offset", "explained_variance_ratio", "centers")


def to_model_file(model: WordModel, *, sums: bool = True) -> ModelFile:
    """What :meth:`gpuannot.Annotator.save` writes."""
    encoder = model.encoder
    preprocessing = encoder.weights.preprocessing
    words, more = _of_words(model, sums)
    return ModelFile(
        tensors={**_of_encoder(encoder), **words},
        metadata={
            "gpuannot_version": __version__,
            "vocabulary": list(model.vocabulary),
            "config": _stated(model.config),
            "preprocessing": {
                "resize": resizing(model.config),
                "mean": preprocessing.mean,
                "std": preprocessing.std,
                "order": "RGB",
            },
            "trunk_sha256": encoder.weights.sha256,
            **more,
        },
    )


def restore(
    path: str | Path,
    weights: str | Path | None = None,
    weights_convention: str | None = None,
    device: str | torch.device = "auto",
    trunk: LocalFeatures | None = None,
) -> WordModel:
    """What :meth:`gpuannot.Annotator.load` reads, which says what the arguments mean."""
    file = ModelFile.read(path)
    try:
        config = AnnotatorConfig.from_dict(file.metadata["config"])
        _check_trunk(path, config, trunk)
    except (KeyError, TypeError, ValueError) as error:
        version = file.metadata.get("gpuannot_version", __version__)
        written = "" if version == __version__ else f"; gpuannot {version} wrote it"
        raise ModelFileError(f"{path}: its settings cannot be used ({error}{written})") from error
    if weights is not None:
        config = dataclasses.replace(config, weights=str(weights), weights_convention=weights_convention)
    model = WordModel(Encoder(config, device=device, loaded=None if trunk is None else GivenTrunk(trunk)))
    if model.encoder.weights.sha256 != file.metadata.get("trunk_sha256"):
        if trunk is not None:
            raise ModelFileError(f"{path} was fitted with {config.trunk} of other weights than the trunk that was given")
        of = "" if config.trunk == "vgg16" else f" of {config.trunk}"
        raise ModelFileError(
            f"{path} was fitted with other trunk weights{of} than {config.weights!r}; give the right ones (weights=…, or --weights)"
        )
    check_settings(path, file.tensors, file.metadata, config, model.encoder.weights.preprocessing)
    _restore_encoder(path, model.encoder, dict(file.tensors))
    _restore_words(model, file)
    return model


def _check_trunk(path: str | Path, config: AnnotatorConfig, trunk: LocalFeatures | None) -> None:
    """Raise unless the trunk that a file's settings name, and no other, is here."""
    given = None if trunk is None else GivenTrunk(trunk)
    if given is not None and (given.source, given.trunk.layer) != (config.trunk, config.layer):
        raise ModelFileError(
            f"{path} was fitted with the trunk {config.trunk}, layer {config.layer}; the one given is {given.source}, layer "
            f"{given.trunk.layer}"
        )
    try:
        resolve(config, given)
        if given is None and config.trunk.startswith("module:"):
            load(config)  # says what to do
    except WeightsError as error:
        raise WeightsError(f"{path} needs the trunk {config.trunk}, layer {config.layer}: {error}") from error


def _stated(config: AnnotatorConfig) -> dict[str, Any]:
    """The settings without the paper's trunk: files of before other trunks were known do not state it, and have the same hash."""
    return {name: value for name, value in config.to_dict().items() if (name, value) != ("trunk", "vgg16")}


def _of_encoder(encoder: Encoder) -> dict[str, NDArray[Any]]:
    transform = encoder.transform_
    tensors: dict[str, NDArray[Any]] = {
        "matrix": transform.matrix_,
        "offset": transform.offset_,
        "explained_variance_ratio": transform.explained_variance_ratio_,
        "centers": encoder.codebook_.centers,
    }
    if encoder.config.layer_count == 1:
        tensors.update({name: tensors[name][0] for name in _PER_LAYER})
    if encoder.config.projection:
        matrix = encoder.projection_.matrix_
        half = matrix.astype(np.float16)  # which it is made of, unless an earlier version did
        tensors.update(projection=half if np.array_equal(half, matrix) else matrix, projection_mean=encoder.projection_.mean_)
    return tensors


def _restore_encoder(path: str | Path, encoder: Encoder, tensors: dict[str, NDArray[Any]]) -> None:
    if encoder.config.layer_count == 1:
        tensors.update({name: tensors[name][None] for name in _PER_LAYER})
    try:
        encoder.transform_ = encoder.new_transform()
        encoder.transform_.restore(tensors["matrix"], tensors["offset"], tensors["explained_variance_ratio"])
    except (InvalidArgumentError, DeviceError) as error:
        raise ModelFileError(f"{path}: its settings cannot be used ({error})") from error
    if encoder.config.input_size < encoder.trunk.stride:
        raise ModelFileError(
            f"{path}: input_size is {encoder.config.input_size} in the settings, and the layer {encoder.config.layer!r} needs "
            f"{encoder.trunk.stride}; fit the model again, or restore the file from a copy"
        )
    encoder.codebook_ = encoder.new_codebook()
    encoder.codebook_.restore(tensors["centers"])
    if encoder.config.projection:
        encoder.projection_ = encoder.new_projection()
        encoder.projection_.matrix_ = tensors["projection"].astype(np.float32)
        encoder.projection_.mean_ = tensors["projection_mean"]


def _of_words(model: WordModel, with_sums: bool) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Tensors and metadata of the word bank and its head."""
    bank, head = model.bank_, model.head
    tensors: dict[str, NDArray[Any]] = {"counts": bank.counts}
    metadata: dict[str, Any] = {}
    ranking, moments, pairs = model.ranking, bank.extra(Moments), bank.extra(Cooccurrence)
    kept = bank.extra(KeptImages)
    if not isinstance(ranking, WordRanking):
        if isinstance(ranking, KernelRanking):
            tensors.update(landmarks=ranking.vectors, coefficients=ranking.weights, bias=ranking.bias)
        else:
            tensors.update(weights=ranking.weights, bias=ranking.bias)
        if (curves := model.ranker.curves(bank)) is not None:
            tensors["confidence"] = curves
        if head.chosen is not None:
            metadata["chosen"] = head.chosen._asdict()
        if not with_sums or (moments is None and kept is None):
            return tensors, metadata
    elif not with_sums:
        raise InvalidArgumentError(f"the head {model.config.head!r} ranks by its sums: such a model cannot be saved without them")
    tensors["sums"] = bank.sums
    if kept is not None:
        entries = sparse.coo_array(kept.labels)
        tensors["images"], tensors["image_keys"] = kept.vectors.cpu().numpy(), kept.keys
        tensors["image_words"] = np.stack([entries.row, entries.col], axis=1).astype(np.int64)
        metadata.update(images=len(kept), penalty=head.penalty, logistic=head.logistic)
    if moments is not None and pairs is not None:
        entries = sparse.coo_array(pairs.counts)
        tensors["cooccurrence"] = np.stack([entries.row, entries.col, entries.data], axis=1).astype(np.int64)
        tensors["total"] = moments.total.cpu().numpy()
        if moments.scatter:
            tensors["scatter"] = moments.packed()
        metadata.update(images=moments.images, penalty=head.penalty, logistic=head.logistic)
    return tensors, metadata


def _restore_words(model: WordModel, file: ModelFile) -> None:
    tensors, metadata = file.tensors, file.metadata
    bank = WordBank(metadata["vocabulary"], model.encoder.dimension)
    bank.counts = tensors["counts"]
    if "sums" in tensors:
        bank.sums = tensors["sums"]
    if "total" in tensors:
        moments = Moments(bank.dimension, model.device, scatter="scatter" in tensors)
        moments.images, moments.total = metadata["images"], torch.tensor(tensors["total"], device=model.device)
        if moments.scatter:
            moments.unpack(tensors["scatter"])
        pairs = Cooccurrence(len(bank.vocabulary))
        first, second, images = tensors["cooccurrence"].T
        pairs.counts = sparse.csr_array((images, (first, second)), shape=(len(bank.vocabulary),) * 2)
        bank.extras = [moments, pairs]
    if "images" in tensors:
        entries = tensors["image_words"].T
        labels = sparse.csr_array((np.ones(entries.shape[1], np.float32), entries), (len(tensors["images"]), len(bank.vocabulary)))
        kept = KeptImages(len(bank.vocabulary), bank.dimension, model.device)
        bank.extras = [kept.restore(tensors["image_keys"], torch.from_numpy(tensors["images"]), labels)]
    model.head.penalty = metadata.get("penalty")
    if metadata.get("chosen") is not None:
        model.head.chosen = Chosen(**metadata["chosen"])
    if metadata.get("logistic") is not None:
        model.head.logistic = Logistic(*metadata["logistic"])
    ranking: LinearRanking | KernelRanking | None = None
    if "weights" in tensors:
        ranking = LinearRanking(tensors["weights"], tensors["bias"])
    elif "landmarks" in tensors:
        ranking = KernelRanking(tensors["landmarks"], tensors["coefficients"], tensors["bias"], model.config.kernel_width)
    curves = tensors.get("confidence")
    if curves is not None and len(curves) == 2:  # written before there was a level
        curves = np.concatenate([curves, np.zeros_like(curves[:1])])
    model.restore(bank, WordRanker(model.head, model.device, ranking, False if curves is None else curves))
