"""The size of a JPEG XL image, read before its plug-in, which decodes an image as it opens it."""

from __future__ import annotations

from .refusal import Unusable

_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


class _Bits:
    """From the least significant one of the first byte."""

    def __init__(self, data: bytes) -> None:
        self._left = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        value = self._left & ((1 << count) - 1)
        self._left >>= count
        return value

    def size(self) -> int:
        return 1 + self.take((9, 13, 18, 30)[self.take(2)])


def jxl_size(content: bytes) -> tuple[int, int]:
    """Width and height of a codestream or of the first one in a container (ISO 18181-1, SizeHeader; -2, boxes).

    Raises:
        Unusable: there is no codestream.
    """
    stream = content if content[:2] == b"\xff\x0a" else _codestream(content)
    if stream[:2] != b"\xff\x0a" or len(stream) < 12:
        raise Unusable("truncated: the file ends before the image does")
    bits = _Bits(stream[2:14])
    small = bits.take(1)
    height = 8 * (1 + bits.take(5)) if small else bits.size()
    ratio = bits.take(3)
    if ratio:
        across, down = _RATIOS[ratio]
        return height * across // down, height
    return (8 * (1 + bits.take(5)) if small else bits.size()), height


def _codestream(content: bytes) -> bytes:
    """Its first bytes, from a box ``jxlc`` or the first ``jxlp``, which has a number before them."""
    at = 0
    for _ in range(10_000):
        length, kind, start = int.from_bytes(content[at : at + 4]), content[at + 4 : at + 8], at + 8
        if length == 1:
            length, start = int.from_bytes(content[at + 8 : at + 16]), at + 16
        if kind in (b"jxlc", b"jxlp"):
            start += 4 if kind == b"jxlp" else 0
            return content[start : start + 64]
        if length < 8:
            break
        at += length
    return b""
