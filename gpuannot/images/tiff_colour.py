"""Samples of a TIFF image, as they stand in it → Pillow's image of 8 bits."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .colour import grey_of_16_bits
from .refusal import Unusable

COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3, 9: 3}
"""Samples of a pixel's colour, by photometric interpretation: white is zero, black is zero, RGB, palette, CMYK, YCbCr, CIE Lab, ICC
Lab."""


def assemble(samples: np.ndarray, bits: int, photometric: int, alpha: int, palette: tuple[int, ...]) -> Image.Image:
    """Mode L, LA, RGB, RGBA, CMYK or LAB.

    Args:
        samples: (H, W, C) integers, those below 8 bits scaled to 8; C is `COLOURS` and, where there is one, the alpha.
        bits: a sample in the file.
        photometric: TIFF 6.0, tag 262.
        alpha: 1 where colours are multiplied by it, 2 where not, 0 without.
        palette: tag 320.

    Raises:
        Unusable: grey values without a defined range, or a palette that is too short.
    """
    count = COLOURS[photometric]
    if photometric == 8:  # a and b are signed there, and offset by half the range in Pillow's and the ICC's Lab
        samples = samples ^ np.array([0, 1 << (bits - 1), 1 << (bits - 1), 0][: samples.shape[2]], samples.dtype)
    pixels = _to_8_bits(samples, bits, photometric)
    colour, over = pixels[..., :count], pixels[..., count:]
    if alpha == 1:
        wide = np.maximum(over, 1).astype(np.uint32)
        colour = np.minimum((colour * np.uint32(255) + wide // 2) // wide, 255).astype(np.uint8)
    if photometric == 0:
        colour = 255 - colour
    elif photometric == 3:
        colour = _looked_up(colour[..., 0] // (255 // ((1 << bits) - 1)), palette)
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[colour.shape[2]]
    mode = {6: "YCbCr", 8: "LAB", 9: "LAB"}.get(photometric, mode)
    image = Image.merge(mode, [Image.fromarray(colour[..., c]) for c in range(colour.shape[2])])
    if mode == "YCbCr" or (alpha and mode in ("LAB", "CMYK")):
        image = image.convert("RGB")
    if alpha:
        image.putalpha(Image.fromarray(over[..., 0]))
    return image


def _to_8_bits(samples: np.ndarray, bits: int, photometric: int) -> np.ndarray:
    """Grey is rounded, v / 257, and so is Lab; colours of 16 bits keep their high byte, as Pillow has it of files that it reads."""
    if photometric in (0, 1) and (bits > 12 or samples.dtype.kind == "i"):
        if bits == 8 and samples.min() < 0:
            raise Unusable(f"grey values from {samples.min()} to {samples.max()}; expected 0 to 255")
        return samples.astype(np.uint8) if bits == 8 else grey_of_16_bits(samples)
    if bits == 16 and photometric in (8, 9):
        wide = samples.astype(np.uint32)
        wide[..., 0] = (wide[..., 0] * 255 + 32767) // 65535 << 8
        wide[..., 1:] += 128  # a and b are 1/256 of what they are in 8 bits
        return (np.minimum(wide, 65535) >> 8).astype(np.uint8)
    if bits == 12:
        return ((samples.astype(np.uint32) * 255 + 2047) // 4095).astype(np.uint8)
    return samples if bits <= 8 else (samples >> 8).astype(np.uint8)


def _looked_up(index: np.ndarray, palette: tuple[int, ...]) -> np.ndarray:
    table: np.ndarray = np.array(palette, np.uint16)[: len(palette) // 3 * 3].reshape(3, -1).T
    if len(table) <= index.max():
        raise Unusable(f"broken image data: a palette of {len(table)} colours; pixels have colour {index.max()}")
    table = table if (table < 256).all() else table >> 8  # some programs write 8 bits
    return table.astype(np.uint8)[index]
