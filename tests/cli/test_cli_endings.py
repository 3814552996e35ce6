"""How commands end: the next command that they print is one that runs, and none replaces a file unless it is told to."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from gpuannot import Annotator
from gpuannot.cli.main import app
from gpuannot.datasets.label_files import LabelledImages
from gpuannot.jobs.writers.tag_file import Tags
from gpuannot.jobs.writers.xmp import Sidecar

pytestmark = pytest.mark.usefixtures("weights_read_once")
SMALL = [f"--set={setting}" for setting in ("layer=pool2", "input_size=32", "n_components=8", "n_centers=4")]


@pytest.fixture(autouse=True)
def warnings_as_before() -> Iterator[None]:
    """Each command replaces how warnings are shown."""
    with warnings.catch_warnings():
        yield


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def fitted(drawn_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    assert run("fit", drawn_scenes, "-o", path, *SMALL, "--device", "cpu").exit_code == 0
    return path


@pytest.fixture
def model(fitted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(fitted, tmp_path))


# ---- printed commands


def printed_commands(text: str) -> list[list[str]]:
    """The arguments of each gpuannot command on a line of its own, or after a colon at the end of one."""
    found = re.findall(r"(?:^|: )(?:python -m |\S*/)?gpuannot ((?:\w+ )*\S.*)$", text, re.M)
    return [shlex.split(arguments) for arguments in found]


def run_printed(text: str, images: Path) -> list[str]:
    """Run what was printed, with ``images`` for IMAGES; returns the commands' names."""
    lines = printed_commands(text)
    for arguments in lines:
        result = run(*(images if each == "IMAGES" else each for each in arguments))
        assert result.exit_code == 0, f"{arguments}: {result.output}"
    return [arguments[0] for arguments in lines]


def test_what_fit_says_comes_next_runs(drawn_scenes: Path, tmp_path: Path) -> None:
    result = run("fit", drawn_scenes, "-o", tmp_path / "my model [1].safetensors", *SMALL)
    assert run_printed(result.stderr, drawn_scenes / "images") == ["annotate"]


