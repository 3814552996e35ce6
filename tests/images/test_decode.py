"""Finding, decoding and batching images: odd ones decode to the right pixels, bad ones fail with a reason and alone."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_images import DECODES, FAILS, encoded, grey_tiff, png, png_chunk, scene, write_hostile_images
from PIL import Image, ImageFile, features

from gpuannot.datasets.scenes import draw_scene
from gpuannot.errors import ImageError
from gpuannot.images import decode as images
from gpuannot.images.batches import ImageBatches, ImageFailure
from gpuannot.images.decode import decode_image

pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")  # Pillow's, on the corrupt files
not_as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads files of any permission")
GREY_16 = np.array([[0, 128, 129, 255, 256, 32768, 65406, 65407, 65535]], dtype=np.uint16)
GREY_16_AS_8 = [0, 0, 1, 1, 1, 128, 254, 255, 255]  # round(v / 257): 128 / 257 = 0.498, 129 / 257 = 0.502
RED, WHITE = (255, 0, 0), (255, 255, 255)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_hostile_images(tmp_path_factory.mktemp("hostile"))


# ---- decode_image: the files


@pytest.mark.parametrize("name", DECODES)
def test_odd_file_decodes(hostile: dict[str, Path], name: str) -> None:
    pixels = decode_image(hostile[name])
    assert pixels.shape == (*DECODES[name], 3) and pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous and pixels.flags.writeable
    assert np.array_equal(pixels, decode_image(hostile[name].read_bytes()))
    assert decode_image(str(hostile[name]), 16).shape == (16, 16, 3)


@pytest.mark.parametrize("name", FAILS)
def test_bad_file_says_why(hostile: dict[str, Path], name: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(hostile[name], 16)
    reason = caught.value.reason
    assert FAILS[name][1] in reason and caught.value.path == str(hostile[name])
    assert "Error" not in reason and "0x" not in reason and "\n" not in reason


@pytest.mark.parametrize(
    "name", ["jpeg", "png named jpg", "no suffix", "bmp", "ppm", "animated gif", "animated png", "animated webp"]
)
def test_pixels_are_the_scene(hostile: dict[str, Path], name: str) -> None:
    exact = name not in {"jpeg", "no suffix", "animated gif"}
    difference = np.abs(decode_image(hostile[name]).astype(int) - scene())
    assert difference.max() <= (0 if exact else 60) and difference.mean() < 6


@pytest.mark.parametrize("format", ["JPEG2000", "AVIF"])
def test_optional_formats(format: str) -> None:
    if not features.check({"JPEG2000": "jpg_2000", "AVIF": "avif"}[format]):
        pytest.skip(f"this Pillow has no {format}")
    assert np.abs(decode_image(encoded(scene(), format)).astype(int) - scene()).mean() < 8


@not_as_root
def test_unreadable_file(tmp_path: Path) -> None:
    path = write_hostile_images(tmp_path, ["jpeg"])["jpeg"]
    path.chmod(0)
    with pytest.raises(ImageError, match="no permission"):
        decode_image(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_named_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        decode_image(tmp_path / "pipe.jpg")


def test_impossible_file_names() -> None:
    with pytest.raises(ImageError, match="cannot be opened: embedded null"):
        decode_image("a\0b.jpg")
    with pytest.raises(ImageError, match="cannot be opened"):
        decode_image("x" * 5000)


def test_every_cut_of_a_jpeg_header_fails_cleanly() -> None:
    data = encoded(scene(), "JPEG")
    for length in range(data.index(b"\xff\xda") + 20):
        with pytest.raises(ImageError):
            decode_image(data[:length])


# ---- decode_image: the colours


def test_cmyk_jpeg_is_not_inverted() -> None:
    blocks = np.zeros((16, 64, 3), dtype=np.uint8)
    for i, colour in enumerate([RED, (0, 0, 255), WHITE, (0, 0, 0)]):
        blocks[:, 16 * i : 16 * i + 16] = colour
    data = encoded(Image.fromarray(blocks).convert("CMYK"), "JPEG", quality=95)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert np.abs(decode_image(data).astype(int) - blocks).max() <= 12


def test_grey_of_16_bits_is_scaled_not_clipped() -> None:
    little, big = (grey_tiff(GREY_16.astype(f"{order}u2").tobytes(), 9, 1, order=order) for order in "<>")
    compressed = encoded(Image.fromarray(GREY_16), "TIFF", compression="tiff_lzw")
    pgm = b"P5 9 1 65535\n" + GREY_16.astype(">u2").tobytes()
    wide = Image.fromarray(GREY_16.astype(np.int32))
    for source in (png(GREY_16, 0), little, big, compressed, pgm, wide):
        pixels = decode_image(source)
        assert pixels[0, :, 0].tolist() == GREY_16_AS_8
        assert (pixels == pixels[..., :1]).all()


def test_grey_tiff_white_is_zero_and_12_bits() -> None:
    negative = grey_tiff(GREY_16.astype("<u2").tobytes(), 9, 1, white_is_zero=True)
    assert decode_image(negative)[0, :, 0].tolist() == [255 - value for value in GREY_16_AS_8]
    twelve = grey_tiff(bytes([0xFF, 0xF0, 0x00, 0x80, 0x00, 0x00]), 4, 1, bits=12)  # 4095, 0, 2048, 0
    assert decode_image(twelve)[0, :, 0].tolist() == [255, 0, 128, 0]


def test_grey_out_of_range_is_refused() -> None:
    for low, high in ((-1, 5), (0, 65536)):
        with pytest.raises(ImageError, match=f"grey values from {low} to {high}"):
            decode_image(Image.fromarray(np.array([[low, high]], dtype=np.int32)))


def test_colour_of_16_bits_keeps_the_high_byte() -> None:
    values = np.array([[[0, 255, 256], [32768, 65279, 65535]]], dtype=np.uint16)
    assert decode_image(png(values, 2)).tolist() == [[[0, 0, 1], [128, 254, 255]]]


def test_transparency_shows_white() -> None:
    rgba = np.array([[[*RED, 255], [*RED, 128], [*RED, 0], [0, 0, 0, 0]]], dtype=np.uint8)
    over_white = [RED, (255, 127, 127), WHITE, WHITE]
    for source in (encoded(rgba, "PNG"), encoded(rgba, "WEBP", lossless=True, exact=True), Image.fromarray(rgba)):
        assert np.abs(decode_image(source)[0].astype(int) - over_white).max() <= 1
    la = Image.fromarray(np.array([[[40, 255], [40, 128], [40, 0]]], dtype=np.uint8), "LA")
    assert np.abs(decode_image(encoded(la, "PNG"))[0, :, 0].astype(int) - [40, 147, 255]).max() <= 1


def test_transparent_entries_show_white() -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([*RED, 0, 255, 0, 0, 0, 255])
    palette.putdata([0, 1, 2])
    one, per_entry = encoded(palette, "PNG", transparency=1), encoded(palette, "PNG", transparency=bytes([255, 0, 128]))
    assert decode_image(one).tolist() == [[[*RED], [*WHITE], [0, 0, 255]]]
    assert np.abs(decode_image(per_entry)[0].astype(int) - [RED, WHITE, (127, 127, 255)]).max() <= 1
    assert decode_image(encoded(palette, "GIF", transparency=1)).tolist() == [[[*RED], [*WHITE], [0, 0, 255]]]
    assert decode_image(encoded(palette, "PNG")).tolist() == [[[*RED], [0, 255, 0], [0, 0, 255]]]
    grey = png(np.array([[0, 9]], dtype=np.uint8), 0, extra=png_chunk(b"tRNS", b"\0\x09"))
    grey_16 = png(np.array([[0, 900]], dtype=np.uint16), 0, extra=png_chunk(b"tRNS", struct.pack(">H", 900)))
    colour = png(np.array([[[1, 2, 3], RED]], dtype=np.uint8), 2, extra=png_chunk(b"tRNS", b"\0\xff\0\0\0\0"))
    assert decode_image(grey)[0, :, 0].tolist() == decode_image(grey_16)[0, :, 0].tolist() == [0, 255]
    assert decode_image(colour).tolist() == [[[1, 2, 3], [*WHITE]]]


def test_transparency_is_flattened_before_the_warp() -> None:
    rgba = np.zeros((64, 64, 4), dtype=np.uint8)  # black, opaque in every second column
    rgba[:, ::2, 3] = 255
    assert np.abs(decode_image(Image.fromarray(rgba), 8)[:, 1:-1].astype(int) - 127).max() <= 12


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "LA", "PA", "RGBa", "I;16"])
def test_every_mode_gives_rgb(mode: str) -> None:
    image = Image.new(mode, (5, 4))
    before = image.tobytes()
    assert decode_image(image).shape == (4, 5, 3)
    assert image.mode == mode and image.tobytes() == before


# ---- decode_image: orientation


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """EXIF 2.32, 4.6.4: where row 0 and column 0 of the stored pixels belong in the picture."""
    return {
        1: stored,  # top, left
        2: stored[:, ::-1],  # top, right
        3: stored[::-1, ::-1],  # bottom, right
        4: stored[::-1],  # bottom, left
        5: stored.swapaxes(0, 1),  # left, top
        6: np.rot90(stored, -1),  # right, top
        7: stored[::-1, ::-1].swapaxes(0, 1),  # right, bottom
        8: np.rot90(stored, 1),  # left, bottom
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "compressed TIFF"])
def test_exif_orientation(format: str, orientation: int) -> None:
    options: dict[str, Any] = {"lossless": True} if format == "WEBP" else {}
    if format == "compressed TIFF":
        format, options = "TIFF", {"compression": "tiff_lzw"}
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = decode_image(encoded(scene(), format, **options))
    assert np.array_equal(decode_image(encoded(scene(), format, exif=exif, **options)), upright(stored, orientation))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_corrupt_exif_keeps_the_image(format: str) -> None:
    whole = Image.Exif()
    whole[0x0112], whole[0x010E] = 6, "a description longer than four bytes"
    tail = whole.tobytes()[:-20]  # the directory is whole, what it points to is cut
    junk = [
        b"",
        b"Exif\0\0",
        b"Exif\0\0XX*\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x99" * 64,
        tail,
    ]
    for exif in junk:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Pillow's "Corrupt EXIF data"
            pixels = decode_image(encoded(scene(), format, exif=exif))
        assert sorted(pixels.shape) == sorted(scene().shape)


# ---- decode_image: hostile bytes and limits


def test_bomb_is_refused_from_its_header(hostile: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def must_not_run(self: ImageFile.ImageFile) -> None:
        raise AssertionError("the pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", must_not_run)
    with pytest.raises(ImageError, match="60000×60000 pixels; expected 1 to 178956970"):
        decode_image(hostile["60000x60000 png"])


@pytest.mark.parametrize("format", ["PNG", "TIFF", "GIF"])
def test_pixel_limit_and_pillows_warning(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between Pillow's soft limit and MAX_PIXELS an image decodes, silently, even where warnings are errors."""
    data = encoded(scene(10, 12), format)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        assert decode_image(data).shape == (10, 12, 3)
        assert list(warnings.filters) == before
    monkeypatch.setattr(images, "MAX_PIXELS", 120)
    assert decode_image(data).shape == (10, 12, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 119)
    with pytest.raises(ImageError, match="12×10 pixels; expected 1 to 119"):
        decode_image(data)


