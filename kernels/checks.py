"""Checks of the kernels' arguments, before any launch: each message names the argument, its value and what is expected."""

from __future__ import annotations

import torch
from torch import Tensor

from gpuannot.errors import DeviceError

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_LARGEST_GRID, _LARGEST_ROW = 2**31 - 1, 2**30
_LARGEST_SIZE = 2**23  # keeps every product of two sizes and every grid within what the kernels index


def check_nearest_center(descriptors: Tensor, centers: Tensor, half_norms: Tensor | None, invalid_count: Tensor | None) -> None:
    """Raise TypeError, ValueError or DeviceError unless the arguments suit ``nearest_center``."""
    _check_inputs(descriptors, ("N", "n"), centers, half_norms)
    _check_optional("invalid_count", invalid_count, torch.int64, (1,))
    _check_devices(descriptors=descriptors, centers=centers, half_norms=half_norms, invalid_count=invalid_count)


def check_method(method: str | None, served: tuple[str, ...]) -> None:
    """Raise ValueError unless ``method`` is None or one of the versions that serve."""
    if method is not None and method not in served:
        raise ValueError(f"method is {method!r}: these tensors and this device are served by {', '.join(served)}")


def check_vlad(descriptors: Tensor, labels: Tensor, centers: Tensor, out: Tensor | None, skipped: Tensor | None) -> None:
    """Raise TypeError, ValueError or DeviceError unless the arguments suit ``vlad``."""
    _check_inputs(descriptors, ("B", "P", "n"), centers)
    _check_exactly("labels", labels, torch.int32, tuple(descriptors.shape[:2]))
    _check_last_stride("labels", labels)
    _check_outputs(descriptors, centers, out, skipped)
    _check_devices(descriptors=descriptors, labels=labels, centers=centers, out=out, skipped=skipped)


def check_assign_vlad(
    descriptors: Tensor, centers: Tensor, half_norms: Tensor | None, out: Tensor | None, skipped: Tensor | None
) -> None:
    """Raise TypeError, ValueError or DeviceError unless the arguments suit ``assign_vlad``."""
    if not isinstance(centers, Tensor) or centers.ndim != 3:
        _check_inputs(descriptors, ("B", "P", "n"), centers, half_norms)
        images: tuple[int, ...] = (len(descriptors),)
    else:
        _check_tensor("descriptors", descriptors, _FLOATS, ("B", "P", "L·n"))
        layers, count, dims = centers.shape
        if not layers or layers * dims != descriptors.shape[2]:
            raise ValueError(
                f"centers has {layers} layers of {dims} dimensions and descriptors {descriptors.shape[2]}: they must agree"
            )
        _check_contiguous("centers", centers)
        _check_optional("half_norms", half_norms, torch.float32, (layers, count))
        _check_inputs(descriptors[..., :dims], ("B", "P", "n"), centers[0])
        images = (len(descriptors), layers)
    if isinstance(out, Tensor) and out.dtype == torch.bfloat16:
        _check_optional("out", out, torch.bfloat16, (2, len(descriptors), centers.numel()))
    else:
        _check_outputs(descriptors, centers, out, None)
    _check_optional("skipped", skipped, torch.int32, images)
    _check_devices(descriptors=descriptors, centers=centers, half_norms=half_norms, out=out, skipped=skipped)


def check_max_pool(pixels: Tensor) -> None:
    """Raise TypeError, ValueError or DeviceError unless the argument suits ``max_pool``."""
    _check_tensor("pixels", pixels, _FLOATS, ("B", "C", "H", "W"))
    if pixels.shape[1] > 1 and pixels.stride(1) != 1:
        raise ValueError(
            f"pixels has strides {pixels.stride()}: channels must be contiguous; pass "
            "pixels.contiguous(memory_format=torch.channels_last)"
        )
    if pixels.shape[1] < 1 or min(pixels.shape[2:]) < 2:
        raise ValueError(f"pixels has shape {tuple(pixels.shape)}: C must be at least 1, H and W at least 2")
    _check_image_size("pixels", pixels, pixels.shape[1])
    _check_devices(pixels=pixels)


