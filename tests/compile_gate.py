"""Compiles every kernel for every supported architecture without a GPU, and reads registers and spills off the compiler.

``python tests/compile_gate.py --update`` writes the table that ``test_compile_gate.py`` compares with.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from gpuannot.kernels.features import plan_affine_map
from gpuannot.kernels.plan import Launch, plan_nearest_center, source_code
from gpuannot.kernels.projection import plan_unit_products
from gpuannot.kernels.ranking import SCORES, plan_rank_candidates
from gpuannot.kernels.similarity import plan_kernel_values
from gpuannot.kernels.trunk_plan import plan_max_pool, plan_normalise_pixels
from gpuannot.kernels.vlad_plan import Step, plan_assign_vlad, plan_vlad

TABLE = Path(__file__).with_name("compile_gate.json")
ARCHITECTURES = ("75", "80", "90", "90a", "100")
LANGUAGE = ("-std=c++17", "-ftz=true")  # what the loader and CuPy compile with

Resources = dict[str, tuple[int, int]]  # label → (registers, bytes spilled)


def variants(architecture: str) -> dict[str, Launch]:
    """Every (kernel, options) that the plans choose on an architecture, by a label; of "90a" those that it alone runs."""
    capability = divmod(int(architecture.removesuffix("a")), 10)
    found: dict[str, Launch] = {}
    if architecture.endswith("a"):
        for dtype, dims in itertools.product(("float16", "bfloat16"), _every_depth(256)):
            plan = plan_nearest_center(1000, dims, 64, dtype, dtype, dims, capability=capability, method="WGMMA")
            assert f"-arch=sm_{architecture}" in plan.options
            found[_label(plan)] = plan
        return found
    types = (
        ("float32", "float32"),
        ("float16", "float32"),
        ("float16", "float16"),
        ("bfloat16", "float32"),
        ("bfloat16", "bfloat16"),
    )
    for (dtype, center_dtype), dims, centers in itertools.product(types, (3, 31, 64), (64, 256)):
        # Below compute capability 8.0 the library turns 16-bit centres into float32 before it plans.
        center_dtype = center_dtype if capability >= (8, 0) else "float32"
        strides = (196 * dims, dims)
        plans: list[Launch | None] = [
            plan_nearest_center(1000, dims, centers, dtype, center_dtype, dims, capability=capability),
            *(
                plan_assign_vlad(999, 196, dims, tile, dtype, center_dtype, *strides, Step.L2, split=split, capability=capability)
                for tile, split in ((64, False), (32, False), (32, True))
            ),
        ]
        for shared_limit in (1 << 10, 1 << 20):
            plans += plan_vlad(1, 196, dims, centers, dtype, *strides, 196, Step.L2, shared_limit=shared_limit)
        plans += _on_tensor_cores(dtype, capability)
        plans.append(plan_max_pool(1, dims, 8, 8, dtype, (64 * dims, 8 * dims, dims)))
        plans += [plan_normalise_pixels(1, 8, dims, channels, dtype, (0, 0, 0, 0)) for channels in (4, 8)]
        if dtype != "float32" and capability >= (8, 0):
            plans.append(plan_affine_map(1, (dims,), 1, dtype, (dims,), 1))
        plans += [plan_rank_candidates(1, 1, 1, 1, 1, score) for score in SCORES]
        plans += [plan_unit_products(1, 1, 1, 1, 1, 1.0), plan_kernel_values(1, 1.0)]
        for plan in plans:
            assert plan is not None
            found.setdefault(_label(plan), plan)
    return found


def _label(plan: Launch) -> str:
    # vlad_scale reads no descriptor: one set of options stands for all.
    options = plan.options if plan.kernel != "vlad_scale" else ("-DELEMENT_FLOAT32", "-DVECTOR=4", "-DSTAGED=1")
    return " ".join((plan.kernel, *(option.removeprefix("-D") for option in options if option.startswith("-D"))))


def _every_depth(most: int) -> list[int]:
    """Dimensions of every number of blocks, of vector loads and of single elements."""
    return [dims - odd for dims in (32, 64, 128, 256, 512) if dims <= most for odd in (0, 1)]


def _on_tensor_cores(dtype: str, capability: tuple[int, int]) -> list[Launch]:
    """Versions of the nearest centre, whichever is the choice, for rows of vector loads and of single elements."""
    if capability < (8, 0):
        return []
    if dtype == "float32":
        depths = (31, 32, 63, 64, 127, 128)
        return [plan_nearest_center(1000, dims, 64, dtype, dtype, dims, capability=capability, method="SCREEN") for dims in depths]
    chosen: dict[str, Any] = {"capability": capability, "method": "STREAM"}
    plans = [plan_nearest_center(1000, dims, 64, dtype, dtype, dims, **chosen) for dims in _every_depth(512)]
    chosen["method"] = "MMA"
    return plans + [plan_nearest_center(1000, dims, 64, dtype, dtype, dims, **chosen) for dims in (31, 64)]


def one_source(architecture: str) -> tuple[str, list[str]]:
    """All variants of an architecture as one source, each in a namespace of its own, and their labels in order.

    Compiled one by one, most of the time would go into starting the compiler.
    """
    parts, labels = [], []
    for label in variants(architecture):
        kernel, *macros = label.split()
        file = "vlad.cu" if kernel == "vlad_scale" else f"{kernel}.cu"
        code = source_code(file).replace('extern "C" ', "")
        if file == "vlad.cu":  # its two kernels apart
            first, _, second = code.partition("// The L2 step of images that several blocks share.")
            code = first if kernel == "vlad" else first.partition("__global__")[0] + second
        defined = "\n".join(f"#define {macro.replace('=', ' ')}" for macro in macros)
        undefined = "\n".join(f"#undef {macro.partition('=')[0]}" for macro in macros)
        parts.append(f"{defined}\nnamespace variant_{len(labels)}_ {{\n{code}\n}}\n{undefined}\n")
        labels.append(label)
    return "".join(parts), labels


@cache
def nvcc() -> str | None:
    """Path of nvcc, or None."""
    return shutil.which("nvcc")


@cache
def nvcc_release() -> str:
    """Release of nvcc, as "13.0"."""
    version = subprocess.run([nvcc() or "nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"release ([\d.]+)", version)
    assert match is not None
    return match[1]


def _compile_with_nvcc(architecture: str) -> Resources:
    source, labels = one_source(architecture)
    command = [nvcc() or "nvcc", *LANGUAGE, f"-arch=sm_{architecture}", "-cubin", "-Xptxas", "-v"]
    key = hashlib.sha256(repr((nvcc_release(), command, source)).encode()).hexdigest()[:24]
    kept = Path(tempfile.gettempdir()) / f"compile_gate-{os.getuid()}-{key}.txt"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "all.cu"
            file.write_text(source)
            result = subprocess.run([*command, "-o", os.devnull, str(file)], capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"sm_{architecture}: {result.stderr[:4000]}")
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_text(result.stderr)
        os.replace(partial, kept)
    report = kept.read_text()
    if "are serialized" in report:  # C7515: ptxas found that wgmma's registers are touched while it works
        raise RuntimeError(f"sm_{architecture}: {report[:4000]}")
    return _read_report(report, labels)


def _read_report(report: str, labels: list[str]) -> Resources:
    resources: Resources = {}
    for entry in report.split("Compiling entry function '")[1:]:
        name = re.match(r"[^']*?variant_(\d+)_", entry)
        registers = re.search(r"Used (\d+) registers", entry)
        spilled = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", entry)
        assert name and registers and spilled, entry
        resources[labels[int(name[1])]] = int(registers[1]), int(spilled[1]) + int(spilled[2])
    assert len(resources) == len(labels)
    return resources


def compile_with_nvcc() -> dict[str, Resources]:
    """Registers and spilled bytes of every variant, by architecture ("sm_90") and label.

    Raises RuntimeError with the compiler's message if a kernel does not compile.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {
            f"sm_{sm}": resources for sm, resources in zip(ARCHITECTURES, pool.map(_compile_with_nvcc, ARCHITECTURES), strict=True)
        }


