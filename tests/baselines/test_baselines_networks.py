"""The networks: a plain chain of torch's functions says what each must give, torchvision's published layout what is in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from gpuannot.baselines.networks import SMALLEST_INPUT, Network, StartWeights, start_weights
from gpuannot.errors import WeightsError
from gpuannot.method.trunk import Trunk
from gpuannot.method.weights import load_weights

# torchvision's layers of VGG-16 (configuration D) and AlexNet with 1,000 classes: module, weight shape.
LAYOUT: dict[str, dict[str, tuple[int, ...]]] = {
    "vgg16": {
        "features.0": (64, 3, 3, 3), "features.2": (64, 64, 3, 3), "features.5": (128, 64, 3, 3),
        "features.7": (128, 128, 3, 3), "features.10": (256, 128, 3, 3), "features.12": (256, 256, 3, 3),
        "features.14": (256, 256, 3, 3), "features.17": (512, 256, 3, 3), "features.19": (512, 512, 3, 3),
        "features.21": (512, 512, 3, 3), "features.24": (512, 512, 3, 3), "features.26": (512, 512, 3, 3),
        "features.28": (512, 512, 3, 3), "classifier.0": (4096, 25088), "classifier.3": (4096, 4096), "classifier.6": (1000, 4096),
    },
    "alexnet": {
        "features.0": (64, 3, 11, 11), "features.3": (192, 64, 5, 5), "features.6": (384, 192, 3, 3),
        "features.8": (256, 384, 3, 3), "features.10": (256, 256, 3, 3), "classifier.1": (4096, 9216),
        "classifier.4": (4096, 4096), "classifier.6": (1000, 4096),
    },
}  # fmt: skip
# The published numbers of parameters of both networks with 1,000 classes.
PARAMETERS = {"vgg16": 138_357_544, "alexnet": 61_100_840}
VGG16_POOLS = ("features.2", "features.7", "features.14", "features.21", "features.28")
ALEXNET_POOLS = ("features.0", "features.3", "features.10")


def random_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def chain(name: str, state: dict[str, Tensor], images: Tensor, *, hidden: bool = True, unit: bool = False) -> Tensor:
    """The published network in float64, from RGB bytes with torchvision's preprocessing, without dropout."""
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], dtype=torch.float64).view(2, 3, 1, 1)
    x = (images.double() / 255 - mean) / std
    for module, (_, _, side, _) in ((key, shape) for key, shape in LAYOUT[name].items() if key.startswith("features")):
        stride, padding = {11: (4, 2), 5: (1, 2), 3: (1, 1)}[side]
        x = functional.conv2d(x, state[f"{module}.weight"].double(), state[f"{module}.bias"].double(), stride, padding).relu()
        if name == "vgg16" and module in VGG16_POOLS:
            x = functional.max_pool2d(x, 2, 2)
        elif name == "alexnet" and module in ALEXNET_POOLS:
            x = functional.max_pool2d(x, 3, 2)
    side = 7 if name == "vgg16" else 6
    x = functional.adaptive_avg_pool2d(x, side).flatten(1) if hidden else x.mean(dim=(2, 3))
    for module in ("classifier.0", "classifier.3") if name == "vgg16" else ("classifier.1", "classifier.4"):
        if hidden:
            x = functional.linear(x, state[f"{module}.weight"].double(), state[f"{module}.bias"].double()).relu()
    if unit:
        x = x / x.square().sum(dim=1, keepdim=True).sqrt()
    return functional.linear(x, state["classifier.6.weight"].double(), state["classifier.6.bias"].double())


@pytest.mark.parametrize("name", LAYOUT)
def test_layers_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        network = Network(name, 1000)
    expected = {}
    for module, shape in LAYOUT[name].items():
        expected[f"{module}.weight"], expected[f"{module}.bias"] = shape, shape[:1]
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == expected
    assert sum(value.numel() for value in network.parameters()) == PARAMETERS[name]
    dropped = [key for key, module in network.named_modules() if isinstance(module, torch.nn.Dropout)]
    assert dropped == (["classifier.2", "classifier.5"] if name == "vgg16" else ["classifier.0", "classifier.3"])


@pytest.mark.parametrize("side", [0, 1, 37])
@pytest.mark.parametrize(("hidden", "unit"), [(True, False), (True, True), (False, True)])
@pytest.mark.parametrize("name", LAYOUT)
def test_forward(name: str, hidden: bool, unit: bool, side: int) -> None:
    torch.manual_seed(1)
    network = Network(name, 7, hidden=hidden, unit=unit, width=0.125).eval()
    torch.nn.init.normal_(network.last.weight)
    torch.nn.init.normal_(network.last.bias)
    images = random_images(3, 3, SMALLEST_INPUT[name] + side, SMALLEST_INPUT[name] + 2 * side)
    expected = chain(name, network.state_dict(), images, hidden=hidden, unit=unit)
    assert expected.std() > 0.1
    torch.testing.assert_close(network(images).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LAYOUT)
def test_one_pixel_less_than_the_smallest_input_fails(name: str) -> None:
    network = Network(name, 2, width=0.02)
    side = SMALLEST_INPUT[name]
    assert network(random_images(1, 3, side, side)).shape == (1, 2)
    with pytest.raises(RuntimeError):
        network(random_images(1, 3, side - 1, side - 1))


