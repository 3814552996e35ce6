"""Inputs of every kind, in a fixed order and under fixed names; what is wrong with one is told and stops no other."""

from __future__ import annotations

import csv
import gzip
import io
import os
import shutil
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_images import encoded, scene
from reading import read_in_order
from tars import write_tar

from gpuannot import Inputs
from gpuannot.errors import ImageError
from gpuannot.images.batches import ImageBatches
from gpuannot.images.containers import read
from gpuannot.images.decode import IMAGE_SUFFIXES, decode_image
from gpuannot.images.input import Input
from gpuannot.images.inputs import named_inputs
from gpuannot.images.tables import IMAGE_COLUMNS

not_as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root lists folders of any permission")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def picture(number: int) -> bytes:
    """A JPEG that differs from those of other numbers."""
    return encoded(np.roll(scene(), 3 * number, axis=1), "JPEG")


def names(inputs: Iterable[Input], below: Path | None = None) -> list[str]:
    return [os.path.relpath(item.name, below) if below else item.name for item in inputs]


def outcome(item: Input) -> bytes | str:
    try:
        return read(item)
    except ImageError as error:
        assert error.path == item.name
        return f"{error.stage}: {error.reason}"


# ---- files and folders


def test_a_folder_is_walked_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a/z.png", "a/łąka i las.Tiff", "c.txt", "a.jpg", ".hidden.jpg", ".cache/x.jpg", "d.jpg/inner.webp")
    expected = ["a/z.png", "a/łąka i las.Tiff", "a.jpg", "b.JPG", "d.jpg/inner.webp"]
    assert names(Inputs(tmp_path), tmp_path) == names(Inputs([str(tmp_path)]), tmp_path) == expected
    assert all(item.kind == "file" and item.place == item.name for item in Inputs(tmp_path))
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in IMAGE_SUFFIXES)


def test_named_files_are_kept_and_taken_once(tmp_path: Path) -> None:
    touch(tmp_path, "x/b.jpg", "x/a.jpg", "x/notes.dat", "photo.dat", ".dot")
    named = [tmp_path / "photo.dat", tmp_path / ".dot", tmp_path / "x" / ".." / "x" / "b.jpg"]
    files = [str(path) for path in named]
    assert names(Inputs([*named, tmp_path / "x", tmp_path / "x" / "b.jpg"])) == [*files, str(tmp_path / "x" / "a.jpg")]
    assert names(Inputs([tmp_path / "x", tmp_path / "x", tmp_path / "x" / "a.jpg"]), tmp_path) == ["x/a.jpg", "x/b.jpg"]
    assert names(Inputs([tmp_path / "x", tmp_path / "x" / "notes.dat"]), tmp_path) == ["x/a.jpg", "x/b.jpg", "x/notes.dat"]
    assert names(Inputs([named[0], named[0], str(named[0])])) == files[:1]
    assert names(Inputs([])) == []