def _compile_with_nvrtc(architecture: str) -> bytes:
    from cuda.bindings import nvrtc

    def call(result: tuple[Any, ...]) -> Any:
        if result[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise RuntimeError(f"compute capability {architecture}: {result[0].name}")
        return result[1] if len(result) > 1 else None

    target = f"-arch=compute_{architecture}"
    options = [option.encode() for option in (*LANGUAGE, "--device-as-default-execution-space", target)]
    program = call(nvrtc.nvrtcCreateProgram(one_source(architecture)[0].encode(), b"all.cu", 0, [], []))
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = b" " * call(nvrtc.nvrtcGetProgramLogSize(program))
            call(nvrtc.nvrtcGetProgramLog(program, log))
            raise RuntimeError(f"compute capability {architecture}: {log.decode()[:4000]}")
        compiled = b" " * call(nvrtc.nvrtcGetPTXSize(program))
        call(nvrtc.nvrtcGetPTX(program, compiled))
    finally:
        call(nvrtc.nvrtcDestroyProgram(program))
    return compiled


def compile_with_nvrtc(architectures: Sequence[str]) -> dict[str, bytes]:
    """All variants by NVRTC with no include path and with CuPy's options: PTX by architecture.

    NVRTC differs from nvcc in reading the source, which is where PTX ends. Raises the compiler's error if one does not compile.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(architectures, pool.map(_compile_with_nvrtc, architectures), strict=True))


def _update() -> None:
    compiled = compile_with_nvcc()
    registers = {sm: {label: used for label, (used, _) in resources.items()} for sm, resources in compiled.items()}
    TABLE.write_text(json.dumps({"nvcc": nvcc_release(), "registers": registers}, indent=1, sort_keys=True) + "\n")
    for sm, resources in compiled.items():
        for label, (used, spilled) in resources.items():
            print(f"{sm:6} {used:4} registers {spilled:4} bytes spilled  {label}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", required=True, help="write the table from this machine's nvcc")
    parser.parse_args()
    _update()
