"""Gaussian normalisation and PCA of local features: the paper's second step, as one affine map.

On a GPU the sums are formed there in float64, and cuML finds the components from a sample of normalised features; without cuML they
come from the sums, as on the CPU.

A map is learnt for each of L layers. The features of an image, (P, ΣC), hold the layers' channels next to each other, its
descriptors (P, L·n) their components.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InvalidArgumentError, NotFittedError
from ..reference import descriptors as _reference
from ..system.device import cuml_module
from ..system.precision import exact_float32
from ..system.threads import one_blas_thread


class GaussianPCA:
    """Zero mean and unit variance for each channel, then the leading principal components.

    Learnt from running sums (count, Σx, Σx·xᵀ in float64), so that fitting streams: memory does not grow with the number of images,
    sums of parts can be added, and the result does not depend on how the images were batched beyond float64 rounding.

    Args:
        n_components: n, dimensions of a descriptor.
        normalise: False leaves the channels' variances as they are.

    Attributes:
        matrix_: (C, n) float32 and offset_: (n,) float32, with ``descriptor = feature @ matrix_ + offset_``.
        explained_variance_ratio_: (n,) float64.
        constant_channels_: indices of the channels of weight 0, as those that did not vary over the training images.
    """

    matrix_: NDArray[np.float32]
    offset_: NDArray[np.float32]
    explained_variance_ratio_: NDArray[np.float64]

    def __init__(self, n_components: int = 64, *, normalise: bool = True) -> None:
        self.n_components, self.normalise = n_components, normalise
        self.count_ = 0
        self._total: Any = None  # (C,) and (C, C) float64, NumPy or torch, where the features are
        self._outer: Any = None

    def accumulate(self, features: NDArray[np.floating] | Tensor) -> GaussianPCA:
        """Add the features (..., C) of some images to the running sums: a NumPy array, or a CUDA tensor, summed where it is.

        Raises:
            ValueError: C differs from what came before.
        """
        flat = features.reshape(-1, features.shape[-1])
        count, total, outer = _feature_sums_cuda(flat) if isinstance(flat, Tensor) else _reference.feature_sums(flat)
        self._add(count, total, outer)
        return self

    def merge(self, other: GaussianPCA) -> GaussianPCA:
        """Add the running sums of another, as if its features had been accumulated here.

        Raises:
            ValueError: C differs.
        """
        if other._total is not None:
            self._add(other.count_, deepcopy(other._total), deepcopy(other._outer))
        return self

    def _add(self, count: int, total: Any, outer: Any) -> None:
        if self._total is None:
            self._total, self._outer = total, outer
        elif total.shape != self._total.shape:
            raise InvalidArgumentError(f"features have {len(total)} channels, those before had {len(self._total)}")
        else:
            self._total += total
            self._outer += outer
        self.count_ += count

    def without_sums(self) -> GaussianPCA:
        """The same map alone: all that a worker needs to transform, and a tenth of the bytes."""
        other = GaussianPCA(self.n_components)
        other.matrix_, other.offset_ = self.matrix_, self.offset_
        return other

    def __getstate__(self) -> dict[str, Any]:
        sums = {name: None if vars(self)[name] is None else _host(vars(self)[name]) for name in ("_total", "_outer")}
        return {**vars(self), **sums}

    @one_blas_thread()
    def finish(self, sample: Tensor | None = None) -> GaussianPCA:
        """Learn the map from the sums accumulated so far.

        Args:
            sample: features (S, C) on a CUDA device, drawn uniformly from those accumulated, for cuML to find the components in;
                None takes them from the sums.

        Raises:
            ValueError: no or too few features, too few channels that vary, or non-finite features.
        """
        if self._total is None:
            raise InvalidArgumentError("no features were accumulated: not one image could be read")
        mean, scale, correlation = _reference.normalisation(self.count_, _host(self._total), _host(self._outer))
        _reference.check_components(scale, self.n_components)
        if not self.normalise:
            deviation = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
            scale, correlation = np.sign(scale), correlation * np.outer(deviation, deviation)
        cuml = cuml_module("decomposition") if sample is not None else None
        if cuml is not None and sample is not None:
            components, ratio = _components_cuml(cuml, sample, mean, scale, self.n_components)
        else:
            components, ratio = _reference.principal_components(correlation, self.n_components)
        matrix, offset = _reference.fold(mean, scale, components)
        # In C order, as it comes back from a file: a product rounds otherwise in the other order.
        self.matrix_, self.offset_ = np.ascontiguousarray(matrix, dtype=np.float32), offset.astype(np.float32)
        self.explained_variance_ratio_ = ratio
        return self

    def fit(self, features: NDArray[np.floating]) -> GaussianPCA:
        """Learn the map from features (..., C) that fit in memory."""
        self.count_, self._total, self._outer = 0, None, None
        return self.accumulate(features).finish()

    @property
    def constant_channels_(self) -> NDArray[np.intp]:
        self._require_fit()
        return np.flatnonzero(~self.matrix_.any(axis=1))

    def transform(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Descriptors (..., n) float32 of features (..., C) float32."""
        self._require_fit()
        return _reference.transform(features, self.matrix_, self.offset_)

    def on(self, device: torch.device, dtype: torch.dtype) -> DeviceTransform:
        """This map for features of ``dtype`` on ``device``."""
        self._require_fit()
        return DeviceTransform(self.matrix_, self.offset_, device, dtype)

    def _require_fit(self) -> None:
        if not hasattr(self, "matrix_"):
            raise NotFittedError("this GaussianPCA has learnt nothing yet; call fit, or accumulate and finish, first")


