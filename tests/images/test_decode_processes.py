"""Decode processes: the pixels and failures of threads, whatever becomes of the processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from hostile_images import DECODES, FAILS, encoded, scene, write_hostile_images
from PIL import Image
from tars import write_tar

from gpuannot import Annotator, Inputs
from gpuannot.datasets.label_files import LabelledImages
from gpuannot.errors import DeviceError
from gpuannot.images.batches import DecodedBatch, decode_ahead
from gpuannot.images.decode_task import DecodeTask, ImageFailure, Outcome
from gpuannot.images.input import Input
from gpuannot.images.processes import CHUNK, DecodeProcesses
from gpuannot.system.timing import StageTimer

SIZE = 16
pytestmark = pytest.mark.skipif(os.name != "posix", reason="decode processes need POSIX")


@pytest.fixture
def processes() -> Iterator[DecodeProcesses]:
    found = DecodeProcesses(SIZE, "bicubic")
    yield found
    found.close()


def decoded(sources: Sequence[Any], *, batch: int = 5, workers: int = 2, processes: bool) -> list[DecodedBatch]:
    named = [(f"{place}", source) for place, source in enumerate(sources)]
    batches = [named[start : start + batch] for start in range(0, len(named), batch)]
    return list(decode_ahead(batches, size=SIZE, workers=workers, interpolation="bicubic", processes=processes))


def ask(processes: DecodeProcesses, *contents: bytes) -> tuple[np.ndarray, list[Outcome]]:
    out = np.zeros((len(contents), SIZE, SIZE, 3), np.uint8)
    return out, processes.decode(out, [DecodeTask(f"{place}", content) for place, content in enumerate(contents)], StageTimer())


def children() -> set[int]:
    """Decode processes that this one has started and not yet buried."""
    command = ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())]
    listing = subprocess.run(command, capture_output=True, text=True, check=False)
    return {int(line.split()[0]) for line in listing.stdout.splitlines() if "gpuannot.images.worker" in line or "defunct" in line}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(("batch", "workers"), [(1, 1), (CHUNK * 2 + 1, 2), (100, 3)])
def test_pixels_and_failures_are_those_of_threads(tmp_path: Path, batch: int, workers: int) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    hostile = write_hostile_images(folder)
    jpeg = encoded(scene(), "JPEG")
    write_tar(tmp_path / "s.tar", {"a.jpg": jpeg, "b.jpg": b"junk"})
    write_tar(tmp_path / "s.tar.gz", {"a.jpg": jpeg, "b.jpg": b"junk"})
    fsspec.filesystem("memory").pipe_file("/processes/c.jpg", jpeg)
    inputs = list(Inputs([*map(str, (tmp_path / "s.tar", tmp_path / "s.tar.gz")), "memory://processes/c.jpg", "memory://no.jpg"]))
    pixels = [scene(), torch.from_numpy(scene()).permute(2, 0, 1), Image.fromarray(scene())]
    sources = [*inputs, *(hostile[name] for name in (*DECODES, *FAILS)), *map(str, hostile.values()), jpeg, *pixels]
    expected = decoded(sources, batch=batch, workers=1, processes=False)
    found = decoded(sources, batch=batch, workers=workers, processes=True)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.names == other.names and one.failures == other.failures and one.kept.tolist() == other.kept.tolist()
        assert torch.equal(one.pixels, other.pixels)
    assert sum(len(one.names) for one in found) == 2 * len(DECODES) + 1 + 3 + 3
    assert not children()


def test_nothing_to_decode_starts_nothing() -> None:
    assert decoded([], processes=True) == [] and not children()


def test_time_is_told_by_stage(processes: DecodeProcesses, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(scene(600, 800), "JPEG"))
    timer = StageTimer()
    (item,) = Inputs(tmp_path / "a.jpg")
    start = time.perf_counter()
    assert processes.decode(np.empty((1, SIZE, SIZE, 3), np.uint8), [DecodeTask("a", item)], timer) == [None]
    assert 0 < timer.seconds("read") < timer.seconds("decode") < time.perf_counter() - start


# A decoder that kills its process at one image, in place of Pillow's: what a crash in native code does.
CRASHES = """
import os, signal, sys
from gpuannot.images import decode_task as decoding
whole = decoding.decode_image
def decode_image(source, *arguments, **options):
    if source == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if source == b"leave":
        os._exit(7)
    return whole(source, *arguments, **options)
