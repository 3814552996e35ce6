"""Images in, words out: ``python -m benchmarks.bench_end_to_end [--device cuda]``. 224 × 224, 260 words, the preset paper.

"tensors" starts from decoded uint8 batches, "jpeg" from encoded bytes in memory, "disk" from files in a folder. The peer is the
plain program that most published code is: eager float32 modules, a loop over images for VLAD, one distance matrix. "time_by_stage"
are gpuannot's own stages on one batch; for the decoder it is one thread's time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.bench_ranking import K
from benchmarks.bench_trunk import eager
from benchmarks.bench_vlad import image_loop
from benchmarks.common import jpeg
from benchmarks.limits import TRUNK_FLOP
from benchmarks.peers import Missing
from benchmarks.rows import OURS, Agreement, Row, Setting, Variants, measure_rows, stage_main
from gpuannot import Annotator
from gpuannot.datasets.scenes import draw_scene
from gpuannot.images.decode import decode_image
from gpuannot.method.ranking import WordRanking
from gpuannot.reference.vlad import vlad

WORDS = 260
PLAIN = "plain float32 program"


def fitted(device: torch.device, seed: int) -> Annotator:
    """An annotator that learnt its map from 32 drawn scenes, with 260 word vectors of the size that theirs have."""
    drawn = [draw_scene(number) for number in range(seed, seed + 32)]
    annotator = Annotator(device=device).fit([image for image, _ in drawn], [words for _, words in drawn], progress=False)
    bank = annotator.bank_
    known = bank.vectors()
    generator = np.random.default_rng(seed)
    missing = WORDS - len(bank.vocabulary)
    bank.add_words([f"word {number}" for number in range(missing)])
    bank.sums[-missing:] = known[generator.integers(0, len(known), missing)] + known.std() * generator.standard_normal(
        (missing, bank.dimension)
    )
    bank.counts[-missing:] = 1
    annotator.words.changed()
    return annotator


def plain_program(annotator: Annotator) -> Callable[[Tensor], Any]:
    """The method as a plain program, in float32 on the annotator's device up to the features and on the CPU after."""
    run = eager(annotator.encoder.weights, torch.float32, torch.contiguous_format, annotator.device)
    matrix, offset = annotator.encoder.transform_.matrix_, annotator.encoder.transform_.offset_
    (centers,) = annotator.encoder.codebook_.centers  # of the one layer
    half_norms = 0.5 * np.square(centers).sum(axis=1)
    word_vectors = annotator.bank_.vectors().astype(np.float32)

    def annotate(images: Tensor) -> np.ndarray:
        with torch.inference_mode():
            features = run(images).cpu().numpy()
        vectors = image_loop(features @ matrix + offset, centers, lambda image: (half_norms - image @ centers.T).argmin(axis=1))
        distance = np.linalg.norm(vectors[:, None, :] - word_vectors, axis=2)
        return np.argsort(distance, axis=1)[:, :K]

    return annotate


def jpegs(count: int, seed: int) -> list[bytes]:
    """Drawn scenes of 640 × 480 as JPEG files."""
    return [jpeg(np.asarray(draw_scene(seed + number, (640, 480))[0])) for number in range(count)]


def stage_rows(setting: Setting, annotator: Annotator, images: Tensor, content: bytes) -> Iterator[Row]:
    """Each stage's time on one batch; they are no rivals, so none is the baseline."""
    trunk = annotator.encoder.trunk.layer_features if setting.gpu else annotator.encoder.trunk  # as encoding calls it
    features: Any = trunk(images)
    vectors = annotator.encoder.vectors(features)
    if setting.gpu:
        stages = annotator.encoder.device_stages()
        descriptors: Any = stages.transform(features)
        transform: Callable[[], Any] = partial(stages.transform, features)
    else:
        descriptors = torch.from_numpy(annotator.encoder.transform_.transform(features.float().numpy()))
        transform = lambda: annotator.encoder.transform_.transform(features.float().numpy())  # noqa: E731
    calls: Variants = {
        "decode one JPEG of 640 × 480, one thread": partial(decode_image, content, images.shape[2]),
        "trunk": partial(trunk, images),
        "descriptors": transform,
        "nearest centre and VLAD": partial(annotator.encoder.aggregate, descriptors),
        "ranking": partial(annotator.words.rank, vectors, K),
    }
    on_device = {name: call for name, call in calls.items() if not (setting.gpu and name.startswith("decode"))}
    for row in measure_rows(setting, "time_by_stage", {"batch": len(images)}, on_device, items=len(images), baseline=""):
        if row["variant"].startswith("decode"):
            row |= {"items": 1, "per_second": 1 / row["seconds"]["median"]}
        yield row


