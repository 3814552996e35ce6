"""Keywords in photos: embedded XMP, and IPTC."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from PIL import Image, IptcImagePlugin, UnidentifiedImageError

from .decode import without_size_warning
from .refusal import Unusable
from .xmp import Keywords, Packet, as_word

_XMP_TAG = 700  # of TIFF
_KEYWORDS, _CHARSET, _UTF_8 = (2, 25), (1, 90), b"\x1b%G"  # datasets of IPTC, and what says that texts are UTF-8


def embedded_keywords(path: str) -> Keywords:
    """The keywords in an image file: those of its XMP packet, and of IPTC those that are not among them.

    A file that Pillow does not open, with ``pillow-heif`` where that is installed, has none.

    Raises:
        Unusable: it cannot be read, or its XMP or IPTC cannot.
    """
    try:
        with without_size_warning(), _opened(path) as image:
            content = _packet(image)
            iptc = _iptc(image)
    except UnidentifiedImageError:
        return Keywords()
    except OSError as error:
        raise Unusable(error.strerror or f"its metadata cannot be read: {error}", "read") from error
    except Exception as error:  # whatever a reader of Pillow meets in broken bytes
        raise Unusable(f"its metadata cannot be read: {error}", "read") from error
    found = Keywords() if content is None else Packet(content).keywords()
    return Keywords(tuple(dict.fromkeys((*found.flat, *iptc))), found.paths, found.machine)


def _opened(path: str) -> Image.Image:
    try:
        return Image.open(path)
    except UnidentifiedImageError:
        if "HEIF" in Image.OPEN or find_spec("pillow_heif") is None:
            raise
        import_module("pillow_heif").register_heif_opener()
        return Image.open(path)


def _packet(image: Image.Image) -> bytes | None:
    content = _packet_at_hand(image)
    if content is None and image.format == "PNG":  # it may come after the pixels, where exiftool puts it
        image.load()
        content = _packet_at_hand(image)
    return content


def _packet_at_hand(image: Image.Image) -> bytes | None:
    content = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if content is None and image.format == "TIFF":
        content = image.tag_v2.get(_XMP_TAG)  # type: ignore[attr-defined]
    return content.encode() if isinstance(content, str) else content


def _iptc(image: Image.Image) -> list[str]:
    fields = IptcImagePlugin.getiptcinfo(image) or {}  # type: ignore[arg-type]
    found = fields.get(_KEYWORDS) or []
    strict = fields.get(_CHARSET) == _UTF_8
    return [word for value in (found if isinstance(found, list) else [found]) if (word := as_word(_text(value, strict)))]


def _text(value: bytes, utf8: bool) -> str:
    """Text of IPTC, which without a declaration is UTF-8 today and was Windows-1252 before."""
    try:
        return value.decode("utf-8", "replace" if utf8 else "strict")
    except UnicodeDecodeError:
        return value.decode("cp1252", "replace")
