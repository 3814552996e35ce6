"""One image of a batch: read, decoded into its place, or why not. Threads and decode processes run the same code, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from ..errors import ImageError, Stage
from ..system.timing import StageTimer
from .decode import ImageSource, decode_image
from .input import Input, Loaded, utf8
from .jpeg_header import read_jpeg_header

_MAX_REASON = 1000  # characters


@dataclass(frozen=True)
class ImageFailure:
    """One image that gave no pixels, or whose words could not be written.

    Attributes:
        path: names the image.
        stage: where it failed. ``find``: there is no readable file of that name; ``read``: it could not be read; ``decode``: its
            content is not a usable image; ``write``: it has words, but they could not be written where they were to go.
        reason: why, as text that every format takes, of bounded length.
    """

    path: str
    stage: Stage
    reason: str

    def __post_init__(self) -> None:
        reason = utf8(self.reason)
        if len(reason) > _MAX_REASON:
            reason = reason[: _MAX_REASON - 1] + "…"
        object.__setattr__(self, "reason", reason)


class JpegForGpu(NamedTuple):
    """A JPEG that the GPU's decoder is to take.

    Attributes:
        content: the file's bytes.
        orientation: EXIF, to apply afterwards.
    """

    content: bytes
    orientation: int


Outcome: TypeAlias = ImageFailure | JpegForGpu | None  # None: the pixels are in their place


class DecodeTask(NamedTuple):
    """What to decode.

    Attributes:
        name: stands for the image in failures.
        for_gpu: hand it back undecoded where the GPU's decoder can take it.
    """

    name: str
    source: ImageSource | Input | Loaded
    for_gpu: bool = False


def decode_into(out: np.ndarray, task: DecodeTask, interpolation: str, timer: StageTimer) -> Outcome:
    """Write the pixels of one image into its place.

    Args:
        out: (S, S, 3) uint8.
        timer: gets the seconds of reading and decoding.
    """
    source = task.source
    try:
        if isinstance(source, (Input, Loaded)):
            with timer.measure("read"):
                source = source.read()
        with timer.measure("decode"):
            if task.for_gpu and isinstance(source, bytes):
                header = read_jpeg_header(source)
                if header is not None and header.suits_gpu:
                    return JpegForGpu(source, header.orientation)
            out[...] = decode_image(source, (out.shape[0], out.shape[1]), name=task.name, interpolation=interpolation)
    except ImageError as error:
        return ImageFailure(error.path, error.stage, error.reason)
    return None