def test_the_last_layer_starts_at_zero_and_the_others_do_not() -> None:
    network = Network("alexnet", 3, width=0.1)
    assert not network.last.weight.any() and not network.last.bias.any()
    assert all(parameter.std() > 0 for name, parameter in network.named_parameters() if name.endswith("0.weight"))


def test_unknown_names_and_widths() -> None:
    with pytest.raises(ValueError, match="network 'vgg19' is unknown; choose one of vgg16, alexnet"):
        Network("vgg19", 3)
    with pytest.raises(ValueError, match="width = 0 must be above 0"):
        Network("vgg16", 3, width=0)


# ---- weights to start from


def frozen_vgg16(start: StartWeights) -> Network:
    network = Network("vgg16", 2, hidden=start.hidden, preprocessing=start.preprocessing).eval()
    network.load_state_dict(start.tensors, strict=False)
    return network


@pytest.mark.parametrize("source", ["embedded", "float"])
def test_convolutions_are_the_trunks(source: str, request: pytest.FixtureRequest) -> None:
    path = "embedded" if source == "embedded" else str(request.getfixturevalue("oxford_weights"))
    start = start_weights("vgg16", path)
    assert not start.hidden and start.preprocessing.convention == "caffe"
    images = random_images(2, 3, 224, 224)
    trunk = Trunk(load_weights(path), "pool5", dtype="float32")(images)  # (B, 49, 512): a row a position
    expected = trunk.mean(dim=1)
    with torch.inference_mode():
        pooled = frozen_vgg16(start).embed(images)
    assert pooled.shape == (2, 512) and expected.std() > 1
    torch.testing.assert_close(pooled, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))


def whole_state(name: str, seed: int = 0) -> dict[str, Tensor]:
    """Tensors of torchvision's names and shapes; each a view of one value, so that the file alone is large."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for module, shape in LAYOUT[name].items():
        state[f"{module}.weight"] = torch.randn(1, generator=generator).half().expand(shape)
        state[f"{module}.bias"] = torch.randn(shape[0], generator=generator).half()
    return state


def test_a_whole_network_from_a_file(tmp_path: Path) -> None:
    state, path = whole_state("alexnet"), tmp_path / "alexnet.pth"
    torch.save(state, path)
    start = start_weights("alexnet", path, "torchvision")
    assert start.hidden and start.preprocessing.convention == "torchvision"
    assert set(start.tensors) == {key for key in state if not key.startswith("classifier.6")}
    assert all(torch.equal(tensor, state[key].float()) for key, tensor in start.tensors.items())


def test_a_whole_network_of_the_other_convention(tmp_path: Path) -> None:
    state = {key: tensor.contiguous() for key, tensor in whole_state("alexnet").items() if key.startswith("features.")}
    state["features.0.weight"] = torch.randn(64, 3, 11, 11).half()
    save_file(state, tmp_path / "alexnet.safetensors")
    rgb, bgr = (start_weights("alexnet", tmp_path / "alexnet.safetensors", kind) for kind in ("torchvision", "caffe"))
    assert not rgb.hidden and not bgr.hidden
    assert torch.equal(bgr.tensors["features.0.weight"], rgb.tensors["features.0.weight"][:, [2, 1, 0]])
    assert torch.equal(bgr.tensors["features.3.weight"], rgb.tensors["features.3.weight"])
    assert len({rgb.sha256, bgr.sha256}) == 2
    assert rgb.sha256 == start_weights("alexnet", tmp_path / "alexnet.safetensors", "torchvision").sha256


def test_what_torchvision_has_downloaded_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert start_weights("vgg16").source == "embedded"
    with pytest.raises(WeightsError, match=r"no ImageNet weights of AlexNet are here .*alexnet-owt-7be5be79\.pth.*scratch"):
        start_weights("alexnet")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(whole_state("alexnet"), folder / "alexnet-owt-7be5be79.pth")
    start = start_weights("alexnet")
    assert start.hidden and start.preprocessing.convention == "torchvision"


def test_wrong_files(tmp_path: Path) -> None:
    state = whole_state("alexnet")
    path = tmp_path / "alexnet.pth"
    with pytest.raises(WeightsError, match="carries weights of vgg16, none of alexnet"):
        start_weights("alexnet", "embedded")
    torch.save({key: value for key, value in state.items() if key != "classifier.4.bias"}, path)
    with pytest.raises(WeightsError, match=r"lacks classifier\.4\.bias \(AlexNet\); it holds 15 tensors"):
        start_weights("alexnet", path, "torchvision")
    torch.save({key: value for key, value in state.items() if not key.startswith("features.8")}, path)
    with pytest.raises(WeightsError, match=r"lacks features\.8\.weight \(AlexNet\)"):
        start_weights("alexnet", path, "torchvision")
    torch.save({**state, "classifier.1.weight": torch.zeros(4096, 25088).half()}, path)
    with pytest.raises(WeightsError, match=r"classifier\.1\.weight has shape \(4096, 25088\), AlexNet has \(4096, 9216\)"):
        start_weights("alexnet", path, "torchvision")
    torch.save({**state, "features.3.bias": torch.full((192,), torch.nan)}, path)
    with pytest.raises(WeightsError, match=r"features\.3\.bias holds non-finite values"):
        start_weights("alexnet", path, "torchvision")
    with pytest.raises(WeightsError, match="does not say which convention"):
        start_weights("alexnet", path)
