"""Tables of results for the documentation: ``python -m benchmarks.tables`` rewrites them in docs/PERFORMANCE.md.

Each table stands between ``<!-- table NAME STAGE -->`` and ``<!-- end -->``, where NAME is the file name, without ``.json``, of a
result in benchmarks/results and STAGE one of its stages, ``environment`` or ``limits``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, parser_of
from benchmarks.compare import read
from benchmarks.rows import HEADINGS, case_text, cells, rate_text

PAGE = Path(__file__).parent.parent / "docs" / "PERFORMANCE.md"
_MARKER = re.compile(r"(<!-- table (\S+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(result: dict[str, Any], stage: str) -> str:
    """The rows of one stage, or what the run says of itself, as Markdown.

    Raises:
        ValueError: the result has no such stage.
    """
    if stage == "environment":
        return _environment(result)
    if stage == "limits":
        return _limits(result)
    rows = [row for row in result["rows"] if row["stage"] == stage]
    if not rows:
        known = ", ".join(dict.fromkeys(row["stage"] for row in result["rows"]))
        raise ValueError(f"no stage {stage!r} in the result; it has {known}")
    several = [heading for heading in range(len(HEADINGS)) if heading < 3 or any(_cell(row, heading) for row in rows)]
    lines = [_line(HEADINGS[heading] for heading in several), _line("---" if not heading else "---:" for heading in several)]
    group = None
    for row in rows:
        if (case := case_text(row)) != group:
            lines.append(_line([f"**{case}**", *[""] * (len(several) - 1)]))
            group = case
        lines.append(_line(_cell(row, heading) for heading in several))
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any], heading: int) -> str:
    found = [row["variant"], *cells(row)]
    return found[heading].replace("|", "\\|") if heading < len(found) else ""


def _line(parts: Any) -> str:
    return "| " + " | ".join(parts) + " |"


def _environment(result: dict[str, Any]) -> str:
    found = result["environment"]
    processor, versions = found["processor"], found["versions"]
    pools = {pool["of"]: pool for pool in found["libraries"]["threadpools"] if pool["internal_api"] == "openblas"}
    blas = "; ".join(f"{name} {pool['version']} for {pool.get('architecture', 'unknown')}" for name, pool in sorted(pools.items()))
    variables = ", ".join(f"{name}={value}" for name, value in found["libraries"]["variables"].items()) or "none"
    where = found["gpus"][0]["name"] if result["setting"]["device"].startswith("cuda") else processor["model"]
    lines = [
        f"* {where}, {processor['cores']} cores, bfloat16 instructions: {'yes' if processor['bfloat16'] else 'no'}",
        f"* {found['date'][:10]}, commit {found['commit']}, `{result['command']}`",
        f"* {', '.join(f'{name} {version}' for name, version in versions.items())}",
        f"* OpenBLAS: {blas or 'none'}; variables that set it: {variables}",
    ]
    if "seconds" in result:
        lines.append(f"* {result['seconds']:.0f} s in all, {result['setting']['repeats']} timings of each variant")
    return "\n".join(lines) + "\n"


def _limits(result: dict[str, Any]) -> str:
    limits = result["limits"]
    lines = [_line(["limit of this run", "measured"]), _line(["---", "---:"])]
    lines.append(_line(["copy, read + written", f"{limits['copy_bytes_per_second'] / 1e9:.1f} GB/s"]))
    lines += [_line([f"{name} matrix product", rate_text(name, rate)]) for name, rate in limits["flop_per_second"].items()]
    return "\n".join(lines) + "\n"


def renew(page: str, folder: Path = RESULTS) -> str:
    """The page with every marked table made anew from the results in ``folder``.

    Raises:
        SystemExit: a result is not there. ValueError: it has no such stage.
    """
    return _MARKER.sub(lambda found: found[1] + table(read(folder / f"{found[2]}.json"), found[3]) + found[4], page)


def main() -> None:
    parser = parser_of("benchmarks.tables", __doc__, writes=False)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a table differs from its result")
    arguments = parser.parse_args()
    page = PAGE.read_text("utf-8")
    renewed = renew(page)
    if arguments.check:
        sys.exit(0 if renewed == page else f"{PAGE} differs from its results; python -m benchmarks.tables renews it")
    PAGE.write_text(renewed, "utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
