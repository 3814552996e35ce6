"""Labels that photos carry: IPTC, captions, several at once. XMP sidecars are in tests/jobs/test_tags.py."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from PIL import Image

from gpuannot.datasets import load_labelled_images
from gpuannot.errors import DataError, InvalidArgumentError


def xmp(*words: str) -> bytes:
    entries = "".join(f"<rdf:li>{word}</rdf:li>" for word in words)
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        'rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:subject><rdf:Bag>'
        f"{entries}</rdf:Bag></dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def with_iptc(path: Path, *words: bytes, utf8: bool = False) -> None:
    """A JPEG with keywords in an APP13 segment."""
    fields = [(1, 90, b"\x1b%G")] if utf8 else []
    fields += [(2, 25, word) for word in words]
    data = b"".join(b"\x1c" + struct.pack(">BBH", record, number, len(value)) + value for record, number, value in fields)
    segment = b"Photoshop 3.0\x008BIM\x04\x04\x00\x00" + struct.pack(">I", len(data)) + data + b"\0" * (len(data) % 2)
    Image.new("RGB", (8, 6)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:2] + b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment + content[2:])


def plain(path: Path) -> Path:
    Image.new("RGB", (8, 6)).save(path)
    return path


def carried(folder: Path, **options: str) -> dict[str, set[str]]:
    images = load_labelled_images(folder, **options)  # type: ignore[arg-type]
    return {name: {images.vocabulary[word] for word in images.labels[[row]].indices} for row, name in enumerate(images.image_names)}


def test_keywords_from_everywhere(tmp_path: Path) -> None:
    with_iptc(tmp_path / "a.jpg", "Öl".encode(), b"two words", utf8=True)
    with_iptc(tmp_path / "b.jpg", "Öl".encode("cp1252"))
    with_iptc(tmp_path / "c.jpg", "Öl".encode())
    (tmp_path / "c.xmp").write_bytes(xmp("beach"))
    (tmp_path / "c.jpg.XMP").write_bytes(xmp("boat"))
    (tmp_path / "deep").mkdir()
    plain(tmp_path / "deep" / "d.png")
    (tmp_path / "deep" / "d.xmp").write_bytes(xmp(" e\u0301t\u00e9 "))
    plain(tmp_path / "none.jpg")
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "a.jpg").read_bytes())
    (tmp_path / "broken.xmp").write_bytes(xmp("sky")[:90])
    found = load_labelled_images(tmp_path)
    assert found.photos and found.unlabelled == 1 and not found.subfolders
    assert carried(tmp_path) == {
        "a.jpg": {"Öl", "two words"}, "b.jpg": {"Öl"}, "c.jpg": {"Öl", "beach", "boat"}, "deep/d.png": {"\u00e9t\u00e9"},
    }  # fmt: skip
    [failure] = found.missing
    assert failure.path == str(tmp_path / "broken.jpg") and failure.reason.startswith("broken.xmp: its XMP is broken XML")


def test_captions_and_which_of_both(tmp_path: Path) -> None:
    (tmp_path / "2023").mkdir()
    (tmp_path / "2024").mkdir()
    for name in ("2023/a.jpg", "2024/b.jpg"):
        plain(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text("sky, polar bear,\nsea\\, calm\n", encoding="utf-8")
    (tmp_path / "2024" / "b.xmp").write_bytes(xmp("beach"))
    assert load_labelled_images(tmp_path).subfolders  # two folders of images are words, unless it is said what is
    assert carried(tmp_path, labels="keywords") == {"2024/b.jpg": {"beach"}}
    words = {"sky", "polar bear", "sea, calm"}
    assert carried(tmp_path, labels="captions") == {"2023/a.jpg": words, "2024/b.jpg": words}
    assert carried(tmp_path / "2023") == {"a.jpg": words}
    with pytest.raises(DataError, match=r"keywords \(1\) and with captions \(1\); say which"):
        load_labelled_images(tmp_path / "2024")
    (tmp_path / "2023" / "a.txt").write_text("a photograph of a beach in the evening")
    with pytest.warns(UserWarning, match="look like sentences"):
        load_labelled_images(tmp_path / "2023")


def test_what_may_be_of_several_images(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b.jpg"):
        plain(tmp_path / name)
    for name, word in (("a.xmp", "lost"), ("a.png.xmp", "sky"), ("b.xmp", "sea")):
        (tmp_path / name).write_bytes(xmp(word))
    with pytest.warns(UserWarning, match=r"a.xmp may be of several images and was not read"):
        assert carried(tmp_path) == {"a.png": {"sky"}, "b.jpg": {"sea"}}


def test_photos_without_words(tmp_path: Path) -> None:
    plain(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="no photos with keywords or captions; name the label file"):
        load_labelled_images(tmp_path)
    with pytest.raises(DataError, match=r"not one of its 1 image has a keyword \(XMP, IPTC, sidecars\)"):
        load_labelled_images(tmp_path, labels="keywords")
    with pytest.raises(DataError, match="keywords are read from a folder of photos"):
        load_labelled_images(tmp_path / "a.jpg", labels="keywords")
    with pytest.raises(InvalidArgumentError, match="labels is 'tags'"):
        load_labelled_images(tmp_path, labels="tags")  # type: ignore[arg-type]