def check_normalise_pixels(images: Tensor, scale: Tensor, offset: Tensor, channels: int, dtype: torch.dtype) -> None:
    """Raise TypeError, ValueError or DeviceError unless the arguments suit ``normalise_pixels``."""
    _check_tensor("images", images, (torch.uint8,), ("B", "3", "H", "W"))
    if images.shape[1] != 3:
        raise ValueError(f"images has shape {tuple(images.shape)}: expected (B, 3, H, W)")
    if channels not in (4, 8):
        raise ValueError(f"channels is {channels}: expected 4 or 8")
    if dtype not in _FLOATS:
        raise TypeError(f"dtype is {dtype}: expected {' or '.join(map(str, _FLOATS))}")
    _check_image_size("images", images, channels)
    for name, tensor in (("scale", scale), ("offset", offset)):
        _check_exactly(name, tensor, torch.float32, (3,))
        _check_contiguous(name, tensor)
    _check_devices(images=images, scale=scale, offset=offset)


def check_affine_map(
    features: Tensor, matrix: Tensor, first: Tensor, first_matrix: Tensor, offset: Tensor, layers: int, out: Tensor | None
) -> None:
    """Raise TypeError, ValueError or DeviceError unless these arguments of a layer, and those of the first, suit ``affine_map``."""
    if not isinstance(features, Tensor) or features.dtype not in _FLOATS[1:]:
        found = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f"features is {found}: expected torch.float16 or torch.bfloat16")
    _check_exactly("features", features, first.dtype, (*first.shape[:-1], features.shape[-1]))
    _check_tensor("matrix", matrix, (features.dtype,), ("2", "n", "C"))
    _check_exactly("matrix", matrix, features.dtype, (2, first_matrix.shape[1], features.shape[-1]))
    for name, size in zip("nC", matrix.shape[1:], strict=True):
        if not 1 <= size <= _LARGEST_SIZE:
            raise ValueError(f"matrix has shape {tuple(matrix.shape)}: {name} must be 1 … {_LARGEST_SIZE}")
    _check_exactly("offset", offset, torch.float32, (layers, matrix.shape[1]))
    for name, tensor in (("matrix", matrix), ("offset", offset)):
        _check_contiguous(name, tensor)
    _check_rows("features", features)
    if out is not None:
        _check_exactly("out", out, torch.float32, (*features.shape[:-1], layers * matrix.shape[1]))
        _check_rows("out", out)
    _check_devices(features=features, matrix=matrix, offset=offset, out=out, first=first)


def row_stride(rows: Tensor) -> int:
    """Elements from one row of (..., n) to the next, where all are evenly spaced."""
    sizes = [(size, stride) for size, stride in zip(rows.shape[:-1], rows.stride()[:-1], strict=True) if size > 1]
    return sizes[-1][1] if sizes else rows.shape[-1]


def check_unit_products(product: Tensor, offset: Tensor, quadratic: int) -> None:
    """Raise TypeError, ValueError or DeviceError unless the arguments suit ``unit_products``."""
    _check_tensor("product", product, (torch.float32,), ("R", "B", "C", "d"))
    _check_contiguous("product", product)
    if not 1 <= product.shape[3] <= _LARGEST_SIZE or not 0 <= quadratic <= product.shape[3]:
        raise ValueError(f"quadratic is {quadratic} of d = {product.shape[3]}: expected 0 ≤ quadratic ≤ d, 1 ≤ d ≤ {_LARGEST_SIZE}")
    _check_exactly("offset", offset, torch.float32, (product.shape[3],))
    _check_contiguous("offset", offset)
    _check_devices(product=product, offset=offset)


def check_kernel_values(products: Tensor) -> None:
    """Raise TypeError, ValueError or DeviceError unless the argument suits ``kernel_values``."""
    if not isinstance(products, Tensor) or products.dtype != torch.float32:
        found = products.dtype if isinstance(products, Tensor) else type(products).__name__
        raise TypeError(f"products is {found}: expected torch.float32")
    _check_contiguous("products", products)
    _check_devices(products=products)


def check_rank_candidates(vectors: Tensor, word_vectors: Tensor, known: Tensor, candidates: Tensor, bias: Tensor | None) -> None:
    """Raise TypeError, ValueError or DeviceError unless the arguments suit ``rank_candidates``."""
    _check_tensor("vectors", vectors, (torch.float32,), ("T", "D"))
    _check_last_stride("vectors", vectors)
    _check_tensor("word_vectors", word_vectors, (torch.float32,), ("W", "D"))
    if word_vectors.shape[1] != vectors.shape[1]:
        raise ValueError(f"word_vectors has {word_vectors.shape[1]} dimensions and vectors {vectors.shape[1]}: they must agree")
    _check_tensor("candidates", candidates, (torch.int64,), ("T", "take"))
    _check_exactly("candidates", candidates, torch.int64, (len(vectors), candidates.shape[1]))
    _check_exactly("known", known, torch.int64, (len(word_vectors),))
    for name, tensor in (("word_vectors", word_vectors), ("known", known), ("candidates", candidates)):
        _check_contiguous(name, tensor)
    _check_optional("bias", bias, torch.float32, (len(word_vectors),))
    _check_devices(vectors=vectors, word_vectors=word_vectors, known=known, candidates=candidates, bias=bias)


