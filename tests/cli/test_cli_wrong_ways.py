"""The ways in which people call a command wrongly, for every command where they apply, and what it says then.

Each says which file or value is wrong and what to do, in a line or two, without a traceback, ends with exit code 2 and leaves
nothing behind.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from typer.testing import CliRunner

from gpuannot.cli.main import app
from gpuannot.model.file import ModelFile

pytestmark = pytest.mark.usefixtures("weights_read_once")
SMALL = " ".join(f"--set={setting}" for setting in ("layer=pool2", "input_size=32", "n_components=8", "n_centers=4"))

# What is to be done where the commands stand that say the same. Their arguments stand for what `place` makes.
WITH_LABELS = ("fit {} -o new.safetensors", "evaluate m.safetensors {}", "tune {} -o new.json")
WITH_MODEL = (
    "annotate {} scenes", "evaluate {} scenes", "report {} scenes", "explain {} scenes", "words list {}",
    "words add {} zebra a.jpg --overwrite", "words remove {} sky --overwrite", "words rename {} sky air --overwrite",
    "words merge {} sky sea --overwrite",
)  # fmt: skip
WITH_IMAGES = (
    "annotate m.safetensors {}", "report m.safetensors {}", "explain m.safetensors {}",
    "words add m.safetensors zebra {} --overwrite", "words merge m.safetensors sky sea --both {} --overwrite",
)  # fmt: skip
WITH_K = ("annotate m.safetensors scenes -k {}", "evaluate m.safetensors scenes -k {}", "report m.safetensors scenes -k {}")
WITH_CONFIG = ("fit scenes -o new.safetensors {}", "tune scenes -o new.json {}", "reproduce corel5k --data scenes {}")
CHANGES = ("words add m.safetensors {} a.jpg", "words remove m.safetensors {}", "words rename m.safetensors {} air")
OUTPUTS = (
    "fit scenes -o {}.safetensors", "annotate m.safetensors scenes -o {}.csv", "annotate m.safetensors scenes --report {}.html",
    "evaluate m.safetensors scenes --report {}.html", "report m.safetensors scenes -o {}.html",
    "explain m.safetensors scenes -o {}", "tune scenes -o {}.json", "reproduce corel5k --data scenes -o {}.json", "demo {}",
    "words add m.safetensors zebra a.jpg -o {}.safetensors", "words remove m.safetensors sky -o {}.safetensors",
    "words rename m.safetensors sky air -o {}.safetensors", "words merge m.safetensors sky sea -o {}.safetensors",
)  # fmt: skip
ON_A_DEVICE = (
    f"fit scenes -o new.safetensors {SMALL} --device {{}}", "annotate m.safetensors scenes --device {}",
    "evaluate m.safetensors scenes --device {}", "report m.safetensors scenes --device {}",
    "explain m.safetensors scenes --device {}", "words remove m.safetensors sky --overwrite --device {}",
)  # fmt: skip
OF_MODELS = (
    "--glob *.png", "--exclude a*", "--column words", "--words 2", "--threshold 0", "--no-heatmaps", "--skip-labelled scenes",
    "--weights embedded", "--convention caffe", "--device cpu",
)  # fmt: skip
OF_AUDITS = (
    "--report new.html", "--save-model new.safetensors", "--model m.safetensors", "--preset best", "--seed 0", "--set n_centers=4",
    "--config cut.json", "--min-count 2", "--rows 5", "--limit 5", "--weights embedded", "--convention caffe", "--device cpu",
)  # fmt: skip

# way → (commands, what stands for {}, what is said)
WAYS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "a label file that is not there": (WITH_LABELS, "gone.csv", "gone.csv: no such file or folder"),
    "a folder without labels": (WITH_LABELS, "nothing", "nothing holds no labels.json or labels.csv, no two subfolders of"),
    "a label file that is empty": (WITH_LABELS, "empty.csv", "empty.csv: it is empty; expected a column of image names"),
    "labels without a header": (WITH_LABELS, "bare.csv", "bare.csv: its header is scenes/images/scene_00000.jpg, sky;sea; exp"),
    "labels without images": (WITH_LABELS, "lost.csv", "none of the 2 images that lost.csv names is in /"),
    "labels without words": (WITH_LABELS, "mute.csv", "mute.csv: not one of its 1 image carries a word, so there is nothing to"),
    "labels that are cut": (WITH_LABELS, "cut.json", "cut.json is not valid JSON: Expecting value: line 1 column 14"),
    "a photo for a label file": (WITH_LABELS, "broken.jpg", "broken.jpg: a label file is .json or .csv, .jsonl or .tsv; or give"),
    "a model that is not there": (WITH_MODEL, "gone.safetensors", "gone.safetensors: no such model file; gpuannot fit writes one"),
    "a model that is empty": (WITH_MODEL, "empty.safetensors", "empty.safetensors is not a whole safetensors file ("),
    "a model that is cut": (WITH_MODEL, "cut.safetensors", "cut.safetensors is not a whole safetensors file ("),
    "a model that was changed": (WITH_MODEL[:6], "edited.safetensors", "edited.safetensors was changed after it was written: its"),
    "a model of another version": (WITH_MODEL, "later.safetensors", "later.safetensors has schema 'gpuannot.model/9', this"),
    "network weights for a model": (WITH_MODEL, "weights.safetensors", "weights.safetensors is a safetensors file, but not a"),
    "images for the model": (
        tuple(each for each in WITH_MODEL if not each.startswith("report")), "scenes", "scenes: no such model file, but a folder",
    ),
    "images that are not there": (WITH_IMAGES, "gone.jpg", "gone.jpg: no such file or folder"),
    "a folder without images": (WITH_IMAGES, "nothing", "nothing: no image in this folder or below it; looked for files ending in"),
    "a photo that is none": (WITH_IMAGES, "broken.jpg", "broken.jpg: not an image in a known format (JPEG, PNG,"),
    "a pattern without a match": (WITH_IMAGES, "z*.jpg", "z*.jpg: no file matches this pattern"),
    "a list of images that is empty": (WITH_IMAGES, "empty.csv", "empty.csv: it is empty; expected a header that names"),
    "a list that names nothing": (
        (*WITH_IMAGES, "annotate m.safetensors {} -o new.parquet"), "empty.txt",
        "empty.txt: no images were given; a list, table or archive that is empty names none",
    ),
    "no words": (WITH_K, "0", "Invalid value for '-k' / '--words': Input should be greater than or equal to 1"),
    "fewer than no words": (WITH_K, "-3", "Invalid value for '-k' / '--words': Input should be greater than or equal to 1"),
    "a number in letters": (WITH_K, "five", "Invalid value for '-k' / '--words': Input should be a valid integer"),
    "more words than there are": (WITH_K, "1000", "k = 1000 must lie in 1…21, the number of words that can be given"),
    "a preset that is none": (WITH_CONFIG, "--preset bets", "preset 'bets' is unknown; choose one of paper, best, kernel"),
    "a setting that is none": (WITH_CONFIG, "--set n_centres=3", "expected NAME=VALUE with NAME one of trunk, weights,"),
    "a setting out of range": (WITH_CONFIG, "--set n_centers=-1", "n_centers must be a whole number of at least 1, got -1"),
    "a negative seed": (WITH_CONFIG, "--seed -1", "Invalid value for '--seed': Input should be greater than or equal to 0"),
    "both of two options": (WITH_CONFIG, "--preset best --config cut.json", "--preset and --config both say where to start"),
    "weights that are not there": (
        (f"fit scenes -o new.safetensors {SMALL} {{}}", "annotate m.safetensors scenes {}"), "--weights gone.pth",
        "gone.pth: no such file of trunk weights; give a .safetensors or .pth file",
    ),
    "a misspelled option": (
        (*(each.format("--presett best") for each in WITH_CONFIG), *(f"{each} --presett best".format("sky") for each in CHANGES)),
        "", "No such option: --presett",
    ),
    "a misspelled command": (("annotat m.safetensors scenes",), "", "No such command 'annotat'. Did you mean 'annotate'?"),
    "a missing argument": (
        ("fit", "annotate m.safetensors", "evaluate m.safetensors", "explain m.safetensors", "tune", "words remove m.safetensors"),
        "", "Missing argument",
    ),
    "an output that exists": (OUTPUTS, "taken", "taken"),
    "an output in no folder": (OUTPUTS, "no/new", "no: no such folder for the"),
    "a model by another name": (
        tuple(each.replace("{}.safetensors", "{}") for each in OUTPUTS if "safetensors -o" not in each and "-o {}.safet" in each),
        "new.pt", "new.pt: a model is one .safetensors file; write it for example to --output new.safetensors",
    ),
    "a table by another name": (("annotate m.safetensors scenes -o {}",), "w.xlsx", "w.xlsx: the output's suffix must be one of"),
    "a report by another name": (
        ("report m.safetensors scenes -o {}", "evaluate m.safetensors scenes --report {}"), "r.pdf",
        "r.pdf: a report is an HTML file; name it r.html",
    ),
    "a model in its own place": (CHANGES, "sky", "m.safetensors would be replaced; name another file with --output, or replace it"),
    "a word that is unknown": (
        (*(f"{each} --overwrite" for each in CHANGES[1:]), "words merge m.safetensors sea {} --overwrite",
         "explain m.safetensors scenes --word {}"),
        "ske", "the vocabulary lacks 'ske'; did you mean 'sky'?",
    ),
    "a word without a letter": (("words add m.safetensors ' ' a.jpg --overwrite",), "", "the new word is ' ', expected one with a"),
    "a device that is not there": (ON_A_DEVICE, "cuda", "device 'cuda': "),
    "a device that is none": (ON_A_DEVICE, "tpu", "device 'tpu' is unknown; use \"auto\", \"cpu\", \"cuda\" or \"cuda:N\""),
    "annotations that are none": (("report {}",), "lost.csv", "lost.csv, row 0: expected a 'path' and a list of 'words', as"),
    "a threshold without confidences": (
        (
            "annotate m.safetensors scenes {}", "annotate m.safetensors scenes -o new.csv {}",
            "watch m.safetensors scenes -o new.jsonl {}", "export given.csv -o new.jsonl {}",
        ),
        "--word-threshold sky=0.5", "there are no confidences to compare with a threshold; those of presets best and kernel have",
    ),
    **{
        f"{option} with annotations": (
            ("report given.csv {}",), option, f"{option.split()[0]} goes with a model: given.csv already says which words which"
        )
        for option in OF_MODELS
    },
    "--fold-case without labels": (
        ("report given.csv {}", "report m.safetensors a.jpg {}"), "--fold-case", "--fold-case goes with labels",
    ),
    **{
        f"{option} with labels": (
            ("report m.safetensors scenes {}",), option, f"{option.split()[0]} goes with images, and scenes is taken for labels"
        )
        for option in OF_MODELS[:3]
    },
    **{
        f"{option} and no audit": (
            ("audit scenes --apply cut.json -o new.json {}",), option, f"{option.split()[0]} is for an audit, and --apply does none"
        )
        for option in OF_AUDITS
    },
    "a limit of no page": (("audit scenes --limit 5",), "", "--limit is for the page; name it with --report"),
    "a fit's options beside a model": (
        ("audit scenes --model m.safetensors --seed 0",), "", "--seed is for a model that is fitted here, and --model names one"
    ),
    "a number of words that are named": (
        ("explain m.safetensors scenes -k 2 --word sky",), "", "--words is for the words that images are given, and --word asks for"
    ),
    "labels for corrections": (
        ("learn m.safetensors {} --overwrite", "audit scenes --apply {} -o new.json"), "tasks.json",
        "tasks.json holds no corrections; a rev",
    ),
    "COCO for corrections": (("learn m.safetensors {} --overwrite",), "coco.json", "coco.json holds no corrections; a rev"),
    "corrections of what is no file": (
        ("audit scenes --apply {} -o new.json", "learn m.safetensors {} --overwrite"), "nul.json",
        "nul.json: samples[0] names 'a\\x00b', which no file can be called",
    ),
    "a small model of a large kind": (
        ("fit scenes -o new.safetensors --annotate-only",), "", "--annotate-only: the head 'mean' ranks words by the sums that it",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(drawn_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, images and everything that may be wrong with a file."""
    folder = tmp_path_factory.mktemp("wrong")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.chdir(folder)
        shutil.copytree(drawn_scenes, "scenes")
        shutil.copy("scenes/images/scene_00000.jpg", "a.jpg")
        assert CliRunner().invoke(app, ["fit", "scenes", "-o", "m.safetensors", *SMALL.split(), "--device", "cpu"]).exit_code == 0
        model, file = Path("m.safetensors").read_bytes(), ModelFile.read("m.safetensors")
        later = {"schema": "gpuannot.model/9", "sha256": "", **file.metadata}
        contents: dict[str, str | bytes] = {
            "empty.csv": "", "empty.txt": "", "given.csv": "path,words\na.jpg,sky\n",
            "tasks.json": json.dumps([
                {"data": {"image": "a.jpg"}, "annotations": [{"result": [{"type": "choices", "value": {"choices": ["sky"]}}]}]}
            ]),
            "coco.json": json.dumps({
                "images": [{"id": 1, "file_name": "a.jpg"}], "categories": [{"id": 1, "name": "sky"}],
                "annotations": [{"image_id": 1, "category_id": 1}], "samples": [7],
            }),
            "nul.json": json.dumps({"samples": [{"image_name": "a\0b", "image_labels": ["sky"]}]}),
            "bare.csv": "scenes/images/scene_00000.jpg,sky;sea\n",
            "lost.csv": "image,words\nno1.jpg,a\nno2.jpg,b\n",
            "mute.csv": "image,words\na.jpg,\n", "cut.json": '{"samples": [', "broken.jpg": "no image", "empty.safetensors": "",
            "cut.safetensors": model[: len(model) // 2], "edited.safetensors": model[:-5] + bytes([model[-5] ^ 1]) + model[-4:],
            "later.safetensors": save(dict(file.tensors), {"gpuannot": json.dumps(later)}),
            "weights.safetensors": save({"conv1_1": np.zeros(3)}), "nothing/notes.md": "no image",
            **dict.fromkeys(("taken/x", "taken.safetensors", "taken.csv", "taken.html", "taken.json"), "mine"),
        }  # fmt: skip
        for name, content in contents.items():
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


@pytest.fixture
def place(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(made)
    with warnings.catch_warnings():  # each command replaces how they are shown
        yield made


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_said(place: Path, way: str) -> None:
    commands, what, said = WAYS[way]
    before = files(place)
    for command in commands:
        filled = command.format(what)
        result: Any = CliRunner().invoke(app, shlex.split(filled), env={"COLUMNS": "300", "TERMINAL_WIDTH": "300"})
        error = " ".join(re.sub("[─│╭╮╰╯]", " ", result.stderr).split())
        assert result.exit_code == 2, f"{filled}: {result.output}"
        assert said in error and "Traceback" not in error and not result.stdout, f"{filled}: {result.output}"
        assert len(error) < 900 and files(place) == before, filled
        assert sorted(os.listdir(place)) == sorted({name.relative_to(place).parts[0] for name in map(Path, before)}), filled


def test_twenty_ways_at_least() -> None:
    assert len(WAYS) >= 20
    commands = {" ".join(command.split()[: 1 + command.startswith("words")]) for way in WAYS.values() for command in way[0]}
    assert {"fit", "annotate", "evaluate", "report", "explain", "tune", "reproduce", "demo", "words add", "words list"} <= commands
