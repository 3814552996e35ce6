"""A class or function is found by the end of its name: ``gpuannot.Inputs`` and ``Inputs`` are ``gpuannot.images.inputs.Inputs``."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.util.nodes import make_refnode

import gpuannot


def resolve(app: Any, env: Any, node: Any, contents: nodes.Node) -> nodes.Node | None:
    if node.get("refdomain") != "py":
        return None
    wanted = tail = node["reftarget"]
    if wanted.startswith("gpuannot."):
        tail = wanted.removeprefix("gpuannot.")
        tail = f"{gpuannot._HOMES[tail]}.{tail}" if tail in gpuannot._HOMES else tail
    found = {
        (entry.docname, entry.node_id)
        for name, entry in env.get_domain("py").objects.items()
        if name.endswith(f".{tail}") and not entry.aliased
    }
    if len(found) != 1:
        return None
    ((document, anchor),) = found
    return make_refnode(app.builder, node["refdoc"], document, anchor, contents, wanted)


def setup(app: Any) -> dict[str, bool]:
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
