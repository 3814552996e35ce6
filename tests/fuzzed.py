"""Images and containers with random damage, the same for the same seed."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import zipfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hostile_images import encoded
from PIL import Image
from tars import write_tar


def originals(size: int = 40) -> dict[str, bytes]:
    """One small picture in every form that Pillow writes and a few of its options, by file name."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, size, dtype=np.uint8)
    pixels = np.stack([np.tile(ramp, (size, 1)), np.tile(ramp[:, None], (1, size)), rng.integers(0, 255, (size, size))], axis=2)
    colour = Image.fromarray(pixels.astype(np.uint8))
    alpha = colour.copy()
    alpha.putalpha(colour.convert("L"))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    forms: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "plain.jpg": (colour, "JPEG", {}),
        "progressive.jpg": (colour, "JPEG", {"progressive": True, "exif": exif}),
        "cmyk.jpg": (colour.convert("CMYK"), "JPEG", {}),
        "grey.jpg": (colour.convert("L"), "JPEG", {"restart_marker_blocks": 2}),
        "plain.png": (colour, "PNG", {}),
        "alpha.png": (alpha, "PNG", {"exif": exif}),
        "palette.png": (colour.quantize(16), "PNG", {"transparency": 3}),
        "deep.png": (Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "PNG", {}),
        "film.gif": (colour, "GIF", {"save_all": True, "append_images": [alpha.convert("RGB")]}),
        "plain.webp": (colour, "WEBP", {}),
        "lossless.webp": (alpha, "WEBP", {"lossless": True, "exif": exif}),
        "plain.tif": (colour, "TIFF", {}),
        "deflate.tif": (alpha, "TIFF", {"compression": "tiff_deflate"}),
        "lzw.tif": (colour.convert("L"), "TIFF", {"compression": "tiff_lzw"}),
        "plain.bmp": (colour, "BMP", {}),
        "plain.ppm": (colour, "PPM", {}),
        "plain.jp2": (colour, "JPEG2000", {}),
        "plain.avif": (colour, "AVIF", {}),
    }
    Image.init()
    return {name: encoded(image, form, **options) for name, (image, form, options) in forms.items() if form in Image.SAVE}


def damaged(content: bytes, rng: Random) -> bytes:
    """With some bytes flipped, overwritten, cut off, taken out, doubled or put in."""
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5, 20))):
        at = rng.randrange(max(1, len(found)))
        length = min(rng.choice((1, 2, 4, 16, 100)), len(found) - at)
        kind = rng.randrange(7)
        if kind == 0 and found:
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            found[at : at + length] = rng.randbytes(length)
        elif kind == 2:
            found[at : at + length] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length
        elif kind == 3:
            del found[at:]
        elif kind == 4:
            del found[at : at + length]
        elif kind == 5:
            found[at:at] = found[at : at + length]
        else:
            found[at:at] = rng.randbytes(length)
    return bytes(found)


def write_images(folder: Path, count: int, rng: Random) -> None:
    """``count`` damaged images in files."""
    forms = originals()
    for number in range(count):
        name = rng.choice(sorted(forms))
        (folder / f"{number:04d} {name}").write_bytes(damaged(forms[name], rng))


def write_containers(folder: Path, count: int, rng: Random) -> Iterator[Path]:
    """``count`` damaged archives, tables and lists of images, most of which are sound, and files of them in ``folder``."""
    forms = {name: content for name, content in originals().items() if name.endswith(("jpg", "png"))}
    (folder / "loose").mkdir()
    for name, content in forms.items():
        (folder / "loose" / name).write_bytes(content)
    for number in range(count):
        images = {f"{place:02d} {name}": forms[name] for place, name in enumerate(rng.choices(sorted(forms), k=rng.randint(1, 12)))}
        suffix = rng.choice((".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".parquet", ".parquet", ".csv", ".txt"))
        path = folder / f"{number:03d}{suffix}"
        path.write_bytes(_container(folder, suffix, images, rng))
        yield path


def _container(folder: Path, suffix: str, images: dict[str, bytes], rng: Random) -> bytes:
    scratch, inside = folder / "scratch", rng.random() < 0.5  # whether the damage is below the compression
    if suffix.startswith(".tar"):
        compress = {
            ".tar": bytes, ".tar.gz": gzip.compress, ".tar.bz2": bz2.compress, ".tar.xz": lzma.compress,
            ".tar.zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
        }[suffix]  # fmt: skip
        content = write_tar(scratch, dict(images)).read_bytes()
        scratch.unlink()
        return compress(damaged(content, rng)) if inside else damaged(compress(content), rng)
    if suffix == ".zip":
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in images.items():
                archive.writestr(name, content, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
        return damaged(file.getvalue(), rng)
    if suffix == ".parquet":
        paths = pa.array([f"loose/{name[3:]}" for name in images])
        column = {"path": paths} if inside else {"image": pa.array(list(images.values()), pa.binary())}
        options = {"write_page_checksum": rng.random() < 0.5, "compression": rng.choice(("none", "snappy", "zstd"))}
        pq.write_table(pa.table(column), scratch, row_group_size=4, data_page_size=500, **options)
        content = scratch.read_bytes()
        scratch.unlink()
        return damaged(content, rng)
    lines = io.StringIO()
    if suffix == ".csv":
        rows = csv.writer(lines)
        rows.writerow(("path", "note"))
        rows.writerows((f"loose/{name[3:]}", 'a "note", of two\nlines') for name in images)
    else:
        lines.writelines(f"loose/{name[3:]}\n" for name in images)
    return damaged(lines.getvalue().encode(), rng)
