"""The page of a report: template, style and scripts, put together into one HTML text that needs nothing else.

`chart.umd.min.js` is Chart.js as its authors distribute it (MIT, `chart.LICENSE.md`). The other scripts are ours and run as one, in
the order of `SCRIPTS`.

Text from file names and labels reaches the page as JSON with ``<`` escaped, and the scripts put it there as text nodes only. The
page's policy allows its own scripts and style, by their SHA-256, and nothing from any network: text could not run even if it got
into the markup.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ...images.input import utf8

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_SHARED = ("dom.js", "data.js", "heatmap.js", "gallery.js", "review.js", "parts.js")
SCRIPTS = {
    "page.html": (*_SHARED, "filters.js", "detail.js", "words.js", "charts.js", "main.js"),
    "audit.html": (*_SHARED, "audit.js"),
}
STYLES = ("base.css", "images.css", "tables.css", "review.css", "audit.css")


def render(
    title: str, data: dict[str, Any], previews: Iterable[str], heatmaps: Iterable[str] = (), *, template: str = "page.html"
) -> Iterator[str]:
    """The page, piece by piece.

    Args:
        data: what the scripts show; must be ready for JSON.
        previews: blocks of base64 lines, one line an image.
        heatmaps: likewise.
        template: one of :data:`SCRIPTS`.
    """
    from jinja2.utils import htmlsafe_json_dumps
    from markupsafe import Markup

    charts = template == "page.html"
    theme, chart, script, looks = _text("theme.js"), _chart() if charts else "", _script(template), style(*STYLES)
    policy = (
        f"default-src 'none'; script-src {' '.join(_source(text) for text in (theme, chart, script) if text)}; "
        f"style-src {_source(looks)}; img-src data:; base-uri 'none'; form-action 'none'"
    )
    return (
        environment()
        .get_template(template)
        .generate(
            title=utf8(title),
            policy=policy,
            **{name: Markup(text) for name, text in (("theme", theme), ("chart", chart), ("script", script))},
            style=looks,
            data=htmlsafe_json_dumps(
                {**data, "identity": _identity(data), "root": _root(data)}, separators=(",", ":"), allow_nan=False
            ),
            previews=previews,
            heatmaps=heatmaps,
            tables=data.get("scores") is not None,
        )
    )


def _root(data: dict[str, Any]) -> str:
    """The folder that relative paths of images start from; empty where there are none."""
    paths = (data["folder"] + name for name in data["images"]["names"])
    return "" if all(map(os.path.isabs, paths)) else utf8(os.getcwd())


def _identity(data: dict[str, Any]) -> str:
    """What a browser keeps the decisions of a review under: images and words."""
    return sha256(json.dumps([data["folder"], data["words"], data["images"]]).encode()).hexdigest()[:16]


def environment() -> Environment:
    """Templates of this folder: what is put into them is text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(loader=PackageLoader(__name__, "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True)


def style(*names: str, more: str = "") -> Markup:
    """Style sheets as one, for a template."""
    from markupsafe import Markup

    return Markup("\n".join((*(_text(name) for name in names), *((more,) if more else ()))))


@cache
def _text(name: str) -> str:
    text = files(__name__).joinpath(name).read_text(encoding="utf-8")
    if re.search(r"</(script|style)|<!--", text, re.IGNORECASE):
        raise ValueError(f"{name} would end the element that holds it")
    return text


def _chart() -> str:
    # Developer tools would look for the source map, which a page in one file does not have.
    return re.sub(r"\n//# sourceMappingURL=\S+\s*$", "\n", _text("chart.umd.min.js"))


def _script(template: str) -> str:
    return '(() => {\n"use strict";\n' + "\n".join(_text(name) for name in SCRIPTS[template]) + "\n})();"


def _source(text: str) -> str:
    """How a content security policy names a text that may run."""
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"
