"""JPEG files as they are in the world: with broken or endless metadata, without an end, of thousands of scans."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from PIL import Image, JpegImagePlugin

from .jpeg_header import ICC, exif_orientation, joined_profile, metadata_kind, read_jpeg_header
from .refusal import Unusable

MAX_SCANS = 100
"""Most scans of a progressive JPEG: each costs the time of all its pixels, however few bytes it has. Encoders write about ten."""

MAX_SEGMENTS = 10_000
"""Most segments before the pixels: 600 MB of metadata in full ones; most files have about ten."""

_MANY, _LONG = 100, 1 << 20  # segments and bytes of a header that Pillow is given as it is
_SCAN, _END = 0xDA, 0xD9
_MARKER = re.compile(rb"\xff+[^\x00\x01\xd0-\xd8\xff]")  # without those that have no length
_RESTART = re.compile(rb"\xff+[\xd0-\xd7]")
_CONTINUATIONS = (b"", b"\xaa", b"\x55", b"\xf7", b"\x2d")
_IN_SCAN = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")  # the next marker that is neither data nor a restart


def open_jpeg(content: bytes) -> tuple[JpegImagePlugin.JpegImageFile, bool]:
    """Pillow's image, not decoded yet, and whether the file has its end marker. Metadata never costs an image.

    Raises:
        Unusable: more segments or scans than any encoder writes.
    """
    scan = _scan_of_usual(content)
    if scan is None:
        content = _essential(content)
    try:
        image = JpegImagePlugin.JpegImageFile(io.BytesIO(content), "")
    except Exception:  # what Pillow finds in broken metadata, or in broken tables
        content = _essential(content)
        image = JpegImagePlugin.JpegImageFile(io.BytesIO(content), "")
        scan = None
    if "progressive" in image.info and content.count(b"\xff\xda") > MAX_SCANS:  # only there is it worth a look which are scans
        _count_scans(content)
    if scan is None:
        scan = next((start for marker, start, _ in _segments(content) if marker == _SCAN), len(content))
    return image, content.rfind(b"\xff\xd9") > scan


def load_jpeg(image: JpegImagePlugin.JpegImageFile, *, ends: bool) -> Image.Image:
    """The decoded image.

    A sequential file that lacks nothing but its end marker, as some cameras and transfers leave it, is whole. Without this look at
    it Pillow would take zeros, with which a broken transfer may have filled the file up to its length, for grey pixels.

    Args:
        ends: the file has its end marker.
    """
    if ends:
        image.load()
        return image
    assert isinstance(image.fp, io.BytesIO)
    whole = _without_end(image.fp.getvalue())
    if whole is None:
        raise Unusable("truncated: the file ends before the image does")
    return whole


def _without_end(content: bytes) -> Image.Image | None:
    """The image of a sequential JPEG of one scan whose end marker is missing; None where more is.

    Where a bit of the pixels is missing, a continuation by zeros gives other pixels than one by ones.
    """
    content = content.rstrip(b"\0") + (b"\0" if content.rstrip(b"\0")[-1:] == b"\xff" and content[-1:] == b"\0" else b"")
    content = content.removesuffix(b"\xff")  # half of the marker
    if not _has_all_intervals(content):
        return None
    pixels, image = None, None
    for bits in _CONTINUATIONS:
        image = JpegImagePlugin.JpegImageFile(io.BytesIO(content + bits * 64 + b"\xff\xd9"), "")
        image.load()
        if pixels is not None and image.tobytes() != pixels:
            return None
        pixels = image.tobytes()
    return image


def _has_all_intervals(content: bytes) -> bool:
    """Whether a sequential JPEG has one scan, of all its components and restart intervals; their last may be cut."""
    scans = list(_scans(content))
    if len(scans) != 1:
        return False
    header = read_jpeg_header(content)
    components, factors, interval = b"", [(1, 1)], 0
    for marker, start, _ in _segments(content):
        if marker in (0xC0, 0xC1):
            components = content[start + 9 : start + 10]
            factors = [divmod(content[at], 16) for at in range(start + 11, start + 10 + 3 * components[0], 3)]
        elif marker == 0xDD:
            interval = int.from_bytes(content[start + 4 : start + 6])
    if header is None or components != content[scans[0] + 4 : scans[0] + 5]:
        return False
    side = 8 if len(factors) == 1 else 0  # a single component is coded block by block, whatever its factors
    across, down = (
        -(-pixels // (side or 8 * max(most)))
        for pixels, most in zip((header.width, header.height), zip(*factors, strict=True), strict=True)
    )
    return not interval or len(_RESTART.findall(content, scans[0])) == -(-across * down // interval) - 1


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, first byte and last byte + 1 of each segment before the pixels, and of the first scan's header.

    What lies between is skipped.
    """
    at = 2
    while (found := _MARKER.search(content, at)) is not None:
        start = found.end() - 2
        at = start + 2 + int.from_bytes(content[start + 2 : start + 4])
        yield content[start + 1], start, at
        if content[start + 1] in (_SCAN, _END):
            return


def _scan_of_usual(content: bytes) -> int | None:
    """Where the first scan begins in a file whose few segments follow each other without a gap, which take Pillow's reader no time.

    None for others. Every file passes through here, so it is done without `_segments`.
    """
    at = 2
    for _ in range(_MANY):
        if at + 4 > len(content) or at > _LONG or content[at] != 0xFF:
            return None
        marker = content[at + 1]
        if marker == _SCAN:
            return at
        if marker < 0xC0 or marker == 0xFF or 0xD0 <= marker <= _END:
            return None
        at += 2 + (content[at + 2] << 8 | content[at + 3])
    return None


def _essential(content: bytes) -> bytes:
    """The same picture without the metadata that nothing is read from: what is left is sound, and each kind is there once."""
    kept, seen, scan, profile = [b"\xff\xd8"], set[str](), len(content), list[bytes]()
    for count, (marker, start, end) in enumerate(_segments(content)):
        if count == MAX_SEGMENTS:
            raise Unusable(f"broken image data: more than {MAX_SEGMENTS} segments before the pixels")
        if marker == _SCAN:
            scan = start
            break
        kind = metadata_kind(marker, content[start + 4 : min(end, start + 64)])
        if marker == 0xE2 and content[start + 4 : start + 16] == ICC and len(profile) < 256:
            profile.append(content[start + 4 : end])
        elif kind is None:
            kept.append(content[start:end])
        elif kind and kind not in seen and (kind != "exif" or exif_orientation(content[start + 4 : end]) is not None):
            seen.add(kind)
            kept.append(content[start:end])
    if profile and joined_profile(profile) is not None:
        kept[1:1] = [b"\xff\xe2" + (len(part) + 2).to_bytes(2) + part for part in profile]
    return b"".join([*kept, content[scan:]])


def _scans(content: bytes) -> Iterator[int]:
    """Where each scan's header begins."""
    at = next((start for marker, start, _ in _segments(content) if marker == _SCAN), None)
    while at is not None:
        marker = content[at + 1]
        if marker == _SCAN:
            yield at
        elif marker == _END:
            return
        found = _IN_SCAN.search(content, at + 2 + int.from_bytes(content[at + 2 : at + 4]))
        at = None if found is None else found.end() - 2


def _count_scans(content: bytes) -> None:
    for count, _ in enumerate(_scans(content)):
        if count == MAX_SCANS:
            raise Unusable(f"not supported: JPEG of more than {MAX_SCANS} scans; save it again")
