"""The tables of the README and of the results' page say what the committed results say."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

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


#: Results of networks that were trained by a program of their own.
NETWORKS = ("corel5k-vgg16", "corel5k-alexnet")


def comparison_rows() -> list[dict[str, Any]]:
    """The comparison's rows, those of later runs of single systems in place of theirs and marked ``later``."""

    def system(row: dict[str, Any]) -> tuple[str, str]:
        return row["method"], row["paper_row"] or row["features"].partition(",")[0]

    rows = {system(row): row for row in results("corel5k-comparison")["rows"]}
    for name in ("corel5k-comparison-conv5_3", "corel5k-comparison-fixed-network", "corel5k-comparison-layers"):
        later = {system(row): {**row, "later": True} for row in results(name)["rows"]}
        assert set(later) <= set(rows)
        rows.update(later)
    for name in NETWORKS:
        [row] = results(name)["rows"]
        [own] = [key for key in rows if key[0] == row["method"]]
        assert "missing" in rows[own]
        rows[own] = {**{part: rows[own][part] for part in ("features", "paper_row")}, **row, "later": True}
    return list(rows.values())


def spread(runs: dict[str, Any]) -> list[str]:
    """P, R, F1 and N+ over seeds, mean ± standard deviation, of ``{"precision": {"mean", "std"}, …}``."""
    shares = [f"{100 * runs[name]['mean']:.2f} ± {100 * runs[name]['std']:.2f}" for name in ("precision", "recall", "f1")]
    return [*shares, f"{runs['n_plus']['mean']:.1f} ± {runs['n_plus']['std']:.1f}"]


def test_the_table_of_other_trunks() -> None:
    rows = {
        ("paper" if row["config"]["head"] == "mean" else "best", row["config"]["trunk"], row["config"]["layer"]): row["summary"]
        for name in ("corel5k-efficientnet-lite", "corel5k-efficientnet-lite-best")
        for row in results(name)["rows"]
    }
    rows["paper", "vgg16", "conv5_2"] = results("corel5k-paper-embedded")["summary"]
    best = results("corel5k-best-seeds")
    rows["best", "vgg16", best["config"]["layer"]] = best["summary"]
    shown = table_after("## Measured", (ROOT / "docs" / "trunks.md").read_text())
    found = {(preset.strip("`"), trunk.strip("`"), layer): values for preset, trunk, layer, *values in shown}
    assert found == {
        (preset, trunk.removeprefix("timm:"), layer): spread(summary) for (preset, trunk, layer), summary in rows.items()
    }


def test_the_times_of_other_trunks() -> None:
    shown = table_after("has the same features", (ROOT / "docs" / "trunks.md").read_text())
    for row, (network, layer, *numbers) in zip(results("timm-time")["rows"], shown, strict=True):
        assert (f"timm:{network.strip('`')}", layer) == (row["trunk"], row["layer"])
        taken = row["milliseconds"]
        assert numbers == [f"{taken['trunk']:.1f}", f"{taken['bare']:.1f}", f"{row['ratio']:.2f}"]


def test_the_comparison_holds_every_row_and_its_numbers() -> None:
    result = results("corel5k-comparison")
    shown = table_after("Every system of the paper's tables")
    for (method, features, paper, ours, cost), row in zip(shown, comparison_rows(), strict=True):
        assert ("square root" in features) == ("square root" in row["features"])
        assert method == row["method"]
        printed = result["paper"].get(row["paper_row"])
        assert paper == ("" if printed is None else " / ".join([*(f"{value:.2f}" for value in printed[:3]), str(printed[3])]))
        assert ours == ("not run" if "missing" in row else measures(row["scores"]))
        unknown = "missing" in row or "later" in row  # later runs shared the machine
        expected = "" if unknown else f"{row['seconds']['fit']:.1f} s, {1e3 * row['seconds']['annotate_an_image']:.2f} ms"
        assert cost == expected


def test_words_at_their_thresholds() -> None:
    summary = {
        way: {name: of["mean"] for name, of in found.items()} for way, found in results("corel5k-thresholds")["summary"].items()
    }
    for (_, *shown), found in zip(table_after("## Thresholds in place"), summary.values(), strict=True):
        shares = [f"{100 * found[name]:.2f}" for name in ("precision", "recall", "f1")]
        assert shown == [*shares, f"{found['n_plus']:.0f}", f"{found.get('words_an_image', 5):.1f}"]


