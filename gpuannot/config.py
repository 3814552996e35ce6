"""Every knob of the method, its default and its meaning."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CONVENTIONS = ("caffe", "torchvision")
INTERPOLATIONS = ("bicubic", "bilinear")
METRICS = ("l2", "cosine")
HEADS = ("mean", "demixed", "ridge")
CALIBRATIONS = ("none", "odds")
# Values that files of earlier versions may state.
_REMOVED: dict[str, tuple[str, ...]] = {"head": ("centred", "lda"), "calibration": ("spread",)}


@dataclass(frozen=True)
class AnnotatorConfig:
    """Settings of an :class:`~gpuannot.Annotator`. The defaults are the preset ``paper``.

    The paper leaves n, m, the input size, pre- or post-ReLU and all normalisation open. n = m = 64 with no normalisation and L2 is
    the setting whose Corel5k numbers match the paper's row (see ``gpuannot reproduce``).
    """

    weights: str = "embedded"
    """Trunk weights: ``embedded``, a file, ``torchvision`` or ``torchvision:NAME``."""
    weights_convention: str | None = None
    """``caffe`` or ``torchvision``, for a weights file whose metadata does not say."""
    layer: str = "conv5_2"
    """Layer of VGG-16 whose local features are used, or several of one stride joined by ``+``: ``pool4+conv5_1``. Each layer
    gets its own PCA, visual words and VLAD vector, which are put behind each other."""
    relu: bool = True
    """Take a convolution layer's output after its ReLU."""
    trunk_dtype: str = "auto"
    """``auto`` (bfloat16 where the device multiplies it in hardware), ``float32``, ``bfloat16`` or ``float16`` (CUDA)."""
    input_size: int = 224
    """Images are warped to input_size × input_size pixels."""
    interpolation: str = "bicubic"
    """How images are warped: ``bicubic`` or ``bilinear``, with antialias."""
    n_components: int = 64
    """n, the dimensions kept by PCA, of each layer."""
    n_centers: int = 64
    """m, the number of visual words, of each layer."""
    codebook_sample: int = 200_000
    """Local descriptors drawn uniformly from the training images for K-means."""
    kmeans_iterations: int = 100
    """Most Lloyd iterations; K-means stops earlier when its centres stand still."""
    statistics_images: int = 20_000
    """Most training images, drawn uniformly, that normalisation, PCA and codebook are learnt from. Word vectors use every image."""
    mass: bool = False
    """VLAD normalisation, first step: divide each centre's residual by its number of descriptors."""
    intra: bool = False
    """VLAD normalisation, second step: unit L2 norm for each centre's residual."""
    signed_sqrt: bool = False
    """VLAD normalisation, third step: sign(v)·√|v|."""
    l2: bool = False
    """VLAD normalisation, last step: unit L2 norm for the whole vector."""
    projection: int = 0
    """d, the principal components kept of the VLAD vectors, then brought to unit length; 0 leaves the vectors as they are.
    No more are kept than a quarter of the images that they are learnt from."""
    projection_sample: int = 4096
    """Most training images, drawn uniformly, whose vectors the projection is learnt from."""
    quadratic: int = 0
    """t, with ``projection``: the products of the first t components are put behind all of them; 0 for none."""
    quadratic_weight: float = 0.5
    """q: the inner product of two image vectors is ⟨u, u'⟩ + q·⟨u_t, u'_t⟩²."""
    metric: str = "l2"
    """Distance from an image vector to a word vector, for the heads that make word vectors: ``l2`` (the paper) or ``cosine`` (1 −
    cosine similarity)."""
    head: str = "mean"
    """What words are ranked by: ``mean`` (the paper) or ``demixed`` word vectors, or the linear score ``ridge``; see
    :class:`~gpuannot.heads.word_head.WordHead`. ``ridge`` keeps D² sums, D = m·n."""
    regularisation: float = 1.0
    """λ of ``demixed`` and ``ridge``, above 0, as a multiple of the mean diagonal of the system that is solved."""
    balance: float = 0.0
    """g in 0…1, of ``ridge``: 0 ranks by how likely a word is, which favours frequent words; 1 leaves out how frequent it is."""
    calibration: str = "none"
    """How ``ridge`` brings the words' scores to one scale: ``none`` or ``odds`` (log-odds by two Gaussians, fitted to leave-one-out
    scores)."""
    seed: int = 0
    """Seeds every random choice: same images, seed and machine, same model."""
    batch_size: int = 32
    """Images decoded and run through the trunk at a time."""

    def __post_init__(self) -> None:
        if isinstance(self.weights, os.PathLike):  # a model file states it as text
            object.__setattr__(self, "weights", os.fspath(self.weights))
        positive = (
            "input_size",
            "n_components",
            "n_centers",
            "codebook_sample",
            "kmeans_iterations",
            "statistics_images",
            "projection_sample",
            "batch_size",
        )
        for name in positive:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        for name, most in (("projection", self.layer_count * self.n_centers * self.n_components), ("quadratic", self.projection)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
                raise ValueError(f"{name} must be a whole number in 0…{most}, got {value!r}")
        if not _is_number(self.quadratic_weight) or not 0 < self.quadratic_weight < math.inf:
            raise ValueError(f"quadratic_weight must be a finite number above 0, got {self.quadratic_weight!r}")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be a whole number in 0…2³²−1, got {self.seed!r}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation {self.interpolation!r} is unknown; choose one of {', '.join(INTERPOLATIONS)}")
        if self.metric not in METRICS:
            raise ValueError(f"metric {self.metric!r} is unknown; choose one of {', '.join(METRICS)}")
        if self.head not in HEADS:
            raise ValueError(f"head {self.head!r} is unknown; choose one of {', '.join(HEADS)}")
        if not _is_number(self.regularisation) or not 0 < self.regularisation < math.inf:
            raise ValueError(f"regularisation must be a finite number above 0, got {self.regularisation!r}")
        if not _is_number(self.balance) or not 0 <= self.balance <= 1:
            raise ValueError(f"balance must be a number in 0…1, got {self.balance!r}")
        if self.calibration not in CALIBRATIONS:
            raise ValueError(f"calibration {self.calibration!r} is unknown; choose one of {', '.join(CALIBRATIONS)}")
        if self.weights_convention not in (None, *CONVENTIONS):
            raise ValueError(f"weights_convention {self.weights_convention!r} is unknown; choose one of {', '.join(CONVENTIONS)}")

    @property
    def layer_count(self) -> int:
        """L, how many layers ``layer`` names."""
        return self.layer.count("+") + 1

    @property
    def vlad_dimension(self) -> int:
        """D = L·m·n, the length of the VLAD vectors of all layers."""
        return self.layer_count * self.n_centers * self.n_components

    @classmethod
    def preset(cls, name: str, **changes: Any) -> AnnotatorConfig:
        """A named setting, with changes: ``AnnotatorConfig.preset("paper", n_centers=32)``.

        Raises:
            ValueError: no preset of that name, or a value out of range. TypeError: no such field.
        """
        if name not in PRESETS:
            raise ValueError(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
        return dataclasses.replace(cls(**PRESETS[name]), **changes)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AnnotatorConfig:
        """The inverse of :meth:`to_dict`, also of what earlier versions wrote, unless it asks for what there is no more.

        Raises:
            ValueError: a name that is no setting, a value out of range, or a setting or value that was removed.
        """
        values = _without_removed(values)
        unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain Python values."""
        return dataclasses.asdict(self)


def _without_removed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the keys of the neighbour vote; ValueError where they ask for that, or for a value that was removed."""
    left = dict(values)
    asked = {"vote": left.pop("vote", 0), **left}
    left.pop("vote_sharpness", None)  # which does nothing without a vote
    for name, value in asked.items():
        if value in _REMOVED.get(name, ()) or (name == "vote" and value != 0):
            raise ValueError(
                f"{name} = {value!r} was removed from gpuannot: fit again with other settings, such as --preset best, or use the "
                "version that wrote the file"
            )
    return left


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "best": {
        "layer": "pool4+conv5_1+conv5_2+conv5_3",
        "n_components": 128,
        "n_centers": 32,
        "signed_sqrt": True,
        "l2": True,
        "projection": 1024,
        "quadratic": 90,
        "head": "ridge",
        "regularisation": 0.2,
        "balance": 1.0,
        "calibration": "odds",
    },
}
