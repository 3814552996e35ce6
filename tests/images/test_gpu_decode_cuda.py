"""JPEGs decoded on a CUDA device: nearly Pillow's pixels, every input accounted for, the same bytes from every run."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_images import DECODES, FAILS, encoded, write_hostile_images
from PIL import Image

from gpuannot import Annotator
from gpuannot.datasets.label_files import LabelledImages
from gpuannot.datasets.scenes import draw_scene
from gpuannot.images.decode import decode_image
from gpuannot.images.decode_task import JpegForGpu
from gpuannot.images.gpu import GpuDecoder, measure_share, open_decoder, warp

pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda:0")
SIZE = 224
PACKAGES = {"nvimgcodec": "nvidia.nvimgcodec", "torchvision": "torchvision"}


@pytest.fixture(params=PACKAGES)
def decoder(request: pytest.FixtureRequest) -> GpuDecoder:
    try:
        there = importlib.util.find_spec(PACKAGES[request.param]) is not None
    except ModuleNotFoundError:
        there = False
    if not there:
        pytest.skip(f"{request.param} is not installed")
    found = open_decoder(request.param, DEVICE, SIZE, "bicubic", 0.0)
    assert found is not None
    return found


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_pixels_are_nearly_pillows(decoder: GpuDecoder, subsampling: int, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    sizes = [(640, 480), (641, 479), (192, 128), (1920, 1080), (300, 900)]
    contents = [
        encoded(draw_scene(seed, size)[0], "JPEG", quality=90, subsampling=subsampling, exif=exif)
        for seed, size in enumerate(sizes)
    ]
    found = decoder.decode({place: JpegForGpu(content, orientation) for place, content in enumerate(contents)})
    batch = decoder.join(torch.zeros((len(sizes), SIZE, SIZE, 3), dtype=torch.uint8), found).cpu().numpy().astype(int)
    for content, pixels in zip(contents, batch, strict=True):
        difference = np.abs(pixels - decode_image(content, SIZE))
        assert difference.mean() < 2 and difference.max() < 64


def test_warp_is_that_of_the_cpu() -> None:
    images = torch.randint(0, 256, (3, 3, 301, 477), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for interpolation in ("bicubic", "bilinear"):
        found = warp(images.to(DEVICE), SIZE, interpolation).cpu().int()
        assert (found - warp(images, SIZE, interpolation).int()).abs().max() <= 1
        single = torch.cat([warp(image[None].to(DEVICE), SIZE, interpolation) for image in images]).cpu().int()
        assert torch.equal(found, single)


def test_a_broken_jpeg_takes_no_other_down(decoder: GpuDecoder) -> None:
    whole = encoded(draw_scene(0, (320, 240))[0], "JPEG")
    start = whole.index(b"\xff\xda")
    broken = whole[: start + 2] + b"\xff" * 400 + b"\xff\xd9"
    found = decoder.decode({0: JpegForGpu(whole, 1), 1: JpegForGpu(broken, 1), 2: JpegForGpu(whole, 1)})
    assert {0, 2} <= set(found) and torch.equal(found[0], found[2])


def test_share_is_measured(decoder: GpuDecoder) -> None:
    assert 0 <= measure_share(decoder, 4) <= 0.5


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.usefixtures("decoder")
def test_batch(drawn_scenes: Path, scenes: LabelledImages, tmp_path: Path) -> None:
    annotator = Annotator(device="cpu", trunk_dtype="float32", batch_size=8)
    annotator.fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary, progress=False).save(tmp_path / "m.safetensors")
    annotator = Annotator.load(tmp_path / "m.safetensors", device=DEVICE)
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    write_hostile_images(hostile, [name for name in (*DECODES, *FAILS) if name != "no suffix"])
    sources = [str(drawn_scenes / "images"), str(hostile)]

    def run(name: str, **options: Any) -> dict[str, bytes]:
        annotator.batch(sources, tmp_path / name, part_size=16, progress=False, **options)
        return {path.name: path.read_bytes() for path in sorted((tmp_path / name).rglob("part-*"))}

    gpu, cpu = run("gpu", decode="gpu"), run("cpu", decode="cpu")
    assert {name: content for name, content in gpu.items() if name.endswith(".jsonl")} == {
        name: content for name, content in cpu.items() if name.endswith(".jsonl")
    }
    (tmp_path / "gpu" / "part-00001.parquet").unlink()
    assert run("gpu", resume=True) == gpu == run("gpu", resume=True, processes=2)
    settings = json.loads((tmp_path / "gpu" / "_gpuannot" / "run.json").read_text())["settings"]
    assert settings["decoder"] in PACKAGES
    words = [annotator.annotate(scenes.paths).words, _words(tmp_path / "gpu", scenes.paths)]
    same = [one == other for row, found in zip(*words, strict=True) for one, other in zip(row, found, strict=True)]
    assert np.mean(same) >= 0.95


def _words(folder: Path, paths: tuple[Path, ...]) -> list[tuple[str, ...]]:
    import pyarrow.parquet as pq

    rows = {row["path"]: tuple(row["words"]) for row in pq.read_table(folder).to_pylist()}
    return [rows[str(path)] for path in paths]
