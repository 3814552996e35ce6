"""Features of a data set, computed once: kept in a folder under a name that tells images, weights and settings apart."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.label_files import LabelledImages
from ..errors import DataError
from ..model.encoder import Encoder
from ..model.store import DiskStore
from ..system.atomic_files import replacing
from ..system.progress import progress_bar


def default_cache() -> Path:
    """Where features are kept if no folder is named."""
    import platformdirs  # where a folder is named, a machine without it serves as well

    return Path(platformdirs.user_cache_dir("gpuannot"))


def cached_features(
    encoder: Encoder, split: LabelledImages, cache: str | Path | None = None, progress: bool | None = None
) -> DiskStore:
    """The split's local features (N, P, C), from the cache or computed into it, as they are where the cache is damaged.

    Args:
        cache: folder; None is :func:`default_cache`.
        progress: show a bar; None shows one on terminals, elsewhere lines.

    Raises:
        DataError: an image cannot be read: a benchmark with images missing would not be that benchmark.
    """
    config, trunk = encoder.config, encoder.trunk
    key = (trunk.weights_sha256, trunk.layer, trunk.relu, f"torch.{trunk.arithmetic}", config.input_size, config.interpolation)
    folder = _place(split, cache, key)
    store = DiskStore.open(folder)
    if store is not None and len(store) == len(split):
        return store
    extractor = encoder.extractor
    store = DiskStore.create(folder, extractor.patches, trunk.channels, trunk.dtype)
    try:
        extractor.failures = []
        with progress_bar("trunk", len(split), progress) as bar:
            extractor.extract(split.paths, store, np.arange(len(split)), advance=bar.update)
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
    """Arrays by name, one row an image of the split, from the cache or, where it lacks them or is damaged, computed and then kept.

    Args:
        key: everything beside the images that decides the values, printable.
        compute: makes the arrays where the cache lacks them.
        cache: folder; None is :func:`default_cache`.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import save_file

    folder = _place(split, cache, key)
    file = folder / "arrays.safetensors"
    if file.is_file():
        try:
            with safe_open(file, framework="np") as kept:
                arrays = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118
                whole = (kept.metadata() or {}).get("crc32") == _checksum(arrays)
        except (OSError, SafetensorError, ValueError, TypeError, AttributeError, KeyError):
            whole = False
        if whole and arrays and all(len(array) == len(split) for array in arrays.values()):
            return arrays
    arrays = compute()
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial, {"crc32": _checksum(arrays)})
    return arrays


def _checksum(arrays: dict[str, NDArray[Any]]) -> str:
    """CRC-32 of arrays and their names: it tells a damaged file."""
    checksum = 0
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        checksum = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), checksum)
        checksum = zlib.crc32(array.tobytes(), checksum)
    return str(checksum)


def _place(split: LabelledImages, cache: str | Path | None, key: tuple[Any, ...]) -> Path:
    digest = hashlib.sha256(repr(key).encode())
    for name, path in zip(split.image_names, split.paths, strict=True):
        status = path.stat()
        digest.update(os.fsencode(f"{name} {status.st_size} {status.st_mtime_ns}\n"))
    return Path(cache or default_cache()) / split.name.replace("/", "-") / digest.hexdigest()[:20]
