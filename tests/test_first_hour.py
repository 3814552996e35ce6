"""The first hour of somebody with 150 photographs and words for 60 of them, by the very commands that Getting started prints."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import time
import unicodedata
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pages import blocks

from gpuannot.datasets.scenes import write_scenes

PAGE = Path(__file__).parents[1] / "docs" / "getting-started.md"
PHOTOS, LABELLED = 150, 60
#: Names as cameras, phones and people give them; the last comes apart on a Mac, where the spreadsheet does not write it so.
NAMES = ("IMG_{}.JPG", "Düne am Meer {}.jpg", "Strand & Café ({}).JPEG", "2023-07-{} 18.22.05.jpeg", "été {}.Jpg")


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, dict[str, list[str]], list[str]]:
    """The folder, the words of each photograph by its name, and which of them the spreadsheet has, in Windows-1252."""
    labels = json.loads(write_scenes(tmp_path / "drawn", PHOTOS).read_text())["samples"]
    truth: dict[str, list[str]] = {}
    for number, sample in enumerate(labels):
        folder = "photos/Süden 2023" if number % 3 == 0 else "photos"
        name = f"{folder}/{NAMES[number % len(NAMES)].format(number)}"
        on_disk = tmp_path / (unicodedata.normalize("NFD", name) if number % len(NAMES) == 4 else name)
        on_disk.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(tmp_path / "drawn" / "images" / sample["image_name"], on_disk)
        truth[str(on_disk.relative_to(tmp_path))] = ["Bäume" if word == "tree" else word for word in sample["image_labels"]]
    known = list(truth)[:LABELLED]
    with open(tmp_path / "tags.csv", "w", encoding="cp1252", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Photo", "Keywords"])
        rows.writerows([unicodedata.normalize("NFC", name), ";".join(truth[name])] for name in known)
    write_scenes(tmp_path / "drawn more", 2, seed=2)
    shutil.move(tmp_path / "drawn more" / "images", tmp_path / "more")
    return tmp_path, truth, known


def commands_to_the_table() -> list[str]:
    """The lines of the page from learning to the Parquet table of the rest, but for those that learn again and measure."""
    lines = [line for block in blocks(PAGE) if block.runs and block.language == "sh" for line in block.text.splitlines()]
    last = next(number for number, line in enumerate(lines) if "-o rest.parquet" in line)
    return [line for line in lines[: last + 1] if not ("gpuannot fit" in line and "--overwrite" in line) and "evaluate" not in line]


def test_the_first_hour(place: tuple[Path, dict[str, list[str]], list[str]], commands: str) -> None:
    folder, truth, known = place
    rest = sorted(set(truth) - set(known))
    said: dict[str, subprocess.CompletedProcess[str]] = {}
    for line in commands_to_the_table():
        began = time.perf_counter()
        environment = {**os.environ, "PATH": commands}
        ran = subprocess.run(["bash", "-euc", line], cwd=folder, env=environment, capture_output=True, text=True)
        print(f"{time.perf_counter() - began:6.1f} s  {line}")
        assert ran.returncode == 0, f"{line}\n{ran.stdout}{ran.stderr}"
        said.setdefault(" ".join(line.split()[1:3]), ran)

    learnt = said["fit tags.csv"].stderr
    assert (
        f"words from {LABELLED} images" in learnt and f"{PHOTOS - LABELLED + 2} images beside the label file" in learnt
    )  # with those in more
    assert "read as Windows-1252, with words such as 'Süden'" in learnt and "failed" not in learnt
    printed = dict(line.split("\t") for line in said["annotate mine.safetensors"].stdout.splitlines())
    assert sorted(printed) == rest
    assert f"{LABELLED} images with words in tags.csv left out" in said["annotate mine.safetensors"].stderr
    assert re.search(rf'"annotated": ?{PHOTOS - LABELLED}\b', (folder / "look.html").read_text(encoding="utf-8"))

    table = pq.read_table(folder / "rest.parquet")
    assert sorted(table["path"].to_pylist()) == rest and all((folder / path).is_file() for path in rest)
    right, given, true = 0, 0, 0
    for path, words in zip(table["path"].to_pylist(), table["words"].to_pylist(), strict=True):
        right, given, true = right + len(set(words) & set(truth[path])), given + len(words), true + len(truth[path])
    print(f"F1 of an image, all together: {2 * right / (given + true):.3f}")
    assert 2 * right / (given + true) > 0.6
    assert any("Bäume" in words for words in table["words"].to_pylist())
    assert all(0 <= value <= 1 for values in table["confidences"].to_pylist() for value in values)
