"""Hand-made image features: what annotation was done with before learnt ones.

Two sets, both of scikit-image's and PyWavelets' own filters (``pip install ".[baselines]"``):

* :func:`handmade_features`, for JEC (Makadia 2008): colour histograms, Gabor and Haar responses of the whole image.
* :func:`grid_features`, for MBRM (Feng 2004): colour and texture statistics of 24 regions.

An image is warped to 192×128 pixels, or to 128×192 where it is taller than wide, so that filter scales, regions and lengths mean
the same for every image. Corel5k's images have that size.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from ..errors import DataError, DeviceError, install
from ..images.containers import read
from ..images.decode import ImageSource, decode_image
from ..images.input import Input
from ..images.inputs import Images, as_sequence, none_readable, source_name
from ..system.progress import progress_bar

_Row: TypeAlias = dict[str, NDArray[Any]]

_LONG, _SHORT = 192, 128
_REGION = 32  # pixels a side: 192×128 is 4×6 regions
_FREQUENCIES = (1 / 4, 1 / 8, 1 / 16)  # cycles a pixel
_ORIENTATIONS = 4
_BINS = 16
_CHROMA = (-60, 68)  # of a* and b*, in whose middle photographs lie; 0, any grey, must be no bin's edge, where rounding decides
_HAAR_SIDE, _HAAR_LEVELS = 64, 3
_BLOCK = 256  # images between two joins of the threads


def handmade_features(
    images: Images, *, workers: int | None = None, progress: bool | None = None
) -> dict[str, NDArray[np.float32]]:
    """Features of whole images, to be compared by L1 distance.

    Args:
        images: N of them, as :class:`~gpuannot.model.encoder.Encoder` takes them.
        workers: threads; None for a few more than there are processors. The features do not depend on it.
        progress: show a bar; None shows one on terminals, after two seconds.

    Returns:
        by name, each (N, D) float32:

        * ``rgb``, ``hsv``, ``lab`` (D = 4,096): share of the pixels in each of 16×16×16 bins, the first channel's bin changing
          slowest. RGB and HSV channels over 0…1; L* over 0…100, a* and b* over −60…68, values beyond in the outermost bins.
        * ``gabor`` (D = 192): of each of 12 Gabor responses (scales 1/4, 1/8, 1/16 cycles a pixel; at each, waves along 0°, 45°,
          90°, 135°), the shares of pixels in 16 bins of √magnitude over 0…½, the magnitude of a full-contrast sine wave being ¼.
        * ``haar`` (D = 4,032): magnitudes of the Haar wavelet coefficients of 3 levels (coarse to fine; at each those of
          horizontal, vertical, diagonal edges), of the grey image averaged down to 64×64 and rounded to 1/255.
        * ``haar_q``: their signs, −1, 0 or 1.

    Raises:
        ImageError: an image cannot be read.
        DataError: no images.
        DeviceError: scikit-image or PyWavelets is not installed.
    """
    return _every_image(images, _whole, workers, progress)


def grid_features(images: Images, *, workers: int | None = None, progress: bool | None = None) -> NDArray[np.float32]:
    """Colour and texture of 24 square regions an image: (N, 24, 30) float32, the regions in reading order.

    The 30 values of a region: mean (3) and standard deviation (3) of its pixels in RGB (0…1), in CIE L*u*v* and in CIE L*a*b*, then
    the mean magnitude of 12 Gabor responses (scales 1/4, 1/8, 1/16 cycles a pixel; at each, waves along 0°, 45°, 90°, 135°).

    Args:
        images: as for :func:`handmade_features`.
        workers: likewise.
        progress: likewise.

    Raises:
        ImageError: an image cannot be read.
        DataError: no images.
        DeviceError: scikit-image or PyWavelets is not installed.
    """
    return _every_image(images, _grid, workers, progress)["grid"]


def _whole(pixels: NDArray[np.uint8]) -> _Row:
    color = import_module("skimage.color")
    rgb = pixels / 255.0
    roots = np.sqrt(np.abs(_gabor_responses(pixels)))
    coefficients = _haar_coefficients(pixels)
    return {
        "rgb": _histogram(rgb, ((0, 1),) * 3),
        "hsv": _histogram(color.rgb2hsv(rgb), ((0, 1),) * 3),
        "lab": _histogram(color.rgb2lab(rgb), ((0, 100), _CHROMA, _CHROMA)),
        "gabor": np.concatenate([_histogram(response[..., None], ((0, 0.5),)) for response in roots]),
        "haar": np.abs(coefficients),
        "haar_q": np.sign(coefficients),
    }


def _histogram(values: NDArray[Any], ranges: tuple[tuple[float, float], ...]) -> NDArray[np.float64]:
    """(16^C,) share of the pixels (H, W, C) in each bin, all channels together."""
    low, high = np.array(ranges).T
    bins = np.clip(((values - low) / (high - low) * _BINS).astype(np.int64), 0, _BINS - 1)
    joint = np.ravel_multi_index(tuple(bins.reshape(-1, len(ranges)).T), (_BINS,) * len(ranges))
    return np.bincount(joint, minlength=_BINS ** len(ranges)) / len(joint)


def _haar_coefficients(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(4032,) detail coefficients of the grey image (0…1) at 64×64."""
    blocks = tuple(length // _HAAR_SIDE for length in pixels.shape[:2])
    levels = np.rint(255 * import_module("skimage.measure").block_reduce(_grey(pixels), blocks, np.mean))
    _, *details = import_module("pywt").wavedec2(levels, "haar", level=_HAAR_LEVELS)
    coefficients = np.concatenate([band.ravel() for level in details for band in level])
    # Exactly, those of whole grey levels are multiples of ⅛: rounding takes away what floating point adds, so that 0 has no sign.
    return np.rint(8 * coefficients) / (8 * 255)


def _grid(pixels: NDArray[np.uint8]) -> _Row:
    color = import_module("skimage.color")
    rgb = pixels / 255.0
    spaces = np.concatenate([rgb, color.rgb2luv(rgb), color.rgb2lab(rgb)], axis=2)
    regions = _regions(spaces, _REGION)
    moments = np.stack([regions.mean(axis=1), regions.std(axis=1)], axis=1)  # (24, 2, 9)
    moments = moments.reshape(-1, 2, 3, 3).swapaxes(1, 2).reshape(-1, 18)
    energies = _regions(np.abs(_gabor_responses(pixels)).transpose(1, 2, 0), _REGION).mean(axis=1)
    return {"grid": np.concatenate([moments, energies], axis=1)}


def _regions(values: NDArray[Any], side: int) -> NDArray[Any]:
    """(H, W, C) cut into squares in reading order: (regions, side², C)."""
    height, width, channels = values.shape
    squares = values.reshape(height // side, side, width // side, side, channels).swapaxes(1, 2)
    return squares.reshape(-1, side * side, channels)


def _gabor_responses(pixels: NDArray[np.uint8]) -> NDArray[np.complex64]:
    """(12, H, W) responses of the grey image (0…1), continued by reflection at its borders."""
    kernels = _gabor_kernels()
    padded = np.pad(_grey(pixels).astype(np.float32), kernels.shape[1] // 2, mode="reflect")
    return fftconvolve(padded[None], kernels, mode="valid", axes=(1, 2))


def _grey(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    return import_module("skimage.color").rgb2gray(pixels)


@cache
def _gabor_kernels() -> NDArray[np.complex64]:
    """(12, K, K): scikit-image's kernels of one octave, smaller ones with zeros around."""
    filters = import_module("skimage.filters")
    kernels = [
        filters.gabor_kernel(frequency, theta=np.pi * turn / _ORIENTATIONS, bandwidth=1)
        for frequency in _FREQUENCIES
        for turn in range(_ORIENTATIONS)
    ]
    size = max(max(kernel.shape) for kernel in kernels)
    same_size = np.zeros((len(kernels), size, size), np.complex64)
    for target, kernel in zip(same_size, kernels, strict=True):
        top, left = ((size - length) // 2 for length in kernel.shape)
        target[top : top + kernel.shape[0], left : left + kernel.shape[1]] = kernel
    return same_size


def _every_image(
    images: Images, features: Callable[[NDArray[np.uint8]], _Row], workers: int | None, progress: bool | None
) -> dict[str, NDArray[np.float32]]:
    """The features of each decoded image, stacked.

    Threads and not processes: NumPy and SciPy work outside the interpreter's lock, and images need no second copy.
    """
    _require_libraries()
    sources = as_sequence(images)
    if not len(sources):
        raise DataError(none_readable(0, []))

    def row(position: int) -> _Row:
        return features(_working_size(sources[position], source_name(sources, position)))

    stacked: dict[str, NDArray[np.float32]] = {}
    with (
        progress_bar("hand-made features", len(sources), progress) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        for start in range(0, len(sources), _BLOCK):
            block = range(start, min(start + _BLOCK, len(sources)))
            for position, values in zip(block, pool.map(row, block), strict=True):
                for name, array in values.items():
                    if name not in stacked:
                        stacked[name] = np.empty((len(sources), *array.shape), np.float32)
                    stacked[name][position] = array
                bar.update()
    return stacked


def _working_size(source: ImageSource | Input, name: str) -> NDArray[np.uint8]:
    """(128, 192, 3) or, of a taller image, (192, 128, 3)."""
    pixels = decode_image(read(source) if isinstance(source, Input) else source, name=name)
    return decode_image(pixels, (_LONG, _SHORT) if pixels.shape[0] > pixels.shape[1] else (_SHORT, _LONG))


def _require_libraries() -> None:
    for library in ("skimage", "pywt"):
        try:
            import_module(library)
        except ImportError as error:
            raise DeviceError(f"hand-made features need {library} ({error}); {install('baselines')}") from error
