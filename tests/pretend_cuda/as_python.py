"""``python -m pretend_cuda.as_python -m MODULE …`` or ``-c CODE``: as ``python`` does, on the pretended device."""

from __future__ import annotations

import runpy
import sys

from .device import PretendCuda

kind, what, *arguments = sys.argv[1:]
sys.argv = [what if kind == "-m" else kind, *arguments]
with PretendCuda():
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(what, {"__name__": "__main__"})
