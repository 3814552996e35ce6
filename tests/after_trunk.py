"""What the CUDA side does after the trunk's layers: launches of a batch, and kilobytes that an image has read and written, counted.

``python tests/after_trunk.py --update`` writes the table that ``test_pretended_cuda.py`` compares with, ``--launches`` prints every
launch, and the share of an image's time that its bytes take by an estimate (``_share``). Counted on the pretended
device at the presets' own sizes, by operators and their arguments: a tensor that an operator reads or writes counts once, whatever
caches hold of it and however often a kernel reads it; what works in place reads and writes; a view does neither. The count begins
with what the trunk's layers gave, each in a tensor of its own. So the numbers compare versions of this code, and say nothing of
time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from pretend_cuda import PretendCuda
from pretend_cuda.dispatch import Ran

from gpuannot import AnnotatorConfig, kernels
from gpuannot.heads.kernel_ranking import KernelRanking
from gpuannot.method.ranking import LinearRanking, WordRanking
from gpuannot.model.encoder import Encoder

TABLE = Path(__file__).with_name("after_trunk.json")
PRESETS, BATCHES = ("paper", "best", "kernel"), (32, 256)
WORDS, LEARNT, K = 260, 4500, 5  # Corel5k's
_POSITIONS = 196
_OUTPUTS = ("out", "index", "distance", "squares", "skipped")
# A gather reads what it writes, and its indices.
_GATHERS = ("index", "index_select", "gather", "embedding")
_OVERWRITES = ("copy_", "fill_", "zero_")  # the operators in place that do not read what they write


class _Count:
    def __init__(self) -> None:
        self.launches: list[tuple[str, int, int]] = []  # name, bytes read, bytes written

    def operator(self, ran: Ran) -> None:
        read = ran.written + ran.read[1:] if ran.name in _GATHERS else ran.read
        if ran.name.endswith("_") and ran.name not in _OVERWRITES:
            read = read + ran.written
        self.add(ran.name, read, ran.written)

    def add(self, name: str, read: list[torch.Tensor], written: list[torch.Tensor]) -> None:
        self.launches.append((name, sum(map(_bytes, read)), sum(map(_bytes, written))))


def _bytes(tensor: torch.Tensor) -> int:
    """Of its values; what a stride of zero repeats counts once."""
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return int(np.prod(sizes, dtype=np.int64)) * tensor.element_size() if tensor.numel() else 0


class _Trunk:
    """Stands for the trunk: its features are made before the count begins."""

    dtype = torch.bfloat16
    stride = 16

    def __init__(self, layers: int) -> None:
        self.layer_channels, self.channels = (512,) * layers, 512 * layers


def _learnt(config: AnnotatorConfig) -> Encoder:
    """An encoder of the preset's shapes; what it learnt are random numbers."""
    rng = np.random.default_rng(0)

    def random(*shape: int) -> Any:
        return rng.standard_normal(shape, dtype=np.float32)

    encoder = Encoder(config, device="cuda")
    encoder.extractor._trunk = _Trunk(config.layer_count)  # type: ignore[assignment]
    encoder.transform_, encoder.codebook_ = encoder.new_transform(), encoder.new_codebook()
    for transform, codebook in zip(encoder.transform_.parts, encoder.codebook_.parts, strict=True):
        transform.matrix_, transform.offset_ = random(512, config.n_components), random(config.n_components)
        codebook.centers_ = random(config.n_centers, config.n_components)
    if config.projection:
        encoder.projection_ = encoder.new_projection()
        encoder.projection_.mean_ = random(config.vlad_dimension)
        encoder.projection_.matrix_ = random(config.vlad_dimension, config.projection)
    return encoder


def _ranking(config: AnnotatorConfig, dimension: int) -> Any:
    rng = np.random.default_rng(1)
    bias, vectors = rng.standard_normal(WORDS), rng.standard_normal((WORDS, dimension))
    if config.head == "kernel":
        learnt = rng.standard_normal((LEARNT, dimension))
        learnt /= np.linalg.norm(learnt, axis=1, keepdims=True)
        return KernelRanking(learnt, rng.standard_normal((LEARNT, WORDS)), bias, config.kernel_width)
    return WordRanking(vectors) if config.head == "mean" else LinearRanking(vectors, bias)