def test_the_constant_answer() -> None:
    constant, text = results("corel5k-collapse")["constant"], " ".join(RESULTS.split())
    assert f"({', '.join(constant['words'])}), given to every test image, score {measures(constant['scores'])} " in text


def test_the_network_that_collapses() -> None:
    found = results("corel5k-collapse-finetune")
    network, text = found["network"], " ".join(RESULTS.split())
    assert sorted(network["most_given"]["words"]) == sorted(found["constant"]["words"])
    assert measures(network["scores"]) == measures(found["constant"]["scores"]) and network["spread_over_images"] == 0
    rate, images = found["settings"]["learning_rate"], network["most_given"]["images"]
    assert found["settings"]["optimizer"] == "sgd" and f"the usual learning rate {rate}, after one epoch: " in text
    assert f"{network['answers']} answer for {images} images" in text
    assert len(found["history"]) == 1 and f"{100 * network['silent_units']:.0f}% of the units of fc7" in text


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


def test_the_short_table() -> None:
    """F1 and N+ as the literature counts them, over seeds; and the F1 of an image, on two sets of images."""
    (_, printed, *nothing), *shown = table_after("## Results", README)
    *_, f1, n_plus = results("corel5k-comparison")["paper"]["conv5_2 + VLAD + positive mean"]
    assert printed == f"{f1:.2f} / {n_plus}" and nothing == ["", ""]
    sets = results("generality")["sets"]
    files = {"`paper`": "corel5k-paper-embedded", "`best`": "corel5k-best-seeds", "`kernel`": "corel5k-kernel-seeds"}
    assert [preset for preset, *_ in shown] == list(files)
    for preset, over_seeds, *of_images in shown:
        assert over_seeds == " / ".join(spread(results(files[preset])["summary"])[2:])
        for measured, name in zip(of_images, ("corel5k", "scenes2000"), strict=True):
            [row] = [row for row in sets[name] if row["preset"] == preset.strip("`") and row["objective"] == "images"]
            assert measured == f"{100 * row['image_f1']:.1f}"
    of_words = [row for row in sets["corel5k"] if row["objective"] == "images" and row["preset"] != "paper"]
    by_default = [f"{100 * row['f1']:.1f} / {row['n_plus']}" for row in of_words]
    assert "would be {} for `best` and {} for `kernel`".format(*by_default) in README


def test_the_paper_s_experiment() -> None:
    *_, embedded, original, in_int8, best, best_in_int8, kernel, kernel_in_int8, blocks = table_after("## The paper's experiment")
    assert embedded[1:] == spread(results("corel5k-paper-embedded")["summary"])
    assert original[1:] == spread(results("corel5k-paper-oxford-float16")["summary"])
    assert in_int8[1:] == spread(results("corel5k-paper-int8")["summary"])
    assert best[1:] == spread(results("corel5k-best-seeds")["summary"])
    assert best_in_int8[1:] == spread(results("corel5k-best-int8")["summary"])
    both = f"in int8 `best` has {' / '.join(best_in_int8[3:])}, `kernel` {' / '.join(kernel_in_int8[3:])})"
    assert both in README
    assert kernel[1:] == spread(results("corel5k-kernel-seeds")["summary"])
    assert kernel_in_int8[1:] == spread(results("corel5k-kernel-int8")["summary"])
    assert blocks[1:] == spread(results("corel5k-kernel-blocks-seeds")["summary"])
    assert f"`kernel` has {' / '.join(blocks[3:])}." in README


def test_every_preset_for_every_objective() -> None:
    rows = [(name, row) for name, of in results("generality")["sets"].items() for row in of]
    name = ""
    for (shown_name, *shown), (of, row) in zip(table_after("## For people, and for the protocol"), rows, strict=True):
        name = shown_name or name
        f1, image_f1 = (f"{100 * row[each]:.1f} ± {100 * row[f'{each}_error']:.1f}" for each in ("f1", "image_f1"))
        errors, paper = (row["calibration_error"], row["calibration_error_by_chance"]), row["preset"] == "paper"
        assert name == of and shown == [
            f"`{row['preset']}`", "" if paper else row["objective"], f1, str(row["n_plus"]), image_f1,
            f"{100 * row['mean_average_precision']:.1f}", f"{row['words_an_image']:.1f}",
            *("" if error is None else f"{100 * error:.1f}" for error in errors),
        ]  # fmt: skip


