"""The trunk: a plain chain of torch's own convolutions and poolings says what every layer must give, in both conventions."""

from __future__ import annotations

import colorsys
import os
import subprocess
import sys
from collections.abc import Mapping
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from small import embedded
from torch import Tensor
from torch.nn import functional

from gpuannot.errors import DeviceError, InvalidArgumentError
from gpuannot.method.trunk import Trunk, layer_names, resolve_dtype, split_layers
from gpuannot.method.trunks.colours import colour_shares
from gpuannot.method.weights import EMBEDDED_FILE, TrunkWeights, load_weights
from gpuannot.system.device import cpu_has_fast_bfloat16

CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# Layer, channels, stride; torchvision's number where it is a convolution.
LAYERS: tuple[tuple[str, int, int, int | None], ...] = (
    ("conv1_1", 64, 1, 0), ("conv1_2", 64, 1, 2), ("pool1", 64, 2, None),
    ("conv2_1", 128, 2, 5), ("conv2_2", 128, 2, 7), ("pool2", 128, 4, None),
    ("conv3_1", 256, 4, 10), ("conv3_2", 256, 4, 12), ("conv3_3", 256, 4, 14), ("pool3", 256, 8, None),
    ("conv4_1", 512, 8, 17), ("conv4_2", 512, 8, 19), ("conv4_3", 512, 8, 21), ("pool4", 512, 16, None),
    ("conv5_1", 512, 16, 24), ("conv5_2", 512, 16, 26), ("conv5_3", 512, 16, 28), ("pool5", 512, 32, None),
)  # fmt: skip


def stored_weights() -> dict[str, Tensor]:
    """The package's weights in float32 as they lie on disk: the first layer in BGR order."""
    stored = load_file(str(files("gpuannot") / "data" / EMBEDDED_FILE))
    weights = {key: tensor.float() for key, tensor in stored.items() if not key.endswith("scale")}
    for key, tensor in stored.items():
        if key.endswith("scale"):
            weights[key.replace("scale", "weight")] *= tensor.view(-1, 1, 1, 1)
    return weights


def normalised(images: Tensor, convention: str, dtype: torch.dtype) -> Tensor:
    """RGB bytes as the convention's own training saw them."""
    if convention == "caffe":
        return images.to(dtype).flip(1) - torch.tensor([103.939, 116.779, 123.68], dtype=dtype).view(3, 1, 1)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], dtype=dtype).view(2, 3, 1, 1)
    return (images.to(dtype) / 255 - mean) / std


def chain(weights: Mapping[str, Tensor], x: Tensor, last: str) -> dict[str, tuple[Tensor, Tensor]]:
    """The plain chain from a normalised input: every layer up to ``last`` before and after its ReLU, each (B, H', W', C).

    Channels-last, as memory format decides which of oneDNN's algorithms runs: their rounding errors differ by a factor of four.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    outputs = {}
    for name, _, _, number in LAYERS:
        if number is None:
            before = x = functional.max_pool2d(x, kernel_size=2, stride=2)
        else:
            weight = weights[f"features.{number}.weight"].to(x.dtype, memory_format=torch.channels_last)
            before = functional.conv2d(x, weight, weights[f"features.{number}.bias"].to(x.dtype), stride=1, padding=1)
            x = functional.relu(before)
        outputs[name] = before.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1)
        if name == last:
            break
    return outputs


def rms(difference: Tensor) -> float:
    return float(difference.double().square().mean().sqrt())


def random_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def photographs(folder: Path, count: int, size: tuple[int, int]) -> Tensor:
    """(count, 3, height, width) uint8 of the first images of a folder; size = (width, height)."""
    paths = sorted(folder.iterdir())[:count]
    return torch.stack([torch.from_numpy(np.asarray(Image.open(path).resize(size)).copy()) for path in paths]).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    return stored_weights()


@pytest.fixture(scope="module")
def weights() -> TrunkWeights:
    return embedded()


@pytest.fixture(scope="module")
def torchvision_weights(stored: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> TrunkWeights:
    """The same numbers, said to follow torchvision's convention."""
    path = tmp_path_factory.mktemp("weights") / "torchvision.safetensors"
    save_file({key: tensor.half() for key, tensor in stored.items()}, path, metadata={"convention": "torchvision"})
    return load_weights(path)


