"""Every public path of the CUDA side at a small size, held to what the CPU gives and to itself.

Called in a process of its own (:func:`cuda_on_cpu.run_isolated`): the pretended device replaces names of torch.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import embedded

from gpuannot import Annotator
from gpuannot.datasets.scenes import draw_scene
from gpuannot.method.labels import label_matrix
from gpuannot.model.audit import audit, regression_of

from .device import PretendCuda
from .mutations import MUTATIONS

SIZE, K = 32, 3
_LAYERED = {
    "layer": "pool2+conv3_1", "n_components": 6, "n_centers": 4, "signed_sqrt": True, "l2": True, "projection": 12,
}  # fmt: skip
# As the presets are, at a size that a test can take, one with both blocks beside VLAD. bfloat16 on both sides: whether a CPU would
# choose it differs by CPU.
SETTINGS: dict[str, dict[str, Any]] = {
    "paper": {"layer": "pool2", "n_components": 8, "n_centers": 5},
    "best": {**_LAYERED, "quadratic": 6, "head": "ridge", "regularisation": 0.2},
    "kernel": {**_LAYERED, "layer": "colours+pool2+conv3_1", "moments": 4, "head": "kernel", "regularisation": 0.2},
}


def scenes(numbers: range, size: tuple[int, int] = (SIZE, SIZE)) -> tuple[list[np.ndarray], list[list[str]]]:
    drawn = [draw_scene(number, size) for number in numbers]
    return [np.asarray(image) for image, _ in drawn], [list(words) for _, words in drawn]


class Walk:
    """The steps, in the order of their methods' calls in :meth:`run`."""

    def __init__(self, setting: str, folder: Path) -> None:
        self.folder = folder
        self.images, self.labels = scenes(range(72))
        settings = {"input_size": SIZE, "batch_size": 16, "trunk_dtype": "bfloat16", **SETTINGS[setting]}
        self.model = Annotator(device="cuda", loaded=embedded(), **settings)
        self.batch = torch.from_numpy(np.stack(self.images[48:])).permute(0, 3, 1, 2).to("cuda")

    def run(self) -> None:
        self.fit()
        self.annotate()
        self.side_stream()
        self.words_come_and_go()
        self.graph()
        self.batches()
        self.file()
        self.audit()

    def fit(self) -> None:
        self.model.fit(self.images[:48], self.labels[:48], progress=False)
        # The same model on the CPU takes part in every change.
        self.host = Annotator.load(self.model.save(self.folder / "fitted.safetensors"), device="cpu")
        self.agree()

    def audit(self) -> None:
        """Of the same vectors both say the same."""
        labels, vocabulary = label_matrix(self.labels[:48])
        vectors = self.host.encoder.encode(self.images[:48], progress=False)[1]
        learnt = [regression_of(model.words, vectors, labels, vocabulary) for model in (self.model, self.host)]
        found = [audit(model, vectors, labels).probability for model in learnt]
        np.testing.assert_allclose(found[0], found[1], atol=1e-4)

    def agree(self) -> None:
        """The words of both, and their distances within the rounding of bfloat16 features."""
        found = [part.cpu().numpy() for part in self.model.annotate_tensor(self.batch, K)]
        exact = self.host.annotate(self.images[48:], K, progress=False)
        assert self.model.vocabulary == self.host.vocabulary
        assert (found[0] == exact.index).mean() >= 0.97, f"{(found[0] == exact.index).mean():.3f} of the words are the CPU's"
        spread = np.abs(exact.distance).max()
        same = found[0] == exact.index
        assert np.abs(found[1] - exact.distance)[same].max() <= 0.02 * spread, "distances are not the CPU's"

    def annotate(self) -> None:
        expected = self.model.annotate_tensor(self.batch, K)
        confidence = self.model.confidence(*expected)
        with no_waits():
            for found, exact in zip(self.model.annotate_tensor(self.batch, K), expected, strict=True):
                assert same(found, exact), "a second call gives other bits"
            self.model.encode_tensor(self.batch)
            again = self.model.confidence(*expected)
        assert (confidence is None) == (again is None) == (not self.model.words.has_confidence)
        assert confidence is None or same(confidence, again)
        host = self.model.annotate(self.images[48:], K, progress=False)
        assert np.array_equal(host.index, expected[0].cpu().numpy())
        assert len(self.model.explain(self.images[48:50], k=2, progress=False)) == 2

    def side_stream(self) -> None:
        """Behind work on a stream of the caller's, with a wait on both ends."""
        expected = self.model.annotate_tensor(self.batch, K)
        stream, images = torch.cuda.Stream(), torch.zeros_like(self.batch)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            images.copy_(self.batch)
            found = self.model.annotate_tensor(images, K)
        torch.cuda.current_stream().wait_stream(stream)
        assert all(same(a, b) for a, b in zip(found, expected, strict=True))

    def words_come_and_go(self) -> None:
        first, second, *_ = self.model.vocabulary
        both = [number for number in range(48) if {first, second} <= set(self.labels[number])]
        for model in (self.model, self.host):
            model.partial_fit(self.images[48:56], self.labels[48:56], progress=False)
            model.add_word("zebra", self.images[56:60], progress=False)
        self.agree()
        for model in (self.model, self.host):
            model.forget(self.images[56:58], [["zebra"]] * 2, progress=False)
            model.rename_word("zebra", "quagga")
            model.merge_words("quagga", model.vocabulary[-2], progress=False)
        self.agree()
        for model in (self.model, self.host):
            chosen = [number for number in [*both, *range(48, 56)] if {first, second} <= set(self.labels[number])]
            model.merge_words(first, second, [self.images[n] for n in chosen], [self.labels[n] for n in chosen], progress=False)
            model.remove_words([model.vocabulary[-1]])
        self.agree()
        vectors = self.model.encode_tensor(self.batch[:2])
        known = [[word for word in words if word in self.model.vocabulary] for words in self.labels[48:50]]
        self.model.partial_fit(vectors, known, progress=False)
        self.host.partial_fit(self.images[48:50], known, progress=False)
        self.agree()

    def graph(self) -> None:
        """Replayed, it gives what the model gave when it was captured, whatever became of the model."""
        graph = self.model.capture(tuple(self.batch.shape), K)  # type: ignore[arg-type]
        expected = [part.cpu() for part in self.model.annotate_tensor(self.batch, K)]

        def held() -> bool:
            with no_waits():
                found = graph(self.batch)
            return all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))

        assert held(), "the graph gives other bits"
        flipped = [part.cpu() for part in self.model.annotate_tensor(self.batch.flip(0), K)]
        assert all(torch.equal(a.cpu(), b) for a, b in zip(graph(self.batch.flip(0)), flipped, strict=True))
        self.model.explain(self.images[48:49], k=1, progress=False)
        assert held(), "after explain"
        for model in (self.model, self.host):
            model.partial_fit(self.images[60:64], self.labels[60:64], progress=False)
        assert held(), "after partial_fit"
        self.agree()
        other = Annotator.load(self.model.save(self.folder / "other.safetensors"), device="cuda")
        lone = other.capture(tuple(self.batch.shape), K)  # type: ignore[arg-type]
        other.fit(self.images[:40], self.labels[:40], progress=False)
        now = [part.cpu() for part in self.model.annotate_tensor(self.batch, K)]
        assert all(torch.equal(a.cpu(), b) for a, b in zip(lone(self.batch), now, strict=True)), "after fit"
        del other
        assert all(torch.equal(a.cpu(), b) for a, b in zip(lone(self.batch), now, strict=True)), "after del"

    def batches(self) -> None:
        (self.folder / "images").mkdir()
        for number in range(20):
            draw_scene(number, (80, 64))[0].save(self.folder / "images" / f"{number:03}.jpg")
        runs = []
        for name in ("first", "second"):
            self.model.batch(
                [str(self.folder / "images")], self.folder / name, K, part_size=8, format="jsonl", progress=False, vectors=True
            )
            runs.append([path.read_text() for path in sorted((self.folder / name).glob("part-*"))])
        assert runs[0] == runs[1] and len(runs[0]) == 3
        rows = [json.loads(line) for part in runs[0] for line in part.splitlines()]
        expected = self.model.annotate([str(path) for path in sorted((self.folder / "images").glob("*.jpg"))], K, progress=False)
        assert [tuple(row["words"]) for row in rows] == [tuple(words) for words in expected.words]

    def file(self) -> None:
        other = Annotator.load(self.model.save(self.folder / "last.safetensors"), device="cuda")
        for found, exact in zip(other.annotate_tensor(self.batch, K), self.model.annotate_tensor(self.batch, K), strict=True):
            assert same(found, exact), "the loaded model gives other bits"
        for model in (other, self.model):
            model.partial_fit(self.images[64:], self.labels[64:], progress=False)
        found, exact = (model.annotate_tensor(self.batch, K)[0].cpu() for model in (other, self.model))
        assert (found == exact).float().mean() >= 0.97, "the loaded model learns otherwise"


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Equal bits, asked for without a rule broken."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("default")
    try:
        return torch.equal(first.cpu(), second.cpu())
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@contextmanager
def no_waits() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def run(setting: str) -> None:
    """The whole walk of one setting; a warning is an error, but that cuML is missing."""
    torch.set_num_threads(2)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message="cuML is not usable")
    with tempfile.TemporaryDirectory(prefix="gpuannot-walk-") as folder, PretendCuda():
        Walk(setting, Path(folder)).run()


def run_mutations() -> None:
    """Print, as the last line, what stopped the walk for each mutation: {name: class of the error, or None}."""
    found: dict[str, str | None] = {}
    for name, mutation in MUTATIONS.items():
        with pytest.MonkeyPatch.context() as patch:
            mutation.apply(patch)
            try:
                run(mutation.setting)
                found[name] = None
            except Exception as error:
                found[name] = type(error).__name__
                print(f"{name}: {type(error).__name__}: {error}")
    print(json.dumps(found))
