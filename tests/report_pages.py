"""Pages for the report's tests: drawn annotations of small pictures whose words, errors and names the tests choose."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gpuannot import Annotations
from gpuannot.method.labels import label_matrix
from gpuannot.report.writer import ReportWriter

HOSTILE_NAME = "<script>alert(1)<⧸script>.jpg"  # a file name holds no slash; this sign only looks like one
HOSTILE_WORDS = ('</script><script>alert("w")</script>', 'it\'s "quoted" & <b>bold</b>', "]]><!--", "\u2028line", "mañana 海")


def pictures(folder: Path, names: list[str]) -> list[Path]:
    """Small pictures, all different."""
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (30 + number % 3, 20), (number * 37 % 256, number * 91 % 256, 120)).save(folder / name, "PNG")
    return [folder / name for name in names]


def write_page(
    path: Path,
    paths: list[Path],
    given: list[list[str]],
    truth: list[list[str]] | None,
    vocabulary: list[str],
    confidence: list[list[float]] | None = None,
    weak_below: float | None = None,
    **options: Any,
) -> dict[str, Any]:
    """A page of pictures with these words at distances 1, 2, …; returns its data."""
    column = {word: number for number, word in enumerate(vocabulary)}
    index = np.array([[column[word] for word in words] for words in given])
    distance = np.tile(np.arange(1, index.shape[1] + 1, dtype=np.float32), (len(paths), 1)) + np.arange(len(paths))[:, None] / 100
    annotations = Annotations(
        tuple(map(str, paths)),
        np.arange(len(paths)),
        index,
        distance.astype(np.float32),
        tuple(vocabulary),
        confidence=None if confidence is None else np.array(confidence, np.float32),
        weak_below=weak_below,
    )
    matrix = None if truth is None else label_matrix(truth, vocabulary)[0]
    with ReportWriter(path, vocabulary, len(paths), truth=matrix, **options) as writer:
        writer.add(annotations, paths)
        writer.commit()
    return data_of(path)


def data_of(path: Path) -> dict[str, Any]:
    """The data that a page holds."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    content: dict[str, Any] = json.loads(found[1])
    return content
