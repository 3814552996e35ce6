"""Archives: what is damaged costs what it is of, and nothing else; every compression gives the same images."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hostile_images import encoded, scene
from reading import read_in_order
from tars import write_tar

from gpuannot import Inputs
from gpuannot.errors import ImageError
from gpuannot.images.containers import Containers, read

PICTURES = [encoded(np.roll(scene(), 3 * number, axis=1), "JPEG") for number in range(6)]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".tar": bytes,
    ".tar.gz": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".tar.xz": lzma.compress,
    ".tar.zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}
OTHER_NAMES = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".tbz": ".tar.bz2", ".txz": ".tar.xz", ".tzst": ".tar.zst"}


def tar_of(folder: Path, count: int = 6) -> bytes:
    shard = write_tar(folder / "whole.tar", {f"{number}.jpg": PICTURES[number] for number in range(count)} | {"a.json": b"{}"})
    return shard.read_bytes()


@pytest.mark.parametrize("suffix", [*COMPRESS, *OTHER_NAMES])
def test_every_compression_gives_the_same(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"s{suffix.upper()}"
    path.write_bytes(COMPRESS[OTHER_NAMES.get(suffix, suffix)](tar_of(tmp_path)))
    inputs = Inputs(path)
    items = list(inputs)
    assert [item.name for item in items] == [f"{path}/{number}.jpg" for number in range(6)]
    assert inputs.left_out == {".json": 1}
    assert (
        read_in_order(items) == PICTURES
        and read_in_order(items[::-1]) == PICTURES[::-1]
        and read_in_order(items[4:]) == PICTURES[4:]
    )
    assert [read(item) for item in items] == PICTURES


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESS if suffix != ".tar"])
def test_a_cut_compressed_shard_keeps_what_is_whole(tmp_path: Path, suffix: str) -> None:
    content = COMPRESS[suffix](tar_of(tmp_path))
    kept = []
    for cut in range(len(content) - 1, 0, -max(1, len(content) // 12)):
        path = tmp_path / f"s{suffix}"
        path.write_bytes(content[:cut])
        items = list(Inputs(path))
        found = read_in_order(items)
        whole = [each for each in found if isinstance(each, bytes)]
        assert whole == PICTURES[: len(whole)]
        assert len(found) > len(whole)
        assert all("broken or cut" in str(each) for each in found[len(whole) :])
        kept.append(len(whole))
    assert kept == sorted(kept, reverse=True)
    if suffix in (".tar.gz", ".tar.xz"):  # the others are one block here
        assert kept[0] >= 5 and kept[len(kept) // 2] > 0


@pytest.mark.parametrize("suffix", [".tar.bz2", ".tar.zst"])
def test_a_cut_shard_of_several_blocks(tmp_path: Path, suffix: str) -> None:
    contents = [np.random.default_rng(number).bytes(700_001) for number in range(3)]
    shard = write_tar(tmp_path / "whole.tar", {f"{number}.jpg": content for number, content in enumerate(contents)})
    content = COMPRESS[suffix](shard.read_bytes())
    path = tmp_path / f"s{suffix}"
    path.write_bytes(content[: len(content) * 95 // 100])
    found = read_in_order(list(Inputs(path)))
    assert found[:2] == contents[:2] and all("broken or cut" in str(each) for each in found[2:])


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("damaged", [0, 1, 3, 5])
@pytest.mark.parametrize("damage", ["noise", "checksum", "zero size field"])
def test_a_damaged_header_costs_its_file_alone(tmp_path: Path, suffix: str, damaged: int, damage: str) -> None:
    content = bytearray(tar_of(tmp_path))
    at = list(Inputs(tmp_path / "whole.tar"))[damaged].at - 512
    rng = np.random.default_rng(damaged)
    content[at : at + 512] = {
        "noise": rng.bytes(512),
        "checksum": content[at : at + 148] + b"0000000\0" + content[at + 156 : at + 512],
        "zero size field": content[at : at + 124] + b"\xff" * 12 + content[at + 136 : at + 512],
    }[damage]
    path = tmp_path / f"s{suffix}"
    path.write_bytes(COMPRESS[suffix](bytes(content)))
    items = list(Inputs(path))
    others = [number for number in range(6) if number != damaged]
    assert [item.name for item in items if item.kind != "failed"] == [f"{path}/{number}.jpg" for number in others]
    [failed] = [item for item in items if item.kind == "failed"]
    assert failed.name == str(path) and f"no tar header at byte {at} where one should be" in failed.detail
    assert items.index(failed) == damaged
    assert [each for each in read_in_order(items) if isinstance(each, bytes)] == [PICTURES[number] for number in others]


def chain_of(name: str, content: bytes, format: int) -> bytes:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    return header.tobuf(format) + content + bytes(-len(content) % 512)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_lost_file_leaves_its_long_name_to_none(tmp_path: Path, format: int, suffix: str) -> None:
    """The name stands in a header of its own before that of the file, which is damaged."""
    long = "b" * 150 + ".jpg"
    first, second, third = (
        chain_of("a.jpg", PICTURES[0], format),
        chain_of(long, PICTURES[1], format),
        chain_of("c.jpg", PICTURES[2], format),
    )
    own = len(second) - len(PICTURES[1]) - (-len(PICTURES[1]) % 512) - 512
    second = second[:own] + b"\xff" * 512 + second[own + 512 :]
    path = tmp_path / f"s{suffix}"
    path.write_bytes(COMPRESS[suffix](first + second + third + bytes(1024)))
    items = list(Inputs(path))
    assert [item.name for item in items] == [f"{path}/a.jpg", str(path), f"{path}/c.jpg"]
    found = read_in_order(items)
    assert (found[0], found[2]) == (PICTURES[0], PICTURES[2]) and f"no tar header at byte {len(first)}" in str(found[1])


def test_a_checksum_that_does_not_hold(tmp_path: Path) -> None:
    """A flip that still inflates gives a wrong file, which only the checksum behind all tells."""
    content = bytearray(gzip.compress(tar_of(tmp_path), 0))  # stored, so that a flip inflates
    path = tmp_path / "s.tar.gz"
    content[content.index(PICTURES[3]) + 50] ^= 1
    path.write_bytes(content)
    items = list(Inputs(path))
    assert [item.kind for item in items] == ["member"] * 6 + ["failed"] and "CRC check failed" in items[6].detail


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_zeros_are_not_always_the_end(tmp_path: Path, suffix: str) -> None:
    whole = tar_of(tmp_path)
    third = list(Inputs(tmp_path / "whole.tar"))[2].at
    path = tmp_path / f"s{suffix}"

    def given(content: bytes) -> tuple[list[bytes | str], str]:
        path.write_bytes(COMPRESS[suffix](content))
        items = list(Inputs(path))
        failed = " ".join(item.detail for item in items if item.kind == "failed")
        return [each for each in read_in_order(items) if isinstance(each, bytes)], failed

    zeroed = whole[: third - 512] + bytes(512) + whole[third:]
    assert given(zeroed) == (
        [*PICTURES[:2], *PICTURES[3:]],
        f"no tar header at byte {third - 512} where one should be (zeros); what is there up to byte "
        f"{list(Inputs(tmp_path / 'whole.tar'))[3].at - 512} is lost",
    )
    assert given(whole + whole) == (PICTURES * 2, "")  # archives one behind the other
    found, reason = given(whole[: third - 512])
    assert found == PICTURES[:2] and "ends without the zeros that close a tar archive: it may have been cut" in reason
    found, reason = given(whole[: third - 512] + bytes(100_000))
    assert found == PICTURES[:2] and f"zeros from byte {third - 512} to the end" in reason
    assert given(whole) == (PICTURES, "") and given(bytes(10240)) == ([], "")


def test_what_is_no_archive_says_so(tmp_path: Path) -> None:
    contents = {
        "gzip.tar": gzip.compress(tar_of(tmp_path)),
        "jpeg.tar": PICTURES[0],
        "jpeg.tar.gz": PICTURES[0],
        "jpeg.tar.xz": PICTURES[0],
        "jpeg.tar.zst": PICTURES[0],
        "jpeg.tar.bz2": PICTURES[0],
        "jpeg.zip": PICTURES[0],
        "empty.tar": b"",
        "empty.zip": b"",
        "a.7z": b"7z",
        "a.rar": b"Rar!",
    }
    found = {}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        [item] = Inputs(tmp_path / name)
        assert item.kind == "failed" and item.name == str(tmp_path / name)
        found[name] = item.detail
    assert found["gzip.tar"] == "is compressed with gzip, whatever its name says: rename it to .tar.gz"
    assert found["a.7z"] == found["a.rar"] == "archives of this kind are not read; unpack it, or make it a .tar or .zip"
    assert all("broken or cut" in found[name] for name in found if name.startswith(("jpeg", "empty")))


# ---- zip


def zip_of(path: Path, methods: dict[str, int]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number, (name, method) in enumerate(methods.items()):
            archive.writestr(name, PICTURES[number], method)
        archive.writestr("notes.txt", "x")
        archive.writestr("__MACOSX/._a.jpg", "resource fork")
        archive.mkdir("folder.jpg")
    return path


METHODS = {
    "a.jpg": zipfile.ZIP_STORED, "deep/b.JPG": zipfile.ZIP_DEFLATED, "żółw.jpg": zipfile.ZIP_BZIP2, "d.jpg": zipfile.ZIP_LZMA,
}  # fmt: skip


def test_a_zip_archive(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "s.zip", METHODS)
    inputs = Inputs(tmp_path, glob=["*.zip"])
    items = list(inputs)
    assert [item.name for item in items] == [f"{path}/{name}" for name in METHODS] and inputs.left_out == {".txt": 1}
    assert read_in_order(items) == PICTURES[:4] and read_in_order(items[::-1]) == PICTURES[3::-1]


def test_a_damaged_file_in_a_zip_archive_is_the_only_one_lost(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "s.zip", METHODS)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        for name in ("a.jpg", "deep/b.JPG"):
            at = archive.getinfo(name).header_offset + 30 + len(name) + 200
            content[at : at + 40] = bytes(40)
    path.write_bytes(content)
    found = read_in_order(list(Inputs(path)))
    assert found[2:] == PICTURES[2:4]
    assert all(str(each).startswith("read: is damaged in its archive: ") for each in found[:2])


def test_a_cut_zip_archive_says_what_may_help(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "s.zip", METHODS)
    path.write_bytes(path.read_bytes()[:-60])
    [item] = Inputs(path)
    assert "the list of its files is at the end of a zip archive, 'zip -FF' may repair it" in item.detail


def test_an_encrypted_file_in_a_zip_archive(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "s.zip", {"a.jpg": zipfile.ZIP_STORED})
    content = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + place] |= 1
    path.write_bytes(content)
    assert [item.detail for item in Inputs(path)] == ["is encrypted; unpack the archive with its password first"]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".zip"])
def test_archives_behind_a_url(tmp_path: Path, suffix: str) -> None:
    import fsspec

    whole = zip_of(tmp_path / "s.zip", METHODS).read_bytes() if suffix == ".zip" else tar_of(tmp_path, 4)
    content = COMPRESS.get(suffix, bytes)(whole)
    fsspec.filesystem("memory").pipe_file(f"/archives/s{suffix}", content)
    assert read_in_order(list(Inputs(f"memory://archives/s{suffix}"))) == PICTURES[:4]


def test_an_archive_that_cannot_be_read_for_a_moment(tmp_path: Path) -> None:
    """What the system reports is not the archive's fault: the next file of it is tried."""
    path = tmp_path / "s.tar.gz"
    path.write_bytes(gzip.compress(tar_of(tmp_path)))
    items = list(Inputs(path))
    with Containers() as containers:
        assert containers.ready(items[0]).read() == PICTURES[0]
        path.rename(tmp_path / "away")
        assert containers.ready(items[1]).read() == PICTURES[1]  # it is open
        containers.close()
        with pytest.raises(ImageError, match="no such file"):
            containers.ready(items[2]).read()
        (tmp_path / "away").rename(path)
        assert containers.ready(items[3]).read() == PICTURES[3]


def test_a_shard_within_a_shard_is_no_picture(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("x.jpg"))
    shard = write_tar(tmp_path / "s.tar", {"inner.tar": inner.getvalue(), "a.jpg": PICTURES[0]})
    inputs = Inputs(shard)
    assert [os.path.basename(item.name) for item in inputs] == ["a.jpg"] and inputs.left_out == {".tar": 1}
