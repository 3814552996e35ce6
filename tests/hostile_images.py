"""Image files as the world has them: odd, mislabelled, cut, empty, absent. Shared by every test that reads images.

`write_hostile_images` writes them all; `DECODES` says which must decode and to what height and width, `FAILS` which must not, at
which stage and with which words in the reason.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 32

DECODES: dict[str, tuple[int, int]] = {
    "jpeg": (HEIGHT, WIDTH),
    "progressive jpeg": (HEIGHT, WIDTH),
    "cmyk jpeg": (HEIGHT, WIDTH),
    "grey jpeg": (HEIGHT, WIDTH),
    "rotated jpeg": (WIDTH, HEIGHT),
    "jpeg with corrupt exif": (HEIGHT, WIDTH),
    "png named jpg": (HEIGHT, WIDTH),
    "no suffix": (HEIGHT, WIDTH),
    "grey 16-bit png": (HEIGHT, WIDTH),
    "colour 16-bit png": (2, 2),
    "palette png with alpha": (HEIGHT, WIDTH),
    "grey png with alpha": (HEIGHT, WIDTH),
    "colour png with alpha": (HEIGHT, WIDTH),
    "1-bit png": (HEIGHT, WIDTH),
    "1x1 png": (1, 1),
    "20000x3 png": (3, 20000),
    "animated gif": (HEIGHT, WIDTH),
    "animated png": (HEIGHT, WIDTH),
    "animated webp": (HEIGHT, WIDTH),
    "grey 16-bit tiff": (HEIGHT, WIDTH),
    "bmp": (HEIGHT, WIDTH),
    "ppm": (HEIGHT, WIDTH),
    "non-ascii and spaced name": (HEIGHT, WIDTH),
}
FAILS: dict[str, tuple[str, str]] = {
    "cut jpeg": ("decode", "truncated"),
    "cut png": ("decode", "truncated"),
    "cut gif": ("decode", "truncated"),
    "png with a broken checksum": ("decode", "broken"),
    "zero bytes": ("decode", "empty file"),
    "text named jpg": ("decode", "not an image"),
    "html named png": ("decode", "not an image"),
    "signature alone": ("decode", "truncated"),
    "60000x60000 png": ("decode", "60000×60000 pixels"),
    "float tiff": ("decode", "float"),
    "32-bit tiff": ("decode", "grey values from"),
    "folder": ("find", "folder"),
    "missing": ("find", "no such file"),
    "broken link": ("find", "no such file"),
}


def scene(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(height, width, 3) uint8 without any symmetry: two ramps and a dark block near one corner."""
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.linspace(30, 250, width)
    pixels[..., 1] = np.linspace(40, 200, height)[:, None]
    pixels[..., 2] = 90
    pixels[: height // 3, : width // 4] = (10, 20, 60)
    return pixels


def encoded(image: Image.Image | np.ndarray, format: str, **options: Any) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, format, **options)
    return file.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows: np.ndarray, colour_type: int, *, size: tuple[int, int] | None = None, extra: bytes = b"") -> bytes:
    """A PNG by hand, for what Pillow does not write: ``rows`` (H, W) or (H, W, channels) uint8 or uint16, ``size`` a false (width,
    height) for its header, ``extra`` chunks before the pixels."""
    height, width = rows.shape[:2]
    header = struct.pack(">IIBBBBB", *(size or (width, height)), 8 * rows.itemsize, colour_type, 0, 0, 0)
    raw = b"".join(b"\0" + row.astype(rows.dtype.newbyteorder(">")).tobytes() for row in rows)
    chunks = png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", zlib.compress(raw)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def grey_tiff(data: bytes, width: int, height: int, *, bits: int = 16, order: str = "<", white_is_zero: bool = False) -> bytes:
    """An uncompressed grey TIFF by hand; ``order`` as in ``struct``."""
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: int(not white_is_zero), 273: 8, 277: 1, 278: height, 279: len(data)}
    data += b"\0" * (len(data) % 2)
    directory = struct.pack(order + "H", len(tags))
    directory += b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags.items())
    signature = b"II*\0" if order == "<" else b"MM\0*"
    return signature + struct.pack(order + "I", 8 + len(data)) + data + directory + b"\0\0\0\0"


