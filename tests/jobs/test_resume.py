"""Runs that are taken up: what failed is tried again, inputs that are new are taken in, and rows that are there stay."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import PART, SUFFIXES, files, ledger, read
from tars import write_tar

from gpuannot import Annotator, Inputs
from gpuannot.errors import DataError, OutputError, TooManyFailuresError
from gpuannot.jobs import writers
from gpuannot.jobs.part_folder import PartFolder
from gpuannot.jobs.run_record import sha256_of
from gpuannot.system import atomic_files


def values(rows: list[dict[str, Any]], column: str) -> np.ndarray:
    found = [row[column].split(";") if isinstance(row[column], str) else row[column] for row in rows]
    return np.array(found, dtype=np.float64)


@pytest.mark.parametrize("format", SUFFIXES)
def test_what_failed_is_tried_again(fitted: Annotator, pictures: Path, tmp_path: Path, format: str) -> None:
    """Missing, cut, unlisted: 7 of 15. All but one are mended; their rows come where they belong, and the others keep theirs."""
    sources = sorted(pictures.iterdir())[:15]
    folder, shard = tmp_path / "in", tmp_path / "s.tar"
    folder.mkdir()
    for number, source in enumerate(sources):
        if number not in (0, 5, 6):
            shutil.copy(source, folder / f"{number:02d}.jpg")
    for number in (2, 7, 14, 9):
        (folder / f"{number:02d}.jpg").write_bytes(sources[number].read_bytes()[:300])
    names = [str(folder / f"{number:02d}.jpg") for number in range(15)]
    out, options = tmp_path / "out", {"format": format, "part_size": PART, "vectors": True}
    first = fitted.batch([*names, str(shard)], out, 3, **options)
    assert (first.rows, first.failures) == (8, 8)
    before = {row["path"]: row for row in read(out)}

    resumed = fitted.batch([*names, str(shard)], out, 3, resume=True, **options)
    assert (resumed.failures, resumed.parts_before) == (8, 3)
    for number in (0, 2, 5, 6, 7, 14):
        shutil.copy(sources[number], folder / f"{number:02d}.jpg")
    again = fitted.batch([*names, str(shard)], out, 3, retry_failed=True, **options)
    assert (again.inputs, again.rows, again.failures) == (16, 14, 2)
    assert [Path(row["path"]).name for row in ledger(out)] == ["09.jpg", "s.tar"]
    rows = read(out)
    assert [row["path"] for row in rows] == [name for name in names if not name.endswith("09.jpg")]
    assert all(row == before[row["path"]] for row in rows if row["path"] in before)

    whole = tmp_path / "whole"
    fitted.batch([name for name in names if not name.endswith("09.jpg")], whole, 3, **options)
    expected = read(whole)
    assert [row["words"] for row in rows] == [row["words"] for row in expected]
    for column in ("distances", "vector"):  # the last bits differ with the size of a batch
        np.testing.assert_allclose(values(rows, column), values(expected, column), atol=2e-5)
    done = files(out)
    assert fitted.batch([*names, str(shard)], out, 3, retry_failed=True, **options).failures == 2
    assert files(out) == done


def test_a_retry_with_workers(fitted: Annotator, pictures: Path, tmp_path: Path, scheduler: str) -> None:
    pytest.importorskip("distributed")
    folder = tmp_path / "in"
    shutil.copytree(pictures, folder)
    names = sorted(folder.iterdir())
    whole = names[8].read_bytes()
    names[8].write_bytes(b"")
    fitted.batch(names, tmp_path / "one", part_size=PART)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    names[8].write_bytes(whole)
    fitted.batch(names, tmp_path / "one", part_size=PART, retry_failed=True)
    fitted.batch(names, tmp_path / "two", part_size=PART, retry_failed=True, scheduler=scheduler)
    assert files(tmp_path / "one") == files(tmp_path / "two") and len(read(tmp_path / "one")) == 24


def test_inputs_that_are_new_get_parts_of_their_own(fitted: Annotator, pictures: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    sources = sorted(pictures.iterdir())
    for source in sources[4:12]:
        shutil.copy(source, folder)
    fitted.batch(folder, out, part_size=PART)
    before = files(out)
    for source in sources[:3]:
        shutil.copy(source, folder)  # before all others in the folder's order
    shutil.copy(sources[20], folder)
    with pytest.raises(DataError, match=r"was begun otherwise: input 0 was .*take in more inputs with --extend"):
        fitted.batch(folder, out, part_size=PART, resume=True)
    with pytest.raises(DataError, match=r"4 inputs are new, the first .*scene_00000\.jpg"):
        fitted.batch(folder, out, part_size=PART, retry_failed=True)
    assert files(out) == before
    summary = fitted.batch(folder, out, part_size=PART, extend=True)
    assert (summary.inputs, summary.rows, summary.parts, summary.parts_before) == (12, 12, 3, 2)
    after = files(out)
    changed = {"_gpuannot/run.json", "_gpuannot/inputs-0.list"}
    assert all(after.get(name) == content for name, content in before.items() if name not in changed)
    assert [Path(row["path"]).name for row in read(out)] == [path.name for path in [*sources[4:12], *sources[:3], sources[20]]]

    (folder / sources[0].name).unlink()  # what is gone keeps its row
    assert fitted.batch(folder, out, part_size=PART, extend=True).rows == 12
    assert files(out) == after
    with pytest.raises(DataError, match="begun otherwise"):
        fitted.batch(folder, out, part_size=PART, resume=True)


def test_an_extension_starts_where_there_is_no_run(fitted: Annotator, pictures: Path, tmp_path: Path) -> None:
    assert fitted.batch(pictures, tmp_path / "out", extend=True, retry_failed=True).rows == 24


def test_a_name_given_twice_is_new_once_more(fitted: Annotator, pictures: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    first, second = (str(path) for path in sorted(pictures.iterdir())[:2])
    listed.write_text(f"{first}\n{first}\n")
    fitted.batch(listed, tmp_path / "out", part_size=PART)
    listed.write_text(f"{second}\n{first}\n{first}\n{first}\n")
    assert fitted.batch(listed, tmp_path / "out", part_size=PART, extend=True).inputs == 4
    assert [row["path"] for row in read(tmp_path / "out")] == [first, first, second, first]


def test_an_extension_that_was_stopped(fitted: Annotator, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the longer list and the note that it holds: the run is as it was, and the extension can be made again."""
    sources, out = [str(path) for path in sorted(pictures.iterdir())], tmp_path / "out"
    fitted.batch(sources[:8], out, part_size=PART)
    before = files(out)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("gpuannot.jobs.part_folder.write_whole", stopped)
        with pytest.raises(KeyboardInterrupt):
            fitted.batch(sources[:12], out, part_size=PART, extend=True)
    left = files(out)
    assert set(left) - set(before) == {"_gpuannot/inputs-1.list"}
    assert fitted.batch(sources[:8], out, part_size=PART, resume=True).rows == 8
    assert fitted.batch(sources[:12], out, part_size=PART, extend=True).rows == 12
    assert sorted(path.name for path in (out / "_gpuannot").glob("*.list")) == ["inputs-1.list"]


