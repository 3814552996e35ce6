"""Batch annotation: every input accounted for, the same bytes however often a run was stopped, one clear error where it cannot."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hostile_images import DECODES, FAILS, write_hostile_images
from runs import BATCH, PART, SUFFIXES, files, ledger, read
from tars import write_tar

from gpuannot import Annotations, Annotator, Inputs
from gpuannot.errors import DataError, NotFittedError, OutputError, TooManyFailuresError
from gpuannot.images import decode_task as decoding
from gpuannot.images.batches import ImageFailure
from gpuannot.jobs.input_list import InputList, in_parts
from gpuannot.jobs.part_folder import PartFolder
from gpuannot.jobs.part_writer import PartWriter
from gpuannot.jobs.pipeline import annotate_parts, limiting_stage
from gpuannot.model.encoder import Encoder
from gpuannot.model.word_model import WordModel
from gpuannot.system.timing import StageTimer

# ---- what is written


@pytest.mark.parametrize("format", SUFFIXES)
def test_rows_are_those_of_annotate(fitted: Annotator, pictures: Path, tmp_path: Path, format: str) -> None:
    out = tmp_path / "out"
    summary = fitted.batch(pictures, out, 3, format=format, part_size=PART, vectors=True)
    paths = sorted(pictures.iterdir())
    parts = [paths[start : start + PART] for start in range(0, len(paths), PART)]  # the last bits differ with the size of a batch
    expected = Annotations.joined([fitted.annotate(part, 3) for part in parts], fitted.vocabulary, 3)
    vectors = np.concatenate([fitted.encoder.encode(part)[1] for part in parts])
    rows, model = read(out), fitted.to_model_file().sha256
    assert [row["path"] for row in rows] == list(expected.names) and {row["model"] for row in rows} == {model}
    if format == "csv":
        words = [";".join(word.replace(";", "\\;") for word in words) for words in expected.words]
        assert [row["words"] for row in rows] == words and any("sea\\; calm" in cell for cell in words)
        found = [[float(value) for value in row["vector"].split(";")] for row in rows]
    else:
        assert [tuple(row["words"]) for row in rows] == expected.words
        np.testing.assert_allclose([row["distances"] for row in rows], expected.distance, rtol=1e-5, atol=1e-6)
        found = [row["vector"] for row in rows]
    assert np.array(found, np.float32).tobytes() == vectors.tobytes()
    assert sorted(path.name for path in out.glob("part-*")) == [f"part-0000{part}.{format}" for part in range(4)]
    assert (summary.inputs, summary.rows, summary.failures, summary.parts, summary.parts_before) == (24, 24, 0, 4, 0)
    written = json.loads((out / "_summary.json").read_text())
    assert written == summary.to_dict() and written["limited_by"] in ("read", "decode", "trunk", "write")
    assert set(written["stages"]) == {"find", "read", "decode", "trunk", "write"} and min(written["stages"].values()) > 0


@pytest.mark.parametrize("count", [1, 3, BATCH, PART - 1, PART, PART + 1, 2 * PART, 2 * PART + 1])
def test_sizes_at_which_parts_and_batches_end(fitted: Annotator, pictures: Path, tmp_path: Path, count: int) -> None:
    paths = sorted(pictures.iterdir())[:count]
    summary = fitted.batch(paths, tmp_path / "out", part_size=PART)
    assert [row["path"] for row in read(tmp_path / "out")] == [str(path) for path in paths]
    assert (summary.inputs, summary.parts) == (count, -(-count // PART))
    sizes = [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "out").glob("*.parquet"))]
    assert sizes == [PART] * (count // PART) + [count % PART] * (count % PART > 0)


def test_no_inputs_are_an_error(fitted: Annotator, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n\n")
    for source in ([], tmp_path / "list.txt"):
        with pytest.raises(DataError, match="there are no inputs"):
            fitted.batch(source, tmp_path / "out")
        assert not list((tmp_path / "out").glob("[!_]*"))
    (tmp_path / "list.txt").write_text("gone.jpg\n")  # and the folder can be used
    assert fitted.batch(tmp_path / "list.txt", tmp_path / "out").failures == 1
    assert read(tmp_path / "out") == []


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_every_kind_of_input_is_accounted_for(fitted: Annotator, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    hostile = write_hostile_images(folder)
    scenes = [path.read_bytes() for path in sorted(pictures.iterdir())[:4]]
    write_tar(tmp_path / "s.tar", {"a.jpg": scenes[0], "a.json": b"{}", "junk.jpg": b"junk"})
    write_tar(tmp_path / "s.tar.gz", {"b.jpg": scenes[1], "none.jpg": b""})
    pq.write_table(pa.table({"image": [scenes[2], None]}), tmp_path / "t.parquet")
    (tmp_path / "list.txt").write_text(f"{pictures}/scene_00000.jpg\ngone.jpg\n")
    fsspec.filesystem("memory").pipe_file("/batch/c.jpg", scenes[3])
    sources = [folder, *(tmp_path / name for name in ("s.tar", "s.tar.gz", "t.parquet", "list.txt", "nowhere.jpg"))]
    inputs = list(Inputs([*map(str, sources), "memory://batch", "memory://batch/gone.jpg"]))
    out = tmp_path / "out"
    summary = fitted.batch([*map(str, sources), "memory://batch", "memory://batch/gone.jpg"], out, part_size=PART)
    rows, failed = read(out), ledger(out)
    assert summary.rows + summary.failures == summary.inputs == len(inputs)
    assert sorted([row["path"] for row in rows] + [row["path"] for row in failed]) == sorted(item.name for item in inputs)
    assert summary.failures == len(failed) == sum(summary.failures_by_stage.values())
    assert [row["path"] for row in failed] == [item.name for item in inputs if item.name in {row["path"] for row in failed}]
    stages = {os.path.basename(row["path"]): row["stage"] for row in failed}
    expected = {"gone.jpg": "find", "nowhere.jpg": "find", "junk.jpg": "decode", "t.parquet#1": "read"}
    assert expected.items() <= stages.items()
    in_folder = [{row["path"] for row in found if Path(row["path"]).parent == folder} for found in (rows, failed)]
    # A search passes over what has no suffix, and finds no image in a folder and in what is not there.
    assert in_folder[0] == {str(hostile[name]) for name in DECODES if name != "no suffix"}
    assert in_folder[1] == {str(hostile[name]) for name in FAILS if name not in ("folder", "missing")}
    by_name = {row["path"]: row["words"] for row in rows}
    given = [by_name[str(tmp_path / "s.tar/a.jpg")], by_name[str(tmp_path / "s.tar.gz/b.jpg")]]
    given += [by_name[str(tmp_path / "t.parquet#0")], by_name["memory:///batch/c.jpg"]]
    assert [tuple(words) for words in given] == fitted.annotate(pictures).words[:4]


def test_names_of_all_sorts(fitted: Annotator, pictures: Path, tmp_path: Path) -> None:
    weird = [
        b"a;b.jpg",
        "żółw 海.jpg".encode(),
        b"new\nline.jpg",
        b'quo"te,.jpg',
        b"caf\xe9.jpg",
        b" lead.jpg",
        b"=1+1.jpg",
        b"#5.jpg",
    ]
    folder = tmp_path / "in"
    folder.mkdir()
    for name in weird:
        shutil.copy(pictures / "scene_00000.jpg", os.path.join(os.fsencode(folder), name))
    with open(os.path.join(os.fsencode(folder), b"bad\xe9\n.jpg"), "wb") as file:
        file.write(b"junk")
    expected = sorted(os.fsdecode(name).replace("\udce9", "\\udce9") for name in weird)
    for format in SUFFIXES:
        out = tmp_path / format
        fitted.batch(folder, out, format=format, part_size=3)
        assert sorted(os.path.basename(row["path"]) for row in read(out)) == expected
        assert [os.path.basename(row["path"]) for row in ledger(out)] == ["bad\\udce9\n.jpg"]


# ---- the same bytes


@pytest.mark.parametrize("threads", [1, 5])
def test_threads_do_not_change_the_bytes(
    fitted: Annotator, mixed: list[str], undisturbed: dict[str, bytes], tmp_path: Path, threads: int
) -> None:
    fitted.batch(mixed, tmp_path / "out", part_size=PART, threads=threads)
    assert files(tmp_path / "out") == undisturbed


def test_any_worker_can_do_any_part(fitted: Annotator, mixed: list[str], undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """What a cluster does: each worker opens the folder and writes some parts; one is written twice."""
    out = tmp_path / "out"
    with pytest.raises(TooManyFailuresError):
        fitted.batch(mixed, out, part_size=PART, on_error="stop")
    for numbers in ([3, 1], [4], [1], [2, 0]):
        done = list(annotate_parts(fitted.words, PartFolder(out).open(), numbers, threads=1))
        assert sum(batch.inputs for batch in done) == sum(5 if number == 4 else PART for number in numbers)
    counts = PartFolder(out).open().finish()
    assert (counts.inputs, counts.rows, counts.failures) == (29, 24, 5)
    assert files(out) == undisturbed


# A process that forks runs and has each kill itself at one moment, so that the library is imported once. Moments are the calls that
# make something visible on the disk: before and after each. Leaves a folder for each moment, resumed to its end.
KILLS = """
import itertools, json, os, signal, sys
from pathlib import Path
import gpuannot.jobs.batch, gpuannot.system.atomic_files, gpuannot.jobs.input_list
import gpuannot.jobs.part_folder, gpuannot.jobs.writers.writer
from gpuannot import Annotator

