"""TIFF of every layout: the pixels that its samples say by the specification, or a reason that is true."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hostile_images import encoded, scene
from PIL import Image
from tiffs import CIELAB, CMYK, DEFLATE, ICCLAB, LZW, MIN_IS_BLACK, MIN_IS_WHITE, NONE, PACKBITS, PALETTE, RGB, YCBCR, tiff

from gpuannot.errors import ImageError
from gpuannot.images.decode import decode_image
from gpuannot.images.tiff import MAX_STRIPS

tifffile = pytest.importorskip("tifffile", reason="needs tifffile, which the test extra brings")

HEIGHT, WIDTH = 19, 37  # more than one strip and tile, and odd
COLOURS = {MIN_IS_WHITE: 1, MIN_IS_BLACK: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, CIELAB: 3, ICCLAB: 3}


def ramp(k: int) -> np.ndarray:
    """(H, W), 0…1, another pattern for each k."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return (y * (3 + 2 * k) + x * (5 + 3 * k) + 11 * k * k) % 97 / 96


def samples_of(photometric: int, bits: int, extra: tuple[int, ...]) -> np.ndarray:
    """(H, W, C) int64: soft colours, then the extra samples; the first of these multiplies the colours where ``extra`` says 1."""
    top = 2**bits - 1
    colours = [ramp(k) for k in range(COLOURS[photometric])]
    if photometric in (CIELAB, ICCLAB):
        colours = [0.3 + 0.4 * colours[0], 0.5 + 0.1 * (colours[1] - 0.5), 0.5 + 0.1 * (colours[2] - 0.5)]
    more = [0.3 + 0.7 * ramp(7), ramp(8)][: len(extra)]
    if extra[:1] == (1,):
        colours = [colour * more[0] for colour in colours]
    samples = np.round(np.stack(colours + more, axis=-1) * top).astype(np.int64)
    if photometric == CIELAB:
        samples[..., 1:3] = (samples[..., 1:3] - 2 ** (bits - 1)) % 2**bits
    return samples


