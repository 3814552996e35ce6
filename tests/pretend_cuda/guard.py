"""The device guard that torch asks for wherever it meets a CUDA tensor, which a torch without CUDA does not have."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from cuda_on_cpu import compiler

# torch's own, which does nothing; a torch with CUDA and no GPU puts the same in its place when it is asked to.
_SOURCE = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace { C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>) }
"""


@cache
def ensure_guard() -> None:
    """Let this process's torch handle tensors that say they are on a CUDA device.

    Raises:
        RuntimeError: there is no C++ compiler, or it does not take torch's headers.
    """
    if torch.backends.cuda.is_built():
        torch._C._ensureCUDADeviceGuardSet()
        return
    gxx, root = compiler(), Path(torch.__file__).parent
    if gxx is None:
        raise RuntimeError("no C++ compiler: install g++ or name one in CXX")
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    # -O1: with less the header's inline code asks for symbols that the library does not give.
    command = [gxx, "-std=c++20", "-O1", "-w", "-fPIC", "-shared", abi, "-I", str(root / "include"), "-L", str(root / "lib")]
    key = hashlib.sha256(repr((torch.__version__, str(root), command, _SOURCE)).encode()).hexdigest()[:24]
    library = Path(tempfile.gettempdir()) / f"pretend_cuda-{os.getuid()}-{key}.so"
    if not library.exists():
        partial = library.with_suffix(f".{os.getpid()}.part")
        built = subprocess.run(
            [*command, "-x", "c++", "-", "-lc10", "-o", str(partial)], input=_SOURCE, capture_output=True, text=True
        )
        if built.returncode:
            raise RuntimeError(f"torch's headers do not compile:\n{built.stderr[:4000]}")
        os.replace(partial, library)
    ctypes.CDLL(str(library))
