"""Metadata never costs an image: whatever stands in chunks and segments beside the pixels, they are those of the plain file."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from hostile_images import encoded, png, png_chunk, scene
from PIL import Image

from gpuannot.errors import ImageError
from gpuannot.images.decode import decode_image
from gpuannot.images.png import MAX_CHUNKS

pytestmark = pytest.mark.filterwarnings("error", "ignore:Corrupt EXIF data:UserWarning")
PNG, JPEG = encoded(scene(), "PNG"), encoded(scene(), "JPEG")
PIXELS = {"PNG": scene(), "JPEG": np.asarray(Image.open(io.BytesIO(JPEG)))}
BOMB = zlib.compress(b"\0" * 1_200_000, 9)


def damaged(chunk: bytes) -> bytes:
    return chunk[:-1] + bytes([chunk[-1] ^ 0xFF])


CHUNKS: dict[str, bytes] = {
    "large zTXt": png_chunk(b"zTXt", b"Comment\0\0" + BOMB),
    "large iTXt": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
    "large iCCP": png_chunk(b"iCCP", b"icc\0\0" + BOMB),
    "65 MB of zTXt": png_chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 1_000_000, 9)) * 70,
    "EXIF as a large text": png_chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB),
    "EXIF as a broken text": png_chunk(b"zTXt", b"Raw profile type exif\0\0junk")
    + png_chunk(b"tEXt", b"Raw profile type exif\0\nexif\n9z"),
    "zTXt of another method": png_chunk(b"zTXt", b"Comment\0\7xx"),
    "iCCP of another method": png_chunk(b"iCCP", b"icc\0\7xx"),
    "iCCP without end": png_chunk(b"iCCP", b"icc"),
    "broken iCCP": png_chunk(b"iCCP", b"icc\0\0junk"),
    "short tIME": png_chunk(b"tIME", b"\1"),
    "short eXIf": png_chunk(b"eXIf", b"II"),
    "short acTL": png_chunk(b"acTL", b"\0"),
    "two acTL": png_chunk(b"acTL", struct.pack(">II", 1, 0)) * 2,
    "short fcTL": png_chunk(b"acTL", struct.pack(">II", 1, 0)) + png_chunk(b"fcTL", b"\0"),
    "fcTL out of order": png_chunk(b"acTL", struct.pack(">II", 1, 0)) + png_chunk(b"fcTL", struct.pack(">I", 5) + b"\0" * 22),
    "fcTL of a larger frame": png_chunk(b"acTL", struct.pack(">II", 1, 0))
    + png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 99, 99, 0, 0, 1, 1, 0, 0)),
    "unknown": png_chunk(b"abCd", b"\xff" * 1000),
    "tRNS of grey": png_chunk(b"tRNS", b"\0\1"),
    "no name": struct.pack(">I", 0) + b"ab!d" + b"\0\0\0\0",
    "text in no encoding": png_chunk(b"iTXt", b"\xff\xfe\0\0\0\xff\0\xff\0\xff"),
} | {
    f"short {name}": png_chunk(name.encode(), b"")
    for name in ("gAMA", "cHRM", "pHYs", "sRGB", "tRNS", "iCCP", "zTXt", "iTXt", "tEXt")
}


@pytest.mark.parametrize("name", CHUNKS)
def test_png_chunks(name: str) -> None:
    chunk = CHUNKS[name]
    for at in (33, len(PNG) - 12):  # before and after the pixels
        assert np.array_equal(decode_image(PNG[:at] + chunk + PNG[at:]), scene())
        assert np.array_equal(decode_image(PNG[:at] + damaged(chunk) + PNG[at:]), scene())


@pytest.mark.parametrize("cut", [1, 5, 11, 12, 13, 20, 24])
def test_png_cut_behind_its_pixels(cut: int) -> None:
    longer = PNG[:-12] + png_chunk(b"tEXt", b"key\0text") + PNG[-12:]
    assert np.array_equal(decode_image(longer[:-cut]), scene())


def test_png_with_a_damaged_critical_chunk() -> None:
    places = [PNG.index(b"IHDR") + 5, PNG.index(b"IDAT") + 30]
    palette = encoded(Image.fromarray(scene()).quantize(8), "PNG")
    for data, place in ((PNG, places[0]), (PNG, places[1]), (palette, palette.index(b"PLTE") + 6)):
        broken = bytearray(data)
        broken[place] ^= 0x40
        with pytest.raises(ImageError, match="broken"):
            decode_image(bytes(broken))


def test_transparency_that_fits_is_kept_and_other_is_not() -> None:
    grey = np.array([[0, 9, 200]], dtype=np.uint8)
    sound = png_chunk(b"tRNS", b"\0\x09")
    assert decode_image(png(grey, 0, extra=sound))[0, :, 0].tolist() == [0, 255, 200]
    for wrong in (damaged(sound), png_chunk(b"tRNS", b"\x09"), png_chunk(b"tRNS", b"\0\x09\0")):
        assert decode_image(png(grey, 0, extra=wrong))[0, :, 0].tolist() == [0, 9, 200]
    index = np.array([[0, 1]], dtype=np.uint8)
    colours = png_chunk(b"PLTE", bytes([255, 0, 0, 0, 0, 255]))
    assert decode_image(png(index, 3, extra=colours + png_chunk(b"tRNS", b"\xff\0")))[0].tolist() == [[255, 0, 0], [255, 255, 255]]
    assert decode_image(png(index, 3, extra=colours + png_chunk(b"tRNS", b"\xff\0\0")))[0].tolist() == [[255, 0, 0], [0, 0, 255]]


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


@pytest.mark.parametrize("where", [33, len(PNG) - 12])
def test_orientation_of_a_png_is_kept(where: int) -> None:
    hexed = b"\nexif\n%8d\n" % len(exif(6)) + exif(6).hex().encode()
    xmp = b'<x xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    chunks = [
        png_chunk(b"eXIf", exif(6)[6:]),
        png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(hexed)),
        png_chunk(b"tEXt", b"Raw profile type exif\0" + hexed),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0en\0key\0" + xmp),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)),
    ]
    for chunk in chunks:
        oriented = PNG[:where] + png_chunk(b"gAMA", b"") + chunk + PNG[where:]
        assert np.array_equal(decode_image(oriented), np.rot90(scene(), -1)), chunk[4:30]


def test_first_frame_of_an_animated_png() -> None:
    first = Image.fromarray(scene())
    data = encoded(first, "PNG", save_all=True, append_images=[Image.fromarray(255 - scene())])
    assert np.array_equal(decode_image(data), scene())
    aside = encoded(first, "PNG", save_all=True, default_image=True, append_images=[Image.fromarray(255 - scene())] * 2)
    assert np.array_equal(decode_image(aside), scene())


def test_png_of_too_many_chunks() -> None:
    with pytest.raises(ImageError, match=f"not supported: PNG of more than {MAX_CHUNKS} chunks"):
        decode_image(PNG[:33] + png_chunk(b"abCd", b"") * MAX_CHUNKS + PNG[33:])


# ---- JPEG


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


SEGMENTS: dict[str, bytes] = {
    "short JFIF": segment(0xE0, b"JFIF"),
    "JFIF without density": segment(0xE0, b"JFIF\0\1\1"),
    "short Adobe": segment(0xEE, b"Adobe"),
    "short profile": segment(0xE2, b"ICC_PROFILE\0"),
    "profile of many parts": segment(0xE2, b"ICC_PROFILE\0\1\1x") * 300,
    "short FlashPix": segment(0xE2, b"FPXR\0"),
    "Photoshop": segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0\0\0\0\1x"),
    "cut Photoshop": segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed"),
    "Photoshop of endless blocks": segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\xff\xff\xff\xff"),
    "EXIF of junk": segment(0xE1, b"Exif\0\0" + b"\xff" * 999),
    "endless EXIF": segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff" * 9),
    "EXIF of wrong types": segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0x11A, 2, 1, 7) + b"\0" * 4),
    "XMP of junk": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<<<"),
    "MPF of junk": segment(0xE2, b"MPF\0junk"),
    "9000 comments": segment(0xFE, b"") * 9000,
    "megabytes": segment(0xE5, b"\xff" * 65000) * 40,
    "1000 of EXIF": segment(0xE1, b"Exif\0\0" + b"x" * 60000) * 100,
    "fill bytes": b"\xff" * 3_000_000,
    "junk": b"\0\1\2" * 1_000_000,
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_jpeg_segments(name: str) -> None:
    after_jfif = 2 + 2 + int.from_bytes(JPEG[4:6])
    for at in (2, after_jfif)[name == "junk" :]:  # junk there is no JPEG
        assert np.array_equal(decode_image(JPEG[:at] + SEGMENTS[name] + JPEG[at:]), PIXELS["JPEG"])


def test_orientation_behind_broken_segments() -> None:
    oriented = segment(0xE1, b"Exif\0\0" + exif(6)[6:])
    for junk in (SEGMENTS["short JFIF"], SEGMENTS["9000 comments"], SEGMENTS["short profile"]):
        for data in (JPEG[:2] + oriented + junk + JPEG[2:], JPEG[:2] + junk + oriented + JPEG[2:]):
            assert np.array_equal(decode_image(data), np.rot90(PIXELS["JPEG"], -1))


def test_jpeg_of_too_many_segments_or_scans() -> None:
    with pytest.raises(ImageError, match="more than 10000 segments"):
        decode_image(JPEG[:2] + segment(0xFE, b"") * 10_001 + JPEG[2:])
    progressive = encoded(scene(), "JPEG", progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageError, match="not supported: JPEG of more than 100 scans"):
        decode_image(progressive[:-2] + scan * 100 + b"\xff\xd9")
    some = progressive[:-2] + segment(0xFE, b"\xff\xd9\xff\xda" * 200) + b"\xff\xd9" + b"\xff\xda" * 1000
    assert np.array_equal(decode_image(some), decode_image(progressive))


def noise(height: int = 61, width: int = 83) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"restart_marker_blocks": 3}, {"quality": 30}])
def test_jpeg_without_its_end_marker(options: dict[str, Any]) -> None:
    for pixels in (scene(), noise(), noise()[..., 0]):
        whole = encoded(pixels, "JPEG", **options)
        assert np.array_equal(decode_image(whole[:-2]), decode_image(whole))
        assert np.array_equal(decode_image(whole[:-1]), decode_image(whole))
        assert np.array_equal(decode_image(whole[:-2] + b"\0" * 100), decode_image(whole))
        start = whole.index(b"\xff\xda") + 14
        for length in {*range(start, len(whole) - 2, max(1, (len(whole) - start) // 60)), *range(len(whole) - 30, len(whole) - 2)}:
            try:
                pixels_of_cut = decode_image(whole[:length])
            except ImageError as error:
                assert "truncated" in error.reason
            else:  # what was cut off are the bits that fill up the last byte
                assert length > len(whole) - 6 and np.array_equal(pixels_of_cut, decode_image(whole))
        half = whole[: (start + len(whole)) // 2]
        with pytest.raises(ImageError, match="truncated"):
            decode_image(half + b"\0" * len(whole))  # a transfer into a file that had its length


def test_cut_progressive_jpegs_are_refused_at_every_scan() -> None:
    whole = encoded(noise(), "JPEG", progressive=True)
    at = whole.index(b"\xff\xda")
    while (at := whole.find(b"\xff\xda", at + 1)) > 0:
        with pytest.raises(ImageError, match="truncated"):
            decode_image(whole[:at])
    with pytest.raises(ImageError, match="truncated"):
        decode_image(whole[:-2])


# ---- WebP, GIF, TIFF, MPO


def webp_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 12
    while at < len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        found.append((data[at : at + 4], data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return found


def webp(chunks: list[tuple[bytes, bytes]]) -> bytes:
    body = b"WEBP" + b"".join(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def test_webp_metadata() -> None:
    data = encoded(scene(), "WEBP", lossless=True, exif=exif(6), xmp=b"<x/>", icc_profile=b"junk")
    chunks = webp_chunks(data)
    assert webp(chunks) == data and [kind for kind, _ in chunks] == [b"VP8X", b"ICCP", b"VP8L", b"EXIF", b"XMP "]
    upright, turned = scene(), np.rot90(scene(), -1)
    assert np.array_equal(decode_image(data), turned)
    for cut in (1, 3, 11):  # within XMP, which is behind EXIF
        assert np.array_equal(decode_image(data[:-cut]), turned)
    assert np.array_equal(decode_image(data[: -12 - 20]), upright)  # within EXIF
    for kind in (b"EXIF", b"XMP "):
        at = data.index(kind) + 4
        assert np.array_equal(
            decode_image(data[:at] + b"\xff\xff\xff\x7f" + data[at + 4 :]), upright if kind == b"EXIF" else turned
        )
    for junk in (b"", b"\xff" * 999):
        for kind in (b"ICCP", b"EXIF", b"XMP "):
            changed = webp([(name, junk if name == kind else old) for name, old in chunks])
            assert np.array_equal(decode_image(changed), upright if kind == b"EXIF" else turned)
    assert np.array_equal(decode_image(data[:4] + b"\0\0\1\0" + data[8:]), turned)  # a false length of all
    for cut in (2, 40):
        with pytest.raises(ImageError, match="truncated"):
            decode_image(encoded(scene(), "WEBP", lossless=True)[:-cut])


@pytest.mark.parametrize(
    "comment", [b"\x21\xfe\0", b"\x21\xfe\xff" + b"x" * 255 + b"\0", b"\x21\xfe\1x\0" * 20000, b"\x21\xff\1x\0" * 9]
)
def test_gif_comments(comment: bytes) -> None:
    data = encoded(scene(), "GIF")
    at = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    assert np.array_equal(decode_image(data[:at] + comment + data[at:]), decode_image(data))


def test_mpo_gives_its_first_picture() -> None:
    data = encoded(scene(), "MPO", save_all=True, append_images=[Image.fromarray(255 - scene())])
    assert np.abs(decode_image(data).astype(int) - scene()).mean() < 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(decode_image(data.replace(b"MPF\0", b"MPF\xff")), decode_image(data))