def source_rows(setting: Setting, annotator: Annotator, contents: list[bytes]) -> Iterator[Row]:
    """From JPEG bytes and from files, with all that lies on the way: decoding in threads, batches, names, results on the host."""
    size = annotator.config.input_size
    decoded = torch.from_numpy(np.stack([decode_image(content, size) for content in contents])).permute(0, 3, 1, 2)
    expected = annotator.annotate(decoded, K, progress=False).index
    with tempfile.TemporaryDirectory(prefix="gpuannot-bench-") as name:
        for number, content in enumerate(contents):
            Path(name, f"{number:05d}.jpg").write_bytes(content)

        program = plain_program(annotator)

        def plain() -> Any:
            pixels = torch.from_numpy(np.stack([decode_image(content, size) for content in contents]))
            return program(pixels.permute(0, 3, 1, 2).to(setting.device))

        rivals: dict[str, Variants] = {
            "jpeg": {OURS: partial(annotator.annotate, contents, K, progress=False), PLAIN: plain},
            "disk": {OURS: partial(annotator.annotate, name, K, progress=False)},
        }
        for stage, variants in rivals.items():
            yield from measure_rows(
                setting,
                stage,
                {"images": len(contents), "pixels": "640 × 480"},
                variants,
                items=len(contents),
                work=len(contents) * TRUNK_FLOP,
                dtype={OURS: annotator.encoder.trunk.arithmetic},
                agreement=lambda answer: _same_words(getattr(answer, "index", answer), expected),
            )


def measure(setting: Setting) -> Iterator[Row]:
    annotator = fitted(setting.device, setting.seed)
    generator = torch.Generator().manual_seed(setting.seed)
    kind = annotator.encoder.trunk.arithmetic
    plain = plain_program(annotator)
    batches = setting.pick([1, 4, 16], [64, 128, 256, 512], [2])
    for batch in batches:
        # Drawn scenes, not noise: words of noise all tie nearly.
        numbers = torch.randint(0, 1000, (min(batch, 64),), generator=generator).tolist()
        drawn = np.stack([np.asarray(draw_scene(number, (224, 224))[0]) for number in numbers])
        images = torch.from_numpy(np.resize(drawn, (batch, 224, 224, 3))).permute(0, 3, 1, 2).to(setting.device)
        exact = _float32_words(annotator, images[:8])
        variants: dict[str, Any] = {OURS: partial(annotator.annotate_tensor, images, K), PLAIN: partial(plain, images)}
        if setting.gpu:
            graph = annotator.capture(tuple(images.shape), K)  # type: ignore[arg-type]
            graph.images.copy_(images)
            variants["gpuannot, CUDA graph"] = graph.replay
            if batch > 64:
                variants[PLAIN] = Missing("its VLAD loop over images runs on the CPU; see the batch of 64")
        yield from measure_rows(
            setting,
            "tensors",
            {"batch": batch},
            variants,
            items=batch,
            work=batch * TRUNK_FLOP,
            dtype={OURS: kind, "gpuannot, CUDA graph": kind},
            agreement=lambda answer, exact=exact: _same_words(  # type: ignore[misc]
                (answer[0] if isinstance(answer, tuple) else answer)[: len(exact)], exact
            ),
        )
    contents = jpegs(setting.pick(32, 512, 4), setting.seed)
    yield from stage_rows(setting, annotator, images, contents[0])
    yield from source_rows(setting, annotator, contents)


def _float32_words(annotator: Annotator, images: Tensor) -> np.ndarray:
    """Words of the float32 trunk's features by float64 arithmetic after it."""
    run = eager(annotator.encoder.weights, torch.float32, torch.contiguous_format, torch.device("cpu"))
    with torch.inference_mode():
        features = run(images.cpu()).double().numpy()
    descriptors = features @ annotator.encoder.transform_.matrix_.astype(np.float64) + annotator.encoder.transform_.offset_
    vectors = vlad(descriptors, annotator.encoder.codebook_.centers[0].astype(np.float64))
    index, _ = WordRanking(annotator.bank_.vectors()).nearest(vectors, K)
    return annotator.bank_.known[index]


def _same_words(found: Any, exact: np.ndarray) -> Agreement:
    """Share of the words given that the exact arithmetic gives too, in any order: bfloat16 features turn near ties."""
    found = found.cpu().numpy() if isinstance(found, Tensor) else np.asarray(found)
    value = float(np.mean([len(set(row) & set(other)) / K for row, other in zip(found, exact, strict=True)]))
    return Agreement("share of equal words", value, 0.9, value >= 0.9)


if __name__ == "__main__":
    stage_main("bench_end_to_end", __doc__ or "", measure)
