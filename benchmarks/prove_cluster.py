"""What Dask workers promise, at size: ``python -m benchmarks.prove_cluster --images 4000 --kills 10``.

Draws JPEGs, hides bad files among them, and annotates them with a small trunk by the command line:

* two workers, of which one is killed by SIGKILL at random moments, write the bytes of an undisturbed run of one process;
* a fit with two workers, one killed in the middle, writes the file that one process writes;
* how long a job takes whose time goes into decoding: one process, and one and two workers of one thread each.

Stops with an error at the first promise that does not hold; prints what was verified.
"""

from __future__ import annotations

import argparse
import json
import os
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
from PIL import Image

from benchmarks.common import jpeg, parser_of, write_if_asked
from benchmarks.prove_batch import SETTINGS, annotate, check, compare, draw, small_model


def main() -> None:
    parser = parser_of("benchmarks.prove_cluster", __doc__)
    parser.add_argument("--images", type=int, default=4000, help="good images to annotate (default: %(default)s)")
    parser.add_argument("--hostile", type=int, default=200, help="bad files among them (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=10, help="workers to kill while they annotate (default: %(default)s)")
    parser.add_argument("--large", type=int, default=1000, help="large JPEGs of the timed job (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and places (default: %(default)s)")
    parser.add_argument("--only", choices=("kills", "fit", "ratio"), help="a part of it")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    content: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="gpuannot-prove-") as name:
        folder = Path(name)
        model, scenes = small_model(folder, arguments.seed)
        if arguments.only in (None, "kills"):
            content |= prove_kills(model, scenes, folder, arguments, chance)
        if arguments.only in (None, "fit"):
            content |= prove_fit(scenes, folder, chance)
        if arguments.only in (None, "ratio"):
            content |= measure(model, scenes, folder, arguments.large)
    write_if_asked(parser, arguments, content)


def prove_kills(
    model: Path, originals: tuple[Path, ...], folder: Path, arguments: argparse.Namespace, chance: random.Random
) -> dict[str, Any]:
    source, alone = folder / "many", folder / "of one process"
    draw(originals, source, arguments.images, arguments.hostile, chance)
    check(annotate(model, source, alone, 64).wait() == 1, "exit code 1 where some inputs fail")
    start = time.perf_counter()
    check(annotate(model, source, folder / "undisturbed", 64, "--workers", "2").wait() == 1, "the same of two workers")
    seconds = time.perf_counter() - start
    compare(alone, folder / "undisturbed")
    parts = json.loads((alone / "_summary.json").read_text())["parts"]
    moments: list[int] = []
    runs = 0
    while len(moments) < arguments.kills:
        out = folder / "disturbed"
        process = annotate(model, source, out, 64, "--workers", "2")
        runs += 1
        for _ in range(min(2, arguments.kills - len(moments))):
            wait_for_workers(process, 2)
            whole = chance.randrange(0, parts * 9 // 10)
            while process.poll() is None and len(list(out.glob("_gpuannot/done/*.json"))) < whole:
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.1))
            victims = workers_of(process)
            if process.poll() is None and victims and len(list(out.glob("_gpuannot/done/*.json"))) < parts:
                os.kill(chance.choice(victims), signal.SIGKILL)
                moments.append(len(list(out.glob("_gpuannot/done/*.json"))))
        code = process.wait(timeout=600)
        check(code == 1, f"the run goes on without the worker and ends with exit code 1, got {code}")
        compare(alone, out)
        shutil.rmtree(out)
    print(
        f"killed {len(moments)} workers in {runs} runs, at {moments} of {parts} whole parts; all outputs have one process's bytes"
    )
    return {"kills": len(moments), "runs": runs, "parts": parts, "parts_whole_at_kills": moments, "undisturbed_seconds": seconds}


