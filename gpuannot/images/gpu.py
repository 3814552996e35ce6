"""JPEGs decoded on the GPU, in batches, beside the CPU that takes the rest.

Which decoder takes an image depends on its place in its batch and on its header alone, never on timing: the two differ by a few
grey levels, and a run must give the same bytes when it is resumed. The CPU takes every image that `jpeg_header` finds unusual, a
fixed share of the others, so that both are busy, and those that the GPU's decoder refuses.
"""

from __future__ import annotations

import importlib.util
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..errors import DeviceError, InvalidArgumentError
from ..system.device import out_of_memory
from .decode import decode_image
from .decode_task import JpegForGpu

CPU = "pillow"
DECODE = ("auto", "cpu", "gpu")
MOST_ON_CPU = 0.5
_STEPS = 16  # the share is a whole number of sixteenths

Decode: TypeAlias = Callable[[Sequence[bytes]], list[Tensor | None]]
"""JPEG files → (3, H, W) uint8 RGB on the device each, not turned upright; None for one that it cannot decode."""


class GpuDecoder:
    """Decodes JPEGs on ``device`` and warps them there to what the trunk takes.

    Args:
        decode: as :data:`Decode`.
        size: S, images are warped to S × S.
        interpolation: ``bicubic`` or ``bilinear``, antialiased.
        cpu_share: share of the JPEGs that the GPU could take, left to the CPU: 0…:data:`MOST_ON_CPU`.
    """

    def __init__(self, decode: Decode, device: torch.device, size: int, interpolation: str, cpu_share: float) -> None:
        self._decode, self._device, self._size = decode, device, size
        self.interpolation, self.cpu_share = interpolation, cpu_share
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def takes(self, place: int) -> bool:
        """Whether the JPEG at ``place`` of its batch is the GPU's; the CPU's are spread evenly."""
        return math.floor((place + 1) * self.cpu_share) == math.floor(place * self.cpu_share)

    def decode(self, jpegs: Mapping[int, JpegForGpu]) -> dict[int, Tensor]:
        """Pixels (S, S, 3) uint8 on the device, by the same keys; without those that its decoder refuses.

        Work is queued on a stream of this decoder's own; :meth:`join` waits for it.
        """
        try:
            return self._decode_and_warp(jpegs)
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if len(jpegs) < 2 or not out_of_memory(error):
                raise
        torch.cuda.empty_cache()
        places = list(jpegs)
        halves = places[: len(places) // 2], places[len(places) // 2 :]
        return {place: pixels for half in halves for place, pixels in self.decode({place: jpegs[place] for place in half}).items()}

    def _decode_and_warp(self, jpegs: Mapping[int, JpegForGpu]) -> dict[int, Tensor]:
        with torch.cuda.stream(self._stream):
            images = dict(zip(jpegs, self._decode([jpeg.content for jpeg in jpegs.values()]), strict=True))
            by_shape: dict[tuple[int, ...], list[int]] = {}
            for place, image in images.items():
                if image is not None:
                    by_shape.setdefault(tuple(image.shape), []).append(place)
            found = {}
            for places in by_shape.values():  # images of one size are warped at once: a GPU's time for one is all launching
                warped = warp(torch.stack([images[place] for place in places]), self._size, self.interpolation)  # type: ignore[misc]
                for place, pixels in zip(places, warped, strict=True):
                    found[place] = turn(pixels, jpegs[place].orientation).permute(1, 2, 0)
            return found

    def join(self, images: Tensor, decoded: Mapping[int, Tensor]) -> Tensor:
        """A host batch (B, S, S, 3) on the device, with the rows that were decoded there. Whole when this returns."""
        with torch.cuda.stream(self._stream):
            batch = images.to(self._device, non_blocking=True)
            for row, pixels in decoded.items():
                batch[row].copy_(pixels)
            if self._stream is not None:
                self._stream.synchronize()  # another stream takes it, and the decoder's buffers may be freed
        return batch


def warp(images: Tensor, size: int, interpolation: str) -> Tensor:
    """(N, 3, H, W) uint8 warped to (N, 3, size, size) as Pillow does: first the rows, then the columns, each rounded to 8 bits."""
    mode = "bilinear" if interpolation == "bilinear" else "bicubic"
    for shape in ((images.shape[2], size), (size, size)):
        if tuple(images.shape[2:]) != shape:
            scaled = functional.interpolate(images.float(), shape, mode=mode, align_corners=False, antialias=True)
            images = scaled.add_(0.5).floor_().clamp_(0, 255).to(torch.uint8)
    return images


def turn(image: Tensor, orientation: int) -> Tensor:
    """(3, S, S) turned upright from an EXIF orientation, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 2)
    flips = {2: [2], 3: [1, 2], 4: [1], 6: [2], 7: [1, 2], 8: [1]}.get(orientation)
    return image.flip(flips) if flips else image


def choose_decoder(
    wanted: str, device: torch.device, size: int, interpolation: str, workers: int, recorded: tuple[str, float] | None = None
) -> tuple[str, float]:
    """Which decoder takes JPEGs, ``pillow`` for the CPU, and the share of them that stays on the CPU.

    Args:
        wanted: ``auto``: the GPU where it and a decoder for it are there; ``cpu``; ``gpu``.
        size: S, images are warped to S × S.
        interpolation: as for :class:`GpuDecoder`.
        workers: threads or processes of the CPU.
        recorded: what a run that is resumed has; it stands unless ``wanted`` excludes it.

    Raises:
        ValueError: another ``wanted``.
        DeviceError: ``gpu`` without a GPU or a decoder that works on it.
    """
    if wanted not in DECODE:
        raise InvalidArgumentError(f"decode is {wanted!r}; expected one of {', '.join(DECODE)}")
    if recorded is not None and wanted in ("auto", "cpu" if recorded[0] == CPU else "gpu"):
        return recorded
    if wanted == "cpu" or (wanted == "auto" and device.type != "cuda"):
        return CPU, 0.0
    if device.type != "cuda":
        raise DeviceError("decode='gpu' needs a CUDA device, this annotator is on the CPU; choose decode='cpu'")
    reasons = []
    for name, module in (("nvimgcodec", "nvidia.nvimgcodec"), ("torchvision", "torchvision")):
        try:
            if not _installed(module):
                continue
            return name, measure_share(open_decoder(name, device, size, interpolation, 0.0), workers)
        except Exception as error:  # a package of another CUDA version, a driver without the decoder: told where it was asked for
            reasons.append(f"{name}: {error}")
    if wanted == "gpu":
        tried = "; ".join(reasons) or "neither torchvision nor nvidia-nvimgcodec is installed"
        raise DeviceError(f"JPEGs cannot be decoded on {device} ({tried}); choose decode='cpu'")
    return CPU, 0.0


def open_decoder(name: str, device: torch.device, size: int, interpolation: str, cpu_share: float) -> GpuDecoder | None:
    """The decoder that :func:`choose_decoder` named; None for ``pillow``.

    Raises:
        DeviceError: it is not usable on this machine.
    """
    if name == CPU:
        return None
    openers: dict[str, Callable[[torch.device], Decode]] = {"nvimgcodec": _nvimgcodec, "torchvision": _torchvision}
    if name not in openers:
        raise DeviceError(f"the decoder {name!r} is unknown; expected one of {CPU}, {', '.join(openers)}")
    try:
        return GpuDecoder(openers[name](device), device, size, interpolation, cpu_share)
    except Exception as error:
        raise DeviceError(f"this run's JPEGs are decoded by {name}, which is not usable here: {error}") from error


def measure_share(decoder: GpuDecoder | None, workers: int) -> float:
    """The share of JPEGs to leave to ``workers`` CPU threads or processes, by the rates of both on drawn pictures.

    Raises:
        DeviceError: the decoder gives other pixels than Pillow.
    """
    assert decoder is not None
    jpegs = {number: JpegForGpu(_sample_jpeg(number), 1) for number in range(_STEPS)}
    size, start = decoder._size, time.perf_counter()
    expected = np.stack([decode_image(jpeg.content, size, interpolation=decoder.interpolation) for jpeg in jpegs.values()])
    cpu_rate = workers * len(jpegs) / (time.perf_counter() - start)
    seconds = []
    for _ in range(3):  # the first one also allocates
        start = time.perf_counter()
        batch = decoder.join(torch.zeros((len(jpegs), size, size, 3), dtype=torch.uint8), decoder.decode(jpegs))
        seconds.append(time.perf_counter() - start)
    difference = float(np.abs(batch.cpu().numpy().astype(np.int16) - expected).mean())
    if difference > 4:
        raise DeviceError(f"its pixels differ from Pillow's by {difference:.1f} grey levels on average, expected at most 4")
    return share_of(cpu_rate, len(jpegs) / min(seconds))


def _sample_jpeg(seed: int) -> bytes:
    """A JPEG of 640 × 480 pixels, about as hard to decode as a photograph: soft shapes under fine grain."""
    noise = np.random.default_rng(seed)
    shapes = Image.fromarray(noise.integers(0, 256, (12, 16, 3), np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
    grain = noise.normal(0, 6, (480, 640, 3))
    file = io.BytesIO()
    Image.fromarray((np.asarray(shapes) + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def share_of(cpu_rate: float, gpu_rate: float) -> float:
    """The CPU's share by the two rates, in sixteenths, at most :data:`MOST_ON_CPU`: both then end a batch at one time."""
    return min(MOST_ON_CPU, math.floor(_STEPS * cpu_rate / (cpu_rate + gpu_rate)) / _STEPS)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package
        return False


def _torchvision(device: torch.device) -> Decode:
    from torchvision.io import ImageReadMode, decode_jpeg

    def decode(contents: Sequence[bytes]) -> list[Tensor | None]:
        files = [torch.from_numpy(np.frombuffer(content, np.uint8).copy()) for content in contents]
        try:
            return list(decode_jpeg(files, mode=ImageReadMode.RGB, device=device))
        except RuntimeError:  # it gives all or nothing; out of memory is one of these
            torch.cuda.empty_cache()
            if len(contents) == 1:
                return [None]
        half = len(contents) // 2
        return [*decode(contents[:half]), *decode(contents[half:])]

    return decode


def _nvimgcodec(device: torch.device) -> Decode:
    from nvidia import nvimgcodec

    decoder = nvimgcodec.Decoder(device_id=torch.cuda.current_device() if device.index is None else device.index)
    parameters = nvimgcodec.DecodeParams(apply_exif_orientation=False, color_spec=nvimgcodec.ColorSpec.SRGB)

    def decode(contents: Sequence[bytes]) -> list[Tensor | None]:
        stream = torch.cuda.current_stream(device).cuda_stream
        images = decoder.decode(list(contents), params=parameters, cuda_stream=stream)
        return [None if image is None else torch.from_dlpack(image).permute(2, 0, 1) for image in images]

    return decode
