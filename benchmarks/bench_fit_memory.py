"""Peak memory of ``fit`` and the size of its model: ``python -m benchmarks.bench_fit_memory DATA --presets best``.

DATA is a label file, or a folder with ``train.json`` and ``images/``. Each size and preset runs in a process of its own, whose peak
resident memory the operating system reports.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import keep_if_asked, parser_of, write_if_asked
from gpuannot.config import PRESETS, REGRESSIONS

_CHILD = """
import json, os, resource, sys, tempfile, time
import numpy as np
from gpuannot import Annotator, AnnotatorConfig
from gpuannot.datasets.label_files import load_labelled_images
data, preset, count, small, cache = sys.argv[1], sys.argv[2], int(sys.argv[3]) or None, sys.argv[4] == "small", sys.argv[5]
train = load_labelled_images(data)
paths = train.paths[:count]
annotator = Annotator(AnnotatorConfig.preset(preset))
start = time.perf_counter()
if cache:
    from gpuannot.experiments.feature_cache import cached_features
    from gpuannot.model.fit import InProcess, fit
    extractor = annotator.encoder.extractor
    with extractor.new_store(64) as few, cached_features(annotator.encoder, train, cache, False) as features:
        extractor.extract(paths, few, np.arange(64))  # what the trunk takes does not depend on their number
        with InProcess(annotator.words, features, train.labels, train.vocabulary, progress=False) as steps:
            fit(annotator.words, train.vocabulary, steps)
else:
    annotator.fit(paths, train.labels[: len(paths)], vocabulary=train.vocabulary, progress=False)
seconds = time.perf_counter() - start
row = {"preset": preset, "images": len(paths), "words": len(annotator.bank_.known), "seconds": seconds}
with tempfile.TemporaryDirectory() as folder:
    row["file_bytes"] = os.path.getsize(annotator.save(f"{folder}/m.safetensors"))
    row["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    row["annotate_only_bytes"] = os.path.getsize(annotator.save(f"{folder}/s.safetensors", sums=False)) if small else None
print(json.dumps(row))
"""


def main() -> None:
    parser = parser_of("benchmarks.bench_fit_memory", __doc__)
    parser.add_argument("data", help="label file, or folder with train.json")
    parser.add_argument("--images", type=int, nargs="+", default=[0], help="training images to fit on (default: 0, which is all)")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS), help="default: %(default)s")
    parser.add_argument(
        "--cache", default="", help="folder of features: all images are learnt from, and 64 of them go through the trunk"
    )
    arguments = parser.parse_args()
    data = Path(arguments.data)
    data = data / "train.json" if data.is_dir() else data
    content: dict[str, Any] = {"dataset": data.parent.name, "from_cached_features": bool(arguments.cache), "rows": (rows := [])}
    for preset in arguments.presets:
        for count in arguments.images:
            small = "small" if PRESETS[preset].get("head") in REGRESSIONS else "whole"
            child = [sys.executable, "-c", _CHILD, str(data), preset, str(count), small, arguments.cache]
            rows.append(json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout))
            print(rows[-1], flush=True)
            keep_if_asked(parser, arguments, content)
    write_if_asked(parser, arguments, content)


if __name__ == "__main__":
    main()
