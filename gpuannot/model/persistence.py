"""A fitted annotator to its model file and back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from ..config import AnnotatorConfig
from ..errors import ModelFileError
from ..heads.calibration import Logistic
from ..heads.moments import Moments
from ..method.layers import LayerCodebooks, LayerTransforms
from ..method.ranking import LinearRanking
from ..method.words import WordBank
from ..system.version import __version__
from .file import ModelFile

if TYPE_CHECKING:
    from ..annotator import Annotator

A = TypeVar("A", bound="Annotator")


def to_model_file(annotator: Annotator, *, sums: bool = True) -> ModelFile:
    """What :meth:`Annotator.save` writes."""
    preprocessing = annotator.weights.preprocessing
    words, more = _of_words(annotator, sums)
    return ModelFile(
        tensors={
            **_of_encoder(annotator),
            **words,
        },
        metadata={
            "gpuannot_version": __version__,
            "vocabulary": list(annotator.vocabulary),
            "config": annotator.config.to_dict(),
            "preprocessing": {
                "resize": f"warp, {annotator.config.interpolation} with antialias", "mean": preprocessing.mean,
                "std": preprocessing.std,
                "order": "RGB",
            },
            "trunk_sha256": annotator.weights.sha256,
            **more,
        },
    )  # fmt: skip


def _of_encoder(annotator: Annotator) -> dict[str, NDArray[Any]]:
    transform = annotator.transform_
    tensors: dict[str, NDArray[Any]] = {"centers": annotator.codebook_.centers}
    if isinstance(transform, LayerTransforms):
        tensors.update(transform.tensors())
    else:
        tensors.update(
            matrix=transform.matrix_, offset=transform.offset_, explained_variance_ratio=transform.explained_variance_ratio_
        )
    if annotator.config.projection:
        tensors.update(projection=annotator.projection_.matrix_, projection_mean=annotator.projection_.mean_)
    return tensors


def _restore_encoder(path: str | Path, annotator: Annotator, tensors: dict[str, NDArray[Any]]) -> None:
    transform, codebook = annotator.new_transform(), annotator.new_codebook()
    if isinstance(transform, LayerTransforms):
        transform.restore(tensors)
    else:
        transform.matrix_, transform.offset_ = tensors["matrix"], tensors["offset"]
        transform.explained_variance_ratio_ = tensors["explained_variance_ratio"]
    if isinstance(codebook, LayerCodebooks):
        for part, centers in zip(codebook.parts, tensors["centers"], strict=True):
            part.centers_ = centers
    else:
        codebook.centers_ = tensors["centers"]
    annotator.transform_, annotator.codebook_ = transform, codebook
    if bool(annotator.config.projection) != ("projection" in tensors):
        raise ModelFileError(f"{path}: its settings and its tensors disagree on whether there is a projection")
    if annotator.config.projection:
        annotator.projection_ = annotator.new_projection()
        annotator.projection_.matrix_, annotator.projection_.mean_ = tensors["projection"], tensors["projection_mean"]


def _of_words(annotator: Annotator, with_sums: bool) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Tensors and metadata of the word bank and its head."""
    bank, head = annotator.bank_, annotator._head
    tensors: dict[str, NDArray[Any]] = {"counts": bank.counts}
    metadata: dict[str, Any] = {}
    if annotator.config.head == "ridge":
        ranking = annotator._words_ranking()
        assert isinstance(ranking, LinearRanking)
        tensors.update(weights=ranking.weights, bias=ranking.bias)
        if (curves := annotator._confidence_curves()) is not None:
            tensors["confidence"] = curves
        if not with_sums or bank.moments is None:
            return tensors, metadata
    elif not with_sums:
        raise ValueError(f"the head {annotator.config.head!r} ranks by its sums: such a model cannot be saved without them")
    tensors["sums"] = bank.sums
    if bank.moments is not None and bank.cooccurrence is not None:
        pairs = sparse.coo_array(bank.cooccurrence)
        tensors["cooccurrence"] = np.stack([pairs.row, pairs.col, pairs.data], axis=1).astype(np.int64)
        tensors["total"] = bank.moments.total.cpu().numpy()
        if bank.moments.scatter:
            tensors["scatter"] = bank.moments.packed()
        metadata.update(images=bank.moments.images, penalty=head.penalty, logistic=head.logistic)
    return tensors, metadata


def _restore_words(annotator: Annotator, model: ModelFile) -> None:
    tensors, metadata = model.tensors, model.metadata
    known = tensors["sums"] if "sums" in tensors else tensors["weights"]
    bank = WordBank(metadata["vocabulary"], known.shape[1])
    bank.counts = tensors["counts"]
    if "sums" in tensors:
        bank.sums = tensors["sums"]
    if "total" in tensors:
        moments = Moments(bank.dimension, annotator.device, scatter="scatter" in tensors)
        moments.images, moments.total = metadata["images"], torch.tensor(tensors["total"], device=annotator.device)
        if moments.scatter:
            moments.unpack(tensors["scatter"])
        first, second, images = tensors["cooccurrence"].T
        bank.moments = moments
        bank.cooccurrence = sparse.csr_array((images, (first, second)), shape=(len(bank.vocabulary),) * 2)
    annotator.bank_ = bank
    annotator._head.penalty = metadata.get("penalty")
    if metadata.get("logistic") is not None:
        annotator._head.logistic = Logistic(*metadata["logistic"])
    annotator._curves = tensors.get("confidence", False)
    if "weights" in tensors:
        annotator._ranking = LinearRanking(tensors["weights"], tensors["bias"])


def restore(
    kind: type[A], path: str | Path, weights: str | Path | None, weights_convention: str | None, device: str | torch.device
) -> A:
    """What :meth:`Annotator.load` reads."""
    model = ModelFile.read(path)
    try:
        config = AnnotatorConfig.from_dict(model.metadata["config"])
    except (KeyError, TypeError, ValueError) as error:
        version = model.metadata.get("gpuannot_version", __version__)
        written = "" if version == __version__ else f"; gpuannot {version} wrote it"
        raise ModelFileError(f"{path}: its settings cannot be used ({error}{written})") from error
    if weights is not None:
        config = dataclasses.replace(config, weights=str(weights), weights_convention=weights_convention)
    annotator = kind(config, device=device)
    if annotator.weights.sha256 != model.metadata.get("trunk_sha256"):
        raise ModelFileError(
            f"{path} was fitted with other trunk weights than {config.weights!r}; give the right ones (weights=…, or --weights)"
        )
    _restore_encoder(path, annotator, dict(model.tensors))
    _restore_words(annotator, model)
    return annotator
