"""Words beside images: XMP sidecars and captions, read back by exiftool and by us."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lxml import etree
from PIL import Image

from gpuannot.datasets import load_labelled_images
from gpuannot.errors import InvalidArgumentError
from gpuannot.images.refusal import Unusable
from gpuannot.images.xmp import Keywords, Packet
from gpuannot.jobs.writers import Selection, TagWriter
from gpuannot.jobs.writers.tag_file import Change, Tags
from gpuannot.jobs.writers.tags import remove_tags
from gpuannot.jobs.writers.xmp import Sidecar, without_words
from gpuannot.model.annotations import Annotations
from gpuannot.system.atomic_files import temporary_name

WORDS = ("sky", "sea, calm", "AC|DC", "Öl & <Wasser>", "日本", "animals|dog", "2024", "back\\slash", "bad\x01sign")
NAMES = (
    "a b",
    "ü",
    "'quoted\"",
    "日本語",
    "#1",
    "100%",
    "-dash",
    "a;b,c",
    "[x](y)",
    "emoji 🐚",
    "dots.in.name",
    "tab\tname",
    "e\u0301",
)
MODEL = "m" * 64


def given(names: Sequence[object], words: Sequence[Sequence[str]], confidence: float | None = 0.75) -> Annotations:
    width = max(map(len, words))
    index = np.array([[*map(WORDS.index, some), *[-1] * (width - len(some))] for some in words], np.int64).reshape(-1, width)
    values = None if confidence is None else np.where(index >= 0, np.float32(confidence), np.float32(0))
    distance = np.where(index >= 0, np.float32(1), np.float32(np.inf))
    return Annotations(tuple(map(str, names)), np.arange(len(names)), index, distance, WORDS, confidence=values)


def picture(path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (9, 99, 9)).save(path, **options)
    return path


def write(
    *images: Path, words: Sequence[str] = ("sky", "2024"), format: str = "xmp", model: str = MODEL, **options: Any
) -> TagWriter:
    writer = TagWriter(format, model_sha256=model, **options)
    writer.write(given(images, [words] * len(images)))
    return writer


def exiftool(*arguments: object) -> bytes:
    """What exiftool says: one run for all files, as it takes its time to start."""
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed (Debian: libimage-exiftool-perl)")
    ran = subprocess.run(["exiftool", "-charset", "filename=utf8", *map(str, arguments)], capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def sidecars(folder: Path) -> dict[Path, dict[str, Any]]:
    """What exiftool reads in all sidecars below a folder."""
    rows = json.loads(exiftool("-j", "-struct", "-G1", "-ext", "xmp", "-r", folder), parse_int=str, parse_float=str)
    return {Path(row["SourceFile"]): row for row in rows}


def listed(value: object) -> list[str]:
    """A list of exiftool, which gives one value alone as that, and what looks like a number as a number."""
    return list(map(str, value)) if isinstance(value, list) else [] if value is None else [str(value)]


def by_hand(subjects: Sequence[str], more: str = "") -> bytes:
    """A sidecar as another program writes it."""
    entries = "".join(f"<rdf:li>{subject}</rdf:li>" for subject in subjects)
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<!-- kept --><rdf:Description rdf:about="uuid:1" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:own="http://example.org/own/" xmlns:lr="http://ns.adobe.com/lightroom/1.0/" xmp:Rating="4" own:Colour="blue"><dc:subject>
<rdf:Bag>{entries}</rdf:Bag></dc:subject>{more}</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>""".encode()


def canonical(content: bytes) -> str:
    return str(etree.canonicalize(from_file=io.BytesIO(content), strip_text=True, with_comments=True))


def keywords(path: Path, **options: bool) -> list[str]:
    return Packet(path.read_bytes()).keywords().words(**options)


