"""Dask workers: the bytes and bits of one process, whoever is killed and whenever, and clear errors where there is no going on."""

from __future__ import annotations

import gc
import ipaddress
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import PART, files, ledger
from typer.testing import CliRunner
from workers import SMALL, beside, processes, wait_until

from gpuannot import Annotator
from gpuannot.cli.main import app
from gpuannot.errors import ClusterError, DataError, OutputError, TooManyFailuresError, WeightsError
from gpuannot.jobs.cluster import Cluster, ClusterTask, check_options, connect
from gpuannot.method.weights import load_weights

distributed = pytest.importorskip("distributed")

CPU = torch.device("cpu")


@pytest.fixture
def cluster(scheduler: str) -> Iterator[Cluster]:
    with connect(None, scheduler, CPU) as cluster:
        yield cluster


# ---- annotating


@pytest.mark.parametrize(("format", "vectors"), [("parquet", False), ("csv", True)])
def test_the_bytes_of_one_process(
    fitted: Annotator, mixed: list[str], scheduler: str, tmp_path: Path, format: str, vectors: bool
) -> None:
    options: dict[str, Any] = {"part_size": PART, "format": format, "vectors": vectors}
    fitted.batch(mixed, tmp_path / "one", **options)
    summary = fitted.batch(mixed, tmp_path / "out", scheduler=scheduler, **options)
    assert files(tmp_path / "out") == files(tmp_path / "one")
    assert (summary.inputs, summary.rows, summary.failures, summary.parts, summary.workers) == (29, 24, 5, 5, 2)
    assert summary.threads == 2 and min(summary.stages.values()) > 0 and summary.peak_memory_bytes > 10**8
    again = fitted.batch(mixed, tmp_path / "out", scheduler="tcp://127.0.0.1:1", resume=True, **options)
    assert (again.parts_before, again.workers, again.limited_by) == (5, 0, None)  # nobody was needed


