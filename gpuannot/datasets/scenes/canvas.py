"""The plan of a scene, and the canvas that its layers are painted on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]
Point = tuple[float, float]

_SKIES: tuple[tuple[Rgb, Rgb], ...] = (  # (zenith, horizon)
    ((64, 124, 205), (186, 216, 240)),
    ((38, 98, 190), (150, 198, 236)),
    ((112, 168, 222), (222, 234, 240)),
    ((74, 142, 196), (232, 224, 206)),
)
_RAINY_SKY: tuple[Rgb, Rgb] = ((104, 112, 122), (168, 174, 180))


@dataclass(frozen=True)
class Plan:
    """What a scene shows and where. All of it is settled before painting, so that leaving one layer out moves no other."""

    setting: str
    words: frozenset[str]
    horizon: float  # heights are fractions of the picture's height from its top, places fractions of its width from its left
    shore: float  # where the sea ends
    road: float  # top of a road seen from its side; objects on the ground stand above it
    winding: bool  # the road runs towards the horizon instead
    light: tuple[float, float]  # place and height of the sun or the moon
    sky_places: tuple[float, ...]  # columns of the sky without the sun's
    house_places: tuple[float, ...]  # columns of the ground, without the winding road's
    tree_places: tuple[float, ...]  # the columns that the houses leave
    peaks: tuple[tuple[float, float, float], ...]  # (place, height of the top, half-width) of each mountain, far ones first


class Canvas:
    """The picture while it is painted, at twice its size, with the light that falls on every colour."""

    def __init__(self, size: tuple[int, int], plan: Plan, rng: np.random.Generator) -> None:
        self.width, self.height = 2 * size[0], 2 * size[1]
        self.unit = min(self.width, self.height) / 100
        self.plan = plan
        self.image = Image.new("RGB", (self.width, self.height))
        self.brush = ImageDraw.Draw(self.image, "RGBA")
        self.sky = _RAINY_SKY if "rain" in plan.words else _SKIES[rng.integers(len(_SKIES))]
        self.haze = rng.uniform(0.1, 0.6)
        self.light = np.ones(3) * (0.72 if "rain" in plan.words else 1.0)
        self.dark = False

    def tone(self, rgb: Sequence[float] | NDArray[np.float64], depth: float = 0.0, alpha: int = 255) -> tuple[int, int, int, int]:
        """The colour as it looks in this scene's light, ``depth`` (0 near, 1 far) of the way into its haze."""
        mist = depth * self.haze
        red, green, blue = (
            int(min(255, (a * (1 - mist) + b * mist) * t)) for a, b, t in zip(rgb, self.sky[1], self.light.tolist(), strict=True)
        )
        return red, green, blue, alpha

    def ground(self, outline: Iterable[Point], far: Rgb, near: Rgb) -> None:
        """Fill from ``outline`` (pixels, left to right) down to the bottom, from colour ``far`` to ``near``."""
        points = list(outline)
        top = max(0, int(min(y for _, y in points)))
        shades = gradient(self.height - top, self.tone(far, 0.6)[:3], self.tone(near)[:3]).resize((self.width, self.height - top))
        mask = Image.new("L", shades.size)
        ImageDraw.Draw(mask).polygon(
            [(0, shades.height), *((x, y - top) for x, y in points), (self.width, shades.height)], fill=255
        )
        self.image.paste(shades, (0, top), mask)

    def disc(self, x: float, y: float, radius: float, fill: tuple[int, ...], squash: float = 1.0) -> None:
        self.brush.ellipse((x - radius, y - radius * squash, x + radius, y + radius * squash), fill=fill)

    def shape(self, x: float, y: float, scale: float, outline: Sequence[Point], fill: tuple[int, ...], mirror: float = 1) -> None:
        """A polygon whose outline counts to the right and upwards from (x, y) in units of ``scale``."""
        self.brush.polygon([(x + mirror * scale * right, y - scale * up) for right, up in outline], fill=fill)

    def glow(self, x: float, y: float, radius: float, rgb: Rgb) -> None:
        for step in range(6, 0, -1):
            self.disc(x, y, radius * (1 + 0.28 * step), (*rgb, 22))

    def stand(self, rng: np.random.Generator, nearest: float = 0.6) -> tuple[float, float]:
        """A height (pixels) for the foot of an object on the ground and its distance, 1 at the horizon and 0 at the bottom."""
        top, bottom = self.plan.horizon or 0.5, min(self.plan.road, 0.97)
        y = top + (bottom - top) * rng.uniform(0.12, nearest)
        return y * self.height, (1 - y) / (1 - top)


def gradient(height: int, first: Sequence[float], last: Sequence[float]) -> Image.Image:
    """A column of pixels, (height, 1), from one colour to another."""
    ramp = np.linspace(first, last, height)
    return Image.fromarray(ramp[:, None, :].astype(np.uint8))
