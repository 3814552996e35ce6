"""Drawn scenes with known words: seeded JPEG pictures in place of photographs, for the demo, the tests and the benchmarks.

A scene is planned first (a setting, its words, its geometry) and then painted from far to near, one layer a word, each layer from
a random generator of its own. A word is given to a picture exactly when its layer is painted, and the plan keeps objects in
columns of their own, so that what is named can be seen. Words come as unevenly as in real collections: sky in nine scenes of
ten, rain in one of twenty.

The same seed gives the same bytes under the same versions of NumPy and Pillow.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import DataError, InvalidArgumentError
from ...system.atomic_files import replacing, write_whole
from ...system.progress import progress_bar
from .canvas import Canvas, Plan
from .painters import PAINTERS

# For each setting its share of all scenes and the chance of each word. Light and weather are drawn for all settings alike.
_SETTINGS: dict[str, tuple[float, dict[str, float]]] = {
    "coast": (0.27, {"sky": 1, "sea": 1, "beach": 0.6, "boat": 0.5, "mountain": 0.22, "tree": 0.3, "bird": 0.3, "cloud": 0.5}),
    "meadow": (0.23, {"sky": 1, "grass": 1, "flower": 0.5, "tree": 0.65, "house": 0.2, "road": 0.15, "bird": 0.2, "cloud": 0.55}),
    "mountains": (0.17, {"sky": 1, "mountain": 1, "snow": 0.5, "tree": 0.6, "flower": 0.2, "bird": 0.15, "cloud": 0.5}),
    "village": (0.14, {"sky": 1, "house": 1, "snow": 0.15, "tree": 0.7, "road": 0.7, "car": 0.4, "mountain": 0.2, "cloud": 0.45}),
    "street": (0.1, {"sky": 1, "building": 1, "road": 1, "car": 0.8, "tree": 0.4, "cloud": 0.4}),
    "garden": (0.09, {"grass": 1, "flower": 1, "tree": 0.4}),
}
_FEWEST_PIXELS = 32  # a side below this leaves too few pixels to show a bird


WORDS: tuple[str, ...] = tuple(sorted(PAINTERS))


def _plan(rng: np.random.Generator) -> Plan:
    names = list(_SETTINGS)
    setting = names[rng.choice(len(names), p=[_SETTINGS[name][0] for name in names])]
    words = {word for word, chance in _SETTINGS[setting][1].items() if rng.random() < chance}
    if "sky" in words:
        hour, extra = rng.random(), rng.random(2)
        if hour < (0.35 if setting == "street" else 0.09):
            words |= {"night"} | ({"moon"} if extra[0] < 0.6 else set()) | ({"stars"} if extra[1] < 0.65 else set())
            words -= {"bird", "cloud"}
        elif hour > 0.91:
            words |= {"sunset"} | ({"sun"} if extra[0] < 0.6 else set())
        elif hour > 0.84:
            words |= {"rain", "cloud"}
            words -= {"bird"}
        elif extra[0] < 0.35:
            words |= {"sun"}
    if setting in ("mountains", "village") and "snow" not in words:
        words |= {"grass"}
    if "snow" in words:
        words -= {"flower"}
    if "road" not in words:
        words -= {"car"}
    if setting == "coast" and "beach" not in words:
        words -= {"tree"}
    horizon = 0.0 if setting == "garden" else rng.uniform(0.44, 0.6)
    winding = "road" in words and "car" not in words and setting != "street"
    columns = (np.arange(5) + rng.uniform(0.3, 0.7, 5)) / 5
    sky_order = rng.permutation(5)
    low_sun = "sunset" in words and setting in ("coast", "meadow") and not words & {"mountain", "tree", "house"}
    ground = (np.arange(7) + rng.uniform(0.3, 0.7, 7)) / 7
    # Palms stay at the sides, clear of the boats; nothing stands on a winding road, which fills the middle.
    ground_order = rng.permutation([0, 6] if setting == "coast" else [0, 1, 5, 6] if winding else 7)
    shared = len(ground_order) // 2 if "house" in words else 0
    peaks = [
        (
            rng.uniform(0.02, 0.98),
            horizon * (1 - rng.uniform(0.3, 0.62) * (1 if setting == "mountains" else 0.65)),
            rng.uniform(0.2, 0.36),
        )
        for _ in range(rng.integers(3, 6))
    ]
    return Plan(
        setting=setting,
        words=frozenset(words),
        horizon=horizon,
        shore=rng.uniform(0.72, 0.84) if "beach" in words else 1.0,
        road=rng.uniform(0.72, 0.79) if "road" in words and not winding else 1.0,
        winding=winding,
        light=(float(columns[sky_order[0]]), horizon * (rng.uniform(0.74, 0.88) if low_sun else rng.uniform(0.17, 0.28))),
        sky_places=tuple(columns[sky_order[1:]].tolist()),
        house_places=tuple(ground[ground_order[:shared]].tolist()),
        tree_places=tuple(ground[ground_order[shared:]].tolist()),
        peaks=tuple(sorted(peaks, key=lambda peak: peak[1])),
    )


def _develop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """What a camera adds: exposure, colour cast, uneven light and grain."""
    width, height = image.size
    gain = (rng.uniform(0.82, 1.12) * rng.uniform(0.94, 1.06, 3)).astype(np.float32)
    blotches = Image.fromarray(rng.uniform(0.95, 1.05, (7, 9)).astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    grain = rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(rng.uniform(1.5, 6))
    pixels = np.asarray(image, dtype=np.float32) * np.asarray(blotches)[..., None] * gain + grain
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _check(seed: int, size: tuple[int, int]) -> None:
    if seed < 0:
        raise InvalidArgumentError(f"seed is an integer of at least 0, got {seed}")
    if min(size) < _FEWEST_PIXELS:
        raise InvalidArgumentError(f"size is (width, height) in pixels, each at least {_FEWEST_PIXELS}, got {size}")


def _draw(entropy: int | tuple[int, int], size: tuple[int, int], without: str | None = None) -> tuple[Image.Image, tuple[str, ...]]:
    """The scene of a seed; ``without`` leaves one word's layer unpainted and everything else in its place."""
    planner, canvas, camera, *layers = map(np.random.default_rng, np.random.SeedSequence(entropy).spawn(3 + len(PAINTERS)))
    plan = _plan(planner)
    c = Canvas(size, plan, canvas)
    for (word, paint), rng in zip(PAINTERS.items(), layers, strict=True):
        if word in plan.words and word != without:
            paint(c, rng)
    return _develop(c.image.reduce(2), camera), tuple(sorted(plan.words))


