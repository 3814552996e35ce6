"""Files, encoded bytes and arrays → decoded uint8 images, on the CPU with Pillow; a bad image raises `ImageError`.

Pillow decodes at full size. Decoders that win much (draft mode, a fraction of the size, another warp) give other pixels than the
trunk's preprocessing says, and those that give the same pixels win little: ``benchmarks/bench_decode.py`` shows both.
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
from PIL import ExifTags, Image
from PIL.Image import Transpose as T

from ..errors import ImageError, InvalidArgumentError, Stage

if TYPE_CHECKING:  # decode processes do without torch, which takes a second and 200 MB
    import torch

_SUFFIXES = ".jpg .jpeg .jpe .jfif .png .apng .webp .gif .tif .tiff .bmp .ppm .pgm .pbm .pnm .jp2 .j2k .avif"
IMAGE_SUFFIXES = frozenset(_SUFFIXES.split())
INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
MAX_PIXELS = 178_956_970  # where Pillow itself refuses to decode
MAX_BYTES = 2**31  # of an encoded image: no format needs more for MAX_PIXELS; a film or a disk image would fill the memory

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray | torch.Tensor"

# A closed list: Pillow's other readers start a program (EPS runs Ghostscript), have no signature, so that any bytes may pass for
# an image (TGA), or hold no photographs.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF")
_TURNS = (T.FLIP_LEFT_RIGHT, T.ROTATE_180, T.FLIP_TOP_BOTTOM, T.TRANSPOSE, T.ROTATE_270, T.TRANSVERSE, T.ROTATE_90)
_TURN_OF_ORIENTATION = dict(enumerate(_TURNS, start=2))  # EXIF orientation; 1 is upright
_one_giant: AbstractContextManager[Any] = threading.Lock()

Image.init()  # fills Image.OPEN, which _read_file looks formats up in


class _Unusable(Exception):
    """Why a source gives no pixels; the callers add its name."""

    def __init__(self, reason: str, stage: Stage = "decode") -> None:
        super().__init__(reason)
        self.reason = reason
        self.stage = stage


def decode_image(
    source: ImageSource,
    size: int | tuple[int, int] | None = None,
    *,
    name: str | None = None,
    interpolation: str = "bicubic",
) -> np.ndarray:
    """One image as (H, W, 3) uint8 RGB pixels, C-contiguous, in memory of its own.

    The first frame of an animation is taken and the EXIF orientation applied. Transparent images are laid over white before any
    warping. Grey values of 16 bits are scaled, v / 257 rounded, never clipped; colours of 16 bits keep their high byte. CMYK
    becomes RGB by Pillow's formula; ICC profiles are not applied.

    Args:
        source: a path, the bytes of an image file, a PIL image, an array (H, W, 3) or (H, W) uint8, or a tensor (3, H, W) uint8
            (one on a GPU is copied to the host).
        size: S warps to S×S, (height, width) to that, None keeps the size.
        name: stands for the image in errors.
        interpolation: of the warp, Pillow's ``bicubic`` or ``bilinear``, whose support grows with the scale: shrinking is
            antialiased.

    Raises:
        ImageError: whatever is wrong with the source: no readable file, no image, cut or broken data, more than `MAX_PIXELS` pixels
            (told from the header), values without a defined range, an array of another shape or dtype.
        ValueError: a wrong ``size``.
    """
    target = _width_height(size)
    if interpolation not in INTERPOLATIONS:
        raise InvalidArgumentError(f"interpolation {interpolation!r} is unknown; choose one of {', '.join(INTERPOLATIONS)}")
    try:
        return _pixels(source, target, interpolation)
    except _Unusable as error:
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
    """`decode_image` for a checked target (width, height); raises `_Unusable`."""
    try:
        if isinstance(source, (str, os.PathLike)):
            with _open_path(source) as file:
                image = _read_file(file)
        elif isinstance(source, (bytes, bytearray, memoryview)):
            image = _read_file(io.BytesIO(source))
        elif isinstance(source, Image.Image):
            image = _to_rgb(source)
        else:
            image = Image.fromarray(_checked_array(source))
        if target is not None and target != image.size:
            image = image.resize(target, INTERPOLATIONS[interpolation])
        return np.array(image)
    except _Unusable:
        raise
    except Exception as error:  # whatever Pillow's readers meet in hostile bytes: OSError, SyntaxError, struct.error, KeyError, …
        raise _Unusable(_reason(error)) from error


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
        raise _Unusable(f"expected a path, the bytes of an image file, a PIL image, array or tensor, got {type(source).__name__}")
    shape, dtype = tuple(source.shape), str(source.dtype).removeprefix("torch.")
    if not fits or dtype != "uint8" or 0 in shape:
        raise _Unusable(f"expected {expected} of uint8 with at least one pixel, got shape {shape} of {dtype}")
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
        raise _Unusable(known.get(type(error), f"cannot be opened: {text}"), "find") from error
    raise _Unusable("is a folder, not a file" if stat.S_ISDIR(mode) else "is not a regular file", "find")


def open_file(path: str, name: str) -> IO[bytes]:
    """A regular file, opened for reading.

    Args:
        name: stands for the file in errors.

    Raises:
        ImageError: anything else (stage "find").
    """
    try:
        return _open_path(path)
    except _Unusable as error:
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


def _read_file(file: IO[bytes]) -> Image.Image:
    """RGB image of an open image file.

    The reader is chosen by the file's signature from Pillow's own table. ``Image.open`` would do the same, but it warns about large
    images, and warning filters belong to the process, not to a thread; and it hides why a reader refused its own format.
    """
    prefix = file.read(16)
    if not prefix:
        raise _Unusable("empty file (0 bytes)")
    for reader, accepts in (Image.OPEN[format] for format in _FORMATS if format in Image.OPEN):
        accepted = accepts is not None and accepts(prefix)
        if isinstance(accepted, str):  # the signature fits, but this Pillow was built without the decoder
            raise _Unusable(accepted)
        if accepted:
            file.seek(0)
            return _to_rgb(reader(file, ""))
    raise _Unusable(f"not an image in a known format ({', '.join(_FORMATS)})")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Decoded, upright, 8 bits, RGB; the image that was passed is only read."""
    count = image.width * image.height
    if not 0 < count <= MAX_PIXELS:
        raise _Unusable(f"{image.width}×{image.height} pixels; expected 1 to {MAX_PIXELS} pixels")
    with _giant() if count > (Image.MAX_IMAGE_PIXELS or MAX_PIXELS) else nullcontext():
        image.load()  # before EXIF: a PNG may carry it after the pixels, and TIFF turns the image as it loads
        turn = _TURN_OF_ORIENTATION.get(_orientation(image))
        rgb = _flatten(image)
        return rgb if turn is None else rgb.transpose(turn)


