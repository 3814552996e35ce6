"""Fixtures that the tests of jobs share."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import CHANGES, PART, files
from tars import write_tar
from workers import COPIES

from gpuannot import Annotator
from gpuannot.datasets import LabelledImages


@pytest.fixture(scope="module")
def fitted(scenes: LabelledImages) -> Annotator:
    """Read only. One of its words holds what separates words in CSV."""
    vocabulary = ["sea; calm", *scenes.vocabulary[1:]]
    return Annotator(device="cpu", **CHANGES).fit(scenes.paths, scenes.labels, vocabulary=vocabulary, progress=False)


@pytest.fixture(scope="module")
def pictures(drawn_scenes: Path) -> Path:
    """A folder of 24 scenes."""
    return drawn_scenes / "images"


@pytest.fixture(scope="module")
def mixed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """24 scenes, some of them in shards, and five inputs that fail."""
    folder = tmp_path_factory.mktemp("mixed")
    contents = {path.name: path.read_bytes() for path in sorted(pictures.iterdir())}
    names = sorted(contents)
    for name in names[:9]:
        (folder / name).write_bytes(contents[name])
    (folder / "scene_00003 cut.jpg").write_bytes(contents[names[3]][:500])
    (folder / "zzz.jpg").write_bytes(b"")
    write_tar(folder / "s.tar", {name: contents[name] for name in names[9:15]} | {"x.jpg": b"junk"})
    write_tar(folder / "s.tar.gz", {"0.png": b""} | {name: contents[name] for name in names[15:]})
    return [str(folder), str(folder / "nowhere.jpg"), str(folder / "s.tar"), str(folder / "s.tar.gz")]


@pytest.fixture(scope="module")
def undisturbed(fitted: Annotator, mixed: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run that nothing stopped, of 29 inputs in 5 parts."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    summary = fitted.batch(mixed, out, part_size=PART)
    assert (summary.inputs, summary.failures, summary.parts) == (29, 5, 5)
    return files(out)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("may not mount a file system here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture(scope="module")
def local() -> Iterator[Any]:
    """Two workers that other processes know by the address of their scheduler."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, memory_limit=0, dashboard_address=":0", silence_logs=50
    ) as local:
        yield local


@pytest.fixture
def scheduler(local: Any) -> str:
    from distributed import Client

    with Client(local, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
    return str(local.scheduler_address)


@pytest.fixture(scope="module")
def learning(scenes: LabelledImages, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], list[list[str]]]:
    """Images of several kinds with their words; three cannot be read."""
    words = [[scenes.vocabulary[word] for word in scenes.labels[[row]].indices] for row in range(len(scenes))]
    images: list[Any] = list(scenes.paths) * COPIES
    folder = tmp_path_factory.mktemp("unreadable")
    (folder / "cut.jpg").write_bytes(scenes.paths[0].read_bytes()[:300])
    images[5], images[300], images[600] = folder / "nowhere.jpg", folder / "cut.jpg", b"junk"
    images[7], images[8] = scenes.paths[7].read_bytes(), np.zeros((20, 30, 3), np.uint8)
    return images, words * COPIES
