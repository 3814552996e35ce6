"""What a report shows of images: small pictures and heatmaps, as text in blocks that a browser decodes when it needs them."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Iterator
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from ..errors import ImageError
from ..images.containers import read
from ..images.decode import ImageSource, decode_image
from ..images.input import Input, Loaded

BLOCK = 64  # images whose previews stand in one element of the page

_QUALITY = 72


def preview_side(images: int) -> int:
    """Longest side of a preview in pixels: sharp on a screen of two pixels a point, small enough for a page of 10,000 images."""
    return 960 if images <= 200 else 512 if images <= 1000 else 320 if images <= 3000 else 192


def preview(source: ImageSource | Input | Loaded, name: str, side: int) -> tuple[bytes, float] | ImageError:
    """A picture of an image as WebP, and its width divided by its height.

    Where Pillow is built without WebP, as JPEG.

    Args:
        name: stands for the image in errors.
        side: of the picture, at most so many pixels.
    """
    try:
        content = read(source) if isinstance(source, (Input, Loaded)) else source
        image = Image.fromarray(decode_image(content, name=name))
    except ImageError as error:
        return error
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP" if features.check("webp") else "JPEG", quality=_QUALITY)
    return buffer.getvalue(), image.width / image.height


def heat_levels(contributions: NDArray[np.floating]) -> NDArray[np.uint8]:
    """What each patch adds to each word's score, (k, P), as levels 0…255 of that word: 255 where most, 0 where nothing or less.

    So a heatmap says where within an image a word was seen, not how strongly, and not what spoke against it.
    """
    positive = np.maximum(contributions, 0)
    most = positive.max(axis=1, keepdims=True)
    return np.asarray(np.rint(255 * np.divide(positive, most, out=np.zeros(positive.shape), where=most > 0)), dtype=np.uint8)


class TextBlocks:
    """Bytes of any number of images as lines of base64, `BLOCK` lines a block, in a temporary file: memory does not grow."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile("w+", encoding="ascii", prefix="gpuannot-report-")  # noqa: SIM115 - see close()
        self.items = 0

    def append(self, content: bytes | None) -> None:
        """Add one image's bytes; None leaves its line empty."""
        self._file.write((base64.b64encode(content).decode() if content else "") + "\n")
        self.items += 1

    def __iter__(self) -> Iterator[str]:
        self._file.seek(0)
        for start in range(0, self.items, BLOCK):
            yield "".join(self._file.readline() for _ in range(min(BLOCK, self.items - start)))

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> TextBlocks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
