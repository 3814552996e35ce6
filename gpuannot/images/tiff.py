"""TIFF in layouts that Pillow refuses or misreads: planes apart, 16 bits with alpha, Lab of 16 bits, colours of 1 to 12 bits, …

Without their meaning the samples of any layout are a grey image: a plane, or one as many times as wide as a pixel has samples.
So directories are written that say this of the same strips, Pillow and libtiff unpack them, and the colours are put together here.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from .colour import FLOAT
from .libtiff import reads_compression
from .refusal import SAVE_ANEW, Unusable
from .tiff_colour import COLOURS, assemble

MAX_ENTRIES, MAX_STRIPS = 4096, 200_000  # of a directory, of an image: Pillow walks both in Python
_SIZE, _BITS, _COMPRESSION, _PHOTOMETRIC = (256, 257), 258, 259, 262
_FILL_ORDER, _STRIPS, _CHANNELS, _ROWS, _STRIP_BYTES, _PLANAR, _PREDICTOR = 266, 273, 277, 278, 279, 284, 317
_PALETTE, _TILE_SIZE, _TILES, _TILE_BYTES, _EXTRA, _FORMAT, _JPEG_TABLES = 320, (322, 323), 324, 325, 338, 339, 347
_COEFFICIENTS, _SUBSAMPLING, _BLACK_WHITE, _PROFILE = 529, 530, 532, 34675
_NONE, _OLD_JPEG, _JPEG = 1, 6, 7
_BYTES = (1, 5, 8, 32773, 32946, 34925, 50000)  # compressions of bytes, whatever they mean: LZW, Deflate, PackBits, …
_OF_PIXELS = {2, 3, 4, 6, 7, 32771, 32809, 50001}  # those of Pillow that know pixels: fax, JPEG, WebP


def _unsupported(what: str) -> Unusable:
    return Unusable(f"not supported: TIFF with {what}; {SAVE_ANEW}")


@dataclass(frozen=True)
class Layout:
    """A TIFF image that is read here.

    Attributes:
        bits: a sample.
        channels: samples a pixel.
    """

    content: bytes
    order: str
    tags: Mapping[int, tuple[Any, ...]]
    width: int
    height: int
    bits: int
    channels: int

    @property
    def samples(self) -> int:
        """Of the grey image that Pillow decodes."""
        return self.height * self._across * self._per_pixel

    def read(self) -> Image.Image:
        """Mode L, LA, RGB, RGBA, CMYK or LAB of 8 bits, with EXIF orientation and ICC profile.

        Raises:
            Unusable: strips are missing, or grey values have no defined range.
        """
        photometric, extra = self.tags[_PHOTOMETRIC][0], self.tags.get(_EXTRA, ())
        colours = COLOURS[photometric]
        alpha = extra[0] if extra else 2 if self.channels > colours and photometric in (1, 2) else 0  # unsaid: as Pillow in RGB
        wanted = colours + (alpha in (1, 2) and self.channels > colours)
        if self._planes == 1:
            samples = self._plane(self._grey(range(1))[0])[..., :wanted]
        else:
            samples = np.concatenate([self._plane(plane) for plane in self._grey(range(wanted))], axis=2)
        if self.tags.get(_FORMAT, (1,))[0] == 2:
            samples = samples.view(samples.dtype.str.replace("u", "i"))
        image = assemble(samples, self.bits, photometric, alpha if wanted > colours else 0, self.tags.get(_PALETTE, ()))
        if orientation := self.tags.get(ExifTags.Base.Orientation):
            image.getexif()[ExifTags.Base.Orientation] = orientation[0]
        if profile := self.tags.get(_PROFILE):
            image.info["icc_profile"] = profile[0]
        return image

    @property
    def _tiled(self) -> bool:
        return _STRIPS not in self.tags

    @property
    def _planes(self) -> int:
        return self.channels if self.tags.get(_PLANAR, (1,))[0] == 2 else 1

    @property
    def _per_pixel(self) -> int:
        """Values of Pillow's grey image for a pixel: 32 bits are two of 16."""
        return (self.channels if self._planes == 1 else 1) * (2 if self.bits == 32 else 1)

    @property
    def _across(self) -> int:
        """Width with the padding of tiles."""
        side = self.tags[_TILE_SIZE[0]][0] if self._tiled else self.width
        return -(-self.width // side) * side

    @property
    def _differences(self) -> bool:
        """Differences are to be added up here: to a grey image they seem to be those of neighbouring samples."""
        return self.tags.get(_PREDICTOR, (1,))[0] == 2 and self._per_pixel > 1

    def _grey(self, planes: range) -> list[np.ndarray]:
        """(H, W', 1 or 2 bytes) of Pillow, a plane each."""
        found = []
        with TiffImagePlugin.TiffImageFile(io.BytesIO(self._as_grey(planes)), "") as image:
            for number in planes:
                image.seek(number)
                found.append(np.array(image))
        return found

    def _plane(self, values: np.ndarray) -> np.ndarray:
        """(H, W, samples) unsigned integers, those below 8 bits scaled to 8, from the grey image."""
        if self.bits == 32:
            pairs = values.astype(np.uint32).reshape(self.height, self._across, -1, 2)
            first, second = pairs[..., 0], pairs[..., 1]
            values = first << 16 | second if self.order == ">" else second << 16 | first
        elif values.dtype == bool:
            values = values * np.uint8(255)
        values = values.reshape(self.height, self._across, -1)
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        if self._differences:
            side = self.tags[_TILE_SIZE[0]][0] if self._tiled else self.width
            apart = values.reshape(self.height, -1, side, values.shape[2])
            values = np.cumsum(apart, axis=2, dtype=values.dtype).reshape(values.shape)
        return values[:, : self.width]

    def _as_grey(self, planes: range) -> bytes:
        """The file with a directory for each plane, which says that it is grey."""
        places, sizes = (self.tags.get(tag, ()) for tag in ((_TILES, _TILE_BYTES) if self._tiled else (_STRIPS, _STRIP_BYTES)))
        if self._tiled:
            side, rows = (self.tags[tag][0] for tag in _TILE_SIZE)
        else:
            side, rows = self.width, min(self.tags.get(_ROWS, (self.height,))[0], self.height)
        count = -(-self.height // rows) * (self._across // side)
        if len(places) < count * self._planes:
            raise Unusable(f"broken image data: {len(places)} strips or tiles; expected {count * self._planes}")
        bits = min(self.bits, 16)
        order = self.order if bits == 16 else "<"  # Pillow reads 12 bits, whose order is that of bits, in this one alone
        at = len(self.content) + len(self.content) % 2
        parts = [
            (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at),
            self.content[8:],
            b"\0" * (len(self.content) % 2),
        ]
        for number in planes:
            mine = slice(number * count, (number + 1) * count)
            tags: dict[int, tuple[int, ...] | bytes] = {
                _SIZE[0]: (self._across * self._per_pixel,),
                _SIZE[1]: (self.height,),
                _BITS: (bits,),
                _COMPRESSION: self.tags.get(_COMPRESSION, (_NONE,)),
                _PHOTOMETRIC: (1,),
                _CHANNELS: (1,),
                _FILL_ORDER: self.tags.get(_FILL_ORDER, (1,)),
                _TILES if self._tiled else _STRIPS: places[mine],
            }
            if len(sizes) >= count * self._planes:
                tags[_TILE_BYTES if self._tiled else _STRIP_BYTES] = sizes[mine]
            if self._tiled:
                tags |= {_TILE_SIZE[0]: (side * self._per_pixel,), _TILE_SIZE[1]: (rows,)}
            else:
                tags[_ROWS] = (rows,)
            if self.tags.get(_PREDICTOR, (1,))[0] == 2 and not self._differences:
                tags[_PREDICTOR] = (2,)
            if _JPEG_TABLES in self.tags:
                tags[_JPEG_TABLES] = self.tags[_JPEG_TABLES][0]
            directory = _directory(tags, at, order, last=number == planes[-1])
            parts.append(directory)
            at += len(directory)
        return b"".join(parts)


def _directory(tags: dict[int, tuple[int, ...] | bytes], at: int, order: str, *, last: bool) -> bytes:
    """A TIFF directory that begins at byte ``at``; the next one follows it unless it is the last."""
    end = at + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag, value in sorted(tags.items()):
        kind, packed = (7, value) if isinstance(value, bytes) else (4, struct.pack(f"{order}{len(value)}I", *value))
        if len(packed) > 4:
            place, packed = end + len(values), packed + b"\0" * (len(packed) % 2)
            values, packed = values + packed, struct.pack(order + "I", place)
        entries += struct.pack(order + "HHI", tag, kind, len(value)) + packed.ljust(4, b"\0")
    return struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", 0 if last else end + len(values)) + values


def unusual_tiff(file: IO[bytes]) -> Layout | None:
    """The first image of a TIFF file, from its start, where Pillow would refuse or misread it; None where Pillow reads it right.

    Raises:
        Unusable: neither reads it.
    """
    header = file.read(8)
    header += file.read(8) if header[2:3] == b"+" or header[3:4] == b"+" else b""
    order, big = ("<" if header[:2] == b"II" else ">"), len(header) == 16
    # BigTIFF of this order has its number in another byte, where Pillow does not look; then all is read here.
    foreign = big and order == ">"
    directory = TiffImagePlugin.ImageFileDirectory_v2(b"II" + b"+\0" + header[4:] if foreign else header, prefix=header[:2])
    file.seek(directory.next)
    count = int.from_bytes(file.read(8 if big else 2), "little" if order == "<" else "big")
    if count > MAX_ENTRIES:
        raise Unusable(f"broken image data: {count} tags; expected at most {MAX_ENTRIES}")
    file.seek(directory.next)
    directory.load(file)
    tags = {}
    for tag in _NUMBERS | _OTHERS:  # a tag is unpacked as it is looked at, and others may have megabytes
        if tag in directory:
            value = directory[tag]
            tags[tag] = value if isinstance(value, tuple) else (value,)
    if not all(value and isinstance(value[0], int) for tag, value in tags.items() if tag in _NUMBERS):
        raise Unusable("broken image data: a tag that says how the pixels lie is no number")
    if not all(tag in tags and tags[tag][0] > 0 for tag in _SIZE) or not (_STRIPS in tags or _TILES in tags):
        return None  # Pillow says what is missing
    places = tags.get(_STRIPS) or tags[_TILES]
    if len(places) > MAX_STRIPS:
        raise Unusable(f"not supported: TIFF of more than {MAX_STRIPS} strips or tiles; save it with more rows a strip")
    layout = _checked(tags, pillow=not foreign)
    if layout is None:
        return None
    file.seek(0)
    return Layout(file.read(), order, tags, tags[_SIZE[0]][0], tags[_SIZE[1]][0], *layout)


_NUMBERS = frozenset([
    *_SIZE, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _STRIPS, _CHANNELS, _ROWS, _STRIP_BYTES, _PLANAR, _PREDICTOR, _PALETTE,
    *_TILE_SIZE, _TILES, _TILE_BYTES, _EXTRA, _FORMAT, _SUBSAMPLING,
])  # fmt: skip
_OTHERS = frozenset([_JPEG_TABLES, _COEFFICIENTS, _BLACK_WHITE, _PROFILE, int(ExifTags.Base.Orientation)])


def _checked(tags: Mapping[int, tuple[Any, ...]], *, pillow: bool) -> tuple[int, int] | None:
    """Bits a sample and samples a pixel of what is read here; None for Pillow's.

    Args:
        pillow: may take what it reads right.
    """
    compression, photometric = (tags.get(tag, (default,))[0] for tag, default in ((_COMPRESSION, _NONE), (_PHOTOMETRIC, 0)))
    channels, planar, predictor = (tags.get(tag, (1,))[0] for tag in (_CHANNELS, _PLANAR, _PREDICTOR))
    bits, formats, extra = tags.get(_BITS, (1,)), set(tags.get(_FORMAT, (1,))), tags.get(_EXTRA, ())
    if compression == _OLD_JPEG and pillow:
        return None
    if (compression not in _BYTES and compression not in _OF_PIXELS) or (
        compression != _NONE and not reads_compression(compression)
    ):
        raise _unsupported(f"compression {compression}")
    if photometric not in COLOURS:
        raise _unsupported(f"photometric interpretation {photometric}")
    if 3 in formats:
        raise Unusable(FLOAT)
    colours = COLOURS[photometric]
    if len(set(bits[:channels])) > 1 or len(formats) > 1 or not formats <= {1, 2, 4} or (formats == {2} and channels > 1):
        raise _unsupported("samples of different kinds, signed colours or complex numbers")
    if photometric == 6 and compression != _JPEG and channels == 3:
        _check_ycbcr(tags, compression)
    fits_pillow = _fits_pillow(photometric, bits[0], channels, extra, reversed_=tags.get(_FILL_ORDER, (1,))[0] == 2)
    narrow_palette = photometric == 3 and max(tags.get(_PALETTE, (256,))) < 256
    if pillow and planar != 2 and not narrow_palette and formats <= {1} and fits_pillow:
        return None
    if bits[0] not in (1, 2, 4, 8, 12, 16, 32) or (tags.get(_FILL_ORDER, (1,))[0] == 2 and bits[0] > 8):
        raise _unsupported(f"{bits[0]} bits a sample" + (" in reversed order" if bits[0] in (12, 16, 32) else ""))
    if bits[0] == 32 and (channels > 1 or photometric > 1):
        raise _unsupported("colours of 32 bits a sample")
    if compression not in _BYTES and not (compression == _JPEG and planar == 2 and bits[0] == 8):
        raise _unsupported(f"{channels} samples of {bits[0]} bits a pixel in compression {compression}")
    if predictor != 1 and (predictor != 2 or bits[0] not in (8, 16, 32)):
        raise _unsupported(f"predictor {predictor} of {bits[0]} bits")
    if channels < colours or (photometric == 3 and bits[0] > 8) or (photometric in (6, 8, 9) and bits[0] not in (8, 16)):
        raise _unsupported(f"{channels} samples of {bits[0]} bits a pixel in photometric interpretation {photometric}")
    if extra and extra[0] == 1 and channels > colours and photometric in (6, 8, 9):
        raise _unsupported("Lab or YCbCr that is multiplied by its alpha")
    if not (all(tags.get(tag, (0,))[0] > 0 for tag in _TILE_SIZE) if _STRIPS not in tags else tags.get(_ROWS, (1,))[0] > 0):
        raise Unusable("broken image data: strips or tiles without a size")
    return bits[0], channels


def _fits_pillow(photometric: int, bits: int, channels: int, extra: tuple[int, ...], *, reversed_: bool) -> bool:
    """Whether Pillow reads unsigned samples that lie together, and reads them right (``tests/images/test_tiff.py`` holds it)."""
    if bits > 8 and reversed_:
        return False
    if photometric in (0, 1, 3) and channels == 1 and not extra:
        return bits in (1, 2, 4, 8) or (bits == 16 and photometric == 1)
    if photometric == 2 and bits in (8, 16):
        return (channels == 3 and not extra) or (channels == 4 and extra in ((), (0,), (1,), (2,)))
    return bits == 8 and not extra and channels == COLOURS[photometric] and photometric in (5, 6, 8)


def _check_ycbcr(tags: Mapping[int, tuple[Any, ...]], compression: int) -> None:
    if compression == _NONE and tags.get(_SUBSAMPLING, (2, 2)) != (1, 1):
        raise _unsupported("YCbCr whose colours have fewer samples")
    usual = {_BLACK_WHITE: (0, 255, 128, 255, 128, 255), _COEFFICIENTS: (0.299, 0.587, 0.114)}
    for tag, values in usual.items():
        if compression == _NONE and tag in tags and not np.allclose([float(value) for value in tags[tag]], values, atol=1e-3):
            raise _unsupported("YCbCr of an unusual range")
