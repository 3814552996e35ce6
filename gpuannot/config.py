"""Every knob of the method, its default, its meaning and the values that it takes."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from .errors import InvalidArgumentError

CONVENTIONS = ("caffe", "torchvision")
TRUNK_DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")
INTERPOLATIONS = ("bicubic", "bilinear", "bicubic_reduced")
METRICS = ("l2", "cosine")
HEADS = ("mean", "demixed", "ridge", "kernel")
REGRESSIONS = ("ridge", "kernel")  # heads whose scores are regressions of the labels
CALIBRATIONS = ("none", "odds")
OBJECTIVES = ("images", "words")
_FLAGS = ("false", "true")
_REMOVED: dict[str, tuple[str, ...]] = {"head": ("centred", "lda"), "calibration": ("spread",)}  # files may state them

_OF_TRUNK: Any = None  # left to the trunk: VGG-16's are these, others say theirs where they are resolved
_OF_VGG16: dict[str, Any] = {"weights": "embedded", "layer": "conv5_2", "input_size": 224, "interpolation": "bicubic"}


@dataclasses.dataclass(frozen=True)
class Constraint:
    """The values that a setting takes.

    ``expected`` is the values in words, with ``{most}`` where that belongs: the name of the config's attribute that is the largest
    value, None where no other bounds it. ``allows`` says of a value, given what ``most`` is, whether it is one of them.
    ``parse`` gives the value that a text means, or an error.
    """

    expected: str
    allows: Callable[[Any, Any], bool]
    parse: Callable[[str], Any] = str
    most: str | None = None
    refusal: str = "{name} must be {expected}, got {value!r}"

    def __str__(self) -> str:
        return self.expected.format(most=self.most)

    def check(self, name: str, value: Any, config: Any) -> None:
        """Raise InvalidArgumentError unless ``value`` is one for the setting ``name`` of ``config``."""
        if not self.allows(value, most := None if self.most is None else getattr(config, self.most)):
            raise InvalidArgumentError(self.refusal.format(name=name, expected=self.expected.format(most=most), value=value))

    def convert(self, text: str) -> Any:
        """The value that a text such as ``32`` or ``true`` means; whether it is in range is seen when settings are made of it.

        Raises:
            InvalidArgumentError: it means none.
        """
        try:
            return self.parse(text)
        except (ValueError, KeyError):
            raise InvalidArgumentError(f"expected {self}") from None


def whole(least: int, most: int | str | None = None, shown: str = "") -> Constraint:
    """A whole number from ``least`` to ``most``, which may be the name of a config's attribute, or ``shown`` in another way."""

    def allows(value: Any, bound: Any) -> bool:
        bound = most if bound is None else bound
        return isinstance(value, int) and not isinstance(value, bool) and least <= value and (bound is None or value <= bound)

    if most is None:
        return Constraint(f"a whole number of at least {least}", allows, int)
    named = most if isinstance(most, str) else None
    return Constraint(f"a whole number in {least}…{shown or (most if named is None else '{most}')}", allows, int, named)


def number(least: float, most: float) -> Constraint:
    """A number from ``least`` to ``most``, both included."""
    return Constraint(f"a number in {least}…{most}", lambda value, _: _is_number(value) and least <= value <= most, float)


def positive(most: float = sys.float_info.max) -> Constraint:
    """A finite number above 0, up to ``most``."""
    expected = "a finite number above 0" if most == sys.float_info.max else f"a number above 0, at most {most:g}"
    return Constraint(expected, lambda value, _: _is_number(value) and 0 < value <= most, float)


def or_chosen(constraint: Constraint) -> Constraint:
    """What ``constraint`` allows, or None, which a text spells ``auto``: the fit chooses the value."""

    def parse(given: str) -> Any:
        return None if given.lower() == "auto" else constraint.parse(given)

    def allows(value: Any, most: Any) -> bool:
        return value is None or constraint.allows(value, most)

    return dataclasses.replace(constraint, expected=f"{constraint.expected}, or auto", allows=allows, parse=parse)


