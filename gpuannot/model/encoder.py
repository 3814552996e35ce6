"""The learnt map from images to vectors: trunk, normalisation and PCA, visual words, VLAD. It knows nothing of labels.

images → trunk (conv5_2) → Gaussian normalisation + PCA → nearest visual word → VLAD (1), and where the config asks for one
→ joint projection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import AnnotatorConfig
from ..errors import NotFittedError
from ..heads.projection import JointProjection
from ..images.inputs import Images, as_sequence, warn_of_failures
from ..method.codebook import Codebook, sample_positions
from ..method.descriptors import DeviceTransform, GaussianPCA
from ..method.layers import DeviceLayerTransforms, LayerCodebooks, LayerTransforms
from ..method.vlad import Vlad
from ..system.partitions import by_partition, tree_sum
from ..system.progress import progress_bar
from ..system.threads import one_blas_thread
from .device_store import new_store
from .extractor import FeatureExtractor, Store
from .store import StoreSubset

Stored: TypeAlias = Store | StoreSubset
Vectors: TypeAlias = NDArray[np.float32] | Tensor  # NumPy on the CPU, a device tensor on a GPU


class _DeviceStages(NamedTuple):
    transform: DeviceTransform | DeviceLayerTransforms
    centers: Tensor  # (m, n) float32, (L, m, n) of several layers
    half_norms: Tensor  # (m,) float32, (L, m)


class PatchContributions(NamedTuple):
    """Linear scores of one image, split over its patches: ``patches.sum(axis=1) + constant`` is ``weights @ vector``.

    ``vector`` (m·n,), ``patches`` (k, H'·W') row by row over the image, ``constant`` (k,) of what no patch has a part in, float64;
    ``grid`` is (H', W').
    """

    vector: NDArray[np.float64]
    patches: NDArray[np.float64]
    constant: NDArray[np.float64]
    grid: tuple[int, int]


class Encoder(FeatureExtractor):
    """Learns how to turn images into VLAD vectors, and does it.

    Args:
        config: an :class:`~gpuannot.AnnotatorConfig`; None is the preset ``paper``.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:1``.
        changes: fields of the config to change: ``Encoder(n_centers=32)``.

    Attributes:
        transform_: :class:`GaussianPCA`, or for several layers :class:`LayerTransforms`.
        codebook_: :class:`Codebook`, or for several layers :class:`LayerCodebooks`.
        projection_: :class:`JointProjection`, where ``config.projection`` is not 0.
        failures_: images of the last call that learnt or encoded that could not be read.

    ``images`` is, wherever it appears, a sequence of paths, encoded bytes, PIL images, (H, W, 3) uint8 arrays or (3, H, W) uint8
    tensors (mixed as you like), an (N, H, W, 3) array or (N, 3, H, W) tensor, or what :class:`~gpuannot.Inputs` takes as one
    source: a folder, file, list, table, tar shard or URL.
    """

    transform_: GaussianPCA | LayerTransforms
    codebook_: Codebook | LayerCodebooks
    projection_: JointProjection

    def __init__(self, config: AnnotatorConfig | None = None, *, device: str | torch.device = "auto", **changes: Any) -> None:
        super().__init__(config, device=device, **changes)
        self._vlad = Vlad(self.config.mass, self.config.intra, self.config.signed_sqrt, self.config.l2)
        self._stages: _DeviceStages | None = None

    @property
    def dimension(self) -> int:
        """D, the length of an image vector: m·n, or what the projection makes."""
        return self.projection_.dimension if self.config.projection else self.config.vlad_dimension

    def vectors_of(
        self, sources: Sequence[Any], positions: NDArray[np.int64], *, progress: bool | None = None
    ) -> Iterator[tuple[NDArray[np.int64], Vectors]]:
        """Positions (B,) and VLAD vectors (B, m·n) of images, batch by batch, none across partitions; ascending ``positions``."""
        for index, features in self._features(sources, positions, "word vectors", progress, within_partitions=True):
            yield index, self._vectors(features)

    def new_transform(self) -> GaussianPCA | LayerTransforms:
        """Normalisation and PCA that have learnt nothing yet."""
        n = self.config.n_components
        return GaussianPCA(n) if self.config.layer_count == 1 else LayerTransforms(n, self.trunk.layer_channels)

    def new_codebook(self) -> Codebook | LayerCodebooks:
        """A codebook that has learnt nothing yet."""
        m, most, seed = self.config.n_centers, self.config.kmeans_iterations, self.config.seed
        if self.config.layer_count == 1:
            return Codebook(m, max_iterations=most, seed=seed)
        return LayerCodebooks(self.config.layer_count, m, max_iterations=most, seed=seed)

    def new_projection(self) -> JointProjection:
        """A joint projection that has learnt nothing yet."""
        return JointProjection(self.config.projection, self.config.quadratic, self.config.quadratic_weight)

    def learn_transform(self, features: Stored, *, progress: bool | None = None) -> GaussianPCA | LayerTransforms:
        """Learn normalisation and PCA from stored features (N, P, C).

        Raises:
            ValueError: fewer varying channels than components.
        """
        blocks = _bar(features.blocks(within_partitions=True), "normalisation and PCA", len(features), progress)
        sums = tree_sum((number, self.transform_sums(part)) for number, part in by_partition(blocks))
        return self.finish_transform(sums, self._sample(features) if self._on_gpu else None)

    def transform_sums(self, blocks: Iterable[tuple[NDArray[np.int64], Tensor]]) -> GaussianPCA | LayerTransforms:
        """The running sums of normalisation and PCA over the features of a partition."""
        sums = self.new_transform()
        with one_blas_thread():
            for _, block in blocks:
                sums.accumulate(block.to(self.device) if self._on_gpu else block.float().numpy())
        return sums

    def finish_transform(self, sums: GaussianPCA | LayerTransforms | None, sample: Tensor | None) -> GaussianPCA | LayerTransforms:
        """Learn normalisation and PCA from the sums of all features, and on a GPU from a sample of them."""
        self.transform_, self._stages = sums or self.new_transform(), None
        return self.transform_.finish(sample)

    def describe(self, features: Store, folder: str | Path | None = None, *, progress: bool | None = None) -> Store:
        """Stored features (N, P, C) → stored descriptors (N, P, n) float32, in ``folder`` or a temporary place."""
        n = self.config.layer_count * self.config.n_components
        descriptors = new_store(self.device, len(features), features.patches, n, torch.float32, folder)
        transform = self.transform_.on(self.device, features.dtype) if self._on_gpu else None
        try:
            for positions, block in _bar(features.blocks(within_partitions=True), "descriptors", len(features), progress):
                if transform is not None:
                    descriptors.append(positions, transform(block.to(self.device)))
                else:
                    with one_blas_thread():
                        described = self.transform_.transform(block.float().numpy())
                    descriptors.append(positions, torch.from_numpy(described))
        except BaseException:
            descriptors.close()
            raise
        return descriptors

    def learn_codebook(self, descriptors: Stored) -> Codebook | LayerCodebooks:
        """Learn the visual words from a uniform sample of stored descriptors (N, P, n).

        Raises:
            ValueError: fewer distinct descriptors than centres.
        """
        return self.fit_codebook(self._sample(descriptors))

    def fit_codebook(self, sample: Tensor) -> Codebook | LayerCodebooks:
        """Learn the visual words from descriptors (S, n) float32 on this encoder's device, which may be overwritten."""
        self._stages = None
        self.codebook_ = self.new_codebook()
        self.codebook_.fit(sample if self._on_gpu else sample.numpy(), overwrite=True)
        return self.codebook_

    def learn_projection(self, descriptors: Stored) -> JointProjection | None:
        """Learn the projection from the VLAD vectors of a uniform sample of images, by their stored descriptors; None without one.

        Raises:
            ValueError: as :meth:`JointProjection.fit`.
        """
        if not self.config.projection:
            return None
        chosen = self.vector_sample_rows(len(descriptors))
        return self.fit_projection(torch.cat(list(self.sampled_vectors(descriptors, chosen))))

    def fit_projection(self, sample: Tensor) -> JointProjection:
        """Learn the projection from VLAD vectors (S, L·m·n) float32 on this encoder's device."""
        self.projection_ = self.new_projection().fit(sample)
        return self.projection_

    def vector_sample_rows(self, images: int) -> NDArray[np.int64]:
        """Which of so many images that could be read the projection is learnt from, ascending."""
        return sample_positions(images, self.config.projection_sample, self.config.seed)

    def sampled_vectors(self, descriptors: Stored, rows: NDArray[np.int64]) -> Iterator[Tensor]:
        """VLAD vectors (B, L·m·n), not projected, of some images of a store, block by block; ascending ``rows``."""
        start = 0
        for positions, block in descriptors.blocks(within_partitions=True):
            stop = start + len(positions)
            chosen = rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)] - start
            if len(chosen):
                picked = block[torch.from_numpy(chosen).to(block.device)].to(self.device)
                yield torch.as_tensor(self._vlad_vectors(picked))
            start = stop

    def encode_descriptors(self, descriptors: Store) -> Iterator[tuple[NDArray[np.int64], Vectors]]:
        """Stored descriptors (N, P, n) → positions (B,) and image vectors (B, D), block by block."""
        for positions, block in descriptors.blocks(within_partitions=True):
            yield positions, self._aggregate(block.to(self.device))

    def _sample(self, store: Stored) -> Tensor:
        """A uniform sample (S, C) of all rows of a store, in the store's order and dtype, on this encoder's device."""
        sample = sample_positions(len(store) * store.patches, self.config.codebook_sample, self.config.seed)
        rows = torch.empty((len(sample), store.channels), dtype=store.dtype, device=self.device)
        start = taken = 0
        for positions, block in store.blocks():
            stop = start + len(positions) * store.patches
            chosen = sample[np.searchsorted(sample, start) : np.searchsorted(sample, stop)] - start
            rows[taken : taken + len(chosen)] = block.flatten(0, 1)[torch.from_numpy(chosen).to(block.device)].to(self.device)
            start, taken = stop, taken + len(chosen)
        return rows

    def encode_tensor(self, images: Tensor) -> Tensor:
        """VLAD vectors (B, m·n) float32 of a decoded batch (B, 3, S, S) uint8.

        Raises:
            TypeError: not uint8. ValueError: another shape or size.
        """
        self._require_fit()
        size = self.config.input_size
        if isinstance(images, Tensor) and images.ndim == 4 and images.shape[2:] != (size, size):
            raise ValueError(
                f"images are {images.shape[2]}×{images.shape[3]}, this one was made for {size}×{size}; resize them first, "
                "for example with torch.nn.functional.interpolate(images, size, mode='bicubic', antialias=True)"
            )
        vectors = self._vectors(self._run_trunk(images))
        return vectors if isinstance(vectors, Tensor) else torch.from_numpy(vectors)

    def encode(self, images: Images, *, progress: bool | None = None) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """VLAD vectors of images: positions (T,) of those that could be read, and vectors (T, m·n) float32."""
        self._require_fit()
        sources = as_sequence(images)
        self.failures_ = []
        parts = [
            (positions, to_host(self._vectors(features)))
            for positions, features in self._features(sources, np.arange(len(sources)), "encode", progress)
        ]
        vectors = np.empty((0, self.dimension), np.float32)
        warn_of_failures(len(sources), self.failures_)
        return (
            np.concatenate([np.empty(0, np.int64), *(positions for positions, _ in parts)]),
            np.concatenate([vectors, *(vectors for _, vectors in parts)]),
        )

    def patch_contributions(self, features: Tensor, weights: NDArray[np.floating]) -> PatchContributions:
        """How the patches of one image make linear scores w·x of its vector x.

        Args:
            features: (P, C), of that image. weights: (k, m·n).
        """
        descriptors = self.transform_.transform(features.float().cpu().numpy())
        side = self.config.input_size // self.trunk.stride
        if not self.config.projection:
            vector, patches = self._vlad.patch_contributions(descriptors, self.codebook_.centers, weights)
            return PatchContributions(vector, patches, np.zeros(len(weights)), (side, side))
        encoded = self._vlad.encode(descriptors[None], self.codebook_.centers)[0]
        vector, pulled, constant = self.projection_.pull_back(encoded, weights)
        _, patches = self._vlad.patch_contributions(descriptors, self.codebook_.centers, pulled)
        return PatchContributions(vector, patches, constant, (side, side))

    def _vectors(self, features: Tensor) -> Vectors:
        """Image vectors (B, D) of features (B, P, C)."""
        if self._on_gpu:
            return self._aggregate(self._device_stages().transform(features))
        with one_blas_thread():
            return self._aggregate(torch.from_numpy(self.transform_.transform(features.float().numpy())))

    def _aggregate(self, descriptors: Tensor) -> Vectors:
        """Image vectors (B, D) of descriptors (B, P, n): VLAD, and the projection where there is one."""
        vectors = self._vlad_vectors(descriptors)
        if not self.config.projection:
            return vectors
        projected = self.projection_.transform(torch.as_tensor(vectors))
        return projected if self._on_gpu else projected.numpy()

    def _vlad_vectors(self, descriptors: Tensor) -> Vectors:
        """VLAD vectors (B, L·m·n) of descriptors (B, P, L·n)."""
        if self._on_gpu:
            stages = self._device_stages()
            return self._vlad.encode_cuda(descriptors, stages.centers, stages.half_norms)
        with one_blas_thread():
            return self._vlad.encode(descriptors.numpy(), self.codebook_.centers)

    def _device_stages(self) -> _DeviceStages:
        """The learnt stages on the GPU, put there once."""
        if self._stages is None:
            from ..kernels import check_centers

            centers = self.codebook_.on(self.device)
            transform = self.transform_.on(self.device, self.trunk.dtype)
            norms = torch.stack([check_centers(words) for words in centers]) if centers.ndim == 3 else check_centers(centers)
            self._stages = _DeviceStages(transform, centers, norms)
        return self._stages

    def _require_fit(self) -> None:
        if not hasattr(self, "codebook_"):
            raise NotFittedError(f"this {type(self).__name__} has learnt nothing yet; call fit first")


def to_host(values: Vectors | Tensor) -> NDArray[Any]:
    """A NumPy array of the same values."""
    return values.cpu().numpy() if isinstance(values, Tensor) else values


def _bar(blocks: Iterator[tuple[NDArray[np.int64], Tensor]], title: str, total: int, progress: bool | None) -> Any:
    with progress_bar(title, total, progress) as bar:
        for positions, features in blocks:
            yield positions, features
            bar.update(len(positions))
