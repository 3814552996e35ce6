"""TIFF files of every layout, written from their samples by the TIFF 6.0 specification, without a TIFF library."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import numpy as np

NONE, LZW, DEFLATE, PACKBITS = 1, 5, 8, 32773
MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, CMYK, YCBCR, CIELAB, ICCLAB = 0, 1, 2, 3, 5, 6, 8, 9


def tiff(
    samples: np.ndarray,
    photometric: int,
    *,
    bits: int = 8,
    order: str = "<",
    planar: bool = False,
    compression: int = NONE,
    predictor: int = 1,
    tile: int | None = None,
    rows: int = 7,
    extra: tuple[int, ...] = (),
    big: bool = False,
    tags: Mapping[int, tuple[int, ...]] | None = None,
) -> bytes:
    """A TIFF file of one image.

    Args:
        samples: (H, W, C), unsigned integers below 2^bits, or floats of ``bits`` bits.
        photometric: tag 262.
        order: of bytes, as in ``struct``.
        planar: the samples of a kind lie together (PlanarConfiguration 2).
        predictor: 2 stores differences from the pixel on the left.
        tile: side of square tiles; None writes strips of ``rows`` rows.
        extra: tag 338, a value for each sample beyond those of ``photometric``.
        big: BigTIFF.
        tags: more of them, each with SHORT values.
    """
    height, width, channels = samples.shape
    planes = [samples[..., [c]] for c in range(channels)] if planar else [samples]
    chunks = [_pack(part, bits, order, compression, predictor) for plane in planes for part in _parts(plane, tile, rows)]
    described: dict[int, tuple[str, tuple[int, ...]]] = {
        256: ("I", (width,)),
        257: ("I", (height,)),
        258: ("H", (bits,) * channels),
        259: ("H", (compression,)),
        262: ("H", (photometric,)),
        277: ("H", (channels,)),
        284: ("H", (2 if planar else 1,)),
    }
    if samples.dtype.kind == "f":
        described[339] = ("H", (3,) * channels)
    if predictor != 1:
        described[317] = ("H", (predictor,))
    if extra:
        described[338] = ("H", extra)
    if photometric == YCBCR:
        described[530] = ("H", (1, 1))
    if tile is None:
        described[278] = ("I", (rows,))
    else:
        described[322], described[323] = ("I", (tile,)), ("I", (tile,))
    start = 16 if big else 8
    offsets = np.cumsum([start] + [len(chunk) for chunk in chunks])
    described[273 if tile is None else 324] = ("I", tuple(offsets[:-1].tolist()))
    described[279 if tile is None else 325] = ("I", tuple(len(chunk) for chunk in chunks))
    at = int(offsets[-1])
    for tag, values in (tags or {}).items():
        described[tag] = ("H", values)
    header = struct.pack(order + "HHHQ", 43, 8, 0, at) if big else struct.pack(order + "HI", 42, at)
    return (b"II" if order == "<" else b"MM") + header + b"".join(chunks) + _directory(described, at, order, big)


def _parts(plane: np.ndarray, tile: int | None, rows: int) -> list[np.ndarray]:
    height, width, _ = plane.shape
    if tile is None:
        return [plane[y : y + rows] for y in range(0, height, rows)]
    padded = np.pad(plane, ((0, -height % tile), (0, -width % tile), (0, 0)), mode="edge")
    return [padded[y : y + tile, x : x + tile] for y in range(0, height, tile) for x in range(0, width, tile)]


def _pack(part: np.ndarray, bits: int, order: str, compression: int, predictor: int) -> bytes:
    if predictor == 2:
        part = np.concatenate([part[:, :1], part[:, 1:] - part[:, :-1]], axis=1) & ((1 << bits) - 1)
    lines = part.reshape(len(part), -1)
    if bits in (8, 16, 32, 64):
        raw = [line.astype(f"{order}{'f' if part.dtype.kind == 'f' else 'u'}{bits // 8}").tobytes() for line in lines]
    else:  # the most significant bit first, each row from a byte of its own
        raw = [np.packbits((line[:, None] >> np.arange(bits)[::-1]) & 1).tobytes() for line in lines]
    if compression == PACKBITS:
        return _packbits(raw)
    data = b"".join(raw)
    return {NONE: lambda: data, DEFLATE: lambda: zlib.compress(data), LZW: lambda: _lzw(data)}[compression]()


def _packbits(rows: list[bytes]) -> bytes:
    """Literal runs alone, none across rows."""
    return b"".join(bytes([len(row[i : i + 128]) - 1]) + row[i : i + 128] for row in rows for i in range(0, len(row), 128))


def _lzw(data: bytes) -> bytes:
    """Literals, with a clear code (256) before the table makes codes longer than 9 bits; 257 ends."""
    codes = [code for i in range(0, len(data), 250) for code in (256, *data[i : i + 250])] or [256]
    return np.packbits((np.array([*codes, 257])[:, None] >> np.arange(9)[::-1]) & 1).tobytes()


def _directory(described: dict[int, tuple[str, tuple[int, ...]]], at: int, order: str, big: bool) -> bytes:
    count, entry, inline, last = ("Q", "HHQ", 8, "Q") if big else ("H", "HHI", 4, "I")
    types = {"H": 3, "I": 4}
    size = (
        struct.calcsize(order + count) + len(described) * (struct.calcsize(order + entry) + inline) + struct.calcsize(order + last)
    )
    table, values = struct.pack(order + count, len(described)), b""
    for tag, (kind, numbers) in sorted(described.items()):
        packed = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        if len(packed) > inline:
            place = at + size + len(values)
            values += packed
            packed = struct.pack(order + last, place)
        table += struct.pack(order + entry, tag, types[kind], len(numbers)) + packed.ljust(inline, b"\0")
    return table + struct.pack(order + last, 0) + values
