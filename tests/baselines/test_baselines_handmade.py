"""Hand-made features: images whose values can be computed by hand, and plain NumPy in float64."""

from __future__ import annotations

import colorsys
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("skimage", reason="pip install '.[baselines]'")
pytest.importorskip("pywt", reason="pip install '.[baselines]'")

from gpuannot.baselines import handmade
from gpuannot.baselines.handmade import grid_features, handmade_features
from gpuannot.errors import DataError, DeviceError, ImageError

Pixels = NDArray[np.uint8]
FREQUENCIES = (1 / 4, 1 / 8, 1 / 16)
LENGTHS = {"rgb": 4096, "hsv": 4096, "lab": 4096, "gabor": 192, "haar": 4032, "haar_q": 4032}


def whole(pixels: Any) -> dict[str, NDArray[np.float32]]:
    return {name: values[0] for name, values in handmade_features([pixels], progress=False).items()}


def grid(pixels: Pixels) -> NDArray[np.float32]:
    return grid_features([pixels], progress=False)[0]


def plain(color: tuple[int, int, int], height: int = 128, width: int = 192) -> Pixels:
    return np.full((height, width, 3), color, np.uint8)


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def regions_of_one_color(colors: Pixels) -> Pixels:
    """(rows, columns, 3) → each colour a square of 32×32."""
    return colors.repeat(32, axis=0).repeat(32, axis=1)


def stripes(period: int, angle: int) -> Pixels:
    """Grey waves of full contrast along an angle in degrees, 0 to the right, 90 downwards."""
    y, x = np.mgrid[:128, :192]
    along = x * np.cos(np.deg2rad(angle)) + y * np.sin(np.deg2rad(angle))
    wave = np.rint(127.5 + 127.5 * np.cos(2 * np.pi * along / period)).astype(np.uint8)
    return wave[..., None].repeat(3, axis=2)


def grey(pixels: Pixels) -> NDArray[np.float64]:
    """ITU-R BT.709's luma, 0…1."""
    return pixels @ np.array([0.2125, 0.7154, 0.0721]) / 255


def cie(color: Any) -> tuple[list[float], list[float]]:
    """L*a*b* and L*u*v* of an sRGB colour (0…255) under D65."""
    linear = [((v / 255 + 0.055) / 1.055) ** 2.4 if v / 255 > 0.04045 else v / 255 / 12.92 for v in color]
    matrix = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
    x, y, z = (sum(m * v for m, v in zip(row, linear, strict=True)) for row in matrix)
    white = (0.95047, 1.0, 1.08883)
    f = [
        t ** (1 / 3) if t > (6 / 29) ** 3 else t / (3 * (6 / 29) ** 2) + 4 / 29
        for t in (v / w for v, w in zip((x, y, z), white, strict=True))
    ]
    lightness = 116 * f[1] - 16
    u, v = 4 * x / (x + 15 * y + 3 * z), 9 * y / (x + 15 * y + 3 * z)
    total = white[0] + 15 * white[1] + 3 * white[2]
    luv = [lightness, 13 * lightness * (u - 4 * white[0] / total), 13 * lightness * (v - 9 * white[1] / total)]
    return [lightness, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])], luv


def gabor_responses(image: NDArray[np.float64], frequency: float, turn: int) -> NDArray[np.complex128]:
    """The definition of a Gabor filter, one octave wide, cut at three standard deviations; (H, W)."""
    sigma = 3 / (np.pi * frequency) * np.sqrt(np.log(2) / 2)
    theta = turn * np.pi / 4
    reach = int(np.ceil(3 * sigma * max(abs(np.cos(theta)), abs(np.sin(theta)))))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along, across = x * np.cos(theta) + y * np.sin(theta), -x * np.sin(theta) + y * np.cos(theta)
    kernel = np.exp(-(along**2 + across**2) / (2 * sigma**2) + 2j * np.pi * frequency * along) / (2 * np.pi * sigma**2)
    # A convolution turns the kernel round.
    return np.einsum("hwij,ij->hw", sliding_window_view(image, kernel.shape), kernel[::-1, ::-1])


