"""Annotation as one CUDA graph."""

from __future__ import annotations

import pytest
import torch
from small import small_annotator

from gpuannot import Annotator
from gpuannot.datasets import LabelledImages
from gpuannot.errors import DeviceError
from gpuannot.images.batches import ImageBatches

K = 5


@pytest.fixture(scope="module")
def on_gpu(scenes: LabelledImages, tmp_path_factory: pytest.TempPathFactory) -> Annotator:
    """Of the paper's settings, from a fit on the CPU in float32."""
    made = small_annotator(trunk_dtype="float32").fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary)
    return Annotator.load(made.save(tmp_path_factory.mktemp("model") / "model.safetensors"), device="cuda:0")


@pytest.fixture(scope="module")
def batch(scenes: LabelledImages) -> torch.Tensor:
    _, images = next(iter(ImageBatches(scenes.paths, size=224)))
    return images.to("cuda:0")


@pytest.mark.gpu
def test_graph_replays_the_same_bits(on_gpu: Annotator, batch: torch.Tensor) -> None:
    captured = on_gpu.capture(tuple(batch.shape), K)
    for images in (batch, batch.flip(0), batch.flip(3)):
        index, distance = on_gpu.annotate_tensor(images, K)
        replayed = captured(images)
        assert torch.equal(replayed[0], index)
        assert torch.equal(replayed[1], distance)
    with pytest.raises(ValueError, match="captured for"):
        captured(batch[:3])


def test_capture_needs_a_gpu() -> None:
    with pytest.raises(DeviceError, match="CUDA graphs need"):
        small_annotator().capture((1, 3, 224, 224))
