"""The values that each setting takes, put behind what its docstring says: from the table that the settings are checked by."""

from __future__ import annotations

from typing import Any

from gpuannot.config import CONSTRAINTS


def process(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    owner, _, setting = name.rpartition(".")
    if owner.endswith("AnnotatorConfig") and setting in CONSTRAINTS:
        lines += ["", f"Takes {CONSTRAINTS[setting]}.", ""]


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
