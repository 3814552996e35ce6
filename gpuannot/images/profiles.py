"""ICC profiles → sRGB, the colours that the trunk was trained on."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE = 4 << 20
"""Most bytes of a profile: those of presses have 0.5 to 3 MB."""

_KEPT = 8  # transforms of a thread: a collection has few cameras, and a table for CMYK takes a megabyte
_LEVELS = 2
_MODE_OF_SPACE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_Transform: TypeAlias = "ImageCms.ImageCmsTransform | None"
_of_thread = threading.local()  # Little CMS lets go of the interpreter's lock, and two threads must not share a transform


def is_srgb(profile: bytes, mode: str = "RGB") -> bool:
    """Whether an image of ``mode`` with this profile is left as it is: sRGB within 2 grey levels, broken, or of other channels."""
    return _transform(profile, mode) is None


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """An image of mode RGB, L or CMYK by its ICC profile as sRGB, mode RGB. A profile never costs an image.

    Relative colorimetric, with black point compensation, as photo editors convert.
    """
    transform = _transform(profile, image.mode)
    try:
        return image.convert("RGB") if transform is None else transform.apply(image)
    except Exception:  # as a broken profile
        return image.convert("RGB")


def _transform(profile: bytes, mode: str) -> _Transform:
    kept: OrderedDict[tuple[bytes, str], _Transform] | None = getattr(_of_thread, "kept", None)
    if kept is None:
        kept = _of_thread.kept = OrderedDict()
    key = (profile, mode)
    if key in kept:
        kept.move_to_end(key)
    else:
        kept[key] = _built(profile, mode)
        if len(kept) > _KEPT:
            kept.popitem(last=False)
    return kept[key]


def _built(profile: bytes, mode: str) -> _Transform:
    if not 128 <= len(profile) <= MAX_PROFILE:
        return None
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _MODE_OF_SPACE.get(opened.profile.xcolor_space.strip()) != mode:
            return None
        transform = ImageCms.buildTransform(
            opened,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        probe = _probe(mode)
        moved = None if probe is None else np.asarray(transform.apply(probe)).astype(int) - np.asarray(probe.convert("RGB"))
    except Exception:  # whatever Little CMS or Pillow finds in broken bytes, or a Pillow that was built without it
        return None
    # Names lie, and there are dozens of sRGB profiles. What counts is what it does to colours.
    return None if moved is not None and np.abs(moved).max() <= _LEVELS else transform


def _probe(mode: str) -> Image.Image | None:
    """Colours from all over the cube, or all greys; CMYK is never sRGB."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)) if mode == "RGB" else None
