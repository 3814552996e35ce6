"""Fixtures that several test files share. Data sets and float weights are optional: a test that needs them skips and says so."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from command_server import client_script
from small import load_weights_once

from gpuannot.datasets import label_files as datasets
from gpuannot.datasets.scenes import write_scenes
from gpuannot.method import trunks


def pytest_configure() -> None:
    """A job in the background ignores Ctrl-C, and so would the programs that tests start and interrupt."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


#: Modules that take longest, which are begun first where several processes share the modules.
LONGEST = (
    "test_documentation", "test_first_hour", "test_kernel_mutations", "test_compile_gate", "test_on_gpu", "test_pretended_cuda",
    "test_kernels", "test_cluster", "test_cli",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked ``gpu`` skip without a CUDA device, or fail where FAIL_WITHOUT_CUDA=1 says that there should be one."""
    if item.get_closest_marker("gpu") is None or torch.cuda.is_available():
        return
    if os.environ.get("FAIL_WITHOUT_CUDA") == "1":
        pytest.fail("torch sees no CUDA device, and FAIL_WITHOUT_CUDA=1", pytrace=False)
    pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data sets and float weights; it need not exist."""
    return Path(os.environ.get("GPUANNOT_SHARED") or Path(__file__).parents[2] / "shared")


@pytest.fixture(scope="session")
def oxford_weights(shared: Path) -> Path:
    """The float16 file of the Oxford release."""
    return _present(shared / "weights" / "vgg16_caffe_conv.safetensors")


@pytest.fixture(scope="session")
def corel5k(shared: Path) -> Path:
    """The Corel5k folder: ``images/``, ``train.json``, ``test.json``."""
    return _present(shared / "data" / "corel5k")


@pytest.fixture(scope="session")
def drawn_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 24 drawn scenes: ``images/`` and ``labels.json``. Read only: every test file shares it."""
    return write_scenes(tmp_path_factory.mktemp("drawn_scenes"), 24).parent


@pytest.fixture(scope="session")
def scenes(drawn_scenes: Path) -> datasets.LabelledImages:
    """The drawn scenes with their words. Read only: every test file shares them."""
    return datasets.load_labelled_images(drawn_scenes)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def weights_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For commands and experiments, which make their encoders themselves, so that a test cannot give these ``loaded``."""
    monkeypatch.setattr(trunks, "load_weights", load_weights_once)


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PATH on which ``gpuannot`` is this checkout's."""
    folder = tmp_path_factory.mktemp("commands")
    address = str(folder / "socket")
    (folder / "gpuannot").write_text(client_script(address))
    (folder / "gpuannot").chmod(0o755)
    server = subprocess.Popen([sys.executable, str(Path(__file__).parent / "command_server.py"), address])
    try:
        while not Path(address).exists():
            assert server.poll() is None, "the server of commands ended"
            time.sleep(0.05)
        yield f"{folder}{os.pathsep}{os.environ['PATH']}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def benchmark_folder(drawn_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """18 training and 6 test scenes in the benchmark's layout, and the benchmark declared to be of that size."""
    folder = tmp_path / "data"
    shutil.copytree(drawn_scenes / "images", folder / "images")
    content = json.loads((drawn_scenes / "labels.json").read_text())
    for name, part in (("train", content["samples"][:18]), ("test", content["samples"][18:])):
        (folder / f"{name}.json").write_text(json.dumps({"samples": part, "labels": content["labels"]}))
    (folder / "vocabulary.txt").write_text("\n".join(content["labels"]) + "\n")
    monkeypatch.setitem(datasets.BENCHMARKS, "corel5k", (18, 6, len(content["labels"])))
    return folder


def _present(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path} is missing; set GPUANNOT_SHARED to the folder that holds it")
    return path