def test_links_are_followed_without_looping(tmp_path: Path) -> None:
    touch(tmp_path, "set/one.jpg", "set/deep/two.jpg", "elsewhere/three.jpg", "set/.hidden/four.jpg")
    (tmp_path / "set/deep/up").symlink_to(tmp_path / "set")
    (tmp_path / "set/self.jpg").symlink_to("self.jpg")
    (tmp_path / "set/lost.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "set/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/a same.jpg").symlink_to("one.jpg")  # found anyway, under its own name
    (tmp_path / "set/only way.jpg").symlink_to(".hidden/four.jpg")
    found = names(Inputs(tmp_path / "set"), tmp_path / "set")
    assert found == ["deep/two.jpg", "lost.jpg", "more/three.jpg", "one.jpg", "only way.jpg", "self.jpg"]
    assert [type(outcome(item)) for item in Inputs(tmp_path / "set")] == [bytes, str, bytes, bytes, bytes, str]


def test_what_is_not_there_is_an_input_that_fails(tmp_path: Path) -> None:
    touch(tmp_path, "empty/readme.txt", "good.jpg")
    sources = [tmp_path / "nowhere", tmp_path / "empty", "", str(tmp_path / "no*.png"), tmp_path / "good.jpg", "\0.jpg"]
    outcomes = [outcome(item) for item in Inputs(sources)]
    assert outcomes[0] == outcomes[2] == "find: no such file or folder"
    assert str(outcomes[1]).startswith("find: no image in this folder or below it; looked for files ending in .apng")
    assert outcomes[3:] == ["find: no file matches this pattern", b"", "find: no such file or folder"]


@not_as_root
def test_a_closed_folder_is_an_input_that_fails(tmp_path: Path) -> None:
    touch(tmp_path, "open.jpg", "closed/in.jpg")
    (tmp_path / "closed").chmod(0)
    try:
        found = {os.path.basename(item.name): outcome(item) for item in Inputs(tmp_path)}
        assert found == {"closed": "find: this folder cannot be listed: Permission denied", "open.jpg": b""}
    finally:
        (tmp_path / "closed").chmod(0o700)


@pytest.mark.parametrize(
    ("glob", "exclude", "expected"),
    [
        ((), ("*.png",), ["a/b/x.jpg", "a/x.jpg", "thumbs/x.jpg", "x.jpg"]),
        ((), ("thumbs", "a/b"), ["a/x.jpg", "x.jpg", "x.png"]),
        ((), ("a/*",), ["thumbs/x.jpg", "x.jpg", "x.png"]),
        (("*.png", "a/*.jpg"), (), ["a/b/x.jpg", "a/x.jpg", "x.png"]),
        (("*.dat",), (), ["a/x.dat"]),
        (("*.jpg",), ("x.*",), []),
    ],
)
def test_glob_and_exclude(tmp_path: Path, glob: Sequence[str], exclude: Sequence[str], expected: list[str]) -> None:
    touch(tmp_path, "x.jpg", "x.png", "a/x.jpg", "a/x.dat", "a/b/x.jpg", "thumbs/x.jpg", "a/.x.png")
    found = list(Inputs(tmp_path, glob=glob, exclude=exclude))
    if expected:
        assert names(found, tmp_path) == expected
    else:
        assert [item.kind for item in found] == ["failed"]
        assert "looked for *.jpg, without those excluded" in found[0].detail


def test_a_quoted_pattern(tmp_path: Path) -> None:
    touch(tmp_path, "a1.jpg", "a2.jpg", "b.jpg", "deep/er/a3.jpg", "odd [1].jpg")
    assert names(Inputs(str(tmp_path / "a*.jpg")), tmp_path) == ["a1.jpg", "a2.jpg"]
    assert names(Inputs(f"{tmp_path}/**/a[13].jpg"), tmp_path) == ["a1.jpg", "deep/er/a3.jpg"]
    assert names(Inputs(tmp_path / "odd [1].jpg"), tmp_path) == ["odd [1].jpg"]  # a file of that very name


@pytest.mark.parametrize("source", [3, None, [b"bytes"], [np.zeros((2, 2, 3), np.uint8)]])
def test_only_paths_are_sources(source: Any) -> None:
    with pytest.raises(TypeError, match=r"paths or URLs|not iterable"):
        Inputs(source)


# ---- lists and tables


def test_a_list(tmp_path: Path) -> None:
    touch(tmp_path, "lists/a b.jpg", "up.jpg", "lists/żółw.jpg")
    lines = ["a b.jpg", "../up.jpg", "", str(tmp_path / "up.jpg"), "żółw.jpg", "gone.jpg", "a b.jpg", "nul\0.jpg", "folder"]
    (tmp_path / "lists" / "folder").mkdir()
    for text, encoding in (("\n".join(lines), "utf-8-sig"), ("\r\n".join([*lines, ""]), "utf-8")):
        (tmp_path / "lists" / "list.TXT").write_bytes(text.encode(encoding))
        found = list(Inputs(tmp_path / "lists" / "list.TXT"))
        assert names(found) == [line for line in lines if line]
        outcomes = [outcome(item) for item in found]
        assert outcomes[:4] == [b"", b"", b"", b""] and outcomes[5] == b""
        assert outcomes[4] == "find: no such file" and str(outcomes[6]).startswith("find: ")
        assert outcomes[7] == "find: is a folder, not a file"


def test_a_list_of_names_that_are_not_utf8(tmp_path: Path) -> None:
    with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9.jpg"), "wb") as file:
        file.write(picture(1))
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.jpg\n")
    assert [outcome(item) for item in Inputs(tmp_path / "list.txt")] == [picture(1)]


def write_csv(path: Path, rows: Iterable[Sequence[str]]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_a_column_of_a_csv(tmp_path: Path) -> None:
    touch(tmp_path, "a, b.jpg", "c\nd.jpg", "e.jpg")
    rows = [["id", "image", "path of it"], ["1", "a, b.jpg", "e.jpg"], ["2", "c\nd.jpg", ""], ["3"], [], ["4", "gone.jpg", "e.jpg"]]
    table = write_csv(tmp_path / "t.csv", rows)
    assert names(Inputs(table)) == ["a, b.jpg", "c\nd.jpg", f"{table}#2", "gone.jpg"]
    assert [outcome(item) for item in Inputs(table)] == [b"", b"", "find: no path in column 'image'", "find: no such file"]
    chosen = Inputs(table, column="path of it")
    assert names(chosen) == ["e.jpg", f"{table}#1", f"{table}#2", "e.jpg"]
    [wrong] = Inputs(table, column="nope")
    assert wrong.detail == "no column 'nope', only id, image, path of it"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.csv", b"", "it is empty; expected a header that names its columns"),
        ("t.csv", b"id,words\n1,sea\n", "no column of a usual name among id, words"),
        ("t.csv", b'path\n"open', 'line 2: a quote (") is opened and not closed'),
        ("t.tsv", b"id\twords\n1\tsea\n", "no column of a usual name among id, words"),
        ("t.jsonl", b"[]\n", "line 1: [], expected an object with the image's path"),
        ("t.parquet", b"", "broken or cut"),
        ("t.parquet", b"PAR1 but no more", "broken or cut"),
        ("t.tar", b"", "broken or cut, what follows is lost: empty file"),
        ("t.tar", b"no tar at all" * 100, "broken or cut"),
        ("t.tar.gz", b"no gzip", "broken or cut"),
        ("t.tgz", gzip.compress(b"gzip, but no tar" * 100, mtime=0), "broken or cut"),
    ],
)
def test_a_container_that_is_none(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "good.jpg").write_bytes(picture(0))
    broken, good = Inputs([tmp_path / name, tmp_path / "good.jpg"])
    assert reason in str(outcome(broken)) and outcome(good) == picture(0)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_broken_row_costs_itself_alone(tmp_path: Path, end: str) -> None:
    """Every form of a broken row, each between good ones; the rows after the last are read too."""
    touch(tmp_path, "a.jpg", "b,c.jpg", "d e.jpg")
    faults = {
        '"a"b.jpg,2': 'line {}: \'"a"b.jpg\' has text behind a closing quote (")',
        '"a.jpg,3': 'line {}: a quote (") is opened and not closed; ',
        "nul\0.jpg,4": "line {}: 'nul\\x00.jpg' is no path, it holds a NUL byte",
        ",5": "no path in column 'image'",
        '"",6': "no path in column 'image'",
        '"a.jpg"x"": "",7': 'line {}: \'"a.jpg"x"": ""\' has text behind a closing quote (")',
    }
    good = {"a.jpg,1": "a.jpg", '"b,c.jpg",1': "b,c.jpg", f"d e.jpg,{'x' * 200_000}": "d e.jpg", 'a.jpg,say "hi"': "a.jpg"}
    rows = [row for fault in faults for row in (fault, *good)]
    table = tmp_path / "t.csv"
    table.write_bytes("".join(f"{row}{end}" for row in ["image,note", *rows]).encode())
    expected = [
        (f"{table}#{number}", faults[row].format(number + 2)) if row in faults else (good[row], "")
        for number, row in enumerate(rows)
    ]
    found = list(Inputs(table))
    assert [item.name for item in found] == [name for name, _ in expected]
    for item, (_, reason) in zip(found, expected, strict=True):
        assert item.detail.startswith(reason) and (item.kind == "failed") == bool(reason)
    assert [outcome(item) for item in found if item.kind == "file"] == [b""] * 4 * len(faults)


