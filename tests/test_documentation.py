"""Every command and code block of the README and the documentation runs, in the order of its page, in a folder with drawn scenes.

Blocks marked ``sh`` go to bash, blocks marked ``python`` of one page share their names. A block that cannot run here has the
comment ``<!-- not run: why -->`` before it and is shown as skipped; one that needs a GPU runs where there is one.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from pages import Block, MarkdownIt, blocks
from rooms import table

import gpuannot
from gpuannot import Annotator
from gpuannot.cli.main import app
from gpuannot.datasets import label_files as datasets
from gpuannot.datasets.scenes import write_scenes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = ("beach", "forest", "harbour", "village", "meadow", "street", "hills", "garden", "coast", "snow")


def names(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


BLOCKS = {page: blocks(page) for page in PAGES}
SKIPPED = [(page, block) for page in PAGES for block in BLOCKS[page] if not block.runs]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages speak of, with drawn scenes for photographs."""
    folder = tmp_path_factory.mktemp("prepared")
    write_scenes(folder / "photos", len(NAMES))
    content = json.loads((folder / "photos" / "labels.json").read_text())
    for sample, name in zip(content["samples"], NAMES, strict=True):
        (folder / "photos" / "images" / sample["image_name"]).rename(folder / "photos" / "images" / f"{name}.jpg")
        sample["image_name"] = f"{name}.jpg"
    (folder / "photos" / "labels.json").write_text(json.dumps(content))
    photos = sorted((folder / "photos" / "images").glob("*.jpg"))
    write_scenes(folder / "test", 4, seed=1)
    chosen_for = {"holiday": photos[:2], "more": photos[3:5], "animals/cat": photos[5:7], "animals/dog": photos[8:10]}
    for place, chosen in chosen_for.items():
        (folder / place).mkdir(parents=True)
        for photo in chosen:
            shutil.copy(photo, folder / place)
    (folder / "shards").mkdir()
    with tarfile.open(folder / "shards" / "000.tar", "w") as shard:
        for photo in photos[:2]:
            shard.add(photo, photo.name)
    (folder / "list.txt").write_text("holiday/beach.jpg\n")
    pq.write_table(pa.table({"path": [str(photo.relative_to(folder)) for photo in photos[4:6]]}), folder / "table.parquet")
    (folder / "tags.csv").write_text(
        "image,words\n"
        + "".join(
            f"photos/images/{sample['image_name']},{';'.join(sample['image_labels'])}\n" for sample in content["samples"][:-2]
        )
    )
    first = content["samples"][0]
    corrected = {"image_name": f"photos/images/{first['image_name']}", "image_labels": ["lighthouse"], "was": first["image_labels"]}
    (folder / "corrections.json").write_text(json.dumps({"samples": [corrected]}))
    benchmark(folder / "corel5k", folder)
    images = datasets.load_labelled_images(folder / "photos")
    Annotator(device="cpu").fit(images.paths, images.labels, vocabulary=images.vocabulary).save(folder / "model.safetensors")
    return folder


def benchmark(folder: Path, scenes: Path) -> None:
    """Drawn scenes in the benchmark's layout; :data:`gpuannot.datasets.label_files.BENCHMARKS` has to be told their number."""
    (folder / "images").mkdir(parents=True)
    for split, source in (("train", "photos"), ("test", "test")):
        shutil.copytree(scenes / source / "images", folder / "images", dirs_exist_ok=True)
        content = json.loads((scenes / source / "labels.json").read_text())
        (folder / f"{split}.json").write_text(json.dumps(content))
    (folder / "vocabulary.txt").write_text("\n".join(content["labels"]) + "\n")


@pytest.fixture
def workplace(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setitem(datasets.BENCHMARKS, "corel5k", (len(NAMES), 4, len(datasets.load_labelled_images("test").vocabulary)))
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.runs for block in BLOCKS[page])], ids=names)
def test_the_blocks_of_a_page_run(page: Path, workplace: Path, commands: str) -> None:
    if any(re.search(r"gpuannot fit .*-o model\.safetensors", block.text) for block in BLOCKS[page] if block.runs):
        (workplace / "model.safetensors").unlink()  # the page makes its own
    variables: dict[str, Any] = {"__name__": "__main__"}
    for block in BLOCKS[page]:
        where = f"{names(page)}, line {block.line}"
        if not block.runs:
            continue
        if block.language == "python":
            exec(compile("\n" * block.line + block.text, str(page), "exec"), variables)
        else:
            ran = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.text],
                cwd=workplace,
                env={**os.environ, "PATH": commands},
                capture_output=True,
                text=True,
            )
            assert ran.returncode == 0, f"{where}: exit code {ran.returncode}\n{ran.stdout}{ran.stderr}"


@pytest.mark.parametrize(("page", "block"), SKIPPED, ids=[f"{names(page)}:{block.line}" for page, block in SKIPPED])
def test_a_block_that_cannot_run_here(page: Path, block: Block) -> None:
    assert block.not_run
    pytest.skip(block.not_run)


def inline_commands(page: Path) -> list[str]:
    tokens = [child for token in MarkdownIt("commonmark").parse(page.read_text()) for child in token.children or ()]
    return [child.content for child in tokens if child.type == "code_inline" and child.content.startswith("gpuannot ")]


@pytest.mark.parametrize("line", sorted({line for page in PAGES for line in inline_commands(page)}))
def test_a_command_in_the_text_is_one_that_the_command_line_takes(line: str) -> None:
    _, *arguments = shlex.split(line)
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    if arguments:
        command.make_context(line, arguments)  # raises for an option or argument that does not exist


