"""Trunks other than VGG-16: ten architectures of timm, a module of the user's, and what refuses to go together."""

from __future__ import annotations

import copy
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from trunk_models import NETWORKS, needs_timm, needs_torchvision, register, write_weights

from gpuannot import Annotator, AnnotatorConfig
from gpuannot.errors import DeviceError, GpuannotError, InvalidArgumentError, ModelFileError, WeightsError
from gpuannot.method import trunks
from gpuannot.method.trunk import LocalFeatures, Preprocessing, Trunk
from gpuannot.method.trunks.base import LocalTrunk
from gpuannot.system.threads import cpus

PIXELS = Preprocessing("0…1", mean=(0, 0, 0), std=(255, 255, 255), input_size=32)
WORDS = [["red"], ["green", "red"], ["green"], ["blue"], ["blue", "red"]]
SMALL: dict[str, Any] = {"device": "cpu", "n_components": 4, "n_centers": 3, "trunk_dtype": "float32", "l2": True}


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (5, 90, 120, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def networks() -> None:
    register()


def settings(name: str, folder: Path, **changes: Any) -> dict[str, Any]:
    size = NETWORKS[name][2]
    return {**SMALL, "trunk": f"timm:{name}", "weights": str(write_weights(name, folder)), "input_size": size, **changes}


# ---- timm


@needs_timm
@pytest.mark.usefixtures("networks")
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_timm(name: str, tmp_path: Path, images: np.ndarray, rng: np.random.Generator) -> None:
    _, _, size, layer, channels, side = NETWORKS[name]
    annotator = Annotator(**settings(name, tmp_path)).fit(images, WORDS)
    trunk = annotator.encoder.trunk
    assert isinstance(trunk, LocalFeatures) and (trunk.name, trunk.layer, annotator.config.layer) == (f"timm:{name}", layer, layer)
    batch = torch.from_numpy(rng.integers(0, 256, (3, 3, size, size), dtype=np.uint8))
    features = trunk(batch)
    assert features.shape == (3, side * side, channels) and trunk.grid(size, size) == (side, side)
    assert torch.equal(features[1:2], trunk(batch[1:2])) and trunk(batch[:0]).shape == (0, side * side, channels)
    expected = hooked(annotator.encoder.weights.network, layer, batch, channels)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))

    annotator.save(tmp_path / "model.safetensors")
    again = Annotator.load(tmp_path / "model.safetensors", device="cpu")
    assert again.config == annotator.config and again.to_model_file().sha256 == annotator.to_model_file().sha256
    found, expected = again.annotate(images, 2), annotator.annotate(images, 2)
    assert np.array_equal(found.index, expected.index) and np.array_equal(found.distance, expected.distance)
    (explained,) = again.explain(images[:1], ["red"])
    assert explained.grid == (side, side) and explained.contributions.shape == (1, side * side)
    assert explained.contributions.sum() + explained.bias[0] == pytest.approx(explained.scores[0], rel=1e-4, abs=1e-5)

    other = write_weights(name, tmp_path, seed=1)
    with pytest.raises(ModelFileError, match=rf"other trunk weights of timm:{name} than '{re.escape(str(other))}'"):
        Annotator.load(tmp_path / "model.safetensors", weights=other, device="cpu")


