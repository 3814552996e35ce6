"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from gpuannot import Annotator, __version__
from gpuannot.cli import app

SMALL = [f"--set={setting}" for setting in ("layer=pool2", "input_size=32", "n_components=8", "n_centers=4")]
COMMANDS = ("fit", "annotate", "evaluate", "reproduce", "demo", "info")


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def one_line_error(result: Any) -> str:
    """What a wrong call prints: no traceback, nothing on standard output, exit code 2."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def model(drawn_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    result = run("fit", drawn_scenes, "-o", path, *SMALL, "--device", "cpu")
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture
def images(drawn_scenes: Path, tmp_path: Path) -> Path:
    """A folder of three good images whose names are awkward, and one that is none."""
    folder = tmp_path / "meine Bilder [bold]"
    folder.mkdir()
    names = ("sky, sea.jpg", "Größe 日本.jpg", "[red]x[", "plain.jpg")
    for number, name in enumerate(names):
        name = name if name.endswith(".jpg") else f"{name}.jpg"
        shutil.copy(drawn_scenes / "images" / f"scene_{number:05d}.jpg", folder / name)
    (folder / "plain.jpg").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_the_options_mean(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout
    options = [line for line in result.stdout.splitlines() if line.startswith("│ --") or line.startswith("│ *")]
    assert options
    assert command in run("--help").stdout


def test_version_and_no_arguments() -> None:
    assert run("--version").stdout == f"gpuannot {__version__}\n"
    assert "Usage:" in run().output


def test_annotate_to_the_terminal(model: Path, images: Path) -> None:
    result = run("annotate", model, images, "-k", "3")
    assert result.exit_code == 1
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert [Path(path).name for path, _ in lines] == sorted(p.name for p in images.iterdir() if p.name != "plain.jpg")
    assert all(len(words.split(", ")) == 3 for _, words in lines)
    assert "1 inputs failed" in result.stderr
    assert f"{images}/plain.jpg: not an image" in result.stderr  # brackets as they are, not as markup


def test_annotate_as_json_lines(model: Path, images: Path) -> None:
    result = run("annotate", model, images, "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    expected = Annotator.load(model, device="cpu").annotate(images)
    assert [row["path"] for row in rows] == list(expected.names)
    assert [tuple(row["words"]) for row in rows] == expected.words
    assert rows[0]["distances"] == pytest.approx(expected.distance[0].tolist())


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_annotate_to_a_file_with_its_ledger(model: Path, images: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"words{suffix}"
    result = run("annotate", model, images, "-o", target, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"output": str(target), "annotated": 3, "failed": 1}
    if suffix == ".parquet":
        paths = pq.read_table(target).column("path").to_pylist()
    elif suffix == ".jsonl":
        paths = [json.loads(line)["path"] for line in target.read_text(encoding="utf-8").splitlines()]
    else:
        with open(target, encoding="utf-8", newline="") as file:
            paths = [row["path"] for row in csv.DictReader(file)]
    assert len(paths) == 3
    ledger = [json.loads(line) for line in (tmp_path / f"words{suffix}.failures.jsonl").read_text().splitlines()]
    assert [(Path(row["path"]).name, row["stage"]) for row in ledger] == [("plain.jpg", "decode")]
    assert {*paths, *(row["path"] for row in ledger)} == {str(path) for path in images.iterdir()}  # rows + failures = inputs

    before = target.read_bytes()
    assert "exists" in one_line_error(run("annotate", model, images, "-o", target))
    assert target.read_bytes() == before
    (images / "plain.jpg").unlink()
    assert run("annotate", model, images, "-o", target, "--overwrite").exit_code == 0
    assert not (tmp_path / f"words{suffix}.failures.jsonl").exists()  # the ledger of the run before


def test_fit_goes_on_without_the_images_that_fail(drawn_scenes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(drawn_scenes, folder)
    names = sorted((folder / "images").iterdir())
    names[0].unlink()
    names[1].write_bytes(names[1].read_bytes()[:300])
    Image.new("RGB", (9, 9)).save(folder / "images" / "unnamed.png")
    result = run("fit", folder, "-o", tmp_path / "m.safetensors", *SMALL)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "from 22 images" in result.stderr
    assert "2 inputs failed" in result.stderr
    assert "scene_00000.jpg: no such file" in result.stderr
    assert "scene_00001.jpg: " in result.stderr
    assert "1 images beside the label file are not named" in result.stderr
    assert Annotator.load(tmp_path / "m.safetensors", device="cpu").vocabulary


def test_fit_from_csv_with_words_that_look_like_markup(drawn_scenes: Path, tmp_path: Path) -> None:
    label_file = tmp_path / "labels.csv"
    pictures = sorted((drawn_scenes / "images").iterdir())[:6]
    label_file.write_text("image,words\n" + "".join(f"{path},[red];sea {number % 2}\n" for number, path in enumerate(pictures)))
    assert run("fit", label_file, "-o", tmp_path / "m.safetensors", *SMALL).exit_code == 0
    three = run("annotate", tmp_path / "m.safetensors", pictures[0], "-k", "3")
    assert "[red]" in three.stdout
    assert "k = 4 must lie in 1…3" in one_line_error(run("annotate", tmp_path / "m.safetensors", pictures[0], "-k", "4"))


def test_evaluate(model: Path, drawn_scenes: Path, tmp_path: Path) -> None:
    result = run("evaluate", model, drawn_scenes, "--json")
    assert result.exit_code == 0
    scores = json.loads(result.stdout)
    assert scores["images"] == 24
    assert scores["failed"] == 0
    assert 0 < scores["f1"] <= 1
    table = run("evaluate", model, drawn_scenes).stdout
    assert f"{100 * scores['f1']:.2f}" in table

    label_file = tmp_path / "labels.json"
    picture = str(sorted((drawn_scenes / "images").iterdir())[0])
    label_file.write_text(json.dumps({"samples": [{"image_name": picture, "image_labels": ["sky", "unheard of"]}]}))
    result = run("evaluate", model, label_file, "--json")
    assert json.loads(result.stdout)["words"] == scores["words"] + 1
    assert "1 words are unknown to the model" in result.stderr


def test_info() -> None:
    found = json.loads(run("info", "--json").stdout)
    assert found["versions"]["gpuannot"] == __version__
    assert found["settings"]["n_centers"] == 64
    text = run("info").stdout
    assert "n_centers = 64" in text
    if found["missing"].get("GPU"):
        assert "gpuannot[cuda13]" in text  # not swallowed as markup


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["fit", "nowhere"], "no such file or folder"),
        (["fit", "{scenes}/images"], "no labels.json or labels.csv"),
        (["fit", "{scenes}", "--preset", "best of all"], "preset 'best of all' is unknown; choose one of paper"),
        (["fit", "{scenes}", "--set", "n_centres=3"], "expected NAME=VALUE with NAME one of"),
        (["fit", "{scenes}", "--set", "n_centers"], "expected NAME=VALUE"),
        (["fit", "{scenes}", "--set", "n_centers=three"], "expected a whole number"),
        (["fit", "{scenes}", "--set", "relu=yes"], "expected true or false"),
        (["fit", "{scenes}", "--set", "n_centers=0"], "n_centers must be a whole number of at least 1"),
        (["fit", "{scenes}", "--weights", "none.safetensors", "-o", "{tmp}/m.safetensors"], "no such file of trunk weights"),
        (["fit", "{scenes}", "-o", "{model}"], "exists; choose another name with --output"),
        (["fit", "{scenes}", "-o", "{tmp}/no/m.safetensors", *SMALL], "no such folder for the output"),
        (["fit", "{scenes}", "--device", "tpu", "-o", "{tmp}/m.safetensors"], "device 'tpu' is unknown"),
        (["annotate", "none.safetensors", "{scenes}"], "no such model file"),
        (["annotate", "{scenes}/labels.json", "{scenes}"], "not a whole safetensors file"),
        (["annotate", "{model}", "nowhere"], "nowhere"),
        (["annotate", "{model}", "{tmp}"], "no image"),
        (["annotate", "{model}", "{scenes}", "-k", "1000"], "k = 1000 must lie in 1…"),
        (["annotate", "{model}", "{scenes}", "-o", "{tmp}/words.txt"], "suffix must be one of .parquet, .jsonl, .csv"),
        (["annotate", "{model}", "{scenes}", "-o", "{tmp}/no/words.csv"], "no such folder"),
        (["evaluate", "{model}", "nowhere"], "no such file or folder"),
        (["reproduce", "corel5k", "--data", "nowhere"], "no such folder"),
        (["reproduce", "corel5k", "--data", "{tmp}"], "vocabulary.txt"),
        (["reproduce", "cifar10", "--data", "{tmp}"], "cifar10"),
        (["annotate"], "Missing argument"),
        (["dance"], "No such command"),
    ],
)
def test_wrong_calls_say_what_is_wrong(
    model: Path, drawn_scenes: Path, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    filled = [argument.format(model=model, scenes=drawn_scenes, tmp=tmp_path) for argument in arguments]
    error = " ".join(one_line_error(run(*filled)).replace("│", " ").split())
    assert expected in error
    assert not list(tmp_path.glob("*.part"))


def test_interrupt(model: Path, drawn_scenes: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Annotator, "stream", interrupted)
    result = run("annotate", model, drawn_scenes, "-o", tmp_path / "words.csv")
    assert result.exit_code == 130
    assert not list(tmp_path.iterdir())


def test_the_installed_command(model: Path, drawn_scenes: Path) -> None:
    """A process of its own: data on standard output, all else on standard error."""
    picture = sorted((drawn_scenes / "images").iterdir())[0]
    command = [sys.executable, "-m", "gpuannot"]
    done = subprocess.run([*command, "annotate", str(model), str(picture), "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["path"] == str(picture)
    assert done.stderr == ""
    failed = subprocess.run([*command, "annotate", str(model), "nowhere.jpg"], capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr.startswith("error: ")
