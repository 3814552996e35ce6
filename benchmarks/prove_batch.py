"""What batch annotation promises, at size: ``python -m benchmarks.prove_batch --images 20000 --hostile 500 --kills 25``.

Draws JPEGs, hides bad files among them and annotates the folder with a small trunk, in processes of their own:

* every file has a row or a ledger entry, and exactly the bad ones have the latter;
* peak memory at all images against a tenth of them;
* killed by SIGKILL at random moments and resumed each time, the output has the same bytes as the undisturbed run.

Stops with an error at the first promise that does not hold; prints what was verified.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.common import jpeg, parser_of, write_if_asked
from gpuannot import Annotator
from gpuannot.datasets.label_files import load_labelled_images
from gpuannot.datasets.scenes import write_scenes

SETTINGS: dict[str, Any] = {"layer": "pool1", "input_size": 32, "n_components": 8, "n_centers": 4}
MEMORY_BOUND = 1.10


def main() -> None:
    parser = parser_of("benchmarks.prove_batch", __doc__)
    parser.add_argument("--images", type=int, default=20_000, help="good images (default: %(default)s)")
    parser.add_argument("--hostile", type=int, default=500, help="bad files among them (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=25, help="runs to kill (default: %(default)s)")
    parser.add_argument("--part-size", type=int, default=512, help="inputs of a part (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and places (default: %(default)s)")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="gpuannot-prove-") as name:
        folder = Path(name)
        model, scenes = small_model(folder, arguments.seed)
        few, many = folder / "few", folder / "many"
        draw(scenes, few, arguments.images // 10, arguments.hostile // 10, chance)
        bad = draw(scenes, many, arguments.images, arguments.hostile, chance)
        print(f"drawn: {arguments.images} JPEGs and {len(bad)} bad files", flush=True)

        results = {}
        for source in (few, many):
            start = time.perf_counter()
            code = annotate(model, source, folder / f"of {source.name}", arguments.part_size).wait()
            check(code == 1, f"exit code 1 where some inputs fail, got {code}")
            summary = json.loads((folder / f"of {source.name}" / "_summary.json").read_text())
            results[source.name] = {**summary, "wall_seconds": time.perf_counter() - start}
        check_accounts(many, folder / "of many", bad)
        ratio = results["many"]["peak_memory_bytes"] / results["few"]["peak_memory_bytes"]
        for name, summary in results.items():
            print(
                f"{name}: {summary['inputs']} inputs, peak {summary['peak_memory_bytes'] / 1e6:.0f} MB, {summary['seconds']:.0f} s"
            )
        check(ratio <= MEMORY_BOUND, f"peak memory of ten times the inputs is {ratio:.3f} times as much, at most {MEMORY_BOUND}")

        moments = kill_and_resume(model, many, folder / "of many", folder / "killed", arguments, results["many"], chance)
    content = {"runs": results, "peak_ratio": ratio, "kills": len(moments), "parts_whole_at_kills": moments}
    write_if_asked(parser, arguments, content)


def small_model(folder: Path, seed: int) -> tuple[Path, tuple[Path, ...]]:
    """The file of a model with a small trunk, and the drawn scenes that it learnt from."""
    scenes = load_labelled_images(write_scenes(folder / "scenes", 64, seed=seed))
    annotator = Annotator(**SETTINGS).fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary, progress=False)
    return annotator.save(folder / "model.safetensors"), scenes.paths


def draw(originals: tuple[Path, ...], folder: Path, images: int, hostile: int, chance: random.Random) -> set[str]:
    """Write ``images`` different JPEGs and ``hostile`` bad files among them, in subfolders; returns the paths of the bad ones."""
    pixels = [np.asarray(Image.open(path).convert("RGB").resize((96, 72))) for path in originals]
    bad_places = set(chance.sample(range(images + hostile), hostile))
    bad = set()
    for number in range(images + hostile):
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = jpeg(np.roll(pixels[number % len(pixels)], number, axis=1), quality=75)
        if number not in bad_places:
            path.write_bytes(content)
            continue
        bad.add(str(path))
        kind = len(bad) % 5
        if kind == 0:
            path.symlink_to("nowhere.jpg")
        else:
            cut, text = content[: chance.randrange(4, 600)], b"<html>404 Not Found</html>"
            path.write_bytes([b"", b"", cut, text, chance.randbytes(3000)][kind])
    return bad


def annotate(model: Path, source: Path, out: Path, part_size: int, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gpuannot", "annotate", str(model), str(source), "-o", str(out), "--part-size", str(part_size)]
    return subprocess.Popen([*command, "--no-progress", *options], stderr=subprocess.DEVNULL)


def check_accounts(source: Path, out: Path, bad: set[str]) -> None:
    rows = pq.read_table(out, columns=["path"]).column("path").to_pylist()
    ledger = [json.loads(line) for path in sorted((out / "_failures").iterdir()) for line in path.read_text("utf-8").splitlines()]
    files = sorted(str(path) for path in source.glob("*/*"))
    check(sorted([*rows, *(entry["path"] for entry in ledger)]) == files, "each file has one row or one ledger entry")
    check({entry["path"] for entry in ledger} == bad, "exactly the bad files are in the ledger")
    check(all(entry["stage"] and entry["reason"] for entry in ledger), "each entry has a stage and a reason")
    print(f"accounted for: {len(rows)} rows + {len(ledger)} failures = {len(files)} files", flush=True)


def kill_and_resume(
    model: Path,
    source: Path,
    undisturbed: Path,
    out: Path,
    arguments: argparse.Namespace,
    summary: dict[str, Any],
    chance: random.Random,
) -> list[int]:
    """Returns how many parts were whole at each kill."""
    startup = summary["wall_seconds"] - summary["seconds"]
    moments: list[int] = []
    finished = 0
    while len(moments) < arguments.kills:
        process = annotate(model, source, out, arguments.part_size, "--resume")
        try:
            process.wait(startup * chance.uniform(0.6, 1.1) + chance.uniform(0, 3 * summary["seconds"] / arguments.kills))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            check(process.wait() == -signal.SIGKILL, "the run was killed")
            moments.append(len(list(out.glob("_gpuannot/done/*.json"))))
            continue
        compare(undisturbed, out)
        finished += 1
        shutil.rmtree(out)
    code = annotate(model, source, out, arguments.part_size, "--resume").wait()
    check(code == 1, f"the last run ends by itself with exit code 1, got {code}")
    compare(undisturbed, out)
    print(
        f"killed {len(moments)} times, with {moments} parts whole; {finished + 1} finished outputs have the undisturbed run's bytes"
    )
    return moments


def compare(expected: Path, found: Path) -> None:
    def files(folder: Path) -> dict[str, bytes]:
        skipped = ("_summary.json", "lock")  # timings; empty
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.name not in skipped
        }

    left, right = files(expected), files(found)
    differing = sorted(name for name in {*left, *right} if left.get(name) != right.get(name))
    check(not differing, f"same files with the same bytes; these differ: {differing[:5]}")


def check(holds: bool, promise: str) -> None:
    if not holds:
        raise SystemExit(f"does not hold: {promise}")


if __name__ == "__main__":
    main()
