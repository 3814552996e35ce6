"""HEIC, AVIF and JPEG XL, by plug-ins that an extra installs; signatures, not suffixes, decide."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hostile_images import encoded, scene
from icc import rgb_profile
from PIL import Image

from gpuannot.errors import ImageError
from gpuannot.images.decode import IMAGE_SUFFIXES, decode_image
from gpuannot.images.jxl_header import jxl_size

HEIC_START = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + b"\0" * 40
JXL_STARTS = (b"\xff\x0a\xfa\x7f\x01\x90\x08\x06\x01\x00\x48\x00", b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl \0\0\0\0jxl ")


def heif(pixels: np.ndarray, **options: object) -> bytes:
    pytest.importorskip("pillow_heif").register_heif_opener()
    return encoded(pixels, "HEIF", quality=100, **options)


def jxl(pixels: np.ndarray, **options: object) -> bytes:
    pytest.importorskip("pillow_jxl")
    return encoded(pixels, "JXL", lossless=True, **options)


@pytest.mark.parametrize(
    ("start", "module", "words"),
    [
        (HEIC_START, "pillow_heif", r'HEIC needs pillow-heif: pip install "\.\[formats\]" in the folder'),
        (HEIC_START.replace(b"ftypheic", b"ftypmif1"), "pillow_heif", "HEIC needs pillow-heif"),
        (JXL_STARTS[0], "pillow_jxl", r'JPEG XL needs pillow-jxl-plugin: pip install "\.\[formats\]" in the folder'),
        (JXL_STARTS[1], "pillow_jxl", "JPEG XL needs pillow-jxl-plugin"),
    ],
)
def test_without_the_plug_in(start: bytes, module: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # Python's own way to say that a module is not there
    with pytest.raises(ImageError, match=words):
        decode_image(start)


def test_suffixes() -> None:
    assert {".heic", ".heif", ".hif", ".jxl", ".avif", ".mpo"} <= IMAGE_SUFFIXES


def test_heic(tmp_path: Path) -> None:
    (tmp_path / "named.jpg").write_bytes(heif(scene(48, 64)))
    assert np.abs(decode_image(tmp_path / "named.jpg").astype(int) - scene(48, 64)).mean() < 3
    assert decode_image(heif(scene(48, 64)).replace(b"ftypheic", b"ftypmif1")).shape == (48, 64, 3)


def test_heic_turned_and_with_a_profile() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert np.abs(decode_image(heif(scene(48, 64), exif=exif.tobytes())).astype(int) - np.rot90(scene(48, 64), -1)).mean() < 3
    plain = decode_image(heif(scene(48, 64))).astype(int)
    profiled = decode_image(heif(scene(48, 64), icc_profile=rgb_profile("Display P3"))).astype(int)
    assert np.abs(profiled - plain).max() > 10


def test_jpeg_xl() -> None:
    for data in (jxl(scene()), jxl(scene(), use_container=True)):
        assert data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL")) and np.array_equal(decode_image(data), scene())
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(decode_image(jxl(grey))[..., 1], grey)


@pytest.mark.parametrize("cut", [3, 13, 60])
def test_cut_plug_in_files(cut: int) -> None:
    for data in (heif(scene(48, 64)), jxl(scene()), jxl(scene(), use_container=True)):
        with pytest.raises(ImageError) as caught:
            decode_image(data[:-cut])
        assert "Error" not in caught.value.reason
        with pytest.raises(ImageError):
            decode_image(data[:cut])


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (8, 8), (37, 501), (256, 256), (300, 400), (180, 320), (600, 500), (1025, 7), (9000, 3)]
)
def test_size_of_jpeg_xl_is_read_before_it_is_decoded(height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.zeros((height, width, 3), np.uint8)
    for data in (jxl(pixels), jxl(pixels, use_container=True)):
        assert jxl_size(data) == (width, height)
    from gpuannot.images import decode as images

    monkeypatch.setattr(images, "MAX_PIXELS", height * width - 1)
    with pytest.raises(ImageError, match="pixels; expected 1 to"):
        decode_image(jxl(pixels))