def test_a_fault_behind_the_path_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('image,note\na.jpg,"open\nb.jpg,"x"y\nc.jpg\nd.jpg,too,many\n')
    assert names(Inputs(tmp_path / "t.csv")) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


def test_json_lines(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "é.jpg")
    lines = ['{"path": "a.jpg", "words": ["sky"]}', "", "nonsense", '{"words": []}', '{"Image Name": "\\u00e9.jpg"}', '{"path": 3}']
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    place = f"{tmp_path}/t.jsonl"
    found = list(Inputs(place))
    assert names(found) == ["a.jpg", f"{place}#1", f"{place}#2", "é.jpg", f"{place}#4"]
    assert [outcome(found[number]) for number in (0, 3)] == [b"", b""]
    assert (
        found[1].detail.startswith("line 3: is not valid JSON: ")
        and found[2].detail == "no path under a usual name in {'words': []}"
    )
    assert found[4].detail == "no path under a usual name in {'path': 3}"
    assert names(Inputs(place, column="Image Name"))[3] == "é.jpg"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "image_name,words\na.jpg,sky\n"),
        ("t.csv", "image;words\na.jpg;sky,sea\n"),
        ("t.csv", "ImageID\tLabelName\na.jpg\t/m/01\n"),
        ("t.csv", "id|File Name\n1|a.jpg\n"),
        ("t.tsv", "id, or so\tIMAGE-PATH\n1\ta.jpg\n"),
        ("t.csv", "\n\nid , image \n1,a.jpg\n"),
        ("t.csv", 'id,"file_name"\n1,"a.jpg"\n'),
        ("t.csv", "words,filename,image_id\nsky,a.jpg,17\n"),
    ],
)
def test_headers_and_separators_that_fit_takes_too(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert names(Inputs(tmp_path / name)) == ["a.jpg"]


def test_columns_of_parquet(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    pictures = [picture(number) for number in range(50)]
    pictures[7] = None  # type: ignore[call-overload]
    columns = {
        "file_name": pa.array(["a.jpg", None, "b.jpg", ""] + ["a.jpg"] * 46).dictionary_encode(),
        "content": pa.array(pictures, pa.large_binary()),
        "image": pa.array([{"bytes": content, "path": "x"} for content in pictures]),  # as Hugging Face's data sets have it
        "size": pa.array(range(50)),
    }
    table = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), table, row_group_size=20)
    by_path = list(Inputs(table, column="file_name"))
    assert names(by_path)[:4] == ["a.jpg", f"{table}#1", "b.jpg", f"{table}#3"]
    assert [outcome(item) for item in by_path[:4]] == [b"", "find: no path in column 'file_name'", b"", by_path_none()]
    expected = [content or "read: no image in this row" for content in pictures]
    for column in ("content", "image"):
        items = list(Inputs(table, column=column))
        assert names(items) == [f"{table}#{row}" for row in range(50)]
        assert read_in_order(items) == expected
        assert read_in_order(items[33:]) == expected[33:]  # from the middle of a later row group, as when resumed
        assert read_in_order(items[::-7]) == expected[::-7]  # out of order: slow, but right
        assert outcome(items[41]) == expected[41]
    assert IMAGE_COLUMNS.index("file_name") < IMAGE_COLUMNS.index("image")
    assert names(Inputs(table)) == names(by_path)
    [wrong] = Inputs(table, column="size")
    assert wrong.detail == "column 'size' holds int64, expected paths (string) or encoded images (binary, or struct with bytes)"