def test_what_tune_says_comes_next_runs(benchmark_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a folder with train.json and test.json it names the first; and where there is a model, another name for the new one."""
    monkeypatch.chdir(tmp_path)
    Path("model.safetensors").touch()
    settings = [*SMALL, "--set", "head=ridge", "--set", "objective=words", "--vary", "balance=0,1", "--splits", "1"]
    result = run("tune", benchmark_folder, "--preset", "paper", *settings, "--cache", tmp_path / "cache")
    assert result.exit_code == 0, result.output
    assert run_printed(result.stderr, benchmark_folder) == ["fit"]
    assert Annotator.load("model-2.safetensors", device="cpu").vocabulary
    refused = run("fit", benchmark_folder, "-o", "other.safetensors")
    assert refused.exit_code == 2 and f"name it: {benchmark_folder / 'train.json'}" in refused.stderr
    (benchmark_folder / "train.json").unlink()
    assert "test.json" not in run("fit", benchmark_folder, "-o", "other.safetensors").stderr


def photos_with_both(scenes: LabelledImages, folder: Path) -> Path:
    """Photos with their words as captions, and as hierarchical keywords that a model gave; one has a keyword of a person's too."""
    folder.mkdir()
    for row, path in enumerate(scenes.paths):
        words = [scenes.vocabulary[word] for word in scenes.labels[[row]].indices]
        shutil.copy(path, folder)
        (folder / path.name).with_suffix(".txt").write_text(", ".join(words))
        change = Sidecar(hierarchy=True).changed(None, Tags([f"seen|{word}" for word in words], None, "model"), None)
        assert change is not None and change.content is not None
        by_hand = b"<dc:subject><rdf:Bag><rdf:li>by hand</rdf:li>" if row == 0 else b"<dc:subject><rdf:Bag>"
        content = re.sub(rb"<dc:subject>\s*<rdf:Bag>", by_hand, change.content)
        (folder / path.name).with_suffix(".xmp").write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("options", "prefix"),
    [(["--labels", "captions"], ""), (["--labels", "keywords", "--hierarchy", "--machine-words", "--min-count", "2"], "seen|")],
)
def test_tune_learns_from_photos_and_so_does_what_comes_next(
    options: list[str], prefix: str, scenes: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = photos_with_both(scenes, tmp_path / "photos")
    settings = [*SMALL, "--set", "head=ridge", "--vary", "balance=0,1", "--splits", "1", "--preset", "paper", "--cache", "cache"]
    unsaid = run("tune", photos, *settings)
    assert unsaid.exit_code == 2 and "say which are the labels: --labels keywords" in " ".join(unsaid.stderr.split())
    result = run("tune", photos, *settings, *options)
    assert result.exit_code == 0, result.output
    assert run_printed(result.stderr, photos) == ["fit"]
    known, counts = Annotator.load("model.safetensors", device="cpu").vocabulary, scenes.labels.sum(axis=0)
    enough = 2 if "--min-count" in options else 1
    assert set(known) == {f"{prefix}{word}" for word, images in zip(scenes.vocabulary, counts, strict=True) if images >= enough}


def test_what_demo_says_comes_next_runs(drawn_scenes: Path, tmp_path: Path) -> None:
    result = run("demo", tmp_path / "a demo", "--train", 3, "--test", 1)
    assert run_printed(result.stdout, drawn_scenes / "images") == ["annotate"]


def test_what_errors_say_runs(model: Path, drawn_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_printed(run("report", model).stderr, drawn_scenes) == ["report"]
    error = run("demo", tmp_path).stderr
    [arguments] = printed_commands(error)
    assert run(*(tmp_path / "new" if each == "NAME" else each for each in arguments), "--train", 3, "--test", 1).exit_code == 0


# ---- what is there is kept

WRITERS = [
    ["fit", "{scenes}", *SMALL],
    ["words", "add", "{model}", "zebra", "{scenes}/images/scene_00000.jpg"],
    ["words", "remove", "{model}", "{first}"],
    ["words", "rename", "{model}", "{first}", "zebra"],
    ["words", "merge", "{model}", "{first}", "{second}"],
]


@pytest.mark.parametrize("arguments", WRITERS, ids=lambda arguments: " ".join(arguments[:2]))
def test_one_rule_for_all_that_write_a_model(model: Path, scenes: LabelledImages, drawn_scenes: Path, arguments: list[str]) -> None:
    first, second, *_ = scenes.vocabulary
    names = {"model": model, "scenes": drawn_scenes, "first": first, "second": second}
    filled = [each.format(**names) for each in arguments]
    before = model.read_bytes()
    refused = run(*filled, "-o", model)
    assert refused.exit_code == 2 and f"{model} exists; choose another name with --output, or replace it with" in refused.stderr
    if filled[0] == "words":
        refused = run(*filled)
        assert refused.exit_code == 2 and f"{model} would be replaced; name another file with --output" in refused.stderr
    assert model.read_bytes() == before
    new = model.with_name("new.safetensors")
    assert run(*filled, "-o", new).exit_code == 0 and model.read_bytes() == before
    assert run(*filled, "--overwrite", *(["-o", model] if filled[0] == "fit" else [])).exit_code == 0
    assert Annotator.load(model, device="cpu").vocabulary == Annotator.load(new, device="cpu").vocabulary


@pytest.mark.parametrize("command", ["evaluate", "reproduce", "demo"])
def test_a_report_that_is_there_is_replaced_by_the_option_that_the_error_names(
    model: Path, drawn_scenes: Path, benchmark_folder: Path, tmp_path: Path, command: str
) -> None:
    page = tmp_path / "r.html"
    page.touch()
    arguments = {
        "evaluate": [model, drawn_scenes],
        "reproduce": ["corel5k", "--data", benchmark_folder, "-k", "2", *SMALL, "--cache", tmp_path / "cache"],
        "demo": [tmp_path / "new", "--train", "3", "--test", "1"],
    }[command]
    refused = run(command, *arguments, "--report", page)
    assert refused.exit_code == 2 and "replace it with --overwrite" in refused.stderr and not page.read_bytes()
    assert run(command, *arguments, "--report", page, "--overwrite").exit_code == 0 and page.read_bytes()


def test_reproduce_keeps_a_result_that_is_there(benchmark_folder: Path, tmp_path: Path) -> None:
    result = tmp_path / "r.json"
    result.write_text("mine")
    refused = run("reproduce", "corel5k", "--data", benchmark_folder, "-o", result)
    assert refused.exit_code == 2 and "exists; choose another name" in refused.stderr and result.read_text() == "mine"


# ---- words


def test_words_come_and_go(model: Path, scenes: LabelledImages, tmp_path: Path) -> None:
    listed = json.loads(run("words", "list", model, "--json").output)
    assert tuple(listed) == scenes.vocabulary and sum(listed.values()) == scenes.labels.nnz
    assert run("words", "list", model).output.splitlines()[0] == f"{listed[scenes.vocabulary[0]]}\t{scenes.vocabulary[0]}"
    added = run("words", "add", model, "zebra", scenes.paths[0], tmp_path / "none.jpg", "--no-progress", "--overwrite")
    assert added.exit_code == 1 and "'zebra' learnt from 1 image;" in added.stderr and "none.jpg" in added.stderr
    assert run("words", "rename", model, "zebra", "horse", "--overwrite").exit_code == 0
    other = tmp_path / "other.safetensors"
    removed = run("words", "remove", model, scenes.vocabulary[0], scenes.vocabulary[0], "-o", other)
    assert removed.exit_code == 0 and f"{other}: 1 word removed; {len(scenes.vocabulary)} words" in removed.stderr
    assert Annotator.load(model, device="cpu").vocabulary == (*scenes.vocabulary, "horse")
    assert Annotator.load(other, device="cpu").vocabulary == (*scenes.vocabulary[1:], "horse")
    assert run("words", "merge", other, "horse", scenes.vocabulary[1], "--overwrite").exit_code == 0
    assert Annotator.load(other, device="cpu").vocabulary == scenes.vocabulary[1:]


@pytest.mark.parametrize("arguments", [["remove"], ["rename", "new"], ["merge", "{word}"]], ids=lambda each: each[0])
def test_a_word_that_is_misspelled_is_told_of_without_torch(model: Path, scenes: LabelledImages, arguments: list[str]) -> None:
    word = scenes.vocabulary[0]
    command, *others = [each.format(word=word) for each in arguments]
    program = (
        "import sys\nfrom gpuannot.cli.main import main\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules or 'pyarrow' in sys.modules)"
    )
    wrong = [sys.executable, "-c", program, "words", command, str(model), f"{word.upper()}x", *others, "--overwrite"]
    result = subprocess.run(wrong, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and result.stdout == "False\n"
    assert result.stderr == f"error: the vocabulary lacks '{word.upper()}x'; did you mean {word!r}?\n"


def test_help_and_errors_come_without_torch(tmp_path: Path) -> None:
    """In one process, so that the first that imports torch is named; it takes longer to import than all of these to run."""
    image, none, data = tmp_path / "a.jpg", tmp_path / "none.safetensors", tmp_path / "train.json"
    image.write_bytes(b"no image")
    data.write_text("[]")
    wrong = {
        "no such model file": [["annotate", none, image], ["explain", none, image], ["words", "list", none],
                               ["words", "add", none, "sky", image, "-o", tmp_path / "new.safetensors"]],
        "is not a whole safetensors file": [["annotate", image, image, "-o", tmp_path / "words.csv"]],
        "needs a folder for the output": [["annotate", none, image, "--resume"]],
        "choose one of": [["fit", data, "-o", none, "--preset", "wurst"]],
        "No such option": [["fit", data, "--output", none, "--frob"]],
        "no such": [["evaluate", none, tmp_path / "nowhere.json"], ["fit", tmp_path / "nowhere.json", "-o", none]],
        "train.json": [["fit", data, "-o", none]],
    }  # fmt: skip
    helps = [[*name, "--help"] for name in COMMANDS]
    cases = [(text, [str(word) for word in words]) for text, group in wrong.items() for words in group]
    cases += [*(("Usage", words) for words in [*helps, [], ["frob"]]), ("gpuannot", ["--version"])]
    program = f"""
import contextlib, io, sys
from gpuannot.cli.main import app
for text, words in {cases!r}:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown), contextlib.suppress(SystemExit):
        app(words)
    assert text in shown.getvalue(), (words, shown.getvalue())
    assert not {{"torch", "sklearn"}} & set(sys.modules), words
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


# ---- help


def below(command: Any, name: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A command and those under it, with their names."""
    yield name, command
    for part, other in getattr(command, "commands", {}).items():
        yield from below(other, (*name, part))


COMMANDS = dict(below(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS, ids=" ".join)
def test_help_shows_what_is_written(name: tuple[str, ...]) -> None:
    """Brackets in it are no markup."""
    command = COMMANDS[name]
    wide = {"COLUMNS": "500", "TERMINAL_WIDTH": "500"}
    shown = CliRunner().invoke(app, [*name, "--help"], env=wide).stdout

    def signs(text: str) -> str:
        return "".join(sign for sign in text if sign.isalnum() or sign in "[]")

    if hasattr(command, "commands"):
        written = [command.help]
    else:
        written = [command.callback.__doc__, *(option.help for option in command.params if getattr(option, "help", None))]
    assert all(written)
    for paragraph in "\n\n".join(written).split("\n\n"):
        assert signs(paragraph) in signs(shown)
        assert len(paragraph) > 450 or " ".join(paragraph.split()) in " ".join(shown.split())
