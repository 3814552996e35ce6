"""What gpuannot runs on: versions, processor, devices. Recorded with every result, and shown by ``gpuannot info``."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ..errors import install
from .device import cpu_has_fast_bfloat16, cpu_has_int8
from .threads import cpus
from .version import __version__

#: Packages whose versions decide results or speed.
PACKAGES = (
    "torch", "numpy", "scipy", "scikit-learn", "safetensors", "pillow", "pyarrow", "torchvision",
    "cupy-cuda13x", "cupy-cuda12x", "cuml-cu13", "cuml-cu12", "dask", "timm",
)  # fmt: skip


def versions(others: Iterable[str] = ()) -> dict[str, str]:
    """Installed versions of gpuannot, Python and the packages it uses; what is not installed is left out.

    Args:
        others: more packages to name.
    """
    found = {"gpuannot": __version__, "python": platform.python_version()}
    for package in (*PACKAGES, *others):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor() -> dict[str, Any]:
    """The CPU: its model name, cores, torch's threads, whether it gains by bfloat16 over float32, and multiplies int8."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "model": model,
        "cores": cpus(),
        "torch_threads": torch.get_num_threads(),
        "bfloat16": cpu_has_fast_bfloat16(),
        "int8": cpu_has_int8(),
    }


def gpus() -> list[dict[str, Any]]:
    """The CUDA devices that torch sees."""
    if not torch.cuda.is_available():
        return []
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [
        {"name": p.name, "compute_capability": f"{p.major}.{p.minor}", "memory_gb": round(p.total_memory / 1e9, 1)}
        for p in properties
    ]


def commit() -> str | None:
    """The git commit that gpuannot runs from, with ``+changes`` if its code differs from it; None outside a checkout."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--", "gpuannot", "kernels", "benchmarks/*.py")
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def missing() -> dict[str, str]:
    """What would make gpuannot faster or more able on this machine, and how to get it."""
    advice = {}
    if not torch.cuda.is_available():
        built = "this torch is built without CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
        advice["GPU"] = f"{built}; on a machine with an NVIDIA GPU {install('cuda13', 'cuda12')}"
    else:
        generation = "13" if (torch.version.cuda or "").startswith("13") else "12"
        for module, use in (
            ("cupy", "the kernels"),
            ("cuml", "fitting PCA and K-means on the GPU"),
            ("torchvision", "decoding JPEG on the GPU"),
        ):
            if importlib.util.find_spec(module) is None:
                advice[module] = f"needed for {use}; {install(f'cuda{generation}')}"
    if importlib.util.find_spec("timm") is None:
        advice["timm"] = f"needed for trunks timm:NAME (gpuannot trunks); {install('timm')}"
    if not cpu_has_fast_bfloat16():
        advice["bfloat16"] = "this processor gains nothing by bfloat16: what is not int8 runs in float32, 2 to 3 times slower"
    if not cpu_has_int8():
        advice["int8"] = "this processor has no int8 instructions: the trunk runs in bfloat16 or float32, half as fast or less"
    return advice


def record(packages: Iterable[str] = ()) -> dict[str, Any]:
    """All of the above with the date (UTC), for a result file.

    Args:
        packages: more packages whose versions to name.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions(packages),
        "processor": processor(),
        "gpus": gpus(),
        "platform": platform.platform(),
    }


def peak_memory() -> int | None:
    """Most bytes of memory that this process has held; None where the system does not say."""
    try:  # ru_maxrss starts with what the process held that started this one
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