@contextmanager
def _launches(count: _Count) -> Iterator[None]:
    """Count the launches of the library's kernels, which run nothing."""

    def launch(plan: Any, buffers: dict[str, Any], device: torch.device) -> None:
        given = {name: buffers[name].elem for name in plan.arguments if isinstance(name, str) and buffers[name] is not None}
        read = [tensor for name, tensor in given.items() if name not in _OUTPUTS]
        if plan.kernel == "rank_candidates":  # of the words' vectors the candidates', as a gather does
            words, candidates = given["word_vectors"], given["candidates"]
            read = [x for x in read if x is not words] + [words.new_empty((candidates.numel(), words.shape[1]))]
        count.add(plan.kernel, read, [tensor for name, tensor in given.items() if name in _OUTPUTS])

    modules = [module for module in vars(kernels).values() if isinstance(module, ModuleType) and hasattr(module, "launch")]
    with ExitStack() as patched:
        for module in (kernels, *modules):
            patched.enter_context(patch.object(module, "launch", launch))
        yield


def counted(preset: str, batch: int) -> list[tuple[str, float, float]]:
    """What a batch launches from features to words: name, kB an image that it reads, and that it writes."""
    config, count = AnnotatorConfig.preset(preset), _Count()
    with PretendCuda() as cuda, torch.inference_mode():
        encoder = _learnt(config)
        ranking = _ranking(config, encoder.dimension).on(encoder.device, np.arange(WORDS))
        encoder.device_stages()
        if config.projection:  # what is put on the device at first use
            encoder.projection_.transform(torch.zeros((1, config.vlad_dimension), device="cuda"))
        shapes = [(batch, _POSITIONS, channels) for channels in encoder.trunk.layer_channels]
        layers = [torch.empty(shape, dtype=torch.bfloat16, device="cuda") for shape in shapes]

        with cuda.dispatch.listening(count.operator, with_values=False), _launches(count):
            ranking.nearest(encoder.vectors(tuple(layers)), K)
    return [(name, read / batch / 1e3, written / batch / 1e3) for name, read, written in count.launches]


def table() -> dict[str, dict[str, float]]:
    """By preset and batch: launches of a batch, and kB an image that are read and written."""
    found = {}
    for name, launches in _of_all().items():
        read, written = (round(sum(launch[part] for launch in launches), 1) for part in (1, 2))
        found[name] = {"launches": len(launches), "kB read": read, "kB written": written}
    return found


def _of_all() -> dict[str, list[tuple[str, float, float]]]:
    return {f"{preset}, batch {batch}": counted(preset, batch) for preset in PRESETS for batch in BATCHES}


def _share(kilobytes: float) -> float:
    """Of the time that an image takes an H200: 4.8 TB/s for the bytes, 23,400 images/s for the trunk. Neither was measured here."""
    return kilobytes * 1e3 / 4.8e12 * 23_400


def _print_launches() -> None:
    for name, launches in _of_all().items():
        total = sum(read + written for _, read, written in launches)
        print(f"{name}: {len(launches)} launches, {total:.0f} kB an image, {_share(total):.2%} by its bytes")
        for kernel, read, written in launches:
            print(f"  {kernel:18} {read:8.1f} read {written:8.1f} written")


def check() -> None:
    """Raise AssertionError where the count is not the table's."""
    found, kept = table(), json.loads(TABLE.read_text())
    assert found == kept, f"counted {found}, the table has {kept}; if that is meant: python tests/after_trunk.py --update"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--update", action="store_true", help="write the table")
    what.add_argument("--launches", action="store_true", help="print every launch")
    if parser.parse_args().launches:
        _print_launches()
    else:
        TABLE.write_text(json.dumps(table(), indent=1) + "\n")
        print(TABLE.read_text(), end="")