def by_path_none() -> str:
    return "find: no path in column 'file_name'"


def test_lists_that_are_none(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    (tmp_path / "a.jpg").write_bytes(picture(0))
    listed.write_bytes("a.jpg\n".encode("utf-16"))
    assert [outcome(item) for item in Inputs(listed)] == [picture(0)]
    (tmp_path / "table.tsv").write_bytes("Photo\tKeywords\na.jpg\tGröße\n\t\n".encode("utf-16"))
    assert [outcome(item) for item in Inputs(tmp_path / "table.tsv")] == [picture(0)]
    for length in (2**15 - 1, 2**15, 2**15 + 1, 2**16, 10**6):
        listed.write_text(f"a.jpg\n{'x' * length}\na.jpg\n")
        first, long, last = Inputs(listed)
        assert outcome(first) == outcome(last) == picture(0)
        assert length < 2**15 or outcome(long) == "find: a line of more than 32768 characters is no path"


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder that the user of the test may enter, but not list; for root, as a user without rights."""
    folder = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    (folder / "a.jpg").write_bytes(picture(0))
    folder.chmod(0o711 if root else 0o311)
    if root:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="without users")
def test_a_file_in_a_folder_that_may_be_entered_and_not_listed(as_nobody: Path) -> None:
    image = as_nobody / "a.jpg"
    items = list(Inputs([as_nobody, image]))
    assert [item.kind for item in items] == ["failed", "file"] and outcome(items[1]) == picture(0)
    assert "this folder cannot be listed: Permission denied" in items[0].detail
    assert names(Inputs([image, as_nobody])) == [str(image), str(as_nobody)]


@pytest.mark.parametrize("exclude", [["sub/*"], ["sub"], ["b.jpg"], ["*"]])
def test_what_is_named_is_an_input_in_any_order(tmp_path: Path, exclude: list[str]) -> None:
    touch(tmp_path, "a.jpg", "sub/b.jpg", "sub/c.jpg", "notes.md")
    named = [str(tmp_path / "sub" / "b.jpg"), str(tmp_path / "notes.md")]
    one, other = ({item.name for item in Inputs(sources, exclude=exclude)} for sources in ([tmp_path, *named], [*named, tmp_path]))
    assert one == other and set(named) <= one
    for sources in ([tmp_path, *named], [*named, tmp_path]):
        found = names(Inputs(sources, exclude=exclude))
        assert len(found) == len(set(found))


def test_a_link_that_a_folder_has_given_is_given_once(tmp_path: Path) -> None:
    touch(tmp_path, "else/y.jpg", "w/a.jpg")
    (tmp_path / "w" / "link.jpg").symlink_to(tmp_path / "else" / "y.jpg")
    for others in (["w", "w/link.jpg"], ["w/link.jpg", "w"], ["w", "else/y.jpg"], ["else/y.jpg", "w"]):
        assert len(list(Inputs([tmp_path / other for other in others]))) == 2


def test_patterns_hold_for_a_folder_and_not_for_links_to_it(tmp_path: Path) -> None:
    touch(tmp_path, "z/f.jpg")
    (tmp_path / "a").symlink_to(tmp_path / "z")
    for options in ({}, {"exclude": ["a/*"]}, {"glob": ["z/*.jpg"]}):
        assert names(Inputs(tmp_path, **options), tmp_path) == ["z/f.jpg"]
    assert names(Inputs(tmp_path, exclude=["z"]), tmp_path) == ["a/f.jpg"]


def test_a_remote_folder_that_cannot_be_listed_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    files = fsspec.filesystem("memory")
    for name in ("a/1.jpg", "b/2.jpg", "c/3.jpg"):
        files.pipe_file(f"/listing/{name}", picture(0))
    listing = type(files).ls

    def refusing(self: Any, path: str, *arguments: Any, **options: Any) -> Any:
        if path.rstrip("/").endswith("/b"):
            raise PermissionError("not yours")
        return listing(self, path, *arguments, **options)

    monkeypatch.setattr(type(files), "ls", refusing)
    found = list(Inputs("memory://listing"))
    assert [item.kind for item in found] == ["file", "failed", "file"]
    assert found[1].detail == "this folder cannot be listed: not yours"


def test_half_a_character_is_no_path(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(0))
    (tmp_path / "t.jsonl").write_text('{"path": "\\ud800.jpg"}\n{"path": "a.jpg"}\n')
    first, second = Inputs(tmp_path / "t.jsonl")
    assert "is no path, it holds half a character" in first.detail and outcome(second) == picture(0)


# ---- tar shards


@pytest.mark.parametrize("name", ["a::b.jpg", "::.jpg", "http::x.jpg", "d::e/f.jpg"])
def test_colons_in_the_names_of_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(picture(0))
    (tmp_path / "list.txt").write_text(f"{name}\n")
    write_tar(tmp_path / "s::t.tar", {"x.jpg": picture(1)})
    monkeypatch.chdir(tmp_path)
    for sources in (".", name, "list.txt", str(path)):
        assert [outcome(item) for item in Inputs(sources)] == [picture(0)]
    assert [outcome(item) for item in Inputs("s::t.tar")] == [picture(1)]


def header_of(name: str, size: int) -> bytes:
    """A GNU header of a file, whose size may be negative."""
    header = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (size % 256**12).to_bytes(12, "big") if size < 0 else b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def pax_header_of(name: str, size: str) -> bytes:
    """A pax header that states another size than the one after it."""
    record = f" size={size}\n"
    length = len(record) + 1 + (len(record) + 2 > 9)
    content = f"{length}{record}".encode()
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(content)
    return header.tobuf() + content.ljust(512, b"\0") + tarfile.TarInfo(name).tobuf()


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("size", [-512, -1024, -(2**62)])
@pytest.mark.parametrize("pax", [False, True])
def test_a_negative_size_ends_the_listing(tmp_path: Path, suffix: str, size: int, pax: bool) -> None:
    """Taken as it stands, it would lead back to a header that was read: for ever."""
    good = picture(0)
    header = tarfile.TarInfo("good.jpg")
    header.size = len(good)
    first = header.tobuf() + good + bytes(-len(good) % 512)
    content = first + (pax_header_of("bad.jpg", str(size)) if pax else header_of("bad.jpg", size)) + bytes(1024)
    path = tmp_path / f"s{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == ".tar.gz" else content)
    items = list(islice(Inputs(path), 100))
    assert names(items, tmp_path)[0] == f"s{suffix}/good.jpg" and len(items) == 2
    found = read_in_order(items)
    assert found[0] == good and f"a size of {size} bytes" in str(found[1]) and "broken or cut" in str(found[1])


SHARD: dict[str, bytes | None] = {
    "000.jpg": picture(0),
    "000.json": b"{}",
    "000.cls": b"3",
    "deep": None,
    "deep/001.JPG": picture(1),
    "deep/._001.jpg": b"resource fork",
    f"{'long' * 60}/żółw.png": encoded(scene(), "PNG"),
    "empty.jpg": b"",
    "junk.png": b"junk",
}
IN_SHARD = [name for name in SHARD if name.lower().endswith(("jpg", "png")) and "._" not in name]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz"])
@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_shard(tmp_path: Path, suffix: str, format: int) -> None:
    shard = write_tar(tmp_path / f"s{suffix}", SHARD, format=format)
    items = list(Inputs(shard))
    expected = [SHARD[name] for name in IN_SHARD]
    assert names(items) == [f"{shard}/{name}" for name in IN_SHARD]
    assert read_in_order(items) == expected
    assert read_in_order(items[2:]) == expected[2:]
    assert read_in_order(items[::-1]) == expected[::-1]
    assert [outcome(item) for item in items] == expected
    assert list(Inputs(tmp_path, glob=["*.tar", "*.tar.gz", "*.tgz"])) == items  # shards in a folder


def test_shards_by_pattern_in_order(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        write_tar(tmp_path / f"s{number}.tar", {"a.jpg": picture(number)})
    found = list(Inputs(f"{tmp_path}/s?.tar"))
    assert names(found, tmp_path) == ["s0.tar/a.jpg", "s1.tar/a.jpg", "s2.tar/a.jpg"]
    assert read_in_order(found) == [picture(number) for number in range(3)]


def test_a_shard_that_is_cut_keeps_what_is_before(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "s.tar", {f"{number}.jpg": picture(number) for number in range(5)})
    third = list(Inputs(whole))[2]
    content = whole.read_bytes()
    (tmp_path / "good.jpg").write_bytes(picture(9))
    for cut in (third.at + 100, third.at - 100):  # within a file, within a header
        whole.write_bytes(content[:cut])
        outcomes = read_in_order(Inputs([whole, tmp_path / "good.jpg"]))
        assert outcomes[:2] == [picture(0), picture(1)] and outcomes[-1] == picture(9)
        reasons = outcomes[2:-1]
        assert reasons and all(isinstance(reason, str) and ("ends" in reason or "broken or cut" in reason) for reason in reasons)
        packed = tmp_path / "p.tar.gz"
        packed.write_bytes(gzip.compress(content)[: len(gzip.compress(content[:cut]))])
        outcomes = read_in_order(Inputs([packed, tmp_path / "good.jpg"]))
        assert outcomes[0] == picture(0) and outcomes[-1] == picture(9) and "broken or cut" in str(outcomes[-2])


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_broken_header_does_not_end_a_shard_silently(tmp_path: Path, suffix: str) -> None:
    whole = write_tar(tmp_path / "s.tar", {f"{number}.jpg": picture(number) for number in range(5)})
    third = list(Inputs(whole))[2]
    content = bytearray(whole.read_bytes())
    content[third.at - 512 : third.at] = b"\xff" * 512
    shard = tmp_path / f"broken{suffix}"
    shard.write_bytes(gzip.compress(content) if suffix.endswith("gz") else bytes(content))
    outcomes = read_in_order(Inputs(shard))
    assert outcomes[:2] + outcomes[3:] == [picture(number) for number in (0, 1, 3, 4)]
    assert f"no tar header at byte {third.at - 512} where one should be" in str(outcomes[2])


def test_links_in_a_shard_fail(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        header = tarfile.TarInfo("link.jpg")
        header.type, header.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(header)
    assert read_in_order(Inputs(tmp_path / "s.tar")) == ["find: is a link or a special file, not an image"]


def test_a_container_that_vanishes_after_it_was_listed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [picture(0), picture(1)]}), tmp_path / "t.parquet")
    shards = [write_tar(tmp_path / "a.tar", SHARD), write_tar(tmp_path / "b.tar.gz", SHARD), tmp_path / "t.parquet"]
    items = list(Inputs(shards))
    for shard in shards:
        shard.unlink()
    assert set(read_in_order(items)) == {"find: no such file"}


# ---- URLs


@pytest.fixture
def memory() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield files
    files.store.clear()


def test_urls(memory: Any, tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "s.tar", SHARD).read_bytes()
    packed = write_tar(tmp_path / "s.tar.gz", SHARD).read_bytes()
    table = io.BytesIO()
    pq.write_table(pa.table({"image": [picture(5), picture(6)]}), table)
    contents = {
        "/set/b.jpg": picture(0),
        "/set/a/z.png": picture(1),
        "/set/.hidden.jpg": b"",
        "/set/notes.txt": b"",
        "/list.txt": b"set/b.jpg\nmemory://set/a/z.png\ngone.jpg\n",
        "/shards/s0.tar": shard,
        "/shards/s1.tar.gz": packed,
        "/t.parquet": table.getvalue(),
    }
    for path, content in contents.items():
        memory.pipe_file(path, content)
    found = list(Inputs(["memory://set", "memory://set/b.jpg", "memory://list.txt"]))
    assert names(found) == [
        "memory:///set/a/z.png", "memory:///set/b.jpg", "memory:///set/b.jpg", "set/b.jpg", "memory://set/a/z.png", "gone.jpg",
    ]  # fmt: skip
    assert read_in_order(found) == [picture(1), picture(0), picture(0), picture(0), picture(1), "find: no such file"]
    in_shard = [SHARD[name] for name in IN_SHARD]
    shards = list(Inputs("memory://shards/s*.tar*"))
    assert read_in_order(shards) == [*in_shard, *in_shard]
    assert shards[0].name == "memory:///shards/s0.tar/000.jpg"
    assert read_in_order(Inputs("memory://t.parquet")) == [picture(5), picture(6)]
    assert names(Inputs("memory://set", exclude=["a"])) == ["memory:///set/b.jpg"]
    outcomes = [
        outcome(item)
        for item in Inputs(
            ["memory://nope.jpg", "memory://no/*.jpg", "nosuch://x.jpg", "memory://shards", f"file://{tmp_path}/gone"]
        )
    ]
    assert outcomes[0] == outcomes[4] == "find: no such file"
    assert outcomes[1] == "find: no file matches this pattern"
    assert "cannot be opened: Protocol not known: nosuch" in str(outcomes[2])
    assert "no image in this folder" in str(outcomes[3])


def test_a_chained_url(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        file.writestr("in/a.jpg", picture(0))
        file.writestr("in/b.jpg", picture(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # fsspec's own handle of the archive
        found = list(Inputs(f"zip://in/*.jpg::file://{tmp_path}/set.zip"))
        assert names(found) == [f"zip://in/{name}.jpg::file://{tmp_path}/set.zip" for name in "ab"]
        assert read_in_order(found) == [picture(0), picture(1)]


def test_a_store_that_breaks_off(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe_file("/a.jpg", picture(0))
    [item] = Inputs("memory://a.jpg")

    def refuse(*_: Any, **__: Any) -> bytes:
        raise ConnectionResetError("connection reset by peer")

    monkeypatch.setattr(type(memory), "cat_file", refuse)
    assert outcome(item) == "read: cannot be read: connection reset by peer"


# ---- through the decoder


def test_inputs_decode_like_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(3))
    pq.write_table(pa.table({"bytes": [picture(4), b"junk"]}), tmp_path / "t.parquet")
    write_tar(tmp_path / "s.tar.gz", SHARD)
    items = list(Inputs([tmp_path / "a.jpg", tmp_path / "nowhere.jpg", tmp_path / "t.parquet", tmp_path / "s.tar.gz"]))
    batches = ImageBatches(items, size=16, batch_size=4, workers=3)
    decoded = {int(i): image for index, batch in batches for i, image in zip(index, batch.permute(0, 2, 3, 1).numpy(), strict=True)}
    assert sorted(decoded) == [0, 2, 4, 5, 6]
    for place, content in ((0, picture(3)), (2, picture(4)), (4, picture(0)), (5, picture(1))):
        assert np.array_equal(decoded[place], decode_image(content, 16))
    assert [(failure.path, failure.stage) for failure in batches.failures] == [
        (items[place].name, stage) for place, stage in ((1, "find"), (3, "decode"), (7, "decode"), (8, "decode"))
    ]


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuannot.images.decode.MAX_BYTES", 1000)
    monkeypatch.setattr("gpuannot.images.archives.MAX_BYTES", 1000)
    (tmp_path / "film.jpg").write_bytes(b"x" * 1001)
    shards = [write_tar(tmp_path / f"s{suffix}", {"film.jpg": b"x" * 1001, "a.jpg": b"x" * 1000}) for suffix in (".tar", ".tgz")]
    outcomes = read_in_order(Inputs([tmp_path / "film.jpg", *shards]))
    assert outcomes[0] == outcomes[1] == outcomes[3] == "read: 1001 bytes; expected at most 1000"
    assert outcomes[2] == outcomes[4] == b"x" * 1000


def test_inputs_are_found_again_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the search has named, it is found again with the same bytes, or the same reason."""
    monkeypatch.chdir(tmp_path)
    pictures = {f"deep/{number}.jpg": picture(number) for number in range(3)}
    write_tar(tmp_path / "a.tar", {"./here.jpg": picture(4), **pictures})
    write_tar(tmp_path / "b.tar.gz", pictures)
    with zipfile.ZipFile("c.ZIP", "w") as archive:
        for name, content in pictures.items():
            archive.writestr(name, content)
    pq.write_table(pa.table({"image": [picture(5), None, picture(6)]}), "t.parquet")
    touch(tmp_path, "folder.tar/inside#1.jpg")
    found = list(Inputs(["a.tar", "b.tar.gz", "c.ZIP", "t.parquet", "folder.tar"]))
    assert len(found) == 4 + 3 + 3 + 3 + 1 and {item.kind for item in found} == {"slice", "member", "row", "file"}
    again = named_inputs([item.name for item in reversed(found)])
    assert [item.name for item in again] == [item.name for item in reversed(found)]
    assert [outcome(item) for item in reversed(again)] == [outcome(item) for item in found]
    files = fsspec.filesystem("memory")
    files.pipe("/named/a.jpg", picture(0))
    odd = named_inputs(
        ["memory://named/a.jpg", "a.tar/here.jpg", Path("a.tar/deep/9.jpg"), "none.tar/a.jpg", "t.parquet#7", "no#1"]
    )
    assert [outcome(item) for item in odd] == [
        picture(0), picture(4), "find: a.tar holds no such image", "find: no such file", "find: t.parquet holds no such image",
        "find: no such file",
    ]  # fmt: skip


def test_a_name_that_an_archive_holds_twice_or_cannot_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tar(tmp_path / "a.tar", {"a.jpg": picture(0), "./a.jpg": picture(1), "b.jpg": picture(2)})
    first, second = named_inputs(["a.tar/a.jpg", "a.tar/b.jpg"])
    assert outcome(first) == "find: a.tar holds several files of this name; unpack it, and name the right one"
    assert outcome(second) == picture(2)
    (tmp_path / "z.zip").write_bytes(b"PK\x03\x04 and nothing more")
    [broken], [expected] = named_inputs(["z.zip/a.jpg"]), list(Inputs("z.zip"))
    assert expected.kind == "failed" and outcome(broken) == f"find: {expected.detail}"


def test_images_that_are_to_be_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "photos/a.jpg", "photos/b.JPG", "photos/deep/c.jpg", "d.jpg")
    (tmp_path / "photos" / "link.jpg").symlink_to("../d.jpg")
    (tmp_path / "list.txt").write_text("photos/a.jpg\nphotos/b.JPG\nphotos/a.jpg\n")
    write_tar(tmp_path / "shard.tar", {"a.jpg": picture(0)})
    found = Inputs(["photos", "list.txt", "d.jpg", "shard.tar"], skip=["photos/../photos/a.jpg", tmp_path / "d.jpg", "gone.jpg"])
    for _ in range(2):  # the same each time
        assert names(found) == ["photos/b.JPG", "photos/deep/c.jpg", "photos/b.JPG", "shard.tar/a.jpg"] and found.skipped == 4
    assert names(Inputs("photos/a.jpg", skip=["photos/a.jpg"])) == []
