"""Annotation files read back: what was written, and what others may have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpuannot import Annotations
from gpuannot.errors import DataError, InvalidArgumentError
from gpuannot.jobs.readers import AnnotationFiles, split_cell
from gpuannot.jobs.writers import FORMATS, AnnotationWriter, Selection
from gpuannot.jobs.writers import rows as plain_rows

WORDS = ("sky", "a;b", "c\\d", 'say "hi", sea', "海\nline")


def write(path: Path, count: int) -> Annotations:
    random = np.random.default_rng(count)
    index = np.array([random.permutation(5)[:3] for _ in range(count)])
    distance = random.random((count, 3)).astype(np.float32)
    annotations = Annotations(tuple(f"in/{number}.jpg" for number in range(count)), np.arange(count), index, distance, WORDS)
    with AnnotationWriter(path, model_sha256="f" * 64) as writer:
        writer.write(annotations)
        writer.commit()
    return annotations


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("count", [1, 512, 513])
def test_what_was_written_comes_back(tmp_path: Path, suffix: str, count: int) -> None:
    written = write(tmp_path / f"w{suffix}", count)
    found = AnnotationFiles(tmp_path / f"w{suffix}", WORDS)
    assert len(found) == count and found.paths == list(written.names) and found.model == "f" * 64
    for _ in range(2):  # each iteration reads anew
        parts = list(found)
        index, distance = (np.concatenate([getattr(part, name) for part, _ in parts]) for name in ("index", "distance"))
        assert np.array_equal(index, written.index) and np.allclose(distance, written.distance, atol=1e-6)
        assert [name for part, _ in parts for name in part.names] == list(written.names)
        assert np.concatenate([part.positions for part, _ in parts]).tolist() == list(range(count))
        assert [item.place for _, items in parts for item in items] == list(written.names)
        assert all(part.confidence is None for part, _ in parts)
    occurring = sorted({WORDS[word] for word in written.index.ravel()})
    assert AnnotationFiles(tmp_path / f"w{suffix}").vocabulary == tuple(occurring)


def test_parts_of_a_folder_in_order(tmp_path: Path) -> None:
    for number in (99_999, 100_000, 2):
        row = {"path": f"{number}.jpg", "words": ["sky"]}
        (tmp_path / f"part-{number:05d}.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "_summary.jsonl").write_text("not rows")
    (tmp_path / ".part-3.jsonl").write_text("not rows")
    assert AnnotationFiles(tmp_path).paths == ["2.jpg", "99999.jpg", "100000.jpg"]


def test_fewer_words_for_some_and_confidences(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"path": "a", "words": ["sky", "sea"], "confidences": [0.9, 0.25]},
        {"path": "b", "words": [], "confidences": []},
        {"path": "c", "words": ["sea"], "confidences": [0.5]},
    ]
    (tmp_path / "w.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "w.csv").write_text("path,words,confidences\na,sky;sea,0.9;0.25\nb,,\nc,sea,0.5\n")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "w.parquet")
    for suffix in FORMATS:
        found = AnnotationFiles(tmp_path / f"w{suffix}")
        [(annotations, _)] = list(found)
        assert found.vocabulary == ("sea", "sky") and found.model is None
        assert annotations.index.tolist() == [[1, 0], [-1, -1], [0, -1]]
        distance = np.array([[np.nan, np.nan], [np.inf, np.inf], [np.nan, np.inf]])
        assert np.array_equal(annotations.distance, distance, equal_nan=True)
        confidence = np.array([[0.9, 0.25], [0, 0], [0.5, 0]], np.float32)
        assert annotations.confidence is not None and np.array_equal(annotations.confidence, confidence)


@pytest.mark.parametrize("words", [[], ["a"], ["a", "b"], ["a;b", "c"], ["a\\", ";", "b\\;c"], ["\\\\", "x"]])
def test_cells(words: list[str]) -> None:
    from gpuannot.jobs.writers.csv_rows import cell

    assert split_cell(cell(list(words))) == words


@pytest.mark.parametrize(
    ("text", "words"), [("sky;", ["sky"]), ("sky; ;", ["sky"]), (";", []), ("a\\;;", ["a;"]), ("a;;b", ["a", "", "b"])]
)
def test_separators_at_the_end_of_a_cell(text: str, words: list[str]) -> None:
    assert split_cell(text) == words


def test_rows_without_what_others_have(tmp_path: Path) -> None:
    """Each image keeps its confidences and distances, whatever others lack."""
    rows: list[dict[str, Any]] = [
        {"path": "a", "words": ["sky", "sea"], "distances": [1.0, 2.0], "confidences": [0.25, 0.75]},
        {"path": "b", "words": ["sea", "sky"]},
        {"path": "c", "words": ["sun"], "distances": [3.0], "confidences": [0.5]},
    ]
    (tmp_path / "w.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = AnnotationFiles(tmp_path / "w.jsonl")
    assert found.confident
    [(annotations, _)] = list(found)
    expected = [(["sea", "sky"], [2.0, 1.0], [0.75, 0.25]), (["sea", "sky"], [], []), (["sun"], [3.0], [0.5])]
    for suffix in FORMATS:
        with AnnotationWriter(tmp_path / f"again{suffix}", model_sha256="", confidence=True) as writer:
            writer.write(annotations)
            writer.commit()
        [(again, _)] = list(AnnotationFiles(tmp_path / f"again{suffix}"))
        told = [(row["words"], row["distances"], row["confidences"]) for row in again.to_dicts()]
        assert told == expected == [(row["words"], row["distances"], row["confidences"]) for row in plain_rows(again, "")]
        assert "sun 0.50" in repr(again) and "sea, sky" in repr(again)
    kept = Selection(exclude=["sea"])(annotations)
    assert [list(words) for words in kept.words] == [["sky"], ["sky"], ["sun"]]
    for refused in (Selection(0.5), Selection(None, {"sky": 0.5})):
        with pytest.raises(InvalidArgumentError, match=r"^b has words without confidences"):
            refused(annotations)
    with pytest.raises(InvalidArgumentError, match=r"^b has words without confidences"):
        annotations.likely(0.5)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"path": "a", "stage": "dec', "line 2 cannot be read"),
        ("[1]", "line 2 names no 'path', 'stage' and 'reason'"),
        ('{"image": "a"}', "line 2 names no"),
        ('{"path": "a", "stage": "lost", "reason": "b"}', "line 2 names no"),
        ('{"path": "a", "stage": ["find"], "reason": "b"}', "line 2 names no"),
    ],
)
def test_a_ledger_that_is_none(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "w.jsonl").write_text('{"path": "a", "words": ["sky"]}\n')
    ledger = tmp_path / "w.jsonl.failures.jsonl"
    ledger.write_text('{"path": "b", "stage": "find", "reason": "gone"}\n' + line)
    with pytest.raises(DataError, match=rf"w.jsonl.failures.jsonl, {message}.*; delete it"):
        list(AnnotationFiles(tmp_path / "w.jsonl"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.jsonl", "", r"w.jsonl has no rows"),
        ("w.jsonl", "{", r"line 1 is not valid JSON"),
        ("w.jsonl", "[]", r"line 1: expected an object"),
        (
            "w.jsonl",
            '{"path": "a"}',
            r"row 0: expected a 'path' and a list of 'words', .*, got path",
        ),
        ("w.jsonl", '{"path": 3, "words": ["sky"]}', r"row 0: expected a 'path'"),
        ("w.jsonl", '{"path": "a", "words": ["sky", "sky"]}', r"row 0: a word is listed twice: sky, sky"),
        ("w.jsonl", '{"path": "a", "words": ["sky"], "distances": [1, 2]}', r"1 words but 2 distances"),
        (
            "w.jsonl",
            '{"path": "a", "words": ["sky"], "distances": ["near"]}',
            r"its distances hold .near., expected numbers",
        ),
        *(
            (
                "w.jsonl",
                f'{{"path": "a", "words": ["sky"], "distances": [{wrong}]}}',
                r"row 0: its distances hold .*, expected numbers",
            )
            for wrong in ("1e39", "-1e400", "Infinity", "NaN", "1" + "0" * 400)
        ),
        ("w.csv", "path,words,distances\na,sky,1e39\n", r"row 0: its distances hold 1e\+39, expected numbers up to ±3.4e\+38"),
        ("w.csv", "path,words,confidences\na,sky,inf\n", r"row 0: its confidences hold inf, expected numbers in 0…1"),
        ("w.jsonl", '{"path": "a", "words": ["sky"], "distances": 0.5}', r"row 0: its distances are 0.5, expected a list"),
        (
            "w.jsonl",
            '{"path": "a", "words": ["sky"], "confidences": {"sky": 1}}',
            r"row 0: its confidences are .*, expected a list",
        ),
        ("w.jsonl", '{"path": "a", "words": ["sky"], "model": ["x"]}', r"row 0: its model is \['x'\], expected"),
        ("w.jsonl", '{"path": "a", "words": ["sky"], "model": {}}', r"row 0: its model is {}, expected"),
        ("w.jsonl", '{"path": "a", "words": ["sky"], "model": 5}', r"row 0: its model is 5, expected"),
        ("w.jsonl", '{"path": "a", "words": ["\\ud800"]}', r"row 0: its words hold '.ud800', expected text"),
        ("w.jsonl", '{"path": "a", "words": ["sky", " "]}', r"row 0: its words hold ' ', expected text"),
        ("w.csv", "path,words\na,;sky\n", r"row 0: its words hold '', expected text"),
        ("w.jsonl", '{"path": "", "words": ["sky"]}', r"row 0: its path is '', expected the name"),
        ("w.jsonl", '{"path": "/", "words": ["sky"]}', r"row 0: its path is '/', expected the name"),
        ("w.jsonl", '{"path": "a\\ud800", "words": ["sky"]}', r"row 0: its path is 'a.ud800', expected the name"),
        ("w.jsonl", '{"path": "a", "words": ["sky"], "confidences": [1.5]}', r"its confidences hold 1.5, expected numbers in 0…1"),
        ("w.jsonl", '{"path": "a", "words": ["sky"], "confidences": [NaN]}', r"its confidences hold nan, expected numbers in 0…1"),
        ("w.jsonl", '{"path": "a", "words": ["car"]}', r"does not know, such as 'car'"),
        ("w.jsonl", '{"path": "a", "words": [], "model": "1"}\n{"path": "b", "words": [], "model": "2"}', r"rows of 2 models"),
        ("w.csv", "image,words\na,sky\n", r"w.csv, row 0: expected a 'path'"),
        ("w.csv", "path,words,distances\na,sky,far\n", r"w.csv, row 0: could not convert"),
        ("w.parquet", "junk", r"w.parquet cannot be read as Parquet"),
        ("w.csv", "path,words\nb\udce9,sky\n", r"w.csv, row 0: 'utf-8' codec can't decode"),
        ("w.jsonl", '{"path": "\udce9"}', r"line 1 is not valid JSON: 'utf-8' codec can't decode"),
        ("w.txt", "a", r"expected a model \(.safetensors\), or annotations ending in"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=message):
        AnnotationFiles(tmp_path / name, ["sky"])


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        AnnotationFiles(tmp_path / "no")
    with pytest.raises(DataError, match=r"holds no annotations; expected files ending in .parquet"):
        AnnotationFiles(tmp_path)
