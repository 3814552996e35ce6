"""Deep global features against a plain chain of torch's own layers, in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from gpuannot.baselines.global_features import GlobalFeatures
from gpuannot.errors import DataError, ImageError, WeightsError
from gpuannot.method.weights import load_weights

CAFFE_MEAN = (123.68, 116.779, 103.939)  # RGB
BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # torchvision's numbers of the convolutions between poolings
STORED = [(f"{chained}.{kind}", number, kind) for chained, number in ((1, 0), (4, 3)) for kind in ("weight", "bias")]


def random_images(count: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def plain_layers(images: np.ndarray, mean: Any = CAFFE_MEAN, std: Any = (1, 1, 1)) -> tuple[Tensor, Tensor]:
    """conv5_3 and pool5 (B, 512, H', W') of the embedded weights, in float64."""
    tensors = {key: tensor.double() for key, tensor in load_weights().tensors.items()}
    x = torch.from_numpy(images).double().permute(0, 3, 1, 2)
    x = (x - torch.tensor(mean).double().view(3, 1, 1)) / torch.tensor(std).double().view(3, 1, 1)
    before = x
    for block in BLOCKS:
        for number in block:
            x = functional.conv2d(x, tensors[f"features.{number}.weight"], tensors[f"features.{number}.bias"], padding=1).relu()
        before, x = x, functional.max_pool2d(x, 2)
    return before, x


def assert_close(found: np.ndarray, expected: Tensor) -> None:
    """Within float32 rounding of 13 layers of up to 4,608 products each."""
    assert found.dtype == np.float32 and found.shape == tuple(expected.shape)
    scale = float(expected.abs().amax())
    assert scale > 0 and float((torch.from_numpy(found).double() - expected).abs().amax()) < 1e-4 * scale


@pytest.fixture(scope="module")
def whole_network(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a file with the embedded trunk, as RGB, and a classifier of the given sizes."""
    convolutions = {key: tensor.half() for key, tensor in load_weights().tensors.items()}
    folder = tmp_path_factory.mktemp("networks")

    def write(name: str, classifier: dict[str, Tensor]) -> Path:
        path = folder / name
        state = {**convolutions, **classifier}
        if path.suffix == ".pth":
            torch.save(state, path)
        else:
            save_file(state, path, metadata={"convention": "torchvision"})
        return path

    return write


def random_classifier(*sizes: int) -> dict[str, Tensor]:
    """fc6 and fc7 of the sizes (in, out, out) under torchvision's names, and its fc8."""
    generator = torch.Generator().manual_seed(1)
    state = {}
    for number, (inputs, outputs) in zip((0, 3, 6), zip(sizes, [*sizes[1:], 2], strict=True), strict=True):
        state[f"classifier.{number}.weight"] = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
        state[f"classifier.{number}.bias"] = torch.randn(outputs, generator=generator)
    return state


# ---- layers of the trunk


@pytest.mark.parametrize(("layer", "size"), [("conv5_3", 64), ("pool5", 65)])
def test_poolings_of_a_plain_chain(layer: str, size: int) -> None:
    images = random_images(3, size)
    maps = plain_layers(images)[layer == "pool5"]
    expected = {
        "mean": maps.mean(dim=(2, 3)),
        "root": maps.sqrt().mean(dim=(2, 3)),
        "max": maps.amax(dim=(2, 3)),
        "flatten": maps.flatten(1),
    }
    for pooling, values in expected.items():
        features = GlobalFeatures(layer, pooling, input_size=size, dtype="float32", device="cpu", batch_size=2)
        assert features.dimension == values.shape[1]
        assert_close(features.encode(images, progress=False), values)
    assert GlobalFeatures(layer).pooling == "mean"


def test_lengths_at_vgg16s_own_size() -> None:
    lengths = [GlobalFeatures(layer, pooling).dimension for layer, pooling in (("conv5_3", None), ("pool5", "flatten"))]
    assert lengths == [512, 7 * 7 * 512]


def test_layers_of_one_stride_lie_behind_each_other() -> None:
    images = random_images(2, 32)
    first, second, both = (
        GlobalFeatures(layer, "root", input_size=32, device="cpu").encode(images) for layer in ("pool2", "conv3_1", "pool2+conv3_1")
    )
    assert np.array_equal(both, np.hstack([first, second]))


def test_every_kind_of_source_gives_the_same_vector(tmp_path: Path) -> None:
    pixels = random_images(1, 40)[0]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    sources = [pixels, tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), Image.fromarray(pixels)]
    features = GlobalFeatures("conv3_1", "max", input_size=32, device="cpu")
    vectors = features.encode([*sources, torch.from_numpy(pixels).permute(2, 0, 1)], progress=False)
    assert vectors.shape == (5, 256) and (vectors == vectors[0]).all() and vectors.any()
    assert np.array_equal(features.encode(tmp_path), vectors[:1])


def test_batches_do_not_change_the_vectors() -> None:
    images = random_images(5, 32)
    together, pairs = (
        GlobalFeatures("conv5_3", "flatten", input_size=32, batch_size=size, device="cpu").encode(images) for size in (5, 2)
    )
    assert np.array_equal(together, pairs) and len(np.unique(together, axis=0)) == 5


# ---- fully connected layers


