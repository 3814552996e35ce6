"""The encoder: several layers side by side, against an encoder of each layer by itself."""

from __future__ import annotations

import numpy as np
from small import LAYERED, embedded

from gpuannot import Annotator
from gpuannot.datasets import LabelledImages
from gpuannot.model.encoder import Encoder


def test_the_vectors_are_those_of_one_encoder_a_layer(layered: Annotator, scenes: LabelledImages) -> None:
    """An encoder of each layer alone, with that layer's PCA and visual words, makes the layer's part of the vector."""
    _, vectors = layered.encoder.encode(scenes.paths[:3])
    assert vectors.shape == (3, layered.encoder.dimension) == (3, 3 * 18)
    for number, layer in enumerate(layered.encoder.trunk.layers):
        alone = Encoder(device="cpu", loaded=embedded(), **{**LAYERED, "layer": layer, "trunk_dtype": layered.config.trunk_dtype})
        alone.transform_, alone.codebook_ = alone.new_transform(), alone.new_codebook()
        alone.transform_.parts = [layered.encoder.transform_.parts[number]]
        alone.codebook_.parts = [layered.encoder.codebook_.parts[number]]
        np.testing.assert_allclose(alone.encode(scenes.paths[:3])[1], vectors[:, 18 * number : 18 * number + 18], atol=1e-6)
