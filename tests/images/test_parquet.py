"""Tables in Parquet whose pages are damaged: other row groups, and the rows before the damage, are read, whoever reads them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_images import encoded, scene
from reading import read_in_order

from gpuannot import Inputs

PICTURES = [encoded(np.roll(scene(), number, axis=1), "PNG") for number in range(60)]
GROUP = 20


def write(path: Path, columns: dict[str, pa.Array], **options: object) -> Path:
    pq.write_table(
        pa.table(columns),
        path,
        row_group_size=GROUP,
        compression="none",
        use_dictionary=False,
        data_page_size=2048,
        write_statistics=False,
        **options,
    )
    return path


def damage(path: Path, group: int, page: int) -> None:
    """Overwrite the header of a page of the first column."""
    content = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(group).column(0)
    start = chunk.data_page_offset
    size = chunk.total_compressed_size // 8
    at = start + page * size
    content[at : at + max(12, size // 4)] = b"\xff" * max(12, size // 4)
    path.write_bytes(content)


COLUMNS = {
    "binary": pa.array(PICTURES, pa.binary()),
    "struct": pa.array([{"bytes": content, "path": "x"} for content in PICTURES]),
}


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("group", [0, 1, 2])
@pytest.mark.parametrize("page", [0, 3, 6])
def test_a_damaged_page(tmp_path: Path, kind: str, group: int, page: int) -> None:
    path = write(tmp_path / "t.parquet", {"image": COLUMNS[kind]})
    damage(path, group, page)
    items = list(Inputs(path))
    assert len(items) == 60
    found = read_in_order(items)
    lost = [row for row, each in enumerate(found) if each != PICTURES[row]]
    assert lost and set(lost) <= set(range(group * GROUP, (group + 1) * GROUP))
    assert page == 0 or lost[0] > group * GROUP  # what is before the damage is read
    # A damaged page without a checksum may be read as other bytes, which decoding finds; else it is said.
    told = [row for row in lost if isinstance(found[row], str)]
    assert all(f"row group {group} of the table is damaged" in str(found[row]) for row in told)
    rng = random.Random(group)
    for _ in range(12):  # whoever begins or ends where, or leaves rows out
        some = sorted(rng.sample(range(60), rng.randint(1, 60)))
        assert read_in_order([items[row] for row in some]) == [found[row] for row in some]
    backwards = read_in_order(items[::-1])
    assert backwards[::-1] == found


def test_a_damaged_page_of_paths(tmp_path: Path) -> None:
    names = [f"{number:03d}{'x' * 200}.jpg" for number in range(60)]
    path = write(tmp_path / "t.parquet", {"path": pa.array(names)})
    damage(path, 1, 4)
    items = list(Inputs(path))
    assert len(items) == 60
    failed = [row for row, item in enumerate(items) if item.kind == "failed"]
    assert failed and failed[0] > GROUP and failed == list(range(failed[0], 2 * GROUP))
    assert [item.name for item in items if item.kind == "file"] == [names[row] for row in range(60) if row not in failed]
    assert items[failed[0]].name == f"{path}#{failed[0]}" and "row group 1 of the table is damaged" in items[failed[0]].detail


def test_a_checksum_tells_of_damage_that_else_would_pass(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"image": COLUMNS["binary"]}, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[content.index(PICTURES[30]) + 40] ^= 0xFF
    path.write_bytes(content)
    found = read_in_order(list(Inputs(path)))
    lost = [row for row, each in enumerate(found) if each != PICTURES[row]]
    assert 30 in lost and all("row group 1 of the table is damaged" in str(found[row]) for row in lost)
    assert set(lost) <= set(range(GROUP, 2 * GROUP))


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_footer_ends_in_a_sentence_or_in_the_rows(tmp_path: Path, seed: int) -> None:
    path = write(tmp_path / "t.parquet", {"image": COLUMNS["binary"]})
    content, rng = bytearray(path.read_bytes()), random.Random(seed)
    footer = int.from_bytes(content[-8:-4], "little")
    for _ in range(rng.randint(1, 3)):
        content[rng.randrange(len(content) - 8 - footer, len(content) - 4)] = rng.randrange(256)
    path.write_bytes(content)
    items = list(Inputs(path))
    assert 0 < len(items) <= 60
    assert len(read_in_order(items)) == len(items)


@pytest.mark.parametrize("first", ["flat", "struct"])
def test_a_dot_in_the_name_of_a_column(tmp_path: Path, first: str) -> None:
    """The flat column is called as the other's field is reached."""
    columns = {"image.bytes": pa.array([b"flat"] * 60), "image": COLUMNS["struct"]}
    path = write(tmp_path / "t.parquet", dict(sorted(columns.items(), reverse=first == "flat")))
    assert read_in_order(list(Inputs(path, column="image"))) == PICTURES
    assert read_in_order(list(Inputs(path, column="image.bytes"))) == [b"flat"] * 60
