"""Runs a function in a process of its own, where a crash is one of the results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_TESTS = Path(__file__).parents[1]
_FOLDERS = (str(_TESTS), str(_TESTS / "kernels"))


def run_isolated(function: str, *arguments: object, timeout: float = 60) -> tuple[int, str]:
    """Call ``function`` ("module:name", a module of the tests folder or of tests/kernels) with JSON-able ``arguments`` in a new
    interpreter.

    Returns its exit status, 0 when the function returned and negative when a signal ended it, and what it wrote.
    """
    command = [sys.executable, "-c", _CHILD, function, json.dumps(arguments), *_FOLDERS]
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    return result.returncode, result.stdout + result.stderr


_CHILD = """
import importlib, json, sys
function, arguments, *folders = sys.argv[1:]
sys.path[:0] = folders
module, name = function.split(":")
getattr(importlib.import_module(module), name)(*json.loads(arguments))
"""
