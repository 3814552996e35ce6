"""ICC profiles: colours come out as sRGB, whatever space they were written in; a profile never costs an image."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hostile_images import encoded, png_chunk, scene
from icc import cmyk_profile, grey_profile, linear_of_srgb, rgb_profile, to_xyz
from PIL import Image

from gpuannot.images.decode import decode_image
from gpuannot.images.jpeg_header import read_jpeg_header
from gpuannot.images.profiles import MAX_PROFILE, is_srgb

SPACES: dict[str, float | None] = {"Display P3": None, "Adobe RGB": 2.19921875, "ProPhoto": 1.8}
FORMATS = {
    "PNG": {},
    "TIFF": {},
    "WEBP": {"lossless": True},
    "JPEG": {"quality": 100, "subsampling": 0},
}


def in_space(srgb: np.ndarray, space: str) -> np.ndarray:
    """The same colours in another space, by the matrices alone; (H, W, 3) uint8, all within its gamut."""
    linear = linear_of_srgb(srgb / 255) @ np.linalg.solve(to_xyz(space), to_xyz("sRGB")).T
    gamma = SPACES[space]
    if gamma is not None:
        values = linear.clip(0, 1) ** (1 / gamma)
    else:
        values = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clip(0) ** (1 / 2.4) - 0.055)
    return np.round(values.clip(0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("space", SPACES)
def test_a_copy_in_another_space_decodes_to_the_same(space: str, format: str) -> None:
    copy = in_space(scene(), space)
    assert np.abs(copy.astype(int) - scene()).max() > 10
    data = encoded(copy, format, icc_profile=rgb_profile(space, SPACES[space]), **FORMATS[format])
    difference = np.abs(decode_image(data).astype(int) - scene())
    # In a wide gamut a step of 8 bits is up to seven of sRGB's in saturated colours, and JPEG rounds before that.
    assert difference.max() <= (20 if format == "JPEG" else 8) and difference.mean() < (1.5 if format == "JPEG" else 0.5)


@pytest.mark.parametrize("size", [8, 100])
def test_warped_copies_are_alike(size: int) -> None:
    """A profile is applied before or after the warp, to whichever has fewer pixels."""
    expected = decode_image(encoded(scene(), "PNG"), size).astype(int)
    for space, gamma in SPACES.items():
        data = encoded(in_space(scene(), space), "PNG", icc_profile=rgb_profile(space, gamma))
        difference = np.abs(decode_image(data, size) - expected)
        assert difference.mean() < 1.5 and difference.max() < 20, space  # between colours a warp rounds and clips in its own space


def test_modes_with_a_profile() -> None:
    profile, copy = rgb_profile("Display P3"), in_space(scene(), "Display P3")
    rgba = np.dstack([copy, np.full(copy.shape[:2], 255, np.uint8)])
    rgba[0, 0, 3] = 0
    pixels = decode_image(encoded(rgba, "PNG", icc_profile=profile))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert np.abs(pixels[1:].astype(int) - scene()[1:]).max() <= 3
    few = Image.fromarray(copy).quantize(8)
    expected = decode_image(encoded(few.convert("RGB"), "PNG", icc_profile=profile))
    assert np.array_equal(decode_image(encoded(few, "PNG", icc_profile=profile)), expected)


def test_grey_profile() -> None:
    grey = np.arange(256, dtype=np.uint8)[None]
    linear = (grey / 255) ** 1.8
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    for format in ("PNG", "TIFF"):
        pixels = decode_image(encoded(grey, format, icc_profile=grey_profile(1.8)))
        assert (pixels == pixels[..., :1]).all() and np.abs(pixels[..., 0] - srgb * 255).max() <= 2
    assert decode_image(encoded(grey, "PNG", icc_profile=rgb_profile("Adobe RGB", 1.0)))[0, :, 0].tolist() == list(range(256))


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
def test_cmyk_profile(format: str) -> None:
    """At the corners of the printer's table its colours come out, which have nothing of Pillow's formula."""
    colours = np.random.default_rng(1).integers(40, 216, (2, 2, 2, 2, 3))
    colours[0, 0, 0, 0] = 255
    colours[..., 1, :] = 0  # black point compensation: the darkest is black
    ink = np.stack(np.meshgrid(*[[0, 255]] * 4, indexing="ij"), axis=-1).reshape(1, 16, 4).astype(np.uint8)
    image = Image.merge("CMYK", [Image.fromarray(ink[..., c].repeat(16, 0).repeat(16, 1)) for c in range(4)])
    options: dict[str, Any] = {"quality": 100} if format == "JPEG" else {}
    pixels = decode_image(encoded(image, format, icc_profile=cmyk_profile(colours), **options))
    assert np.abs(pixels[8, 8::16].astype(int) - colours.reshape(16, 3)).max() <= 4


def test_what_is_srgb_stays_as_it_is() -> None:
    for profile in (rgb_profile("sRGB"), rgb_profile("sRGB", description=b"Display P3")):
        assert is_srgb(profile)
        assert np.array_equal(decode_image(encoded(scene(), "PNG", icc_profile=profile)), scene())
    assert not is_srgb(rgb_profile("Display P3", description=b"sRGB IEC61966-2.1"))
    assert not is_srgb(rgb_profile("sRGB", 1.0))


JUNK = {
    "empty": b"",
    "text": b"no profile at all" * 20,
    "cut": rgb_profile("Display P3")[:200],
    "header": rgb_profile("Display P3")[:128],
    "tags beyond the end": rgb_profile("Display P3")[:128] + b"\xff" * 400,
    "too long": rgb_profile("Display P3").ljust(MAX_PROFILE + 1, b"\0"),
    "grey in RGB": grey_profile(1.0),
}


@pytest.mark.parametrize("name", JUNK)
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_a_broken_profile_costs_no_image(format: str, name: str) -> None:
    if format == "JPEG" and len(JUNK[name]) > MAX_PROFILE:
        pytest.skip("longer than Pillow writes")
    options: dict[str, Any] = {"lossless": True} if format == "WEBP" else {}
    plain = decode_image(encoded(scene(), format, **options))
    assert np.array_equal(decode_image(encoded(scene(), format, icc_profile=JUNK[name], **options)), plain)


def test_profile_of_a_png_is_read_from_its_chunk_alone() -> None:
    import zlib

    data = encoded(in_space(scene(), "Display P3"), "PNG")
    chunk = png_chunk(b"iCCP", b"p\0\0" + zlib.compress(rgb_profile("Display P3")))
    assert np.abs(decode_image(data[:33] + chunk + data[33:]).astype(int) - scene()).max() <= 3
    broken = chunk[:-1] + bytes([chunk[-1] ^ 1])
    assert np.array_equal(decode_image(data[:33] + broken + data[33:]), in_space(scene(), "Display P3"))


def test_the_gpu_is_not_given_jpegs_to_convert() -> None:
    def suits(**options: Any) -> bool:
        header = read_jpeg_header(encoded(scene(), "JPEG", **options))
        assert header is not None
        return header.suits_gpu

    assert suits() and suits(icc_profile=rgb_profile("sRGB")) and suits(icc_profile=b"junk")
    for space, gamma in SPACES.items():
        assert not suits(icc_profile=rgb_profile(space, gamma))
    assert not suits(icc_profile=rgb_profile("Display P3").ljust(200_000, b"\0"))  # in four segments


def test_threads_convert_alike() -> None:
    sources = [encoded(in_space(scene(), space), "PNG", icc_profile=rgb_profile(space, gamma)) for space, gamma in SPACES.items()]
    expected = [decode_image(source) for source in sources]
    wrong: list[int] = []

    def work() -> None:
        for _ in range(20):
            wrong.extend(i for i, source in enumerate(sources) if not np.array_equal(decode_image(source), expected[i]))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
