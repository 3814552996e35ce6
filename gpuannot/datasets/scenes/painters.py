"""One painter a word: each adds its layer to the canvas, from a random generator of its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from .canvas import Canvas, Point, gradient
from .things import paint_bird, paint_boat, paint_building, paint_car, paint_flower, paint_house, paint_tree


def _wave(c: Canvas, rng: np.random.Generator, level: float, swing: float) -> list[Point]:
    """A soft line across the picture at about ``level`` pixels, swinging by ``swing`` pixels."""
    x = np.linspace(0, c.width, 25)
    y = level + swing * np.sin(x / c.width * rng.uniform(3, 9) + rng.uniform(0, 6.28))
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _paint_sky(c: Canvas, rng: np.random.Generator) -> None:
    level = int(c.plan.horizon * c.height) + 2
    c.image.paste(gradient(level, *c.sky).resize((c.width, level)), (0, 0))


def _paint_night(c: Canvas, rng: np.random.Generator) -> None:
    c.image.paste(c.image.point([int(v * k) for k in (0.1, 0.13, 0.27) for v in range(256)]))
    c.light, c.dark = np.array((0.42, 0.46, 0.6)) * rng.uniform(0.9, 1.2), True


def _paint_sunset(c: Canvas, rng: np.random.Generator) -> None:
    level = int(c.plan.horizon * c.height) + 2
    glow = gradient(level, (96, 52, 110), (255, rng.uniform(120, 190), 60)).resize((c.width, level))
    mask = Image.fromarray(np.linspace(110, 205, level)[:, None].astype(np.uint8)).resize((c.width, level))
    c.image.paste(glow, (0, 0), mask)
    c.light = np.array((0.92, 0.66, 0.55))


def _paint_stars(c: Canvas, rng: np.random.Generator) -> None:
    for x, y, size in rng.random((int(rng.integers(70, 120)), 3)).tolist():
        radius = c.unit * (0.3 + 0.5 * size**2)
        c.disc(x * c.width, y * c.plan.horizon * c.height * 0.9, radius, (255, 255, int(200 + 55 * size), 255))


def _paint_moon(c: Canvas, rng: np.random.Generator) -> None:
    x, y, radius = c.plan.light[0] * c.width, c.plan.light[1] * c.height, c.unit * rng.uniform(5, 7.5)
    c.glow(x, y, radius, (190, 200, 230))
    if rng.random() < 0.5:
        c.disc(x, y, radius, (244, 240, 220, 255))
        for dx, dy, size in rng.uniform(-0.5, 0.5, (4, 3)).tolist():
            c.disc(x + dx * radius, y + dy * radius, radius * (0.12 + 0.2 * abs(size)), (214, 210, 196, 255))
    else:
        angle = np.linspace(-1.57, 1.57, 15)
        side = -1 if rng.random() < 0.5 else 1
        outer, inner = x + side * radius * np.cos(angle), x + side * radius * 0.35 * np.cos(angle)
        height = y + radius * np.sin(angle)
        c.brush.polygon([*zip(outer, height, strict=True), *zip(inner[::-1], height[::-1], strict=True)], fill=(246, 240, 214, 255))


def _paint_sun(c: Canvas, rng: np.random.Generator) -> None:
    x, y, radius = c.plan.light[0] * c.width, c.plan.light[1] * c.height, c.unit * rng.uniform(5, 7.5)
    low = "sunset" in c.plan.words
    c.glow(x, y, radius * (1.2 if low else 1), (255, 180, 90) if low else (255, 244, 190))
    c.disc(x, y, radius, (255, 206, 110, 255) if low else (255, 236, 110, 255))


def _paint_cloud(c: Canvas, rng: np.random.Generator) -> None:
    rain = "rain" in c.plan.words
    places = rng.random(9).tolist() if rain else c.plan.sky_places[1 : int(rng.integers(3, 5))]
    lit, shadow = ((128, 132, 140), (92, 96, 106)) if rain else ((252, 252, 252), (206, 212, 222))
    shape = rng.uniform(0.35, 0.6)
    for place in places:
        x, y = place * c.width, c.plan.horizon * c.height * rng.uniform(*((0.0, 0.28) if rain else (0.16, 0.5)))
        size = c.unit * rng.uniform(9, 14) * (1.7 if rain else 1)
        puffs = rng.uniform((-1, -0.5, 0.35), (1, 0.1, 0.65), (12, 3)).tolist()
        for fill, drop in ((c.tone(shadow, alpha=235), 0.16), (c.tone(lit, alpha=235), 0.0)):
            for dx, dy, radius in puffs:
                rise = shape * (dy * (1 - abs(dx)) + drop)
                c.disc(x + dx * size, y + rise * size, radius * size * (1.15 - 0.5 * abs(dx)), fill, shape + 0.15)


def _paint_mountain(c: Canvas, rng: np.random.Generator) -> None:
    base = c.plan.horizon * c.height + 2
    rock = np.array(((104, 104, 116), (122, 102, 88), (86, 100, 108))[rng.integers(3)])
    for rank, (place, top, half) in enumerate(c.plan.peaks):
        x, y, reach = place * c.width, top * c.height, half * c.width
        steps = np.linspace(0, 1, 9)[1:-1]
        jag = rng.uniform(-0.05, 0.05, (2, 7)) * (base - y)
        left = [(x - reach * (1 - s), base + (y - base) * s + j) for s, j in zip(steps, jag[0], strict=True)]
        right = [(x + reach * s, y + (base - y) * s + j) for s, j in zip(steps, jag[1], strict=True)]
        fold = [(x + reach * 0.22 * s * rng.uniform(-0.6, 1.4), y + (base - y) * s) for s in steps]
        depth = 1 - rank / len(c.plan.peaks)
        c.brush.polygon([(x - reach, base), *left, (x, y), *right, (x + reach, base)], fill=c.tone(rock * 1.16, depth))
        c.brush.polygon([(x, y), *right, (x + reach, base), *fold[::-1]], fill=c.tone(rock * 0.78, depth))


def _paint_sea(c: Canvas, rng: np.random.Generator) -> None:
    far, near = (((40, 96, 150), (30, 118, 156)), ((58, 120, 170), (70, 170, 178)), ((46, 84, 120), (28, 70, 104)))[rng.integers(3)]
    top, bottom = c.plan.horizon * c.height, c.plan.shore * c.height
    c.ground([(0, top), (c.width, top)], far, near)
    crest, trough = c.tone((226, 240, 246), alpha=120), c.tone((16, 56, 96), alpha=110)
    glitter = (255, 236, 190, 170)
    shining = bool(c.plan.words & {"sun", "moon"})
    for place, depth, length, kind in rng.random((190, 4)).tolist():
        y = top + (bottom - top) * depth**1.4
        reach = c.unit * (1 + 5 * length) * (0.35 + depth)
        if shining and kind < 0.3:
            x = c.plan.light[0] * c.width + (place - 0.5) * c.unit * (12 + 14 * depth)
            c.brush.line((x - reach / 2, y, x + reach / 2, y), fill=glitter, width=2)
        else:
            c.brush.line((place * c.width, y, place * c.width + reach, y), fill=crest if kind > 0.6 else trough, width=2)


def _paint_grass(c: Canvas, rng: np.random.Generator) -> None:
    green = np.array(((96, 150, 60), (120, 160, 64), (74, 132, 58), (150, 158, 76))[rng.integers(4)])
    top, swing = c.plan.horizon * c.height, c.unit * rng.uniform(0.5, 3)
    c.ground(_wave(c, rng, top - swing, swing), tuple((green * 1.12).tolist()), tuple((green * 0.8).tolist()))
    tones = [c.tone(green * shade, alpha=170) for shade in (0.62, 0.78, 1.12, 1.3)]
    for place, depth, lean, length, kind in rng.random((420, 5)).tolist():
        y = top + (c.height * 1.05 - top) * depth
        x, blade = place * c.width, c.unit * (0.6 + 5 * length * (depth if top else 0.8))
        c.brush.line((x, y, x + (lean - 0.5) * blade, y - blade), fill=tones[int(kind * 4)], width=2)


def _paint_snow(c: Canvas, rng: np.random.Generator) -> None:
    base = c.plan.horizon * c.height
    for place, top, half in c.plan.peaks if "mountain" in c.plan.words else ():
        x, y, reach = place * c.width, top * c.height, half * c.width
        cap = rng.uniform(0.35, 0.5)
        foot = np.linspace(-1, 1, 8) * cap
        edge = [
            (x + reach * f, y + (base - y) * (cap - 0.16 * (k % 2) * cap - rng.uniform(0, 0.1) * cap))
            for k, f in enumerate(foot.tolist())
        ]
        c.brush.polygon([(x, y - 2), *edge[::-1]], fill=c.tone((246, 249, 253)))
    swing = c.unit * rng.uniform(1, 3)
    c.ground(_wave(c, rng, base - swing, swing), (166, 188, 224), (252, 252, 254))
    for _ in range(3):
        drift = _wave(c, rng, base + (c.height - base) * rng.uniform(0.2, 0.9), 2 * swing)
        c.brush.line(drift, fill=c.tone((176, 194, 222), alpha=150), width=max(2, int(c.unit)))


def _paint_beach(c: Canvas, rng: np.random.Generator) -> None:
    sand = np.array(((232, 208, 156), (222, 190, 132), (240, 224, 184))[rng.integers(3)])
    edge = _wave(c, rng, c.plan.shore * c.height, c.unit * rng.uniform(1, 4))
    c.brush.line(edge, fill=c.tone((246, 250, 252), alpha=230), width=int(4 * c.unit))
    c.ground(edge, tuple((sand * 0.82).tolist()), tuple(sand.tolist()))
    tones = [c.tone(sand * shade, alpha=160) for shade in (0.75, 1.12)]
    for place, depth, size in rng.random((150, 3)).tolist():
        y = c.height * (c.plan.shore + 0.05 + (0.95 - c.plan.shore) * depth)
        c.disc(place * c.width, y, c.unit * (0.3 + 0.5 * size), tones[size > 0.5], 0.5)


def _paint_road(c: Canvas, rng: np.random.Generator) -> None:
    tar, paint = c.tone(np.array((94, 94, 100)) * rng.uniform(0.8, 1.2)), c.tone((236, 232, 214))
    if c.plan.winding:
        s = np.linspace(0.03, 1, 24)
        y = c.height * (c.plan.horizon + (1 - c.plan.horizon) * s)
        middle = c.width * (0.5 + rng.uniform(-0.12, 0.12) * np.sin(5 * s) * (1 - s) + rng.uniform(-0.1, 0.1) * (1 - s))
        half = c.unit * (1 + 24 * s**1.5)
        c.brush.polygon([*zip(middle - half, y, strict=True), *zip((middle + half)[::-1], y[::-1], strict=True)], fill=tar)
        for k in range(2, 23, 2):
            width = max(1, int(2.6 * c.unit * s[k]))
            c.brush.line((middle[k], y[k], middle[k + 1], y[k + 1]), fill=paint, width=width)
        return
    top, bottom = c.plan.road * c.height, c.height * rng.uniform(0.95, 1.0)
    if c.plan.setting == "street":
        c.ground([(0, c.plan.horizon * c.height), (c.width, c.plan.horizon * c.height)], (150, 148, 146), (172, 170, 166))
    c.brush.rectangle((0, top, c.width, bottom), fill=tar)
    c.brush.line((0, top, c.width, top), fill=paint, width=max(2, int(0.8 * c.unit)))
    for x in np.arange(rng.uniform(-12, 0) * c.unit, c.width, 13 * c.unit).tolist():
        c.brush.rectangle((x, (top + bottom) / 2, x + 7 * c.unit, (top + bottom) / 2 + 1.3 * c.unit), fill=paint)


def _paint_rain(c: Canvas, rng: np.random.Generator) -> None:
    lean = c.unit * rng.uniform(-2.5, 2.5)
    for x, y, length in rng.random((260, 3)).tolist():
        left, top, fall = x * c.width, (1.1 * y - 0.1) * c.height, 1 + length
        c.brush.line((left, top, left + lean * fall, top + 6 * c.unit * fall), fill=(226, 232, 240, 120), width=2)


# In the order of painting, from far to near.
PAINTERS: dict[str, Callable[[Canvas, np.random.Generator], None]] = {
    "sky": _paint_sky,
    "night": _paint_night,
    "sunset": _paint_sunset,
    "stars": _paint_stars,
    "moon": _paint_moon,
    "sun": _paint_sun,
    "cloud": _paint_cloud,
    "mountain": _paint_mountain,
    "sea": _paint_sea,
    "grass": _paint_grass,
    "snow": _paint_snow,
    "beach": _paint_beach,
    "road": _paint_road,
    "building": paint_building,
    "house": paint_house,
    "tree": paint_tree,
    "boat": paint_boat,
    "car": paint_car,
    "flower": paint_flower,
    "bird": paint_bird,
    "rain": _paint_rain,
}