def test_own_workers_and_relative_paths(
    fitted: Annotator, pictures: Path, scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers that were started in another folder read the same files, and nothing else is left."""
    shutil.copytree(pictures, tmp_path / "in")
    (tmp_path / "list.txt").write_text("in/scene_00001.jpg\nin/gone.jpg\n")
    monkeypatch.chdir(tmp_path)
    sources = ["in", "list.txt", "in/nowhere.jpg"]
    before = dict(os.environ)
    fitted.batch(sources, "one", part_size=PART)
    for name, options in (("out", {"scheduler": scheduler}), ("own", {"workers": 2, "threads": 3})):
        summary = fitted.batch(sources, name, part_size=PART, **options)
        assert files(Path(name)) == files(Path("one")) and summary.failures == 2 and len(ledger(Path(name))) == 2
    assert summary.workers == 2 and summary.threads == 6
    assert os.environ == before


@pytest.mark.parametrize("seed", [0, 1])
def test_a_worker_killed_at_random_moments(
    fitted: Annotator, pictures: Path, local: Any, scheduler: str, tmp_path: Path, seed: int
) -> None:
    (tmp_path / "list.txt").write_text(f"{pictures}/scene_00000.jpg\n{pictures}/gone.jpg\n{pictures}/scene_00001.jpg\n" * 150)
    chance, out, killed = random.Random(seed), tmp_path / "out", []
    fitted.batch(tmp_path / "list.txt", tmp_path / "one", part_size=10)
    done = out / "_gpuannot" / "done"

    def kill() -> None:
        for share in sorted(chance.sample(range(1, 35), 2)):
            wait_until(lambda share=share: len(list(done.glob("*.json"))) >= share)  # type: ignore[misc]
            time.sleep(chance.uniform(0, 0.05))
            killed.append(chance.choice(sorted(processes(local).values())))
            os.kill(killed[-1], signal.SIGKILL)

    with beside(kill):
        summary = fitted.batch(tmp_path / "list.txt", out, part_size=10, scheduler=scheduler)
    assert len(killed) == 2 and (summary.rows, summary.failures, summary.parts) == (300, 150, 45)
    assert files(out) == files(tmp_path / "one")


def test_a_part_that_workers_die_of_is_an_error(
    fitted: Annotator, pictures: Path, local: Any, scheduler: str, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text(f"{pictures}/scene_00000.jpg\n" * 3000)
    client = distributed.Client(local, set_as_default=False)
    deaths: list[str] = []

    def kill() -> None:
        numbers = processes(local)
        while len(deaths) < 2:
            at_work = [address for address, keys in client.processing().items() if keys and address not in deaths]
            for address in at_work:
                numbers = numbers if address in numbers else processes(local)
                time.sleep(0.1)
                os.kill(numbers[address], signal.SIGKILL)
                deaths.append(address)

    allowed = local.scheduler.allowed_failures
    local.scheduler.allowed_failures = 1
    try:
        with client, beside(kill), pytest.raises(ClusterError) as error:
            fitted.batch(tmp_path / "list.txt", tmp_path / "out", part_size=10**4, scheduler=scheduler)
    finally:
        local.scheduler.allowed_failures = allowed
    assert "part-00000.parquet, inputs '" in str(error.value) and "scene_00000.jpg': 2 workers died while they did" in str(
        error.value
    )
    assert deaths[1] in str(error.value)
    assert not list((tmp_path / "out").rglob("*.part*")) and not list((tmp_path / "out").glob("part*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_run_that_is_stopped_takes_its_workers_along(
    fitted: Annotator, pictures: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    model = fitted.save(tmp_path / "m.safetensors")
    (tmp_path / "list.txt").write_text(f"{pictures}/scene_00000.jpg\n{pictures}/gone.jpg\n" * 200)
    out = tmp_path / "out"
    arguments = ["annotate", str(model), str(tmp_path / "list.txt"), "-o", str(out), "--part-size", "10", "--device", "cpu"]
    command = [sys.executable, "-m", "gpuannot", *arguments, "--workers", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        wait_until(lambda: len(list((out / "_gpuannot" / "done").glob("*.json"))) >= 2)
        os.killpg(process.pid, signal.SIGINT) if number == signal.SIGINT else process.kill()  # Ctrl-C goes to all of a terminal's
        _, stderr = process.communicate(timeout=60)
    whole = len(list((out / "_gpuannot" / "done").glob("*.json")))
    assert process.returncode == code and 2 <= whole < 40, stderr
    if number == signal.SIGINT:
        assert "Traceback" not in stderr and f"{out}: {whole} of 40 parts are whole; go on with --resume\nstopped\n" in stderr, (
            stderr
        )
        assert not list(out.rglob("*.part*"))
    wait_until(lambda: not left_of(process.pid), 15)
    resumed = CliRunner().invoke(app, [*arguments, "--resume"])
    assert resumed.exit_code == 1 and f"40 parts, {whole} of them from before" in resumed.stderr
    fitted.batch(tmp_path / "list.txt", tmp_path / "one", part_size=10)
    assert files(out) == files(tmp_path / "one")


def left_of(session: int) -> list[str]:
    """Processes of a session that live."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(path.parent.name)
    return found


def test_too_many_failures(
    fitted: Annotator, mixed: list[str], undisturbed: dict[str, bytes], scheduler: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(TooManyFailuresError, match=r"[23] inputs failed, and at most 1 may"):
        fitted.batch(mixed, out, part_size=PART, scheduler=scheduler, max_failures=1)
    left = files(out)
    assert left.items() <= undisturbed.items()
    assert fitted.batch(mixed, out, part_size=PART, scheduler=scheduler, resume=True, max_failures=5).failures == 5
    assert files(out) == undisturbed


def test_a_full_disk(fitted: Annotator, mixed: list[str], scheduler: str, small_disk: Path, tmp_path: Path) -> None:
    out = small_disk / "out"
    options: dict[str, Any] = {"part_size": PART, "vectors": True, "scheduler": scheduler}
    (small_disk / "room").write_bytes(b"x" * 60_000)  # for the model and the list of inputs, and a part or two
    with open(small_disk / "filler", "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"x" * 4096)
    (small_disk / "room").unlink()
    with pytest.raises(OutputError, match=r"cannot write to .*/out \(No space left on device\); .* go on with --resume"):
        fitted.batch(mixed, out, **options)
    assert not list(out.rglob("*.part*"))
    (small_disk / "filler").unlink()
    fitted.batch(mixed, tmp_path / "one", part_size=PART, vectors=True)
    assert fitted.batch(mixed, out, resume=True, **options).rows == 24
    assert files(out) == files(tmp_path / "one")
    with connect(None, scheduler, CPU) as cluster:
        cluster.on_each(gc.collect)  # or files of the error may still be open when the disk is taken away


def test_a_disk_that_cannot_be_written(
    fitted: Annotator, mixed: list[str], undisturbed: dict[str, bytes], scheduler: str, small_disk: Path
) -> None:
    out = small_disk / "out"
    fitted.batch(mixed, out, part_size=PART, scheduler=scheduler)
    (out / "part-00001.parquet").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OutputError, match=r"cannot write .* \(Read-only file system\)"):
        fitted.batch(mixed, out, part_size=PART, scheduler=scheduler, resume=True)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    fitted.batch(mixed, out, part_size=PART, scheduler=scheduler, resume=True)
    assert files(out) == undisturbed


def test_a_worker_that_sees_another_folder(fitted: Annotator, mixed: list[str], small_disk: Path, tmp_path: Path) -> None:
    """A worker in a file system of its own, as on another machine; the output's path is there, and is another folder."""
    enter = ["unshare", "--mount", "sh", "-c", 'umount "$0" && exec "$@"', str(small_disk)]
    if not shutil.which("unshare") or subprocess.run([*enter, "true"], capture_output=True, check=False).returncode:
        pytest.skip("may not give a process another file system here")
    shutil.copytree(mixed[0], small_disk / "in")
    with distributed.LocalCluster(n_workers=0, dashboard_address=":0", silence_logs=50) as empty:
        address = empty.scheduler_address
        command = [
            *enter,
            sys.executable,
            "-m",
            "distributed.cli.dask_worker",
            address,
            "--local-directory",
            str(tmp_path / "local"),
        ]
        worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with distributed.Client(empty, set_as_default=False) as client:
                client.wait_for_workers(1, timeout=60)
            with pytest.raises(ClusterError, match=r"the worker at tcp://.* has another folder, or none, at .*/disk/out: "):
                fitted.batch(mixed, small_disk / "out", part_size=PART, scheduler=address)
            with pytest.raises(ClusterError, match=r"the worker at tcp://.* cannot read .*/in/scene_00000\.jpg; inputs must be"):
                fitted.batch(small_disk / "in", tmp_path / "out", part_size=PART, scheduler=address)
        finally:
            worker.terminate()
            worker.wait(timeout=30)
    assert not list((tmp_path / "out").glob("part*")) and not list((small_disk / "out").glob("part*"))


# ---- clusters that are none


def test_a_scheduler_that_does_not_answer(
    fitted: Annotator, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        addresses = ["tcp://127.0.0.1:1", f"tcp://127.0.0.1:{silent.getsockname()[1]}", "what://ever", "nonsense", ""]
        for address in addresses:
            if address != addresses[0]:  # one at the full patience
                monkeypatch.setattr("gpuannot.jobs.cluster._CONNECT_SECONDS", 1)
            start = time.monotonic()
            with pytest.raises(ClusterError, match=r"no Dask scheduler answers at .*; start one with 'dask scheduler'"):
                fitted.batch(pictures, tmp_path / "out", scheduler=address, overwrite=True)
            assert time.monotonic() - start < 15
    assert fitted.batch(pictures, tmp_path / "out", resume=True).rows == 24


def test_a_scheduler_without_workers(fitted: Annotator, pictures: Path, tmp_path: Path) -> None:
    with distributed.LocalCluster(n_workers=0, dashboard_address=":0", silence_logs=50) as empty:
        for call in (
            lambda: fitted.batch(pictures, tmp_path / "out", scheduler=empty.scheduler_address),
            lambda: Annotator(device="cpu", **SMALL).fit(pictures, [["a"]] * 24, scheduler=empty.scheduler_address),
        ):
            with pytest.raises(ClusterError, match=r"has no workers; start some with 'dask worker tcp://"):
                call()


def test_wrong_options(fitted: Annotator, pictures: Path, tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"workers": 0}, "workers is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"workers": 2, "scheduler": "tcp://a:1"}, "choose one"),
    ]
    for options, message in wrong:
        with pytest.raises(ValueError, match=message):
            fitted.batch(pictures, tmp_path / "out", **options)
        with pytest.raises(ValueError, match=message):
            Annotator(device="cpu", **SMALL).fit(pictures, [["a"]] * 24, **options)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ClusterError, match="9 workers need a GPU each, this machine has"), connect(9, None, torch.device("cuda")):
        pass


def listening() -> set[tuple[str, int]]:
    """Addresses at which this process and those that it started wait for connections."""
    import psutil

    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = [at for each in processes for at in each.net_connections("inet") if at.status == psutil.CONN_LISTEN]
    return {(at.laddr.ip, at.laddr.port) for at in found}


def test_own_workers_listen_on_this_machine_alone() -> None:
    """And only to those that have the run's key: a stranger is shown the door before it can say anything. Nothing speaks HTTP."""
    before = listening()
    with connect(1, None, CPU) as cluster:
        assert cluster.on_each(os.getpid)
        new = sorted(listening() - before)
        assert len(new) == 3 and all(ipaddress.ip_address(address).is_loopback for address, _ in new)  # scheduler, nanny, worker
        stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
        for address in new:
            with (
                pytest.raises(OSError),
                socket.create_connection(address, timeout=10) as plain,
                stranger.wrap_socket(plain) as secure,
            ):
                secure.sendall(b"GET / HTTP/1.0\r\n\r\n")
                if not secure.recv(1):
                    raise ConnectionError


def test_the_dashboard_is_on_this_machine_alone(capfd: pytest.CaptureFixture[str]) -> None:
    before = listening()
    with connect(1, None, CPU, dashboard=True) as cluster:
        assert cluster.threads()
        assert all(ipaddress.ip_address(address).is_loopback for address, _ in listening() - before)
    assert re.fullmatch(r"dashboard: http://127\.0\.0\.1:\d+/status\n", capfd.readouterr().err)
    with pytest.raises(ValueError, match="the dashboard is that of workers on this machine"):
        check_options(None, "tcp://127.0.0.1:1", "vgg16", dashboard=True)


@pytest.mark.parametrize(
    ("task", "kind", "message"),
    [
        (
            ClusterTask(lambda: "part 7", int, ("no",)),
            ValueError,
            r"^invalid literal",
        ),  # a bug, which must not look like a user's error
        (ClusterTask(lambda: "part 7", os.listdir, ("/no/where",)), ClusterError, r"^part 7: .*'/no/where'"),
        (ClusterTask(lambda: "part 7", {}.__getitem__, (3,)), KeyError, "3"),
    ],
)
def test_what_goes_wrong_on_a_worker_says_where(cluster: Cluster, task: ClusterTask, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as error, closing(cluster.results([task])) as results:
        list(results)
    if kind is not ClusterError:
        assert error.value.__notes__ == ["This was raised on a worker: part 7."]


def test_trunk_weights_that_a_worker_lacks(pictures: Path, scheduler: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weights = load_weights()
    save_file({name: tensor.to(torch.float16) for name, tensor in weights.tensors.items()}, tmp_path / "w.safetensors")
    made = Annotator(device="cpu", weights=str(tmp_path / "w.safetensors"), weights_convention="torchvision", **SMALL)
    made.fit(pictures, [["a"], ["b"]] * 12, progress=False)
    (tmp_path / "w.safetensors").unlink()
    for call in (
        lambda: made.batch(pictures, tmp_path / "out", 1, scheduler=scheduler),
        lambda: made.fit(pictures, [["a"], ["b"]] * 12, scheduler=scheduler),
    ):
        with pytest.raises(WeightsError, match=r"w\.safetensors: no such file of trunk weights"):
            call()


# ---- fitting


# All images teach everything; few do, drawn from all partitions; a batch size that does not divide a partition.
SETTINGS: list[dict[str, Any]] = [{}, {"statistics_images": 200, "batch_size": 7, "signed_sqrt": True, "l2": True}]


@pytest.fixture(scope="module", params=range(len(SETTINGS)))
def alone(request: pytest.FixtureRequest, learning: tuple[list[Any], list[list[str]]]) -> Annotator:
    """What one process fits."""
    made = Annotator(device="cpu", **{**SMALL, **SETTINGS[request.param]})
    with pytest.warns(UserWarning, match="3 of 624 images could not be read"):
        return made.fit(*learning, progress=False)


def assert_same_fit(alone: Annotator, learning: tuple[list[Any], list[list[str]]], **options: Any) -> None:
    made = Annotator(alone.config, device="cpu")
    with pytest.warns(UserWarning, match="3 of 624 images could not be read"):
        made.fit(*learning, progress=False, **options)
    assert made.failures_ == alone.failures_ and len(made.failures_) == 3
    assert made.to_model_file().sha256 == alone.to_model_file().sha256


def test_the_bits_of_one_process(alone: Annotator, learning: tuple[list[Any], list[list[str]]], local: Any, scheduler: str) -> None:
    assert_same_fit(alone, learning, scheduler=scheduler)
    with distributed.Client(local, set_as_default=False) as client:
        folders = client.run(lambda dask_worker: os.listdir(dask_worker.local_directory))
    assert not [name for names in folders.values() for name in names if name.startswith("gpuannot")]


def test_the_bits_of_one_worker(alone: Annotator, learning: tuple[list[Any], list[list[str]]]) -> None:
    assert_same_fit(alone, learning, workers=1)


@pytest.mark.parametrize("alone", [1], indirect=True)
@pytest.mark.parametrize("step", ["feature_sums", "descriptors_at", "word_sums"])
def test_a_worker_killed_in_a_fit(
    alone: Annotator, learning: tuple[list[Any], list[list[str]]], local: Any, scheduler: str, step: str
) -> None:
    """In each step: what it had is computed again."""
    numbers, killed = processes(local), []

    def kill() -> None:
        with distributed.Client(local, set_as_default=False) as client:
            while not killed:
                for address, keys in client.processing().items():
                    if not killed and any(str(key).startswith(f"{step}-") for key in keys):
                        killed.append(address)
                        os.kill(numbers[address], signal.SIGKILL)

    with beside(kill):
        assert_same_fit(alone, learning, scheduler=scheduler)
    assert killed


def test_fit_on_the_command_line(drawn_scenes: Path, scheduler: str, tmp_path: Path) -> None:
    options = [
        "--set",
        "layer=pool1",
        "--set",
        "input_size=16",
        "--set",
        "n_components=8",
        "--set",
        "n_centers=4",
        "--device",
        "cpu",
    ]
    for name, more in (("one.safetensors", []), ("cluster.safetensors", ["--scheduler", scheduler])):
        result = CliRunner().invoke(app, ["fit", str(drawn_scenes), "-o", str(tmp_path / name), *options, *more])
        assert result.exit_code == 0, result.stderr
    model = tmp_path / "one.safetensors"
    assert model.read_bytes() == (tmp_path / "cluster.safetensors").read_bytes()
    printed = CliRunner().invoke(app, ["annotate", str(model), str(drawn_scenes / "images"), "--workers", "2"])
    assert printed.exit_code == 2 and "--workers needs a folder for the output" in printed.stderr


def test_nothing_to_learn_from(scheduler: str, tmp_path: Path, fitted: Annotator) -> None:
    made = Annotator(device="cpu", **SMALL)
    with pytest.raises(DataError, match=r"not one of 2 images could be read; the first: .*a\.jpg: no such file"):
        made.fit([tmp_path / "a.jpg", tmp_path / "b.jpg"], [["a"], ["b"]], scheduler=scheduler)
    assert len(made.failures_) == 2 and not hasattr(made, "bank_")


def test_too_few_descriptors(scheduler: str) -> None:
    made = Annotator(device="cpu", **{**SMALL, "n_components": 65})
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="n_components = 65 is more than"):
        made.fit(images, [["a"]] * 4, scheduler=scheduler)
