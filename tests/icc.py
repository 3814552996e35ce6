"""ICC profiles of three primaries or of grey, written by ICC.1:2001-04 (version 2)."""

from __future__ import annotations

import struct

import numpy as np

D65, D50 = (0.3127, 0.3290), (0.9642, 1.0, 0.8249)
PRIMARIES = {
    "sRGB": ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),
    "Display P3": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    "Adobe RGB": ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)),
    "ProPhoto": ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)),
}
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def to_xyz(space: str) -> np.ndarray:
    """(3, 3): linear RGB of a space whose white is D65 (ProPhoto: D50) → XYZ under D50."""
    white = np.array(D50) if space == "ProPhoto" else _xyz(D65)
    columns = np.stack([_xyz(xy) for xy in PRIMARIES[space]], axis=1)
    matrix = columns * np.linalg.solve(columns, white)
    adapt = np.linalg.solve(_BRADFORD, np.diag(_BRADFORD @ D50 / (_BRADFORD @ white)) @ _BRADFORD)
    return adapt @ matrix


def rgb_profile(space: str, gamma: float | None = None, description: bytes = b"a profile") -> bytes:
    """``gamma`` None: the curve of sRGB."""
    curve = _curve(gamma)
    columns = {name: _xyz_tag(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), to_xyz(space).T, strict=True)}
    return _profile(b"RGB ", columns | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve), description)


def grey_profile(gamma: float) -> bytes:
    return _profile(b"GRAY", {b"kTRC": _curve(gamma)}, b"grey")


def cmyk_profile(colours: np.ndarray) -> bytes:
    """A printer's: (2, 2, 2, 2, 3) sRGB, 0…255, of each corner, without ink and with, in the order C, M, Y, K."""
    xyz = linear_of_srgb(colours / 255) @ to_xyz("sRGB").T / D50
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    lab = np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)
    table = np.round(lab * (2.55, 1, 1) + (0, 128, 128)).astype(np.uint8).tobytes()
    straight = bytes(range(256))
    matrix = struct.pack(">9i", *np.eye(3, dtype=int).ravel() * 65536)
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + straight * 4 + table + straight * 3
    return _profile(b"CMYK", {b"A2B0": lut}, b"printer", connected=b"Lab ", kind=b"prtr")


def linear_of_srgb(values: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1, values 0…1."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _xyz(xy: tuple[float, float]) -> np.ndarray:
    return np.array([xy[0] / xy[1], 1, (1 - xy[0] - xy[1]) / xy[1]])


def _xyz_tag(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *np.round(np.asarray(values) * 65536).astype(int))


def _curve(gamma: float | None) -> bytes:
    if gamma is not None:
        return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    table = np.round(linear_of_srgb(np.linspace(0, 1, 1024)) * 65535).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", len(table)) + table.tobytes()


def _profile(
    space: bytes, tags: dict[bytes, bytes], description: bytes, *, connected: bytes = b"XYZ ", kind: bytes = b"mntr"
) -> bytes:
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(description) + 1) + description + b"\0" + b"\0" * 78,
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": _xyz_tag(np.array(D50)),
        **tags,
    }
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    size = start + len(body)
    header = struct.pack(
        ">I4sI4s4s4s12s4s", size, b"\0\0\0\0", 0x02400000, kind, space, connected, b"\x07\xd0\0\1\0\1" + b"\0" * 6, b"acsp"
    )
    header = header.ljust(68, b"\0") + _xyz_tag(np.array(D50))[8:]
    return header.ljust(128, b"\0") + table + body
