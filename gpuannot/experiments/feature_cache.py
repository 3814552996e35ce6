"""Features of a data set, computed once: kept in a folder under a name that tells images, weights and settings apart."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.label_files import LabelledImages
from ..errors import DataError
from ..model.encoder import Encoder
from ..model.store import FeatureStore
from ..system.atomic_files import replacing


def default_cache() -> Path:
    """Where features are kept if no folder is named."""
    import platformdirs  # where a folder is named, a machine without it serves as well

    return Path(platformdirs.user_cache_dir("gpuannot"))


def cached_features(
    encoder: Encoder, split: LabelledImages, cache: str | Path | None = None, progress: bool | None = None
) -> FeatureStore:
    """The split's local features (N, P, C), from the cache (None: :func:`default_cache`) or computed into it.

    Raises:
        DataError: an image cannot be read: a benchmark with images missing would not be that benchmark.
    """
    config, trunk = encoder.config, encoder.trunk
    key = (trunk.weights_sha256, trunk.layer, trunk.relu, str(trunk.dtype), config.input_size, config.interpolation)
    folder = _place(split, cache, key)
    store = FeatureStore.open(folder)
    if store is not None and len(store) == len(split):
        return store
    patches = trunk.positions(config.input_size, config.input_size)
    store = FeatureStore.create(folder, patches, trunk.channels, trunk.dtype)
    try:
        encoder.failures_ = []
        encoder.extract(split.paths, store, progress=progress)
        if encoder.failures_:
            failure = encoder.failures_[0]
            raise DataError(
                f"{len(encoder.failures_)} images of {split.name} cannot be read; the first: {failure.path}: {failure.reason}"
            )
        return store.commit()
    except BaseException:
        store.close()
        raise


def cached_arrays(
    key: tuple[Any, ...], split: LabelledImages, compute: Callable[[], dict[str, NDArray[Any]]], cache: str | Path | None = None
) -> dict[str, NDArray[Any]]:
    """Arrays by name, one row an image of the split, from the cache or from ``compute()`` and then kept.

    Args:
        key: everything beside the images that decides the values, printable.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file, save_file

    folder = _place(split, cache, key)
    file = folder / "arrays.safetensors"
    if file.is_file():
        try:
            arrays = load_file(file)
        except (OSError, SafetensorError):
            arrays = {}
        if arrays and all(len(array) == len(split) for array in arrays.values()):
            return arrays
    arrays = compute()
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial)
    return arrays


def _place(split: LabelledImages, cache: str | Path | None, key: tuple[Any, ...]) -> Path:
    digest = hashlib.sha256(repr(key).encode())
    for name, path in zip(split.image_names, split.paths, strict=True):
        status = path.stat()
        digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return Path(cache or default_cache()) / split.name.replace("/", "-") / digest.hexdigest()[:20]
