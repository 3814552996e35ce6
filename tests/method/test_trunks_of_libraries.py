"""The lines of the page of trunks that take in networks of transformers and open_clip, run on small networks of random weights."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pages import blocks
from torch import Tensor, nn

from gpuannot import Annotator
from gpuannot.method.trunk import LocalTrunk, Preprocessing, Trunk

pytestmark = pytest.mark.filterwarnings("ignore:Failed to load image Python extension")  # of torchvision, where it is loaded late
PAGE = Path(__file__).parents[2] / "docs" / "trunks.md"


def library(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is not installed", exc_type=(ImportError, RuntimeError))


def trunk_of(page_imports: str, network: nn.Module, smaller: dict[str, str]) -> LocalTrunk:
    """The trunk that the page's block makes, with ``network`` in the place of the one that is downloaded."""
    [text] = [block.text for block in blocks(PAGE) if page_imports in block.text]
    text, changed = re.subn(r"^network = .*$", "network = small", text, flags=re.M)
    assert changed == 1
    for old, new in smaller.items():
        assert old in text
        text = text.replace(old, new)
    names: dict[str, Any] = {"small": network, "nn": nn, "Preprocessing": Preprocessing, "Trunk": Trunk}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(text, names)
    found = names["trunk"]
    assert isinstance(found, LocalTrunk)
    return found


def check(trunk: LocalTrunk, size: int, expected: Any, tmp_path: Path) -> None:
    """Its features are those that ``expected(pixels)`` (B, C, H', W') gives, and a model is fitted, saved and loaded with them."""
    images = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps = expected(trunk.normalised(images))
    found = trunk(images).float()
    assert torch.allclose(found, maps.flatten(2).transpose(1, 2).float(), rtol=0, atol=2**-6 * float(maps.abs().max()))
    arrays: Any = images.permute(0, 2, 3, 1).numpy()
    annotator = Annotator(trunk=trunk, n_components=4, n_centers=3, l2=True).fit(arrays, [["a"], ["b"], ["a", "c"]])
    annotator.save(tmp_path / "m.safetensors")
    again = Annotator.load(tmp_path / "m.safetensors", trunk=trunk).annotate(arrays, 2)
    assert np.array_equal(again.distance, annotator.annotate(arrays, 2).distance)


@pytest.mark.parametrize("kind", ["Dinov2", "Dinov2WithRegisters", "ResNet", "Swin", "ConvNext"])
def test_backbones_of_transformers(kind: str, tmp_path: Path) -> None:
    transformers = library("transformers")
    vit = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3, "image_size": 70, "patch_size": 14}
    stages = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
    options: dict[str, Any] = {
        "ResNet": {**stages, "embedding_size": 8},
        "ConvNext": stages,
        "Swin": {"image_size": 64, "embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 2]},
    }.get(kind, vit)
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**options, out_features=["stage3"])
    network = transformers.AutoBackbone.from_config(config).eval()
    size = 70 if kind.startswith("Dino") else 64
    trunk = trunk_of("AutoBackbone", network, {"input_size=518": f"input_size={size}"})

    def expected(pixels: Tensor) -> Tensor:
        return network.to(pixels.dtype)(pixels).feature_maps[0]  # type: ignore[no-any-return]

    check(trunk, size, expected, tmp_path)


def test_an_image_tower_of_open_clip(tmp_path: Path) -> None:
    transformer = library("open_clip.transformer")
    torch.manual_seed(0)
    network = transformer.VisionTransformer(image_size=64, patch_size=16, width=48, layers=10, heads=3, mlp_ratio=4).eval()
    network.preprocess_cfg = {"mean": (0.48, 0.46, 0.41), "std": (0.27, 0.26, 0.28), "interpolation": "bicubic"}
    trunk = trunk_of("open_clip", network, {"input_size=224": "input_size=64"})
    assert trunk.preprocessing.mean == pytest.approx((122.4, 117.3, 104.55)) and trunk.grid(64, 64) == (4, 4)

    def expected(pixels: Tensor) -> Tensor:
        found = network.to(pixels.dtype).forward_intermediates(pixels, indices=[8], intermediates_only=True)
        return found["image_intermediates"][0]  # type: ignore[no-any-return]

    check(trunk, 64, expected, tmp_path)