def test_parts_that_were_not_done_are_read_where_their_inputs_are_now(fitted: Annotator, pictures: Path, tmp_path: Path) -> None:
    """A shard that was mended, and so has its images elsewhere: no row of one image gets another's words."""
    contents = [path.read_bytes() for path in sorted(pictures.iterdir())[:10]]
    shard, out = tmp_path / "s.zip", tmp_path / "out"

    def write(images: dict[int, bytes]) -> None:
        with zipfile.ZipFile(shard, "w") as archive:
            for number, content in images.items():
                archive.writestr(f"{number:02d}.jpg", content)

    write({number: contents[number] if number != 3 else b"junk" for number in range(1, 10)})
    with pytest.raises(TooManyFailuresError):
        fitted.batch(shard, out, part_size=2, on_error="stop")
    write(dict(enumerate(contents)))
    with pytest.raises(DataError, match="begun otherwise"):
        fitted.batch(shard, out, part_size=2, resume=True)
    fitted.batch(shard, out, part_size=2, extend=True)
    rows = {row["path"]: row["words"] for row in read(out)}
    assert len(rows) == 10
    for item in Inputs(shard):
        assert tuple(rows[item.name]) == fitted.annotate([item], progress=False).words[0]


class _Stopped(BaseException):
    pass


@pytest.mark.parametrize("stop", range(5))
def test_a_retry_that_is_stopped_as_it_writes_loses_no_row(
    fitted: Annotator, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Before and after each of its files; the images of the rows that are there are gone by then."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for source in sorted(pictures.iterdir())[:PART]:
        shutil.copy(source, folder)
    names = sorted(folder.iterdir())
    mended = names[2].read_bytes()
    for name in (names[2], names[4]):
        name.write_bytes(b"")
    fitted.batch(names, out, part_size=PART)
    before = {row["path"]: row for row in read(out)}
    names[2].write_bytes(mended)
    for name in names:
        if str(name) in before:
            name.write_bytes(b"gone")
    count = iter(range(100))
    publish = atomic_files.publish

    def stopping(temporary: Path, path: Path) -> None:
        if next(count) == stop:
            raise _Stopped
        publish(temporary, path)

    with monkeypatch.context() as patched:
        for module in (atomic_files, writers.writer):
            patched.setattr(module, "publish", stopping)
        with suppress(_Stopped):
            fitted.batch(names, out, part_size=PART, retry_failed=True)
    fitted.batch(names, out, part_size=PART, resume=True)
    fitted.batch(names, out, part_size=PART, retry_failed=True)
    rows = {row["path"]: row for row in read(out)}
    assert all(rows[path] == row for path, row in before.items())
    assert len(rows) == len(before) + 1 == PART - 1
    assert [entry["path"] for entry in ledger(out)] == [str(names[4])]


def test_an_overwrite_without_inputs_removes_nothing(fitted: Annotator, pictures: Path, tmp_path: Path) -> None:
    fitted.batch(pictures, tmp_path / "out")
    before = files(tmp_path / "out")
    (tmp_path / "none.txt").touch()
    with pytest.raises(DataError, match="there are no inputs"):
        fitted.batch(tmp_path / "none.txt", tmp_path / "out", overwrite=True)
    assert files(tmp_path / "out") == before


def test_a_folder_whose_name_is_not_utf8(fitted: Annotator, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"n\xff")
    fitted.batch(pictures, out, part_size=PART)
    assert fitted.batch(pictures, out, part_size=PART, retry_failed=True).rows == 24


@pytest.mark.parametrize("lost", [["_failures"], ["_gpuannot/done"], ["_failures", "_gpuannot/done"]])
def test_folders_that_a_copy_lost(
    fitted: Annotator, mixed: list[str], undisturbed: dict[str, bytes], tmp_path: Path, lost: list[str]
) -> None:
    out = tmp_path / "out"
    fitted.batch(mixed, out, part_size=PART)
    for name in lost:
        shutil.rmtree(out / name)
    fitted.batch(mixed, out, part_size=PART, resume=True)
    assert files(out) == undisturbed


def test_a_note_of_another_part_is_none(fitted: Annotator, mixed: list[str], undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    fitted.batch(mixed, out, part_size=PART)
    notes = sorted((out / "_gpuannot" / "done").iterdir())
    shutil.copy(notes[0], notes[1])
    assert PartFolder(out).open().done(1) is None
    with pytest.raises(OutputError, match=r"part-00001\.parquet is missing or incomplete"):
        PartFolder(out).open().finish()
    fitted.batch(mixed, out, part_size=PART, resume=True)
    assert files(out) == undisturbed


def test_a_note_of_other_inputs_is_none(fitted: Annotator, pictures: Path, tmp_path: Path) -> None:
    """A part and its note, both from another run of as many inputs."""
    sources = [str(path) for path in sorted(pictures.iterdir())]
    fitted.batch(sources[:PART], tmp_path / "a", part_size=PART)
    fitted.batch(sources[PART : 2 * PART], tmp_path / "b", part_size=PART)
    for name in ("part-00000.parquet", "_gpuannot/done/00000.json"):
        shutil.copy(tmp_path / "a" / name, tmp_path / "b" / name)
    assert fitted.batch(sources[PART : 2 * PART], tmp_path / "b", part_size=PART, resume=True).parts_before == 0
    assert [row["path"] for row in read(tmp_path / "b")] == sources[PART : 2 * PART]


def test_a_list_of_inputs_that_was_changed(fitted: Annotator, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fitted.batch(pictures, out, part_size=PART)
    path = out / "_gpuannot" / "inputs-0.list"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"inputs-0\.list was changed or damaged: its SHA-256 is another.*--overwrite"):
        fitted.batch(pictures, out, part_size=PART, resume=True)
    assert fitted.batch(pictures, out, part_size=PART, overwrite=True).rows == 24


def test_a_run_of_an_earlier_version(fitted: Annotator, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fitted.batch(pictures, out)
    run = out / "_gpuannot" / "run.json"
    run.write_text(json.dumps({**json.loads(run.read_text()), "schema": "gpuannot.batch/1"}))
    (out / "_gpuannot" / "inputs.parquet").touch()
    with pytest.raises(
        DataError, match=r"schema 'gpuannot\.batch/1', expected .*another version of gpuannot wrote it.*--overwrite"
    ):
        fitted.batch(pictures, out, resume=True)
    fitted.batch(pictures, out, overwrite=True)
    assert not (out / "_gpuannot" / "inputs.parquet").exists()


# ---- damaged containers


@pytest.fixture(scope="module")
def damaged(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """60 images in a Parquet table, two shards and a CSV file, each with damage in the middle."""
    folder = tmp_path_factory.mktemp("damaged")
    contents = [path.read_bytes() for path in sorted(pictures.iterdir())]
    table = folder / "t.parquet"
    pq.write_table(pa.table({"image": pa.array(contents, pa.binary())}), table, row_group_size=8, compression="none")
    content = bytearray(table.read_bytes())
    at = pq.read_metadata(table).row_group(1).column(0).data_page_offset
    content[at : at + 12] = b"\xff" * 12
    table.write_bytes(content)
    shard = write_tar(folder / "s.tar", {f"{number:02d}.jpg": content for number, content in enumerate(contents[:12])})
    third = list(Inputs(shard))[3]
    content = bytearray(shard.read_bytes())
    content[third.at - 512 : third.at - 400] = b"\xff" * 112
    shard.write_bytes(content)
    (folder / "s.tar.gz").write_bytes(gzip.compress(bytes(content))[:-40000])
    with open(folder / "list.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path"])
        writer.writerows([str(path)] for path in sorted(pictures.iterdir()))
    lines = (folder / "list.csv").read_text().splitlines()
    lines[5] = f'"{lines[5]}"x'
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    return [str(folder / name) for name in ("t.parquet", "s.tar", "s.tar.gz", "list.csv")]


def test_damaged_containers_give_the_same_bytes_whoever_reads_them(
    fitted: Annotator, damaged: list[str], tmp_path: Path, scheduler: str
) -> None:
    one = tmp_path / "one"
    summary = fitted.batch(damaged, one, part_size=PART)
    assert summary.rows + summary.failures == summary.inputs
    assert [row["path"] for row in ledger(one) if "t.parquet" in row["path"]] == [f"{damaged[0]}#{row}" for row in range(8, 16)]
    expected = files(one)
    for stop in range(summary.parts):
        out = tmp_path / f"resumed {stop}"
        shutil.copytree(one, out)
        for number in range(stop, summary.parts):
            (out / "_gpuannot" / "done" / f"{number:05d}.json").unlink()
        fitted.batch(damaged, out, part_size=PART, resume=True)
        assert files(out) == expected
    fitted.batch(damaged, tmp_path / "workers", part_size=PART, scheduler=scheduler)
    assert files(tmp_path / "workers") == expected


# ---- what other tools read


@pytest.fixture(scope="module")
def words(fitted: Annotator, mixed: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("words") / "words"
    fitted.batch(mixed, out, part_size=PART)
    return out


@pytest.mark.parametrize("what", ["", "/part-*.parquet"])
def test_duckdb_reads_a_run_as_one_table(words: Path, what: str) -> None:
    duckdb = pytest.importorskip("duckdb")
    assert duckdb.sql(f"select count(*), count(distinct path) from read_parquet('{words}{what}')").fetchall() == [(24, 24)]


def test_polars_reads_a_run_as_one_table(words: Path) -> None:
    polars = pytest.importorskip("polars")
    table = polars.scan_parquet(words / "part-*.parquet").collect()
    assert len(table) == 24 and table["words"].list.len().to_list() == [5] * 24


def test_pyarrow_and_pandas_read_a_run_as_one_table(words: Path) -> None:
    assert pq.read_table(words).num_rows == 24


# ---- what is left out


def test_what_folders_and_archives_leave_out_is_counted(fitted: Annotator, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    shutil.copytree(pictures, folder / "deep")
    for name in ("a.xyz", "b.XYZ", "deep/notes.txt", "README", ".hidden.doc", "skipped/c.xyz"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    shard = write_tar(tmp_path / "s.tar", {"0.jpg": b"", "0.json": b"{}", "0.cls": b"1"})
    inputs = Inputs([folder, shard], exclude=["skipped"])
    expected = {"": 1, ".cls": 1, ".json": 1, ".txt": 1, ".xyz": 2}
    summary = fitted.batch(inputs, tmp_path / "out", part_size=PART)
    assert summary.left_out == expected == json.loads((tmp_path / "out" / "_summary.json").read_text())["left_out"]
    assert summary.inputs == len(list(inputs)) == 25
    assert fitted.batch(inputs, tmp_path / "out", part_size=PART, resume=True).left_out == expected


def test_the_checksum_of_the_list_is_that_of_its_file(words: Path) -> None:
    run = json.loads((words / "_gpuannot" / "run.json").read_text())
    assert run["list_sha256"] == sha256_of(words / "_gpuannot" / "inputs-0.list") and run["inputs"] == 29
