"""JPEG decoders side by side: ``python -m benchmarks.bench_decode``. Decode and warp to 224×224, one thread.

Decoders that are not installed are left out. The reference is what gpuannot does: Pillow at full size, then its antialiased bicubic
warp. Others win time where they decode at a fraction of the size or warp otherwise, and then give other pixels: the last columns
say by how much, in grey levels of 255.
"""

from __future__ import annotations

import argparse
import importlib
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.common import alternate, spread, write_result
from gpuannot.images import decode_image
from gpuannot.scenes import draw_scene

SIZE = 224
Decoder = Callable[[bytes], NDArray[np.uint8]]


def decoders() -> dict[str, Decoder]:
    """By name, each bytes → (SIZE, SIZE, 3) RGB."""

    def warp(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.array(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC))

    def draft(content: bytes) -> NDArray[np.uint8]:
        image = Image.open(io.BytesIO(content))
        image.draft("RGB", (SIZE, SIZE))
        return np.array(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC))

    found: dict[str, Decoder] = {"gpuannot (Pillow)": lambda content: decode_image(content, SIZE), "Pillow, draft mode": draft}
    if (simplejpeg := _optional("simplejpeg")) is not None:
        found["simplejpeg, Pillow's warp"] = lambda content: warp(simplejpeg.decode_jpeg(content))
        found["simplejpeg at a fraction, Pillow's warp"] = lambda content: warp(
            simplejpeg.decode_jpeg(content, min_height=SIZE, min_width=SIZE)
        )
    if (cv2 := _optional("cv2")) is not None:
        cv2.setNumThreads(1)

        def read(content: bytes) -> NDArray[np.uint8]:
            return np.ascontiguousarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1])

        found["OpenCV, Pillow's warp"] = lambda content: warp(read(content))
        found["OpenCV, its INTER_AREA"] = lambda content: cv2.resize(read(content), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return found


def _optional(name: str) -> Any | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def measure(size: tuple[int, int], images: int, repeats: int) -> list[Mapping[str, Any]]:
    contents = []
    for number in range(images):
        file = io.BytesIO()
        draw_scene(number, size)[0].save(file, "JPEG", quality=90)
        contents.append(file.getvalue())
    variants = decoders()
    reference = [decode_image(content, SIZE).astype(np.int16) for content in contents]
    calls: dict[str, Callable[[], object]] = {
        name: lambda decode=decode: [decode(content) for content in contents] for name, decode in variants.items()
    }
    seconds = alternate(calls, repeats=repeats)
    rows = []
    for name, decode in variants.items():
        difference = np.abs(np.stack([decode(content) - pixels for content, pixels in zip(contents, reference, strict=True)]))
        rate = spread([images / value for value in seconds[name]])
        pixels = {"mean_difference": float(difference.mean()), "largest_difference": int(difference.max())}
        rows.append({"decoder": name, "width": size[0], "height": size[1], "images_per_second": rate, **pixels})
        print(
            f"{size[0]}×{size[1]}  {name:40} {rate['median']:8.0f} images/s  differs by {pixels['mean_difference']:.2f} "
            f"on average, {pixels['largest_difference']} at most",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_decode", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=16, help="of each size (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="timings of each decoder (default: %(default)s)")
    parser.add_argument("--write", metavar="NAME", help="also write benchmarks/results/NAME.json")
    arguments = parser.parse_args()
    rows = [row for size in ((256, 192), (640, 480), (1920, 1440)) for row in measure(size, arguments.images, arguments.repeats)]
    if arguments.write:
        print(write_result(arguments.write, "python -m benchmarks.bench_decode", {"threads": 1, "rows": rows}))


if __name__ == "__main__":
    main()
