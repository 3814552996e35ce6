"""Single rules of the CUDA side, each in a process of its own as :mod:`pretend_cuda.walk`."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small import embedded

from gpuannot import Annotator
from gpuannot.method.trunks.module import ModuleTrunk
from gpuannot.method.weights import Preprocessing

from .device import PretendCuda
from .dispatch import Ran
from .walk import SETTINGS, SIZE, K, scenes

#: What a caller may have set for training, by any of torch's interfaces.
CHOICES: dict[str, Any] = {
    "nothing": lambda: None,
    "matmul precision high": lambda: torch.set_float32_matmul_precision("high"),
    "allow_tf32": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "no cuDNN TF32": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "tf32 products": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "tf32 everywhere": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "ieee convolutions": lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
    "cuDNN off": lambda: setattr(torch.backends.cudnn, "enabled", False),
    "cuDNN's benchmark": lambda: setattr(torch.backends.cudnn, "benchmark", True),
}
_PRODUCTS = ("mm", "addmm", "addmm_", "bmm", "baddbmm")


def settings() -> dict[str, Any]:
    """All that torch says of the precision of products and convolutions, and of cuDNN."""
    kinds = [("generic", "all"), *(("cuda", kind) for kind in ("all", "matmul", "conv", "rnn"))]
    found: dict[str, Any] = {str(kind): torch._C._get_fp32_precision_getter(*kind) for kind in kinds}
    return found | {name: getattr(torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic")}


@contextmanager
def pretended(setting: str, *, cupy: int = 14, **changes: Any) -> Iterator[tuple[PretendCuda, Annotator, torch.Tensor]]:
    """A fitted model, and a batch, on a pretended device."""
    torch.set_num_threads(2)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message="cuML is not usable")
    images, labels = scenes(range(40))
    with PretendCuda(cupy=cupy) as cuda:
        wanted = {"input_size": SIZE, "trunk_dtype": "bfloat16", **SETTINGS[setting], **changes}
        model = Annotator(device="cuda:0", loaded=embedded(), **wanted).fit(images[:32], labels[:32], progress=False)
        yield cuda, model, torch.from_numpy(np.stack(images[32:])).permute(0, 3, 1, 2).to("cuda:0")


def reset() -> None:
    """The settings as torch has them at its start."""
    torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.fp32_precision = "none"
    torch._C._set_cudnn_allow_tf32(True)
    torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark = True, False


def precision(setting: str) -> None:
    """Products and convolutions of float32 are in float32 whatever the caller chose, and what the caller chose stays."""
    with pretended(setting, trunk_dtype="float32") as (cuda, model, batch):
        seen: set[str] = set()

        def listen(ran: Ran) -> None:
            if ran.name in _PRODUCTS and ran.written[0].dtype == torch.float32:
                seen.add(ran.name)
                assert torch._C._get_fp32_precision_getter("cuda", "matmul") != "tf32", f"{ran.name} in TF32"
            if "convolution" in ran.name:
                seen.add(ran.name)
                assert ran.arguments[9:] == (False, True, True, False), "a convolution by the process's settings"

        start = settings()
        for name, choose in CHOICES.items():
            reset()
            assert settings() == start
            choose()
            before = settings()
            seen.clear()
            with cuda.dispatch.listening(listen):
                model.annotate_tensor(batch, K)
            assert "_convolution" in seen and seen & set(_PRODUCTS), seen
            assert settings() == before, name
        reset()


def networks() -> None:
    """A network of torch's modules is in float32 and deterministic whatever the caller chose, and what the caller chose stays."""
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(2), torch.nn.Linear(900, 6), torch.nn.Unflatten(2, (2, 3))
    )
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = Preprocessing("0…1", mean=(0, 0, 0), std=(255, 255, 255), input_size=32)
    torch.set_num_threads(2)
    expected = ModuleTrunk(module, "3", pixels, dtype="float32")(images)
    with PretendCuda() as cuda:
        trunk = ModuleTrunk(module, "3", pixels, dtype="float32", device="cuda:0")
        batch, seen = images.to("cuda:0"), set()

        def listen(ran: Ran) -> None:
            if ran.name in _PRODUCTS:
                seen.add("a product")
                assert torch._C._get_fp32_precision_getter("cuda", "matmul") != "tf32", f"{ran.name} in TF32"
            if "convolution" in ran.name:
                seen.add("a convolution")
                assert torch._C._get_fp32_precision_getter("cuda", "conv") != "tf32", "a convolution in TF32"
                assert [settings()[name] for name in ("enabled", "benchmark", "deterministic")] == [True, False, True]

        for name, choose in CHOICES.items():
            reset()
            choose()
            before = settings()
            seen.clear()
            with cuda.dispatch.listening(listen):
                found = trunk(batch)
            assert seen == {"a product", "a convolution"}, seen
            torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-5)  # which took the images one by one
            assert settings() == before, name
        reset()


def second_device() -> None:
    """A model on ``cuda:1`` while ``cuda:0`` is the current device, and captured after a capture there."""
    with pretended("best") as (_, first, batch), tempfile.TemporaryDirectory(prefix="gpuannot-rules-") as name:
        path = first.save(Path(name) / "model.safetensors")
        expected = [part.cpu() for part in first.annotate_tensor(batch, K)]
        first.capture(tuple(batch.shape), K)  # type: ignore[arg-type]
        other, there = Annotator.load(path, device="cuda:1"), batch.to("cuda:1")
        found = other.annotate_tensor(there, K)
        assert found[0].device == torch.device("cuda", 1) and torch.equal(found[0].cpu(), expected[0])
        graph = other.capture(tuple(there.shape), K)  # type: ignore[arg-type]
        assert torch.equal(graph(there)[0].cpu(), expected[0])
        images = batch.cpu()
        host = other.annotate(images, K, progress=False)  # its words come to the host by events
        assert np.array_equal(host.index, expected[0].numpy())
        assert torch.cuda.current_device() == 0


def old_cupy() -> None:
    """CuPy 13 launches on torch's stream too, side streams included."""
    with pretended("paper", cupy=13) as (_, model, batch):
        expected = model.annotate_tensor(batch, K)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            found = model.annotate_tensor(batch, K)
        stream.synchronize()
        assert torch.equal(found[0].cpu(), expected[0].cpu())


def versions_of_the_nearest_centre() -> None:
    """Each version that a device of capability 9.0 serves is compiled, loaded and launched, and finds the same centres."""
    from gpuannot import kernels
    from gpuannot.kernels.stream import served_methods

    with pretended("paper"):
        for dtype in ("float32", "bfloat16"):
            x, c = (
                torch.randn(rows, 64, generator=torch.Generator().manual_seed(rows)).to(getattr(torch, dtype)).cuda()
                for rows in (300, 200)
            )
            methods = served_methods(64, dtype, dtype, (9, 0))
            assert ("WGMMA" in methods) == (dtype == "bfloat16")
            found = [kernels.nearest_center(x, c, method=method).cpu() for method in methods]
            assert all(torch.equal(index, found[0]) for index in found)