def fastest_trunks(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Images a second of each variant, at the batch that suits it best."""
    found: dict[str, float] = {}
    for row in rows:
        if row["stage"] == "trunk":
            found[row["variant"]] = max(found.get(row["variant"], 0.0), row["per_second"])
    return found


def test_the_speed_is_that_measured() -> None:
    rows = results("cpu-epyc-2-cores")["rows"]
    trunk, old = fastest_trunks(rows), fastest_trunks(results("cpu-avx2-2-cores")["rows"])
    names = ("gpuannot", "eager float32 NCHW", "eager bfloat16 channels-last", "compiled bfloat16 channels-last")
    ours, plain, best, compiled = (f"{trunk[name]:.1f}" for name in names)
    expected = f"at {ours} images/s (torch: {plain} as it comes, {best} in bfloat16 and channels-last, {compiled} compiled)"
    assert expected in " ".join(README.split())
    in_int8 = max(row["per_second"] for row in results("cpu-trunk-int8")["rows"] if row["variant"] == "gpuannot int8")
    assert f"in int8, the default on CPUs that multiply it, at {in_int8:.1f} (" in " ".join(README.split())
    of_old = [f"{old[name]:.1f}" for name in ("gpuannot", "eager float32 NCHW", "compiled float32 channels-last")]
    assert "in float32 at {} (torch: {} as it comes, {} compiled)".format(*of_old) in " ".join(README.split())
    growth = [1e6 / row["per_second"] for row in rows if row["stage"] == "scaling_images"]
    assert f"{min(growth):.0f} to {max(growth):.0f} µs an image" in README


def test_planted_errors_are_found_as_measured() -> None:
    """Precision and recall of an audit over plantings, and its seconds."""
    page, result = (ROOT / "docs" / "audit.md").read_text(), results("audit-planted")
    assert f"The {result['images']:,} training images of Corel5k with {result['labels']:,} labels" in page
    runs: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in result["rows"]:
        runs.setdefault((row["head"], row["ranking"], row["kind"]), []).append(row)
    head, seconds = "", {}
    for shown_head, ranking, wrong, missing, time in table_after("## How well", page):
        head = shown_head or head
        for cell, kind in ((wrong, "wrong"), (missing, "missing")):
            of = runs.pop((head, ranking, kind))
            assert f"{of[0]['planted']:,}" in page and len(of) == 3
            values = [[100 * row[name] for row in of] for name in ("precision_at_100", "recall")]
            assert cell == " / ".join(f"{statistics.mean(value):.1f} ± {statistics.stdev(value):.1f}" for value in values)
        if time:
            seconds[head, ranking] = statistics.median(row["seconds"] for row in of)
            assert time == f"{seconds[head, ranking]:.1f} s"
    for head in ("ridge", "kernel"):
        assert 6.5 < seconds[head, "5 refits, margin"] / seconds[head, "leave-one-out, closed form"] < 10.5  # a seventh to a tenth
        for kind in ("wrong", "missing"):
            del runs[head, "all that the audit lists", kind]
    assert not runs


def test_the_steps_are_those_measured() -> None:
    rows = results("corel5k-best")["rows"]
    shown = table_after("## From paper to best")
    for (step, f1, n_plus, dimension, fit, image), row in zip(shown, rows, strict=True):
        values = {name: [run[name] for run in row["runs"]] for name in ("f1", "n_plus", "dimension", "fit_seconds", "annotate_ms")}
        assert step == row["step"]
        assert f1 == f"{100 * statistics.mean(values['f1']):.2f} ± {100 * statistics.stdev(values['f1']):.2f}"
        assert n_plus == f"{statistics.mean(values['n_plus']):.1f} ± {statistics.stdev(values['n_plus']):.1f}"
        assert {dimension} == {str(value) for value in values["dimension"]}
        assert fit == f"{statistics.median(values['fit_seconds']):.0f} s"
        assert image == f"{statistics.median(values['annotate_ms']):.2f} ms"


def test_the_other_encodings_are_those_measured() -> None:
    sets = [results(f"{name}-encodings") for name in ("corel5k", "scenes2000")]
    assert [found["measure"] for found in sets] == ["f1", "image_f1"]
    shown = table_after("## Other encodings")
    for number, (row, *rows) in enumerate(zip(shown, *(found["rows"] for found in sets), strict=True)):
        assert {row[0]} == {of["variant"] for of in rows}
        for (f1, gain), of, measure in zip(((row[1], row[3]), row[4:]), rows, ("f1", "image_f1"), strict=True):
            assert f1 == f"{100 * statistics.mean(split[measure] for split in of['splits']):.2f}"
            assert gain == (f"{statistics.mean(of['gain']):+.2f} ± {of['gain_error']:.2f}" if number else "")
        assert row[2] == f"{statistics.mean(split['n_plus'] for split in rows[0]['splits']):.1f}"


def test_how_true_confidences_are_on_images_held_out() -> None:
    (row,) = results("scenes2000-calibration")["rows"]
    off, by_chance = (f"{100 * row[name]:.1f}" for name in ("calibration_error", "error_by_chance"))
    assert len(row["splits"]) == 6 and f"are {off} points off, and true ones would be {by_chance}:\n" in RESULTS


def test_what_the_head_kernel_costs() -> None:
    for shown, row in zip(table_after("## What the head kernel costs"), results("kernel-costs")["rows"], strict=True):
        landmarks = "" if row["landmarks"] >= row["images"] else f"{row['landmarks']:,}"
        assert shown[:4] == [f"{row['images']:,}", landmarks, f"{row['fit_seconds']:.1f} s", f"{row['peak_bytes'] / 1e6:,.0f} MB"]
        assert shown[4:6] == [f"{row['annotate_microseconds'] / 1e3:.2f} ms", f"{row['new_word_seconds']:.2f} s"]
        assert shown[6:] == [f"{row[name] / 1e6:.0f} MB" for name in ("annotating_bytes", "learning_bytes")]


def test_what_an_image_costs_by_kernel() -> None:
    small, large = (f"{row['annotate_microseconds'] / 1e3:.1f} ms" for row in results("kernel-costs")["rows"][:2])
    assert f"{small} after 4,500 training images of d = 1,024, {large} after 20,000" in " ".join(README.split())


def test_the_blocks_are_those_measured() -> None:
    sets = [results(f"{name}-blocks") for name in ("corel5k", "scenes2000")]
    assert [(found["measure"], len(found["rows"][0]["splits"])) for found in sets] == [("f1", 4), ("image_f1", 10)]
    shown = table_after("## Blocks beside VLAD")
    for number, (row, *rows) in enumerate(zip(shown, *(found["rows"] for found in sets), strict=True)):
        assert {f"{row[0]} beside it" if number else "kernel"} == {of["variant"] for of in rows} or row[0] == "nothing: kernel"
        for (f1, gain), of, measure in zip(((row[1], row[3]), row[4:]), rows, ("f1", "image_f1"), strict=True):
            assert f1 == f"{100 * statistics.mean(split[measure] for split in of['splits']):.2f}"
            assert gain == (f"{statistics.mean(of['gain']):+.2f} ± {of['gain_error']:.2f}" if number else "")
        assert row[2] == f"{statistics.mean(split['n_plus'] for split in rows[0]['splits']):.1f}"


def test_what_hold_outs_tell_of_the_test_images() -> None:
    found = results("corel5k-holdouts")
    for shown, row in zip(table_after("## What hold-outs tell"), found["rows"], strict=True):
        cells_of = ((f"{of['f1']:.2f}", f"{of['gain']:+.2f} ± {of['error']:.2f}") for of in (row["holdouts"], row["test"]))
        assert shown == [row["step"], *(cell for pair in cells_of for cell in pair)]
    assert f"correlate at {found['correlation']:.2f}" in RESULTS.replace("\n", " ")


def test_the_memory_of_a_fit_and_the_size_of_its_model() -> None:
    paper, best, kernel = results("corel5k-fit-memory-presets")["rows"]
    assert [row["preset"] for row in (paper, best, kernel)] == ["paper", "best", "kernel"]
    shown = " ".join(README.split())
    peaks = [f"{row['peak_bytes'] / 1e6:,.0f} MB (`{row['preset']}`)" for row in (paper, best, kernel)]
    assert f"{paper['images']:,} images, whose features" in shown and f"peaks at {peaks[0]}, {peaks[1]} and {peaks[2]}" in shown
    whole, small = ([f"{row[name] / 1e6:.0f}" for row in rows] for name, rows in
                    (("file_bytes", (paper, best, kernel)), ("annotate_only_bytes", (best, kernel))))  # fmt: skip
    assert f"the models take {whole[0]}, {whole[1]} and {whole[2]} MB" in shown
    assert f"the latter two {small[0]} and {small[1]} MB" in shown