def test_pillows_own_bomb_error_is_an_image_error(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(scene(10, 12), "TIFF")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(ImageError, match="pixels"):
        decode_image(data)


RAISED = [OSError, SyntaxError, ValueError, struct.error, EOFError, MemoryError, OverflowError, zlib.error, IndexError, KeyError]


@pytest.mark.parametrize(
    "error", [*RAISED, TypeError, AssertionError, RecursionError, Image.DecompressionBombError, KeyboardInterrupt]
)
def test_whatever_a_reader_raises(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: ImageFile.ImageFile) -> None:
        raise error("something")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    words = {"MemoryError": "not enough memory", "KeyError": "broken image data$", "EOFError": "truncated"}.get(error.__name__)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else ImageError, match=words):
        decode_image(encoded(scene(), "PNG"))


def mutated(data: bytes, rng: np.random.Generator, *, is_png: bool) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        at = int(rng.integers(len(changed)))
        kind = rng.integers(4)
        if kind == 0:
            changed[at] = int(rng.integers(256))
        elif kind == 1:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            changed[at : at + int(rng.integers(1, 9))] = rng.bytes(int(rng.integers(0, 9)))
        else:
            del changed[max(at, 12) :]
    at = 8
    while is_png and at + 12 <= len(changed):  # true checksums again, or no mutation would get past them
        end = at + 8 + int.from_bytes(changed[at : at + 4], "big")
        changed[end : end + 4] = struct.pack(">I", zlib.crc32(changed[at + 4 : end]))
        at = end + 4
    return bytes(changed)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "TIFF", "WEBP"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_fuzz(format: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 1_000_000)  # keeps mutated headers from asking for gigabytes
    rng = np.random.default_rng(20)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"compression": "tiff_lzw"} if format == "TIFF" else {} if format == "GIF" else {"exif": exif}
    data = encoded(scene(), format, **options)
    decoded = 0
    for _ in range(120):
        try:
            pixels = decode_image(mutated(data, rng, is_png=format == "PNG"), 16)
        except ImageError as error:
            assert error.reason
        else:
            assert pixels.shape == (16, 16, 3)
            decoded += 1
    assert 0 < decoded < 120  # both outcomes were met
    written = capfd.readouterr()
    assert written.out == "" and (written.err == "" or format == "TIFF")  # libtiff prints its complaints itself
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


