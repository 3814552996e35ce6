"""The README's tables say what the committed results say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def results(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def cells(line: str) -> list[str]:
    return [cell.strip().strip("*") for cell in line.strip().strip("|").split("|")]


def table_after(text: str) -> list[list[str]]:
    """The rows of the first table after ``text``, without its heading."""
    lines = README[README.index(text) :].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    end = next(number for number in range(start, len(lines)) if not lines[number].startswith("|"))
    return [cells(line) for line in lines[start + 2 : end]]


def measures(scores: dict[str, Any]) -> str:
    return f"{100 * scores['precision']:.2f} / {100 * scores['recall']:.2f} / {100 * scores['f1']:.2f} / {scores['n_plus']}"


def test_the_comparison_holds_every_row_and_its_numbers() -> None:
    result = results("corel5k-comparison")
    shown = table_after("Every system of the paper's tables")
    assert len(shown) == len(result["rows"])
    for (method, _, paper, ours, cost), row in zip(shown, result["rows"], strict=True):
        assert method == row["method"]
        printed = result["paper"].get(row["paper_row"])
        assert paper == ("" if printed is None else " / ".join([*(f"{value:.2f}" for value in printed[:3]), str(printed[3])]))
        assert ours == ("not run" if "missing" in row else measures(row["scores"]))
        expected = "" if "missing" in row else f"{row['seconds']['fit']:.1f} s, {1e3 * row['seconds']['annotate_an_image']:.2f} ms"
        assert cost == expected


def test_the_costs_are_those_measured() -> None:
    rows = {(row["method"], row["images"]): row for row in results("baseline-costs")["rows"]}
    shown = table_after("What each costs as the training images grow")
    assert [method for method, *_ in shown] == list(dict.fromkeys(method for method, _ in rows))
    for method, *cost in shown:
        for images, cell in zip((1000, 4500, 30_000, 100_000), cost, strict=True):
            row = rows[method, images]
            if "fit_seconds" in row:
                kept = f"{row['kept_bytes'] / 1e6:.0f} MB"
                assert cell == f"{row['fit_seconds']:.1f} s, {row['annotate_ms_an_image']:.2f} ms, {kept}"
            else:
                assert cell == f"over {row['given_up_after_seconds']:.0f} s"
