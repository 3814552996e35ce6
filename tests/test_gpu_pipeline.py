"""The whole path on a CUDA device: same words as the CPU, no wait, no host copy, and tidy with memory."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from gpuannot import Annotator
from gpuannot.datasets.label_files import LabelledImages, load_labelled_images
from gpuannot.datasets.scenes import write_scenes
from gpuannot.images.batches import ImageBatches
from gpuannot.metrics import evaluate

pytestmark = pytest.mark.gpu
K = 5


@pytest.fixture(scope="module")
def many_scenes(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    return load_labelled_images(write_scenes(tmp_path_factory.mktemp("scenes"), 120))


@pytest.fixture(scope="module")
def model(many_scenes: LabelledImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fitted on the CPU in float32, the most exact path there is."""
    annotator = Annotator(device="cpu", trunk_dtype="float32").fit(
        many_scenes.paths[:80], many_scenes.labels[:80], vocabulary=many_scenes.vocabulary
    )
    return annotator.save(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def on_gpu(model: Path) -> Annotator:
    return Annotator.load(model, device="cuda:0")


@pytest.fixture(scope="module")
def batch(many_scenes: LabelledImages) -> torch.Tensor:
    _, images = next(iter(ImageBatches(many_scenes.paths[80:112], size=224)))
    return images.to("cuda:0")


def test_same_words_as_the_cpu(model: Path, many_scenes: LabelledImages) -> None:
    host = Annotator.load(model, device="cpu").annotate(many_scenes.paths[80:], K)
    device = Annotator.load(model, device="cuda:0").annotate(many_scenes.paths[80:], K)
    assert (host.index == device.index).mean() >= 0.99
    np.testing.assert_allclose(device.distance, host.distance, rtol=1e-3)


@pytest.mark.filterwarnings("ignore:cuML is not usable")
def test_a_fit_on_the_gpu_is_as_good(model: Path, many_scenes: LabelledImages) -> None:
    fitted = Annotator(device="cuda:0").fit(many_scenes.paths[:80], many_scenes.labels[:80], vocabulary=many_scenes.vocabulary)
    host = Annotator.load(model, device="cpu")
    held = many_scenes.labels[80:]
    scores = [evaluate(annotator.annotate(many_scenes.paths[80:], K).index, held).f1 for annotator in (host, fitted)]
    assert abs(scores[0] - scores[1]) <= 0.05


def test_annotating_never_waits_for_the_device(on_gpu: Annotator, batch: torch.Tensor) -> None:
    expected = on_gpu.annotate_tensor(batch, K)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = on_gpu.annotate_tensor(batch, K)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
    assert all(part.is_cuda for part in result)


def test_side_stream_behind_a_spinning_kernel(on_gpu: Annotator, batch: torch.Tensor) -> None:
    expected = on_gpu.annotate_tensor(batch, K)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    images = torch.zeros_like(batch)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        images.copy_(batch)  # arrives after the spin: whatever runs on another stream reads zeros
        result = on_gpu.annotate_tensor(images, K)
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))


def test_two_runs_give_the_same_bits(model: Path, batch: torch.Tensor) -> None:
    first, second = (Annotator.load(model, device="cuda:0").annotate_tensor(batch, K) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_another_device_index(model: Path, batch: torch.Tensor) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    other = Annotator.load(model, device="cuda:1")
    index, _ = other.annotate_tensor(batch.to("cuda:1"), K)
    assert index.device == torch.device("cuda:1")
    assert torch.equal(index.cpu(), Annotator.load(model, device="cuda:0").annotate_tensor(batch, K)[0].cpu())
    with pytest.raises(ValueError, match="are on"):
        other.annotate_tensor(batch, K)


def test_memory_is_given_back(model: Path, batch: torch.Tensor) -> None:
    Annotator.load(model, device="cuda:0").annotate_tensor(batch, K)
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    annotator = Annotator.load(model, device="cuda:0")
    for _ in range(3):
        annotator.annotate_tensor(batch, K)
    assert torch.cuda.memory_allocated() > before  # the trunk's weights
    del annotator
    gc.collect()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before


def test_too_large_a_batch_is_halved_and_gives_the_same_words(model: Path, batch: torch.Tensor) -> None:
    annotator = Annotator.load(model, device="cuda:0")
    expected, _ = annotator.annotate_tensor(batch, K)
    many = batch.repeat(8, 1, 1, 1).contiguous(memory_format=torch.channels_last)
    torch.cuda.empty_cache()
    room = torch.cuda.memory_reserved() + 400_000_000  # conv1 of 256 images takes 1.6 GB in 16 bits
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(room / total)
    try:
        with pytest.warns(UserWarning, match="halves"):
            index, _ = annotator.annotate_tensor(many, K)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert (index == expected.repeat(8, 1)).float().mean() >= 0.99


@pytest.mark.filterwarnings("ignore:cuML is not usable")
def test_corel5k(corel5k: Path, tmp_path: Path) -> None:
    from gpuannot.config import AnnotatorConfig
    from gpuannot.experiments.reproduce import reproduce

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = reproduce("corel5k", corel5k, AnnotatorConfig(), seeds=3, cache=tmp_path, device="cuda:0")
    assert result["summary"]["f1"]["mean"] >= 0.315
    assert result["summary"]["n_plus"]["mean"] >= 158