def take_turns_by(lock: AbstractContextManager[Any]) -> None:
    """Let ``lock`` keep other images above Pillow's soft limit waiting while one is decoded: a lock among processes, say."""
    global _one_giant
    _one_giant = lock


@contextmanager
def _giant() -> Iterator[None]:
    """Decode an image above Pillow's soft limit: alone, as each may take gigabytes, and without a DecompressionBombWarning.

    The warning is silenced by one entry put into the process's filters and taken out again: ``warnings.catch_warnings`` swaps the
    whole list, and so would undo what another thread set meanwhile.
    """
    entry = ("ignore", None, Image.DecompressionBombWarning, None, 0)
    filters = cast(list[Any], warnings.filters)
    with _one_giant:
        filters.insert(0, entry)
        try:
            yield
        finally:
            if entry in filters:  # not after a warnings.resetwarnings()
                filters.remove(entry)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # corrupt metadata must not lose an image whose pixels are sound
        return 1


def _flatten(image: Image.Image) -> Image.Image:
    """A loaded image of any mode as RGB; the same object where it is RGB already."""
    if image.mode == "F":
        raise _Unusable("float pixels have no defined range; convert the image to 8 or 16 bits")
    if image.mode.startswith("I"):
        return Image.fromarray(_grey_16_to_8(image)).convert("RGB")
    if image.has_transparency_data:
        # Under alpha 0 the colour is whatever the writer left there; without a background it would reach the trunk as content.
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, "white")
        canvas.alpha_composite(rgba)
        return canvas.convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey_16_to_8(image: Image.Image) -> np.ndarray:
    """(H, W) uint8 from grey of 16 bits (modes I;16*) or up to 32 (mode I). Pillow's ``convert`` would clip at 255: all white."""
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise _Unusable(f"grey values from {low} to {high}; expected 0 to 65535")
    tags = getattr(image, "tag_v2", {})  # a TIFF's; Pillow neither stretches 12 bits nor inverts white-is-zero at 16
    full = 4095 if 12 in tags.get(ExifTags.Base.BitsPerSample, ()) else 65535
    grey = ((values.astype(np.uint32) * 255 + full // 2) // full).astype(np.uint8)
    if image.mode == "I;16" and tags.get(ExifTags.Base.PhotometricInterpretation) == 0:
        grey = 255 - grey
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey[values == transparent] = 255
    return grey
