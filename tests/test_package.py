"""The package as a user gets it: light to import, complete when installed, and a README whose commands and example work."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import pkgutil
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import gpuannot

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "torchvision", "cupy", "cuml", "sklearn", "scipy", "numpy", "PIL", "pyarrow")
OPTIONAL = ("torchvision", "cupy", "cuml", "dask")
# Notes each attempt to import one of OPTIONAL: where they are not installed, sys.modules alone would show nothing.
SPY = """
import json, sys
class Spy:
    tried = []
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {optional!r}:
            self.tried.append(name)
spy = Spy()
sys.meta_path.insert(0, spy)
{code}
print(json.dumps([spy.tried, [name for name in {heavy!r} if name in sys.modules]]))
"""


def imported_by(code: str) -> tuple[list[str], list[str]]:
    """Which of OPTIONAL a fresh interpreter tried to import, and which of HEAVY it has imported, after ``code``."""
    spy = SPY.format(code=code, optional=OPTIONAL, heavy=HEAVY)
    tried, found = json.loads(subprocess.run([sys.executable, "-c", spy], capture_output=True, text=True, check=True).stdout)
    return tried, found


@pytest.mark.parametrize("code", ["import gpuannot", "import gpuannot.cli.main, gpuannot.errors"])
def test_import_brings_in_nothing_heavy(code: str) -> None:
    assert imported_by(code) == ([], [])


def test_import_brings_in_no_room_but_the_version() -> None:
    code = "import sys, gpuannot; print(*sorted(name for name in sys.modules if name.startswith('gpuannot.')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.split() == ["gpuannot.system", "gpuannot.system.version"]


def modules() -> list[str]:
    """Every module of the library that can be imported without running anything."""
    paths = [path.relative_to(ROOT) for path in sorted((ROOT / "gpuannot").rglob("*.py")) if "kernels" not in path.parts]
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return [name for name in names if name != "gpuannot.__main__"]


def test_the_whole_library_imports_without_the_optional_packages() -> None:
    assert {"gpuannot.annotator", "gpuannot.experiments.reproduce", "gpuannot.jobs.writers"} <= set(modules())
    tried, found = imported_by("import " + ", ".join(modules()))
    assert tried == [] and "torch" in found


def test_setup_lists_every_room() -> None:
    listed = re.search(r"packages=\[(.+?)\]", (ROOT / "setup.py").read_text(), re.S)
    assert listed
    folders = {name for name in modules() if (ROOT / name.replace(".", "/") / "__init__.py").is_file()}
    assert re.findall(r'"(.+?)"', listed[1]) == sorted(folders | {"gpuannot.kernels"})


def test_public_names() -> None:
    assert gpuannot.Annotator is importlib.import_module("gpuannot.annotator").Annotator
    assert gpuannot.AnnotatorConfig is importlib.import_module("gpuannot.config").AnnotatorConfig
    assert gpuannot.Annotations is importlib.import_module("gpuannot.model.annotations").Annotations
    assert set(gpuannot.__all__) < set(dir(gpuannot)) and not {"Any", "importlib", "_HOMES"} & set(dir(gpuannot))
    for name in dir(gpuannot):
        assert getattr(gpuannot, name) is not None
    with pytest.raises(AttributeError, match="module 'gpuannot' has no attribute 'Anotator'"):
        gpuannot.Anotator  # noqa: B018


@pytest.mark.parametrize(
    "name",
    [
        "datasets.load_benchmark", "datasets.load_labelled_images", "report.report_images", "report.report_files",
        "metrics.evaluate", "baselines", "kernels",
    ],
)  # fmt: skip
def test_names_that_programs_import_stay_where_they_are(name: str) -> None:
    assert pkgutil.resolve_name(f"gpuannot.{name}") is not None


@pytest.mark.parametrize(
    "name",
    [
        "add_word", "annotate", "annotate_tensor", "bank_", "batch", "capture", "config", "device", "encode_tensor", "encoder",
        "explain", "failures_", "fit", "forget", "load", "merge_words", "partial_fit", "remove_words", "rename_word", "save",
        "stream", "to_model_file", "vocabulary",
    ],
)  # fmt: skip
def test_what_an_annotator_has(name: str) -> None:
    assert hasattr(gpuannot.Annotator, name)


def test_version_is_the_installed_one() -> None:
    assert gpuannot.__version__ == importlib.metadata.version("gpuannot")


def test_kernels_are_a_subpackage() -> None:
    kernels = importlib.import_module("gpuannot.kernels")
    assert "CUDA" in (kernels.__doc__ or "")
    assert (files("gpuannot.kernels") / "__init__.py").is_file()


def test_data_files_are_found_as_resources() -> None:
    package = files("gpuannot")
    assert (package / "py.typed").is_file()
    notice = (package / "data" / "NOTICE").read_text(encoding="utf-8")
    assert all(words in notice for words in ("Simonyan", "Zisserman", "Oxford", "Creative Commons", "int8"))
    assert len((package / "data" / "vgg16_conv_int8.safetensors").read_bytes()) > 14_000_000


def test_a_build_holds_every_file(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.py", "README.md", "LICENSE", "pyproject.toml"):
        shutil.copy(ROOT / name, source)
    for name in ("gpuannot", "kernels"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "built")]
    subprocess.run(build, cwd=source, check=True, capture_output=True)

    def contents(folder: Path) -> set[str]:
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    expected = contents(source / "gpuannot") | {f"kernels/{name}" for name in contents(source / "kernels")}
    assert {"py.typed", "data/NOTICE", "data/vgg16_conv_int8.safetensors", "kernels/__init__.py"} <= expected
    assert contents(tmp_path / "built" / "gpuannot") == expected