# ---- against the plain chain


def test_conv5_2_of_photographs(corel5k: Path, oxford_weights: Path) -> None:
    """The paper's layer at the paper's size, from the original weights, in float32."""
    images = photographs(corel5k / "images", 1, (224, 224))
    oxford = {key: tensor.float() for key, tensor in load_file(str(oxford_weights)).items()}
    features = Trunk(load_weights(oxford_weights), dtype="float32")(images)
    assert features.shape == (1, 196, 512)
    _, expected = chain(oxford, normalised(images, "caffe", torch.float32), "conv5_2")["conv5_2"]
    scale = rms(expected)
    # Each of 12 layers sums up to 4,608 products.
    assert rms(features - expected.flatten(1, 2)) < 1e-5 * scale
    assert float((features - expected.flatten(1, 2)).abs().max()) < 1e-3 * scale
    # What the package runs by default: weights of 8 bits, here with activations of 8 bits of mantissa.
    default = Trunk(load_weights(), dtype="bfloat16")(images)
    assert rms(default.float() - expected.flatten(1, 2)) < 0.06 * scale


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("convention", ["caffe", "torchvision"])
@pytest.mark.parametrize(("layer", "size"), [("conv1_1", (17, 16)), ("conv3_1", (64, 48)), ("conv5_2", (65, 47))])
def test_no_less_exact_than_plain_torch(
    stored: dict[str, Tensor],
    weights: TrunkWeights,
    torchvision_weights: TrunkWeights,
    convention: str,
    layer: str,
    size: tuple[int, int],
    dtype: str,
) -> None:
    images = random_images(3, 3, *size)
    own = weights if convention == "caffe" else torchvision_weights
    raw = stored if convention == "caffe" else {key: tensor.half().float() for key, tensor in stored.items()}
    _, exact = chain(raw, normalised(images, convention, torch.float64), layer)[layer]
    _, plain = chain(raw, normalised(images, convention, torch.float32).to(DTYPES[dtype]), layer)[layer]
    features = Trunk(own, layer, dtype=dtype)(images)
    assert features.dtype == DTYPES[dtype] and features.shape == (3, exact.shape[1] * exact.shape[2], exact.shape[3])
    # The affine map of the pixels is one rounding more than the plain subtraction.
    slack = torch.finfo(DTYPES[dtype]).eps * rms(exact)
    assert rms(features.double() - exact.flatten(1, 2)) <= 2 * rms(plain.double() - exact) + slack


