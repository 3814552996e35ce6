"""What decides between the decoders, and the warp of those on a GPU; on the CPU, where Pillow stands in for the GPU's decoder."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_images import DECODES, FAILS, encoded, scene, write_hostile_images
from PIL import Image

from gpuannot import Annotator
from gpuannot.datasets.label_files import LabelledImages
from gpuannot.datasets.scenes import draw_scene
from gpuannot.errors import DataError, DeviceError
from gpuannot.images.batches import DecodedBatch, decode_ahead
from gpuannot.images.decode import decode_image
from gpuannot.images.gpu import GpuDecoder, choose_decoder, measure_share, open_decoder, share_of, turn, warp
from gpuannot.images.input import Input
from gpuannot.images.jpeg_header import GPU_PIXELS, read_jpeg_header
from gpuannot.jobs.part_folder import PartFolder

CPU = torch.device("cpu")
SIZE = 32


def jpeg(height: int = 24, width: int = 32, **options: Any) -> bytes:
    return encoded(scene(height, width), "JPEG", **options)


def with_orientation(value: int, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return jpeg(exif=exif, **options)


# ---- the header


@pytest.mark.parametrize(("subsampling", "expected"), [(0, "4:4:4"), (1, "4:2:2"), (2, "4:2:0")])
def test_header_of_a_usual_jpeg(subsampling: int, expected: str) -> None:
    header = read_jpeg_header(jpeg(25, 33, subsampling=subsampling))
    assert header is not None and (header.width, header.height, header.precision) == (33, 25, 8)
    assert (header.sampling, header.ycbcr, header.orientation, header.complete, header.suits_gpu) == (expected, True, 1, True, True)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (jpeg(progressive=True), "progressive"),
        (encoded(Image.fromarray(scene()).convert("L"), "JPEG"), "grey"),
        (encoded(Image.fromarray(scene()).convert("CMYK"), "JPEG"), "CMYK"),
        (jpeg(7, 32), "tiny"),
        (jpeg()[:-2], "cut before its end marker"),
        (jpeg()[:400], "cut"),
        (jpeg() + b"trailing", "something after the end"),
        (encoded(scene(), "JPEG", keep_rgb=True), "RGB"),
    ],
)
def test_unusual_jpegs_are_the_cpus(content: bytes, what: str) -> None:
    header = read_jpeg_header(content)
    assert header is None or not header.suits_gpu, what


def test_a_giant_is_the_cpus() -> None:
    content = bytearray(jpeg())
    at = content.index(b"\xff\xc0") + 5
    side = int(GPU_PIXELS**0.5)
    for height, suits in ((side, True), (side + 20, False)):
        content[at : at + 4] = height.to_bytes(2) + side.to_bytes(2)
        header = read_jpeg_header(bytes(content))
        assert header is not None and (header.height, header.suits_gpu) == (height, suits)


@pytest.mark.parametrize("value", [*range(10), 200])
def test_orientation_is_the_one_that_pillow_applies(value: int) -> None:
    header = read_jpeg_header(with_orientation(value))
    assert header is not None and header.orientation == (value if 1 <= value <= 8 else 1)


def test_orientation_of_xmp_where_exif_has_none() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    content = jpeg(24, 32, xmp=xmp)
    header = read_jpeg_header(content)
    assert decode_image(content).shape == (32, 24, 3)
    assert header is not None and header.orientation == 6
    exif = Image.Exif()
    exif[0x0112] = 1
    header = read_jpeg_header(jpeg(24, 32, xmp=xmp, exif=exif))
    assert header is not None and header.orientation == 1


def test_zero_bytes_may_follow_and_fill_bytes_precede() -> None:
    content = jpeg()
    padded = read_jpeg_header(content + b"\0" * 10)
    filled = read_jpeg_header(content[:2] + b"\xff\xff" + content[2:])
    assert padded is not None and filled is not None and padded == filled == read_jpeg_header(content)


def test_every_cut_and_every_changed_byte_of_a_header_is_survived() -> None:
    content = with_orientation(6)
    end = content.index(b"\xff\xda")
    for length in range(end + 2):
        assert read_jpeg_header(content[:length]) is None
    generator = np.random.default_rng(0)
    for place, value in itertools.product(range(end), generator.integers(0, 256, 3)):
        header = read_jpeg_header(content[:place] + bytes([value]) + content[place + 1 :])
        assert header is None or 1 <= header.orientation <= 8


@pytest.mark.parametrize("content", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff", b"junk" * 50, encoded(scene(), "PNG")])
def test_no_jpeg(content: bytes) -> None:
    assert read_jpeg_header(content) is None


# ---- warp and turn


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", [(480, 640), (128, 192), (20, 31), (224, 100), (224, 224), (9, 3000)])
def test_warp_is_pillows_within_a_grey_level(interpolation: str, shape: tuple[int, int]) -> None:
    pixels = np.asarray(draw_scene(3, (max(64, shape[1]), max(64, shape[0])))[0])[: shape[0], : shape[1]]
    hard_edges = 255 * (pixels[shape[0] // 2 :] > 128).astype(np.uint8)  # overshoot
    pixels = np.concatenate([pixels[: shape[0] // 2], hard_edges])
    expected = decode_image(pixels, 224, interpolation=interpolation).astype(int)
    found = warp(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None], 224, interpolation)[0].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(found - expected).max() <= 1 and np.abs(found - expected).mean() < 0.05


def test_images_of_one_size_may_be_warped_together() -> None:
    images = torch.randint(0, 256, (3, 3, 37, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    together = warp(images, SIZE, "bicubic")
    assert torch.equal(together, torch.cat([warp(image[None], SIZE, "bicubic") for image in images]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turn_is_pillows(orientation: int) -> None:
    content = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(scene(32, 32)).save(content, "PNG", exif=exif)
    found = turn(torch.from_numpy(scene(32, 32)).permute(2, 0, 1), orientation).permute(1, 2, 0)
    assert np.array_equal(found.numpy(), decode_image(content.getvalue()))


# ---- who takes what


@pytest.mark.parametrize("share", [0.0, 1 / 16, 0.25, 0.4375, 0.5])
def test_the_cpus_share_is_spread_evenly(share: float) -> None:
    decoder = GpuDecoder(pillow, CPU, SIZE, "bicubic", share)
    cpu = [place for place in range(64) if not decoder.takes(place)]
    assert len(cpu) == 64 * share and all(after - before <= -(-1 // share) for before, after in itertools.pairwise(cpu))


def test_share_by_rates() -> None:
    assert share_of(0, 1000) == 0 and share_of(1000, 1000) == 0.5 and share_of(9000, 1000) == 0.5
    assert share_of(1000, 3000) == 0.25 and share_of(1000, 15000) == 1 / 16 and share_of(999, 15000) == 0


def test_choice() -> None:
    choose: dict[str, Any] = {"device": CPU, "size": SIZE, "interpolation": "bicubic", "workers": 2}
    assert choose_decoder("auto", **choose) == choose_decoder("cpu", **choose) == ("pillow", 0.0)
    with pytest.raises(DeviceError, match="decode='gpu' needs a CUDA device"):
        choose_decoder("gpu", **choose)
    with pytest.raises(ValueError, match="decode is 'fast'; expected one of auto, cpu, gpu"):
        choose_decoder("fast", **choose)
    recorded = ("torchvision", 0.25)
    assert choose_decoder("auto", **choose, recorded=recorded) == choose_decoder("gpu", **choose, recorded=recorded) == recorded
    assert choose_decoder("cpu", **choose, recorded=recorded) == ("pillow", 0.0)  # which resume refuses
    assert open_decoder("pillow", CPU, SIZE, "bicubic", 0.0) is None
    with pytest.raises(DeviceError, match="'magic' is unknown"):
        open_decoder("magic", CPU, SIZE, "bicubic", 0.0)


def pillow(contents: Sequence[bytes]) -> list[torch.Tensor | None]:
    """In place of a GPU's decoder: the pixels as they are stored; refuses images 40 pixels wide."""
    found: list[torch.Tensor | None] = []
    for content in contents:
        with Image.open(io.BytesIO(content)) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        found.append(None if pixels.shape[2] == 40 else pixels)
    return found