def check_codebook(centers: Tensor) -> None:
    """Raise TypeError or ValueError unless ``centers`` is a floating-point (m, n) tensor with at least one centre and dimension."""
    _check_tensor("centers", centers, _FLOATS, ("m", "n"))
    for name, size in zip("mn", centers.shape, strict=True):
        if not 1 <= size <= _LARGEST_SIZE:
            raise ValueError(f"centers has shape {tuple(centers.shape)}: {name} must be 1 … {_LARGEST_SIZE}")


def _check_image_size(name: str, images: Tensor, channels: int) -> None:
    batch, _, height, width = images.shape
    if batch * height > _LARGEST_GRID or width * channels > _LARGEST_ROW:
        most = f"{_LARGEST_GRID} rows and {_LARGEST_ROW} values of {channels} channels a row"
        raise ValueError(f"{name} has shape {tuple(images.shape)}: the most is {most}")


def _check_inputs(descriptors: Tensor, shape: tuple[str, ...], centers: Tensor, half_norms: Tensor | None = None) -> None:
    _check_tensor("descriptors", descriptors, _FLOATS, shape)
    if len(shape) == 3 and descriptors.shape[1] > _LARGEST_SIZE:
        raise ValueError(f"descriptors has {descriptors.shape[1]} patches an image; the most is {_LARGEST_SIZE}")
    _check_last_stride("descriptors", descriptors)
    check_codebook(centers)
    if centers.dtype not in (torch.float32, descriptors.dtype):
        raise TypeError(f"centers is {centers.dtype}: expected torch.float32 or the descriptors' {descriptors.dtype}")
    if centers.shape[1] != descriptors.shape[-1]:
        raise ValueError(f"centers has {centers.shape[1]} dimensions and descriptors {descriptors.shape[-1]}: they must agree")
    _check_contiguous("centers", centers)
    _check_optional("half_norms", half_norms, torch.float32, (len(centers),))


def _check_outputs(descriptors: Tensor, centers: Tensor, out: Tensor | None, skipped: Tensor | None) -> None:
    _check_optional("out", out, torch.float32, (len(descriptors), centers.numel()))
    _check_optional("skipped", skipped, torch.int32, (len(descriptors),))


def _check_optional(name: str, tensor: Tensor | None, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if tensor is not None:
        _check_exactly(name, tensor, dtype, shape)
        _check_contiguous(name, tensor)


def _check_exactly(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    _check_tensor(name, tensor, (dtype,), tuple(map(str, shape)))
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}: expected {shape}")


def _check_tensor(name: str, tensor: object, dtypes: tuple[torch.dtype, ...], shape: tuple[str, ...]) -> None:
    expected = f"a ({', '.join(shape)}{',' * (len(shape) == 1)}) tensor of {' or '.join(map(str, dtypes))}"
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}: expected {expected}")
    if tensor.dtype not in dtypes:
        raise TypeError(f"{name} is {tensor.dtype}: expected {expected}")
    if tensor.ndim != len(shape):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}: expected {expected}")


def _check_last_stride(name: str, tensor: Tensor) -> None:
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(f"{name} has strides {tensor.stride()}: the last dimension must be contiguous; pass {name}.contiguous()")


def _check_rows(name: str, tensor: Tensor) -> None:
    _check_last_stride(name, tensor)
    expected = row_stride(tensor)
    for size, stride in zip(tensor.shape[-2::-1], tensor.stride()[-2::-1], strict=True):
        if size > 1 and stride != expected:
            raise ValueError(f"{name} has strides {tensor.stride()}: its rows must be evenly spaced; pass {name}.contiguous()")
        expected *= size


def _check_contiguous(name: str, tensor: Tensor) -> None:
    if not tensor.is_contiguous():
        raise ValueError(f"{name} has strides {tensor.stride()}: it must be contiguous; pass {name}.contiguous()")


def _check_devices(**tensors: Tensor | None) -> None:
    devices = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    if len(set(devices.values())) > 1:
        where = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"the tensors lie on different devices ({where}): move them to one")
    device = next(iter(devices.values()))
    if device.type != "cuda":
        raise DeviceError(f"the kernels take tensors on a CUDA device, not on {device}: on the CPU use gpuannot.reference")