@pytest.mark.parametrize("name", ["whole.safetensors", "whole.pth"])
def test_fully_connected_layers_against_torchs_own_chain(whole_network: Callable[..., Path], name: str) -> None:
    """64×64 pixels leave 2×2 positions of pool5, so that the order of channels and positions matters."""
    classifier = random_classifier(4 * 512, 7, 5)
    path = whole_network(name, classifier)
    images = random_images(3, 64)
    _, pool5 = plain_layers(images, [255 * v for v in (0.485, 0.456, 0.406)], [255 * v for v in (0.229, 0.224, 0.225)])
    chain = nn.Sequential(nn.Flatten(), nn.Linear(2048, 7), nn.ReLU(), nn.Dropout(), nn.Linear(7, 5), nn.ReLU()).double().eval()
    chain.load_state_dict({own: classifier[f"classifier.{number}.{kind}"] for own, number, kind in STORED})
    with torch.inference_mode():
        expected = {"fc6": chain[:3](pool5), "fc7": chain(pool5)}
    for layer, values in expected.items():
        options: dict[str, Any] = {"weights": str(path), "input_size": 64, "dtype": "float32", "device": "cpu"}
        features = GlobalFeatures(layer, convention="torchvision", **options)
        assert features.dimension == values.shape[1]
        found = features.encode(images, progress=False)
        # The trunk's weights were rounded to half precision on the way through the file.
        assert np.allclose(found, values.numpy(), rtol=0, atol=0.01 * float(values.amax())) and found.min() == 0
    # Read as the Oxford release, the same numbers give something else: the convention decides the preprocessing.
    if path.suffix == ".pth":
        assert not np.allclose(GlobalFeatures("fc7", convention="caffe", **options).encode(images), found, atol=0.1)


def test_fc6_of_vgg16s_own_size(whole_network: Callable[..., Path]) -> None:
    """Row 0 copies channel 3 at (0, 1), row 1 channel 511 at (6, 6), counted as pool5 (512, 7, 7) lies flat."""
    weight = torch.zeros(2, 25_088)
    weight[0, 3 * 49 + 1] = weight[1, 25_087] = 1
    identity = {"classifier.0.weight": weight, "classifier.3.weight": torch.eye(2)}
    path = whole_network("picks.safetensors", {**identity, "classifier.0.bias": torch.ones(2), "classifier.3.bias": torch.ones(2)})
    image = random_images(1, 224, seed=3)
    pool5 = GlobalFeatures("pool5", "flatten", weights=str(path), dtype="float32", device="cpu").encode(image)[0]
    fc7 = GlobalFeatures("fc7", weights=str(path), dtype="float32", device="cpu").encode(image)[0]
    assert np.allclose(fc7, pool5[[148, 25_087]] + 2, rtol=1e-6)


def test_files_without_the_layers(whole_network: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="embedded weights end with the convolution layers"):
        GlobalFeatures("fc7")
    with pytest.raises(WeightsError, match=r"lacks classifier\.0 \(fc6 of VGG-16\): it holds 26 tensors"):
        GlobalFeatures("fc6", weights=str(whole_network("convolutions.safetensors", {})), input_size=32)
    broken = {
        r"classifier\.3 \(fc7\) has a weight \(5, 8\)": {"classifier.3.weight": torch.zeros(5, 8)},
        r"classifier\.0 \(fc6\) has a weight \(7, 512\) of torch\.int8": {"classifier.0.weight": torch.zeros(7, 512).char()},
        r"\(7, 512\) of torch\.float32 and a bias \(6,\)": {"classifier.0.bias": torch.zeros(6)},
        r"classifier\.3 \(fc7\) holds non-finite values": {"classifier.3.bias": torch.tensor([0, 0, 0, 0, torch.nan])},
    }
    for message, change in broken.items():
        path = whole_network("broken.safetensors", {**random_classifier(512, 7, 5), **change})
        with pytest.raises(WeightsError, match=message):
            GlobalFeatures("fc7", weights=str(path), input_size=32)
    path = whole_network("small.safetensors", random_classifier(512, 7, 5))
    with pytest.raises(ValueError, match="takes 512 values, pool5 has 2048 at input_size 64"):
        GlobalFeatures("fc7", weights=str(path), input_size=64)


# ---- wrong arguments and bad images


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"layer 'fc8' is unknown; choose one of conv1_1, .*pool5, fc6, fc7"):
        GlobalFeatures("fc8")
    with pytest.raises(ValueError, match="pooling 'median' is unknown; choose one of mean, root, max, flatten"):
        GlobalFeatures("pool5", "median")
    with pytest.raises(ValueError, match="pooling 'mean' does not apply to fc7"):
        GlobalFeatures("fc7", "mean")
    with pytest.raises(ValueError, match="input_size 31 is too small: pool5 needs 32"):
        GlobalFeatures("pool5", input_size=31)


@pytest.mark.parametrize("bad", [0, 2, 4])
def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, bad: int) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    sources: list[Any] = list(random_images(5, 8))
    sources[bad] = tmp_path / "bad.jpg"
    with pytest.raises(ImageError, match=r"bad\.jpg: not an image") as caught:
        GlobalFeatures("conv1_1", input_size=8, batch_size=2, device="cpu").encode(sources, progress=False)
    assert caught.value.path == str(tmp_path / "bad.jpg") and caught.value.stage == "decode"


def test_no_images() -> None:
    with pytest.raises(DataError, match="no images were given"):
        GlobalFeatures("conv1_1", input_size=8).encode([])
