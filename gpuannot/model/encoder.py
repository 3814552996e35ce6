"""The learnt map from images to vectors: trunk, normalisation and PCA, visual words, VLAD. It knows nothing of labels.

images → trunk (conv5_2) → Gaussian normalisation + PCA → nearest visual word → VLAD (1), and where the config asks for one
→ joint projection. Every stage takes a list of layers; the paper's has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import AnnotatorConfig
from ..errors import InvalidArgumentError, NotFittedError
from ..heads.projection import JointProjection, projection_sample, takes_parts
from ..heads.second_order import Pooling
from ..images.decode_task import ImageFailure
from ..images.inputs import Images, as_sequence, warn_of_failures
from ..method.codebook import LayerCodebooks, sample_positions
from ..method.descriptors import DeviceLayerTransforms, LayerTransforms
from ..method.trunks import GivenTrunk
from ..method.trunks.protocol import LoadedTrunk, LocalFeatures
from ..system.progress import progress_bar
from ..system.threads import one_blas_thread
from .extractor import FeatureExtractor
from .store import FeatureStore, new_store

Vectors: TypeAlias = NDArray[np.float32] | Tensor  # NumPy on the CPU, a device tensor on a GPU


class _DeviceStages(NamedTuple):
    transform: DeviceLayerTransforms
    centers: Tensor  # (L, m, n) float32
    half_norms: Tensor  # (L, m) float32


class Learnt(NamedTuple):
    """What of an encoder has been learnt so far; None stands for what has not."""

    transform: LayerTransforms | None = None
    codebook: LayerCodebooks | None = None
    projection: JointProjection | None = None


class PatchContributions(NamedTuple):
    """Linear scores of one image, split over its patches: ``patches.sum(axis=1) + constant`` is ``weights @ vector``.

    Attributes:
        vector: (D,) float64.
        patches: (k, H'·W') float64, row by row over the image.
        constant: (k,) float64, what no patch has a part in. grid: (H', W').
    """

    vector: NDArray[np.float64]
    patches: NDArray[np.float64]
    constant: NDArray[np.float64]
    grid: tuple[int, int]


class Encoder:
    """Learns how to turn images into VLAD vectors, and does it.

    Args:
        config: an :class:`~gpuannot.AnnotatorConfig`; None is the preset ``paper``.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:1``.
        loaded: the trunk's weights, where they are loaded already; None loads what the config names at first use.
        new: a fit begins with it, which settles ``trunk_dtype = "auto"`` (:func:`gpuannot.method.trunks.settle`).
        changes: fields of the config to change: ``Encoder(n_centers=32)``; ``trunk`` can be a trunk of your own.

    Attributes:
        extractor: :class:`~gpuannot.model.extractor.FeatureExtractor`, from images to local features.
        transform_, codebook_: ``LayerTransforms`` and ``LayerCodebooks``, of :mod:`gpuannot.method`.
        projection_: :class:`~gpuannot.heads.projection.JointProjection`, where ``config.projection`` is not 0.
    """

    transform_: LayerTransforms
    codebook_: LayerCodebooks
    projection_: JointProjection

    def __init__(
        self,
        config: AnnotatorConfig | None = None,
        *,
        device: str | torch.device = "auto",
        loaded: LoadedTrunk | None = None,
        new: bool = False,
        **changes: Any,
    ) -> None:
        if not isinstance(changes.get("trunk", ""), str):
            loaded = GivenTrunk(changes.pop("trunk"))
        self.extractor = FeatureExtractor((config or AnnotatorConfig()).changed(**changes), device, loaded=loaded, new=new)
        self.config = self.extractor.config
        self._pooling = Pooling.of(self.config)
        self._stages: _DeviceStages | None = None

    @property
    def device(self) -> torch.device:
        """Where images are encoded."""
        return self.extractor.device

    @property
    def trunk(self) -> LocalFeatures:
        """The network up to its last layer that is used, built at first use."""
        return self.extractor.trunk

    @property
    def weights(self) -> LoadedTrunk:
        """The trunk's weights, loaded at first use."""
        return self.extractor.weights

    @property
    def failures_(self) -> list[ImageFailure]:
        """Images of the last call that learnt or encoded that could not be read."""
        return self.extractor.failures

    @property
    def dimension(self) -> int:
        """D, the length of an image vector: m·n a layer, or what the projection makes."""
        return self.projection_.dimension if self.config.projection else self.config.vlad_dimension

    def require_fit(self) -> None:
        """Raise NotFittedError unless all stages have learnt."""
        if not hasattr(self, "codebook_"):
            raise NotFittedError("nothing has been learnt yet; call fit(images, labels), or Annotator.load(path), first")

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_stages": None}

    # -- learning; gpuannot.model.fit says in what order --------------------------------------------------------------------------

    def new_transform(self) -> LayerTransforms:
        """Normalisation and PCA that have learnt nothing yet."""
        return LayerTransforms(self.config.n_components, self.trunk.layer_channels, unnormalised=self.config.whole_layers)

    def new_codebook(self) -> LayerCodebooks:
        """A codebook that has learnt nothing yet."""
        config, layers = self.config, self.config.vlad_layers
        return LayerCodebooks(layers, config.n_centers, max_iterations=config.kmeans_iterations, seed=config.seed)

    def new_projection(self) -> JointProjection:
        """A joint projection that has learnt nothing yet."""
        return JointProjection(self.config.projection, self.config.quadratic, self.config.quadratic_weight)

    def transform_sums(self, blocks: Iterable[tuple[NDArray[np.int64], Tensor]]) -> LayerTransforms:
        """The running sums of normalisation and PCA over the features (B, P, C) of a partition."""
        sums = self.new_transform()
        with one_blas_thread():
            for _, block in blocks:
                sums.accumulate(block.to(self.device))
        return sums

    def finish_transform(self, sums: LayerTransforms | None, sample: Tensor | None) -> None:
        """Learn normalisation and PCA.

        Args:
            sums: of all features; None of none.
            sample: features (S, C) on this device, for PCA on a GPU; None on a CPU.

        Raises:
            ValueError: fewer varying channels than components.
        """
        self.transform_, self._stages = sums or self.new_transform(), None
        self.transform_.finish(sample)

    def fit_codebook(self, sample: Callable[[int], Tensor]) -> None:
        """Learn the visual words from a sample of each layer's descriptors, (S, n) float32 on this encoder's device, which may be
        overwritten.

        Raises:
            ValueError: fewer distinct descriptors than centres.
        """
        self._stages, self.codebook_, first = None, self.new_codebook(), self.config.whole_layers
        self.codebook_.fit(lambda layer: sample(first + layer) if self.extractor.on_gpu else sample(first + layer).numpy())

    def fit_projection(self, sample: Tensor) -> None:
        """Learn the projection from what :meth:`vlad` makes (S, D) float32, on this encoder's device, which is overwritten.

        Raises:
            ValueError: as :meth:`~gpuannot.heads.projection.JointProjection.fit`.
        """
        self.projection_ = self.new_projection().fit(sample, overwrite=True, blocks=Pooling.blocks(self.config))

    def patch_sample(self, images: int) -> NDArray[np.int64]:
        """Which of the local features of so many images PCA (on a GPU) and codebook are learnt from, ascending."""
        return sample_positions(images * self.extractor.patches, self.config.codebook_sample, self.config.seed)

    def vector_sample(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which of the images at these positions (N,) of a data set the projection is learnt from, ascending."""
        return projection_sample(positions, self.config.projection_sample, self.config.seed)

    def describe(
        self, features: FeatureStore, folder: str | Path | None = None, *, advance: Callable[[int], object] | None = None
    ) -> FeatureStore:
        """Stored features (N, P, C) → stored descriptors (N, P, L·n) float32.

        Args:
            features: of N images.
            folder: where to; None is the GPU's memory or a temporary folder.
            advance: told how many images each block had.
        """
        n = self.config.layer_count * self.config.n_components
        descriptors = new_store(self.device, len(features), features.patches, n, torch.float32, folder)
        transform = self.transform_.on(self.device, features.dtype) if self.extractor.on_gpu else None
        try:
            for positions, block in features.blocks(within_partitions=True):
                if transform is not None:
                    descriptors.append(positions, transform(block.to(self.device)))
                else:
                    with one_blas_thread():
                        described = self.transform_.transform(block)
                    descriptors.append(positions, torch.from_numpy(described))
                if advance is not None:
                    advance(len(positions))
        except BaseException:
            descriptors.close()
            raise
        return descriptors

    # -- encoding -----------------------------------------------------------------------------------------------------------------

    def encode(self, images: Images, *, progress: bool | None = None) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """VLAD vectors of images.

        Args:
            images: as :meth:`gpuannot.Annotator.annotate` takes them.
            progress: show a bar; None shows one on terminals.

        Returns:
            positions (T,) of those that could be read, and vectors (T, D) float32.
        """
        self.require_fit()
        sources = as_sequence(images)
        self.extractor.failures = []
        parts = [(np.empty(0, np.int64), np.empty((0, self.dimension), np.float32))]
        with progress_bar("encode", len(sources), progress) as bar:
            for positions, features in self.extractor.features(sources, advance=bar.update, apart=True):
                parts.append((positions, to_host(self.vectors(features))))
        warn_of_failures(len(sources), self.failures_)
        positions, vectors = (np.concatenate(part) for part in zip(*parts, strict=True))
        return positions, vectors

    def encode_tensor(self, images: Tensor) -> Tensor:
        """VLAD vectors (B, D) float32 of a decoded batch.

        Args:
            images: (B, 3, S, S) uint8, RGB, S = ``config.input_size``, on this encoder's device.

        Raises:
            TypeError: not uint8.
            ValueError: another shape or size.
        """
        self.require_fit()
        size = self.config.input_size
        if isinstance(images, Tensor) and images.ndim == 4 and images.shape[2:] != (size, size):
            raise InvalidArgumentError(
                f"images are {images.shape[2]}×{images.shape[3]}, this one was made for {size}×{size}; resize them first, "
                "for example with torch.nn.functional.interpolate(images, size, mode='bicubic', antialias=True)"
            )
        return torch.as_tensor(self.vectors(self.extractor.run_layers(images)))

    def encode_images(
        self, sources: Any, positions: NDArray[np.int64] | None = None, *, advance: Callable[[int], object] | None = None
    ) -> Iterator[tuple[NDArray[np.int64], Vectors]]:
        """Positions (B,) and vectors (B, D) of images, batch by batch, none across partitions.

        Args:
            sources: images of a data set.
            positions: which of them, ascending; None takes all.
            advance: told how many images each batch took.
        """
        for batch in self.extractor.features(sources, positions, advance=advance, within_partitions=True, apart=True):
            yield batch[0], self.vectors(batch[1])

    def encode_descriptors(self, descriptors: FeatureStore) -> Iterator[tuple[NDArray[np.int64], Vectors]]:
        """Stored descriptors (N, P, L·n) → positions (B,) and image vectors (B, D), block by block."""
        for positions, block in descriptors.blocks(within_partitions=True):
            yield positions, self.aggregate(block.to(self.device))

    def vectors(self, features: Tensor | tuple[Tensor, ...]) -> Vectors:
        """Image vectors (B, D) of features (B, P, C), or on a GPU of each layer's."""
        if self.extractor.on_gpu:
            return self.aggregate(self.device_stages().transform(features))
        assert isinstance(features, Tensor)
        with one_blas_thread():
            return self.aggregate(torch.from_numpy(self.transform_.transform(features)))

    def aggregate(self, descriptors: Tensor) -> Vectors:
        """Image vectors (B, D) of descriptors (B, P, L·n): VLAD, and the projection where there is one."""
        if not self.config.projection:
            return self.vlad(descriptors)
        projected = self.projection_.transform(torch.as_tensor(self.vlad(descriptors, parts=takes_parts(self.device))))
        return projected if self.extractor.on_gpu else projected.numpy()

    def vlad(self, descriptors: Tensor, *, parts: bool = False) -> Vectors:
        """Vectors (B, ``config.joined_dimension``), VLAD first, not projected, of descriptors (B, P, L·n); on a GPU in two parts,
        where these are asked for."""
        if self.extractor.on_gpu:
            stages = self.device_stages()
            return self._pooling.encode_cuda(descriptors, stages.centers, stages.half_norms, parts=parts)
        with one_blas_thread():
            return self._pooling.encode(descriptors.numpy(), self.codebook_.centers)

    def patch_contributions(self, features: Tensor, weights: NDArray[np.floating]) -> PatchContributions:
        """How the patches of one image make linear scores w·x of its vector x.

        Args:
            features: (P, C), of that image.
            weights: (k, D).
        """
        descriptors = self.transform_.transform(features.float().cpu().numpy())
        grid = self.trunk.grid(self.config.input_size, self.config.input_size)
        if not self.config.projection:
            return PatchContributions(*self._pooling.patch_contributions(descriptors, self.codebook_.centers, weights), grid)
        encoded = self._pooling.encode(descriptors[None], self.codebook_.centers)[0]
        vector, pulled, constant = self.projection_.pull_back(encoded, weights)
        _, patches, rest = self._pooling.patch_contributions(descriptors, self.codebook_.centers, pulled)
        return PatchContributions(vector, patches, constant + rest, grid)

    def device_stages(self) -> _DeviceStages:
        """The learnt stages on the GPU, put there once."""
        if self._stages is None:
            from ..kernels import check_centers

            centers = self.codebook_.on(self.device)
            transform = self.transform_.on(self.device, self.trunk.dtype)
            self._stages = _DeviceStages(transform, centers, torch.stack([check_centers(layer) for layer in centers]))
        return self._stages

    def sharing_trunk(self, learnt: Learnt | None = None, **changes: Any) -> Encoder:
        """An encoder on the same device with the same trunk.

        Args:
            learnt: what it is to have learnt of normalisation, PCA and what follows; None of nothing.
            changes: fields of the config to change, none that the trunk depends on.
        """
        other = Encoder(self.config, device=self.device, loaded=self.extractor.loaded, **changes)
        other.extractor.share(self.extractor)
        known = (learnt or Learnt())._asdict().items()
        vars(other).update({f"{stage}_": value for stage, value in known if value is not None})
        return other


def to_host(values: Vectors) -> NDArray[Any]:
    """A NumPy array of the same values."""
    return values.cpu().numpy() if isinstance(values, Tensor) else values
