"""A fitted annotator to its model file and back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from . import __version__
from .codebook import Codebook
from .config import AnnotatorConfig
from .descriptors import GaussianPCA
from .errors import ModelFileError
from .model_file import ModelFile
from .words import WordBank

if TYPE_CHECKING:
    from .annotator import Annotator

A = TypeVar("A", bound="Annotator")


def to_model_file(annotator: Annotator) -> ModelFile:
    """What :meth:`Annotator.save` writes."""
    preprocessing = annotator.weights.preprocessing
    return ModelFile(
        tensors={
            "matrix": annotator.transform_.matrix_,
            "offset": annotator.transform_.offset_,
            "explained_variance_ratio": annotator.transform_.explained_variance_ratio_,
            "centers": annotator.codebook_.centers,
            "sums": annotator.bank_.sums,
            "counts": annotator.bank_.counts,
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
        },
    )  # fmt: skip


def restore(
    kind: type[A], path: str | Path, weights: str | Path | None, weights_convention: str | None, device: str | torch.device
) -> A:
    """What :meth:`Annotator.load` reads."""
    model = ModelFile.read(path)
    try:
        config = AnnotatorConfig.from_dict(model.metadata["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: its settings cannot be used ({error})") from error
    if weights is not None:
        config = dataclasses.replace(config, weights=str(weights), weights_convention=weights_convention)
    annotator = kind(config, device=device)
    if annotator.weights.sha256 != model.metadata.get("trunk_sha256"):
        raise ModelFileError(
            f"{path} was fitted with other trunk weights than {config.weights!r}; give the right ones (weights=…, or --weights)"
        )
    tensors = model.tensors
    annotator.transform_ = GaussianPCA(config.n_components)
    annotator.transform_.matrix_, annotator.transform_.offset_ = tensors["matrix"], tensors["offset"]
    annotator.transform_.explained_variance_ratio_ = tensors["explained_variance_ratio"]
    annotator.codebook_ = Codebook(config.n_centers, max_iterations=config.kmeans_iterations, seed=config.seed)
    annotator.codebook_.centers_ = tensors["centers"]
    annotator.bank_ = WordBank(model.metadata["vocabulary"], tensors["sums"].shape[1])
    annotator.bank_.sums, annotator.bank_.counts = tensors["sums"], tensors["counts"]
    return annotator
