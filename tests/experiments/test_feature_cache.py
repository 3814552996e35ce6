"""What is kept, and what makes it be computed again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse

from gpuannot.datasets.label_files import LabelledImages
from gpuannot.experiments.feature_cache import cached_arrays, default_cache


class Counted:
    """Makes arrays and counts how often it was asked to."""

    def __init__(self, rows: int) -> None:
        self.rows, self.calls = rows, 0

    def __call__(self) -> dict[str, NDArray[np.float32]]:
        self.calls += 1
        values = np.arange(self.rows * 3, dtype=np.float32).reshape(self.rows, 3)
        return {"a": values, "turned": np.asfortranarray(values + self.calls)}


def test_arrays_are_computed_once_for_a_key(scenes: LabelledImages, tmp_path: Path) -> None:
    compute = Counted(len(scenes))
    first = cached_arrays(("kind", 1), scenes, compute, tmp_path)
    again = cached_arrays(("kind", 1), scenes, compute, tmp_path)
    assert compute.calls == 1
    assert sorted(again) == ["a", "turned"]
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    other = cached_arrays(("kind", 2), scenes, compute, tmp_path)
    assert compute.calls == 2 and (other["turned"] != first["turned"]).all()


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xfc.jpg")
    path.write_bytes(b"1")
    images = LabelledImages("odd", (path.name,), (path,), sparse.csr_array((1, 1), dtype=np.float32), ("sky",))
    compute = Counted(1)
    for _ in range(2):
        cached_arrays(("kind",), images, compute, tmp_path / "cache")
    assert compute.calls == 1


def test_changed_images_and_broken_files_are_computed_again(scenes: LabelledImages, tmp_path: Path) -> None:
    compute = Counted(len(scenes))
    cached_arrays(("kind",), scenes, compute, tmp_path)
    (file,) = tmp_path.rglob("arrays.safetensors")
    file.write_bytes(file.read_bytes()[:-8])
    cached_arrays(("kind",), scenes, compute, tmp_path)
    assert compute.calls == 2
    status = scenes.paths[3].stat()
    os.utime(scenes.paths[3], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    try:
        cached_arrays(("kind",), scenes, compute, tmp_path)
    finally:
        os.utime(scenes.paths[3], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert compute.calls == 3


def test_a_flipped_bit_is_seen(scenes: LabelledImages, tmp_path: Path) -> None:
    compute = Counted(len(scenes))
    first = cached_arrays(("kind",), scenes, compute, tmp_path)
    (file,) = tmp_path.rglob("arrays.safetensors")
    whole = file.read_bytes()
    for count, place in enumerate(np.linspace(0, len(whole) - 1, 40).astype(int), 2):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << count % 8
        file.write_bytes(damaged)
        again = cached_arrays(("kind",), scenes, compute, tmp_path)
        assert compute.calls == count, place
        np.testing.assert_array_equal(again["a"], first["a"])


def test_arrays_of_another_length_are_not_taken(scenes: LabelledImages, tmp_path: Path) -> None:
    cached_arrays(("kind",), scenes, Counted(len(scenes) - 1), tmp_path)
    compute = Counted(len(scenes))
    assert len(cached_arrays(("kind",), scenes, compute, tmp_path)["a"]) == len(scenes)
    assert compute.calls == 1


def test_a_failed_computation_leaves_nothing(scenes: LabelledImages, tmp_path: Path) -> None:
    def fail() -> dict[str, NDArray[np.float32]]:
        raise ValueError("no features today")

    with pytest.raises(ValueError, match="today"):
        cached_arrays(("kind",), scenes, fail, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_default_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache().name == "gpuannot"
