"""The benchmarks' harness: timing, rows, results, comparison, tables and charts; and that the cheap benchmarks run."""

from __future__ import annotations

import copy
import importlib.util
import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import benchmarks.__main__ as run_all
from benchmarks import bench_descriptors, bench_nearest_center, bench_vlad, bench_words, common, plot, tables
from benchmarks.common import NO_DEVICE, alternate, result, spread, write_result
from benchmarks.compare import compare, read
from benchmarks.limits import Limits, measure_limits
from benchmarks.peers import Missing, compiled, peer
from benchmarks.rows import OURS, Row, Setting, content, equal_share, measure_rows, print_rows, relative_error
from benchmarks.stages import stages
from gpuannot.method import int8

jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema, which the test extra brings")

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "benchmarks" / "schema.json").read_text())
COMMITTED = [
    path for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")) if "gpuannot.benchmark/" in path.read_text()[:100]
]
CPU = torch.device("cpu")
QUICK = Setting(CPU, Limits(1e10, {"float32": 1e11, "float64": 5e10}), quick=True, repeats=2)


def row(stage: str = "vlad", variant: str = OURS, median: float = 1.0, spread: float = 0.02, **case: int) -> Row:
    seconds = {"median": median, "q1": median * (1 - spread), "q3": median * (1 + spread), "runs": 7}
    fixed = {"device": "cpu", "items": 10, "unit": "images", "per_second": 10 / median}
    return {"stage": stage, "case": case or {"images": 10}, "variant": variant, "seconds": seconds, **fixed}


def valid(rows: list[Row], setting: Setting = QUICK) -> dict[str, Any]:
    """A result of these rows that follows the schema, whatever is uncommitted here."""
    found = result("python -m benchmarks", content(setting, rows))
    found["environment"]["commit"] = "0123456789ab"
    found = json.loads(json.dumps(found))
    jsonschema.validate(found, SCHEMA)
    return found


def test_spread() -> None:
    assert spread([5.0, 1.0, 4.0, 2.0, 3.0]) == {"median": 3.0, "q1": 2.0, "q3": 4.0, "runs": 5}
    assert spread([2.0]) == {"median": 2.0, "q1": 2.0, "q3": 2.0, "runs": 1}
    assert spread([0.0, 1.0])["median"] == 0.5


def test_variants_take_turns_after_a_warm_up() -> None:
    calls: list[str] = []
    seconds = alternate({name: lambda name=name: calls.append(name) for name in "ab"}, repeats=2, warm_up=1, numbers={"b": 3})  # type: ignore[misc]
    assert "".join(calls) == "ab" + "aabbbb" * 2  # each once more after its rest
    assert [len(values) for values in seconds.values()] == [2, 2] and min(seconds["a"] + seconds["b"]) > 0


def test_seconds_are_those_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "_seconds", lambda call, number: 8.0)
    assert alternate({"a": int, "b": int}, repeats=1, numbers={"b": 4}) == {"a": [8.0], "b": [2.0]}
    monkeypatch.undo()
    (taken,) = alternate({"sleep": lambda: time.sleep(0.02)}, repeats=1)["sleep"]
    assert taken >= 0.02


def test_a_long_call_is_not_made_again_to_be_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "_SECONDS_NEED_NO_WARMING", 0.01)
    calls: list[float] = []
    alternate({"sleep": lambda: calls.append(time.sleep(0.02))}, repeats=3, warm_up=0)  # type: ignore[func-returns-value]
    assert len(calls) == 3


