"""All benchmarks in one run: ``python -m benchmarks``, under 20 minutes on 2 cores; under 2 with ``--quick``, at small sizes."""

from __future__ import annotations

import sys
import time
import traceback
from pathlib import Path

from benchmarks.common import keep_if_asked, parser_of, write_if_asked
from benchmarks.compare import compare, print_comparison, read
from benchmarks.rows import Row, add_arguments, content, print_rows, rate_text, setting_of
from benchmarks.stages import stages


def main() -> None:
    measures = stages()
    parser = parser_of("benchmarks", __doc__)
    add_arguments(parser)
    parser.add_argument("--only", nargs="+", choices=measures, metavar="NAME", help=f"of {', '.join(measures)}")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="print what changed since an earlier result")
    arguments = parser.parse_args()
    old = read(arguments.compare) if arguments.compare else None  # before the work, as it may be no result
    start = time.perf_counter()
    setting = setting_of(arguments)
    rows: list[Row] = []
    seconds: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name in arguments.only or measures:
        began = time.perf_counter()
        print(f"{name} …", file=sys.stderr, flush=True)
        found: list[Row] = []
        try:
            for row in measures[name](setting):
                found.append(row)
                keep_if_asked(parser, arguments, content(setting, [*rows, *found]))
        except Exception as error:  # one benchmark that fails must not lose the others' hour
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {error}"
        seconds[name] = round(time.perf_counter() - began, 1)
        rows += found
        print_rows(found, f"{name} on {setting.device}, {seconds[name]:.0f} s")
    total = time.perf_counter() - start
    print(f"{total:.0f} s in all; limits: copy {setting.limits.copy_bytes_per_second / 1e9:.1f} GB/s, products ", end="")
    print(", ".join(f"{name} {rate_text(name, rate)}" for name, rate in setting.limits.flop_per_second.items()))
    if old is not None:
        print_comparison(compare(old["rows"], rows))
    more = {"seconds_by_benchmark": seconds, "seconds": round(total, 1), "failed": failed}
    write_if_asked(parser, arguments, content(setting, rows, **more))
    for name, reason in failed.items():
        print(f"FAILED: {name}: {reason}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
