"""PBM, PGM and PPM, plain and raw, in NumPy. Pillow reads their headers, comments and unusual ranges byte by byte in Python, half a
minute for 30 MB."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .refusal import Unusable

HEADER_BYTES = 65536
"""Most bytes of a header with its comments: a longer one is no photograph's."""

_GAP = rb"(?:[ \t\n\v\f\r]|#[^\r\n]*[\r\n])+"
_NUMBER = _GAP + rb"([0-9]{1,9})"
_HEADER = re.compile(rb"P(?:([14])" + _NUMBER + _NUMBER + rb"|([2356])" + _NUMBER + _NUMBER + _NUMBER + rb")[ \t\n\v\f\r]")
_NUMBERS = re.compile(rb"[0-9 \t\n\v\f\r]*")
_SPACES = b" \t\n\v\f\r"
_AT_A_TIME = 1 << 24


@dataclass(frozen=True)
class Netpbm:
    """A header, and the file that it stands in.

    Attributes:
        kind: 1 to 6, the digit of its signature.
        most: the sample value of white.
        start: first byte of the pixels.
    """

    content: bytes
    kind: int
    width: int
    height: int
    most: int
    start: int

    def read(self) -> Image.Image:
        """Grey (L) or RGB of 8 bits: v · 255 / ``most``, rounded.

        Raises:
            Unusable: the file ends before the pixels do, or has something else among plain ones.
        """
        channels = 3 if self.kind in (3, 6) else 1
        shape = (self.height, self.width, channels)
        if self.kind == 1:
            values = self._plain_bits()
        elif self.kind == 4:
            rows = self._raw(self.height * -(-self.width // 8), np.dtype(np.uint8)).reshape(self.height, -1)
            values = np.unpackbits(rows, axis=1, count=self.width)
        elif self.kind in (2, 3):
            values = self._plain(self.width * self.height * channels)
        else:
            values = self._raw(self.width * self.height * channels, np.dtype(np.uint8 if self.most < 256 else ">u2"))
        if self.kind in (1, 4):
            pixels = (1 - values.reshape(shape)) * np.uint8(255)  # 1 is black
        elif self.most == 255 and values.dtype == np.uint8:
            pixels = values.reshape(shape)
        else:
            steps = np.minimum(np.arange(65536), self.most)  # raw samples may exceed what their header says
            pixels = ((steps * 255 + self.most // 2) // self.most).astype(np.uint8)[values].reshape(shape)
        return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)

    def _raw(self, count: int, kind: np.dtype) -> np.ndarray:
        if len(self.content) - self.start < count * kind.itemsize:
            raise Unusable("truncated: the file ends before the image does")
        return np.frombuffer(self.content, kind, count, self.start)

    def _plain_bits(self) -> np.ndarray:
        """Single digits, which need no space between them."""
        digits = _without_comments(self.content[self.start :]).translate(None, _SPACES)[: self.width * self.height]
        values = np.frombuffer(digits, np.uint8) - np.uint8(ord("0"))
        if (values > 1).any():
            raise Unusable("broken image data: something else than 0 and 1 among its pixels")
        if len(values) < self.width * self.height:
            raise Unusable("truncated: the file ends before the image does")
        return values

    def _plain(self, count: int) -> np.ndarray:
        text = _without_comments(self.content[self.start :])
        values = np.empty(count, np.uint16)
        done = at = 0
        while done < count:
            end = at + _AT_A_TIME
            while end < len(text) and text[end] not in _SPACES and end - at < 2 * _AT_A_TIME:  # not within a number
                end += 1
            numbers = _NUMBERS.match(text, at, end)
            assert numbers is not None  # it may match nothing
            found = np.fromstring(numbers[0], np.int64, sep=" ")[: count - done] if numbers[0].strip() else np.empty(0, np.int64)
            if (found > self.most).any():
                raise Unusable(f"broken image data: a sample of {found.max()} where its header says at most {self.most}")
            values[done : done + len(found)] = found
            done += len(found)
            if done < count and numbers.end() < min(end, len(text)):
                raise Unusable("broken image data: something else than numbers among its pixels")
            if done < count and end >= len(text):
                raise Unusable("truncated: the file ends before the image does")
            at = end
        return values


def _without_comments(text: bytes) -> bytes:
    """``text`` without what stands from each ``#`` to the end of its line."""
    if b"#" not in text:
        return text
    kept, within = [], b""
    for at in range(0, len(text), _AT_A_TIME):
        block = np.frombuffer(within + text[at : at + _AT_A_TIME], np.uint8)
        places = np.arange(1, len(block) + 1, dtype=np.int32)
        opened = np.maximum.accumulate(np.where(block == ord("#"), places, 0))
        closed = np.maximum.accumulate(np.where((block == ord("\n")) | (block == ord("\r")), places, 0))
        kept.append(block[opened <= closed].tobytes())
        within = b"#" if opened[-1] > closed[-1] else b""
    return b"".join(kept)


def read_netpbm_header(content: bytes) -> Netpbm:
    """The header of a file that begins with P1 to P6.

    Raises:
        Unusable: it is cut, broken, or longer than `HEADER_BYTES`.
    """
    found = _HEADER.match(content, 0, HEADER_BYTES)
    if found is None:
        if len(content) > HEADER_BYTES:
            raise Unusable(f"broken image data: no end of its header in the first {HEADER_BYTES} bytes")
        raise Unusable("truncated: the file ends within its header" if len(content) < 64 else "broken image data: no such header")
    kind, width, height, most = (*found.groups()[:3], b"1") if found[1] else found.groups()[3:]
    if not 0 < int(most) < 65536:
        raise Unusable(f"broken image data: white is {int(most)}; expected 1 to 65535")
    return Netpbm(content, int(kind), int(width), int(height), int(most), found.end())
