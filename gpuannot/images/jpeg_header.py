"""What the header of a JPEG says, read without decoding: whether the GPU's decoder can take it, and how it lies."""

from __future__ import annotations

import re
from dataclasses import dataclass

from PIL import ExifTags, Image

from .profiles import MAX_PROFILE, is_srgb

ICC = b"ICC_PROFILE\0"
_ALONE = frozenset([0x01, *range(0xD0, 0xD8)])  # markers without a length: TEM, RST0…7
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SAMPLINGS: dict[tuple[tuple[int, int], ...], str] = {
    ((1, 1), (1, 1), (1, 1)): "4:4:4",
    ((2, 1), (1, 1), (1, 1)): "4:2:2",
    ((1, 2), (1, 1), (1, 1)): "4:4:0",
    ((2, 2), (1, 1), (1, 1)): "4:2:0",
    ((4, 1), (1, 1), (1, 1)): "4:1:1",
}
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')  # what Pillow looks for where EXIF has none
_LONGEST = 8 << 20  # bytes of a header, which is walked in Python; a longer one is the CPU's
GPU_PIXELS = 40_000_000
"""Most pixels of an image that the GPU decodes: beyond, its buffers for one image would crowd out a batch."""


@dataclass(frozen=True)
class JpegHeader:
    """A JPEG's frame header.

    Attributes:
        width: in pixels, before the orientation is applied.
        height: likewise.
        frame: the frame marker's low byte, ISO 10918-1 table B.1: 0xC0 baseline, 0xC1 extended, 0xC2 progressive, …
        precision: bits a sample.
        sampling: ``4:2:0`` … of three components, ``grey`` of one, "" for any other.
        ycbcr: three components are YCbCr, by Adobe's marker, JFIF's or the components' names, as libjpeg decides it.
        orientation: EXIF, 1 (upright) to 8.
        complete: the file ends with the end-of-image marker; zero bytes may follow it.
        srgb: no ICC profile is to be applied.
    """

    width: int
    height: int
    frame: int
    precision: int
    sampling: str
    ycbcr: bool
    orientation: int
    complete: bool
    srgb: bool = True

    @property
    def suits_gpu(self) -> bool:
        """Whether nvJPEG decodes it to what the CPU would: whole, baseline, 8 bits, YCbCr in a usual sampling, sRGB, no giant.

        A cut file is the CPU's, which refuses it: a GPU may fill what is missing with grey and say nothing. So is one whose colours
        are to be converted.
        """
        usual = self.frame in (0xC0, 0xC1) and self.precision == 8 and self.ycbcr and self.sampling not in ("", "grey")
        return (
            usual
            and self.complete
            and self.srgb
            and self.width >= 8
            and self.height >= 8
            and self.width * self.height <= GPU_PIXELS
        )


def read_jpeg_header(content: bytes) -> JpegHeader | None:
    """The header of a JPEG file's bytes; None for anything else, or where it is broken."""
    if content[:3] != b"\xff\xd8\xff":
        return None
    at, jfif, adobe, frame, profile = 2, False, None, None, []
    exif: int | None = None
    xmp: int | None = None
    while at + 4 <= min(len(content), _LONGEST):
        if content[at] != 0xFF:
            return None
        marker = content[at + 1]
        if marker == 0xFF:  # fill bytes may precede a marker
            at += 1
            continue
        if marker in _ALONE:
            at += 2
            continue
        length = int.from_bytes(content[at + 2 : at + 4])
        segment = content[at + 4 : at + 2 + length]
        if length < 2 or len(segment) != length - 2:
            return None
        if marker in _FRAMES:
            if frame is not None:  # hierarchical
                return None
            frame = _frame(marker, segment)
            if frame is None:
                return None
        elif marker == 0xE0 and segment[:5] == b"JFIF\0":
            jfif = True
        elif marker == 0xEE and segment[:5] == b"Adobe" and len(segment) >= 12:
            adobe = segment[11]
        elif marker == 0xE1 and segment[:6] == b"Exif\0\0":
            exif = exif_orientation(segment) if exif is None else exif
        elif marker == 0xE1 and segment[: len(_XMP)] == _XMP and (found := _XMP_ORIENTATION.search(segment)):
            xmp = int(found[1])
        elif marker == 0xE2 and segment[:12] == ICC and frame is None:  # behind the frame, Pillow does not look for one
            profile.append(segment)
        elif marker == 0xDA:
            break
        elif marker == 0xD9:
            return None
        at += 2 + length
    else:
        return None
    if frame is None:
        return None
    kind, width, height, precision, factors, names = frame
    ycbcr = len(factors) == 3 and (jfif or (adobe == 1 if adobe is not None else names != b"RGB"))
    orientation = exif if exif is not None else xmp
    orientation = orientation if orientation is not None and 1 <= orientation <= 8 else 1
    sampling = "grey" if len(factors) == 1 else _SAMPLINGS.get(factors, "")
    complete = content.rstrip(b"\0")[-2:] == b"\xff\xd9" if content[-1] == 0 else content[-2:] == b"\xff\xd9"
    srgb = not profile or (joined := joined_profile(profile)) is None or is_srgb(joined, "RGB")
    return JpegHeader(width, height, kind, precision, sampling, ycbcr, orientation, complete, srgb)


def _frame(marker: int, segment: bytes) -> tuple[int, int, int, int, tuple[tuple[int, int], ...], bytes] | None:
    """Kind of frame, width, height, precision, sampling factors and names of the components."""
    if len(segment) < 6 or len(segment) != 6 + 3 * segment[5]:
        return None
    components = [segment[start : start + 3] for start in range(6, len(segment), 3)]
    height, width = int.from_bytes(segment[1:3]), int.from_bytes(segment[3:5])
    factors = tuple((component[1] >> 4, component[1] & 15) for component in components)
    return marker, width, height, segment[0], factors, bytes(component[0] for component in components)


def exif_orientation(segment: bytes) -> int | None:
    """The orientation that a segment of EXIF says; None where it says none or is broken."""
    try:
        exif = Image.Exif()
        exif.load(segment)
        value = exif.get(ExifTags.Base.Orientation)
        return None if value is None else int(value)
    except Exception:  # as in images: corrupt metadata must not lose an image whose pixels are sound
        return None


def metadata_kind(marker: int, start: bytes) -> str | None:
    """What a segment is to a reader of pixels: None for a table, "" for metadata that it does without, else which metadata.

    Args:
        start: its first bytes, behind the length.
    """
    if marker != 0xFE and not 0xE0 <= marker <= 0xEF:
        return None
    if marker == 0xE0 and start[:5] == b"JFIF\0" and len(start) >= 14:
        return "jfif"
    if marker == 0xEE and start[:5] == b"Adobe" and len(start) >= 12:
        return "adobe"
    if marker == 0xE1 and start[:6] == b"Exif\0\0":
        return "exif"
    return "xmp" if marker == 0xE1 and start[: len(_XMP)] == _XMP else ""


def joined_profile(segments: list[bytes]) -> bytes | None:
    """An ICC profile from its segments (ICC.1 annex B.4); None where one is missing or it is longer than any."""
    if sum(map(len, segments)) > MAX_PROFILE or any(len(segment) < 14 for segment in segments):
        return None
    segments = sorted(segments)
    return b"".join(segment[14:] for segment in segments) if segments[0][13] == len(segments) else None
