"""Links to files of the repository beside the documentation: checked here, where the repository is, and shown as their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

DOCS = Path(__file__).parents[1]
logger = logging.getLogger(__name__)


class RepositoryLinks(SphinxTransform):
    default_priority = 700

    def apply(self, **_: Any) -> None:
        here = Path(self.env.doc2path(self.env.current_document.docname)).parent
        for link in [*self.document.findall(addnodes.download_reference), *self.document.findall(addnodes.pending_xref)]:
            target = str(link.get("reftarget", "")).partition("#")[0]
            if link.get("refdomain") == "doc":  # Markdown: named from the documentation's folder on, without its suffix
                path = (DOCS / f"{target}.md").resolve()
            elif isinstance(link, addnodes.download_reference) or link.get("reftype") == "myst":
                path = (here / target).resolve()
            else:
                continue
            if target and not path.is_relative_to(DOCS):
                if not path.exists():
                    logger.warning("%s is not in the repository", target, location=link)
                link.replace_self(nodes.literal(text=str(path.relative_to(DOCS.parent))))


def setup(app: Any) -> dict[str, bool]:
    app.add_transform(RepositoryLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
