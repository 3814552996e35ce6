"""Files, encoded bytes and arrays → decoded uint8 images, on the CPU with Pillow; a bad image raises `ImageError`.

Pillow decodes at full size, unless it is told otherwise. Decoders that win much (draft mode, a fraction of the size, another warp)
give other pixels than the trunk's preprocessing says, and those that give the same pixels win little:
``benchmarks/bench_decode.py`` shows both.
"""

from __future__ import annotations

import io
import operator
import os
import stat
import struct
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import IO, TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from PIL import Image

from ..errors import ImageError, InvalidArgumentError
from .colour import upright
from .formats import Opened, of_pillow, open_image
from .profiles import to_srgb
from .refusal import SAVE_ANEW, Unusable

if TYPE_CHECKING:  # decode processes do without torch, which takes a second and 200 MB
    import torch

_SUFFIXES = (
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .gif .tif .tiff .bmp .ppm .pgm .pbm .pnm .jp2 .j2k .avif .heic .heif .hif .jxl"
)
IMAGE_SUFFIXES = frozenset(_SUFFIXES.split())
INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic_reduced": Image.Resampling.BICUBIC,
}
MAX_PIXELS = 178_956_970  # where Pillow itself refuses to decode
MAX_BYTES = 2**31  # of an encoded image: no format needs more for MAX_PIXELS; a film or a disk image would fill the memory

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray | torch.Tensor"

_one_giant: AbstractContextManager[Any] = threading.Lock()


def decode_image(
    source: ImageSource,
    size: int | tuple[int, int] | None = None,
    *,
    name: str | None = None,
    interpolation: str = "bicubic",
) -> np.ndarray:
    """One image as (H, W, 3) uint8 RGB pixels, C-contiguous, in memory of its own.

    The first frame of an animation or of an MPO is taken and the EXIF orientation applied. Transparent images are laid over white
    before any warping. Grey values of 16 bits are scaled, v / 257 rounded, never clipped; colours of 16 bits keep their high byte.
    Colours are converted to sRGB where an ICC profile of another space is embedded; without one CMYK becomes RGB by Pillow's
    formula. HEIC and JPEG XL need the extra ``formats``.

    Damaged metadata (EXIF, XMP, texts, profiles, a PNG's ancillary chunks) never costs an image. A sequential JPEG that lacks only
    its end marker is whole; one that lacks pixels is not, and neither is a progressive one without its end.

    Args:
        source: a path, the bytes of an image file, a PIL image, an array (H, W, 3) or (H, W) uint8, or a tensor (3, H, W) uint8
            (one on a GPU is copied to the host).
        size: S warps to S×S, (height, width) to that, None keeps the size.
        name: stands for the image in errors.
        interpolation: of the warp, Pillow's ``bicubic`` or ``bilinear``, whose support grows with the scale: shrinking is
            antialiased. ``bicubic_reduced`` is bicubic after a JPEG file was decoded at a half, a quarter or an eighth of its size,
            as long as both sides keep twice the larger side of ``size``.

    Raises:
        ImageError: whatever is wrong with the source: no readable file, no image, cut or broken data, more than `MAX_PIXELS` pixels
            (told from the header), values without a defined range, an array of another shape or dtype; a kind of file that is not
            read ("not supported: …"), or that takes minutes to decode for its size (a PPM with a header above 64 KiB, a JPEG of
            more than 100 scans, a PNG of a million chunks).
        ValueError: a wrong ``size``.
    """
    target = _width_height(size)
    if interpolation not in INTERPOLATIONS:
        raise InvalidArgumentError(f"interpolation {interpolation!r} is unknown; choose one of {', '.join(INTERPOLATIONS)}")
    try:
        return _pixels(source, target, interpolation)
    except Unusable as error:
        if name is None:
            name = os.fsdecode(source) if isinstance(source, (str, os.PathLike)) else "image"
        raise ImageError(name, error.reason, error.stage) from error.__cause__


def _width_height(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    height, width = size if isinstance(size, tuple) else (size, size)
    if operator.index(height) < 1 or operator.index(width) < 1:
        raise InvalidArgumentError(f"size is {size!r}; expected an int or (height, width), each at least 1")
    return width, height


def _pixels(source: ImageSource, target: tuple[int, int] | None, interpolation: str) -> np.ndarray:
    """`decode_image` for a checked target (width, height); raises `Unusable`."""
    least = 2 * max(target) if target is not None and interpolation == "bicubic_reduced" else None
    try:
        if isinstance(source, (str, os.PathLike)):
            with _open_path(source) as file:
                image, profile = _decoded(open_image(file, MAX_BYTES, least))
        elif isinstance(source, (bytes, bytearray, memoryview)):
            image, profile = _decoded(open_image(io.BytesIO(source), MAX_BYTES, least))
        elif isinstance(source, Image.Image):
            image, profile = _decoded(of_pillow(source))
        else:
            image, profile = Image.fromarray(_checked_array(source)), None
        # A profile is applied before or after the warp, to the fewer pixels.
        if profile is not None and (target is None or image.width * image.height <= target[0] * target[1]):
            image, profile = to_srgb(image, profile), None
        if target is not None and target != image.size:
            image = image.resize(target, INTERPOLATIONS[interpolation])
        if profile is not None:
            image = to_srgb(image, profile)
        return np.array(image)
    except Unusable:
        raise
    except Exception as error:  # whatever Pillow's readers meet in hostile bytes: OSError, SyntaxError, struct.error, KeyError, …
        raise Unusable(_reason(error)) from error


def _reason(error: Exception) -> str:
    if error.args and isinstance(error.args[0], Exception):  # Pillow passes on what a reader raised as SyntaxError(that)
        error = error.args[0]
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS} pixels"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if isinstance(error, (EOFError, struct.error)) or "truncated" in text.lower():
        return "truncated: the file ends before the image does"
    told = text and isinstance(error, (OSError, SyntaxError, ValueError))  # the text of a KeyError, say, tells a user nothing
    return "broken image data" + (f": {text.splitlines()[0][:200]}" if told else "")