def test_the_readme_shows_the_main_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert {found[1] for found in re.finditer(r"gpuannot (\w+)", text)} >= {"fit", "annotate", "evaluate", "reproduce", "info"}


def test_every_block_is_marked_with_its_language() -> None:
    for page in PAGES:
        fences = [token for token in MarkdownIt("commonmark").parse(page.read_text()) if token.type in ("fence", "code_block")]
        assert all(re.fullmatch(r"sh|python|json|text|\{[\w-]+\}", fence.info) for fence in fences), names(page)


def test_links_lead_to_files() -> None:
    for page in PAGES:
        for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
            for child in token.children or ():
                target = str(child.attrs.get("href") or child.attrs.get("src") or "").partition("#")[0]
                if target and "://" not in target:
                    assert (page.parent / target).exists(), f"{names(page)} links to {target}"


def test_habits_of_docstrings_become_what_the_generator_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "extensions"))
    process = importlib.import_module("docstrings").process
    lines = [
        "P(w | J) of ``a | b`` and centers_:",
        "",
        "    P(w | J) = 1",
        "",
        "Args:",
        "    images: N images. They may be mixed: yes. k: how many. labels, words: both,",
        "        with more. last_: the last one_.",
        "",
        "Returns:",
        "    index, and distance: smaller is better.",
        "",
        "Raises:",
        "    ValueError: k = 0. DataError: no images.",
    ]
    process(None, "function", "name", None, None, lines)
    assert lines == [
        r"P(w \| J) of ``a | b`` and centers\_::",
        "",
        "    P(w | J) = 1",
        "",
        "Args:",
        "    images: N images. They may be mixed: yes.",
        "    k: how many.",
        "    labels, words: both, with more.",
        r"    last_: the last one\_.",
        "",
        ":returns:",
        "    index, and distance: smaller is better.",
        "",
        "Raises:",
        "    ValueError: k = 0.",
        "    DataError: no images.",
    ]


def architecture(heading: str) -> str:
    """A section of the page."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    return re.split(r"^## ", text.split(f"## {heading}\n")[1], flags=re.M)[0]


def test_the_picture_of_the_rooms_is_the_table_that_imports_are_held_to() -> None:
    picture = re.search(r"```text\n(.+?)\n```", architecture("The rooms"), re.S)
    assert picture
    heading, *rows = picture[1].splitlines()
    columns = [(found.start(), found.end(), found[0]) for found in re.finditer(r"\w+", heading)]
    drawn = {row.split()[0]: {name for start, end, name in columns if "←" in row[start:end]} for row in rows}
    order = [name for *_, name in columns] + [row.split()[0] for row in rows[-1:]]
    assert list(drawn) == order[1:] and all(set(may) <= set(order[: order.index(room)]) for room, may in drawn.items())
    assert drawn == {room: table()[room] & set(order) - {room} for room in drawn}


def test_the_walks_name_what_is_there() -> None:
    for name in re.findall(r"`([a-z_]+(?:\.\w+)+)`", (ROOT / "docs" / "architecture.md").read_text()):
        if not name.startswith(("gpuannot.", "annotator.encoder", "annotator.words")):
            assert pkgutil.resolve_name(f"gpuannot.{name}"), name


def test_the_walk_of_a_batch_counts_its_files() -> None:
    walk = architecture("A batch, from file to Parquet row")
    functions = [row.split("|")[2] for row in walk.splitlines() if row.startswith("|")]
    files = {".".join(name.split(".")[:2]) for name in re.findall(r"`([\w.]+)`", " ".join(functions))}
    assert f"passes through {len(files)} files" in " ".join(walk.split())


#: Modules that are no part of the public interface.
INTERNAL = (
    r"gpuannot\.(__main__|data|cli.*)",
    r"gpuannot\.system\.version",
    r"gpuannot\.images\.(containers|archives|parquet|processes|worker|jpeg_header|jxl_header|refusal|folders|formats|jpeg|png|webp|libtiff|tiff|tiff_colour|netpbm|colour|profiles|size)",
    r"gpuannot\.method\.embed_weights",
    r"gpuannot\.jobs\.writers\.(parquet_rows|json_rows|csv_rows|documents)",
    r"gpuannot\.model\.(header|persistence)",
    r"gpuannot\.report\.(counts|page|previews)",
    r"gpuannot\.datasets\.scenes\..*",
    r"gpuannot\.baselines\.pixels",
)


def test_the_reference_has_every_public_module_once() -> None:
    pages = {page: page.read_text() for page in sorted((ROOT / "docs" / "reference").glob("*.md"))}
    shown = sorted(name for text in pages.values() for name in re.findall(r"automodule:: (\S+)", text))
    there = {module.name for module in pkgutil.walk_packages(gpuannot.__path__, "gpuannot.")} | {"gpuannot.kernels"}
    there |= {f"gpuannot.kernels.{path.stem}" for path in (ROOT / "kernels").glob("*.py") if path.stem != "__init__"}
    assert shown == sorted(name for name in there if not re.fullmatch("|".join(INTERNAL), name))
    for page, text in pages.items():
        titled = re.findall(r"^## (gpuannot\S+)\n\n```\{eval-rst\}\n\.\. automodule:: (\S+)", text, re.M)
        assert all(title == name for title, name in titled), names(page)
        assert len(titled) >= text.count("automodule::") - 1, names(page)  # the room's own stands under the page's title
