"""Charts of a result as SVG: ``python -m benchmarks.plot RESULT.json`` writes them to docs/charts.

Time by stage, throughput against batch, growth with images and words, share of the limit. They need matplotlib:
``pip install ".[bench]"``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import parser_of
from benchmarks.compare import read
from benchmarks.rows import OURS, Row

CHARTS = Path(__file__).parent.parent / "docs" / "charts"
# Both readable on white and on GitHub's dark page.
_COLOURS = ("#3b82c4", "#d9822b", "#4f9d69", "#b5536c", "#8a6fb3", "#7f7f7f")
_GREY = "#808080"


def charts(result: dict[str, Any], folder: Path) -> list[Path]:
    """Draw every chart that the result has rows for; returns the files.

    Raises:
        SystemExit: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise SystemExit('charts need matplotlib; pip install ".[bench]"') from None
    matplotlib.use("svg")
    settings: dict[Any, Any] = {
        "svg.hashsalt": "gpuannot",  # same result, same bytes
        "svg.fonttype": "none",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.constrained_layout.use": True,
        **{f"{name}.color": _GREY for name in ("text", "xtick", "ytick")},
        **{f"axes.{name}": _GREY for name in ("edgecolor", "labelcolor", "titlecolor")},
    }
    matplotlib.rcParams.update(settings)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for row in result["rows"] if "seconds" in row]
    device = result["setting"]["device"].split(":")[0]
    written = []
    for name, draw in DRAWN.items():
        if (figure := draw(rows)) is not None:
            path = folder / f"{device}-{name}.svg"
            figure.savefig(path, transparent=True, metadata={"Date": None})
            matplotlib.pyplot.close(figure)
            written.append(path)
    return written


def time_by_stage(rows: list[Row]) -> Any:
    """Milliseconds an image of each stage."""
    stages = [(row["variant"], 1e3 / row["per_second"]) for row in rows if row["stage"] == "time_by_stage"]
    if not stages:
        return None
    figure, axes = _figure(6.4, 2.2)
    names, values = zip(*reversed(stages), strict=True)
    bars = axes.barh(names, values, color=_COLOURS[0])
    axes.bar_label(bars, [f"{value:.3g} ms" for value in values], padding=3, color=_GREY)
    axes.set(xlabel="milliseconds an image (log)", xscale="log", title="Time by stage")
    axes.margins(x=0.15)
    return figure


def throughput(rows: list[Row]) -> Any:
    """Images/s against the batch, tensors in."""
    return _lines(rows, {"tensors": ""}, "batch", lambda row: row["per_second"], "images/s", "Throughput, tensors in")


def growth_with_images(rows: list[Row]) -> Any:
    """Microseconds an image as images grow: flat."""
    stages = {"scaling_images": "annotate from descriptors", "scaling_fit": "word sums"}
    return _lines(rows, stages, "images", lambda row: 1e6 / row["per_second"], "µs an image", "Growth with the number of images")


def growth_with_words(rows: list[Row]) -> Any:
    """Microseconds an image as words grow: linear."""
    stages = {"scaling_words": "ranking"}
    return _lines(rows, stages, "words", lambda row: 1e6 / row["per_second"], "µs an image", "Growth with the number of words")


def share_of_limit(rows: list[Row]) -> Any:
    """How much of the measured limit each stage reaches, at its first size."""
    found: dict[str, float] = {}
    for row in rows:
        if row["variant"] == OURS and "share_of_limit" in row and not row["stage"].startswith("scaling"):
            found.setdefault(row["stage"], 100 * row["share_of_limit"])
    if not found:
        return None
    figure, axes = _figure(6.4, 2.8)
    names = list(reversed(found))
    bars = axes.barh(names, [found[name] for name in names], color=_COLOURS[2])
    axes.bar_label(bars, [f"{found[name]:.0f}%" for name in names], padding=3, color=_GREY)
    axes.set(xlabel="% of what copy bandwidth and matrix products of this machine allow", title="Share of the limit")
    axes.margins(x=0.12)
    return figure


def _lines(rows: list[Row], stages: dict[str, str], x: str, y: Callable[[Row], float], label: str, title: str) -> Any:
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["stage"] in stages:
            lines.setdefault(stages[row["stage"]] or row["variant"], []).append((row["case"][x], y(row)))
    if not lines:
        return None
    figure, axes = _figure(6.4, 3.0)
    for (name, points), colour in zip(lines.items(), _COLOURS, strict=False):
        axes.plot(*zip(*points, strict=True), marker="o", label=name, color=colour)
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel=label, title=title)
    axes.legend(frameon=False, labelcolor=_GREY)
    axes.grid(alpha=0.25)
    return figure


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height))


DRAWN: dict[str, Callable[[list[Row]], Any]] = {
    "time-by-stage": time_by_stage,
    "throughput": throughput,
    "growth-with-images": growth_with_images,
    "growth-with-words": growth_with_words,
    "share-of-limit": share_of_limit,
}


def main() -> None:
    parser = parser_of("benchmarks.plot", __doc__, writes=False)
    parser.add_argument("result", type=Path, help="a result of python -m benchmarks")
    parser.add_argument("--out", type=Path, default=CHARTS, help="folder (default: docs/charts)")
    arguments = parser.parse_args()
    written = charts(read(arguments.result), arguments.out)
    for path in written:
        print(path)
    if not written:
        sys.exit(f"'{arguments.result}' has no rows to draw")


if __name__ == "__main__":
    main()
