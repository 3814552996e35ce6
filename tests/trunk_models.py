"""Small networks of timm's own classes, with random weights that do not depend on the machine's state."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a torchvision whose image decoders cannot be loaded
        import timm
except (ImportError, RuntimeError) as error:  # a torchvision built for another torch raises RuntimeError
    WHY_NOT: str | None = f"timm cannot be imported: {error}"
else:
    WHY_NOT = None

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchvision  # noqa: F401
except (ImportError, RuntimeError) as error:
    NO_TORCHVISION: str | None = f"torchvision cannot be imported: {error}"
else:
    NO_TORCHVISION = None

needs_torchvision = pytest.mark.skipif(NO_TORCHVISION is not None, reason=str(NO_TORCHVISION))
needs_timm = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

_VIT = {"depth": 4, "embed_dim": 48, "num_heads": 3}
_SWIN = {"depths": (1, 1, 1, 1), "embed_dim": 12, "num_heads": (1, 2, 2, 2)}
#: Name → timm's entry function, what makes it small, input size, the layer that is taken where none is named, channels, patch grid.
NETWORKS: dict[str, tuple[str, dict[str, Any], int, str, int, int]] = {
    "resnet18": ("resnet18", {}, 64, "layer3", 256, 4),
    "convnext_small_test": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}, 64, "stages.2", 24, 4),
    "efficientnet_lite0": ("efficientnet_lite0", {}, 64, "blocks.4", 112, 4),
    "mobilenetv3_small_050": ("mobilenetv3_small_050", {}, 64, "blocks.3", 24, 4),
    "vit_small_test": ("vit_tiny_patch16_224", _VIT, 64, "blocks.3", 48, 4),
    "deit_distilled_small_test": ("deit_tiny_distilled_patch16_224", _VIT, 48, "blocks.3", 48, 3),
    "dinov2_reg4_small_test": ("vit_small_patch14_reg4_dinov2", _VIT, 70, "blocks.3", 48, 5),
    "eva02_small_test": ("eva02_tiny_patch14_224", _VIT, 56, "blocks.3", 48, 4),
    "siglip_small_test": ("vit_base_patch16_siglip_224", _VIT, 64, "blocks.3", 48, 4),
    "swin_small_test": ("swin_tiny_patch4_window7_224", _SWIN, 224, "layers.2", 48, 14),
}  # fmt: skip


def register() -> None:
    """Let timm know the small ones by name, as a user's own are, and ``plain_resnet``, which has no ``forward_intermediates``."""
    for name, (entry, smaller, *_) in NETWORKS.items():
        if smaller and not timm.is_model(name):

            def make(pretrained: bool = False, entry: str = entry, smaller: dict[str, Any] = smaller, **options: Any) -> Any:
                return timm.model_entrypoint(entry)(pretrained, **{**smaller, **options})

            make.__name__, make.__module__ = name, __name__
            timm.models.register_model(make)
    if timm.is_model("plain_resnet"):
        return

    class PlainResNet(timm.models.resnet.ResNet):
        @property
        def forward_intermediates(self) -> Any:
            raise AttributeError

    def plain_resnet(pretrained: bool = False, **options: Any) -> Any:
        network = {"block": timm.models.resnet.BasicBlock, "layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32), "stem_width": 8}
        return timm.models.build_model_with_cfg(PlainResNet, "resnet18", pretrained, **network, **options)

    plain_resnet.__module__ = __name__
    timm.models.register_model(plain_resnet)


def write_weights(name: str, folder: Path, seed: int = 0, **options: Any) -> Path:
    """A file of random weights, with a classifier of 7 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = timm.create_model(name, num_classes=7, **options)
    path = folder / f"{name}-{seed}.safetensors"
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
    return path
