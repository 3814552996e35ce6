"""A WebP file whose metadata, or whose length, is damaged: libwebp refuses it whole."""

from __future__ import annotations

from .refusal import Unusable

_EXTENDED = b"VP8X"
_METADATA = {b"ICCP": 0x20, b"EXIF": 0x08, b"XMP ": 0x04}  # and their flags in VP8X
_PIXELS = frozenset([_EXTENDED, b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"])


def mended_webp(content: bytes) -> bytes:
    """The same picture in a file that is whole: with the metadata that is, and true lengths.

    Raises:
        Unusable: the file ends within the pixels.
    """
    kept: list[tuple[bytes, bytes]] = []
    at = 12
    while at + 8 <= len(content):
        kind, length = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        data = content[at + 8 : at + 8 + length]
        if len(data) < length and kind in _PIXELS:
            raise Unusable("truncated: the file ends before the image does")
        if len(data) == length and (kind in _PIXELS or (kind in _METADATA and kind not in dict(kept))):
            kept.append((kind, data))
        at += 8 + length + length % 2
    flags = sum(flag for kind, flag in _METADATA.items() if kind in dict(kept))
    body = b"WEBP"
    for kind, data in kept:
        if kind == _EXTENDED and data:
            data = bytes([data[0] & ~0x2C | flags]) + data[1:]
        body += kind + len(data).to_bytes(4, "little") + data + b"\0" * (len(data) % 2)
    return b"RIFF" + len(body).to_bytes(4, "little") + body
