"""Which reader an image file is for, by its signature.

Pillow's table of readers is asked as ``Image.open`` would ask it. That one warns about large images, and warning filters belong to
the process, not to a thread; it hides why a reader refused its own format; and it knows nothing of what is mended here.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from typing import IO, NamedTuple

from PIL import Image

from ..errors import install
from .jpeg import load_jpeg, open_jpeg
from .jxl_header import jxl_size
from .netpbm import read_netpbm_header
from .png import essential_png
from .refusal import Unusable
from .tiff import unusual_tiff
from .webp import mended_webp

# A closed list: Pillow's other readers start a program (EPS runs Ghostscript), have no signature, so that any bytes may pass for
# an image (TGA), or hold no photographs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF", "HEIF", "JXL")
_AT_ONCE = 1 << 16  # bytes: many images, in one call
_PREFIX = 256  # bytes: room for the brands of an ISO media file
_HEVC = frozenset([b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"])
_AV1 = frozenset([b"avif", b"avis"])
_JXL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
_PLUG_INS = {"HEIF": ("pillow_heif", "HEIC", "pillow-heif"), "JXL": ("pillow_jxl", "JPEG XL", "pillow-jxl-plugin")}

Image.init()  # fills Image.OPEN


class Opened(NamedTuple):
    """An image whose header is read.

    Attributes:
        samples: pixels that its decoder writes, more than width × height where it reads samples one by one.
        load: decodes it.
    """

    width: int
    height: int
    samples: int
    load: Callable[[], Image.Image]


def open_image(file: IO[bytes], most_bytes: int, least: int | None = None) -> Opened:
    """The image in an open file.

    Args:
        most_bytes: of the file.
        least: let a JPEG be decoded at a half, a quarter or an eighth of its size, no side below so many pixels.

    Raises:
        Unusable: no image of a known format, or one that is refused for what its header says.
        Exception: whatever a reader of Pillow meets in broken bytes.
    """
    content = file.read(_AT_ONCE)
    if not content:
        raise Unusable("empty file (0 bytes)")
    whole, format = len(content) < _AT_ONCE, _format(content[:_PREFIX])
    if format == "TIFF":  # which may have gigabytes of other pages
        file = io.BytesIO(content) if whole else file
        file.seek(0)
        layout = unusual_tiff(file)
        if layout is not None:
            return Opened(layout.width, layout.height, layout.samples, layout.read)
        file.seek(0)
        return of_pillow(Image.OPEN["TIFF"][0](file, ""))
    if not whole:
        if (size := file.seek(0, io.SEEK_END)) > most_bytes:
            raise Unusable(f"{size} bytes; expected at most {most_bytes}")
        file.seek(0)
        content = file.read()
    if format == "JPEG":
        image, ends = open_jpeg(content)
        width, height = image.size
        if least is not None:
            image.draft(None, (least, least))
        return Opened(width, height, width * height, lambda: load_jpeg(image, ends=ends))
    if format == "PPM" and content[1] in b"123456":
        header = read_netpbm_header(content)
        return Opened(header.width, header.height, header.width * header.height, header.read)
    if format == "PNG":
        content, profile = essential_png(content)
        opened = of_pillow(Image.OPEN["PNG"][0](io.BytesIO(content), ""))
        return opened if profile is None else opened._replace(load=lambda: _with_profile(opened.load(), profile))
    if format in _PLUG_INS:
        return _by_plug_in(format, content)
    try:
        return of_pillow(Image.OPEN[format][0](io.BytesIO(content), ""))
    except OSError:
        if format != "WEBP":
            raise
        return of_pillow(Image.OPEN[format][0](io.BytesIO(mended_webp(content)), ""))


def _format(prefix: bytes) -> str:
    if prefix[4:8] == b"ftyp":
        brands = {prefix[at : at + 4] for at in range(8, min(int.from_bytes(prefix[:4]), len(prefix)), 4)}
        if prefix[8:12] in _HEVC or (brands & _HEVC and not brands & _AV1):
            return "HEIF"
        if brands & _AV1 and "AVIF" not in Image.OPEN:
            raise Unusable(f"AVIF needs Pillow 11.3: {install('formats')}")
    if prefix.startswith(_JXL):
        return "JXL"
    for format in FORMATS:
        accepts = Image.OPEN[format][1] if format in Image.OPEN and format not in _PLUG_INS else None
        accepted = accepts is not None and accepts(prefix)
        if isinstance(accepted, str):  # the signature fits, but this Pillow was built without the decoder
            raise Unusable(accepted)
        if accepted:
            return format
    raise Unusable(f"not an image in a known format ({', '.join(FORMATS)})")


def of_pillow(image: Image.Image) -> Opened:
    """An image that Pillow opened."""

    def load() -> Image.Image:
        image.load()
        return image

    return Opened(image.width, image.height, image.width * image.height, load)


def _with_profile(image: Image.Image, profile: bytes) -> Image.Image:
    image.info["icc_profile"] = profile
    return image


def _by_plug_in(format: str, content: bytes) -> Opened:
    module, known_as, package = _PLUG_INS[format]
    try:
        plug_in = importlib.import_module(module)  # only now: most collections have none of these, and each takes its time
    except ImportError as error:
        raise Unusable(f"{known_as} needs {package}: {install('formats')}") from error
    if format == "HEIF":
        if format not in Image.OPEN:
            plug_in.register_heif_opener()
        return of_pillow(Image.OPEN[format][0](io.BytesIO(content), ""))
    width, height = jxl_size(content)

    def load() -> Image.Image:  # opening decodes, so it waits until the size has been looked at
        image = Image.OPEN[format][0](io.BytesIO(content), "")
        image.load()
        if not getattr(image, "jpeg", False):  # libjxl turned it; a JPEG that was packed keeps the orientation to be applied
            image.info.pop("exif", None)
        return image

    return Opened(width, height, width * height, load)
