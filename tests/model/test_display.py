"""Annotations and annotators as a program, a terminal and a notebook see them."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import RIDGE, SMALL, small_annotator

from gpuannot import Annotations, Annotator
from gpuannot.datasets.label_files import LabelledImages
from gpuannot.images.batches import ImageFailure
from gpuannot.model.display import cut

WORDS = ("sky", "<b>sea</b>", "tree", "car")


def some(images: int = 3, **changes: Any) -> Annotations:
    """Of each image three words or two, the likeliest not the first."""
    index = np.tile(np.array([[0, 1, 2], [3, 0, -1]]), (images, 1))[:images]
    confidence = np.tile(np.array([[0.4, 0.9, 0.1], [0.3, 0.7, 0]], np.float32), (images, 1))[:images]
    values: dict[str, Any] = {
        "names": tuple(f"photos/{number}.jpg" for number in range(images)),
        "positions": np.arange(images),
        "index": index,
        "distance": np.where(index < 0, np.inf, 1.5).astype(np.float32),
        "vocabulary": WORDS,
        "confidence": confidence,
        "weak_below": 0.35,
    }
    return Annotations(**(values | changes))


def test_annotations_in_a_terminal() -> None:
    assert repr(some(2, failures=(ImageFailure("bad.jpg", "decode", "not an image"),))) == (
        "Annotations of 2 images, 1 failed; weak is a confidence below 0.35\n"
        "  photos/0.jpg  <b>sea</b> 0.90, sky 0.40, (tree 0.10)\n"
        "  photos/1.jpg  sky 0.70, (car 0.30)\n"
        "  failed: bad.jpg: not an image"
    )
    plain = repr(some(1, confidence=None, weak_below=None, index=np.full((1, 3), -1)))
    assert plain == "Annotations of 1 image\n  photos/0.jpg  no word"
    assert repr(some(0)).startswith("Annotations of 0 images")


@pytest.mark.parametrize("images", [11, 10_000])
def test_one_screen_of_many(images: int) -> None:
    """Also of words: forty of them are cut."""
    lines = repr(some(images)).splitlines()
    assert len(lines) == 12 and lines[-1] == f"  … and {images - 10} more image{'s' if images > 11 else ''}"
    many = Annotations(
        ("a" * 300 + ".jpg",),
        np.arange(1),
        np.arange(40)[None],
        np.ones((1, 40), np.float32),
        tuple(f"word {n}" for n in range(40)),
    )
    assert all(len(line) < 160 for line in repr(many).splitlines()) and "… 32 more" in repr(many)


def test_annotations_in_a_notebook() -> None:
    page = some(12, failures=(ImageFailure("<i>.jpg", "decode", "no & image"),))._repr_html_()
    assert page.count("<tr>") == 12 and "… and 2 more images" in page
    assert "&lt;b&gt;sea&lt;/b&gt; 0.90" in page and "<b>" not in page and "&lt;i&gt;.jpg" in page and "no &amp; image" in page
    first = re.findall(r'opacity:(\S+)">([^<]+)<', page)[:3]
    assert first == [("1", "&lt;b&gt;sea&lt;/b&gt; 0.90"), ("1", "sky 0.40"), ("0.5", "tree 0.10")]


def test_plain_values() -> None:
    assert some(2).to_dicts() == [
        {"path": "photos/0.jpg", "words": list(WORDS[:3]), "distances": [1.5] * 3, "confidences": pytest.approx([0.4, 0.9, 0.1])},
        {"path": "photos/1.jpg", "words": ["car", "sky"], "distances": [1.5] * 2, "confidences": pytest.approx([0.3, 0.7])},
    ]
    assert list(some(1, confidence=None).to_dicts()[0]) == ["path", "words", "distances"]


def test_a_data_frame() -> None:
    pytest.importorskip("pandas", reason="pandas is not installed: pip install '.[test]'")
    frame = some(2).to_pandas()
    assert frame.to_dict("records") == some(2).to_dicts() and some(0).to_pandas().columns.tolist() == frame.columns.tolist()
    assert frame.explode(["words", "distances", "confidences"])["words"].tolist() == [*WORDS[:3], "car", "sky"]


def test_without_pandas_it_is_said_what_to_do() -> None:
    program = (
        "import sys\nsys.modules['pandas'] = None\nimport numpy as np\nfrom gpuannot import Annotations\n"
        "empty = np.empty((0, 1))\nAnnotations((), np.arange(0), empty.astype(int), empty, ('a',)).to_pandas()"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and "DeviceError: to_pandas needs pandas: pip install pandas; to_dicts gives" in ran.stderr


def test_order_of_confidence() -> None:
    ordered = some(2).by_confidence()
    assert ordered.words == [(WORDS[1], "sky", "tree"), ("sky", "car")] and ordered.index[1, 2] == -1
    assert np.isinf(ordered.distance[1, 2]) and np.array_equal(ordered.by_confidence().index, ordered.index)
    plain = some(2, confidence=None)
    assert plain.by_confidence() is plain


def test_what_is_weak(scenes: LabelledImages) -> None:
    """What the fit chose, or a half; nothing without confidences. Batches and their sum say the same."""
    chosen = {name: value for name, value in RIDGE.items() if name not in ("objective", "regularisation", "balance", "calibration")}
    for settings, expected in ((RIDGE, 0.5), (chosen, None), ({}, None)):
        made = small_annotator(**SMALL, **settings).fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary)
        head = made.words.head.chosen
        weak = head.threshold if head is not None and head.threshold is not None else expected
        assert made.annotate(scenes.paths[:3]).weak_below == weak
        assert {part.weak_below for part in made.stream(scenes.paths[:3])} == {weak}
        assert ("confidences  none; the heads" if weak is None else f"weak below {weak:.2f}") in repr(made)


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("short.jpg", "short.jpg"),
        ("/home/someone/pictures/2024/a-long-folder-name/beach.jpg", "/home/someone/pictures/2024/a-long-fo…/beach.jpg"),
        ("a" * 60 + ".jpg", "a" * 15 + "…" + "a" * 28 + ".jpg"),
    ],
)
def test_long_paths_keep_the_name_of_the_file(path: str, shown: str) -> None:
    assert cut(path) == shown and len(shown) <= 48


def test_an_annotator_in_a_terminal_and_a_notebook(scenes: LabelledImages) -> None:
    made = small_annotator(**SMALL, trunk_dtype="float32")
    shown = "Annotator(layer='pool2', trunk_dtype='float32', input_size=32, n_components=8, n_centers=4)"
    assert repr(made).splitlines()[0] == shown
    assert "nothing learnt yet: call fit" in repr(made)
    made.fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary)
    first = int(np.argmax(made.bank_.counts))
    assert f"{len(scenes.vocabulary)}, with images of each: {scenes.vocabulary[first]} {made.bank_.counts[first]}, " in repr(made)
    assert len(repr(made).splitlines()) <= 6 and max(map(len, repr(made).splitlines())) < 200
    assert "<table>" in made._repr_html_() and scenes.vocabulary[first] in made._repr_html_()


# In a process of its own: sockets of the notebook's client that are left open would be another test's warnings. No port is opened.
RUN_CELLS = """
import json, sys
import nbclient, nbformat
from jupyter_client.manager import AsyncKernelManager
cells, folder = json.load(sys.stdin)
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
manager = AsyncKernelManager(transport="ipc", ip=folder + "/socket")
manager.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
nbclient.NotebookClient(notebook, km=manager, timeout=120).execute()
json.dump([cell.outputs[-1] for cell in notebook.cells], sys.stdout)
"""


def test_a_notebook(tmp_path: Path, scenes: LabelledImages) -> None:
    for package in ("nbclient", "ipykernel"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install '.[test]'")
    made = small_annotator(**SMALL, **RIDGE).fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary)
    model = made.save(tmp_path / "m.safetensors")
    cells = [
        f"from gpuannot import Annotator\nannotator = Annotator.load({str(model)!r}, device='cpu')\nannotator",
        f"found = annotator.annotate({str(scenes.paths[0])!r}, k=4)\nfound",
        "print(found)",
    ]
    ran = subprocess.run(
        [sys.executable, "-c", RUN_CELLS], input=json.dumps([cells, str(tmp_path)]), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    shown, given, printed = json.loads(ran.stdout)
    assert "confidences" in shown["data"]["text/html"] and shown["data"]["text/plain"].startswith("Annotator(")
    expected = Annotator.load(model, device="cpu").annotate(scenes.paths[0], k=4)
    assert given["data"]["text/html"] == expected._repr_html_() and printed["text"] == f"{expected!r}\n"
