"""PBM, PGM and PPM: as Pillow reads them, without its hours."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from hostile_images import encoded, scene
from PIL import Image

from gpuannot.errors import ImageError
from gpuannot.images.decode import decode_image
from gpuannot.images.netpbm import HEADER_BYTES

RNG = np.random.default_rng(0)
H, W = 7, 13


def pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def plain(values: np.ndarray, between: bytes = b" ") -> bytes:
    return between.join(b"%d" % value for value in values.ravel())


@pytest.mark.parametrize("most", [1, 9, 100, 254, 255])
def test_up_to_8_bits(most: int) -> None:
    for kind, shape in ((b"5", (H, W)), (b"6", (H, W, 3))):
        values = RNG.integers(0, most + 1, shape)
        header = b"\n%d %d\n%d\n" % (W, H, most)
        raw = b"P" + kind + header + values.astype(np.uint8).tobytes()
        text = b"P" + {b"5": b"2", b"6": b"3"}[kind] + header + plain(values)
        expected = np.floor(values * 255 / most + 0.5)
        expected = expected if values.ndim == 3 else expected[..., None].repeat(3, 2)
        assert np.array_equal(decode_image(raw), expected) and np.array_equal(decode_image(text), expected)
        assert np.abs(expected - pillow(raw)).max() <= 1  # which rounds halves to even


@pytest.mark.parametrize("most", [256, 1000, 65534, 65535])
def test_up_to_16_bits(most: int) -> None:
    for kind, shape in ((b"5", (H, W)), (b"6", (H, W, 3))):
        values = RNG.integers(0, most + 1, shape)
        header = b"\n%d %d\n%d\n" % (W, H, most)
        raw = b"P" + kind + header + values.astype(">u2").tobytes()
        text = b"P" + {b"5": b"2", b"6": b"3"}[kind] + header + plain(values, b"\n")
        expected = np.floor(values * 255 / most + 0.5)
        expected = expected if values.ndim == 3 else expected[..., None].repeat(3, 2)
        assert np.array_equal(decode_image(raw), expected) and np.array_equal(decode_image(text), expected)


@pytest.mark.parametrize("width", [1, 7, 8, 9, 64])
def test_bits(width: int) -> None:
    bits = RNG.integers(0, 2, (H, width))
    expected = (1 - bits)[..., None].repeat(3, 2) * 255
    raw = b"P4 %d %d\n" % (width, H) + np.packbits(bits.astype(np.uint8), axis=1).tobytes()
    assert np.array_equal(decode_image(raw), expected)
    for between in (b"", b" ", b"#x\n"):
        assert np.array_equal(decode_image(b"P1\n%d %d\n" % (width, H) + plain(bits, between)), expected)
    assert np.array_equal(decode_image(encoded(Image.fromarray((1 - bits).astype(bool)), "PPM")), expected)


def test_headers_and_comments() -> None:
    body = scene().tobytes()
    for header in (b"P6 32 24 255 ", b"P6#c\n32#c 1 2\r# x\n\t24\n#\n255\n", b"P6\r\n32\r\n24\r\n255\n", b"P6 032 0024 255\n"):
        assert np.array_equal(decode_image(header + body), scene())
    text = b"P3 32 24 255\n" + b"# 7 7 7\n".join(plain(row) + b" " for row in scene()) + b"# end"
    assert np.array_equal(decode_image(text), scene())
    assert np.array_equal(decode_image(b"P3 32 24 255\n" + plain(scene()) + b"\nP3 next image"), scene())


BROKEN = {
    "white": (b"P5 1 1 0\n\0", "white is 0; expected 1 to 65535"),
    "white above": (b"P5 1 1 65536\n\0\0", "white is 65536"),
    "no width": (b"P5 0 1 255\n\0", "0×1 pixels"),
    "large": (b"P5 99999999 99999999 255\n\0", "pixels; expected 1 to"),
    "cut": (b"P6 2 2 255\n123", "truncated"),
    "cut plain": (b"P3 2 2 255\n1 2 3", "truncated"),
    "cut bits": (b"P1 2 2\n1 1 1", "truncated"),
    "cut header": (b"P6 2 ", "truncated"),
    "words": (b"P3 2 2 255\n1 2 3 x 5 6", "something else than numbers"),
    "negative": (b"P2 2 1 255\n-1 2", "something else than numbers"),
    "above white": (b"P2 2 1 9\n1 10", "a sample of 10 where its header says at most 9"),
    "endless number": (b"P2 2 1 9\n1 " + b"9" * 40, "a sample of"),
    "bits": (b"P1 2 2\n1 2 1 1", "something else than 0 and 1"),
    "float": (b"Pf 1 1 -1.0\n\0\0\0\0", "float pixels"),
    "long comment": (b"P6\n#" + b"x" * HEADER_BYTES + b"\n1 1 255\n123", f"no end of its header in the first {HEADER_BYTES} bytes"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken(name: str) -> None:
    with pytest.raises(ImageError, match=BROKEN[name][1]):
        decode_image(BROKEN[name][0])


SIDE = 1000
SLOW = {
    "comment": b"P6\n#" + b"x" * 3_000_000 + b"\n1 1 255\n123",
    "spaces": b"P6" + b" " * 3_000_000 + b"1 1 255\n123",
    "comments": b"P3 2 2 255\n" + b"#\n" * 1_500_000 + b"1 " * 12,
    "range": b"P6 %d %d 254\n" % (SIDE, SIDE) + b"\x10" * (3 * SIDE * SIDE),
    "wide range": b"P5 %d %d 1000\n" % (SIDE, SIDE) + b"\1\1" * (SIDE * SIDE),
    "numbers": b"P3 %d %d 9\n" % (SIDE, SIDE) + b"7 " * (3 * SIDE * SIDE),
}


@pytest.mark.parametrize("name", SLOW)
def test_three_megabytes_take_no_second(name: str) -> None:
    start = time.process_time()
    try:
        decode_image(SLOW[name])
    except ImageError as error:
        assert "header" in error.reason
    assert time.process_time() - start < 2  # Pillow: half a second to 40; a loaded machine has its margin