def test_every_layer_at_an_oblong_size(stored: dict[str, Tensor], weights: TrunkWeights) -> None:
    assert layer_names() == tuple(name for name, *_ in LAYERS)
    images = random_images(1, 3, 64, 48)
    expected = chain(stored, normalised(images, "caffe", torch.float32), "pool5")
    for name, channels, stride, _ in LAYERS:
        trunk = Trunk(weights, name, dtype="float32")
        assert (trunk.channels, trunk.stride, trunk.layer, trunk.relu) == (channels, stride, name, True)
        features = trunk(images)
        assert features.shape == (1, (64 // stride) * (48 // stride), channels)
        assert trunk.positions(64, 48) == features.shape[1]
        grid = features.unflatten(1, (64 // stride, 48 // stride))  # row p is position (p // W', p % W')
        assert rms(grid - expected[name][1]) < 1e-5 * rms(expected[name][1]), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layer", ["conv1_1", "conv2_2", "conv4_3", "conv5_2"])
def test_before_and_after_the_relu(stored: dict[str, Tensor], weights: TrunkWeights, layer: str, dtype: str) -> None:
    images = random_images(2, 3, 32, 32)
    before = Trunk(weights, layer, relu=False, dtype=dtype)(images)
    after = Trunk(weights, layer, relu=True, dtype=dtype)(images)
    assert (before < 0).any() and not (after < 0).any()
    assert torch.equal(before.clamp(min=0), after)
    expected, _ = chain(stored, normalised(images, "caffe", torch.float32), layer)[layer]
    assert rms(before.float() - expected.flatten(1, 2)) < 2 * torch.finfo(DTYPES[dtype]).eps * rms(expected) * 12**0.5 + 1e-5


def test_a_pooling_follows_a_relu_whatever_is_asked(weights: TrunkWeights) -> None:
    images = random_images(1, 3, 32, 32)
    without = Trunk(weights, "pool2", relu=False, dtype="float32")
    assert without.relu and torch.equal(without(images), Trunk(weights, "pool2", dtype="float32")(images))


def test_fused_convolutions_are_no_less_exact_than_the_modules(stored: dict[str, Tensor], weights: TrunkWeights) -> None:
    trunk = Trunk(weights, "conv4_1", relu=False, dtype="bfloat16")
    images = random_images(2, 3, 48, 40)
    exact, _ = chain(stored, normalised(images, "caffe", torch.float64), "conv4_1")["conv4_1"]
    rgb = normalised(images, "caffe", torch.float32).flip(1).to(torch.bfloat16)
    with torch.inference_mode():
        modules = trunk.features(rgb.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)
    error = rms(trunk(images).unflatten(1, (6, 5)).double() - exact)
    assert 0 < error <= 2 * rms(modules.double() - exact) + torch.finfo(torch.bfloat16).eps * rms(exact)


def test_defaults_are_the_papers(weights: TrunkWeights) -> None:
    trunk = Trunk()
    assert (trunk.layer, trunk.relu, trunk.channels, trunk.stride) == ("conv5_2", True, 512, 16)
    assert trunk.positions(224, 224) == 196 and trunk.weights_sha256 == weights.sha256
    assert trunk.dtype == resolve_dtype("auto", CPU)


# ---- memory and batches


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [0, 1, 4, 5, 9])  # the CPU takes 4 images at a time
def test_features_are_a_view_of_channels_last_memory(weights: TrunkWeights, batch: int, dtype: str) -> None:
    features = Trunk(weights, "conv3_1", dtype=dtype)(random_images(batch, 3, 33, 20))
    assert features.shape == (batch, 8 * 5, 256) and features.dtype == DTYPES[dtype]
    assert features.stride() == (8 * 5 * 256, 256, 1)
    maps = features.unflatten(1, (8, 5)).permute(0, 3, 1, 2)
    assert maps.is_contiguous(memory_format=torch.channels_last)
    assert features.untyped_storage().nbytes() == features.numel() * features.element_size()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("layer", "size"), [("conv5_2", (32, 32)), ("conv4_1", (65, 47)), ("pool1", (5, 7))])
def test_an_image_alone_gives_what_it_gives_in_a_batch(
    weights: TrunkWeights, layer: str, size: tuple[int, int], dtype: str
) -> None:
    trunk = Trunk(weights, layer, dtype=dtype)
    images = random_images(6, 3, *size)
    together = trunk(images)
    assert not torch.equal(together[0], together[1])
    for position in (0, 3, 5):
        assert torch.equal(trunk(images[position : position + 1])[0], together[position]), position
    assert torch.equal(trunk(images[1:4]), together[1:4])
    assert torch.equal(trunk(images.flip(0)), together.flip(0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_image_alone_gives_what_it_gives_in_a_batch_at_full_size(weights: TrunkWeights, dtype: str) -> None:
    trunk = Trunk(weights, dtype=dtype)
    images = random_images(2, 3, 224, 224)
    assert torch.equal(trunk(images[1:])[0], trunk(images)[1])


def test_strides_of_the_input_do_not_matter_and_it_is_left_as_it_was(weights: TrunkWeights) -> None:
    trunk = Trunk(weights, "conv2_1", dtype="float32")
    images = random_images(3, 3, 20, 18)
    expected, copy = trunk(images), images.clone()
    interleaved = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # as decoders deliver: (H, W, 3)
    every_second = torch.stack([images, 255 - images], dim=1).flatten(0, 1)[::2]
    columns = torch.cat([images, images], dim=3)[..., :18]
    for same in (interleaved, every_second, columns):
        assert torch.equal(trunk(same), expected)
    assert torch.equal(images, copy)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 31), (65, 47), (47, 65), (16, 100)])
def test_positions_of_odd_sizes(weights: TrunkWeights, height: int, width: int) -> None:
    trunk = Trunk(weights, "conv5_1", dtype="bfloat16")
    features = trunk(random_images(1, 3, height, width))
    assert features.shape == (1, trunk.positions(height, width), 512)
    assert features.shape[1] == (height // 16) * (width // 16)


def test_building_and_running_leaves_the_weights_alone(weights: TrunkWeights) -> None:
    before = {key: tensor.clone() for key, tensor in weights.tensors.items()}
    for dtype in DTYPES:
        Trunk(weights, "conv2_2", dtype=dtype)(random_images(1, 3, 8, 8))
    for key, tensor in weights.tensors.items():
        assert tensor.dtype == torch.float32 and tensor.is_contiguous() and torch.equal(tensor, before[key])


def test_modules_carry_torchvisions_names(weights: TrunkWeights) -> None:
    trunk = Trunk(weights, "conv3_2", dtype="bfloat16")
    expected = {f"features.{number}.{kind}" for number in (0, 2, 5, 7, 10, 12) for kind in ("weight", "bias")}
    state = trunk.state_dict()
    assert set(state) == expected
    assert all(torch.equal(state[key], weights.tensors[key].bfloat16()) for key in expected)
    assert [name for name, _ in trunk.features.named_children()] == [str(number) for number in range(14)]
    assert not any(parameter.requires_grad for parameter in trunk.parameters())


# ---- arithmetic


def test_forced_arithmetic(weights: TrunkWeights) -> None:
    for name, dtype in DTYPES.items():
        trunk = Trunk(weights, "conv1_1", dtype=name)
        assert trunk.dtype == resolve_dtype(name, CPU) == dtype == trunk(random_images(1, 3, 4, 4)).dtype
    assert resolve_dtype("auto", CPU) == (torch.bfloat16 if cpu_has_fast_bfloat16() else torch.float32)


def test_float16_on_a_cpu_is_refused(weights: TrunkWeights) -> None:
    with pytest.raises(DeviceError, match=r"float16 on a CPU.*choose auto, bfloat16 or float32"):
        Trunk(weights, "conv1_1", dtype="float16")


@pytest.mark.parametrize("dtype", ["float64", "bf16", "", "uint8"])
def test_unknown_arithmetic(weights: TrunkWeights, dtype: str) -> None:
    with pytest.raises(ValueError, match=f"trunk dtype '{dtype}' is unknown; choose auto, float32, bfloat16, float16"):
        Trunk(weights, "conv1_1", dtype=dtype)


def test_bfloat16_is_chosen_where_the_processor_names_it_and_gains_by_it() -> None:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    flags = {word for line in lines if line.startswith("flags") for word in line.split()}
    if not flags:
        pytest.skip("/proc/cpuinfo lists no flags on this machine")
    intel = any(line.startswith("vendor_id") and line.endswith("GenuineIntel") for line in lines)
    assert cpu_has_fast_bfloat16() == ("amx_bf16" in flags or ("avx512_bf16" in flags and not intel))


@pytest.mark.parametrize(
    ("known", "fast"),
    [
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, True),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, False),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True}, True),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": False}, False),
        ({"bf16": True}, True),
    ],
)
def test_bfloat16_of_processors(monkeypatch: pytest.MonkeyPatch, known: dict[str, Any], fast: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert cpu_has_fast_bfloat16() == fast


def test_no_weight_is_packed_at_every_call() -> None:
    """By oneDNN's own account: packing a weight can take a hundred times as long as the product with it."""
    program = (
        "import torch; from gpuannot.method.trunk import Trunk; trunk = Trunk(None, dtype='float32')\n"
        "for again in range(2):\n"
        "    print('call', again, flush=True)\n"
        "    for images, side in ((1, 32), (2, 32), (1, 112), (2, 112)):\n"
        "        trunk(torch.zeros((images, 3, side, side), dtype=torch.uint8))"
    )
    environment = {**os.environ, "ONEDNN_VERBOSE": "1"}
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True).stdout
    first, second = said[said.index("call 0") :].split("call 1")
    assert second.count(",convolution,") == 48, "as many as there are layers, for four shapes"
    weights = [line for line in second.splitlines() if ",reorder," in line and "x3x3," in line]
    assert not weights and [line for line in first.splitlines() if ",reorder," in line and "x3x3," in line]