def _checked_array(source: Any) -> np.ndarray:
    torch = sys.modules.get("torch")  # nothing is a tensor before somebody imported it
    is_tensor = torch is not None and isinstance(source, torch.Tensor)
    if is_tensor:
        fits, expected = source.ndim == 3 and source.shape[0] == 3, "a tensor (3, H, W)"
    elif isinstance(source, np.ndarray):
        fits, expected = source.ndim == 2 or source.shape[2:] == (3,), "an array (H, W, 3) or (H, W)"
    else:
        raise Unusable(f"expected a path, the bytes of an image file, a PIL image, array or tensor, got {type(source).__name__}")
    shape, dtype = tuple(source.shape), str(source.dtype).removeprefix("torch.")
    if not fits or dtype != "uint8" or 0 in shape:
        advice = "; multiply values of 0…1 by 255, round them and convert them to uint8" if dtype.startswith("float") else ""
        raise Unusable(f"expected {expected} of uint8 with at least one pixel, got shape {shape} of {dtype}{advice}")
    array = source.cpu().numpy().transpose(1, 2, 0) if is_tensor else source
    return np.ascontiguousarray(np.repeat(array[..., None], 3, axis=2) if array.ndim == 2 else array)


def _open_path(path: str | os.PathLike[str]) -> IO[bytes]:
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):  # asked before opening: opening a named pipe would wait for a writer forever
            return open(path, "rb")
    except (OSError, ValueError) as error:
        known: dict[type[Exception], str] = {FileNotFoundError: "no such file", PermissionError: "no permission to read it"}
        text = getattr(error, "strerror", None) or str(error)
        raise Unusable(known.get(type(error), f"cannot be opened: {text}"), "find") from error
    raise Unusable("is a folder, not a file" if stat.S_ISDIR(mode) else "is not a regular file", "find")


def open_file(path: str, name: str) -> IO[bytes]:
    """A regular file, opened for reading.

    Args:
        name: stands for the file in errors.

    Raises:
        ImageError: anything else (stage "find").
    """
    try:
        return _open_path(path)
    except Unusable as error:
        raise ImageError(name, error.reason, error.stage) from error.__cause__


def read_file(path: str, name: str, start: int = 0, size: int | None = None) -> bytes:
    """The bytes of a regular file.

    Args:
        name: stands for the file in errors.
        start: first byte.
        size: number of bytes, fewer where the file ends; None reads to the end.

    Raises:
        ImageError: there is no such file (stage "find"), or it cannot be read or has more than `MAX_BYTES` (stage "read").
    """
    with open_file(path, name) as file:
        try:
            count = os.fstat(file.fileno()).st_size if size is None else size
            if count > MAX_BYTES:
                raise ImageError(name, f"{count} bytes; expected at most {MAX_BYTES}", "read")
            file.seek(start)
            return file.read() if size is None else file.read(size)
        except OSError as error:
            raise ImageError(name, f"cannot be read: {error.strerror or error}", "read") from error


def _decoded(opened: Opened) -> tuple[Image.Image, bytes | None]:
    """Upright, 8 bits, and the ICC profile that is still to be applied."""
    if not 0 < opened.width * opened.height <= MAX_PIXELS:
        raise Unusable(f"{opened.width}×{opened.height} pixels; expected 1 to {MAX_PIXELS} pixels")
    if opened.samples > max(MAX_PIXELS, opened.width * opened.height):
        raise Unusable(f"{opened.samples} samples in a layout of which at most {MAX_PIXELS} are read; {SAVE_ANEW}")
    with _giant() if opened.samples > (Image.MAX_IMAGE_PIXELS or MAX_PIXELS) else nullcontext():
        # Loaded before EXIF is asked: a PNG may carry it after the pixels, and Pillow turns a TIFF as it loads.
        return upright(opened.load())


def take_turns_by(lock: AbstractContextManager[Any]) -> None:
    """Let ``lock`` keep other images above Pillow's soft limit waiting while one is decoded: a lock among processes, say."""
    global _one_giant
    _one_giant = lock


@contextmanager
def _giant() -> Iterator[None]:
    """Decode an image above Pillow's soft limit: alone, as each may take gigabytes, and without a DecompressionBombWarning."""
    with _one_giant, without_size_warning():
        yield


@contextmanager
def without_size_warning() -> Iterator[None]:
    """Open images without a DecompressionBombWarning.

    It is silenced by one entry put into the process's filters and taken out again: ``warnings.catch_warnings`` swaps the
    whole list, and so would undo what another thread set meanwhile.
    """
    entry = ("ignore", None, Image.DecompressionBombWarning, None, 0)
    filters = cast(list[Any], warnings.filters)
    filters.insert(0, entry)
    try:
        yield
    finally:
        if entry in filters:  # not after a warnings.resetwarnings()
            filters.remove(entry)
