"""Features on disk: what is read is what was written, and a store that is not whole is never taken for one."""

from __future__ import annotations

import json
import resource
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from gpuannot.errors import DataError
from gpuannot.model.store import DeviceStore, DiskStore, new_store

PATCHES, CHANNELS = 6, 5
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def features(count: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """(count, PATCHES, CHANNELS) with the values that rounding or comparing would lose: NaN, infinities, −0 and subnormals."""
    values = torch.randn((count, PATCHES, CHANNELS), generator=torch.Generator().manual_seed(seed)).to(dtype)
    odd = [float("nan"), float("inf"), -float("inf"), -0.0, torch.finfo(dtype).smallest_normal / 2]
    values[0, 0] = torch.tensor(odd, dtype=dtype)
    return values


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def committed(folder: Path, count: int = 10, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Write a committed store of positions 0, 3, 6, … and return what it holds."""
    values = features(count, dtype, seed)
    with DiskStore.create(folder, PATCHES, CHANNELS, dtype) as store:
        store.append(np.arange(count) * 3, values)
        store.commit()
    return values


def content(folder: Path) -> tuple[list[int], bytes]:
    store = DiskStore.open(folder)
    assert store is not None
    with store:
        return store.positions.tolist(), b"".join(bits(block) for _, block in store.blocks())


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk that is full, as far as this process can tell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 3, 10, 64])
def test_blocks_give_back_every_bit_in_order(tmp_path: Path, dtype: torch.dtype, size: int) -> None:
    values, positions = features(10, dtype), np.array([0, 2, 3, 7, 8, 9, 20, 21, 22, 1000], dtype=np.int64)
    with DiskStore.create(tmp_path / "new" / "folder", PATCHES, CHANNELS, dtype) as store:
        assert len(store) == 0 and list(store.blocks()) == []
        for part in np.split(np.arange(10), [1, 1, 5]):  # one, none, four and five images
            store.append(positions[part], values[part])
        assert len(store) == 10 and store.record_bytes == PATCHES * CHANNELS * dtype.itemsize
        store.commit()
        reopened = DiskStore.open(tmp_path / "new" / "folder")
        assert reopened is not None
        for whole in (store, reopened, reopened):  # before closing, after opening, and a second time
            blocks = list(whole.blocks(size))
            assert [len(part) for part, _ in blocks] == [min(size, 10 - start) for start in range(0, 10, size)]
            assert np.concatenate([part for part, _ in blocks]).tolist() == positions.tolist() == whole.positions.tolist()
            assert whole.positions.dtype == np.int64
            for start, (_, block) in zip(range(0, 10, size), blocks, strict=True):
                assert block.dtype == dtype and bits(block) == bits(values[start : start + size])
        reopened.close()


def test_a_view_of_other_memory_layout_and_dtype_is_stored_right() -> None:
    wide = torch.randn((4, CHANNELS, PATCHES), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with DiskStore.create(None, PATCHES, CHANNELS, torch.float32) as store:
        store.append(np.arange(2), wide.transpose(1, 2)[::2])
        [(_, block)] = store.blocks()
    assert torch.equal(block, wide.transpose(1, 2)[::2].float())


def test_blocks_before_commit_include_what_was_just_appended() -> None:
    values = features(3)
    with DiskStore.create(None, PATCHES, CHANNELS, torch.float32) as store:
        store.append(np.array([0]), values[:1])
        assert [part.tolist() for part, _ in store.blocks()] == [[0]]
        store.append(np.array([1, 2]), values[1:])
        [(positions, block)] = store.blocks()
        assert positions.tolist() == [0, 1, 2] and bits(block) == bits(values)


def test_appending_after_half_a_reading_overwrites_nothing() -> None:
    values = features(4)
    with DiskStore.create(None, PATCHES, CHANNELS, torch.float32) as store:
        store.append(np.arange(3), values[:3])
        next(store.blocks(1))
        store.append(np.array([3]), values[3:])
        [(_, block)] = store.blocks()
        assert bits(block) == bits(values)


def test_two_readings_at_once_do_not_disturb_each_other() -> None:
    values = features(5)
    with DiskStore.create(None, PATCHES, CHANNELS, torch.float32) as store:
        store.append(np.arange(5), values)
        for number, ((_, left), (_, right)) in enumerate(zip(store.blocks(1), store.blocks(1), strict=True)):
            assert bits(left) == bits(right) == bits(values[number])


# ---- what counts as a whole store


@pytest.mark.parametrize("name", ["features.bin", "features.json"])
def test_a_store_with_a_flipped_bit_is_not_opened(tmp_path: Path, name: str) -> None:
    committed(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        (tmp_path / name).write_bytes(damaged)
        assert DiskStore.open(tmp_path) is None, (place, bytes(damaged))
    (tmp_path / name).write_bytes(whole)
    assert len(content(tmp_path)[0]) == 10


def test_a_store_of_several_appends_is_whole(tmp_path: Path) -> None:
    values = features(9)
    with DiskStore.create(tmp_path, PATCHES, CHANNELS, torch.float32) as store:
        for part in np.split(np.arange(9), [2, 2, 5]):
            store.append(part, values[part])
            list(store.blocks(1))
        store.commit()
    assert content(tmp_path) == (list(range(9)), bits(values))


def test_uncommitted_is_not_found_and_leaves_no_file(tmp_path: Path) -> None:
    with DiskStore.create(tmp_path, PATCHES, CHANNELS, torch.float32) as store:
        store.append(np.arange(2), features(2))
        assert DiskStore.open(tmp_path) is None
    assert DiskStore.open(tmp_path) is None and list(tmp_path.iterdir()) == []
    assert DiskStore.open(tmp_path / "nowhere") is None


def test_an_error_inside_the_block_leaves_the_earlier_store(tmp_path: Path) -> None:
    committed(tmp_path, seed=1)
    before = content(tmp_path)
    with pytest.raises(RuntimeError), DiskStore.create(tmp_path, PATCHES, CHANNELS, torch.float32) as store:
        store.append(np.arange(2), features(2, seed=2))
        raise RuntimeError
    assert content(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.bin", "features.json"]


def test_a_second_commit_replaces_the_first(tmp_path: Path) -> None:
    committed(tmp_path, count=10, seed=1)
    values = committed(tmp_path, count=4, seed=2, dtype=torch.bfloat16)
    assert content(tmp_path) == ([0, 3, 6, 9], bits(values))


@pytest.mark.parametrize("change", [-1, -PATCHES * CHANNELS * 4, 1, None])
def test_a_file_of_another_size_is_not_opened(tmp_path: Path, change: int | None) -> None:
    committed(tmp_path)
    path = tmp_path / "features.bin"
    if change is None:
        path.unlink()
    else:
        path.write_bytes((path.read_bytes() + b"\0")[: path.stat().st_size + change])
    assert DiskStore.open(tmp_path) is None


@pytest.mark.parametrize(
    "header",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        "\xff",
        '{"patches": 6, "channels": 5, "dtype": "float64", "positions": [0]}',
        '{"patches": 6, "channels": 5, "dtype": ["float32"], "positions": [0]}',
        '{"patches": 6, "channels": 5, "dtype": "float32", "positions": null}',
        '{"patches": 6, "channels": 5, "dtype": "float32", "positions": ["first"]}',
        '{"patches": 6, "channels": 5, "dtype": "float32", "positions": [99999999999999999999]}',
        '{"patches": 7, "channels": 5, "dtype": "float32", "positions": [0]}',
        '{"patches": "6", "channels": 5, "dtype": "float32", "positions": [0]}',
        '{"channels": 5, "dtype": "float32", "positions": [0]}',
    ],
)
def test_a_corrupt_header_is_not_opened(tmp_path: Path, header: str) -> None:
    committed(tmp_path, count=1)
    path = tmp_path / "features.json"
    good = json.loads(path.read_text())
    records = zlib.crc32((tmp_path / "features.bin").read_bytes())
    plain = {"patches": 6, "channels": 5, "dtype": "float32", "positions": [0]}

    def checked(content: str) -> str:
        """With a right checksum, where there is something to put it into."""
        try:
            fields = json.loads(content)
        except ValueError:
            return content
        if not isinstance(fields, dict):
            return content
        return json.dumps({**fields, "crc32": zlib.crc32(json.dumps(fields, sort_keys=True).encode(), records)})

    assert good == json.loads(checked(json.dumps(plain)))
    path.write_text(checked(header), encoding="latin-1")
    assert DiskStore.open(tmp_path) is None
    path.write_text(json.dumps(plain))  # of a version without checksums
    assert DiskStore.open(tmp_path) is None


def test_a_file_cut_after_opening_is_an_error(tmp_path: Path) -> None:
    committed(tmp_path, count=10)
    store = DiskStore.open(tmp_path)
    assert store is not None
    with store:
        with open(tmp_path / "features.bin", "r+b") as file:
            file.truncate(store.record_bytes * 9 + 1)
        with pytest.raises(DataError, match=r"features\.bin ends early; delete the folder"):
            list(store.blocks(4))


# ---- temporary stores and full disks


def test_a_temporary_store_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with DiskStore.create(None, PATCHES, CHANNELS, torch.float32) as store:
        store.append(np.arange(2), features(2))
        assert [path.name.startswith("gpuannot-") for path in tmp_path.iterdir()] == [True]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError), DiskStore.create(None, PATCHES, CHANNELS, torch.float32):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    store = DiskStore.create(tmp_path, PATCHES, CHANNELS, torch.float32)
    store.close()
    store.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [100, 9000])  # small enough to sit in Python's write buffer until the end, and too large for it
def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    wanted = r"cannot write features to .*: free some space, or set TMPDIR"
    with (
        files_of_at_most(4096),
        pytest.raises(DataError, match=wanted),
        DiskStore.create(None, PATCHES, CHANNELS, torch.float32) as store,
    ):
        for start in range(0, count, 50):
            store.append(np.arange(start, start + 50), features(50))
        list(store.blocks())
    assert list(tmp_path.iterdir()) == []


# ---- the one on a device, here on the CPU


def test_device_store_has_the_interface_of_the_one_on_disk(rng: np.random.Generator) -> None:
    blocks = [(np.array([0, 2]), torch.rand(2, 3, 4)), (np.array([5]), torch.rand(1, 3, 4))]
    with DeviceStore(3, 4, torch.float32) as device, DiskStore.create(None, 3, 4, torch.float32) as disk:
        for store in (device, disk):
            for positions, features in blocks:
                store.append(positions, features)
            assert len(store) == 3
            assert store.positions.tolist() == [0, 2, 5]
            read = torch.cat([block for _, block in store.blocks()])
            assert torch.equal(read, torch.cat([features for _, features in blocks]))
    assert len(device) == 0
    with new_store(torch.device("cpu"), 10, 3, 4, torch.float32) as store:
        assert isinstance(store, DiskStore)