# ---- decode_image: arrays, tensors, sizes


def test_arrays_and_tensors() -> None:
    pixels = scene()
    strided = np.asfortranarray(pixels)[::-1, ::2]
    for source in (pixels, torch.from_numpy(pixels).permute(2, 0, 1), Image.fromarray(pixels)):
        decoded = decode_image(source)
        assert np.array_equal(decoded, pixels) and not np.shares_memory(decoded, pixels)
    assert np.array_equal(decode_image(strided), strided)
    assert np.array_equal(decode_image(pixels[..., 0]), pixels[..., :1].repeat(3, 2))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((4, 5, 4), np.uint8), r"\(H, W, 3\).*shape \(4, 5, 4\) of uint8"),
        (np.zeros((3, 4, 5), np.uint8), r"shape \(3, 4, 5\)"),
        (np.zeros(5, np.uint8), r"shape \(5,\)"),
        (np.zeros((4, 5, 3), np.float32), "uint8.*of float32"),
        (np.zeros((0, 5, 3), np.uint8), "at least one pixel"),
        (torch.zeros(4, 5, 3, dtype=torch.uint8), r"a tensor \(3, H, W\)"),
        (torch.zeros(3, 4, 5), "of float32"),
        (Image.new("RGB", (0, 5)), "0×5 pixels"),
        (None, "got NoneType"),
    ],
)
def test_wrong_arrays(source: Any, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        decode_image(source, name="row 7")
    assert caught.value.path == "row 7"


@pytest.mark.parametrize("name", ["bicubic", "bilinear"])
def test_warp_is_pillows_antialiased_one(hostile: dict[str, Path], name: str) -> None:
    expected = Image.open(hostile["jpeg"]).convert("RGB").resize((30, 20), Image.Resampling[name.upper()])
    assert np.array_equal(decode_image(hostile["jpeg"], (20, 30), interpolation=name), np.asarray(expected))
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    shrunk = decode_image(stripes, 16, interpolation=name)[:, 1:-1]
    assert np.abs(shrunk.astype(int) - 127).max() <= 12  # without antialias 0 or 255


@pytest.mark.parametrize(
    ("width", "height", "fraction"), [(127, 300, 1), (300, 128, 2), (255, 257, 2), (301, 256, 4), (700, 513, 8)]
)
def test_a_jpeg_is_reduced_to_twice_the_target_at_least(width: int, height: int, fraction: int) -> None:
    pixels = np.asarray(draw_scene(3, (width, height))[0])
    files = {}
    for format in ("JPEG", "PNG"):
        file = io.BytesIO()
        turned = Image.Exif()
        turned[0x0112] = 6
        Image.fromarray(pixels).save(file, format, quality=95, exif=turned)
        files[format] = file.getvalue()
    found, whole = (decode_image(files["JPEG"], 32, interpolation=name) for name in ("bicubic_reduced", "bicubic"))
    small = Image.open(io.BytesIO(files["JPEG"]))
    small.draft(None, (width // fraction, height // fraction))
    assert small.size == (-(-width // fraction), -(-height // fraction)) and min(small.size) >= 64
    expected = small.transpose(Image.Transpose.ROTATE_270).resize((32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(found, np.asarray(expected))
    assert np.array_equal(found, whole) == (fraction == 1) and np.abs(found.astype(int) - whole).mean() < 2.5
    for other in (files["PNG"], pixels):  # nothing else can be
        plain, reduced = (decode_image(other, 32, interpolation=name) for name in ("bicubic", "bicubic_reduced"))
        np.testing.assert_array_equal(plain, reduced)
    cut = decode_image(files["JPEG"][:-2], 32, interpolation="bicubic_reduced")  # without its end marker
    assert np.abs(cut.astype(int) - whole).mean() < 2.5


@pytest.mark.parametrize("size", [0, -1, (0, 5), (5, -5)])
def test_wrong_size(size: Any) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        decode_image(scene(), size)


# ---- ImageBatches


def collect(batches: ImageBatches) -> tuple[list[list[int]], torch.Tensor]:
    taken = list(batches)
    return [index.tolist() for index, _ in taken], torch.cat([batch for _, batch in taken])


def numbered(count: int) -> list[np.ndarray]:
    return [np.full((9, 7), i, dtype=np.uint8) for i in range(count)]


def test_batches_skip_failures_in_place(hostile: dict[str, Path]) -> None:
    names = [
        "missing",
        "jpeg",
        "bmp",
        "cut jpeg",
        "zero bytes",
        "folder",
        "ppm",
        "text named jpg",
        "rotated jpeg",
        "1x1 png",
        "cut png",
    ]
    batches = ImageBatches([hostile[name] for name in names], size=16, batch_size=3, workers=2)
    index, pixels = collect(batches)
    assert index == [[1, 2], [6, 8], [9]] and len(batches) == len(names)
    assert [(failure.path, failure.stage) for failure in batches.failures] == [
        (str(hostile[name]), FAILS[name][0]) for name in names if name in FAILS
    ]
    assert all(FAILS[names[i]][1] in batches.failures[j].reason for j, i in enumerate([0, 3, 4, 5, 7, 10]))
    for position, image in zip([i for part in index for i in part], pixels, strict=True):
        with Image.open(hostile[names[position]]) as opened:
            turned = opened.transpose(Image.Transpose.ROTATE_270) if names[position] == "rotated jpeg" else opened
            expected = np.asarray(turned.convert("RGB").resize((16, 16), Image.Resampling.BICUBIC))
            assert np.array_equal(image.permute(1, 2, 0), expected)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batch_form(batch_size: int) -> None:
    expected = [list(range(start, min(start + batch_size, 10))) for start in range(0, 10, batch_size)]
    for (index, batch), positions in zip(ImageBatches(numbered(10), size=8, batch_size=batch_size), expected, strict=True):
        assert index.dtype == np.int64 and index.tolist() == positions
        assert batch.dtype == torch.uint8 and batch.shape == (len(positions), 3, 8, 8)
        assert batch.is_contiguous(memory_format=torch.channels_last) and batch.permute(0, 2, 3, 1).is_contiguous()
        assert (batch == torch.from_numpy(index)[:, None, None, None]).all()


def test_batch_form_after_a_failure() -> None:
    sources: list[Any] = [*numbered(2), b"bad", *numbered(1)]
    [(index, batch)] = ImageBatches(sources, size=8)
    assert index.tolist() == [0, 1, 3] and batch[:, 0, 0, 0].tolist() == [0, 1, 0]
    assert batch.is_contiguous(memory_format=torch.channels_last) and batch.permute(0, 2, 3, 1).is_contiguous()


def test_nothing_to_yield() -> None:
    assert list(ImageBatches([], size=8)) == []
    bad = ImageBatches([b"", b"junk", b""], size=8, batch_size=2, names=["p", "q", "r"])
    assert list(bad) == []
    assert [failure.path for failure in bad.failures] == ["p", "q", "r"]
    assert bad.failures[0] == ImageFailure("p", "decode", "empty file (0 bytes)")
    assert list(bad) == [] and len(bad.failures) == 3


def test_workers_and_repeats_agree_bit_for_bit(hostile: dict[str, Path]) -> None:
    paths = list(hostile.values()) * 2
    one, four = (ImageBatches(paths, size=24, batch_size=5, workers=workers) for workers in (1, 4))
    first, again, other = collect(one), collect(one), collect(four)
    assert first[0] == again[0] == other[0] and torch.equal(first[1], again[1]) and torch.equal(first[1], other[1])
    assert one.failures == four.failures and len(one.failures) + len(first[1]) == len(paths)


def test_stacked_images() -> None:
    stack = np.stack([scene(), 255 - scene(), scene() // 2])
    from_array = collect(ImageBatches(stack, size=24, batch_size=2))
    from_tensor = collect(ImageBatches(torch.from_numpy(stack).permute(0, 3, 1, 2), size=24, batch_size=2))
    assert from_array[0] == from_tensor[0] == [[0, 1], [2]] and torch.equal(from_array[1], from_tensor[1])
    assert np.array_equal(from_array[1][1].permute(1, 2, 0), decode_image(stack[1], 24))


def test_raise_stops_at_the_first_failure_in_order() -> None:
    sources: list[Any] = [scene(), b"", b"junk", *numbered(20)]
    with pytest.raises(ImageError, match=r"image 1: empty file"):
        list(ImageBatches(sources, size=8, batch_size=4, on_error="raise"))
    [first, *_] = ImageBatches(sources[:1], size=8, on_error="raise")
    assert first[0].tolist() == [0]


class Counting(list[Any]):
    """Counts how many of its items were asked for."""

    asked = 0

    def __getitem__(self, i: Any) -> Any:
        self.asked += 1
        return super().__getitem__(i)


def decode_threads() -> int:
    return sum(thread.name.startswith("gpuannot-decode") for thread in threading.enumerate())


def test_leaving_early_stops_the_decoding() -> None:
    sources = Counting(numbered(100))
    for _ in ImageBatches(sources, size=8, batch_size=4, workers=2):
        break
    assert sources.asked == 12 and decode_threads() == 0
    sources.asked = 0
    with pytest.raises(RuntimeError, match="consumer"):
        for _ in ImageBatches(sources, size=8, batch_size=4, workers=2):
            raise RuntimeError("consumer")
    assert sources.asked == 12
    assert decode_threads() == 0


def test_two_iterations_at_once_do_not_mix() -> None:
    batches = ImageBatches(numbered(9), size=8, batch_size=2)
    for (left, left_batch), (right, right_batch) in zip(batches, batches, strict=True):
        assert left.tolist() == right.tolist() and torch.equal(left_batch, right_batch)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"images": "one.jpg"}, TypeError, "one str"),
        ({"images": scene()}, ValueError, r"shape \(24, 32, 3\)"),
        ({"size": 0}, ValueError, "size is 0"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"workers": 0}, ValueError, "workers is 0"),
        ({"names": ["a"]}, ValueError, "1 names for 2 images"),
        ({"on_error": "ignore"}, ValueError, "'skip' or 'raise'"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    defaults: dict[str, Any] = {"images": numbered(2), "size": 8}
    with pytest.raises(error, match=words):
        ImageBatches(**(defaults | arguments))
