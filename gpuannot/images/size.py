"""The size of an image, from its header."""

from __future__ import annotations

import os

from PIL import Image

from .colour import orientation_of
from .decode import without_size_warning


def size_of(path: str) -> tuple[int, int] | None:
    """Width and height of an image as it is seen, its EXIF orientation applied; None where that is not known.

    Args:
        path: of a local file; None for anything else.
    """
    if not os.path.isfile(path):
        return None
    try:
        with without_size_warning(), Image.open(path) as image:
            width, height = image.size
            return (height, width) if orientation_of(image) >= 5 else (width, height)
    except Exception:  # what Pillow does not open, another decoder may have read
        return None