class DeviceTransform:
    """``descriptor = feature @ matrix + offset``, straight on the trunk's channels-last output.

    16-bit features are multiplied as they are, with float32 accumulation. 16 bits would round the matrix to three digits, so it is
    the sum of two 16-bit matrices, high and low part: multiplied by one kernel on GPUs whose tensor cores take both types,
    elsewhere in torch, side by side in one product. float32 features are multiplied in torch.

    Args:
        matrix: (C, n) float32. offset: (n,) float32. device: where the features are. dtype: theirs.
        by_kernel: None has the kernel where it serves; False never, for benchmarks.
    """

    def __init__(
        self,
        matrix: NDArray[np.float32],
        offset: NDArray[np.float32],
        device: torch.device,
        dtype: torch.dtype,
        *,
        by_kernel: bool | None = None,
    ) -> None:
        exact = torch.from_numpy(matrix).to(device)
        self.offset = torch.from_numpy(offset).to(device)
        self.n = exact.shape[1]
        self.split, self.by_kernel = dtype != torch.float32, by_kernel is not False and _kernel_serves(dtype, device)
        if self.split:
            high = exact.to(dtype)
            parts = [high, (exact - high.float()).to(dtype)]
            self.matrix = torch.stack([part.T for part in parts]).contiguous() if self.by_kernel else torch.cat(parts, dim=1)
        else:
            self.matrix = exact

    @exact_float32()
    def __call__(self, features: Tensor) -> Tensor:
        """Descriptors (B, P, n) float32 of features (B, P, C)."""
        if self.by_kernel:
            from ..kernels import affine_map

            return affine_map([features], [self.matrix], self.offset[None])
        flat = features.reshape(-1, features.shape[-1])
        if self.split:
            both = product_float32(flat, self.matrix)
            descriptors = (both[:, : self.n] + both[:, self.n :]).add_(self.offset)
        else:
            descriptors = torch.addmm(self.offset, flat, self.matrix)
        return descriptors.view(*features.shape[:-1], self.n)


def _kernel_serves(dtype: torch.dtype, device: torch.device) -> bool:
    if device.type != "cuda" or dtype == torch.float32:
        return False
    from ..kernels.features import serves_affine_map

    return serves_affine_map(dtype, device)


