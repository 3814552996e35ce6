"""A PNG without the chunks that say nothing of its pixels: Pillow reads them all, and refuses an image for one damaged or large."""

from __future__ import annotations

import struct
import zlib

from .profiles import MAX_PROFILE
from .refusal import Unusable

MAX_CHUNKS = 1_000_000
"""Most chunks of a file: each costs a microsecond here and several in Pillow. 8 KB each, as most programs write, they hold 8 GB."""

_METADATA = 1 << 20  # most bytes of what may say how the picture lies
_PIXELS = frozenset([b"IHDR", b"PLTE", b"IDAT", b"IEND"])
_TEXTS = frozenset([b"iTXt", b"zTXt", b"tEXt"])
_READ = _TEXTS | {b"iCCP", b"tRNS", b"eXIf"}
_ORIENTED = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # texts that Pillow looks for the orientation in


def essential_png(content: bytes) -> tuple[bytes, bytes | None]:
    """The same picture in few chunks, and its ICC profile.

    Kept are the critical chunks as they stand, a sound ``tRNS`` and what may hold the orientation. The animation of an APNG goes:
    its first frame, or the picture for readers without animations, is in the critical chunks.

    Raises:
        Unusable: more than `MAX_CHUNKS` chunks.
    """
    kept = [content[:8]]
    profile: bytes | None = None
    seen: set[bytes] = set()
    pixels = entries = 0
    colour_type = content[25] if len(content) > 25 else 0
    at, plain_from = 8, 8  # what begins at plain_from is copied in one piece
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(content):
            break
        length, kind = int.from_bytes(content[at : at + 4]), content[at + 4 : at + 8]
        end = at + 12 + length
        if kind in _PIXELS or not kind[0] & 32:  # critical: whatever is wrong with it is Pillow's to find
            pixels += kind == b"IDAT"
            entries = length // 3 if kind == b"PLTE" else entries
        else:
            kept.append(content[plain_from:at])
            plain_from = end
            if kind in _READ and kind not in seen and end <= len(content) and _is_sound(content, at, end):
                data = content[at + 8 : end - 4]
                orienting = data.startswith(_ORIENTED)
                if kind not in _TEXTS or orienting:
                    seen.add(kind)  # the first of each: a thousand would each be unpacked
                if kind == b"iCCP" and not pixels:
                    profile = _profile(data)
                elif kind == b"eXIf" or (kind == b"tRNS" and not pixels and _fits(data, colour_type, entries)):
                    kept.append(content[at:end])
                elif orienting and (text := _unpacked(kind, data)) is not None:
                    kept.append(text)
        at = end
        if kind == b"IEND":
            break
    else:
        raise Unusable(f"not supported: PNG of more than {MAX_CHUNKS} chunks; save it again")
    if len(kept) == 1:
        return content, None
    return b"".join([*kept, content[plain_from:]]), profile


def _is_sound(content: bytes, at: int, end: int) -> bool:
    if end - at > MAX_PROFILE:
        return False
    return zlib.crc32(memoryview(content)[at + 4 : end - 4]) == int.from_bytes(content[end - 4 : end])


def _profile(data: bytes) -> bytes | None:
    _, _, rest = data.partition(b"\0")  # its name
    return _inflated(rest[1:], MAX_PROFILE) if rest[:1] == b"\0" else None


def _inflated(data: bytes, most: int) -> bytes | None:
    inflate = zlib.decompressobj()
    try:
        found = inflate.decompress(data, most)
    except zlib.error:
        return None
    return None if inflate.unconsumed_tail else found


def _fits(data: bytes, colour_type: int, entries: int) -> bool:
    """PNG 11.3.2.1: what the chunk of transparency holds for grey, RGB and palettes."""
    return len(data) == {0: 2, 2: 6}.get(colour_type, -1) or (colour_type == 3 and 0 < len(data) <= entries)


def _unpacked(kind: bytes, data: bytes) -> bytes | None:
    """A text chunk, not compressed, as it can be given to Pillow; None for one that is broken or long."""
    key, _, rest = data.partition(b"\0")
    if len(data) > _METADATA:
        return None
    if kind == b"zTXt":
        text = _inflated(rest[1:], _METADATA) if rest[:1] == b"\0" else None
    elif kind == b"iTXt":
        *_, text = rest[2:].split(b"\0", 2)  # behind a language and a translated key
        text = _inflated(text, _METADATA) if rest[:2] == b"\1\0" else text
    else:
        text = rest
    if text is None:
        return None
    kind, body = (kind, key + b"\0\0\0\0\0" + text) if kind == b"iTXt" else (b"tEXt", key + b"\0" + text)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