def hooked(network: nn.Module, layer: str, batch: Tensor, channels: int) -> Tensor:
    """(B, P, C) of a layer of timm by a forward hook, from pixels that are normalised as timm does it."""
    kept: list[Tensor] = []
    hook = network.get_submodule(layer).register_forward_hook(lambda module, inputs, output: kept.append(output))
    stated = network.pretrained_cfg  # type: ignore[union-attr]
    mean, std = (torch.tensor(stated[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        network((batch / 255 - mean) / std)
    hook.remove()
    (found,) = kept
    if found.ndim == 3:
        return found[:, network.num_prefix_tokens :]  # type: ignore[misc]
    return (found.permute(0, 2, 3, 1) if found.shape[1] == channels else found).flatten(1, 2)


@needs_timm
@pytest.mark.usefixtures("networks")
def test_layers_by_name_number_and_together(tmp_path: Path, rng: np.random.Generator) -> None:
    name, size = "vit_small_test", NETWORKS["vit_small_test"][2]
    batch = torch.from_numpy(rng.integers(0, 256, (2, 3, size, size), dtype=np.uint8))
    in_config = {key: value for key, value in settings(name, tmp_path).items() if key != "device"}

    def of(layer: str) -> Tensor:
        config = trunks.resolve(AnnotatorConfig(**{**in_config, "layer": layer}))
        return trunks.build(trunks.load(config), config, torch.device("cpu"))(batch)

    assert torch.equal(of("1"), of("blocks.1")) and torch.equal(of("-1"), of("blocks.3"))
    assert torch.equal(of("2+blocks.0"), torch.cat([of("blocks.0"), of("blocks.2")], dim=2))
    for layer, said in (
        ("blocks.4", "layer 'blocks.4' of vit_small_test is unknown; choose one of blocks.0, "),
        ("1+blocks.1", "twice"),
    ):
        with pytest.raises(InvalidArgumentError, match=said):
            of(layer)


@needs_timm
@pytest.mark.usefixtures("networks")
def test_a_network_without_intermediates(tmp_path: Path, rng: np.random.Generator) -> None:
    import timm
    from safetensors.torch import load_file

    path = write_weights("plain_resnet", tmp_path)
    encoder = Annotator(trunk="timm:plain_resnet", weights=path, input_size=64, **SMALL).encoder
    assert encoder.weights.about.features_only and encoder.trunk.layer == "layer3"  # type: ignore[attr-defined]
    network = timm.create_model("plain_resnet", num_classes=7).eval()
    network.load_state_dict(load_file(path))
    batch = torch.from_numpy(rng.integers(0, 256, (2, 3, 64, 64), dtype=np.uint8))
    torch.testing.assert_close(encoder.trunk(batch), hooked(network, "layer3", batch, 24), rtol=1e-4, atol=1e-4)


@needs_torchvision
@pytest.mark.parametrize(
    ("name", "layer", "side", "channels"), [("resnet18", "layer3", 4, 256), ("mobilenet_v3_small", "features.8", 4, 48)]
)
def test_networks_of_torchvision(name: str, layer: str, side: int, channels: int, tmp_path: Path, images: np.ndarray) -> None:
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.get_model(name, weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    settings = {**SMALL, "trunk": f"torchvision:{name}@{layer}", "weights": tmp_path / "weights.pth", "input_size": 64}
    annotator = Annotator(**settings).fit(images, WORDS)
    batch = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8))
    network.pretrained_cfg = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    expected = hooked(network, layer, batch, channels)
    found = annotator.encoder.trunk(batch)
    assert found.shape == (2, side * side, channels)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    annotator.save(tmp_path / "model.safetensors")
    again = Annotator.load(tmp_path / "model.safetensors", device="cpu")
    assert np.array_equal(again.annotate(images, 2).distance, annotator.annotate(images, 2).distance)
    with pytest.raises(InvalidArgumentError, match=f"{name} has no layer 'layer9'; torchvision names "):
        _ = Annotator(**{**settings, "trunk": f"torchvision:{name}@layer9"}).encoder.trunk
    with pytest.raises(InvalidArgumentError, match=r"torchvision has no network 'resnet81'; is one of .*resnet18"):
        Annotator(trunk="torchvision:resnet81@layer3", device="cpu")


@needs_torchvision
def test_a_layer_of_torchvision_keeps_what_later_ones_write_over(tmp_path: Path) -> None:
    """bn2's output is added to in its place, and so is that sum by its ReLU."""
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(torchvision.models.get_model("resnet18", weights=None).state_dict(), tmp_path / "weights.pth")
    batch = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8))
    settings = {**SMALL, "weights": tmp_path / "weights.pth", "input_size": 64, "trunk_dtype": "float32"}
    names = ("layer3.1.bn2", "layer3.1.add", "layer3.1.relu_1")
    alone = [Annotator(**settings, trunk=f"torchvision:resnet18@{name}").encoder.trunk(batch) for name in names]
    assert torch.equal(
        Annotator(**settings, trunk=f"torchvision:resnet18@{'+'.join(names)}").encoder.trunk(batch), torch.cat(alone, -1)
    )
    assert float(alone[0].min()) < 0 and not torch.equal(alone[0], alone[1])