def test_two_hundred_odd_names_there_and_back(tmp_path: Path) -> None:
    names = [tmp_path / f"{NAMES[number % len(NAMES)]} {number}.{('jpg', 'png')[number % 2]}" for number in range(200)]
    words = [[WORDS[number % 5], WORDS[5 + number % 3]] for number in range(200)]
    hand = [["by hand", "sky"] if number % 4 == 0 else [] for number in range(200)]
    for name, by in zip(names, hand, strict=True):
        picture(name)
        if by:
            name.with_suffix(".xmp").write_bytes(by_hand(by))
    before = {name: name.read_bytes() for name in names}
    writer = TagWriter("xmp", model_sha256=MODEL)
    writer.write(given(names, words))
    assert (writer.changed, writer.unchanged, writer.failures) == (200, 0, [])
    assert before == {name: name.read_bytes() for name in names}  # the originals are not touched

    expected = [[*by, *(word for word in some if word not in by)] for by, some in zip(hand, words, strict=True)]
    read = sidecars(tmp_path)
    assert len(read) == 200
    for name, by, some, together in zip(names, hand, words, expected, strict=True):
        row = read[name.with_suffix(".xmp")]
        assert listed(row["XMP-dc:Subject"]) == together == keywords(name.with_suffix(".xmp"), machine=True)
        assert listed(row.get("XMP-lr:HierarchicalSubject")) == [word for word in some if word not in by and "|" not in word]
        assert keywords(name.with_suffix(".xmp")) == by
        if by:
            assert row["XMP-xmp:Rating"] == "4" and row["XMP-own:Colour"] == "blue"
    images = load_labelled_images(tmp_path, labels="keywords", machine_words=True)
    carried = [{images.vocabulary[word] for word in images.labels[[row]].indices} for row in range(len(images))]
    assert dict(zip(images.paths, carried, strict=True)) == dict(zip(names, map(set, expected), strict=True))
    assert load_labelled_images(tmp_path).vocabulary == ("by hand", "sky")  # what a model said is no label

    writer.write(given(names, words))
    assert (writer.changed, writer.unchanged) == (200, 200)
    assert all(isinstance(change, Change) for _, change in remove_tags(tmp_path))
    left = {name.with_suffix(".xmp") for name, by in zip(names, hand, strict=True) if by}
    assert set(tmp_path.glob("*.xmp")) == left
    assert {canonical(path.read_bytes()) for path in left} == {canonical(by_hand(["by hand", "sky"]))}


def test_what_another_program_does_with_them_counts(tmp_path: Path) -> None:
    """Exiftool writes sidecars anew: a keyword that was added there stays, one of ours that was taken out does not come back."""
    image, file = picture(tmp_path / "a.jpg"), tmp_path / "a.xmp"
    write(image, words=["sky", "2024", "日本"])
    exiftool("-q", "-overwrite_original", "-XMP-dc:Subject+=later", "-XMP-dc:Subject-=sky", file)
    write(image, words=["sky", "AC|DC", "日本"], model="n" * 64)
    assert set(listed(sidecars(tmp_path)[file]["XMP-dc:Subject"])) == {"日本", "later", "AC|DC"}
    marker = Packet(file.read_bytes()).marker()
    assert marker.model == "n" * 64 and marker.words == {"日本": "0.7500", "AC|DC": "0.7500"} and marker.rejected == ("sky",)
    assert keywords(file) == ["later"]
    assert [change.removed for _, change in remove_tags(tmp_path) if isinstance(change, Change)] == [("AC|DC", "日本")]
    assert keywords(file, machine=True) == ["later"] and not Packet(file.read_bytes()).marker()


