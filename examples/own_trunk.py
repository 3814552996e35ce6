"""Words over features of your own: a trunk is a class with one method, or any torch module cut at a layer.

    python examples/own_trunk.py LABELLED_IMAGES

``Edges`` has no weights: how strongly an image rises along 8 directions within each 8 × 8 pixels. The second trunk is a torch
module whose layer ``1`` is taken, where a network that you have trained would stand.
"""

import hashlib
import sys

import torch
from torch import Tensor, nn

from gpuannot import Annotator
from gpuannot.datasets import load_labelled_images
from gpuannot.method.trunk import LocalTrunk, Preprocessing, Trunk

PIXELS = Preprocessing("0…1", mean=(0, 0, 0), std=(255, 255, 255), input_size=64)


class Edges(LocalTrunk):
    """(B, P, 8): the slope of brightness along 8 directions, where it is positive, in cells of 8 × 8 pixels."""

    def __init__(self) -> None:
        super().__init__("edges", hashlib.sha256(b"edges, version 1").hexdigest(), PIXELS, "cells")
        self.angles = torch.arange(8).view(1, 8, 1, 1) * torch.pi / 4
        self.measure(PIXELS.input_size)

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """One layer: (B, H', W', 8) of pixels (B, 3, H, W)."""
        down, right = torch.gradient(pixels.mean(dim=1, keepdim=True), dim=(2, 3))
        slopes = down * self.angles.sin() + right * self.angles.cos()
        return [nn.functional.avg_pool2d(slopes.relu(), 8).permute(0, 2, 3, 1)]


def main(labelled: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 8, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    images = load_labelled_images(labelled)
    for trunk in (Edges(), Trunk.from_module(network, "1", PIXELS, name="own-network", dtype="float32")):
        annotator = Annotator(trunk=trunk, n_components=4, n_centers=8, l2=True)
        annotator.fit(images.paths, images.labels, vocabulary=images.vocabulary)
        print(f"{annotator.config.trunk}, {trunk.channels} channels at {trunk.grid(64, 64)}")
        print(" ", ", ".join(annotator.annotate(images.paths[:1], 3).words[0]))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