def test_bfloat16_without_its_instructions(weights: TrunkWeights, tmp_path: Path) -> None:
    """Forced on a processor that has none, bfloat16 is slow and right. ONEDNN_MAX_CPU_ISA plays that processor."""
    images, target = random_images(1, 3, 8, 8), tmp_path / "features.pt"
    torch.save(images, tmp_path / "images.pt")
    script = (
        "import sys, torch; from gpuannot.method.trunk import Trunk\n"
        "torch.save(Trunk(None, 'conv2_1', dtype='bfloat16')(torch.load(sys.argv[1])), sys.argv[2])"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    command = [sys.executable, "-c", script, str(tmp_path / "images.pt"), str(target)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    expected = Trunk(weights, "conv2_1", dtype="float32")(images)
    assert rms(torch.load(target).float() - expected) < 0.02 * rms(expected)


# ---- several layers side by side


@pytest.mark.parametrize("dtype", ["auto", "float32"])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("batch", "height", "width"), [(1, 32, 32), (5, 36, 64)])
def test_each_layer_is_what_a_trunk_of_its_own_gives(
    weights: TrunkWeights, dtype: str, fused: bool, batch: int, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fused:  # as of a torch that was built without oneDNN
        monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: False)
    images = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    layers = ("pool2", "conv3_1", "conv3_3")
    trunk = Trunk(weights, "+".join(layers), dtype=dtype)
    together = trunk(images)
    assert together.shape == (batch, (height // 4) * (width // 4), 128 + 256 + 256)
    assert trunk.layer_channels == (128, 256, 256) and trunk.channels == 640
    start = 0
    for layer in layers:
        alone = Trunk(weights, layer, dtype=dtype)
        expected = alone(images)
        assert torch.equal(together[..., start : start + alone.channels], expected)
        start += alone.channels


def test_layers_come_in_the_order_of_the_network(weights: TrunkWeights) -> None:
    assert split_layers("conv5_3+pool4+conv5_1") == ("pool4", "conv5_1", "conv5_3")
    assert Trunk(weights, "conv2_2+conv2_1").layer == "conv2_1+conv2_2"


# ---- colours


def binned(image: np.ndarray) -> np.ndarray:
    """Shares of colours by Python's own conversion, pixel by pixel: (256,)."""
    counts = np.zeros(256)
    for pixel in image.reshape(-1, 3):
        red, green, blue = (int(value) for value in pixel)
        most, spread = max(red, green, blue), max(red, green, blue) - min(red, green, blue)
        hue = Fraction(0)
        if spread:
            sector = (Fraction(green - blue, spread), 2 + Fraction(blue - red, spread), 4 + Fraction(red - green, spread))
            hue = sector[(red, green, blue).index(most)] / 6 % 1
            assert abs(float(hue) - colorsys.rgb_to_hsv(red, green, blue)[0]) % 1 < 1e-9
        saturation = min(3, 4 * spread // most) if most else 0
        counts[int(16 * hue) * 16 + saturation * 4 + most // 64] += 1
    return counts / counts.sum()


@pytest.mark.parametrize(("batch", "height", "width"), [(2, 37, 50), (1, 8, 8), (3, 5, 4), (0, 32, 32)])
def test_colours_of_images(batch: int, height: int, width: int) -> None:
    rng = np.random.default_rng(height)
    pixels = rng.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
    pixels[:, : height // 2, :, 1] = pixels[:, : height // 2, :, 0]  # ties of two channels, or of all
    pixels[:, : height // 4, :, 2] = pixels[:, : height // 4, :, 0]
    pixels[:, 0, : width // 2] = (0, 0, 0)
    found = colour_shares(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert found.shape == (batch, 256) and found.dtype == torch.float32
    for image, shares in zip(pixels, found.square().numpy(), strict=True):
        np.testing.assert_allclose(shares, binned(image), atol=1e-6)


def test_colours_at_the_edges_of_bins() -> None:
    """22.5° is the first edge of hue, and saturations of a quarter and values of 64 are in the upper bin."""
    colours = {(64, 40, 16): 1, (255, 255, 255): 0, (255, 0, 0): 0, (255, 255, 0): 2, (0, 255, 255): 8, (255, 0, 255): 13,
               (80, 50, 0): 1, (80, 30, 0): 1, (80, 29, 0): 0, (255, 0, 1): 15}  # fmt: skip
    found = colour_shares(torch.tensor(list(colours), dtype=torch.uint8)[:, :, None, None]).argmax(dim=1)
    assert (found // 16).tolist() == list(colours.values())
    assert (found[0] % 16).tolist() == 3 * 4 + 1 and (found[1] % 16).tolist() == 3
    quarter = colour_shares(torch.tensor([[64, 48, 48], [63, 48, 48]], dtype=torch.uint8)[:, :, None, None])
    assert (quarter.argmax(dim=1) % 16).tolist() == [1 * 4 + 1, 0]


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_colours_beside_layers(weights: TrunkWeights, dtype: str) -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, 20, 33), dtype=np.uint8))
    trunk = Trunk(weights, "conv2_1+colours+pool1", dtype=dtype)
    assert trunk.layer == "colours+pool1+conv2_1" and trunk.layer_channels == (256, 64, 128) and trunk.channels == 448
    found = trunk(images)
    assert found.shape == (5, 10 * 16, 448)
    assert torch.equal(found[..., :256], colour_shares(images).to(trunk.dtype)[:, None].expand(-1, 160, -1))
    assert torch.equal(found[..., 256:], Trunk(weights, "pool1+conv2_1", dtype=dtype)(images))


def test_colours_alone() -> None:
    with pytest.raises(InvalidArgumentError, match="layer 'colours' goes with one of the network"):
        split_layers("colours")


# ---- wrong input


@pytest.mark.parametrize("layer", ["conv6_1", "conv5-2", "pool6", "", "features.26"])
def test_unknown_layer(weights: TrunkWeights, layer: str) -> None:
    with pytest.raises(ValueError, match=f"layer '{layer}' is unknown; choose one of conv1_1, .*pool5"):
        Trunk(weights, layer)


@pytest.mark.parametrize(
    "images", [torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32, dtype=torch.int64), np.zeros((1, 3, 32, 32), np.uint8), None]
)
def test_images_are_uint8_tensors(weights: TrunkWeights, images: object) -> None:
    kind = str(images.dtype) if isinstance(images, Tensor) else type(images).__name__
    with pytest.raises(TypeError, match=f"must be a torch.uint8 tensor of RGB bytes 0…255, got {kind}"):
        Trunk(weights, "conv1_1", dtype="float32")(images)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 4, 32, 32), (1, 32, 32, 3), (3, 3), (1, 1, 3, 32, 32)])
def test_images_have_four_dimensions_and_three_channels(weights: TrunkWeights, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must have shape \(B, 3, H, W\), got") as caught:
        Trunk(weights, "conv1_1", dtype="float32")(torch.zeros(shape, dtype=torch.uint8))
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "height", "width"), [("conv5_2", 15, 100), ("conv5_2", 100, 15), ("conv1_1", 0, 4), ("pool1", 1, 1)]
)
def test_too_small_an_image(weights: TrunkWeights, layer: str, height: int, width: int) -> None:
    trunk = Trunk(weights, layer, dtype="float32")
    with pytest.raises(ValueError, match=f"{height}×{width} are too small: {layer} needs {trunk.stride}×{trunk.stride}"):
        trunk(torch.zeros(1, 3, height, width, dtype=torch.uint8))


def test_images_on_another_device(weights: TrunkWeights) -> None:
    with pytest.raises(ValueError, match="images are on meta, the trunk is on cpu; move one of them"):
        Trunk(weights, "conv1_1", dtype="float32")(torch.zeros(1, 3, 4, 4, dtype=torch.uint8, device="meta"))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("pool4+conv6_1", "layer 'conv6_1' is unknown"),
        ("pool4+", "layer '' is unknown"),
        ("conv5_1+conv5_1", "names a layer twice"),
        ("conv4_3+conv5_1", "different ones: conv4_3 8, conv5_1 16"),
    ],
)
def test_layers_that_do_not_go_together(weights: TrunkWeights, layer: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trunk(weights, layer)


def test_several_layers_are_taken_after_their_relu(weights: TrunkWeights) -> None:
    with pytest.raises(ValueError, match="after their ReLU"):
        Trunk(weights, "conv5_1+conv5_2", relu=False)
