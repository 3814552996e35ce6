"""A folder of JPEG files in, a Parquet table of words out: ``python -m benchmarks.bench_folder [--device cuda]``.

The whole program, from listing the files to the table on disk, at three sizes of photographs; 260 words, the preset paper. The
peer is the loop that feature extractors of the field are made of: torch's ``DataLoader`` decodes in worker processes, a network of
plain modules runs on its batches, and what comes after is NumPy.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from pyarrow import parquet
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.bench_end_to_end import fitted
from benchmarks.bench_ranking import K
from benchmarks.bench_trunk import eager
from benchmarks.common import jpeg
from benchmarks.limits import TRUNK_FLOP
from benchmarks.rows import OURS, Agreement, Row, Setting, Variants, measure_rows, stage_main
from gpuannot import Annotator
from gpuannot.datasets.scenes import draw_scene
from gpuannot.model.encoder import Encoder
from gpuannot.model.word_model import WordModel
from gpuannot.reference.vlad import vlad
from gpuannot.system.device import cpu_has_fast_bfloat16
from gpuannot.system.threads import cpus

BFLOAT16 = "gpuannot, convolutions in bfloat16"
PLAIN_LOOP = "DataLoader loop, float32"
_SIZES = [((192, 128), 64, 4096), ((640, 480), 64, 4096), ((4000, 3000), 32, 512)]  # pixels, files on a CPU, on a GPU
_REPEATS = 3  # at most: each run is seconds long
_DISTINCT = 16  # files that differ; the others are copies


class Files(Dataset[Tensor]):
    """Decoded images (3, S, S) uint8."""

    def __init__(self, paths: list[Path], size: int) -> None:
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Tensor:
        image = Image.open(self.paths[number]).convert("RGB").resize((self.size, self.size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def loop(annotator: Annotator, run: Callable[[Tensor], Tensor], folder: Path, to: Path) -> Path:
    """Files to words as a plain program, with as many workers as CPUs."""
    paths = sorted(folder.iterdir())
    matrix, offset = annotator.encoder.transform_.matrix_, annotator.encoder.transform_.offset_
    (centers,) = annotator.encoder.codebook_.centers
    word_vectors = torch.from_numpy(annotator.bank_.vectors().astype(np.float32))
    words = np.array([annotator.vocabulary[number] for number in annotator.bank_.known])
    batches = DataLoader(Files(paths, annotator.config.input_size), batch_size=annotator.config.batch_size, num_workers=cpus())
    found = []
    with torch.inference_mode():
        for images in batches:
            features = run(images.to(annotator.device)).float().cpu().numpy()
            vectors = torch.from_numpy(vlad(features @ matrix + offset, centers))
            found.append(torch.cdist(vectors, word_vectors).topk(K, largest=False).indices.numpy())
    names = [path.name for path in paths]
    parquet.write_table(pa.table({"path": names, "words": words[np.concatenate(found)].tolist()}), to)
    return to


def with_trunk(annotator: Annotator, trunk_dtype: str) -> Annotator:
    """The same words by a trunk of another arithmetic."""
    own = annotator.encoder
    encoder = Encoder(own.config, device=own.device, loaded=own.extractor.loaded, trunk_dtype=trunk_dtype)
    encoder.transform_, encoder.codebook_ = own.transform_, own.codebook_
    words = WordModel(encoder)
    words.bank_ = annotator.bank_
    return Annotator.of(words)


def program(annotator: Annotator, folder: Path, to: Path) -> Path:
    annotator.batch(folder, to, k=K, overwrite=True, progress=False)
    return to


def words_of(answer: Path) -> list[set[str]]:
    """The words of each file, in the order of their names."""
    table = parquet.read_table(answer, columns=["path", "words"]).sort_by("path")
    return list(map(set, table["words"].to_pylist()))


def _same_words(answer: Path, exact: list[set[str]]) -> Agreement:
    value = float(np.mean([len(given & true) / K for given, true in zip(words_of(answer), exact, strict=True)]))
    return Agreement("share of equal words", value, 0.9, value >= 0.9)


def measure(setting: Setting) -> Iterator[Row]:
    annotator = fitted(setting.device, setting.seed)
    weights, short = annotator.encoder.weights, "bfloat16" if setting.gpu or cpu_has_fast_bfloat16() else "float32"
    short_loop = f"DataLoader loop, channels-last {short}"
    kinds = {OURS: annotator.encoder.trunk.arithmetic, BFLOAT16: "bfloat16", short_loop: short}
    with tempfile.TemporaryDirectory(prefix="gpuannot-bench-") as name:
        root = Path(name)
        ours = {OURS: annotator}
        if annotator.encoder.trunk.arithmetic == "int8":
            ours[BFLOAT16] = with_trunk(annotator, "bfloat16")
        for size, few, many in setting.pick(_SIZES, _SIZES, [((192, 128), 4, 4)]):
            count = many if setting.gpu else few
            folder = root / f"{size[0]}"
            folder.mkdir()
            contents = [jpeg(np.asarray(draw_scene(setting.seed + number, size)[0])) for number in range(min(count, _DISTINCT))]
            for number in range(count):
                (folder / f"{number:05d}.jpg").write_bytes(contents[number % len(contents)])
            plain = {
                short_loop: eager(weights, getattr(torch, short), torch.channels_last, setting.device),
                PLAIN_LOOP: eager(weights, torch.float32, torch.contiguous_format, setting.device),
            }
            variants: Variants = {
                **{name: partial(program, one, folder, root / one.encoder.trunk.arithmetic) for name, one in ours.items()},
                **{name: partial(loop, annotator, run, folder, root / "loop.parquet") for name, run in plain.items()},
            }
            exact = words_of(loop(annotator, plain[PLAIN_LOOP], folder, root / "exact.parquet"))
            yield from measure_rows(
                replace(setting, repeats=min(_REPEATS, setting.repeats)),
                "folder",
                {"images": count, "pixels": f"{size[0]} × {size[1]}"},
                variants,
                items=count,
                work=count * TRUNK_FLOP,
                dtype=kinds,
                agreement=partial(_same_words, exact=exact),
            )


if __name__ == "__main__":
    stage_main("bench_folder", __doc__ or "", measure)
