"""What a report shows of images: small pictures and heatmaps, as text in blocks that a browser decodes when it needs them."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from ..errors import ImageError
from ..images.containers import read
from ..images.decode import ImageSource, decode_image
from ..images.input import Input, Loaded

BLOCK = 64  # images whose previews stand in one element of the page


class PreviewForm(NamedTuple):
    """The form of previews: their longest side in pixels, and their quality as WebP or JPEG, 0…100."""

    side: int
    quality: int


def preview_form(images: int) -> PreviewForm:
    """Previews of a page of so many images, sharp in its gallery on a screen of two pixels a point.

    A card is 216 points wide or somewhat more. Few images are sharp when opened, too, or as wide as a phone. The quality of many
    keeps 10,000 of them at 160 MB, which a browser opens in seconds; what it loses, two pixels a point hide.
    """
    return PreviewForm(960, 72) if images <= 200 else PreviewForm(512, 72) if images <= 1000 else PreviewForm(448, 50)


def preview(source: ImageSource | Input | Loaded, name: str, form: PreviewForm) -> tuple[bytes, float] | ImageError:
    """A picture of an image as WebP, and its width divided by its height.

    Where Pillow is built without WebP, as JPEG.

    Args:
        name: stands for the image in errors.
        form: of the picture, which is no larger than the image.
    """
    try:
        content = read(source) if isinstance(source, (Input, Loaded)) else source
        image = Image.fromarray(decode_image(content, name=name))
    except ImageError as error:
        return error
    image.thumbnail((form.side, form.side), Image.Resampling.LANCZOS, reducing_gap=2)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP" if features.check("webp") else "JPEG", quality=form.quality)
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
