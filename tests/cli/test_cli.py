"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer
from hostile_images import FAILS, write_hostile_images
from PIL import Image
from trunk_models import WHY_NOT
from typer.testing import CliRunner

from gpuannot import Annotator, AnnotatorConfig, __version__
from gpuannot.cli.main import app
from gpuannot.errors import DataError, InvalidArgumentError

pytestmark = pytest.mark.usefixtures("weights_read_once")
SMALL = [f"--set={setting}" for setting in ("layer=pool2", "input_size=32", "n_components=8", "n_centers=4")]
COMMANDS = ("fit", "annotate", "evaluate", "audit", "learn", "reproduce", "tune", "demo", "info", "trunks")


@pytest.fixture(autouse=True)
def warnings_as_before() -> Iterator[None]:
    """Each command replaces how warnings are shown."""
    with warnings.catch_warnings():
        yield


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
    assert "1 input failed" in result.stderr
    assert f"{images}/plain.jpg: not an image" in result.stderr  # brackets as they are, not as markup


def test_annotate_as_json_lines(model: Path, images: Path) -> None:
    result = run("annotate", model, images, "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    with pytest.warns(UserWarning, match="1 of 4 images could not be read"):
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
    assert "1 image beside the label file or subfolders is not labelled" in result.stderr
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
    assert "1 word is unknown to the model" in result.stderr


def test_trunks() -> None:
    (vgg,) = json.loads(run("trunks", "vgg16@pool4+conv5_1", "--json").stdout)
    assert (vgg["layer"], vgg["patches"], vgg["channels"]) == ("pool4+conv5_1", 196, 1024)
    (vgg,) = json.loads(run("trunks", "vgg16", "--json").stdout)
    of_positions = [(3, 64, 224), (64, 64, 224), (64, 128, 112), (128, 128, 112), (128, 256, 56), (256, 256, 56), (256, 256, 56),
                    (256, 512, 28), (512, 512, 28), (512, 512, 28), (512, 512, 14), (512, 512, 14)]  # fmt: skip
    assert vgg["gflop"] == pytest.approx(sum(2 * 9 * i * o * side**2 for i, o, side in of_positions) / 1e9)
    assert vgg["parameters"] == sum(9 * i * o + o for i, o, _ in of_positions)
    result = run("trunks", "timm:resnet50")
    if WHY_NOT is None:
        assert result.exit_code == 0 and "layer3" in result.stdout and "196 × 1024" in result.stdout
    else:
        assert result.exit_code == 2 and "timm" in result.stderr and "Traceback" not in result.stderr
    assert "conv5_2" in run("trunks").stdout


def test_info() -> None:
    found = json.loads(run("info", "--json").stdout)
    assert found["versions"]["gpuannot"] == __version__
    assert found["settings"]["n_centers"] == 64
    text = run("info").stdout
    assert "n_centers = 64" in text and "a whole number of at least 1" in text
    assert all(f" {name} = " in text for name in found["settings"])
    if found["missing"].get("GPU"):
        assert '".[cuda13]"' in text  # not swallowed as markup


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["fit", "nowhere"], "no such file or folder"),
        (["fit", "{scenes}/images"], "no labels.json or labels.csv"),
        (["fit", "{scenes}", "--preset", "best of all"], "preset 'best of all' is unknown; choose one of paper"),
        (["fit", "{scenes}", "--config", "nowhere.json"], "nowhere.json: cannot be read"),
        (["fit", "{scenes}", "--config", "{scenes}/labels.json"], "is not a file of settings"),
        (["fit", "{scenes}", "--config", "{scenes}/labels.json", "--preset", "best"], "give one of them"),
        (["tune", "{scenes}", "--vary", "balance"], "expected NAME=VALUE,VALUE"),
        (["tune", "{scenes}", "--vary", "balance=some"], "expected a number"),
        (["tune", "{scenes}", "--vary", "layer=conv5_1", "-o", "{tmp}/c.json"], "layer cannot be searched; choose from"),
        (["tune", "{scenes}", "-o", "{model}"], "exists; choose another name with --output"),
        (["fit", "{scenes}", "--set", "n_centres=3"], "expected NAME=VALUE with NAME one of"),
        (["fit", "{scenes}", "--set", "n_centres=3"], "(is n_centers meant?)"),
        (
            ["fit", "{scenes}", "-o", "{tmp}"],
            "write it for example to --output {tmp}/model.safetensors",
        ),
        (
            ["fit", "{scenes}", "-o", "{tmp}/m.pt"],
            "a model is one .safetensors file; write it for example to --output {tmp}/m.safe",
        ),
        (["fit", "{scenes}", "--set", "n_centers"], "expected NAME=VALUE"),
        (["fit", "{scenes}", "--set", "n_centers=three"], "expected a whole number"),
        (["fit", "{scenes}", "--set", "relu=yes"], "expected true or false"),
        (["fit", "{scenes}", "--set", "n_centers=0"], "n_centers must be a whole number of at least 1"),
        (["fit", "{scenes}", "--set", "balance=2"], "balance must be a number in 0…1, or auto, got 2.0"),
        (["fit", "{scenes}", "--set", "regularisation=nan"], "regularisation must be a finite number above 0, or auto, got nan"),
        (["fit", "{scenes}", "--set", "quadratic=1"], "quadratic must be a whole number in 0…0, got 1"),
        (["fit", "{scenes}", "--set", "trunk_dtype=uint8"], "trunk_dtype 'uint8' is unknown; choose one of auto, float32"),
        (["fit", "{scenes}", "--set", "layer=conv9", "-o", "{tmp}/m.safetensors"], "layer 'conv9' is unknown; choose one of"),
        (["fit", "{scenes}", "-o", "{tmp}/m.safetensors", *SMALL, "--set", "n_components=500"], "n_components"),
        (["tune", "{scenes}", "--vary", "balance=0,2", "-o", "{tmp}/c.json"], "balance must be a number in 0…1, or auto, got 2.0"),
        (["tune", "{scenes}", "--vary", "balance=0", "--vary", "balance=1"], "balance is named twice"),
        (["tune", "{scenes}", "-o", "{tmp}/no/c.json"], "no such folder for the output"),
        (["report", "{model}", "-o", "{tmp}/r.html"], "images to annotate with {model} are missing"),
        (["report", "{model}", "{scenes}", "--labels", "{scenes}", "-o", "{tmp}/r.html"], "--labels goes with annotations"),
        (["annotate", "{model}", "{scenes}", "-o", "{tmp}/w.csv", "--resume"], "--resume needs a folder for the output"),
        (["explain", "{model}", "{scenes}", "-o", "{scenes}"], "exists; choose another folder with --output"),
        (["reproduce", "corel5k", "--data", "{tmp}", "--table", "--seeds", "2"], "--table runs one seed: leave out --seeds"),
        (["reproduce", "corel5k", "--data", "{tmp}", "--table", "--only", "xyzzy"], "no system has 'xyzzy' in its name"),
        (["demo", "{tmp}/new", "--preset", "fast"], "preset 'fast' is unknown"),
        (["fit", "{scenes}", "--weights", "none.safetensors", "-o", "{tmp}/m.safetensors"], "no such file of trunk weights"),
        (["fit", "{scenes}", "-o", "{model}"], "exists; choose another name with --output"),
        (["fit", "{scenes}", "-o", "{tmp}/no/m.safetensors", *SMALL], "no such folder for the output"),
        (["fit", "{scenes}", "--device", "tpu", "-o", "{tmp}/m.safetensors"], "device 'tpu' is unknown"),
        (["annotate", "none.safetensors", "{scenes}"], "no such model file"),
        (["annotate", "{scenes}/labels.json", "{scenes}"], "not a whole safetensors file"),
        (["annotate", "{scenes}", "{model}"], "no such model file, but a folder; the model comes first, then images"),
        (
            ["annotate", "{model}", "{scenes}", "-o", "{tmp}/new/", "--resume", "--overwrite"],
            "--resume, --retry-failed and --extend go on",
        ),
        (["annotate", "{model}", "nowhere"], "nowhere"),
        (["annotate", "{model}", "{tmp}"], "no image"),
        (["annotate", "{model}", "{scenes}", "-k", "1000"], "k = 1000 must lie in 1…"),
        (["annotate", "{model}", "{scenes}", "-o", "{tmp}/words.txt"], "suffix must be one of .parquet, .jsonl, .csv"),
        (["annotate", "{model}", "{scenes}", "-o", "{tmp}/no/words.csv"], "no such folder"),
        (["evaluate", "{model}", "nowhere"], "no such file or folder"),
        (["reproduce", "corel5k", "--data", "nowhere"], "no such folder"),
        (["reproduce", "corel5k", "--data", "{tmp}"], "vocabulary.txt"),
        (["reproduce", "cifar10", "--data", "{tmp}"], "cifar10"),
        (["reproduce", "corel5k", "--data", "{tmp}", "--only", "JEC"], "--only chooses among the systems of --table: add --table"),
        (["reproduce", "corel5k", "--data", "{tmp}", "--networks", "all"], "--networks chooses among the systems of --table"),
        (["report", "{model}", "{scenes}", "-o", "{tmp}/r.txt"], "a report is an HTML file; name it {tmp}/r.html"),
        (["annotate", "{model}", "{scenes}", "--report", "{tmp}/r.png"], "a report is an HTML file; name it {tmp}/r.html"),
        (["explain", "{model}", "{scenes}", "-o", "{tmp}/why", "--word", "xyzzy"], "the vocabulary lacks 'xyzzy'"),
        (["demo", "{scenes}"], "{scenes} is there already; the demo draws its images into a new folder: gpuannot demo NAME"),
        (["demo", "{model}"], "{model} is there already"),
        (["annotate"], "Missing argument"),
        (["dance"], "No such command"),
    ],
)
def test_wrong_calls_say_what_is_wrong(
    model: Path, drawn_scenes: Path, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    filled = [argument.format(model=model, scenes=drawn_scenes, tmp=tmp_path) for argument in arguments]
    error = " ".join(one_line_error(run(*filled)).replace("│", " ").split())
    assert expected.format(model=model, scenes=drawn_scenes, tmp=tmp_path) in error
    assert not list(tmp_path.iterdir())  # nothing is left of it


# ---- bugs


@pytest.mark.parametrize(
    "error", [RuntimeError("of [all] things"), ValueError("two shapes"), TypeError("no"), KeyError("x"), OSError("without a name")]
)
def test_a_bug_is_told_from_an_error_of_the_user(
    model: Path, drawn_scenes: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(Annotator, "stream", broken)
    result = run("annotate", model, drawn_scenes, "-o", tmp_path / "words.csv")
    assert result.exit_code == 70 and result.stdout == ""
    *trace, last = result.stderr.splitlines()
    assert trace[0] == "Traceback (most recent call last):" and "in broken" in result.stderr
    assert trace[-1] == f"{type(error).__name__}: {error}"
    assert last.startswith("bug: ") and f"gpuannot {__version__}" in last and "please report it with the command" in last
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InvalidArgumentError("k is [red]"), "error: k is [red]"),
        (DataError("no image"), "error: no image"),
        (PermissionError(errno.EACCES, "Permission denied", "a.csv"), "error: a.csv: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device"),
    ],
)
def test_errors_of_the_user_and_the_machine_are_one_line(
    model: Path, drawn_scenes: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(Annotator, "stream", broken)
    assert one_line_error(run("annotate", model, drawn_scenes)) == f"{line}\n"


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
    assert failed.stderr == "1 input failed:\n  nowhere.jpg: no such file or folder\n"


# ---- help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_argument(command: str) -> None:
    wide = {"COLUMNS": "250", "TERMINAL_WIDTH": "250"}
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", CliRunner().invoke(app, [command, "--help"], env=wide).stdout).split())
    for parameter in typer.main.get_command(app).commands[command].params:
        assert parameter.help and len(parameter.help) > 10, parameter.name
        assert " ".join(parameter.help.split()) in text
        assert all(option in text for option in parameter.opts)
    assert run(command, "-h").stdout == run(command, "--help").stdout


def test_help_says_what_a_label_file_looks_like_and_what_exit_codes_mean() -> None:
    assert '{"samples": [{"image_name": "a.jpg", "image_labels": ["sky", "sea"]}, …]}' in " ".join(
        run("fit", "--help").stdout.split()
    )
    codes = " ".join(run("--help").stdout.split())
    assert "Exit codes: 0 done, 1 some inputs failed (they are listed), 2 wrong usage" in codes
    assert "70 a bug in gpuannot, 130 or 143 stopped by Ctrl-C or SIGTERM" in codes


# ---- text that could be taken for markup, and names that are not text

AWKWARD = "[bold]x[/bold] :cat: Größe 日本 two  spaces back\\slash ["


def test_names_and_words_are_printed_as_they_are(drawn_scenes: Path, tmp_path: Path) -> None:
    folder = tmp_path / AWKWARD  # two folders: "[bold]x[" and "bold] …"
    shutil.copytree(drawn_scenes / "images", folder / "images")
    names = [f"scene_{number:05d}.jpg" for number in range(6)] + [":cat: [junk].jpg"]
    (folder / "images" / names[-1]).write_bytes(b"junk")
    samples = [{"image_name": name, "image_labels": [AWKWARD, "sea"]} for name in names]
    (folder / "labels.json").write_text(json.dumps({"samples": samples, "labels": [AWKWARD, "sea", f"never {AWKWARD}"]}))
    model, output, first = folder / "m.safetensors", folder / "out.csv", folder / "images" / names[0]

    fitted = run("fit", folder, "-o", model, *SMALL)
    assert fitted.exit_code == 1 and fitted.stdout == ""
    assert fitted.stderr.startswith(f"{model}: 2 words from 6 images\n")
    assert f"1 word has no image and cannot be given: never {AWKWARD}\n" in fitted.stderr
    assert f"1 input failed:\n  {folder}/images/{names[-1]}: not an image in a known format" in fitted.stderr

    printed = run("annotate", model, first, "-k", "2")
    assert printed.exit_code == 0 and printed.stderr == ""
    assert printed.stdout in (f"{first}\t{AWKWARD}, sea\n", f"{first}\tsea, {AWKWARD}\n")
    written = run("annotate", model, folder / "images", "-k", "1", "-o", output)
    assert written.stderr.startswith(f"{output}: 24 images annotated, 1 failed\n{output}.failures.jsonl: the failures")
    assert f"error: {output} exists; choose" in one_line_error(run("annotate", model, folder / "images", "-k", "1", "-o", output))

    samples = [{"image_name": names[0], "image_labels": [f"un{AWKWARD}"]}] * 2
    (folder / "labels.json").write_text(json.dumps({"samples": samples}))
    scored = run("evaluate", model, folder, "-k", "1")
    assert f"1 word is unknown to the model and counts as missed: un{AWKWARD}\n" in scored.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_a_file_name_that_is_not_utf8_takes_nothing_down(model: Path, drawn_scenes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    picture = drawn_scenes / "images" / "scene_00000.jpg"
    for name in (b"a.jpg", b"caf\xe9.jpg", b"z.jpg"):
        shutil.copy(picture, os.path.join(os.fsencode(folder), name))
    with open(os.path.join(os.fsencode(folder), b"bad\xe9.jpg"), "wb") as file:
        file.write(b"junk")
    written = run("annotate", model, folder, "-o", tmp_path / "out.jsonl")
    assert written.exit_code == 1 and "3 images annotated, 1 failed" in written.stderr
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [Path(row["path"]).name for row in rows] == ["a.jpg", "caf\\udce9.jpg", "z.jpg"]
    environment = {**os.environ, "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "gpuannot", "annotate", str(model), str(folder)]
    printed = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert printed.returncode == 1 and len(printed.stdout.splitlines()) == 3 and b"Traceback" not in printed.stderr


# ---- inputs that fail


@pytest.fixture
def hostile(drawn_scenes: Path, tmp_path: Path) -> Path:
    """A labelled folder: eight scenes, each kind of bad image, and one that is not there."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    bad = write_hostile_images(folder, [name for name in FAILS if name not in ("folder", "missing", "broken link")])
    for number in range(8):
        shutil.copy(drawn_scenes / "images" / f"scene_{number:05d}.jpg", folder)
    names = [*(path.name for path in bad.values()), *(f"scene_{number:05d}.jpg" for number in range(8)), "gone.jpg"]
    (folder / "labels.csv").write_text("image,words\n" + "".join(f"{name},sea;sky\n" for name in names))
    return folder


def test_every_bad_image_is_in_the_ledger_with_its_reason(model: Path, hostile: Path, tmp_path: Path) -> None:
    bad = len(FAILS) - 3
    result = run("annotate", model, hostile, "-o", tmp_path / "out.jsonl", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"output": str(tmp_path / "out.jsonl"), "annotated": 8, "failed": bad}
    ledger = [json.loads(line) for line in (tmp_path / "out.jsonl.failures.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(set(row) == {"path", "stage", "reason"} and row["stage"] == "decode" for row in ledger)
    expected = {name: reason for name, (_, reason) in FAILS.items() if name not in ("folder", "missing", "broken link")}
    assert len(ledger) == bad == len(expected)
    for reason in expected.values():
        assert any(reason in row["reason"] for row in ledger)
    assert f"{bad} inputs failed, the first 10:" in result.stderr and result.stderr.count(f"  {hostile}/") == 10
    assert len({row["path"] for row in ledger}) == bad
    fitted = run("fit", hostile, "-o", tmp_path / "m.safetensors", *SMALL)
    assert fitted.exit_code == 1 and "2 words from 8 images" in fitted.stderr and f"{bad + 1} inputs failed" in fitted.stderr
    scored = run("evaluate", tmp_path / "m.safetensors", hostile, "-k", "2", "--json")
    assert scored.exit_code == 1 and json.loads(scored.stdout)["failed"] == bad + 1 and json.loads(scored.stdout)["images"] == 8


def test_nothing_done_is_exit_code_2(model: Path, hostile: Path, tmp_path: Path) -> None:
    for scene in hostile.glob("scene_*.jpg"):
        scene.write_bytes(b"")
    printed = run("annotate", model, hostile)
    assert printed.exit_code == 2 and printed.stdout == "" and "inputs failed" in printed.stderr
    written = run("annotate", model, hostile, "-o", tmp_path / "out.csv", "--json")
    assert written.exit_code == 2 and json.loads(written.stdout)["annotated"] == 0
    scored = run("evaluate", model, hostile)
    assert scored.exit_code == 2 and scored.stdout == "" and "gone.jpg" in scored.stderr
    fitted = run("fit", hostile, "-o", tmp_path / "m.safetensors", *SMALL)
    assert "not one of" in one_line_error(fitted) and not (tmp_path / "m.safetensors").exists()


@pytest.mark.filterwarnings("default")
def test_conflicting_labels_are_warned_of_in_one_line(drawn_scenes: Path, tmp_path: Path) -> None:
    picture = str(drawn_scenes / "images" / "scene_00000.jpg")
    samples = [{"image_name": picture, "image_labels": [word]} for word in ("sky", "[sea]")]
    (tmp_path / "labels.json").write_text(json.dumps({"samples": samples}))
    result = run("fit", tmp_path, "-o", tmp_path / "m.safetensors", *SMALL)
    assert result.exit_code == 0
    assert result.stderr.startswith(f"warning: {tmp_path}/labels.json names 1 image twice with different words")
    assert ".py" not in result.stderr


def test_trouble_with_files_is_one_line(drawn_scenes: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.csv").mkdir()
    assert str(tmp_path / "file") in one_line_error(run("demo", tmp_path / "file", "--train", "2", "--test", "1"))
    picture = drawn_scenes / "images" / "scene_00000.jpg"
    assert "folder.csv" in one_line_error(run("annotate", model, picture, "-o", tmp_path / "folder.csv", "--overwrite"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.csv"]


# ---- settings


def test_settings_reach_the_model(drawn_scenes: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    changes = [
        "--set=relu=False",
        "--set=metric=cosine",
        "--set=l2=TRUE",
        "--set=trunk_dtype=float32",
        "--seed",
        "11",
        "--preset",
        "paper",
        "--weights",
        "embedded",
    ]
    assert run("fit", drawn_scenes, "-o", path, *SMALL, *changes).exit_code == 0
    expected = AnnotatorConfig(
        layer="pool2",
        input_size=32,
        n_components=8,
        n_centers=4,
        relu=False,
        metric="cosine",
        l2=True,
        trunk_dtype="float32",
        seed=11,
    )
    assert Annotator.load(path, device="cpu").config == expected
    again = run("fit", drawn_scenes, "-o", path, *SMALL, "--overwrite")
    assert again.exit_code == 0 and Annotator.load(path, device="cpu").config.seed == 0


def test_evaluate_prints_one_table(model: Path, drawn_scenes: Path) -> None:
    result = run("evaluate", model, drawn_scenes, "-k", "3")
    scores = json.loads(run("evaluate", model, drawn_scenes, "-k", "3", "--json").stdout)
    [row] = [line for line in result.stdout.splitlines() if "gpuannot" in line]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    shares = [f"{100 * scores[name]:.2f}" for name in ("precision", "recall", "f1")]
    shares[2] += f" ± {100 * scores['f1_error']:.2f}"
    assert cells[1:6] == [*shares, str(scores["n_plus"]), str(scores["words_given"])] and scores["k"] == 3
    assert result.stderr == "" and "24 images" in result.stdout


def test_a_fit_that_chooses_says_what_and_its_model_uses_it(drawn_scenes: Path, tmp_path: Path) -> None:
    model = tmp_path / "chosen.safetensors"
    settings = ["--set", "head=ridge", "--set", "signed_sqrt=true", "--set", "l2=true"]
    fitted = run("fit", drawn_scenes, *SMALL, *settings, "-o", model)
    assert fitted.exit_code == 0, fitted.stderr
    told = re.search(r"objective 'images': regularisation (\S+), balance \S+, words of confidence ≥ (\S+),", fitted.stderr)
    assert told is not None
    chosen = Annotator.load(model, device="cpu").words.head.chosen
    assert chosen is not None and chosen.threshold is not None
    assert float(told[1]) == pytest.approx(chosen.regularisation, rel=1e-3) and float(told[2]) == chosen.threshold
    given = run("annotate", model, drawn_scenes / "images", "--json")
    assert f"words of a confidence of {chosen.threshold:.2f} or more" in given.stderr
    rows = [json.loads(line) for line in given.stdout.splitlines()]
    assert {len(row["words"]) for row in rows} != {5}
    assert all(row["confidences"] == sorted(row["confidences"], reverse=True) for row in rows)
    fixed = run("annotate", model, drawn_scenes / "images", "--json", "-k", "4")
    assert {len(json.loads(line)["words"]) for line in fixed.stdout.splitlines()} == {4} and "or more" not in fixed.stderr
    scores = json.loads(run("evaluate", model, drawn_scenes, "--json").stdout)
    assert 0 <= scores["reliability"]["error"] <= 1
    assert "expected calibration error" in run("evaluate", model, drawn_scenes).stdout
    words = run("fit", drawn_scenes, *SMALL, *settings, "--objective", "words", "-o", tmp_path / "words.safetensors")
    assert "objective 'words': regularisation" in words.stderr and "confidence" not in words.stderr


# ---- real processes


def process(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gpuannot", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False, **options)


def test_a_model_s_life_in_processes_of_their_own(drawn_scenes: Path, tmp_path: Path) -> None:
    """fit, annotate and evaluate, with relative names in the working folder."""
    shutil.copytree(drawn_scenes, tmp_path / "my photos")
    fitted = process("fit", "my photos", *SMALL, "--progress", cwd=tmp_path)
    assert fitted.returncode == 0 and fitted.stdout == "" and "model.safetensors: " in fitted.stderr
    annotated = process("annotate", "model.safetensors", "my photos", "-o", "out.parquet", cwd=tmp_path)
    assert (annotated.returncode, annotated.stdout) == (0, "")
    assert annotated.stderr == "out.parquet: 24 images annotated, 0 failed\nleft out because of their names: 1 .json\n"
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 24
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "my photos", "out.parquet"]
    evaluated = process("evaluate", "model.safetensors", "my photos", "--json", cwd=tmp_path)
    assert evaluated.returncode == 0 and json.loads(evaluated.stdout)["images"] == 24 and evaluated.stderr == ""


def test_demo_info_and_reproduce_in_processes_of_their_own(tmp_path: Path) -> None:
    demo = process("demo", "new", "--train", "3", "--test", "1", "--json", cwd=tmp_path)
    assert demo.returncode == 0 and json.loads(demo.stdout) == json.loads((tmp_path / "new" / "scores.json").read_text())
    info = process("info", "--json")
    assert info.returncode == 0 and json.loads(info.stdout)["settings"] == AnnotatorConfig().to_dict() and info.stderr == ""
    reproduce = process("reproduce", "corel5k", "--data", "new", cwd=tmp_path)
    assert reproduce.returncode == 2 and reproduce.stdout == ""
    assert re.fullmatch(r"error: new/vocabulary\.txt: no such file; corel5k is read from a folder with .*\n", reproduce.stderr)


def test_a_label_file_without_a_word_is_named(drawn_scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(f"image,words\n{drawn_scenes}/images/scene_00000.jpg,\n")
    error = one_line_error(run("fit", tmp_path / "labels.csv", "-o", tmp_path / "m.safetensors"))
    assert f"{tmp_path}/labels.csv: not one of its 1 image carries a word" in error


def test_words_that_are_the_names_of_subfolders_are_printed(drawn_scenes: Path, tmp_path: Path) -> None:
    for number, word in enumerate(("sea [x]", "sky")):
        (tmp_path / "data" / word).mkdir(parents=True)
        shutil.copy(drawn_scenes / "images" / f"scene_{number:05d}.jpg", tmp_path / "data" / word)
    result = run("fit", tmp_path / "data", "-o", tmp_path / "m.safetensors", *SMALL, "--device", "cpu")
    assert result.exit_code == 0 and f"subfolders of {tmp_path}/data: sea [x], sky\n" in result.stderr


def test_errors_of_the_operating_system_have_a_name_and_no_number(model: Path, tmp_path: Path) -> None:
    result = run("reproduce", "corel5k", "--data", tmp_path, "-o", tmp_path / "a.json" / "b.json")
    assert "no such folder for the output" in one_line_error(result)
    (tmp_path / "loop").symlink_to("loop")
    if Path("/proc/self").exists():  # where no file can be made, not even by root
        assert one_line_error(run("annotate", model, tmp_path, "-o", "/proc/words.csv")) == (
            "error: /proc/words.csv: No such file or directory\n"
        )
    assert one_line_error(run("demo", tmp_path / "loop")) == f"error: {tmp_path}/loop: File exists\n"


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_ends_with_130_and_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gpuannot", "demo", "new", "--train", "100000"]
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("new/train/images/*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    try:
        out, err = running.communicate(timeout=60)
    finally:
        running.kill()  # one that goes on would draw for an hour
    assert (running.returncode, out, err) == (130, "", "stopped\n")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end otherwise")
def test_a_reader_that_leaves_early_is_no_error(model: Path, drawn_scenes: Path) -> None:
    command = [sys.executable, "-m", "gpuannot", "annotate", str(model), str(drawn_scenes)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None and running.stderr is not None
    running.stdout.close()
    assert running.stderr.read() == ""
    running.stderr.close()
    running.wait(timeout=60)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "not enough memory; a smaller batch_size or input_size needs less"),
        (RuntimeError("can't start new thread"), "the system starts no more threads; allow more (ulimit -u)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"), "not enough memory"),
        (
            OSError("Cannot write '/x/.words.parquet.123-0123abcd.part'. Detail: disk"),
            "Cannot write '/x/words.parquet'. Detail: disk",
        ),
    ],
)
def test_what_the_machine_lacks_is_no_bug(
    model: Path, drawn_scenes: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def short(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(Annotator, "load", short)
    assert message in one_line_error(run("annotate", model, drawn_scenes))
