"""The rooms of the package: which may import which. The table is CONTRIBUTING.md's."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rooms import table

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gpuannot"
TOP = {"__init__", "__main__", "annotator", "config", "errors", "metrics"}
EVERYBODY = {"errors", "config"}


def imported(source: str, module: tuple[str, ...], package: bool) -> Iterator[tuple[int, str]]:
    """Line and room of each import of the package, wherever it stands: in functions and under ``TYPE_CHECKING`` too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            here = module if package else module[:-1]
            base = ".".join(("gpuannot", *here[: len(here) - node.level + 1])) if node.level else ""
            whole = ".".join(filter(None, (base, node.module)))
            names = [f"{whole}.{alias.name}" for alias in node.names] if whole == "gpuannot" else [whole]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "gpuannot":
                yield node.lineno, rest.partition(".")[0] or "__init__"


def sources() -> Iterator[tuple[str, Path, tuple[str, ...], bool]]:
    for folder, room in ((PACKAGE, None), (ROOT / "kernels", "kernels")):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            module = (*((room,) if room else ()), *(parts[:-1] if parts[-1] == "__init__" else parts))
            if room is None and "kernels" in module:  # a link to that folder
                continue
            yield (module[0] if module else "__init__"), path, module, parts[-1] == "__init__"


def forbidden(room: str, source: str, module: tuple[str, ...], package: bool = False) -> list[str]:
    allowed = table()[room] | EVERYBODY | {room}
    return [f"line {line} imports {other}" for line, other in imported(source, module, package) if other not in allowed]


def test_no_room_imports_what_the_table_forbids() -> None:
    found = {path.relative_to(ROOT): forbidden(room, path.read_text(), *rest) for room, path, *rest in sources()}
    assert not {str(path): lines for path, lines in found.items() if lines}


def test_the_table_has_every_room_and_no_circle() -> None:
    rooms = {room for room, *_ in sources()}
    assert rooms <= set(table()), rooms - set(table())
    assert {path.stem for path in PACKAGE.glob("*.py")} == TOP
    order: list[str] = []
    left = {room: set(may) & rooms - {room} for room, may in table().items() if room in rooms}
    while left:  # each round takes the rooms that import none of those left
        free = [room for room, may in left.items() if not may & left.keys()]
        assert free, f"a circle among {sorted(left)}"
        order += free
        for room in free:
            del left[room]
    assert order.index("system") < order.index("method") < order.index("model") < order.index("jobs") < order.index("cli")


@pytest.mark.parametrize(
    ("module", "line"),
    [
        (("method", "vlad"), "from ..heads.ridge import RidgeSystem"),
        (("model", "encoder"), "def late():\n    from ..jobs import pipeline"),
        (("jobs", "batch"), "if TYPE_CHECKING:\n    from ..annotator import Annotator"),
        (("system", "timing"), "import gpuannot.images.decode"),
        (("images", "decode"), "from gpuannot import kernels"),
        (("reference", "vlad"), "from ..method import vlad"),
    ],
)
def test_a_forbidden_import_is_found(module: tuple[str, ...], line: str) -> None:
    assert forbidden(module[0], line, module) and not forbidden(module[0], "from ..errors import DataError", module)


def test_files_have_one_subject() -> None:
    """None has more than 350 lines."""
    long = {str(path.relative_to(ROOT)): count for _, path, *_ in sources() if (count := len(path.read_text().splitlines())) > 350}
    assert not long


def test_tests_are_collected_without_any_extra() -> None:
    """One module that does not import is one error, and ``pytest -m gpu`` runs nothing: extras come by ``importorskip``."""
    try:
        needed = importlib.metadata.requires("gpuannot") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("gpuannot is not installed")
    required = {re.split(r"[^\w.-]", need)[0].lower() for need in needed if "extra ==" not in need}
    brought = {
        module
        for module, distributions in importlib.metadata.packages_distributions().items()
        if required & {name.lower() for name in distributions}
    }
    folder = ROOT / "tests"
    ours = {path.stem for path in folder.rglob("*.py")} | {path.name for path in folder.iterdir()} | {"gpuannot", "benchmarks"}
    allowed = brought | ours | sys.stdlib_module_names | {"pytest", "_pytest"}
    wrong = []
    for path in sorted(folder.rglob("*.py")):
        tree = ast.parse(path.read_text())
        skipped = set(re.findall(r'importorskip\(\s*"(\w+)', path.read_text()))
        for node in tree.body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            wrong += [f"{path.name}:{node.lineno} {name}" for name in names if name.partition(".")[0] not in allowed | skipped]
    assert not wrong