def draw_scene(seed: int, size: tuple[int, int] = (256, 192)) -> tuple[Image.Image, tuple[str, ...]]:
    """Draw one scene.

    Args:
        size: (width, height) in pixels.

    Returns:
        the picture, RGB, and its words, sorted, each from :data:`WORDS`.

    Raises:
        ValueError: a negative seed or a side under 32 pixels.
    """
    _check(seed, size)
    return _draw(seed, size)


def write_scenes(
    folder: str | Path, count: int, *, seed: int = 0, size: tuple[int, int] = (256, 192), progress: bool | None = False
) -> Path:
    """Write ``count`` scenes as ``folder/images/scene_00000.jpg`` … with their words in ``folder/labels.json``.

    Scene i of a seed is the same whatever ``count`` is. The label file is written last::

        {"samples": [{"image_name": "scene_00000.jpg", "image_labels": ["sea", "sky"]}, ...], "labels": [all of WORDS]}

    Args:
        size: (width, height) in pixels.
        progress: show a bar.

    Returns:
        the path of the label file.

    Raises:
        ValueError: a count under 1, or what :func:`draw_scene` refuses.
        DataError: the folder already holds images or labels: nothing is overwritten.
    """
    _check(seed, size)
    if count < 1:
        raise InvalidArgumentError(f"count is a number of scenes, at least 1, got {count}")
    images, labels = Path(folder) / "images", Path(folder) / "labels.json"
    for taken in (images, labels):
        if taken.exists():
            raise DataError(f"{folder}: already holds {taken.name}; give a new folder, or remove {taken} to draw again")
    images.mkdir(parents=True)
    samples = []
    with progress_bar("scenes", count, progress) as bar:
        for index in range(count):
            picture, words = _draw((seed, index), size)
            name = f"scene_{index:05d}.jpg"
            with replacing(images / name, flush=False) as partial:
                picture.save(partial, format="JPEG", quality=90)
            samples.append({"image_name": name, "image_labels": list(words)})
            bar.update()
    content = json.dumps({"samples": samples, "labels": list(WORDS)}, indent=1) + "\n"
    return write_whole(labels, content.encode())
