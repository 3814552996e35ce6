"""The table of rooms in CONTRIBUTING.md."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def table() -> dict[str, set[str]]:
    """Room → what it may import, beside itself and what everybody may."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| `([\w`, ]+)` \|[^|]*\|([^|]*)\|$", text, re.M)
    allowed: dict[str, set[str]] = {}
    for names, may in rows:
        found = set(re.findall(r"\w+", may))
        if found & {"all"}:
            found = set().union(allowed) - (found - {"all", "but", "above"})
        for name in re.findall(r"\w+", names):
            allowed[name] = found
    return allowed
