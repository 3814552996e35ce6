"""Annotation files: other tools read back what was given, and no name ever holds half a file."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpuannot.errors import DataError
from gpuannot.images.batches import ImageFailure
from gpuannot.jobs.readers import rows_of
from gpuannot.jobs.writers import FORMATS, AnnotationWriter, failure_lines, rows
from gpuannot.model.annotations import Annotations

SUFFIXES = (".parquet", ".jsonl", ".csv")
VOCABULARY = ("sky", "sea, calm", 'the "red" one', "żółw; 海;", "back\\slash\\;", "two\nlines", "[bold]")
NAMES = ("a.jpg", "with space/b,c.jpg", 'quo"te.jpg', "żółw nad rzeką 海.jpg", "new\nline.jpg", "[red]x.jpg", "tab\t\r.jpg")
MODEL = "0f" * 32
DISTANCES = [0.0, 1e-7, 0.123456789, 1.5, 12345.678, 3e8, 0.1]


def annotations(names: tuple[str, ...] = NAMES, k: int = 3) -> Annotations:
    index = (np.arange(len(names))[:, None] + np.arange(k)) % len(VOCABULARY)
    distance = np.array([DISTANCES[row % 7] for row in range(len(names))], dtype=np.float32)[:, None] + np.arange(
        k, dtype=np.float32
    )
    return Annotations(names, np.arange(len(names)), index, distance, VOCABULARY)


def write(path: Path, *parts: Annotations, **options: Any) -> Path:
    with AnnotationWriter(path, model_sha256=MODEL, **options) as writer:
        for part in parts:
            writer.write(part)
        assert writer.rows == sum(len(part) for part in parts)
        assert writer.commit() == path
    return path


def read(path: Path) -> list[tuple[str, list[str], list[float]]]:
    """(path, words, distances) of each row, by a reader that knows nothing of gpuannot."""
    if path.suffix == ".parquet":
        return [(row["path"], row["words"], row["distances"]) for row in pq.read_table(path).to_pylist()]
    with open(path, encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            return [(row["path"], row["words"], row["distances"]) for row in map(json.loads, file)]
        header, *lines = csv.reader(file, strict=True)
        assert header == ["path", "words", "distances", "model"] and all(line[3] in (MODEL, "") for line in lines)
        return [(name, unescaped(words), [float(value) for value in distances.split(";")]) for name, words, distances, _ in lines]


def unescaped(cell: str) -> list[str]:
    """The items of a cell, read character by character."""
    items, characters = [""], iter(cell)
    for character in characters:
        if character == ";":
            items.append("")
        else:
            items[-1] += next(characters) if character == "\\" else character
    return items


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_are_read_back(tmp_path: Path, suffix: str) -> None:
    first, second = annotations(), annotations(NAMES[::-1])
    found = read(write(tmp_path / f"[out] żółw{suffix}", first, second))
    assert [name for name, _, _ in found] == [*NAMES, *NAMES[::-1]]
    for (_, words, distances), row in zip(found, range(14), strict=True):
        part = (first, second)[row // 7]
        assert words == [VOCABULARY[word] for word in part.index[row % 7]]
        exact = [float(value) for value in part.distance[row % 7]]
        assert distances == (exact if suffix == ".parquet" else [round(value, 6) for value in exact])
    assert [path.name for path in tmp_path.iterdir()] == [f"[out] żółw{suffix}"]


def test_parquet_schema_and_metadata(tmp_path: Path) -> None:
    schema = pq.read_schema(write(tmp_path / "out.parquet", annotations()))
    assert schema.names == ["path", "words", "distances", "model"]
    assert schema.field("path").type == pa.string()
    assert schema.field("words").type.value_type == pa.string() and schema.field("distances").type.value_type == pa.float32()
    assert schema.metadata[b"gpuannot_model_sha256"] == b"0f" * 32


def test_text_is_not_escaped(tmp_path: Path) -> None:
    for suffix in (".jsonl", ".csv"):
        text = write(tmp_path / f"out{suffix}", annotations()).read_text(encoding="utf-8")
        assert "żółw nad rzeką 海.jpg" in text and "\\u" not in text


def test_many_rows_of_parquet_do_not_wait_in_memory(tmp_path: Path) -> None:
    names = tuple(f"{number}.jpg" for number in range(20_000))
    parts = [annotations(names[start : start + 3000], k=2) for start in range(0, 20_000, 3000)]
    partial = []
    with AnnotationWriter(tmp_path / "out.parquet", model_sha256="") as writer:
        for part in parts:
            writer.write(part)
            partial += [path.stat().st_size for path in tmp_path.iterdir()]
        writer.commit()
    assert partial[3] > partial[1] + 10_000  # the first row group is on the disk
    found = read(tmp_path / "out.parquet")
    assert [name for name, _, _ in found] == list(names)
    assert all(
        words == [VOCABULARY[word] for word in parts[row // 3000].index[row % 3000]] for row, (_, words, _) in enumerate(found)
    )
    assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups == 3


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_rows(tmp_path: Path, suffix: str) -> None:
    assert read(write(tmp_path / f"out{suffix}")) == []
    assert read(write(tmp_path / f"other{suffix}", annotations(()))) == []


def test_rows_are_plain_values() -> None:
    [row] = rows(annotations(("a.jpg",), k=2), MODEL)
    assert row == {"path": "a.jpg", "words": ["sky", "sea, calm"], "distances": [0.0, 1.0], "model": MODEL}
    assert json.loads(json.dumps(row)) == row
    assert rows(annotations(()), MODEL) == []


# ---- no half file, nothing overwritten


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_existing_file_is_refused_unless_overwritten(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"kept")
    with pytest.raises(DataError, match=rf"out\{suffix} exists; .*--overwrite"):
        AnnotationWriter(path, model_sha256="")
    assert path.read_bytes() == b"kept"
    with AnnotationWriter(path, model_sha256="", overwrite=True) as writer:
        writer.write(annotations())
        assert path.read_bytes() == b"kept"
        writer.commit()
    assert len(read(path)) == len(NAMES)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_error_inside_the_block_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(KeyboardInterrupt), AnnotationWriter(tmp_path / f"out{suffix}", model_sha256="") as writer:
        writer.write(annotations())
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_without_commit_nothing_is_left(tmp_path: Path, suffix: str) -> None:
    with AnnotationWriter(tmp_path / f"out{suffix}", model_sha256="") as writer:
        writer.write(annotations())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_row_that_cannot_be_written_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"kept")
    one = np.zeros((1, 1), np.int64)
    broken = Annotations(("a.jpg",), one[0], one, one.astype(np.float32), (object(),))  # type: ignore[arg-type]
    with pytest.raises((TypeError, pa.ArrowException)), AnnotationWriter(path, model_sha256="", overwrite=True) as writer:
        writer.write(broken)
        writer.commit()
    assert path.read_bytes() == b"kept" and [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["out", "out.txt", "out.parquet.gz", "out.CSV", "csv"])
def test_an_unknown_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"suffix must be one of \.parquet, \.jsonl, \.csv"):
        AnnotationWriter(tmp_path / name, model_sha256="")
    assert list(tmp_path.iterdir()) == [] and tuple(FORMATS) == SUFFIXES


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        AnnotationWriter(tmp_path / "nowhere" / "out.csv", model_sha256="")


# ---- names that are not UTF-8, and the ledger


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX only")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_name_that_is_not_utf8_takes_no_row_down(tmp_path: Path, suffix: str) -> None:
    names = ("a.jpg", os.fsdecode(b"caf\xe9.jpg"), "b.jpg")
    found = [name for name, _, _ in read(write(tmp_path / f"out{suffix}", annotations(names)))]
    assert found == ["a.jpg", "caf\\udce9.jpg", "b.jpg"]
    ledger = failure_lines([ImageFailure(names[1], "decode", "empty file (0 bytes)")])
    assert json.loads(ledger)["path"] == "caf\\udce9.jpg"


def test_ledger() -> None:
    failures = [ImageFailure("żółw.jpg", "decode", 'said "no"'), ImageFailure("a\nb.jpg", "find", "no such file")]
    text = failure_lines(iter(failures))
    assert "żółw" in text and text.endswith("\n")
    assert [json.loads(line) for line in text.splitlines()] == [
        {"path": "żółw.jpg", "stage": "decode", "reason": 'said "no"'},
        {"path": "a\nb.jpg", "stage": "find", "reason": "no such file"},
    ]
    assert failure_lines([]) == ""


# ---- vectors


def with_vectors(count: int) -> Annotations:
    plain = annotations(NAMES[:count], k=2)
    vectors = np.random.default_rng(count).standard_normal((count, 3)).astype(np.float32) * np.float32(1e-3)
    return dataclasses.replace(plain, vectors=vectors)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_vectors_are_read_back_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    parts = [with_vectors(2), with_vectors(5)]
    path = write(tmp_path / f"out{suffix}", *parts, vectors=3)
    if suffix == ".parquet":
        found = [row["vector"] for row in pq.read_table(path).to_pylist()]
        assert pq.read_schema(path).field("vector").type == pa.list_(pa.float32(), 3)
    else:
        with open(path, encoding="utf-8", newline="") as file:
            if suffix == ".jsonl":
                found = [json.loads(line)["vector"] for line in file]
            else:
                found = [[float(value) for value in row["vector"].split(";")] for row in csv.DictReader(file)]
    assert np.array(found, np.float32).tobytes() == np.concatenate([part.vectors for part in parts]).tobytes()  # type: ignore[misc]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_vectors_that_do_not_fit_the_writer_are_refused(tmp_path: Path, suffix: str) -> None:
    for vectors, part in ((None, with_vectors(2)), (3, annotations())):
        with pytest.raises(ValueError, match="vectors"):
            write(tmp_path / f"out{suffix}", part, vectors=vectors)
    assert list(tmp_path.iterdir()) == []


def test_vectors_do_not_wait_in_memory(tmp_path: Path) -> None:
    dimension = 2**20  # 4 MB a row: eight rows are a row group
    part = dataclasses.replace(annotations(NAMES, k=1), vectors=np.zeros((7, dimension), np.float32))
    path = write(tmp_path / "out.parquet", part, part, part, vectors=dimension)
    assert [pq.ParquetFile(path).metadata.row_group(group).num_rows for group in range(2)] == [14, 7]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_same_rows_same_bytes(tmp_path: Path, suffix: str) -> None:
    first, second = (write(tmp_path / f"{name}{suffix}", annotations()).read_bytes() for name in ("a", "b"))
    assert first == second


FORMULAS = ("=1+1", "+cmd|' /C calc'!A0", "-2", "@SUM(A1)", "\ttab", "\rreturn", "a=b", "\\=x")


def test_no_cell_of_csv_is_a_formula(tmp_path: Path) -> None:
    """As a spreadsheet reads it; gpuannot reads back what was given."""
    count = len(FORMULAS)
    index = (np.arange(count)[:, None] + np.arange(2)) % count
    given = Annotations(FORMULAS, np.arange(count), index, -np.ones((count, 2), np.float32), FORMULAS)
    path = write(tmp_path / "words.csv", given)
    with open(path, encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.DictReader(file) for cell in (row["path"], row["words"])]
    assert not [cell for cell in cells if cell[0] in "=+-@\t\r"] and len(cells) == 2 * count
    assert [row["words"] for row in rows_of(path)] == [list(words) for words in given.words]
    assert [row["path"] for row in rows_of(path)] == list(FORMULAS)
