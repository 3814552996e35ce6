"""What callers give as images, as a sequence with names, and what is said of those that cannot be read."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .batches import ImageFailure
from .inputs import Inputs, find_lazily, image_name

Images: TypeAlias = Sequence[Any] | NDArray[np.uint8] | Tensor | str | Path | Inputs


def as_sequence(images: Images) -> Sequence[Any]:
    """``images`` as something with a length and items: a folder is searched, columns of paths and iterators become lists.

    Raises:
        DataError: one path or URL, and nothing is there.
    """
    if isinstance(images, (str, Path)):
        return list(find_lazily(images))
    if getattr(images, "ndim", None) == 1 or not (hasattr(images, "__getitem__") and hasattr(images, "__len__")):
        return list(images)
    return images  # type: ignore[return-value]


def source_name(sources: Sequence[Any], position: int) -> str:
    """The path of an image, or ``image 3``. A sequence that may load on access is not asked again for what it held."""
    source = sources[position] if isinstance(sources, (list, tuple)) else None
    return image_name(source, f"image {position}")


def none_readable(count: int, failures: Sequence[ImageFailure]) -> str:
    if not count:
        return "no images were given"
    return f"not one of {count} images could be read; the first: {failures[0].path}: {failures[0].reason}"


def warn_of_failures(count: int, failures: Sequence[ImageFailure]) -> None:
    """Warn, on behalf of the caller's caller, of images that were left out."""
    if failures:
        warnings.warn(
            f"{len(failures)} of {count} images could not be read and were left out (see failures_); "
            f"the first: {failures[0].path}: {failures[0].reason}",
            stacklevel=3,
        )