@needs_timm
@pytest.mark.usefixtures("networks")
def test_what_timm_cannot_give(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    small: dict[str, Any] = {"device": "cpu", "input_size": 64, "n_components": 4}
    with pytest.raises(InvalidArgumentError, match=r"has no network 'resnet81'; is one of .*resnet18"):
        Annotator(trunk="timm:resnet81", device="cpu")
    with pytest.raises(InvalidArgumentError, match=r"has no weights 'mine' of resnet18; it has resnet18\.a1_in1k"):
        Annotator(trunk="timm:resnet18.mine", device="cpu")
    whole, cut, name = write_weights("convnext_small_test", tmp_path), tmp_path / "cut.safetensors", "convnext_small_test"
    save_file({key: value for key, value in load_file(whole).items() if key != "stages.1.blocks.0.mlp.fc1.weight"}, cut)
    with pytest.raises(WeightsError, match=rf"cut\.safetensors lacks stages\.1\.blocks\.0\.mlp\.fc1\.weight of {name}"):
        _ = Annotator(trunk=f"timm:{name}", weights=cut, **small).encoder.trunk
    early = Annotator(trunk=f"timm:{name}@stages.0", weights=cut, **small)
    assert early.encoder.trunk.channels == 8, "what the file lacks comes after this layer"
    with pytest.raises(WeightsError, match=r"small_test-0\.safetensors (lacks|does not fit)"):
        _ = Annotator(trunk="timm:vit_small_test", weights=whole, **small).encoder.trunk
    program = "from gpuannot import Annotator\nAnnotator(trunk='timm:mobilenetv3_small_050.lamb_in1k', device='cpu').encoder.trunk"
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub"), "TORCH_HOME": str(tmp_path / "torch")}
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=offline).stderr.splitlines()[-1]
    assert "cannot get pretrained weights of mobilenetv3_small_050.lamb_in1k" in said and "as HF_HUB_OFFLINE is set" in said
    assert f"looked in {tmp_path / 'hub'} and {tmp_path / 'torch'}" in said and "weights=FILE" in said


# ---- a module of the user's


class Network(nn.Module):
    """Its layers put out a map (B, 6, 4, 4), tokens (B, 17, 6) and a vector (B, 2) of a 32 × 32 image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head, self.unused = nn.Conv2d(3, 6, 8, 8), nn.LayerNorm(6), nn.Linear(6, 2), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)).mean(1))


def tokens_and_maps() -> Network:
    """With the same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Network()


