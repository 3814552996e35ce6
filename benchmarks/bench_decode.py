"""JPEG decoders side by side: ``python -m benchmarks.bench_decode``. Decode and warp to 224×224, in one thread and in two.

The reference is what gpuannot does: Pillow at full size, then its antialiased bicubic warp. Others win time where they decode at a
fraction of the size or warp otherwise, and then give other pixels: the last columns say by how much, in grey levels of 255.
Processor time, of one thread, stays comparable where other programs run beside; rates do not. The
pictures are drawn scenes with noise, as JPEGs of quality 90. A decoder that is not installed or does not run here is a row that
says so. ``--data FOLDER`` adds the JPEGs of a folder, as they are.
"""

from __future__ import annotations

import importlib
import io
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.common import alternate, jpeg, parser_of, spread, write_if_asked
from gpuannot.datasets.scenes import draw_scene
from gpuannot.images.decode import decode_image

SIZE = 224
SIZES = ((192, 128), (640, 480), (1920, 1080))
Decoder = Callable[[bytes], NDArray[np.uint8]]


def warp(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.array(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def decoders() -> Iterator[tuple[str, Callable[[], Decoder]]]:
    """Name, and what gives the decoder, bytes → (SIZE, SIZE, 3) RGB, or raises where it cannot be had."""

    def draft() -> Decoder:
        def decode(content: bytes) -> NDArray[np.uint8]:
            image = Image.open(io.BytesIO(content))
            image.draft("RGB", (SIZE, SIZE))
            return np.array(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC))

        return decode

    def simplejpeg(**options: int) -> Decoder:
        decode = importlib.import_module("simplejpeg").decode_jpeg
        return lambda content: warp(decode(content, **options))

    def opencv(interpolation: str | None) -> Decoder:
        cv2 = importlib.import_module("cv2")
        cv2.setNumThreads(1)

        def decode(content: bytes) -> NDArray[np.uint8]:
            pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
            if interpolation is None:
                return warp(pixels)
            return cv2.resize(pixels, (SIZE, SIZE), interpolation=getattr(cv2, interpolation))

        return decode

    def turbojpeg() -> Decoder:
        module = importlib.import_module("turbojpeg")
        decode = module.TurboJPEG().decode
        return lambda content: warp(decode(content, pixel_format=module.TJPF_RGB))

    def jpeg4py() -> Decoder:
        read = importlib.import_module("jpeg4py").JPEG
        return lambda content: warp(read(np.frombuffer(content, np.uint8)).decode())

    def imagecodecs() -> Decoder:
        decode = importlib.import_module("imagecodecs").jpeg8_decode
        return lambda content: warp(decode(content))

    def vips(thumbnail: bool) -> Decoder:
        os.environ["VIPS_CONCURRENCY"] = "1"
        image = importlib.import_module("pyvips").Image
        if thumbnail:
            return lambda content: image.thumbnail_buffer(content, SIZE, height=SIZE, size="force").numpy()
        return lambda content: warp(image.new_from_buffer(content, "").numpy())

    def nvimgcodec() -> Decoder:
        module = importlib.import_module("nvidia.nvimgcodec")
        decoder = module.Decoder(device_id=module.NVIMGCODEC_DEVICE_CPU_ONLY, max_num_cpu_threads=1)

        def decode(content: bytes) -> NDArray[np.uint8]:
            if (image := decoder.decode(content)) is None:
                raise RuntimeError("decodes nothing here, not even on the CPU: it looks for a CUDA device first")
            return warp(np.asarray(image))

        return decode

    def torchcodec() -> Decoder:
        decode = importlib.import_module("torchcodec.decoders").decode_image
        return lambda content: warp(decode(content).permute(1, 2, 0).numpy())

    def torchvision() -> Decoder:
        import torch

        decode = importlib.import_module("torchvision.io").decode_jpeg
        return lambda content: warp(decode(torch.frombuffer(bytearray(content), dtype=torch.uint8)).permute(1, 2, 0).numpy())

    yield "gpuannot (Pillow)", lambda: lambda content: decode_image(content, SIZE)
    yield "gpuannot, bicubic_reduced", lambda: partial(decode_image, size=SIZE, interpolation="bicubic_reduced")
    yield "Pillow, draft mode", draft
    yield "simplejpeg, Pillow's warp", simplejpeg
    yield "simplejpeg at a fraction, Pillow's warp", lambda: simplejpeg(min_height=SIZE, min_width=SIZE)
    yield "OpenCV, Pillow's warp", lambda: opencv(None)
    yield "OpenCV, its INTER_AREA", lambda: opencv("INTER_AREA")
    yield "PyTurboJPEG, Pillow's warp", turbojpeg
    yield "jpeg4py, Pillow's warp", jpeg4py
    yield "imagecodecs, Pillow's warp", imagecodecs
    yield "libvips, Pillow's warp", lambda: vips(False)
    yield "libvips, its thumbnail", lambda: vips(True)
    yield "nvImageCodec's CPU backend, Pillow's warp", nvimgcodec
    yield "torchcodec, Pillow's warp", torchcodec
    yield "torchvision, Pillow's warp", torchvision


def usable(content: bytes) -> tuple[dict[str, Decoder], list[Mapping[str, Any]]]:
    """The decoders that decode ``content`` here, and a row of each other one."""
    found: dict[str, Decoder] = {}
    missing: list[Mapping[str, Any]] = []
    for name, give in decoders():
        try:
            decode = give()
            if (shape := decode(content).shape) != (SIZE, SIZE, 3):
                raise ValueError(f"gave {shape}")
            found[name] = decode
        except Exception as error:  # a missing package or library, a decoder that wants a GPU: each says so in its own way
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            missing.append({"decoder": name, "not_measured": f"{type(error).__name__}: {reason.rsplit('/', 1)[-1]}"})
            print(f"{name}: not measured ({missing[-1]['not_measured']})", flush=True)
    return found, missing


def drawn(size: tuple[int, int], images: int) -> list[bytes]:
    contents = []
    for number in range(images):
        pixels = np.asarray(draw_scene(number, size)[0], np.int16)
        noise = np.random.default_rng(number).normal(0, 6, pixels.shape)  # a drawing alone compresses better than a photograph
        contents.append(jpeg((pixels + noise).clip(0, 255).astype(np.uint8)))
    return contents


def measure(title: str, contents: list[bytes], variants: dict[str, Decoder], repeats: int) -> list[Mapping[str, Any]]:
    reference = [decode_image(content, SIZE).astype(np.int16) for content in contents]
    rates: dict[str, dict[str, dict[str, float]]] = {name: {} for name in variants}
    busy: dict[str, list[float]] = {name: [] for name in variants}

    def run(name: str, pool: ThreadPoolExecutor) -> None:
        start = time.process_time()
        list(pool.map(variants[name], contents))
        busy[name].append(1e3 * (time.process_time() - start) / len(contents))

    for threads in (1, 2):
        with ThreadPoolExecutor(threads) as pool:
            calls: dict[str, Callable[[], object]] = {name: partial(run, name, pool) for name in variants}
            for name, seconds in alternate(calls, repeats=repeats).items():
                rates[name][f"threads_{threads}"] = spread([len(contents) / value for value in seconds])
        if threads == 1:
            processor = {name: spread(values[1:]) for name, values in busy.items()}
    rows: list[Mapping[str, Any]] = []
    for name, decode in variants.items():
        difference = np.abs(np.stack([decode(content) - pixels for content, pixels in zip(contents, reference, strict=True)]))
        row = {
            "decoder": name,
            "images": title,
            "mean_bytes": sum(map(len, contents)) / len(contents),
            "images_per_second": rates[name],
            "processor_milliseconds_an_image": processor[name],
            "mean_difference": float(difference.mean()),
            "largest_difference": int(difference.max()),
        }
        rows.append(row)
        one, two = (rates[name][f"threads_{threads}"]["median"] for threads in (1, 2))
        print(
            f"{title:10} {name:42} {one:7.0f} {two:7.0f} images/s in 1, 2 threads; processor {processor[name]['median']:6.2f} ms "
            f"an image; differs by {difference.mean():.2f} on average, {difference.max()} at most",
            flush=True,
        )
    return rows


def main() -> None:
    parser = parser_of("benchmarks.bench_decode", __doc__)
    parser.add_argument("--images", type=int, default=16, help="of each size (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each decoder (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="also the first JPEGs of this folder")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    sets = {f"{width}×{height}": drawn((width, height), arguments.images) for width, height in SIZES}
    if arguments.data:
        paths = sorted(path for path in arguments.data.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        sets["--data"] = [path.read_bytes() for path in paths[: 4 * arguments.images]]
    variants, rows = usable(next(iter(sets.values()))[0])
    for title, contents in sets.items():
        rows += measure(title, contents, variants, arguments.repeats)
    write_if_asked(parser, arguments, {"load_average_before": load, "warp": [SIZE, SIZE], "rows": rows})


if __name__ == "__main__":
    main()
