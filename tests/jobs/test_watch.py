"""A watched folder: real processes, real kills."""

from __future__ import annotations

import ctypes
import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from runs import CHANGES
from watchfiles import watch
from workers import wait_until

from gpuannot import Annotator
from gpuannot.datasets import LabelledImages
from gpuannot.errors import DataError, OutputError
from gpuannot.images.input import utf8
from gpuannot.images.inputs import Inputs
from gpuannot.images.xmp import Packet
from gpuannot.jobs.journal import Journal
from gpuannot.jobs.watch import Arrivals, watch_folder
from gpuannot.jobs.writers import TagWriter

FILES = int(os.environ.get("GPUANNOT_WATCH_FILES") or 60)
KILLS = 5


@pytest.fixture(scope="module")
def model(scenes: LabelledImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    annotator = Annotator(device="cpu", **CHANGES).fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary, progress=False)
    return annotator.save(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Processes that need not import torch each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gpuannot.cli.main", "gpuannot.annotator", "gpuannot.jobs.watch", "lxml.etree"])
    return context


def command(arguments: list[str], log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from gpuannot.cli.main import app

    app(arguments)


@pytest.fixture
def watching(model: Path, processes: ForkServerContext, tmp_path: Path) -> Iterator[Callable[[], BaseProcess]]:
    """Starts ``gpuannot watch`` on ``inbox`` with sidecars, and ends what is left of it."""
    (tmp_path / "inbox").mkdir()
    arguments = ["watch", str(model), "inbox", "-o", "words.jsonl", "--format", "xmp", "--settle", "0.2", "-k", "2"]
    started: list[BaseProcess] = []

    def start() -> BaseProcess:
        started.append(processes.Process(target=command, args=(arguments, str(tmp_path / "log"))))
        started[-1].start()
        return started[-1]

    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        yield start
    finally:
        os.chdir(before)
        for process in started:
            process.kill()
            process.join()


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_each_file_is_tagged_once_whatever_is_killed(
    watching: Callable[[], BaseProcess], scenes: LabelledImages, tmp_path: Path
) -> None:
    inbox, journal, chance = tmp_path / "inbox", tmp_path / "words.jsonl", random.Random(0)

    def arrive() -> None:
        for number in range(FILES):
            folder = inbox / ("deeper.1" if number % 7 == 3 else ".")
            folder.mkdir(exist_ok=True)
            content = scenes.paths[number % len(scenes)].read_bytes()
            with open(folder / f"{number}.jpg", "wb") as file:
                file.write(content[:700])  # half of it, and the rest a little later
                file.flush()
                time.sleep(0.02 if number % 20 else 0.3)
                file.write(content[700:])

    arriving = threading.Thread(target=arrive)
    arriving.start()
    for kill in range(KILLS):
        process = watching()
        enough = FILES * (kill + 1) // (KILLS + 2)
        wait_until(lambda enough=enough: len(rows_there(journal)) >= enough, 120)  # type: ignore[misc]
        time.sleep(chance.random() * 0.2)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    with open(journal, "ab") as file:
        file.write(b'{"path": "inbox/half')  # what a power cut may leave of a row
    told = (tmp_path / "log").stat().st_size
    process = watching()
    arriving.join()
    # Before it says so, it does not listen for SIGTERM, and all rows may be there already.
    wait_until(lambda: "watching" in (tmp_path / "log").read_text()[told:] and len(rows_there(journal)) >= FILES, 120)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 0, (tmp_path / "log").read_text()

    images = sorted(str(path.relative_to(tmp_path)) for path in inbox.rglob("*.jpg"))
    found = rows(journal)
    assert len(images) == FILES and sorted(row["path"] for row in found) == images
    for row in found:
        packet = Packet((tmp_path / row["path"]).with_suffix(".xmp").read_bytes())
        assert list(packet.keywords().flat) == row["words"] == list(packet.marker().words) and packet.marker().model == row["model"]
    assert not (tmp_path / "words.jsonl.failures.jsonl").exists() and "; stopped" in (tmp_path / "log").read_text()


def rows_there(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []


def test_what_fails_is_tried_again(watching: Callable[[], BaseProcess], scenes: LabelledImages, tmp_path: Path) -> None:
    inbox, ledger = tmp_path / "inbox", tmp_path / "words.jsonl.failures.jsonl"
    shutil.copy(scenes.paths[0], inbox / "good.jpg")
    shutil.copy(scenes.paths[1], inbox / "kept.jpg")
    (inbox / "kept.xmp").write_text("<html/>")
    (inbox / "slow.jpg").write_bytes(scenes.paths[2].read_bytes()[:500])  # a copy that takes a pause
    process = watching()
    wait_until(lambda: len(rows(ledger)) == 2)
    assert {(row["path"], row["stage"]) for row in rows(ledger)} == {("inbox/kept.jpg", "write"), ("inbox/slow.jpg", "decode")}
    shutil.copy(scenes.paths[2], inbox / "slow.jpg")
    wait_until(lambda: len(rows(ledger)) == 1)
    (inbox / "kept.xmp").unlink()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 0
    process = watching()  # the next start tries the rest
    wait_until(lambda: not ledger.exists())
    assert sorted(row["path"] for row in rows(tmp_path / "words.jsonl")) == ["inbox/good.jpg", "inbox/kept.jpg", "inbox/slow.jpg"]


def test_a_file_is_taken_once_it_stays_as_it_is(tmp_path: Path) -> None:
    with Journal(tmp_path / "words.jsonl", "m") as journal:
        arrivals = Arrivals(Inputs(tmp_path), journal, settle=0.1)
        odd = os.fsdecode(b"a\xff.jpg")
        (tmp_path / odd).write_bytes(b"1")
        (tmp_path / "a.jpg").write_bytes(b"1")
        assert arrivals.look() == [] and arrivals.waiting == 2
        (tmp_path / "a.jpg").write_bytes(b"12")
        time.sleep(0.15)
        assert [Path(item.place).name for item in arrivals.look()] == [odd]  # the other has grown since
        arrivals.failed(utf8(str(tmp_path / odd)))
        time.sleep(0.15)
        assert [Path(item.place).name for item in arrivals.look()] == ["a.jpg"]
        arrivals.failed(str(tmp_path / "a.jpg"))
        assert arrivals.look() == [] and arrivals.waiting == 0
        journal.add([{"path": str(tmp_path / "a.jpg"), "words": [], "model": "m"}])
        (tmp_path / "a.jpg").write_bytes(b"another")
        assert arrivals.look() == [] and arrivals.waiting == 0  # done, whatever becomes of it


def test_a_journal_is_of_one_model_and_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "words.jsonl"
    with Journal(path, "m") as journal:
        journal.add([{"path": "a", "words": ["sky"], "model": "m"}])
        with pytest.raises(OutputError, match="another run is writing"), Journal(path, "m"):
            pass
    path.write_bytes(path.read_bytes() + b'{"path": "b", "wor')
    with Journal(path, "m") as journal:
        assert "a" in journal and "b" not in journal and len(journal) == 1
        journal.add([{"path": "b", "words": [], "model": "m"}])
    assert [row["path"] for row in rows(path)] == ["a", "b"]
    with pytest.raises(DataError, match="rows of another model"), Journal(path, "n"):
        pass
    with pytest.raises(DataError, match=r"call it .*words.jsonl"):
        Journal(tmp_path / "words.csv", "m")


ROW = b'{"path": "a", "words": ["sky"], "model": "m"}'


@pytest.mark.parametrize(
    "content",
    [
        b'{"image":"a.jpg"}',
        b'{"image":"a.jp',
        b"a note",
        b"7",
        b'{"image": "a.jpg"}\n{"image": "b.jpg"}',
        ROW.replace(b'"m"', b'"n"'),
        ROW + b"\n" + ROW.replace(b'"m"', b'"n"'),
        ROW + b"\n" + b'{"image": "b.jpg"}',
    ],
)
def test_what_is_no_journal_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "words.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"words\.jsonl"), Journal(path, "m"):
        pass
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("left", "rows"), [(b"", 0), (ROW[:1], 0), (ROW[:20], 0), (ROW + b"\n" + ROW[:1], 1), (ROW + b"\n\0\0", 1)]
)
def test_what_a_killed_writer_left_of_a_row_is_cut(tmp_path: Path, left: bytes, rows: int) -> None:
    path = tmp_path / "words.jsonl"
    path.write_bytes(left)
    with Journal(path, "m") as journal:
        assert len(journal) == rows
        journal.add([{"path": "b", "words": [], "model": "m"}])
    assert len(path.read_bytes().splitlines()) == rows + 1 and path.read_bytes().startswith((ROW + b"\n") * rows + b'{"path": "b"')


@contextmanager
def no_inotify() -> Iterator[None]:
    """The user's last instance of inotify is taken, as on a machine where editors and servers have them all."""
    libc, taken = ctypes.CDLL(None, use_errno=True), []
    try:
        while (descriptor := libc.inotify_init1(os.O_CLOEXEC)) >= 0:
            taken.append(descriptor)
            if len(taken) == 1024:
                pytest.skip("this user may have more than 1024 instances of inotify")
        assert ctypes.get_errno() == errno.EMFILE
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)


@contextmanager
def polled_by_watchfiles() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("WATCHFILES_FORCE_POLLING", "true")
        patched.setenv("WATCHFILES_POLL_DELAY_MS", "50")
        yield


@pytest.mark.parametrize("without_events", [no_inotify, polled_by_watchfiles])
def test_where_the_system_tells_of_no_changes(
    without_events: Callable[[], AbstractContextManager[None]], model: Path, scenes: LabelledImages, tmp_path: Path
) -> None:
    """Files that are there and files that arrive, half and then whole, get one row and one sidecar each; and it stops when told."""
    if not sys.platform.startswith("linux"):
        pytest.skip("inotify is Linux's")
    inbox, journal, stop, told = tmp_path / "inbox", tmp_path / "words.jsonl", threading.Event(), list[int]()
    (inbox / "deeper").mkdir(parents=True)
    shutil.copy(scenes.paths[0], inbox / "0.jpg")
    words = Annotator.load(model, device="cpu").words
    with without_events(), Journal(journal, "m") as rows_of:
        if without_events is no_inotify:
            with pytest.raises((OSError, RuntimeError), match="Too many open files"):
                next(watch(inbox))
        options: dict[str, Any] = {"tags": TagWriter("xmp", model_sha256="m"), "settle": 0.1}
        options["tell"] = lambda done, failures: told.append(done)
        watching = threading.Thread(target=watch_folder, args=(words, inbox, rows_of, 2), kwargs={"stop": stop, **options})
        watching.start()
        try:
            wait_until(lambda: len(rows_there(journal)) == 1)
            for number in range(1, 12):
                content, place = scenes.paths[number].read_bytes(), inbox / ("deeper" if number % 3 else ".") / f"{number}.jpg"
                place.write_bytes(content[:700])
                time.sleep(0.03)
                place.write_bytes(content)
            wait_until(lambda: len(rows_there(journal)) == 12)
            (inbox / "0.jpg").touch()  # done, and not again
            time.sleep(0.5)
        finally:
            began = time.monotonic()
            stop.set()
            watching.join(60)
        assert not watching.is_alive() and time.monotonic() - began < 5
    images = sorted(str(path) for path in inbox.rglob("*.jpg"))
    assert sorted(row["path"] for row in rows(journal)) == images and len(images) == 12
    assert told[0] == 1 and told[-1] == 12 and told == sorted(set(told))
    for row in rows(journal):
        assert list(Packet(Path(row["path"]).with_suffix(".xmp").read_bytes()).keywords().flat) == row["words"]