def colours_of(values: np.ndarray, photometric: int, palette: np.ndarray) -> np.ndarray:
    """(H, W, 3), 0…1, from the colour samples, 0…1 (a palette's: its indices)."""
    if photometric == MIN_IS_WHITE:
        return 1 - values.repeat(3, axis=2)
    if photometric == MIN_IS_BLACK:
        return values.repeat(3, axis=2)
    if photometric == PALETTE:
        return palette.T[np.round(values[..., 0]).astype(int)] / 65535
    if photometric == CMYK:
        return (1 - values[..., :3]) * (1 - values[..., 3:])
    if photometric == YCBCR:
        y, b, r = values[..., 0], values[..., 1] - 128 / 255, values[..., 2] - 128 / 255
        return np.stack([y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b], axis=-1).clip(0, 1)
    if photometric in (CIELAB, ICCLAB):
        from skimage.color import lab2xyz

        offset = values[..., 1:] * 255 - (128 if photometric == ICCLAB else 256 * (values[..., 1:] > 0.5))
        xyz = lab2xyz(np.concatenate([values[..., :1] * 100, offset], axis=-1), illuminant="D50")
        to_linear = [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
        linear = (xyz @ np.array(to_linear).T).clip(0, 1)
        return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return values


def expected(samples: np.ndarray, photometric: int, bits: int, extra: tuple[int, ...], palette: np.ndarray) -> np.ndarray:
    """(H, W, 3), 0…255, over white."""
    values, count = samples / (2**bits - 1), COLOURS[photometric]
    colours = samples.astype(float) if photometric == PALETTE else values[..., :count]
    if extra[:1] not in ((1,), (2,)):
        return 255 * colours_of(colours, photometric, palette)
    alpha = values[..., count : count + 1]
    if extra[0] == 1:
        colours = (colours / alpha.clip(1e-9)).clip(0, 1)
    return 255 * (alpha * colours_of(colours, photometric, palette) + 1 - alpha)


def cases() -> list[Any]:
    """Layouts: planes, compression with predictor, byte order and tiles in full for 8 and 16 bits, in part for the others."""
    packings = [(NONE, 1), (LZW, 1), (LZW, 2), (DEFLATE, 2), (PACKBITS, 1)]
    found = []
    for photometric, bits in itertools.product(COLOURS, (1, 2, 4, 8, 12, 16)):
        if (photometric == PALETTE and bits > 8) or (photometric > PALETTE and bits not in (8, 16)):
            continue
        for extra in ((), (0,), (1,), (2,), (2, 0)):
            if photometric == PALETTE and (extra[:1] == (1,) or (extra and bits < 8)):
                continue
            found.append(
                pytest.param(
                    photometric, bits, extra, packings if bits in (8, 16) else packings[:2], id=f"{photometric}-{bits}-{extra}"
                )
            )
    return found


@pytest.mark.parametrize(("photometric", "bits", "extra", "packings"), cases())
def test_every_layout(photometric: int, bits: int, extra: tuple[int, ...], packings: list[tuple[int, int]]) -> None:
    samples = samples_of(photometric, bits, extra)
    palette = np.random.default_rng(bits).integers(0, 256, (3, 2 ** min(bits, 8))) * 257
    tags = {320: tuple(palette.ravel().tolist())} if photometric == PALETTE else {}
    options = {"bits": bits, "extra": extra, "tags": tags}
    if extra[:1] == (1,) and photometric in (YCBCR, CIELAB, ICCLAB):
        with pytest.raises(ImageError, match="not supported: TIFF with Lab or YCbCr that is multiplied by its alpha"):
            decode_image(tiff(samples, photometric, **options))
        return
    wanted = expected(samples, photometric, bits, extra, palette)
    # The high byte of a colour, or rounding before and after alpha.
    tolerance = {CIELAB: 5.0, ICCLAB: 5.0}.get(photometric, 4.0 if photometric == CMYK or extra[:1] in ((1,), (2,)) else 3.0)
    for (compression, predictor), order, planar, tile in itertools.product(packings, "<>", (False, True), (None, 16)):
        if (planar and samples.shape[2] == 1) or (order == ">" and bits < 16 and compression != NONE):
            continue
        data = tiff(
            samples, photometric, compression=compression, predictor=predictor, order=order, planar=planar, tile=tile, **options
        )
        difference = np.abs(decode_image(data) - wanted)
        assert difference.max() <= tolerance, (compression, predictor, order, planar, tile)
        assert difference.mean() <= 1.3, (compression, predictor, order, planar, tile)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_writer_writes_what_tifffile_reads(order: str, big: bool) -> None:
    for planar, tile, extra in itertools.product((False, True), (None, 16), ((), (2,))):
        samples = samples_of(RGB, 16, extra)
        data = tiff(samples, RGB, bits=16, order=order, planar=planar, tile=tile, extra=extra, big=big)
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            read = file.asarray()
        assert np.array_equal(read.transpose(1, 2, 0) if planar else read, samples)
        plain = tiff(samples, RGB, bits=16, extra=extra)
        assert np.array_equal(decode_image(data), decode_image(plain))


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_files_of_tifffile(planar: str, dtype: str) -> None:
    pixels = scene() if dtype == "u1" else scene().astype(np.uint16) * 257
    file = io.BytesIO()
    tifffile.imwrite(
        file, pixels.transpose(2, 0, 1) if planar == "separate" else pixels, photometric="rgb", planarconfig=planar, rowsperstrip=5
    )
    assert np.array_equal(decode_image(file.getvalue()), scene())


def test_grey_of_32_bits_that_are_16() -> None:
    values = np.array([[[0], [128], [129], [32768], [65535]]])
    for order, compression, predictor in itertools.product("<>", (NONE, LZW), (1, 2)):
        data = tiff(
            values, MIN_IS_BLACK, bits=32, order=order, compression=compression, predictor=1 if compression == NONE else predictor
        )
        assert decode_image(data)[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    with pytest.raises(ImageError, match="grey values from 0 to 4294967295; expected 0 to 65535"):
        decode_image(tiff(np.array([[[0], [2**32 - 1]]]), MIN_IS_BLACK, bits=32))


def test_signed_grey() -> None:
    for bits, expected_values in ((8, [0, 127]), (16, [0, 127]), (32, [0, 127])):
        values = np.array([[[0], [127 if bits == 8 else 127 * 257]]])
        assert decode_image(tiff(values, MIN_IS_BLACK, bits=bits, tags={339: (2,)}))[0, :, 0].tolist() == expected_values
        with pytest.raises(ImageError, match="grey values from -1 to 0"):
            decode_image(tiff(np.array([[[0], [2**bits - 1]]]), MIN_IS_BLACK, bits=bits, tags={339: (2,)}))


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation: int, planar: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = decode_image(encoded(scene(), "PNG", exif=exif))
    samples = scene().astype(np.int64) * 257
    assert np.array_equal(decode_image(tiff(samples, RGB, bits=16, planar=planar, tags={274: (orientation,)})), turned)


def test_palette_of_8_bits() -> None:
    samples = np.arange(4)[None, :, None]
    tags = {320: (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110)}
    assert decode_image(tiff(samples, PALETTE, bits=2, tags=tags))[0].tolist() == [
        [0, 40, 80],
        [10, 50, 90],
        [20, 60, 100],
        [30, 70, 110],
    ]
    short = {320: (0, 10, 20, 30, 40, 50)}
    with pytest.raises(ImageError, match="a palette of 2 colours; pixels have colour 3"):
        decode_image(tiff(samples, PALETTE, bits=2, tags=short))


def test_missing_extra_samples_of_rgb_are_alpha() -> None:
    samples = samples_of(RGB, 16, (2,))
    said = decode_image(tiff(samples, RGB, bits=16, extra=(2,)))
    for planar in (False, True):
        assert np.array_equal(decode_image(tiff(samples, RGB, bits=16, planar=planar)), said)


REFUSED: dict[str, tuple[Any, str]] = {
    "float": ((np.zeros((3, 3, 3), np.float32), RGB, {"bits": 32}), "float pixels have no defined range"),
    "planar float": ((np.zeros((3, 3, 3), np.float32), RGB, {"bits": 32, "planar": True}), "float pixels have no defined range"),
    "32 bits": ((np.zeros((3, 3, 3), int), RGB, {"bits": 32}), "not supported: TIFF with colours of 32 bits a sample; save it"),
    "64 bits": ((np.zeros((3, 3, 1), int), MIN_IS_BLACK, {"bits": 64}), "not supported: TIFF with 64 bits a sample; save it"),
    "10 bits": ((np.zeros((3, 3, 1), int), MIN_IS_BLACK, {"bits": 10}), "not supported: TIFF with 10 bits a sample; save it"),
    "signed": ((np.zeros((3, 3, 3), int), RGB, {"bits": 16, "tags": {339: (2, 2, 2)}}), "not supported: .*signed colours"),
    "bits": ((np.zeros((3, 3, 3), int), RGB, {"tags": {258: (8, 8, 4)}}), "not supported: TIFF with samples of different kinds"),
    "log": ((np.zeros((3, 3, 3), int), 32845, {}), "not supported: TIFF with photometric interpretation 32845; save it"),
    "raw": ((np.zeros((3, 3, 1), int), 32803, {"bits": 16}), "not supported: TIFF with photometric interpretation 32803"),
    "jpeg 2000": (
        (np.zeros((3, 3, 3), int), RGB, {"tags": {259: (34712,)}}),
        "not supported: TIFF with compression 34712; save it",
    ),
    "half chroma": ((np.zeros((4, 4, 3), int), YCBCR, {"tags": {530: (2, 2)}}), "not supported: TIFF with YCbCr whose colours"),
    "predictor": ((np.zeros((3, 3, 3), int), RGB, {"planar": True, "tags": {317: (3,)}}), "not supported: TIFF with predictor 3"),
    "no strips": ((np.zeros((30, 3, 3), int), RGB, {"planar": True, "tags": {273: (8, 8)}}), "2 strips or tiles; expected 15"),
    "no rows": ((np.zeros((3, 3, 3), int), RGB, {"planar": True, "tags": {278: (0,)}}), "strips or tiles without a size"),
    "many strips": (
        (np.zeros((MAX_STRIPS + 1, 1, 1), int), MIN_IS_BLACK, {"rows": 1}),
        "not supported: TIFF of more than 200000 strips or tiles",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why(name: str) -> None:
    (samples, photometric, options), words = REFUSED[name]
    with pytest.raises(ImageError, match=words):
        decode_image(tiff(samples, photometric, **options))


def test_cut_planes() -> None:
    data = tiff(samples_of(RGB, 16, ()), RGB, bits=16, planar=True)
    at = int.from_bytes(data[4:8], "little")
    missing = data[:4] + (at - 100).to_bytes(4, "little") + data[8 : at - 100] + data[at:]  # the directory's offsets are false now
    with pytest.raises(ImageError):
        decode_image(missing)


def test_layouts_beyond_the_pixel_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpuannot.images import decode as images

    data = tiff(samples_of(RGB, 12, ()), RGB, bits=12)
    monkeypatch.setattr(images, "MAX_PIXELS", HEIGHT * WIDTH)
    with pytest.raises(ImageError, match=f"{3 * HEIGHT * WIDTH} samples in a layout of which at most"):
        decode_image(data)
    monkeypatch.setattr(images, "MAX_PIXELS", 3 * HEIGHT * WIDTH)
    assert decode_image(data).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_compressions_of_libtiff(planar: str) -> None:
    """Each is read where libtiff was built with it, and otherwise refused as not supported."""
    pytest.importorskip("imagecodecs")
    for compression in ("jpeg", "zstd", "lzma", "webp", "lerc", "jpeg2000"):
        file = io.BytesIO()
        try:
            pixels = scene().transpose(2, 0, 1) if planar == "separate" else scene()
            tifffile.imwrite(file, pixels, photometric="rgb", planarconfig=planar, compression=compression, rowsperstrip=16)
        except (ValueError, NotImplementedError):
            continue  # WebP has no planes of one sample
        try:
            assert np.abs(decode_image(file.getvalue()).astype(int) - scene()).max() <= (
                60 if compression in ("jpeg", "webp") else 0
            )
        except ImageError as error:
            assert error.reason.startswith("not supported: TIFF with compression") and compression in (
                "zstd",
                "lzma",
                "webp",
                "lerc",
                "jpeg2000",
            )


def test_libtiff_prints_nothing() -> None:
    """In a process of its own: libtiff writes to the file descriptor."""
    program = """
import io, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from tiffs import LZW, RGB, tiff
from gpuannot.errors import ImageError
from gpuannot.images.decode import decode_image
data = tiff(np.zeros((9, 9, 3), int), RGB, compression=LZW, tags={65000: (1,), 65001: (2,)})
decode_image(data)
for cut in range(8, 60):
    try:
        decode_image(data[:cut] + b"\\xff" * 8 + data[cut + 8 :])
    except ImageError:
        pass
"""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(__file__).rpartition("/images/")[0]], capture_output=True, text=True
    )
    assert run.returncode == 0 and run.stderr == "" and run.stdout == ""