def write_hostile_images(folder: Path, names: Iterable[str] = (*DECODES, *FAILS)) -> dict[str, Path]:
    """Write the named kinds of image into ``folder``; returns where each lies."""
    picture = Image.fromarray(scene())
    other = Image.fromarray(255 - scene())
    grey_16 = (np.arange(HEIGHT * WIDTH, dtype=np.uint16) * 85).reshape(HEIGHT, WIDTH)
    alpha = Image.new("L", (WIDTH, HEIGHT), 0)
    alpha.paste(255, (0, 0, WIDTH // 2, HEIGHT))
    with_alpha = picture.copy()
    with_alpha.putalpha(alpha)
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg, plain_png, gif = encoded(picture, "JPEG"), encoded(picture, "PNG"), encoded(picture, "GIF")
    broken = bytearray(plain_png)
    broken[20] ^= 0xFF
    animation = {"save_all": True, "append_images": [other, picture]}
    files: dict[str, tuple[str, bytes]] = {
        "jpeg": ("plain.jpg", jpeg),
        "progressive jpeg": ("progressive.JPEG", encoded(picture, "JPEG", progressive=True)),
        "cmyk jpeg": ("cmyk.jpg", encoded(picture.convert("CMYK"), "JPEG", quality=95)),
        "grey jpeg": ("grey.jpg", encoded(picture.convert("L"), "JPEG")),
        "rotated jpeg": ("rotated.jpg", encoded(picture, "JPEG", exif=exif)),
        "jpeg with corrupt exif": ("exif.jpg", encoded(picture, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xee" * 40)),
        "png named jpg": ("really_png.jpg", plain_png),
        "no suffix": ("no_suffix", jpeg),
        "grey 16-bit png": ("grey16.png", png(grey_16, 0)),
        "colour 16-bit png": ("colour16.png", png(np.arange(12, dtype=np.uint16).reshape(2, 2, 3) * 5000, 2)),
        "palette png with alpha": ("palette.png", encoded(with_alpha.quantize(16), "PNG")),
        "grey png with alpha": ("la.png", encoded(with_alpha.convert("LA"), "PNG")),
        "colour png with alpha": ("rgba.png", encoded(with_alpha, "PNG")),
        "1-bit png": ("one_bit.png", encoded(picture.convert("1"), "PNG")),
        "1x1 png": ("dot.png", encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")),
        "20000x3 png": ("line.png", encoded(Image.new("RGB", (20000, 3), (200, 0, 0)), "PNG")),
        "animated gif": ("film.gif", encoded(picture, "GIF", **animation)),
        "animated png": ("film.png", encoded(picture, "PNG", **animation)),
        "animated webp": ("film.webp", encoded(picture, "WEBP", lossless=True, **animation)),
        "grey 16-bit tiff": ("grey16.tif", grey_tiff(grey_16.astype("<u2").tobytes(), WIDTH, HEIGHT)),
        "bmp": ("plain.bmp", encoded(picture, "BMP")),
        "ppm": ("plain.ppm", encoded(picture, "PPM")),
        "non-ascii and spaced name": ("żółw nad rzeką 海.jpg", jpeg),
        "cut jpeg": ("cut.jpg", jpeg[: len(jpeg) * 2 // 3]),
        "cut png": ("cut.png", plain_png[: len(plain_png) // 2]),
        "cut gif": ("cut.gif", gif[: len(gif) - 200]),
        "png with a broken checksum": ("checksum.png", bytes(broken)),
        "zero bytes": ("empty.jpg", b""),
        "text named jpg": ("notes.jpg", b"not an image, whatever its name says\n" * 20),
        "html named png": ("404.png", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
        "signature alone": ("signature.png", plain_png[:8]),
        "60000x60000 png": ("bomb.png", png(np.zeros((1, 1), dtype=np.uint8), 0, size=(60000, 60000))),
        "float tiff": ("float.tif", encoded(Image.new("F", (4, 4), 0.5), "TIFF")),
        "32-bit tiff": ("int32.tif", encoded(Image.new("I", (4, 4), 70000), "TIFF")),
    }
    written = {}
    for name in names:
        if name in files:
            written[name] = folder / files[name][0]
            written[name].write_bytes(files[name][1])
        else:
            written[name] = folder / {"folder": "folder.jpg", "missing": "missing.jpg", "broken link": "link.jpg"}[name]
            if name == "folder":
                written[name].mkdir()
            elif name == "broken link":
                written[name].symlink_to(folder / "nowhere.jpg")
    return written