def one_of(choices: tuple[str, ...], *, optional: bool = False) -> Constraint:
    """One of the texts ``choices``, or with ``optional`` None."""
    allowed, listed = (*choices, None) if optional else choices, ", ".join(choices)
    refusal = f"{{name}} {{value!r}} is unknown; choose one of {listed}"
    return Constraint(f"one of {listed}", lambda value, _: value in allowed, refusal=refusal)


def flag() -> Constraint:
    """True or False."""
    return Constraint("true or false", lambda value, _: isinstance(value, bool), lambda given: _FLAGS.index(given.lower()) == 1)


def text(expected: str) -> Constraint:
    """A text whose meaning is checked where it is used."""
    return Constraint(expected, lambda value, _: isinstance(value, str))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# What a config is checked by, ``--set`` is read by and ``gpuannot info`` shows. A bound comes before what it bounds.
CONSTRAINTS: dict[str, Constraint] = {
    "trunk": text("vgg16, timm:NAME or torchvision:NAME, and @LAYER behind it"),
    "weights": or_chosen(text("embedded, a file, torchvision or torchvision:NAME; for other trunks pretrained or a file")),
    "weights_convention": one_of(CONVENTIONS, optional=True),
    "layer": or_chosen(text("a layer of the trunk, or several joined by +")),
    "relu": flag(),
    "trunk_dtype": one_of(TRUNK_DTYPES),
    "input_size": or_chosen(whole(1, 4096)),
    "interpolation": or_chosen(one_of(INTERPOLATIONS)),
    "n_components": whole(1),
    "n_centers": whole(1),
    "codebook_sample": whole(1),
    "kmeans_iterations": whole(1),
    "statistics_images": whole(1),
    "mass": flag(),
    "intra": flag(),
    "signed_sqrt": flag(),
    "l2": flag(),
    "moments": whole(0, most="n_components"),
    "projection": whole(0, most="joined_dimension"),
    "projection_sample": whole(1),
    "quadratic": whole(0, most="projection"),
    "quadratic_weight": positive(1e30),
    "metric": one_of(METRICS),
    "head": one_of(HEADS),
    "kernel_width": positive(100),
    "objective": one_of(OBJECTIVES),
    "regularisation": or_chosen(positive()),
    "balance": or_chosen(number(0, 1)),
    "calibration": or_chosen(one_of(CALIBRATIONS)),
    "seed": whole(0, most=2**32 - 1, shown="2³²−1"),
    "batch_size": whole(1, 65_536),
}


