"""JPEG decoding on the GPU: ``python -m benchmarks.bench_decode_gpu``.

For each decoder that is installed: images/s of decode and warp in batches on the GPU alone; of the hybrid, whose CPU share is
measured as a run of batch annotation does; and of the CPU alone in threads and in processes, as many as there are CPUs; with the
difference to Pillow's pixels in grey levels of 255. Without a CUDA device nothing is measured and the exit code is 3.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.bench_decode import SIZE, SIZES, drawn
from benchmarks.common import NO_DEVICE, alternate, parser_of, spread, write_if_asked
from gpuannot.errors import DeviceError
from gpuannot.images.batches import decode_ahead
from gpuannot.images.decode import decode_image
from gpuannot.images.decode_task import JpegForGpu
from gpuannot.images.gpu import GpuDecoder, measure_share, open_decoder
from gpuannot.images.input import Loaded
from gpuannot.system.threads import cpus

DECODERS = ("nvimgcodec", "torchvision")


def ahead(contents: list[bytes], batch: int, workers: int, gpu: GpuDecoder | None, processes: bool = False) -> None:
    named = [("image", Loaded("image", content)) for content in contents]
    batches: list[Any] = [named[start : start + batch] for start in range(0, len(named), batch)]
    for _ in decode_ahead(batches, size=SIZE, workers=workers, interpolation="bicubic", pin=True, gpu=gpu, processes=processes):
        pass


def measure(size: tuple[int, int], images: int, batch: int, repeats: int, device: torch.device) -> list[dict[str, Any]]:
    different = drawn(size, 32)
    contents = [different[number % 32] for number in range(images)]
    workers = cpus()
    calls: dict[str, Callable[[], object]] = {
        f"CPU, {workers} threads": partial(ahead, contents, batch, workers, None),
        f"CPU, {workers} processes": partial(ahead, contents, batch, workers, None, processes=True),
    }
    rows: dict[str, dict[str, Any]] = {}
    for name in DECODERS:
        try:
            gpu = open_decoder(name, device, SIZE, "bicubic", 0.0)
            assert gpu is not None
            share = measure_share(gpu, workers)
        except DeviceError as error:
            rows[name] = {"not_measured": str(error)}
            continue
        hybrid = open_decoder(name, device, SIZE, "bicubic", share)
        jpegs = {place: JpegForGpu(content, 1) for place, content in enumerate(different)}
        found = gpu.join(torch.zeros((32, SIZE, SIZE, 3), dtype=torch.uint8), gpu.decode(jpegs)).cpu().numpy().astype(np.int16)
        difference = np.abs(found - np.stack([decode_image(content, SIZE) for content in different]))
        pixels = {"mean_difference": float(difference.mean()), "largest_difference": int(difference.max())}
        rows[name], rows[f"{name}, hybrid"] = pixels, {"cpu_share": share}
        calls[name] = partial(ahead, contents, batch, workers, gpu)
        calls[f"{name}, hybrid"] = partial(ahead, contents, batch, workers, hybrid)
    for name, seconds in alternate(calls, repeats=repeats).items():
        rows.setdefault(name, {})["images_per_second"] = spread([images / value for value in seconds])
    for name, row in rows.items():
        row.update(decoder=name, width=size[0], height=size[1], batch=batch)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return list(rows.values())


def main() -> None:
    parser = parser_of("benchmarks.bench_decode_gpu", __doc__)
    parser.add_argument("--images", type=int, default=4096, help="decoded in a timing (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="timings of each (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="few images, to see that it runs")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing was measured")
        sys.exit(NO_DEVICE)
    images = 32 if arguments.quick else arguments.images
    device = torch.device("cuda", torch.cuda.current_device())
    rows: list[dict[str, Any]] = []
    for size in SIZES[:1] if arguments.quick else SIZES:
        rows += measure(size, images, arguments.batch, arguments.repeats, device)
        write_if_asked(parser, arguments, {"cpus": cpus(), "rows": rows})


if __name__ == "__main__":
    main()