def test_a_module_of_the_user(images: np.ndarray, tmp_path: Path, rng: np.random.Generator) -> None:
    network = tokens_and_maps()
    trunk = Trunk.from_module(network, "norm", PIXELS, prefix_tokens=1, dtype="float32")
    batch = torch.from_numpy(rng.integers(0, 256, (3, 3, 32, 32), dtype=np.uint8))
    with torch.inference_mode():
        maps = network.stem(batch / 255)
        torch.testing.assert_close(trunk(batch), network.norm(maps.flatten(2).transpose(1, 2)), rtol=1e-4, atol=1e-5)
        both = Trunk.from_module(network, "stem", PIXELS, dtype="float32")
        torch.testing.assert_close(both(batch), maps.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-5)
    assert trunk.channels == 6 and trunk.positions(32, 32) == 16 and trunk.stride == 8

    annotator = Annotator(trunk=trunk, **SMALL).fit(images, WORDS)
    assert (annotator.config.trunk, annotator.config.layer, annotator.config.input_size) == ("module:Network", "norm", 32)
    expected = annotator.annotate(images, 2)
    for other in (copy.deepcopy(annotator), pickle.loads(pickle.dumps(annotator)), annotator.clone().fit(images, WORDS)):
        assert np.array_equal(other.annotate(images, 2).distance, expected.distance)
    annotator.save(tmp_path / "model.safetensors")
    again = Annotator.load(
        tmp_path / "model.safetensors", trunk=Trunk.from_module(network, "norm", PIXELS, prefix_tokens=1, dtype="float32")
    )
    assert np.array_equal(again.annotate(images, 2).distance, expected.distance)
    assert again.explain(images[:1])[0].grid == (4, 4)

    for where in ({"workers": 2}, {"scheduler": "tcp://127.0.0.1:1"}):
        began = time.perf_counter()
        with pytest.raises(InvalidArgumentError, match="the trunk module:Network is a torch module of its user, and workers know"):
            annotator.clone().fit(images, WORDS, **where)
        with pytest.raises(InvalidArgumentError, match="the trunk module:Network is a torch module of its user, and workers know"):
            annotator.batch(tmp_path, tmp_path / "out", **where)
        assert time.perf_counter() - began < 5 and not (tmp_path / "out").exists(), "it is known before a worker is asked"

    with pytest.raises(WeightsError, match=r"needs the trunk module:Network, layer norm: .* give it, trunk=Trunk.from_module"):
        Annotator.load(tmp_path / "model.safetensors")
    with pytest.raises(
        ModelFileError, match="fitted with the trunk module:Network, layer norm; the one given is module:Network, layer stem"
    ):
        Annotator.load(tmp_path / "model.safetensors", trunk=both)
    with torch.no_grad():
        network.stem.bias.add_(1)
    changed = Trunk.from_module(network, "norm", PIXELS, prefix_tokens=1, dtype="float32")
    assert trunk.identity != changed.identity, "the trunk has a copy of the module"
    with pytest.raises(ModelFileError, match="module:Network of other weights than the trunk that was given"):
        Annotator.load(tmp_path / "model.safetensors", trunk=changed)


class Shared(LocalTrunk):
    """A convolution that notes which threads ran it, and whose output may depend on how many threads torch has, as rounding can."""

    concurrent = True

    def __init__(self, dependent: bool) -> None:
        super().__init__("shared", "0" * 64, PIXELS, "only")
        self.network = tokens_and_maps().stem
        self.dependent, self.seen = dependent, set[tuple[int, int]]()
        self.measure(32)

    def maps(self, pixels: Tensor) -> list[Tensor]:
        self.seen.add((threading.get_ident(), torch.get_num_threads()))
        found = self.network(pixels).permute(0, 2, 3, 1)
        return [found * torch.get_num_threads() if self.dependent else found]


@pytest.mark.skipif(cpus() < 2, reason="needs two cores")
@pytest.mark.parametrize("dependent", [False, True])
def test_images_share_the_cores_where_that_gives_the_same_bits(dependent: bool, rng: np.random.Generator) -> None:
    batch = torch.from_numpy(rng.integers(0, 256, (9, 3, 32, 32), dtype=np.uint8))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        trunk, own = Shared(dependent), threading.get_ident()
        alone = torch.cat([trunk(image[None]) for image in batch])
        assert trunk.seen == {(own, 2)}
        assert torch.equal(trunk(batch), alone)
        trunk.seen.clear()
        assert torch.equal(trunk(batch), alone)
        assert (own in {thread for thread, _ in trunk.seen}) == dependent and torch.get_num_threads() == 2
        assert {number for _, number in trunk.seen} == {2 if dependent else 1}
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layer": "stm"}, "module:Network has no submodule 'stm'; it has stem, norm, head, unused"),
        ({"layer": "unused"}, "its forward pass does not call unused"),
        ({"layer": "head"}, r"head puts out a tensor \(1, 2\); expected \(B, C, H', W'\) or \(B, N, C\)"),
        ({"layer": "norm"}, "17 tokens, which without 0 are no grid of 4×4; state prefix_tokens"),
        (
            {"layer": "stem", "preprocessing": Preprocessing("", (0.5,) * 3, (0.2,) * 3)},
            "pixels in 0…1; give them in 0…255",
        ),
        ({"layer": "stem", "preprocessing": Preprocessing("", (0,) * 3, (255,) * 3, input_size=4)}, "cannot run images of 4×4"),
        ({"layer": "stem+stem"}, r"layer 'stem\+stem' names a layer twice"),
        ({"layer": "stem", "dtype": "int8"}, "dtype 'int8' is VGG-16's; other networks run in auto"),
    ],
)
def test_modules_that_are_no_trunk(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        Trunk.from_module(tokens_and_maps(), **{"preprocessing": PIXELS, "prefix_tokens": 0, "dtype": "float32", **changes})


def test_a_layer_keeps_what_later_ones_write_over() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 8, 8), nn.ReLU(inplace=True), nn.Conv2d(6, 4, 1))
    batch = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8))
    names = ("0", "1", "2")
    alone = [Trunk.from_module(network, name, PIXELS, dtype="float32")(batch) for name in names]
    assert torch.equal(Trunk.from_module(network, "0+1+2", PIXELS, dtype="float32")(batch), torch.cat(alone, -1))
    assert float(alone[0].min()) < 0 <= float(alone[1].min())