decoding.decode_image = decode_image
"""


@pytest.fixture
def crashing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has decode processes load CRASHES."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif any('gpuannot.images.worker' in part for part in sys.orig_argv):\n"
        + "".join(f"    {line}\n" for line in CRASHES.strip().splitlines())
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("crashing")
def test_an_image_that_crashes_the_decoder_takes_no_other_down(processes: DecodeProcesses) -> None:
    jpeg = encoded(scene(), "JPEG")
    plain, outcomes = ask(processes, jpeg)
    assert outcomes == [None]
    pixels, outcomes = ask(processes, jpeg, b"crash", jpeg, b"junk", b"leave", jpeg)
    assert outcomes[1] == ImageFailure("1", "decode", "the process that decoded it was ended twice, by SIGSEGV")
    assert outcomes[4] == ImageFailure("4", "decode", "the process that decoded it was ended twice, by exit code 7")
    assert isinstance(outcomes[3], ImageFailure) and "not an image" in outcomes[3].reason
    for place in (0, 2, 5):
        assert outcomes[place] is None and np.array_equal(pixels[place], plain[0])


def test_a_process_that_is_killed_costs_nothing(processes: DecodeProcesses) -> None:
    large = encoded(scene(1000, 1500), "JPEG")
    expected, _ = ask(processes, large)
    for moment in (0, 0.02, 0.1):
        (child,) = children()
        timer = threading.Timer(moment, os.kill, (child, signal.SIGKILL))
        timer.start()
        pixels, outcomes = ask(processes, *[large] * 4)
        timer.join()
        assert outcomes == [None] * 4
        assert all(np.array_equal(image, expected[0]) for image in pixels)
        ask(processes, large)  # starts another where the last kill came late


def test_processes_that_do_not_start_are_an_error(
    processes: DecodeProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexit 9\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(DeviceError, match=r"decode processes end by exit code 9 at their start; use threads \(processes=0\)"):
        ask(processes, b"")
    with pytest.raises(DeviceError, match="exit code 9"):
        decoded([b"", b""], processes=True)


def test_they_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    program = f"""
import os, signal, subprocess, sys
import numpy as np
from gpuannot.system.timing import StageTimer
from gpuannot.images.processes import DecodeProcesses
from gpuannot.images.decode_task import DecodeTask
DecodeProcesses({SIZE}, "bicubic").decode(np.empty((1, {SIZE}, {SIZE}, 3), np.uint8), [DecodeTask("a", b"junk")], StageTimer())
children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, text=True).stdout
print(children.split()[0], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    child, deadline = int(done.stdout), time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and b"gpuannot.images.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "the decode process outlives its parent"
        time.sleep(0.05)


def test_a_script_without_a_guard_can_use_them(tmp_path: Path) -> None:
    """A main module is not run again, as multiprocessing would."""
    (tmp_path / "a.jpg").write_bytes(encoded(scene(), "JPEG"))
    (tmp_path / "script.py").write_text(
        "print('once')\nfrom gpuannot.images.batches import decode_ahead\n"
        f"found = decode_ahead([[('a', r'{tmp_path}/a.jpg')]], size=8, workers=2, interpolation='bicubic', processes=True)\n"
        "print([batch.names for batch in found])\n"
    )
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("once\n[('a',)]\n", "")


def test_batch_gives_the_same_bytes_and_resumes_either_way(drawn_scenes: Path, scenes: LabelledImages, tmp_path: Path) -> None:
    annotator = Annotator(device="cpu", layer="pool2", input_size=32, n_components=8, n_centers=4, batch_size=7)
    annotator.fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary, progress=False)
    summaries = [
        annotator.batch(drawn_scenes / "images", tmp_path / name, part_size=10, **options)
        for name, options in {"threads": {}, "processes": {"processes": 2}}.items()
    ]
    assert [(summary.threads > 0, summary.processes) for summary in summaries] == [(True, 0), (True, 2)]
    assert summaries[1].stages["decode"] > 0 and summaries[1].decoder == "pillow"
    parts = [sorted((tmp_path / name).glob("part-*")) for name in ("threads", "processes")]
    assert len(parts[0]) == 3 and [path.read_bytes() for path in parts[0]] == [path.read_bytes() for path in parts[1]]
    parts[1][1].unlink()
    annotator.batch(drawn_scenes / "images", tmp_path / "processes", part_size=10, resume=True)
    assert [path.read_bytes() for path in parts[0]] == [path.read_bytes() for path in parts[1]]
    with pytest.raises(ValueError, match="in threads or in processes: choose one"):
        annotator.batch(drawn_scenes / "images", tmp_path / "x", threads=2, processes=2)
    with pytest.raises(ValueError, match="processes is -1"):
        annotator.batch(drawn_scenes / "images", tmp_path / "x", processes=-1)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux for the resident memory")
@pytest.mark.parametrize("processes", [False, True])
def test_many_decodes_keep_no_memory(tmp_path: Path, processes: bool) -> None:
    """``benchmarks/prove_decode_memory.py`` in short: every kind of file, good and bad, over and over."""
    paths = list(write_hostile_images(tmp_path, [name for name in (*DECODES, *FAILS) if name != "jpeg with corrupt exif"]).values())
    inputs = [Input(str(path), "file", str(path)) for path in paths]
    batches = ([(item.name, item) for item in inputs] for _ in range(40))
    resident = []
    for _ in decode_ahead(batches, size=64, workers=1, interpolation="bicubic", processes=processes):
        pages = [Path(f"/proc/{process}/statm").read_text().split()[1] for process in ("self", *children())]
        resident.append(sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE"))
    assert len(resident) == 40
    # 30 rounds of 36 files: keeping one decoded image of 64 × 64 a file would be 13 MB.
    assert max(resident[10:]) - max(resident[5:10]) < 6_000_000, resident