def wrong(contents: Sequence[bytes]) -> list[torch.Tensor | None]:
    return [255 - image for image in pillow(contents) if image is not None]


def test_a_decoder_that_gives_other_pixels_is_found_out() -> None:
    assert 0 < measure_share(GpuDecoder(pillow, CPU, SIZE, "bicubic", 0.0), 1) <= 0.5
    with pytest.raises(DeviceError, match=r"its pixels differ from Pillow's by .* grey levels"):
        measure_share(GpuDecoder(wrong, CPU, SIZE, "bicubic", 0.0), 1)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_batches_of_both_decoders(tmp_path: Path, processes: bool, share: float) -> None:
    hostile = write_hostile_images(tmp_path)
    sources: list[tuple[str, Any]] = [(name, Input(name, "file", str(hostile[name]))) for name in (*DECODES, *FAILS)]
    sources += [(f"turned {value}", with_orientation(value)) for value in range(1, 9)]
    sources += [("refused", jpeg(400, 40)), ("refused and broken", jpeg(400, 40)[:-300] + b"\xff\xd9")]
    asked: list[bytes] = []

    def counting(contents: Sequence[bytes]) -> list[torch.Tensor | None]:
        asked.extend(contents)
        return pillow(contents)

    def run(gpu: GpuDecoder | None) -> list[DecodedBatch]:
        batches = [sources[start : start + 7] for start in range(0, len(sources), 7)]
        return list(decode_ahead(batches, size=SIZE, workers=2, interpolation="bicubic", gpu=gpu, processes=processes))

    expected, found = run(None), run(GpuDecoder(counting, CPU, SIZE, "bicubic", share))
    for one, other in zip(found, expected, strict=True):
        assert (one.names, one.failures, one.kept.tolist()) == (other.names, other.failures, other.kept.tolist())
        assert not one.names or one.pixels.is_contiguous(memory_format=torch.channels_last)
        # The stand-in decodes as Pillow does: what differs is the rounding of the warp, whose passes a turn swaps.
        assert not one.names or (one.pixels.int() - other.pixels.int()).abs().max() <= 2
    assert len(asked) == 15 if share == 0 else 4 <= len(asked) <= 11, len(asked)
    again = run(GpuDecoder(pillow, CPU, SIZE, "bicubic", share))
    assert all(torch.equal(one.pixels, other.pixels) for one, other in zip(found, again, strict=True))


