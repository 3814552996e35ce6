"""Every kernel compiles for every supported architecture, spills nothing, and takes no more registers than the table allows."""

from __future__ import annotations

import json

import compile_gate
import pytest
from compile_gate import ARCHITECTURES, TABLE, Resources, variants

needs_nvcc = pytest.mark.skipif(compile_gate.nvcc() is None, reason="needs nvcc on PATH")


@pytest.fixture(scope="module")
def compiled() -> dict[str, Resources]:
    return compile_gate.compile_with_nvcc()


@needs_nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_spills(architecture: str, compiled: dict[str, Resources]) -> None:
    spilled = {label: size for label, (_, size) in compiled[f"sm_{architecture}"].items() if size}
    assert not spilled


@needs_nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_registers_stay_within_the_table(architecture: str, compiled: dict[str, Resources]) -> None:
    table = json.loads(TABLE.read_text())
    if table["nvcc"] != compile_gate.nvcc_release():
        pytest.skip(
            f"the table is of nvcc {table['nvcc']}, here is {compile_gate.nvcc_release()}: register counts differ by compiler"
        )
    allowed = table["registers"][f"sm_{architecture}"]
    more = {
        label: (used, allowed.get(label))
        for label, (used, _) in compiled[f"sm_{architecture}"].items()
        if used > allowed.get(label, 0)
    }
    assert not more, "if that is meant: python tests/compile_gate.py --update"


def test_the_table_names_the_kernels_there_are() -> None:
    registers = json.loads(TABLE.read_text())["registers"]
    assert {sm: set(labels) for sm, labels in registers.items()} == {f"sm_{sm}": set(variants(sm)) for sm in ARCHITECTURES}


def test_tensor_core_versions_start_at_capability_8() -> None:
    for method in ("MMA", "STREAM", "SCREEN"):
        by_mma = {sm: {label for label in variants(sm) if f"METHOD_{method}" in label} for sm in ARCHITECTURES}
        assert not by_mma["75"] and by_mma["80"] == by_mma["90"] == by_mma["100"] != set()
    with_wgmma = {sm for sm in ARCHITECTURES if any("METHOD_WGMMA" in label for label in variants(sm))}
    assert with_wgmma == {"90a"}


def test_nvrtc_compiles_without_headers() -> None:
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings, which calls NVRTC")
    try:
        nvrtc.nvrtcVersion()
    except (OSError, RuntimeError) as error:
        pytest.skip(f"needs the NVRTC library: {error}")
    sources = {compile_gate.one_source(architecture)[0] for architecture in ARCHITECTURES}
    compiled_here = ("75", "90", "90a")
    assert sources == {compile_gate.one_source(architecture)[0] for architecture in compiled_here}
    for architecture, ptx in compile_gate.compile_with_nvrtc(compiled_here).items():
        assert f".target sm_{architecture}".encode() in ptx


def test_nvrtc_says_what_does_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings, which calls NVRTC")
    broken = "__global__ void broken() { undeclared = 1; }"
    monkeypatch.setattr(compile_gate, "one_source", lambda architecture: (broken, ["broken"]))
    with pytest.raises(RuntimeError, match="undeclared"):
        compile_gate.compile_with_nvrtc(("75",))
