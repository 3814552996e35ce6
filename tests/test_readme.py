"""The tables of the README and of the results' page say what the committed results say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "docs" / "results.md").read_text()


def results(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def cells(line: str) -> list[str]:
    return [cell.strip().strip("*") for cell in line.strip().strip("|").split("|")]


def table_after(text: str, page: str = RESULTS) -> list[list[str]]:
    """The rows of the first table after ``text``, without its heading."""
    lines = page[page.index(text) :].splitlines()
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


def test_the_short_table_is_part_of_the_long_one() -> None:
    result = results("corel5k-comparison")
    rows = {row["paper_row"]: row for row in result["rows"] if row["paper_row"] and "missing" not in row}
    *shown, (_, paper, ours) = table_after("## Results", README)
    chosen = ("MBRM, hand-made features", "JEC, several hand-made features", "JEC, VGG-16 end-to-end features")
    for (_, printed, measured), name in zip(shown, (*chosen, "2PKNN, VGG-16 end-to-end features"), strict=True):
        *shares, n_plus = result["paper"][name]
        assert printed == " / ".join([*(f"{value:.2f}" for value in shares), str(n_plus)])
        assert measured == measures(rows[name]["scores"])
    *shares, n_plus = result["paper"]["conv5_2 + VLAD + positive mean"]
    assert paper == " / ".join([*(f"{value:.2f}" for value in shares), str(n_plus)])
    summary = results("corel5k-paper-embedded")["summary"]
    spread = [f"{100 * summary[name]['mean']:.2f} ± {100 * summary[name]['std']:.2f}" for name in ("precision", "recall", "f1")]
    assert ours == " / ".join([*spread, f"{summary['n_plus']['mean']:.1f} ± {summary['n_plus']['std']:.1f}"])


@pytest.mark.parametrize(("row", "name"), [(4, "corel5k-paper-embedded"), (5, "corel5k-paper-oxford-float16")])
def test_the_paper_s_experiment(row: int, name: str) -> None:
    shown = table_after("## The paper's experiment")[row]
    summary = results(name)["summary"]
    expected = [f"{100 * summary[key]['mean']:.2f} ± {100 * summary[key]['std']:.2f}" for key in ("precision", "recall", "f1")]
    assert shown[1:] == [*expected, f"{summary['n_plus']['mean']:.1f} ± {summary['n_plus']['std']:.1f}"]


def test_the_speed_is_that_measured() -> None:
    best: dict[str, float] = {}
    for row in results("cpu-trunk-epyc-2-cores")["rows"]:
        best[row["variant"]] = max(best.get(row["variant"], 0.0), row["images_per_second"])
    variants = {
        "torch, float32": "eager float32 NCHW",
        "torch, float32, channels-last": "eager float32 channels-last",
        "torch, bfloat16, channels-last": "eager bfloat16 channels-last",
        "gpuannot, float32": "gpuannot float32",
        "gpuannot, bfloat16": "gpuannot bfloat16",
    }
    shown = table_after("## Speed", README)
    assert dict(shown) == {name: f"{best[variant]:.1f}" for name, variant in variants.items()}