def padded(image: NDArray[np.float64], frequency: float, turn: int) -> NDArray[np.float64]:
    """The image with as many reflected pixels around as the filter reaches."""
    sigma = 3 / (np.pi * frequency) * np.sqrt(np.log(2) / 2)
    reach = int(np.ceil(3 * sigma * max(abs(np.cos(turn * np.pi / 4)), abs(np.sin(turn * np.pi / 4)))))
    return np.pad(image, reach, mode="reflect")


# ---- features of the whole image


def test_histograms_of_two_colors() -> None:
    """A quarter of pure red beside black: bins (15, 0, 0) and (0, 0, 0) of RGB, (0, 15, 15) and (0, 0, 0) of HSV.

    CIE L*a*b*: black is (0, 0, 0), in bins 0 of 0…100 and ⌊60/8⌋ = 7 of −60…68; red is (53.2, 80.1, 67.2): bins ⌊53.2·16/100⌋ = 8,
    15 as 80.1 lies beyond 68, and ⌊127.2/8⌋ = 15.
    """
    image = plain((0, 0, 0))
    image[:64, :96] = (255, 0, 0)
    found = whole(image)
    expected = {
        "rgb": {0: 0.75, 15 * 256: 0.25},
        "hsv": {0: 0.75, 15 * 16 + 15: 0.25},
        "lab": {7 * 16 + 7: 0.75, 8 * 256 + 15 * 16 + 15: 0.25},
    }
    for name, bins in expected.items():
        assert {int(index): float(found[name][index]) for index in found[name].nonzero()[0]} == bins
        assert found[name].dtype == np.float32 and found[name].shape == (4096,)


def test_greys_share_their_chroma_bins() -> None:
    lab = whole(np.arange(192, dtype=np.uint8)[None, :, None].repeat(128, axis=0).repeat(3, axis=2))["lab"].reshape(16, 16, 16)
    assert lab[:, 7, 7].sum() == pytest.approx(1, abs=1e-6)


def test_histograms_of_many_colors() -> None:
    colors = noise(4, 6, seed=1)
    found = whole(regions_of_one_color(colors))
    expected = {name: np.zeros((16, 16, 16)) for name in ("rgb", "hsv", "lab")}
    for color in colors.reshape(-1, 3).tolist():
        lab, _ = cie(color)
        shares = {
            "rgb": [v / 255 for v in color],
            "hsv": colorsys.rgb_to_hsv(*(v / 255 for v in color)),
            "lab": [lab[0] / 100, (lab[1] + 60) / 128, (lab[2] + 60) / 128],
        }
        for name, values in shares.items():
            expected[name][tuple(min(max(int(16 * v), 0), 15) for v in values)] += 1 / 24
    for name, histogram in expected.items():
        assert np.allclose(found[name], histogram.ravel(), atol=1e-6)


def test_gabor_histograms_of_noise() -> None:
    image = grey(noise(128, 192))
    found = whole(noise(128, 192))["gabor"].reshape(3, 4, 16)
    for scale, turn in ((0, 0), (0, 3), (1, 1)):
        responses = gabor_responses(padded(image, FREQUENCIES[scale], turn), FREQUENCIES[scale], turn)
        roots = np.sqrt(np.abs(responses))
        expected, _ = np.histogram(np.minimum(roots, 0.5), bins=16, range=(0, 0.5))
        # Values at the edge of a bin may fall to either side in float32.
        assert np.abs(found[scale, turn] * roots.size - expected).sum() <= 8 and (expected > 100).sum() >= 2


def test_gabor_of_a_plain_image_is_near_zero() -> None:
    """A filter's sum is e^(−2π²σ²f²) = 0.2% of its envelope: a white image's √magnitudes, 0.04, lie in the first bins."""
    assert np.array_equal(whole(plain((0, 0, 0)))["gabor"].reshape(12, 16), np.eye(16)[np.zeros(12, int)])
    assert (whole(plain((255, 255, 255)))["gabor"].reshape(12, 16)[:, :3].sum(axis=1) == 1).all()