def prove_fit(originals: tuple[Path, ...], folder: Path, chance: random.Random) -> dict[str, Any]:
    names = [f"{number}.jpg" for number in range(2000)]
    samples = [{"image_name": name, "image_labels": [f"word {n % 7}", f"word {n % 11}"]} for n, name in enumerate(names)]
    (folder / "learn").mkdir()
    for number, name in enumerate(names):
        shutil.copy(originals[number % len(originals)], folder / "learn" / name)
    (folder / "learn" / "labels.json").write_text(json.dumps({"samples": samples}))
    found: dict[str, dict[str, float]] = {}
    for name, options, kill in (("one process", [], False), ("2 workers", ["2"], False), ("2 workers, one killed", ["2"], True)):
        model = folder / f"{name}.safetensors"
        settings = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
        command = [sys.executable, "-m", "gpuannot", "fit", str(folder / "learn"), "-o", str(model), "--no-progress", *settings]
        start = time.perf_counter()
        process = subprocess.Popen([*command, *(word for count in options for word in ("--workers", count))])
        if kill:
            wait_for_workers(process, 2)
            time.sleep(chance.uniform(0.5, found["2 workers"]["seconds"] / 2))
            check(process.poll() is None, "the fit was still at work when a worker was to be killed")
            os.kill(chance.choice(workers_of(process)), signal.SIGKILL)
        check(process.wait(timeout=600) == 0, f"fit: {name}")
        found[name] = {"seconds": time.perf_counter() - start}
        check(model.read_bytes() == (folder / "one process.safetensors").read_bytes(), f"fit: {name} writes one process's file")
    print("fit: one process, two workers, and two of which one was killed wrote the same file")
    return {"fit": {"images": len(samples), **found}}


def measure(model: Path, originals: tuple[Path, ...], folder: Path, count: int) -> dict[str, Any]:
    """Whole runs of the command, and of one image each for what starting takes."""
    source = folder / "large"
    source.mkdir()
    for number in range(count):
        with Image.open(originals[number % len(originals)]) as image:
            pixels = np.asarray(image.convert("RGB").resize((1600, 1200), Image.Resampling.BICUBIC))
        (source / f"{number:05d}.jpg").write_bytes(jpeg(np.roll(pixels, number, axis=1)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    variants: dict[str, list[str]] = {
        "one process, 1 thread": [],
        "1 worker, 1 thread": ["--workers", "1"],
        "2 workers, 1 thread each": ["--workers", "2"],
    }
    seconds: dict[str, dict[str, float]] = {}
    for name, options in variants.items():
        seconds[name] = {}
        for what, inputs in (("starting", source / "00000.jpg"), ("all", source)):
            out = folder / "timed"
            command = [sys.executable, "-m", "gpuannot", "annotate", str(model), str(inputs), "-o", str(out), "--part-size", "50"]
            start = time.perf_counter()
            subprocess.run([*command, "--threads", "1", "--no-progress", *options], env=environment, check=True)
            seconds[name][what] = time.perf_counter() - start
            summary = json.loads((out / "_summary.json").read_text())
            shutil.rmtree(out)
        stages, limit = summary["stages"], summary["limited_by"]
        check(limit in ("read", "decode"), f"the timed job spends its time on decoding; it was limited by {limit}")
        seconds[name] |= {"decode share": stages["decode"] / sum(stages.values())}
    one, two = (seconds[name] for name in ("1 worker, 1 thread", "2 workers, 1 thread each"))
    ratio = {
        "whole runs": one["all"] / two["all"],
        "without starting": (one["all"] - one["starting"]) / (two["all"] - two["starting"]),
    }
    for name, found in seconds.items():
        print(f"{name}: {found['all']:.1f} s, of which starting {found['starting']:.1f} s")
    print(f"2 workers against 1: {ratio['whole runs']:.2f} times as fast, {ratio['without starting']:.2f} without starting")
    return {"decode_bound": {"images": count, "size": [1600, 1200], "seconds": seconds, "two_against_one": ratio}}


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Processes of Dask workers that ``process`` has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"spawn_main" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:  # it has ended
            continue
    return found


def wait_for_workers(process: subprocess.Popen[bytes], count: int) -> None:
    while process.poll() is None and len(workers_of(process)) < count:
        time.sleep(0.02)


if __name__ == "__main__":
    main()
