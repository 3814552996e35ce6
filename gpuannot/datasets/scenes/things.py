"""Painters of things that stand in a landscape, one a word; see `painters`."""

from __future__ import annotations

import math

import numpy as np

from .canvas import Canvas, Rgb

_PETALS: tuple[Rgb, ...] = ((228, 50, 60), (250, 208, 48), (245, 245, 240), (190, 80, 190), (245, 130, 180), (250, 130, 40))
_WALLS: tuple[Rgb, ...] = ((236, 226, 204), (206, 138, 104), (238, 238, 236), (222, 196, 140), (170, 186, 196))
_ROOFS: tuple[Rgb, ...] = ((168, 62, 46), (120, 66, 48), (88, 88, 98), (190, 92, 60))
_FACADES: tuple[Rgb, ...] = ((142, 146, 156), (176, 132, 110), (196, 182, 160), (108, 124, 148), (150, 110, 100))
_CARS: tuple[Rgb, ...] = ((206, 36, 40), (36, 84, 190), (238, 238, 240), (248, 196, 40), (40, 140, 90), (60, 62, 70))
_LEAVES: tuple[Rgb, ...] = ((44, 104, 44), (66, 128, 48), (92, 140, 50), (36, 88, 62), (170, 120, 40))
_LAMPLIGHT: Rgb = (255, 214, 120)


