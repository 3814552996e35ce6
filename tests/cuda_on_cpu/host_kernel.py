"""Compiles a CUDA C++ kernel for the host and launches it over NumPy arrays, as ``cupy.RawKernel`` does over device arrays."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

HEADERS = Path(__file__).parent

_DYNAMIC_SHARED = re.compile(r"extern\s+__shared__\s+(?:__align__\s*\(\s*\d+\s*\)\s*)?([\w:\s]+?)\s+(\w+)\s*\[\s*\]\s*;")

_FLAGS = (
    "-O1",  # kernels are compiled by the hundred and run for a moment
    "-std=c++17",
    "-fPIC",
    "-shared",
    "-pthread",
    "-w",
    "-fno-strict-aliasing",
    "-ffp-contract=off",  # a fused multiply-add happens where the source says fmaf, and nowhere else
    "-fsanitize=alignment,bounds",
    "-fno-sanitize-recover=all",
)


@cache
def compiler() -> str | None:
    """Path of the C++ compiler that builds the kernels, or None where there is none."""
    return shutil.which(os.environ.get("CXX", "g++"))


@cache
def _machine_flags() -> tuple[str, ...]:
    """fmaf as one instruction where the processor has it; the fiber switch in assembler on x86-64, ucontext elsewhere."""
    if platform.machine() != "x86_64":
        return ("-DCUDA_ON_CPU_UCONTEXT",)
    try:
        features = Path("/proc/cpuinfo").read_text()
    except OSError:
        features = ""
    return ("-mfma",) if " fma " in features else ()


@cache
def _headers_digest() -> bytes:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(HEADERS.glob("*.h")))).digest()


def _host_source(code: str, name: str) -> str:
    code = _DYNAMIC_SHARED.sub(r"\1* const \2 = reinterpret_cast<\1*>(cuda_on_cpu::block->dynamic_shared);", code)
    return (
        f'#include "cuda_on_cpu.h"\n#line 1 "{name}.cu"\n{code}\n'
        f'extern "C" void host_launch(dim3 grid, dim3 block, size_t shared, void** arguments, int workers, unsigned seed) {{\n'
        f"    cuda_on_cpu::launch(&{name}, grid, block, shared, arguments, workers, seed);\n}}\n"
    )


def build(code: str, name: str, options: Sequence[str] = ()) -> Path:
    """Compile ``name`` from ``code`` and return the shared library; a library built before is returned as it is.

    Raises RuntimeError with the compiler's own message when the source does not compile.
    """
    gxx = compiler()
    if gxx is None:
        raise RuntimeError("no C++ compiler: install g++ or name one in CXX")
    source = _host_source(code, name)
    flags = (*_FLAGS, *_machine_flags(), *(option for option in options if option.startswith(("-D", "-O"))))
    library = _folder() / f"{_digest(source, gxx, flags)}.so"
    if not library.exists():
        source_path = library.with_suffix(".cpp")
        source_path.write_text(source)
        headers = _precompiled_headers(gxx, (*_FLAGS, *_machine_flags()))
        _compile([gxx, *flags, "-I", str(headers), "-I", str(HEADERS), str(source_path)], library, name)
    return library


def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"cuda_on_cpu-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _digest(*parts: object) -> str:
    return hashlib.sha256(_headers_digest() + repr(parts).encode()).hexdigest()[:24]


@cache
def _precompiled_headers(gxx: str, flags: tuple[str, ...]) -> Path:
    """A folder with the headers as GCC has parsed them, which is half the work of a kernel; other compilers pass it over."""
    folder = _folder() / f"headers-{_digest(gxx, flags)}"
    folder.mkdir(exist_ok=True)
    name = "cuda_on_cpu.h"
    parsed = folder / f"{name}.gch"
    if not parsed.exists():
        options = [flag for flag in flags if flag != "-shared"]
        _compile([gxx, *options, "-x", "c++-header", str(HEADERS / name)], parsed, name)
    return folder


def _compile(command: list[str], output: Path, name: str) -> None:
    """Run the compiler; the file is there as a whole or not at all, whoever else makes it."""
    partial = output.with_name(f"{output.name}.{os.getpid()}.part")
    result = subprocess.run([*command, "-o", str(partial)], capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{name} does not compile for the host:\n{result.stderr[:4000]}")
    os.replace(partial, output)


class _Dim3(ctypes.Structure):
    _fields_ = (("x", ctypes.c_uint), ("y", ctypes.c_uint), ("z", ctypes.c_uint))


class HostRawKernel:
    """A kernel that runs on the CPU, with the call signature of ``cupy.RawKernel``.

    ``code`` is the CUDA C++ source, ``name`` the ``extern "C" __global__`` function in it, ``options`` compiler options of which
    the macros (``-D…``) are used. ``workers`` OS threads share the blocks of a launch. RuntimeError: the source does not compile.
    """

    def __init__(self, code: str, name: str, options: Sequence[str] = (), workers: int = 2) -> None:
        self._launch = ctypes.CDLL(str(build(code, name, options))).host_launch
        self._launch.restype = None
        self.workers = workers

    def __call__(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[object],
        *,
        shared_mem: int = 0,
        seed: int = 0,
    ) -> None:
        """Launch and wait. An argument is a NumPy array (its address is passed), a NumPy scalar (its value) or None (a null
        pointer); Python numbers are refused, because their C type would be a guess. ``seed`` sets the order of the threads."""
        kept: list[object] = []
        pointers = (ctypes.c_void_p * len(args))()
        for i, arg in enumerate(args):
            value: ctypes.c_void_p | ctypes.Array[ctypes.c_char]
            if arg is None:
                value = ctypes.c_void_p(0)
            elif isinstance(arg, np.ndarray):
                value = ctypes.c_void_p(arg.ctypes.data)
            elif isinstance(arg, np.generic):
                value = ctypes.create_string_buffer(arg.tobytes(), arg.nbytes)
            else:
                raise TypeError(f"kernel argument {i} is a {type(arg).__name__}: pass a NumPy array, a NumPy scalar or None")
            kept.append(value)
            pointers[i] = ctypes.cast(ctypes.byref(value), ctypes.c_void_p)
        grid3, block3 = (_Dim3(*(*shape, 1, 1, 1)[:3]) for shape in (grid, block))
        self._launch(grid3, block3, ctypes.c_size_t(shared_mem), pointers, ctypes.c_int(self.workers), ctypes.c_uint(seed))