class LayerTransforms:
    """A :class:`GaussianPCA` for each layer's channels.

    Args:
        n_components: n, kept of each layer. channels: C of each layer, in the order of the features' columns.
        unnormalised: how many layers, the first, keep their channels' variances.

    Attributes:
        parts: the transforms.
    """

    def __init__(self, n_components: int, channels: Sequence[int], *, unnormalised: int = 0) -> None:
        self.n_components, self.channels = n_components, tuple(channels)
        self.parts = [GaussianPCA(n_components, normalise=layer >= unnormalised) for layer in range(len(self.channels))]

    def accumulate(self, features: NDArray[np.floating] | Tensor) -> LayerTransforms:
        """Add the features (..., ΣC) of some images, in an array or a tensor of any float type, to each layer's running sums.

        Raises:
            ValueError: another number of channels.
        """
        for part, columns in zip(self.parts, self._columns(features.shape[-1]), strict=True):
            part.accumulate(_as_float32(features[..., columns]))
        return self

    def merge(self, other: LayerTransforms) -> LayerTransforms:
        """Add the running sums of another, as if its features had been accumulated here."""
        for part, added in zip(self.parts, other.parts, strict=True):
            part.merge(added)
        return self

    def without_sums(self) -> LayerTransforms:
        """The same map alone, as :meth:`GaussianPCA.without_sums`."""
        other = LayerTransforms(self.n_components, self.channels)
        other.parts = [part.without_sums() for part in self.parts]
        return other

    def finish(self, sample: Tensor | None = None) -> LayerTransforms:
        """Learn each layer's map; arguments and errors as :meth:`GaussianPCA.finish`."""
        for part, columns in zip(self.parts, self._columns(sum(self.channels)), strict=True):
            part.finish(None if sample is None else sample[..., columns])
        return self

    def transform(self, features: NDArray[np.float32] | Tensor) -> NDArray[np.float32]:
        """Descriptors (..., L·n) float32 of features (..., ΣC), a float32 array or a CPU tensor of any float type."""
        found = np.empty((*features.shape[:-1], len(self.parts) * self.n_components), np.float32)
        for layer, (part, own) in enumerate(zip(self.parts, self._columns(features.shape[-1]), strict=True)):
            found[..., self.descriptor_columns(layer)] = part.transform(_as_float32(features[..., own]))
        return found

    def descriptor_columns(self, layer: int) -> slice:
        """Where descriptors (..., L·n) have those of a layer."""
        return slice(layer * self.n_components, (layer + 1) * self.n_components)

    def on(self, device: torch.device, dtype: torch.dtype) -> DeviceLayerTransforms:
        """This map for features of ``dtype`` on ``device``."""
        return DeviceLayerTransforms([part.on(device, dtype) for part in self.parts], self._columns(sum(self.channels)))

    @property
    def matrix_(self) -> NDArray[np.float32]:
        """(ΣC, n) the layers' matrices, one below the other."""
        return np.concatenate([part.matrix_ for part in self.parts])

    @property
    def offset_(self) -> NDArray[np.float32]:
        """(L, n)."""
        return np.stack([part.offset_ for part in self.parts])

    @property
    def explained_variance_ratio_(self) -> NDArray[np.float64]:
        """(L, n)."""
        return np.stack([part.explained_variance_ratio_ for part in self.parts])

    def restore(self, matrix: NDArray[np.float32], offset: NDArray[np.float32], ratio: NDArray[np.float64]) -> None:
        """Take what :attr:`matrix_`, :attr:`offset_` and :attr:`explained_variance_ratio_` gave."""
        for number, (part, rows) in enumerate(zip(self.parts, self._columns(len(matrix)), strict=True)):
            part.matrix_ = np.ascontiguousarray(matrix[rows])
            part.offset_, part.explained_variance_ratio_ = offset[number], ratio[number]

    def _columns(self, channels: int) -> list[slice]:
        if channels != sum(self.channels):
            raise InvalidArgumentError(f"features have {channels} channels, these layers have {sum(self.channels)}")
        ends = np.cumsum(self.channels).tolist()
        return [slice(end - own, end) for own, end in zip(self.channels, ends, strict=True)]


class DeviceLayerTransforms:
    """:class:`LayerTransforms` on a device: a :class:`DeviceTransform` for each layer's columns; by the kernel in one launch."""

    def __init__(self, parts: Sequence[DeviceTransform], columns: Sequence[slice]) -> None:
        self.parts, self.columns = parts, columns
        self._offsets = torch.stack([part.offset for part in parts])

    def __call__(self, features: Tensor | Sequence[Tensor]) -> Tensor:
        """Descriptors (B, P, L·n) float32 of features (B, P, ΣC), or of each layer's (B, P, C)."""
        layers = [features[..., own] for own in self.columns] if isinstance(features, Tensor) else list(features)
        if len(self.parts) == 1:
            return self.parts[0](layers[0])
        if all(part.by_kernel for part in self.parts):
            from ..kernels import affine_map

            return affine_map(layers, [part.matrix for part in self.parts], self._offsets)
        return torch.cat([part(own) for part, own in zip(self.parts, layers, strict=True)], dim=-1)


@exact_float32()
def product_float32(left: Tensor, right: Tensor) -> Tensor:
    """left @ right of 16-bit matrices, accumulated and returned in float32."""
    if left.is_cuda:
        try:
            return torch.mm(left, right, out_dtype=torch.float32)
        except TypeError:  # torch before 2.8 cannot return another dtype than it was given
            pass
    return left.float() @ right.float()


def _feature_sums_cuda(features: Tensor) -> tuple[int, Tensor, Tensor]:
    exact = features.double()
    return len(exact), exact.sum(dim=0), exact.T @ exact


def _components_cuml(
    cuml: Any, sample: Tensor, mean: NDArray[np.float64], scale: NDArray[np.float64], n_components: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    import cupy

    centred = sample.float() - torch.from_numpy(mean).to(sample.device, torch.float32)
    normalised = (centred * torch.from_numpy(scale).to(sample.device, torch.float32)).contiguous()
    with cupy.cuda.Device(normalised.device.index):  # cuML works on CuPy's current device
        model = cuml.PCA(n_components=n_components, svd_solver="full", output_type="cupy").fit(cupy.from_dlpack(normalised))
        learnt = (model.components_, model.explained_variance_ratio_)
        components, ratio = (cupy.asnumpy(array).astype(np.float64) for array in learnt)
    return components.T, ratio


def _as_float32(features: Any) -> Any:
    """Of a CPU tensor, which may be of 16 bits, a float32 array; an array, or a tensor on a GPU, as it is."""
    return features.float().numpy() if isinstance(features, Tensor) and not features.is_cuda else features


def _host(sums: Any) -> NDArray[np.float64]:
    return sums.cpu().numpy() if isinstance(sums, Tensor) else sums