def _windows(c: Canvas, rng: np.random.Generator, box: tuple[float, float, float, float], columns: int, rows: int) -> None:
    """A grid of windows in a wall; some are lit when it is dark."""
    left, top, right, bottom = box
    wide, high = (right - left) / columns, (bottom - top) / rows
    glass = c.tone((70, 92, 116))
    for k, lit in enumerate((rng.random(rows * columns) < 0.55).tolist()):
        x, y = left + wide * (k % columns), top + high * (k // columns)
        fill = (*_LAMPLIGHT, 255) if lit and c.dark else glass
        c.brush.rectangle((x + 0.25 * wide, y + 0.25 * high, x + 0.75 * wide, y + 0.8 * high), fill=fill)


def paint_building(c: Canvas, rng: np.random.Generator) -> None:
    x, foot = -c.unit * rng.uniform(0, 10), c.height * (c.plan.horizon + 0.25 * (c.plan.road - c.plan.horizon))
    while x < c.width:
        wide, top = c.unit * rng.uniform(14, 26), c.height * c.plan.horizon * rng.uniform(0.42, 0.85)
        c.brush.rectangle((x, top, x + wide, foot), fill=c.tone(np.array(_FACADES[rng.integers(5)]) * rng.uniform(0.8, 1.1), 0.3))
        floor = c.unit * rng.uniform(4.5, 6)
        _windows(
            c,
            rng,
            (x + wide * 0.05, top + floor / 3, x + wide * 0.95, foot),
            int(rng.integers(3, 6)),
            max(1, int((foot - top) / floor)),
        )
        x += wide + c.unit * (rng.uniform(2, 8) if rng.random() < 0.3 else 0.4)


def paint_house(c: Canvas, rng: np.random.Generator) -> None:
    spots = [(place, *c.stand(rng)) for place in c.plan.house_places[: int(rng.integers(1, 4))]]
    for place, foot, depth in sorted(spots, key=lambda spot: spot[1]):
        x, size = place * c.width, c.unit * rng.uniform(16, 22) * (1.25 - 0.6 * depth)
        half, high = size * rng.uniform(0.5, 0.65), size * rng.uniform(0.5, 0.65)
        wall, roof = _WALLS[rng.integers(5)], (236, 242, 250) if "snow" in c.plan.words else _ROOFS[rng.integers(4)]
        top = foot - high
        c.shape(x + half * 0.5, top, size, [(0, 0), (0, 0.5), (0.12, 0.5), (0.12, 0)], c.tone((120, 74, 62)))
        c.brush.rectangle((x - half, top, x + half, foot), fill=c.tone(wall, depth / 2))
        c.brush.polygon([(x - half * 1.18, top), (x, top - size * 0.48), (x + half * 1.18, top)], fill=c.tone(roof, depth / 2))
        _windows(c, rng, (x - half * 0.95, top, x - half * 0.2, foot), 1, 1)
        _windows(c, rng, (x + half * 0.2, top, x + half * 0.95, foot), 1, 1)
        c.brush.rectangle((x - size * 0.09, foot - high * 0.6, x + size * 0.09, foot), fill=c.tone((98, 60, 42)))


def paint_tree(c: Canvas, rng: np.random.Generator) -> None:
    setting, snowy = c.plan.setting, "snow" in c.plan.words
    wood = setting == "mountains"
    conifers = wood or (setting != "garden" and rng.random() < 0.3)
    leaf = np.array(_LEAVES[3] if conifers else _LEAVES[rng.integers(5)]) * rng.uniform(0.9, 1.2)
    places = rng.uniform(0.02, 0.98, rng.integers(8, 16)).tolist() if wood else c.plan.tree_places[: int(rng.integers(2, 6))]
    spots = [(place, *c.stand(rng, 0.75 if wood else 0.6)) for place in places]
    for place, foot, depth in sorted(spots, key=lambda spot: spot[1]):
        x, size = place * c.width, c.unit * rng.uniform(22, 30) * (1.9 if setting == "garden" else 1.2 - 0.7 * depth)
        if setting == "coast":
            _palm(c, rng, x, c.height * rng.uniform(c.plan.shore + 0.04, 0.97))
            continue
        trunk = 0.2 if conifers else 0.45
        c.shape(x, foot, size, [(-0.045, 0), (-0.03, trunk), (0.03, trunk), (0.045, 0)], c.tone((104, 74, 50), depth / 2))
        for rise in (0.12, 0.35, 0.58) if conifers else ():
            half, lit = 0.3 * (1.1 - rise), (240, 244, 250) if snowy else leaf * 1.25
            c.shape(x, foot, size, [(-half, rise), (0, rise + 0.42), (half, rise)], c.tone(leaf * 0.8, depth / 2))
            c.shape(x, foot, size, [(-half, rise), (0, rise + 0.42), (-half / 10, rise + 0.05)], c.tone(lit, depth / 2))
        for shade, lift in () if conifers else ((0.72, 0.0), (1.0, 0.05), (1.28, 0.12)):
            fill = c.tone(leaf * shade, depth / 2)
            for dx, dy, radius in (size * rng.uniform((-0.24, -0.2, 0.1), (0.24, 0.2, 0.17), (7, 3))).tolist():
                c.disc(x + dx - lift * size, foot - dy - (0.68 + lift) * size, radius * (1.25 - shade / 2), fill)


def _palm(c: Canvas, rng: np.random.Generator, x: float, foot: float) -> None:
    high, lean = c.unit * rng.uniform(34, 44), c.unit * rng.uniform(3, 9) * (1 if x < c.width / 2 else -1)
    stem = [(x + lean * s * s, foot - high * s) for s in (0, 0.25, 0.5, 0.75, 1)]
    c.brush.line(stem, fill=c.tone((124, 92, 62)), width=int(2.4 * c.unit), joint="curve")
    (tip_x, tip_y), reach = stem[-1], c.unit * 14
    for k, angle in enumerate(np.linspace(-0.5, math.pi + 0.5, 9).tolist()):
        out, up = reach * math.cos(angle), reach * math.sin(angle)
        leaf = [(tip_x, tip_y), (tip_x + out * 0.5, tip_y - up * 0.62 - 2 * c.unit), (tip_x + out, tip_y - up * 0.35 + 3 * c.unit)]
        c.brush.polygon([*leaf, (tip_x + out * 0.5, tip_y - up * 0.5 + 1.2 * c.unit)], fill=c.tone((46 + 26 * (k % 2), 124, 54)))


def paint_boat(c: Canvas, rng: np.random.Generator) -> None:
    places = ((0.25 + 0.5 * rng.permutation(3) / 2) + rng.uniform(-0.06, 0.06, 3)).tolist()[: int(rng.integers(1, 4))]
    for place in places:
        near = rng.uniform(0.15, 0.7)
        x, y = place * c.width, c.height * (c.plan.horizon + (min(c.plan.shore, 0.9) - c.plan.horizon) * near)
        size = c.unit * rng.uniform(7, 9) * (0.75 + near)
        hull = c.tone(((150, 44, 40), (240, 240, 238), (36, 64, 120), (110, 70, 44))[rng.integers(4)])
        sail, flip = c.tone(((250, 248, 240), (240, 150, 60), (250, 248, 240))[rng.integers(3)]), 1 if rng.random() < 0.5 else -1
        c.brush.line((x, y, x, y - size * 1.7), fill=c.tone((90, 70, 56)), width=max(2, int(size * 0.07)))
        c.shape(x, y, size, [(0.08, 1.65), (0.85, 0.3), (0.08, 0.3)], sail, flip)
        c.shape(x, y, size, [(-0.1, 1.4), (-0.7, 0.3), (-0.1, 0.3)], sail, flip)
        c.shape(x, y, size, [(-1, 0.2), (1, 0.2), (0.65, -0.2), (-0.65, -0.2)], hull)


def paint_car(c: Canvas, rng: np.random.Generator) -> None:
    places = ((0.2 + 0.6 * rng.permutation(2)) + rng.uniform(-0.08, 0.08, 2)).tolist()[: int(rng.integers(1, 3))]
    for place in places:
        x, half = place * c.width, c.unit * rng.uniform(13, 16)
        foot = c.height * (c.plan.road + rng.uniform(0.08, 0.13))
        body, glass, flip = c.tone(_CARS[rng.integers(6)]), c.tone((150, 190, 214)), 1 if rng.random() < 0.5 else -1
        c.disc(x, foot, half, (0, 0, 0, 90), 0.1)
        c.brush.rounded_rectangle((x - half, foot - half * 0.44, x + half, foot - half * 0.1), half * 0.12, fill=body)
        c.shape(x, foot, half, [(-0.7, 0.42), (-0.48, 0.78), (0.25, 0.78), (0.52, 0.42)], body, flip)
        c.shape(x, foot, half, [(-0.58, 0.42), (-0.43, 0.71), (-0.12, 0.71), (-0.12, 0.42)], glass, flip)
        c.shape(x, foot, half, [(-0.04, 0.42), (-0.04, 0.71), (0.2, 0.71), (0.4, 0.42)], glass, flip)
        for wheel in (x - half * 0.58, x + half * 0.58):
            c.disc(wheel, foot - half * 0.1, half * 0.2, c.tone((26, 26, 28)))
            c.disc(wheel, foot - half * 0.1, half * 0.09, c.tone((180, 180, 184)))
        lamp = (*_LAMPLIGHT, 255) if c.dark else c.tone((250, 240, 200))
        c.disc(x + flip * half * 0.92, foot - half * 0.3, half * 0.08, lamp)


def paint_flower(c: Canvas, rng: np.random.Generator) -> None:
    close = c.plan.setting == "garden"
    petal = c.tone(_PETALS[rng.integers(6)])
    others = c.tone(_PETALS[rng.integers(6)])
    heart, stem = c.tone((250, 206, 60) if sum(petal[:2]) < 440 else (120, 70, 30)), c.tone((50, 110, 44))
    top, bottom = (
        (0.12, 0.95) if close else (c.plan.horizon + 0.55 * (min(c.plan.road, 0.96) - c.plan.horizon), min(c.plan.road, 0.96))
    )
    spots = rng.random((int(rng.integers(8, 18) if close else rng.integers(16, 34)), 3))
    for place, depth, size in spots[np.argsort(spots[:, 1])].tolist():
        x, y = place * c.width, c.height * (top + (bottom - top) * depth)
        radius = c.unit * ((3.5 + 3.5 * size) if close else (1.3 + 1.6 * depth))
        c.brush.line((x, y, x + radius * (size - 0.5), y + radius * 3), fill=stem, width=max(2, int(radius * 0.22)))
        turn = 6.28 * size
        for k in range(6):
            angle = turn + k * math.pi / 3
            c.disc(
                x + radius * 0.62 * math.cos(angle),
                y + radius * 0.62 * math.sin(angle),
                radius * 0.46,
                petal if size < 0.75 else others,
            )
        c.disc(x, y, radius * 0.4, heart)


def paint_bird(c: Canvas, rng: np.random.Generator) -> None:
    fill, middle = c.tone((52, 52, 60) if rng.random() < 0.6 else (250, 250, 250)), c.plan.sky_places[0]
    for dx, dy, scale, wing in rng.random((int(rng.integers(4, 8)), 4)).tolist():
        size = c.unit * (4 + 2.5 * scale)
        x, y = c.width * min(0.95, max(0.05, middle + (dx - 0.5) * 0.24)), c.height * c.plan.horizon * (0.12 + 0.4 * dy)
        lift = size * (0.25 + 0.4 * wing)
        for side in (-1, 1):
            tip, elbow = (x + side * size, y - lift * 0.6), (x + side * size * 0.5, y - lift)
            c.brush.polygon([(x, y - size * 0.08), elbow, tip, (elbow[0], elbow[1] + size * 0.24), (x, y + size * 0.22)], fill=fill)
        c.disc(x, y + size * 0.05, size * 0.3, fill, 0.45)