@dataclasses.dataclass(frozen=True)
class AnnotatorConfig:
    """Settings of an :class:`~gpuannot.Annotator`. The defaults are the preset ``paper``.

    The paper leaves n, m, the input size, pre- or post-ReLU and all normalisation open. n = m = 64 with no normalisation and L2 is
    the setting whose Corel5k numbers match the paper's row (see ``gpuannot reproduce``).
    """

    trunk: str = "vgg16"
    """The network: ``vgg16``, ``timm:NAME`` or ``torchvision:NAME``; ``timm:NAME@LAYER`` names the layer too. Where ``weights``,
    ``layer``, ``input_size`` and ``interpolation`` are None they become the trunk's own."""
    weights: str = _OF_TRUNK
    """Trunk weights: of ``vgg16`` ``embedded``, a file, ``torchvision`` or ``torchvision:NAME``; of others ``pretrained``, from
    their library's cache or by its download, or a file."""
    weights_convention: str | None = None
    """``caffe`` or ``torchvision``, for a weights file whose metadata does not say."""
    layer: str = _OF_TRUNK
    """Layer whose local features are used, ``conv5_2`` of VGG-16, or several of one stride joined by ``+``: ``pool4+conv5_1``. Each
    layer gets its own PCA, visual words and VLAD vector, put behind each other. VGG-16 has ``colours+conv5_2`` too: the
    whole image's colours stand behind all, for a ``projection`` to which they say half as much."""
    relu: bool = True
    """Take a convolution layer's output after its ReLU."""
    trunk_dtype: str = "auto"
    """``float32``, ``bfloat16``, ``float16`` (CUDA), ``int8`` (on CPUs that multiply it, features 3% away; elsewhere as ``auto``)
    or ``auto``: bfloat16 where the device gains by it. A fit on a CPU that multiplies int8, makes ``auto`` that."""
    input_size: int = _OF_TRUNK
    """Images are warped to input_size × input_size pixels, 224 for VGG-16."""
    interpolation: str = _OF_TRUNK
    """How images are warped: ``bicubic`` (VGG-16), ``bilinear``, with antialias, or ``bicubic_reduced``: JPEG files of four times
    input_size or more are first decoded at a fraction (:func:`~gpuannot.images.decode.decode_image`): faster, by other pixels."""
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
    moments: int = 0
    """t: behind the VLAD vectors, matrix square roots of the second moments of each layer's first t components
    (:class:`~gpuannot.heads.second_order.MatrixRoots`), for a ``projection`` to which both say as much; 0 for none."""
    projection: int = 0
    """d, the principal components kept of the VLAD vectors, then brought to unit length; 0 leaves the vectors as they are.
    No more are kept than a quarter of the images that they are learnt from."""
    projection_sample: int = 4096
    """Most training images, drawn uniformly, whose vectors the projection is learnt from: seven in eight, where they are fewer."""
    quadratic: int = 0
    """t, with ``projection``: the products of the first t components are put behind all of them; 0 for none."""
    quadratic_weight: float = 0.5
    """q: the inner product of two image vectors is ⟨u, u'⟩ + q·⟨u_t, u'_t⟩²."""
    metric: str = "l2"
    """Distance of image and word vectors, where a head makes these: ``l2`` (the paper) or ``cosine`` (1 − cosine similarity)."""
    head: str = "mean"
    """What words are ranked by: ``mean`` (the paper) or ``demixed`` word vectors, the linear score ``ridge``, or ``kernel``, ridge
    regression by similarity to each image; see :class:`~gpuannot.heads.word_head.WordHead`. ``ridge`` keeps D² sums, D = m·n, and
    ``kernel`` all image vectors, in 16 bits: it takes them at unit length, by ``l2`` or ``projection``, without ``quadratic``."""
    kernel_width: float = 2.0
    """γ of ``kernel``: the similarity of two image vectors is e^(γ(⟨u, u'⟩ − 1))/(1 − e^(−γ))."""
    objective: str = "images"
    """What ``ridge`` and ``kernel`` are to be good at. ``images``: the words of each image, by how likely they are, as many as are
    likely enough. ``words``: every word alike, rare or frequent, by the literature's per-word F1 with five words an image."""
    regularisation: float | None = None
    """λ of ``demixed`` and ``ridge``, as a multiple of the mean diagonal of the system that is solved, and of ``kernel`` itself.
    None has the fit choose it for ``objective`` by leave-one-out, or is 1 (``demixed``)."""
    balance: float | None = None
    """g, of ``ridge`` and ``kernel``: 0 ranks by how likely a word is, which favours frequent words; 1 leaves out how frequent it
    is. None has the fit choose it for ``images``, and is 1 for ``words``."""
    calibration: str | None = None
    """How ``ridge`` and ``kernel`` bring the words' scores to one scale: ``none`` (they are predictions of 0 and 1) or ``odds``
    (log-odds by two Gaussians, fitted to leave-one-out scores). None is ``none`` for ``images`` and ``odds`` for ``words``."""
    seed: int = 0
    """Seeds every random choice: same images, seed and machine, same model, on any number of its cores."""
    batch_size: int = 32
    """Images decoded and run through the trunk at a time."""

    def __post_init__(self) -> None:
        if isinstance(self.weights, os.PathLike):  # a model file states it as text
            object.__setattr__(self, "weights", os.fspath(self.weights))
        self._complete()
        for name, constraint in CONSTRAINTS.items():
            constraint.check(name, getattr(self, name), self)
        if (self.moments or self.whole_layers) and not self.projection:
            raise InvalidArgumentError("moments and the layer colours need a projection, which brings all to one scale")
        if self.head == "kernel" and (self.quadratic or not (self.l2 or self.projection)):
            raise InvalidArgumentError("head 'kernel' takes image vectors of unit length: set l2 or projection, and quadratic = 0")

    def _complete(self) -> None:
        """Put in what the trunk decides, as far as its name tells."""
        CONSTRAINTS["trunk"].check("trunk", self.trunk, self)
        trunk, at, layer = self.trunk.partition("@")
        if at and self.layer not in (None, layer):
            raise InvalidArgumentError(f"trunk {self.trunk!r} names one layer, and layer = {self.layer!r} another")
        object.__setattr__(self, "trunk", trunk)
        own = _OF_VGG16 if trunk == "vgg16" else {"weights": "pretrained"}
        for name, value in {**own, **({"layer": layer} if at else {})}.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    @property
    def layer_count(self) -> int:
        """L, how many layers ``layer`` names."""
        return (self.layer or "").count("+") + 1

    @property
    def whole_layers(self) -> int:
        """How many of them, the first, say the same of all patches: 1 with ``colours``, else 0."""
        return int("colours" in (self.layer or "").split("+"))

    @property
    def vlad_layers(self) -> int:
        """How many of them have visual words, and so a VLAD vector: the others."""
        return self.layer_count - self.whole_layers

    @property
    def vlad_dimension(self) -> int:
        """The length of these vectors, m·n each."""
        return self.vlad_layers * self.n_centers * self.n_components

    @property
    def joined_dimension(self) -> int:
        """The length of these and of what ``moments`` and ``colours`` put behind them."""
        moments = self.vlad_layers * self.moments * (self.moments + 1) // 2
        return self.vlad_dimension + moments + self.whole_layers * self.n_components

    @classmethod
    def preset(cls, name: str, **changes: Any) -> AnnotatorConfig:
        """A named setting, with changes: ``AnnotatorConfig.preset("paper", n_centers=32)``.

        Raises:
            InvalidArgumentError: no preset of that name, or a value out of range.
            TypeError: no such field.
        """
        if name not in PRESETS:
            raise InvalidArgumentError(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
        return cls(**PRESETS[name]).changed(**changes)

    def changed(self, **changes: Any) -> AnnotatorConfig:
        """These settings with others in their place; another ``trunk`` brings its own weights, layer, input size and interpolation.

        Raises:
            InvalidArgumentError: a value out of range.
            TypeError: no such field.
        """
        if changes.get("trunk", self.trunk) != self.trunk:
            changes = {**dict.fromkeys((*_OF_VGG16, "weights_convention")), "relu": True, **changes}
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AnnotatorConfig:
        """The inverse of :meth:`to_dict`, also of what earlier versions wrote, unless it asks for what there is no more.

        Raises:
            InvalidArgumentError: a name that is no setting, a value out of range, or a setting or value that was removed.
        """
        values = _without_removed(values)
        if unknown := set(values) - {field.name for field in dataclasses.fields(cls)}:
            raise InvalidArgumentError(f"unknown settings: {', '.join(sorted(unknown))}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain Python values."""
        return dataclasses.asdict(self)


def _without_removed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the keys of the neighbour vote; InvalidArgumentError where they ask for it, or for a removed value."""
    left = dict(values)
    left.pop("vote_sharpness", None)  # which does nothing without a vote
    for name, value in {"vote": left.pop("vote", 0), **left}.items():
        if value in _REMOVED.get(name, ()) or (name == "vote" and value != 0):
            raise InvalidArgumentError(
                f"{name} = {value!r} was removed from gpuannot: fit again with other settings, such as --preset best, or use the "
                "version that wrote the file"
            )
    return left


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "best": {
        "layer": "pool4+conv5_1+conv5_2+conv5_3", "n_components": 128, "n_centers": 32, "signed_sqrt": True, "l2": True,
        "projection": 1024, "quadratic": 90, "head": "ridge",
    },
}  # fmt: skip
PRESETS["kernel"] = {**PRESETS["best"], "quadratic": 0, "head": "kernel"}
