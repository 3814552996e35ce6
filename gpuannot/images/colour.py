"""A decoded image of any of Pillow's modes → upright, 8 bits, over white."""

from __future__ import annotations

import numpy as np
from PIL import ExifTags, Image
from PIL.Image import Transpose as T

from .profiles import is_srgb
from .refusal import Unusable

_TURNS = (T.FLIP_LEFT_RIGHT, T.ROTATE_180, T.FLIP_TOP_BOTTOM, T.TRANSPOSE, T.ROTATE_270, T.TRANSVERSE, T.ROTATE_90)
_TURN_OF_ORIENTATION = dict(enumerate(_TURNS, start=2))  # EXIF orientation; 1 is upright
FLOAT = "float pixels have no defined range; convert the image to 8 or 16 bits"


def upright(image: Image.Image) -> tuple[Image.Image, bytes | None]:
    """A loaded image, which is only read, as it is seen: RGB of 8 bits, and None. Or mode RGB, L or CMYK, and its ICC profile.

    Raises:
        Unusable: float pixels, or grey beyond 16 bits.
    """
    turn = _TURN_OF_ORIENTATION.get(orientation_of(image))
    flat, profile = _flatten(image)
    return (flat if turn is None else flat.transpose(turn)), profile


def grey_of_16_bits(values: np.ndarray) -> np.ndarray:
    """Integers → uint8, v / 257 rounded. Pillow's ``convert`` would clip at 255: all white.

    Raises:
        Unusable: values outside 0…65535.
    """
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise Unusable(f"grey values from {low} to {high}; expected 0 to 65535")
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def orientation_of(image: Image.Image) -> int:
    """Its EXIF orientation, 1…8; from 5 on width and height change places."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # corrupt metadata must not lose an image whose pixels are sound
        return 1


def _flatten(image: Image.Image) -> tuple[Image.Image, bytes | None]:
    """A loaded image of any mode as for `upright`; the same object where it is that already."""
    profile = None if image.mode == "LAB" else image.info.get("icc_profile")  # Lab says itself what colours it has
    if image.mode == "F":
        raise Unusable(FLOAT)
    if image.mode.startswith("I"):
        values = np.asarray(image)
        grey = grey_of_16_bits(values)
        transparent = image.info.get("transparency")
        if transparent is not None:
            grey[values == transparent] = 255
        return _rgb(Image.fromarray(grey), profile)
    if image.has_transparency_data:
        # Under alpha 0 the colour is whatever the writer left there; without a background it would reach the trunk as content.
        # Laid over white before the profile is applied: white is white in every profile.
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, "white")
        canvas.alpha_composite(rgba)
        image = canvas.convert("L" if image.mode in ("1", "L", "LA") and profile else "RGB")
    return _rgb(image, profile)


def _rgb(image: Image.Image, profile: object) -> tuple[Image.Image, bytes | None]:
    if isinstance(profile, bytes):
        image = image.convert("L" if image.mode == "1" else "RGB") if image.mode not in ("L", "RGB", "CMYK") else image
        if not is_srgb(profile, image.mode):
            return image, profile
    return (image if image.mode == "RGB" else image.convert("RGB")), None