def test_peak_memory_is_what_the_call_held() -> None:
    # In a process of its own: this one gives back, while it measures, what other tests have left.
    code = """
import numpy as np
from benchmarks.common import with_peak_memory
def hold():
    first = np.ones(8 << 20)  # 64 MB
    second = first + 1
    return int(second[0])
print(*with_peak_memory(hold), with_peak_memory(lambda: None)[1])
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    answer, peak, nothing = ran.stdout.split()
    if peak == "None":
        pytest.skip("the peak of the resident memory cannot be reset here")
    assert answer == "2" and 110e6 < float(peak) < 200e6 and float(nothing) < 30e6


def test_shares_of_a_limit_by_hand() -> None:
    limits = Limits(100e9, {"float32": 1e12})
    shares = limits.shares(2.0, moved=50e9, work=1e12, dtype="float32")
    assert shares == {
        "gb_per_second": 25, "share_of_copy": 0.25, "gflop_per_second": 500, "share_of_product": 0.5, "share_of_limit": 0.5
    }  # fmt: skip
    assert limits.shares(1.0, 50e9, 0.1e12, "float32")["share_of_limit"] == 0.5  # memory is what limits it
    assert limits.shares(1.0, 50e9, 1e9, "int8").keys() == {"gb_per_second", "share_of_copy", "gflop_per_second"}  # not measured
    assert limits.shares(1.0, None, None, "float32") == {}


def test_limits_of_this_machine() -> None:
    limits = measure_limits(CPU, quick=True)
    assert limits.copy_bytes_per_second > 1e8
    expected = {"float32", "float64"} | ({"int8"} if int8.supported() else set())
    assert set(limits.flop_per_second) >= expected and min(limits.flop_per_second.values()) > 1e8


def test_rows_of_variants_and_of_a_missing_one() -> None:
    exact = np.arange(6)
    variants = {
        OURS: lambda: exact.copy(),
        "wrong": lambda: np.zeros(6, int),
        "slower": lambda: time.sleep(0.02) or exact.copy(),  # type: ignore[func-returns-value]
        "absent": Missing("not usable here"),
    }
    rows = list(measure_rows(QUICK, "s", {"images": 6}, variants, items=6, agreement=lambda answer: equal_share(answer, exact)))
    valid(rows)
    ours, wrong, slower, absent = rows
    assert ours["agreement"] == {"measure": "share of equal indices", "value": 1.0, "bound": 0.9999, "agrees": True}
    assert wrong["agreement"]["value"] == 1 / 6 and not wrong["agreement"]["agrees"]
    assert slower["seconds"]["median"] >= 0.02 and ours["seconds_to_gpuannot"] == 1
    assert slower["seconds_to_gpuannot"] == pytest.approx(slower["seconds"]["median"] / ours["seconds"]["median"])
    assert ours["per_second"] == pytest.approx(6 / ours["seconds"]["median"])
    assert absent == {"stage": "s", "case": {"images": 6}, "variant": "absent", "device": "cpu", "missing": "not usable here"}


def test_one_repeat_calls_once() -> None:
    calls: list[int] = []
    once = Setting(CPU, QUICK.limits, repeats=1)
    (only,) = measure_rows(once, "s", {"images": 1}, {OURS: lambda: calls.append(1)}, items=1)
    assert len(calls) == 1 and only["seconds"]["runs"] == 1


def test_agreement_with_float64() -> None:
    exact = np.array([3.0, 4.0])
    found = relative_error(torch.tensor([3.0, 4.5], dtype=torch.bfloat16), exact)
    assert found.value == pytest.approx(0.1) and not found.agrees
    assert relative_error(exact + 1e-9, exact, bound=1e-12).value == pytest.approx(np.sqrt(2) * 1e-9 / 5)  # not rounded to float32


def test_peers_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peer("json") is json
    absent = peer("no_such_module", "such-package")
    assert isinstance(absent, Missing) and "pip install such-package" in absent.reason
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert peer("json", gpu=True) == Missing("needs a CUDA device")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "C++ compiler" in compiled(len).reason and isinstance(compiled(len, quick=True), Missing)


@pytest.mark.parametrize("module", [bench_nearest_center, bench_vlad, bench_words, bench_descriptors], ids=lambda m: m.__name__)
def test_cheap_benchmarks_run_without_their_peers(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for absent in ("faiss", "cyvlfeat", "cyvlfeat.vlad"):
        monkeypatch.setitem(sys.modules, absent, None)
    rows = list(module.measure(QUICK))
    valid(rows)
    assert all(row["agreement"]["agrees"] for row in rows if row["variant"] == OURS)
    assert all("not usable here" in row["missing"] for row in rows if "faiss" in row["variant"] or row["variant"] == "cyvlfeat")


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed")
def test_the_peers_answers_are_right() -> None:
    for measure in (bench_nearest_center.measure, bench_vlad.measure):
        assert all(row["agreement"]["agrees"] for row in measure(QUICK) if "seconds" in row)


def test_all_in_one_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(setting: Setting) -> Any:
        yield row()
        raise RuntimeError("out of order")

    monkeypatch.setattr(run_all, "stages", lambda: {"words": bench_words.measure, "broken": broken})
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    old = tmp_path / "old.json"
    old.write_text(json.dumps(valid([row()])))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--quick", "--write", "new", "--compare", str(old)])
    with pytest.raises(SystemExit) as end:
        run_all.main()
    printed = capsys.readouterr().out
    assert end.value.code == 1 and "FAILED: broken: RuntimeError: out of order" in printed and "1 rows in both" in printed
    found = json.loads((tmp_path / "new.json").read_text())
    assert found["command"] == "python -m benchmarks --quick --write new --compare PATH" and set(found["failed"]) == {"broken"}
    assert {row["stage"] for row in found["rows"]} == {"words", "vlad"} and found["setting"]["quick"]
    valid(found["rows"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--device", "cuda"])
    with pytest.raises(SystemExit) as end:
        run_all.main()
    assert end.value.code == NO_DEVICE and "nothing was measured" in capsys.readouterr().out


def test_every_stage_has_a_benchmark() -> None:
    assert list(stages()) == [
        "trunk", "descriptors", "codebook", "nearest_center", "vlad", "words", "ranking", "decode", "end_to_end", "folder",
        "scaling",
    ]  # fmt: skip


def test_compare() -> None:
    old = [row(median=1.0), row(variant="peer", median=1.0), row("words", median=1.0), row("trunk", median=1.0, batch=4)]
    new = [
        row(median=0.8),
        row(variant="peer", median=1.5),
        row("words", median=1.3, spread=0.5),
        row("trunk", median=1.0, batch=8),
    ]
    changes = compare(old, [*new, {"stage": "vlad", "case": {"images": 10}, "variant": "gone", "device": "cpu", "missing": "why"}])
    assert [(change.ratio, change.verdict) for change in changes] == [(0.8, "faster"), (1.5, "slower"), (1.3, "")]
    assert changes[0].name == "vlad, images 10: gpuannot"


@pytest.mark.parametrize("text", ["", "{}", '{"rows": [{"method": "JEC"}]}', "[1]"])
def test_a_file_that_is_no_result(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(SystemExit, match=r"other\.json' is not a result of python -m benchmarks"):
        read(path)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_results_follow_the_schema(path: Path) -> None:
    jsonschema.validate(json.loads(path.read_text()), SCHEMA)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds": {"median": 1.0}}, "is a required property"),
        ({"missing": "both"}, "is valid under each of"),
        ({"per_second": 0}, "0 is less than or equal"),
        ({"speed": 3}, "Additional properties are not allowed"),
        ({"device": "tpu"}, "'tpu' is not one of"),
        ({"case": {}}, "non-empty|does not have enough properties"),
    ],
)
def test_the_schema_refuses(change: dict[str, Any], message: str) -> None:
    found = copy.deepcopy(valid([row()]))
    found["rows"][0].update(change)
    with pytest.raises(jsonschema.ValidationError, match=message):
        jsonschema.validate(found, SCHEMA)


def test_written_results_are_complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    found = json.loads(write_result("name", "python -m benchmarks.bench_decode", {"rows": []}).read_text())
    found["environment"]["commit"] = "0123456789ab"
    jsonschema.validate(found, SCHEMA)
    assert found["schema"] == "gpuannot.benchmark/1" and found["environment"]["libraries"]["threadpools"]


RESULT = valid(
    [
        *(
            row("tensors", variant, median=batch / speed, batch=batch)
            for variant, speed in ((OURS, 14), ("plain", 3))
            for batch in (1, 4)
        ),
        *(row("scaling_images", median=images / 1e4, images=images) for images in (100, 1000)),
        *(row("scaling_words", median=words / 1e6, words=words) for words in (100, 1000)),
        *(row("time_by_stage", variant, median=0.1, batch=1) for variant in ("trunk", "ranking")),
        row("vlad")
        | {"share_of_limit": 0.4, "agreement": {"measure": "relative error", "value": 0.1, "bound": 0.01, "agrees": False}},
        {"stage": "vlad", "case": {"images": 10}, "variant": "a|b", "device": "cpu", "missing": "not usable here"},
    ]
)


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_terminal_shows_every_figure(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    reason = "not usable here: No module named 'cyvlfeat'; pip install cyvlfeat (it compiles against libvlfeat-dev) " + "x" * width
    absent = [{"stage": "vlad", "case": {"images": 10}, "variant": name, "device": "cpu", "missing": reason} for name in "ab"]
    name = "torch addmm + argmin, one-hot product, compiled"
    found = {"measure": "relative error", "value": 5.1e-8, "bound": 1e-5, "agrees": True}
    full = {"share_of_limit": 0.19, "seconds_to_gpuannot": 1.25, "peak_bytes": 1234e6, "agreement": found}
    monkeypatch.setattr("benchmarks.rows.console", lambda: Console(width=width, highlight=False, markup=False))
    print_rows([row() | full, absent[0], row(variant=name, median=0.00628) | full, absent[1]], "vlad")
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= width and "…" not in printed
    words = printed.split()
    for figure in ("10", "1,592", "1", "6.28", "ms", "4%", "1.25", "19%", "1,234", "5.1e-08", *name.split()):
        assert figure in words, figure
    assert " ".join(words).count("not run: a; b: not usable here") == 1 and words.count("'cyvlfeat';") == 1


def test_charts(tmp_path: Path) -> None:
    first, second = (plot.charts(RESULT, tmp_path / name) for name in "ab")
    assert [path.name for path in first] == [f"cpu-{name}.svg" for name in plot.DRAWN]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    for path in first:
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert "Throughput" in first[1].read_text() and "plain" in first[1].read_text()
    assert plot.charts({**RESULT, "rows": []}, tmp_path / "none") == []


def test_tables() -> None:
    text = tables.table(RESULT, "vlad").splitlines()
    assert text[0] == "|  | a second | median | IQR | of limit | against float64 |"
    assert text[2:] == [
        "| **images 10** |  |  |  |  |  |",
        "| gpuannot | 10 images | 1 s | 4% | 40% | 0.1: no |",
        "| a\\|b | not run: not usable here |  |  |  |  |",
    ]
    assert "| float32 matrix product | 100 GFLOP/s |" in tables.table(RESULT, "limits")
    assert "commit 0123456789ab" in tables.table(RESULT, "environment")
    with pytest.raises(ValueError, match="no stage 'trunk' in the result; it has tensors"):
        tables.table(RESULT, "trunk")


def test_marked_tables_are_made_anew(tmp_path: Path) -> None:
    (tmp_path / "name.json").write_text(json.dumps(RESULT))
    page = "before\n<!-- table name limits -->\nold\n<!-- end -->\nafter\n"
    renewed = tables.renew(page, tmp_path)
    assert renewed.startswith("before\n<!-- table name limits -->\n| limit") and renewed.endswith("|\n<!-- end -->\nafter\n")
    assert tables.renew(renewed, tmp_path) == renewed and "old" not in renewed


def test_the_pages_tables_are_their_results() -> None:
    page = tables.PAGE.read_text("utf-8")
    assert tables.renew(page) == page