def test_haar_of_an_edge() -> None:
    """White from column 99 of 192 on: three pixels make one of 64 columns, so 33 black ones and 31 white.

    Level 1 pairs columns 32 and 33: coefficients (0 + 0 − 1 − 1)/2 = −1 in its column 16, all 32 rows, in the band of vertical
    edges. Level 2 sees averages 0, 1, 1 (times 2) from its column 16 of 32 on, which a pair of columns splits into (½, 1)·2: rows
    sum to (1 + 1 − 2 − 2)/2 = −1 in column 8 of 16. Level 3: columns of 4·(¾, 1): (3 + 3 − 4 − 4)/2 = −1 in column 4 of 8.
    """
    image = plain((0, 0, 0))
    image[:, 99:] = 255
    found = whole(image)
    start = 0
    for side, column in ((8, 4), (16, 8), (32, 16)):
        bands = np.zeros((3, side, side))
        bands[1, :, column] = 1
        assert np.allclose(found["haar"][start : start + bands.size], bands.ravel(), atol=1e-6)
        assert np.array_equal(found["haar_q"][start : start + bands.size], -bands.ravel())
        start += bands.size
    assert start == 4032


@pytest.mark.parametrize("shape", [(128, 192), (192, 128)])
def test_haar_of_noise(shape: tuple[int, int]) -> None:
    image = noise(*shape, seed=2)
    values = np.rint(255 * grey(image).reshape(64, shape[0] // 64, 64, shape[1] // 64).mean(axis=(1, 3))) / 255
    levels = []
    for _ in range(3):
        a, b, c, d = values[::2, ::2], values[::2, 1::2], values[1::2, ::2], values[1::2, 1::2]
        levels.append(np.concatenate([((a + b - c - d) / 2).ravel(), ((a - b + c - d) / 2).ravel(), ((a - b - c + d) / 2).ravel()]))
        values = (a + b + c + d) / 2
    expected = np.concatenate(levels[::-1])
    found = whole(image)
    assert np.allclose(found["haar"], np.abs(expected), atol=1e-6)
    assert np.array_equal(found["haar_q"], np.sign(np.rint(expected * 255 * 8))) and set(found["haar_q"]) == {-1, 0, 1}


def test_haar_of_a_plain_image_is_zero() -> None:
    found = whole(plain((77, 130, 201)))
    assert not found["haar"].any() and not found["haar_q"].any()


# ---- features of regions


@pytest.mark.parametrize("rows", [4, 6])
def test_regions_in_reading_order(rows: int) -> None:
    colors = noise(rows, 24 // rows, seed=3)
    found = grid(regions_of_one_color(colors))
    assert found.shape == (24, 30) and found.dtype == np.float32
    for region, color in zip(found, colors.reshape(24, 3).tolist(), strict=True):
        lab, luv = cie(color)
        assert np.allclose(region[0:3], np.array(color) / 255, atol=1e-6)
        assert np.allclose(region[6:9], luv, atol=0.02) and np.allclose(region[12:15], lab, atol=0.02)
        assert np.allclose(region[[3, 4, 5, 9, 10, 11, 15, 16, 17]], 0, atol=1e-4)


def test_moments_of_a_region() -> None:
    """512 pixels (30, 60, 90) and 512 pixels (50, 60, 10): means (40, 60, 50), deviations (10, 0, 40)."""
    image = plain((30, 60, 90))
    image[::2, :, :] = (50, 60, 10)
    found = grid(image)[7]
    assert np.allclose(found[:6] * 255, [40, 60, 50, 10, 0, 40], atol=1e-4)
    spaces = np.array([cie((30, 60, 90)), cie((50, 60, 10))])  # (2, lab and luv, 3)
    for start, space in ((6, 1), (12, 0)):
        assert np.allclose(found[start : start + 3], spaces[:, space].mean(axis=0), atol=0.02)
        assert np.allclose(found[start + 3 : start + 6], spaces[:, space].std(axis=0), atol=0.02)


@pytest.mark.parametrize("angle", [0, 45, 90, 135])
@pytest.mark.parametrize("scale", [0, 1, 2])
def test_stripes_answer_at_their_scale_and_angle(scale: int, angle: int) -> None:
    """A wave of amplitude ½ gives magnitude ¼ to the filter of its own frequency and direction, less to the others."""
    period = round(1 / FREQUENCIES[scale])
    energies = grid(stripes(period, angle))[:, 18:].reshape(24, 3, 4)
    inner = energies[[7, 8, 9, 10, 13, 14, 15, 16]]  # away from the reflected borders
    assert (inner.reshape(8, 12).argmax(axis=1) == 4 * scale + angle // 45).all()
    assert np.allclose(inner[:, scale, angle // 45], 0.25, atol=0.02)


def test_gabor_energy_of_noise() -> None:
    image = noise(192, 128, seed=4)
    energies = grid(image)[:, 18:].reshape(6, 4, 3, 4)
    for scale, turn in ((0, 1), (1, 2), (2, 0), (2, 3)):
        whole_image = padded(grey(image), FREQUENCIES[scale], turn)
        reach = (whole_image.shape[0] - 192) // 2
        for row, column in ((0, 0), (3, 2), (5, 3)):
            part = whole_image[32 * row : 32 * (row + 1) + 2 * reach, 32 * column : 32 * (column + 1) + 2 * reach]
            expected = np.abs(gabor_responses(part, FREQUENCIES[scale], turn)).mean()
            assert energies[row, column, scale, turn] == pytest.approx(expected, rel=1e-3)


# ---- sources, threads, bad input


def test_every_kind_and_size_of_source(tmp_path: Path) -> None:
    """Wide, tall, square, tiny: each is warped; a path, bytes, PIL image and array of the same pixels give the same features."""
    pixels = noise(37, 51)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    same = [pixels, tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), Image.fromarray(pixels)]
    others = [noise(51, 37), noise(40, 40), noise(1, 1), noise(1, 300)[:, :, 0]]
    found = handmade_features([*same, *others], progress=False)
    assert {name: values.shape for name, values in found.items()} == {name: (8, length) for name, length in LENGTHS.items()}
    regions = grid_features([*same, *others], progress=False)
    for values in (*found.values(), regions):
        assert values.dtype == np.float32 and np.isfinite(values).all()
        assert (values[:4] == values[0]).all() and not np.array_equal(values[4], values[0])
    # An image that is taller than wide becomes 128×192, any other 192×128, by the package's own warping.
    for position, size in ((0, (192, 128)), (4, (128, 192)), (5, (192, 128))):
        warped = np.asarray(Image.fromarray([*same, *others][position]).resize(size, Image.Resampling.BICUBIC))
        assert np.array_equal(grid(warped), regions[position])
    assert np.array_equal(grid_features(tmp_path)[0], regions[0])


def test_a_folder_is_its_files(tmp_path: Path) -> None:
    for seed, name in enumerate(("b.png", "a.png")):
        Image.fromarray(noise(60, 80, seed)).save(tmp_path / name)
    in_order = [tmp_path / "a.png", tmp_path / "b.png"]
    assert np.array_equal(grid_features(tmp_path, progress=False), grid_features(in_order, progress=False))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(handmade, "_BLOCK", 2)
    images = [noise(128, 192, seed=seed) for seed in range(count)]
    single = np.stack([grid(image) for image in images])
    for workers in (1, 3):
        assert np.array_equal(grid_features(images, workers=workers), single)


@pytest.mark.parametrize("features", [handmade_features, grid_features])
def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, features: Any) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"bad\.jpg: not an image"):
        features([noise(4, 4), tmp_path / "bad.jpg"], progress=False)
    with pytest.raises(ImageError, match=r"image 1: expected an array"):
        features([noise(4, 4), np.zeros((4, 4, 2), np.uint8)], progress=False)
    with pytest.raises(DataError, match="no images were given"):
        features([])


@pytest.mark.parametrize("library", ["skimage", "pywt"])
def test_without_the_libraries_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(DeviceError, match=rf'need {library}.*pip install "\.\[baselines\]"'):
        handmade_features([noise(4, 4)])