model, outputs, sources = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
annotator = Annotator.load(model, device="cpu")
annotator.encoder.trunk

def run(out, kill_at):
    calls, publish = itertools.count(1), gpuannot.system.atomic_files.publish
    def kill():
        if next(calls) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    def publish_or_die(temporary, path):
        kill()
        publish(temporary, path)
        kill()
    for module in (gpuannot.system.atomic_files, gpuannot.jobs.writers.writer):
        module.publish = publish_or_die
    annotator.batch(sources, out, part_size=6, resume=True, progress=False)

def killed(out, kill_at):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            run(out, kill_at)
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WIFSIGNALED(status)

for moment in range(1, 1000, 3):
    if not killed(outputs / f"{moment}", moment):
        break
    assert not killed(outputs / f"{moment}", 0)
moment = 1
while killed(outputs / "often", moment):  # each run comes a little further than the one before
    moment += 1
print(moment)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_sigkill_at_any_moment_then_resume(
    fitted: Annotator, mixed: list[str], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    fitted.save(tmp_path / "m.safetensors")
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", KILLS, str(tmp_path / "m.safetensors"), str(tmp_path / "out"), json.dumps(mixed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    outputs = sorted((tmp_path / "out").iterdir())
    assert len(outputs) >= 10 and int(done.stdout) >= 6
    for out in outputs:
        assert files(out) == undisturbed, out.name


def test_a_stop_half_way_leaves_whole_parts_and_nothing_else(
    fitted: Annotator, mixed: list[str], undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the trunk of each batch in turn."""
    out, encode = tmp_path / "out", Encoder.encode_tensor
    for stop_at in range(9):
        calls = iter(range(100))

        def interrupted(self: Encoder, images: Any, calls: Iterator[int] = calls, stop_at: int = stop_at) -> Any:
            if next(calls) == stop_at:
                raise KeyboardInterrupt
            return encode(self, images)

        monkeypatch.setattr(Encoder, "encode_tensor", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fitted.batch(mixed, out, part_size=PART, overwrite=True)
        whole, parts = PartFolder(out).progress()
        assert parts == 5 and whole <= stop_at
        left = files(out)
        assert left.items() <= undisturbed.items()
        assert sorted(name for name in left if name.startswith("part-")) == [f"part-0000{part}.parquet" for part in range(whole)]
        monkeypatch.undo()
        summary = fitted.batch(mixed, out, part_size=PART, resume=True)
        assert summary.parts_before == whole and files(out) == undisturbed


def test_resume_makes_good_what_was_lost_or_damaged(
    fitted: Annotator, mixed: list[str], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    fitted.batch(mixed, out, part_size=PART, resume=True)  # nothing to go on with: starts
    (out / "part-00000.parquet").unlink()
    (out / "_failures" / "part-00001.jsonl").write_text("")
    with open(out / "part-00002.parquet", "r+b") as file:
        file.seek(40)
        file.write(b"?")
    (out / "_gpuannot" / "done" / "00003.json").write_text('{"inputs": ')
    (out / ".part-00004.parquet.1-ab.part").write_text("left by a killed run")
    summary = fitted.batch(mixed, out, part_size=PART, resume=True)
    assert summary.parts_before == 1 and files(out) == undisturbed
    again = fitted.batch(mixed, out, part_size=PART, resume=True)
    assert (again.parts_before, again.rows, again.failures, again.limited_by) == (5, 24, 5, None)
    assert files(out) == undisturbed


def test_vectors_and_other_formats_are_resumed_too(fitted: Annotator, mixed: list[str], tmp_path: Path) -> None:
    for format in ("csv", "jsonl"):
        out = tmp_path / format
        fitted.batch(mixed, out, format=format, part_size=PART, vectors=True)
        before = files(out)
        (out / f"part-00002.{format}").unlink()
        fitted.batch(mixed, out, format=format, part_size=PART, vectors=True, resume=True)
        assert files(out) == before


# ---- refusals


def test_resume_says_what_differs(fitted: Annotator, mixed: list[str], pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fitted.batch(mixed, out, part_size=PART)
    before = files(out)
    other = Annotator(fitted.config, device="cpu", seed=7)
    other.fit([*sorted(pictures.iterdir())[:20]], [["sea"], ["sky"]] * 10, progress=False)

    def refused(annotator: Annotator, sources: Any, **options: Any) -> str:
        with pytest.raises(DataError, match="cannot be resumed, it was begun otherwise") as error:
            annotator.batch(sources, out, **{"part_size": PART, "resume": True, **options})
        assert files(out) == before and "--overwrite" in str(error.value)
        return str(error.value)

    model = fitted.to_model_file().sha256
    assert f"model_sha256 was {model}, now it is " in refused(other, mixed, k=2) and "k was 5, now it is 2" in refused(
        other, mixed, k=2
    )
    assert "format was parquet, now it is csv" in refused(fitted, mixed, format="csv")
    assert "part_size was 6, now it is 7" in refused(fitted, mixed, part_size=7)
    assert "vectors was False, now it is True" in refused(fitted, mixed, vectors=True)
    gone = "another"
    assert f"input 11 was '{mixed[1]}', now it is '{gone}'" in refused(fitted, [mixed[0], gone, *mixed[2:]])
    assert "input 28 was '" in refused(fitted, mixed[:2]) or "now it is none" in refused(fitted, mixed[:2])
    assert "input 29 was none, now it is 'another'" in refused(fitted, [*mixed, gone])
    shard = Path(mixed[2])
    content = shard.read_bytes()
    try:
        write_tar(shard, {f"scene_{number:05d}.jpg": b"changed" for number in range(9, 15)} | {"x.jpg": b"junk"})
        assert "has another " in refused(fitted, mixed)
    finally:
        shard.write_bytes(content)


def test_results_are_not_overwritten_unasked(fitted: Annotator, mixed: list[str], pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fitted.batch(mixed, out, part_size=PART)
    before = files(out)
    with pytest.raises(DataError, match=r"has results; go on with --resume, replace them with --overwrite"):
        fitted.batch(pictures, out)
    assert files(out) == before
    (out / "notes.txt").write_text("mine")
    (out / "_failures" / "part-00004.jsonl").write_text("")
    fitted.batch(pictures, out, 2, format="csv", overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["_failures", "_gpuannot", "_summary.json", "notes.txt", "part-00000.csv"]
    assert len(read(out)) == 24 and ledger(out) == [] and (out / "notes.txt").read_text() == "mine"


def test_a_folder_with_other_things_is_left_alone(fitted: Annotator, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "file").touch()
    for out, reason in (("photos", "holds other files"), ("file", "is a file"), ("no/where", "no such folder for the output")):
        for options in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(DataError, match=reason):
                fitted.batch(pictures, tmp_path / out, **options)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["file", "photos", "photos/a.jpg"]
    (tmp_path / "empty").mkdir()
    assert fitted.batch(pictures, tmp_path / "empty").rows == 24


@pytest.mark.parametrize(
    "content", ["", "{}", '{"schema": "gpuannot.batch/99"}', '{"schema": "gpuannot.batch/1", "settings": {"k": 5}}']
)
def test_a_run_of_another_version_is_refused(fitted: Annotator, pictures: Path, tmp_path: Path, content: str) -> None:
    out = tmp_path / "out"
    fitted.batch(pictures, out)
    (out / "_gpuannot" / "run.json").write_text(content)
    with pytest.raises(DataError, match=r"run\.json cannot be used .*; start again with --overwrite"):
        fitted.batch(pictures, out, resume=True)
    assert fitted.batch(pictures, out, overwrite=True).rows == 24


def test_two_runs_do_not_share_a_folder(fitted: Annotator, pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with PartFolder(tmp_path / "out").lock(), pytest.raises(OutputError, match="another run is writing to"):
        fitted.batch(pictures, tmp_path / "out")
    assert fitted.batch(pictures, tmp_path / "out").rows == 24


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k = 0 must lie in"),
        ({"k": 1000}, "k = 1000 must lie in"),
        ({"format": "xlsx"}, "format 'xlsx' is unknown; choose one of parquet, jsonl, csv"),
        ({"part_size": 0}, "part_size is 0; expected 1 to 1048576"),
        ({"part_size": 2**20 + 1}, "part_size is 1048577"),
        ({"threads": 0}, "threads is 0"),
        ({"max_failures": -1}, "max_failures is -1"),
        ({"on_error": "ignore"}, "on_error is 'ignore'; expected 'skip' or 'stop'"),
        ({"resume": True, "overwrite": True}, "choose one"),
    ],
)
def test_wrong_arguments(fitted: Annotator, pictures: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted.batch(pictures, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_before_fit(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        Annotator(device="cpu").batch(pictures, tmp_path / "out")


# ---- failures


@pytest.mark.parametrize(("options", "stops"), [({"on_error": "stop"}, 1), ({"max_failures": 0}, 1), ({"max_failures": 3}, 4)])
def test_too_many_failures_stop_the_run(
    fitted: Annotator, mixed: list[str], undisturbed: dict[str, bytes], tmp_path: Path, options: dict[str, Any], stops: int
) -> None:
    out = tmp_path / "out"
    with pytest.raises(TooManyFailuresError) as error:
        fitted.batch(mixed, out, part_size=PART, **options)
    message = str(error.value)
    first = {1: "scene_00003 cut.jpg: truncated", 4: "x.jpg: not an image"}[stops]
    assert first in message and ("at most 3 may" in message) == (stops == 4) and "--resume" in message
    left = files(out)
    assert left.items() <= undisturbed.items() and not any(name.endswith("part-00004.parquet") for name in left)
    with pytest.raises(TooManyFailuresError):  # the same limit stops it again, by what is done or what is to do
        fitted.batch(mixed, out, part_size=PART, resume=True, **options)
    assert fitted.batch(mixed, out, part_size=PART, resume=True, max_failures=5).failures == 5
    assert files(out) == undisturbed
    with pytest.raises(TooManyFailuresError):
        fitted.batch(mixed, out, part_size=PART, resume=True, **options)


def test_accounts_that_do_not_add_up_are_an_error(fitted: Annotator, mixed: list[str], pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fitted.batch(mixed, out, part_size=PART)
    folder = PartFolder(out).open()
    before = files(out)
    annotations = fitted.annotate(sorted(pictures.iterdir())[:PART])
    for lost in (annotations, dataclasses.replace(annotations, failures=(ImageFailure("a", "decode", "b"),) * 2)):
        with PartWriter(folder, 0, fitted.encoder.dimension) as part:
            part.write(lost, 0, PART - 1)
            with pytest.raises(RuntimeError, match=rf"{PART} rows \+ {len(lost.failures)} failures ≠ {PART} inputs|0 failures ≠ 5"):
                part.commit()
    assert files(out) == before
    marker = out / "_gpuannot" / "done" / "00002.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "rows": 3}))
    with pytest.raises(RuntimeError, match=r"≠ 29 inputs"):
        fitted.batch(mixed, out, part_size=PART, resume=True)
    marker.unlink()
    with pytest.raises(OutputError, match=r"part-00002\.parquet is missing or incomplete; run again with --resume"):
        folder.finish()


def test_a_lost_row_is_noticed(fitted: Annotator, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that drops an image without a word must not pass."""
    nearest = WordModel.nearest_words

    def losing(self: WordModel, vectors: Any, k: int = 5) -> Any:
        index, distance = nearest(self, vectors, k)
        return index[:-1], distance[:-1]

    monkeypatch.setattr(WordModel, "nearest_words", losing)
    with pytest.raises((RuntimeError, ValueError)):
        fitted.batch(pictures, tmp_path / "out", part_size=PART)
    assert not list((tmp_path / "out").glob("part-*"))


# ---- a disk that does not take it


@pytest.mark.parametrize("format", SUFFIXES)
def test_a_full_disk(fitted: Annotator, mixed: list[str], small_disk: Path, tmp_path: Path, format: str) -> None:
    out = small_disk / "out"
    options: dict[str, Any] = {"part_size": PART, "format": format, "vectors": True}
    (small_disk / "room").write_bytes(b"x" * 16_000)
    with open(small_disk / "filler", "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"x" * 4096)
    (small_disk / "room").unlink()
    with pytest.raises(OutputError, match=r"cannot write to .*/out \(No space left on device\); .* go on with --resume"):
        fitted.batch(mixed, out, **options)
    assert not list(out.rglob("*.part"))
    (small_disk / "filler").unlink()
    fitted.batch(mixed, tmp_path / "undisturbed", **options)
    assert fitted.batch(mixed, out, resume=True, **options).rows == 24
    assert files(out) == files(tmp_path / "undisturbed")


def test_a_disk_that_cannot_be_written(
    fitted: Annotator, mixed: list[str], small_disk: Path, undisturbed: dict[str, bytes]
) -> None:
    out = small_disk / "out"
    fitted.batch(mixed, out, part_size=PART)
    (out / "part-00001.parquet").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for target in (out, small_disk / "new"):
        with pytest.raises(OutputError, match=r"cannot write to .* \(Read-only file system\)"):
            fitted.batch(mixed, target, part_size=PART, resume=True)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    fitted.batch(mixed, out, part_size=PART, resume=True)
    assert files(out) == undisturbed


# ---- bounded, and watched


def test_few_images_are_in_flight(fitted: Annotator, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list.txt").write_text(f"{pictures}/scene_00000.jpg\n" * 400)
    decoded: list[str] = []
    decode = decoding.decode_image

    def counting(source: Any, *arguments: Any, **options: Any) -> Any:
        decoded.append(options["name"])
        return decode(source, *arguments, **options)

    monkeypatch.setattr(decoding, "decode_image", counting)
    out = tmp_path / "out"
    with pytest.raises(TooManyFailuresError):  # lists the inputs, and no more
        fitted.batch([tmp_path / "nowhere.jpg", tmp_path / "list.txt"], out, part_size=8, on_error="stop")
    folder = PartFolder(out).open()
    assert folder.inputs.count == 401
    decoded.clear()
    with closing(annotate_parts(fitted.words, folder, range(folder.inputs.parts), threads=2)) as work:
        next(work)
        taken = -1
        while taken != len(decoded):  # until the reader stands still
            taken = len(decoded)
            time.sleep(0.3)
        assert taken <= (1 + 2 + 1 + 3) * BATCH  # mapped, waiting for the trunk, being handed over, in the decoder
    assert not list(out.glob(".*.part"))


def test_a_list_of_inputs_gives_back_its_inputs(tmp_path: Path, mixed: list[str]) -> None:
    given = list(Inputs([*mixed, os.fsdecode(b"caf\xe9.jpg")]))
    listed = InputList.write(tmp_path / "i.parquet", in_parts(given, 4))
    assert list(listed) == given and (listed.count, listed.parts) == (30, 8)
    assert listed.part(7) == given[28:] and InputList(tmp_path / "i.parquet").part(3) == given[12:16]
    assert listed.difference(given) is None
    assert listed.difference(given[:-1]) == "input 29 was 'caf\\udce9.jpg', now it is none"


@pytest.mark.parametrize(
    ("spent", "expected"),
    [
        ({"wait for input": 3, "trunk": 2, "wait for output": 1, "decode": 4, "read": 1}, "decode"),
        ({"wait for input": 3, "trunk": 2, "wait for output": 1, "decode": 1, "read": 4}, "read"),
        ({"wait for input": 1, "trunk": 2, "wait for output": 1, "decode": 9, "write": 9}, "trunk"),
        ({"wait for input": 1, "trunk": 2, "wait for output": 3, "decode": 9, "write": 3}, "write"),
        ({"wait for input": 1, "trunk": 2, "wait for output": 3, "wait for GPU": 4, "write": 3}, "trunk"),
    ],
)
def test_limiting_stage(monkeypatch: pytest.MonkeyPatch, spent: dict[str, int], expected: str) -> None:
    timer, now = StageTimer(), [0.0]
    monkeypatch.setattr("gpuannot.system.timing.time.perf_counter", lambda: now[0])
    for stage, seconds in spent.items():
        with timer.measure(stage):
            now[0] += seconds
    assert limiting_stage(timer) == expected


def test_progress_counts_inputs(fitted: Annotator, mixed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted.batch(mixed, tmp_path / "out", part_size=PART, progress=False)
    assert capsys.readouterr().err == ""


def test_stream_takes_inputs_of_every_kind(fitted: Annotator, mixed: list[str]) -> None:
    from_inputs = list(fitted.stream(Inputs(mixed)))
    names = [name for part in from_inputs for name in part.names]
    failures = [failure.path for part in from_inputs for failure in part.failures]
    assert sorted(names + failures) == sorted(item.name for item in Inputs(mixed)) and len(failures) == 5
    with pytest.warns(UserWarning, match="could not be read"):
        found = fitted.annotate(mixed[2])
    assert found.names == tuple(item.name for item in Inputs(mixed[2]))[:-1]


@pytest.mark.parametrize(
    ("room", "error"),
    [
        (1, torch.OutOfMemoryError("no room")),
        (3, torch.OutOfMemoryError("no room")),
        (3, RuntimeError("GET was unable to find an engine to execute this computation")),
    ],
)
def test_no_room_for_a_batch_is_warned_of_once_and_remembered(
    fitted: Annotator, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, error: RuntimeError
) -> None:
    """A trunk that has memory for ``room`` images, as a GPU may; each image gives the same bits whatever it is batched with."""
    fitted.save(tmp_path / "m.safetensors")
    annotator, asked = Annotator.load(tmp_path / "m.safetensors", device="cpu"), []
    forward = annotator.encoder.trunk.forward

    def with_little_memory(images: Any) -> Any:
        asked.append(len(images))
        if len(images) > room:
            raise error
        return forward(images)

    monkeypatch.setattr(annotator.encoder.trunk, "forward", with_little_memory)
    with pytest.warns(UserWarning) as warned:
        annotator.batch(pictures, tmp_path / "out", part_size=8)
    assert [str(warning.message).partition(";")[0] for warning in warned] == [
        "the GPU has no room for a batch of 4 images and takes it in halves"
    ]
    assert asked == {3: [4, *[2] * 12], 1: [4, 2, *[1] * 24]}[room]
    fitted.batch(pictures, tmp_path / "plenty", part_size=8)
    assert files(tmp_path / "out") == files(tmp_path / "plenty")
    asked.clear()
    room = 0
    with pytest.raises(type(error), match=str(error)):
        annotator.batch(pictures, tmp_path / "none")
    assert asked == [2, 1] if asked[0] == 2 else asked == [1]


def test_stream_lists_a_folder_once_and_as_it_goes(
    fitted: Annotator, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in [*sorted(pictures.iterdir()), "gone.jpg"] * 3))
    listed = 0
    find = Inputs.__iter__

    def counting(self: Inputs) -> Iterator[Any]:
        nonlocal listed
        for item in find(self):
            listed += 1
            yield item

    monkeypatch.setattr(Inputs, "__iter__", counting)
    found, seen = [], []
    for part in fitted.stream(str(tmp_path / "list.txt"), 2):
        found.append(part)
        seen.append(listed)
    assert listed == 75 and seen[0] <= 6 * BATCH and seen == sorted(seen)  # a bounded number of batches is ahead
    with pytest.warns(UserWarning, match="could not be read"):
        whole = fitted.annotate(list(find(Inputs(tmp_path / "list.txt"))), 2)
    assert np.concatenate([part.positions for part in found]).tolist() == whole.positions.tolist()
    assert [name for part in found for name in part.names] == list(whole.names)
    assert [words for part in found for words in part.words] == list(whole.words)
    assert [failure for part in found for failure in part.failures] == list(whole.failures) and len(whole.failures) == 3
    with pytest.raises(DataError, match="no such file or folder"):
        fitted.stream(tmp_path / "nowhere")