# ---- settings


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trunk": "resnet18"}, "trunk 'resnet18' is unknown; choose vgg16, timm:NAME or torchvision:NAME"),
        ({"trunk": "timm:"}, "trunk 'timm:' is unknown"),
        ({"trunk": "timm:resnet18", "relu": False}, "relu = False is a setting of VGG-16"),
        ({"trunk": "timm:resnet18", "weights_convention": "caffe"}, "weights_convention = 'caffe' is a setting of VGG-16"),
        ({"trunk": "timm:resnet18", "trunk_dtype": "int8"}, "trunk_dtype 'int8' is VGG-16's"),
        ({"trunk": "torchvision:resnet50"}, "torchvision:resnet50 needs a layer: torchvision:resnet50@LAYER"),
    ],
)
def test_settings_that_no_trunk_has(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        Annotator(AnnotatorConfig(**changes), device="cpu")


def test_a_given_trunk_and_other_settings() -> None:
    trunk = Trunk.from_module(tokens_and_maps(), "stem", PIXELS)
    with pytest.raises(InvalidArgumentError, match="layer is 'norm' in the settings, and the trunk that was given ends at 'stem'"):
        Annotator(AnnotatorConfig(trunk="module:Network", layer="norm"), trunk=trunk)
    vgg = Trunk(layer="pool2", dtype="float32")
    assert Annotator(trunk=vgg, layer="pool2").encoder.trunk is vgg
    if not torch.cuda.is_available():
        with pytest.raises(GpuannotError, match="cuda"):
            Annotator(trunk=trunk, device="cuda")
    with pytest.raises(DeviceError, match="float16 on a CPU"):
        Trunk.from_module(tokens_and_maps(), "stem", PIXELS, dtype="float16")


# ---- dimensions


@pytest.mark.parametrize(("channels", "side"), [(384, 37), (2048, 7)])
def test_dimensions_from_few_patches_to_many(channels: int, side: int, images: np.ndarray) -> None:
    """C = 384 … 2048 and P = 49 … 1369 under the same PCA, codebook and VLAD."""
    pixels = Preprocessing("0…1", (0, 0, 0), (255, 255, 255), input_size=4 * side)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, channels, 4, 4), nn.Tanh())
    trunk = Trunk.from_module(network, "1", pixels, dtype="float32")
    annotator = Annotator(trunk=trunk, **{**SMALL, "n_components": 40, "n_centers": 16}).fit(images, WORDS)
    assert annotator.encoder.transform_.matrix_.shape == (channels, 40)
    assert annotator.encoder.encode(images)[1].shape == (5, 640)
    assert annotator.explain(images[:1], ["red"])[0].grid == (side, side)
    if channels == 384:
        with pytest.raises(
            InvalidArgumentError, match="n_components is 385, and the layer 1 of module:Sequential has 384 channels; set"
        ):
            Annotator(trunk=trunk, **{**SMALL, "n_components": 385}).fit(images, WORDS)
