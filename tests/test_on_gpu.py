"""``benchmarks/on_gpu.sh``: its steps at small sizes on the pretended device, what a killed step leaves, and cuML's bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cuda_on_cpu import compiler

import benchmarks.__main__ as run_all
from benchmarks import common
from benchmarks.cuml_bundle import unpack
from benchmarks.rows import Row, Setting

jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema, which the test extra brings")

TESTS = Path(__file__).parent
SCHEMA = json.loads((TESTS.parent / "benchmarks" / "schema.json").read_text())
# Step → what its result is about, and how many rows or profiles it has at least.
STEPS = {"kernels": 20, "after-trunk": 10, "end-to-end": 10, "trunk": 8, "decode": 4, "profile": 3}

needs_compiler = pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler")


def on_gpu(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script, with a Python that has the pretended device."""
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -W "ignore:cuML is not usable" -m pretend_cuda.as_python "$@"\n')
    python.chmod(0o755)
    path = os.pathsep.join((str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")))
    given = {**os.environ, "PYTHONPATH": path, "PYTHON": str(python), "RESULTS": str(folder / "results")}
    # A step's limit is meant for a GPU; a processor that emulates bfloat16 is many times slower than others.
    given |= {"SECONDS_A_STEP": "1800", **environment}
    return subprocess.run([TESTS.parent / "benchmarks" / "on_gpu.sh", *arguments], env=given, capture_output=True, text=True)


@needs_compiler
@pytest.mark.parametrize("step", STEPS)
def test_each_step_runs_and_writes_its_result(step: str, tmp_path: Path) -> None:
    ran = on_gpu(tmp_path, "--dry-run", step)
    assert ran.returncode == 0 and "0 failed, 0 waiting" in ran.stdout, ran.stdout[-3000:] + ran.stderr[-3000:]
    found = json.loads((tmp_path / "results" / f"gpu-pretended-{step}.json").read_text())
    rows = found.get("rows", found.get("profiles"))
    assert len(rows) >= STEPS[step]
    ours = [row for row in rows if row.get("variant", "").startswith("gpuannot")]
    assert all(row["agreement"]["agrees"] for row in ours if "agreement" in row), ours
    if "limits" in found:
        found["environment"]["commit"] = "0123456789ab"
        jsonschema.validate(found, SCHEMA)


@needs_compiler
def test_the_environment_step_runs_the_gpu_tests(tmp_path: Path) -> None:
    ran = on_gpu(tmp_path, "--dry-run", "environment", TESTS=f"{TESTS / 'method' / 'test_gpu_stages.py'} -k word_sums")
    assert ran.returncode == 0 and "1 passed" in ran.stdout, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert "1 passed" in (tmp_path / "results" / "gpu-pretended-tests.txt").read_text()


@needs_compiler
def test_requirements_that_are_carried_and_modules_that_do_not_import(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "carried-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried.py", "")
        wheel.writestr("carried-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: carried\nVersion: 1.0\n")
        wheel.writestr("carried-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("carried-1.0.dist-info/RECORD", "")
    (tmp_path / "test_with.py").write_text("import carried, pytest\n\n@pytest.mark.gpu\ndef test_it() -> None: pass\n")
    (tmp_path / "test_without.py").write_text("import not_carried\n")
    ran = on_gpu(tmp_path, "--dry-run", "environment", WHEELS=str(tmp_path), TESTS=f"--rootdir {tmp_path} {tmp_path}")
    assert ran.returncode == 1 and "1 passed" in ran.stdout and "No module named 'not_carried'" in ran.stdout, ran.stdout[-3000:]


def test_an_unknown_step_and_a_step_out_of_time(tmp_path: Path) -> None:
    plain = {"PYTHON": sys.executable, "SECONDS_A_STEP": "0.1"}
    unknown = on_gpu(tmp_path, "everything", **plain)
    assert unknown.returncode == 2 and "no step 'everything'; there are environment, trunk" in unknown.stdout
    late = on_gpu(tmp_path, "--dry-run", "trunk", **plain)
    assert late.returncode == 1 and "trunk: not done in 0.1 s; what was measured is kept" in late.stdout


def test_what_was_measured_before_the_end_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seconds = {"median": 1.0, "q1": 1.0, "q3": 1.0, "runs": 1}
    row: Row = {"stage": "s", "case": {"images": 1}, "variant": "gpuannot", "device": "cpu", "seconds": seconds}
    row |= {"items": 1, "unit": "images", "per_second": 1.0}

    def ended(setting: Setting) -> Any:
        yield row
        yield row
        raise KeyboardInterrupt

    monkeypatch.setattr(run_all, "stages", lambda: {"ended": ended})
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--quick", "--write", "new"])
    with pytest.raises(KeyboardInterrupt):
        run_all.main()
    assert len(json.loads((tmp_path / "new.json").read_text())["rows"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["new.json"]


def bundle_of(folder: Path) -> Path:
    """A bundle with a package that asks for cuDF as cuML does, and a library that names a copy of NVRTC."""
    packages = folder / "packages"
    (packages / "libcuml_cu13.libs").mkdir(parents=True)
    (packages / "libcuml").mkdir()
    (packages / "libcuml" / "libcuml.so").write_bytes(b"\x7fELF\0libnvrtc-a49e67e8.so.13.0.88\0")
    (packages / "cuml_like.py").write_text(
        "import cudf, pylibcudf.column\nfrom cudf.core.dtypes import CategoricalDtype\n"
        "assert not isinstance(3, cudf.Series) and not isinstance(3, (CategoricalDtype, pylibcudf.column.Column))\n"
    )
    path = folder / "bundle.tar.xz"
    with tarfile.open(path, "w:xz") as file:
        for part in packages.iterdir():
            file.add(part, part.name)
    return path


def test_a_bundle_of_cuml_finds_the_machines_libraries(tmp_path: Path) -> None:
    machine = tmp_path / "site-packages" / "nvidia"
    (machine / "cu13" / "lib").mkdir(parents=True)
    bundle, folder = bundle_of(tmp_path), tmp_path / "unpacked"
    with pytest.raises(FileNotFoundError, match=r"asks for libnvrtc-a49e67e8\.so\.13\.0\.88, and there is no libnvrtc\.so\.13 in"):
        unpack(bundle, folder, machine)
    library = machine / "cu13" / "lib" / "libnvrtc.so.13"
    library.write_bytes(b"\x7fELF")
    paths = unpack(bundle, folder, machine)
    assert (folder / "nvidia").resolve() == machine
    assert (folder / "libcuml_cu13.libs" / "libnvrtc-a49e67e8.so.13.0.88").resolve() == library
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    subprocess.run([sys.executable, "-c", "import cuml_like"], env=environment, check=True)
    bundle.unlink()
    assert unpack(bundle, folder, machine) == paths  # once