def test_bars_are_levels_where_they_are_said_to_be(tmp_path: Path) -> None:
    image, file = picture(tmp_path / "a.jpg"), tmp_path / "a.xmp"
    file.write_bytes(
        by_hand(["cat"], "<lr:hierarchicalSubject><rdf:Bag><rdf:li>animals|cat</rdf:li></rdf:Bag></lr:hierarchicalSubject>")
    )
    write(image, words=["animals|dog"], hierarchy=True)
    packet = Packet(file.read_bytes())
    assert packet.keywords().flat == ("cat", "dog") and packet.keywords().paths == ("animals|cat", "animals|dog")
    assert keywords(file, machine=True, hierarchy=True) == ["animals|cat", "animals|dog"] and keywords(file) == ["cat"]
    assert keywords(file, hierarchy=True) == ["animals|cat"]
    both = Packet(file.read_bytes().replace(b"animals|cat", b"pets|dog")).keywords()
    assert both.words() == ["cat", "dog"] and both.words(hierarchy=True) == ["cat", "pets|dog"]  # somebody says it too
    write(image, words=["animals|dog"])  # and now a keyword with a bar in it
    packet = Packet(file.read_bytes())
    assert packet.keywords().flat == ("cat", "animals|dog") and packet.keywords().paths == ("animals|cat",)
    file.write_bytes(file.read_bytes().replace(b"<rdf:li>animals|dog</rdf:li>", b"<rdf:li>dog</rdf:li>"))  # somebody says: dog
    assert keywords(file) == ["cat", "dog"] and not write(image, words=["animals|dog"]).failures
    assert keywords(file) == keywords(file, machine=True) == ["cat", "dog"]
    assert list(remove_tags(tmp_path)) and keywords(file, machine=True) == ["cat", "dog"]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_a_sidecar_hides_no_keyword_of_its_photo(suffix: str, tmp_path: Path) -> None:
    packet = by_hand(["harbour", "sky"])
    options = {"tiffinfo": {700: packet}} if suffix == "tif" else {"xmp": packet}
    if suffix == "png":
        from PIL.PngImagePlugin import PngInfo

        options = {"pnginfo": PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", packet.decode())
    image, file = picture(tmp_path / f"a.{suffix}", **options), tmp_path / "a.xmp"
    write(image)
    assert keywords(file, machine=True) == ["harbour", "sky", "2024"] and Packet(file.read_bytes()).marker().words == {
        "2024": "0.7500"
    }
    assert load_labelled_images(tmp_path).vocabulary == ("harbour", "sky")
    assert list(remove_tags(tmp_path)) and not file.exists()


BAD = {
    "empty": (b"", "broken XML"),
    "cut": (by_hand(["by hand"])[:300], "broken XML"),
    "entities": (b'<!DOCTYPE x [<!ENTITY a "sky">]><x:xmpmeta xmlns:x="adobe:ns:meta/"/>', "document type definition"),
    "bomb": (b'<!DOCTYPE x [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;">]><x>&b;</x>', "document type definition"),
    "outside": (b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>', "document type definition"),
    "html": (b"<html><body/></html>", "is no XMP: it begins with <html>"),
    "other": (b'<rdf xmlns="http://example.org/"><RDF/></rdf>', "is no XMP"),
    "binary": (bytes(range(256)), "broken XML"),
    "nested": (by_hand([]).replace(b"<rdf:Bag></rdf:Bag>", b"<rdf:Description/>"), "no list of words"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_sidecar_that_is_something_else_is_kept(kind: str, tmp_path: Path) -> None:
    content, reason = BAD[kind]
    images = [picture(tmp_path / name) for name in ("a.jpg", "b.jpg")]
    (tmp_path / "a.xmp").write_bytes(content)
    writer = write(*images)
    assert (tmp_path / "a.xmp").read_bytes() == content and writer.changed == 1 and keywords(tmp_path / "b.xmp", machine=True)
    [failure] = writer.failures
    assert failure.path == str(images[0]) and failure.stage == "write" and reason in failure.reason
    assert [path for path, change in remove_tags(tmp_path) if not isinstance(change, Change)] == (
        [] if kind == "nested" else [tmp_path / "a.xmp"]  # in which nothing is ours
    )
    assert (tmp_path / "a.xmp").read_bytes() == content


@pytest.mark.parametrize(
    "subject",
    ["<dc:subject>one</dc:subject>", "<dc:subject><rdf:Seq><rdf:li> one </rdf:li></rdf:Seq></dc:subject>", ' dc:subject="one">'],
)
def test_other_ways_to_write_keywords_down(subject: str, tmp_path: Path) -> None:
    start, end = by_hand([]).decode().split("<dc:subject>\n<rdf:Bag></rdf:Bag></dc:subject>")
    image = picture(tmp_path / "a.jpg")
    content = f"{start[:-1]}{subject}{end}" if subject.endswith('">') else f"{start}{subject}{end}"
    (tmp_path / "a.xmp").write_bytes(content.encode("utf-16") if "Seq" in subject else content.encode())
    assert not write(image, words=["sky"]).failures
    assert keywords(tmp_path / "a.xmp", machine=True) == ["one", "sky"] and keywords(tmp_path / "a.xmp") == ["one"]
    assert b"Rating" in (tmp_path / "a.xmp").read_bytes()


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder with an image that may not be written to, for root neither."""
    folder = tmp_path / "read only"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and shutil.which("mount") and not subprocess.run(mount, capture_output=True, check=False).returncode
    if os.geteuid() == 0 and not mounted:
        pytest.skip("root may write everywhere, and may not mount a file system here")
    picture(folder / "a.jpg")
    folder.chmod(0o555)
    if mounted:
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    yield folder
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)
    folder.chmod(0o755)


def test_what_cannot_be_written_stops_no_other(read_only: Path, tmp_path: Path) -> None:
    images = [read_only / "a.jpg", picture(tmp_path / "b.jpg"), Path("shard.tar/c.jpg"), Path("s3://bucket/d.jpg")]
    writer = write(*images)
    assert writer.changed == 1 and (tmp_path / "b.xmp").exists() and [failure.path for failure in writer.failures] == [
        str(images[0]), "shard.tar/c.jpg", "s3:/bucket/d.jpg",
    ]  # fmt: skip
    assert "cannot be written" in writer.failures[0].reason and "--into FOLDER" in writer.failures[1].reason
    unprintable = write(picture(tmp_path / "e.jpg"), words=["sky", "bad\x01sign"])
    assert "XML cannot hold the word" in unprintable.failures[0].reason and not (tmp_path / "e.xmp").exists()


@pytest.mark.parametrize("other", ["a.png", "a.CR2"])
@pytest.mark.parametrize("format", ["xmp", "txt"])
def test_images_of_one_stem_are_not_mixed(format: str, other: str, tmp_path: Path) -> None:
    images = [picture(tmp_path / "a.jpg"), picture(tmp_path / "b.jpg")]
    (tmp_path / other).write_bytes(images[0].read_bytes())
    writer = write(*images, format=format)
    assert [failure.path for failure in writer.failures] == [str(images[0])] and writer.changed == 1
    assert f"--whole-names writes a.jpg.{format}" in writer.failures[0].reason and not (tmp_path / f"a.{format}").exists()
    assert not write(*images, format=format, whole_names=True).failures and (tmp_path / f"a.jpg.{format}").exists()


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    image, foreign = picture(tmp_path / "a.jpg"), tmp_path / ".a.xmp.part"
    old, young = temporary_name(tmp_path / "a.xmp"), temporary_name(tmp_path / "b.txt")
    for path in (foreign, old, young):
        path.write_bytes(b"half")
    for path in (foreign, old):
        os.utime(path, (1, 1))
    write(image)
    assert not old.exists() and young.exists() and foreign.exists()


def test_captions(tmp_path: Path) -> None:
    images = [picture(tmp_path / name) for name in ("a.jpg", "b.jpg")]
    (tmp_path / "b.txt").write_text("a beach, by hand")
    writer = write(*images, words=["sea, calm", "日本", "back\\slash"], format="txt")
    assert (tmp_path / "a.txt").read_text() == "sea\\, calm, 日本, back\\\\slash\n"
    assert (tmp_path / "b.txt").read_text() == "a beach, by hand" and "--overwrite" in writer.failures[0].reason
    found = load_labelled_images(tmp_path)
    assert found.vocabulary == ("a beach", "back\\slash", "by hand", "sea, calm", "日本") and found.labels.sum() == 5
    assert write(*images, words=["sky"], format="txt", overwrite=True).changed == 2 and (tmp_path / "b.txt").read_text() == "sky\n"
    (tmp_path / "c.xmp").write_bytes(by_hand(["sky"]))
    picture(tmp_path / "c.jpg")


def test_a_folder_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    outside = picture(tmp_path / "elsewhere" / "a.jpg")
    images = [picture(Path("photos/a.jpg")), Path("shard.tar/deep/a.jpg"), Path("t.parquet#3"), Path("../elsewhere/a.jpg"), outside]
    writer = write(*images, into="out", whole_names=True)
    assert not writer.failures and (writer.changed, writer.unchanged) == (4, 1)
    assert sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*.xmp")) == sorted(
        ["photos/a.jpg.xmp", "shard.tar/deep/a.jpg.xmp", "t.parquet#3.xmp", f"{outside}.xmp"[1:]]
    )
    clash = write(Path("s.tar/a.jpg"), Path("s.tar/a.png"), into="out")
    assert clash.changed == 1 and "another image has the same a.xmp" in clash.failures[0].reason


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    writer = TagWriter("xmp", model_sha256=MODEL, into=tmp_path / "tags")
    writer.write(given(["a\0.jpg", "b.jpg"], [["sky"]] * 2))
    assert [(failure.path, failure.reason) for failure in writer.failures] == [("a\0.jpg", "has a name that no file can have")]
    assert writer.changed == 1


def test_which_words_are_written() -> None:
    found = given(["a", "b", "c"], [["sky", "2024", "日本"], ["日本"], ["sky", "2024"]])
    assert found.confidence is not None
    found.confidence[:] = [[0.9, 0.5, 0.2], [0.3, 0, 0], [0.1, 0.2, 0]]

    def words(**options: Any) -> list[tuple[str, ...]]:
        return Selection(**options)(found).words

    assert words() == found.words == [("sky", "2024", "日本"), ("日本",), ("sky", "2024")]
    assert words(threshold=0.4) == [("sky", "2024"), ("日本",), ("2024",)] == found.likely(0.4).words
    assert words(threshold=0.4, of_words={"日本": 0.1}) == [("sky", "2024", "日本"), ("日本",), ("2024",)]
    assert words(threshold=0.4, of_words={"日本": 0.9, "2024": 0.9}) == [("sky",), (), ("sky",)]
    assert words(exclude={"sky", "日本"}) == [("2024",), (), ("2024",)]
    kept = Selection(0.4, exclude={"sky"})(found)
    assert (
        kept.confidence is not None
        and kept.confidence[0].tolist() == [0.5, 0, 0]
        and kept.distance[0].tolist() == [1, np.inf, np.inf]
    )
    for wrong in (Selection(exclude={"skye"}), Selection(of_words={"sky": 1.5})):
        with pytest.raises(InvalidArgumentError, match=r"is 'sky' meant|must lie in 0…1"):
            wrong.check(WORDS, True)
    with pytest.raises(InvalidArgumentError, match="no confidences"):
        Selection(0.5)(given(["a"], [["sky"]], None))


def test_damaged_sidecars_lose_no_keyword() -> None:
    """Whatever is changed in one, it is refused, or each keyword that could be read stays, and none of ours is left in the end."""
    chance = random.Random(0)
    levels = "<lr:hierarchicalSubject><rdf:Bag><rdf:li>animals|cat</rdf:li></rdf:Bag></lr:hierarchicalSubject>"
    whole = [by_hand(["cat", "by hand", "sky"], levels)]
    first = Sidecar().changed(whole[0], Tags(["2024", "AC|DC"], [0.5, 0.4], MODEL), None)
    assert first is not None and first.content is not None
    whole.append(first.content)
    parts = [*re.findall(rb"<[^>]*>", whole[1]), b"", b" ", b"\xff", b"<!-- -->", b"&lt;", b"&a;"]
    refused = 0
    for number in range(400):
        content = bytearray(whole[number % 2])
        for _ in range(chance.randint(1, 3)):
            start = chance.randrange(len(content))
            content[start : start + chance.choice([0, 1, 30, 200])] = chance.choice(parts)
        try:
            before = Packet(bytes(content)).keywords()
            change = Sidecar(hierarchy=number % 3 == 0).changed(bytes(content), Tags(["2024", "animals|dog"], None, MODEL), None)
        except Unusable:
            refused += 1
            continue
        after = bytes(content) if change is None else change.content
        assert after is not None and set(before.words()) <= set(Packet(after).keywords().words())
        gone = without_words(after)
        left = (
            Keywords()
            if gone is not None and gone.content is None
            else Packet(gone.content if gone and gone.content else after).keywords()
        )
        assert set(before.words()) <= set(left.words(machine=True)) <= set(before.words(machine=True)) and not left.machine
    assert 0 < refused < 400