def test_out_of_memory_halves_the_batch() -> None:
    sizes: list[int] = []

    def small(contents: Sequence[bytes]) -> list[torch.Tensor | None]:
        sizes.append(len(contents))
        if len(contents) > 2:
            raise torch.OutOfMemoryError
        return pillow(contents)

    from gpuannot.images.decode_task import JpegForGpu

    jpegs = {place: JpegForGpu(jpeg(20 + place, 32), 1) for place in range(5)}
    found = GpuDecoder(small, CPU, SIZE, "bicubic", 0.0).decode(jpegs)
    expected = GpuDecoder(pillow, CPU, SIZE, "bicubic", 0.0).decode(jpegs)
    assert sizes == [5, 2, 3, 1, 2] and all(torch.equal(found[place], expected[place]) for place in jpegs)


def test_resume_refuses_another_decoder(drawn_scenes: Path, scenes: LabelledImages, tmp_path: Path) -> None:
    annotator = Annotator(device="cpu", layer="pool2", input_size=32, n_components=8, n_centers=4)
    annotator.fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary, progress=False)
    out = tmp_path / "out"
    with pytest.raises(DeviceError, match="needs a CUDA device"):
        annotator.batch(drawn_scenes / "images", out, decode="gpu")
    annotator.batch(drawn_scenes / "images", out)
    assert (PartFolder(out).open().settings.decoder, PartFolder(out).open().settings.cpu_share) == ("pillow", 0.0)
    run = out / "_gpuannot" / "run.json"
    run.write_text(run.read_text().replace('"pillow"', '"torchvision"').replace('"cpu_share": 0.0', '"cpu_share": 0.25'))
    with pytest.raises(DataError, match=r"decoder was torchvision, now it is pillow; cpu_share was 0\.25, now it is 0\.0"):
        annotator.batch(drawn_scenes / "images", out, decode="cpu", resume=True)
    (out / "part-00000.parquet").unlink()
    with pytest.raises(DeviceError, match="this run's JPEGs are decoded by torchvision, which is not usable here"):
        annotator.batch(drawn_scenes / "images", out, resume=True)
