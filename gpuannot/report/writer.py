"""Annotated images as one HTML page: pictures, words, where each word was seen, precision and recall.

The page needs no network and no other file. Pictures and heatmaps wait in a temporary file while images go by, so memory grows with
a few numbers an image. `page` holds the page's template, style and scripts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..config import REGRESSIONS
from ..errors import DataError, ImageError, InvalidArgumentError
from ..images.containers import Containers
from ..images.decode_task import ImageFailure
from ..images.input import Input, Loaded, utf8
from ..images.inputs import none_readable
from ..metrics import reliability
from ..model.annotations import Annotations
from ..model.explain import PALETTE
from ..system.atomic_files import replacing
from ..system.environment import record
from ..system.threads import cpus
from ..system.timing import StageTimer
from . import counts
from .page import render
from .previews import TextBlocks, heat_levels, preview, preview_form

if TYPE_CHECKING:
    from ..annotator import Annotator
    from ..model.explain import Explanation

SCHEMA = "gpuannot.report/1"
LIMIT = 10_000  # images a page shows; browsers open it in a second or two

_LISTED = 100  # failures that a page names
_AT_A_TIME = 64  # images decoded at a time


class ReportWriter:
    """Takes annotated images batch by batch and writes them as one HTML file.

    A ``with`` block holds it; nothing is left of a block that ends without :meth:`commit`.

    Args:
        path: the file to write.
        vocabulary: W words, as the annotations number them.
        images: how many inputs will come, N. Above ``limit`` the page shows so many, evenly spaced, and counts all.
        truth: (N, W) indicators, rows by an image's position in the input; None where it is not known.
        labelled: (N,) of which images it is; None where of all. Scores count these alone.
        annotator: that gave the words, for its settings and the training images of each word; None where it is not at hand.
        heatmaps: let the annotator say where it saw each word, which costs a second pass of the trunk for each image shown.
        title: of the page.
        limit: images that the page shows, at most.
        overwrite: replace a file that exists.

    Raises:
        DataError: no folder for the file, or it exists.
        ValueError: a truth of another shape, or a limit under 1.
    """

    def __init__(
        self,
        path: str | Path,
        vocabulary: Sequence[str],
        images: int,
        *,
        truth: sparse.csr_array | None = None,
        labelled: NDArray[np.bool_] | None = None,
        annotator: Annotator | None = None,
        heatmaps: bool = True,
        title: str = "Annotated images",
        limit: int = LIMIT,
        overwrite: bool = False,
    ) -> None:
        self.path = check_report_path(path, overwrite)
        if truth is not None and truth.shape != (images, len(vocabulary)):
            raise ValueError(f"the truth has shape {truth.shape}, expected ({images}, {len(vocabulary)})")
        if limit < 1:
            raise InvalidArgumentError(f"limit = {limit} must be at least 1")
        self.vocabulary, self.title = tuple(vocabulary), title
        self.clock = StageTimer()
        self._images, self._limit = images, limit
        self._truth, self._labelled, self._annotator = truth, labelled, annotator
        self._explains = heatmaps and annotator is not None
        self._form = preview_form(min(images, limit))
        self._names: list[str] = []
        self._aspects: list[float] = []
        self._grid: tuple[int, int] | None = None
        self._index: list[NDArray[np.int64]] = []
        self._values: list[NDArray[np.float32]] = []
        self._positions: list[NDArray[np.int64]] = []
        self._shown: list[NDArray[np.bool_]] = []
        self._confident = False
        self._weak: float | None = None
        self._failures: list[ImageFailure] = []
        self._failed = self._unpreviewed = 0
        self._open = ExitStack()

    @property
    def annotated(self) -> int:
        """How many images were taken."""
        return sum(map(len, self._index))

    def passing(self, parts: Iterable[Annotations], sources: Sequence[Any]) -> Iterator[Annotations]:
        """``parts`` of the annotations of ``sources`` as they come, each taken into the report."""
        upcoming = iter(parts)
        while True:
            with self.clock.measure("annotate"):
                part = next(upcoming, None)
            if part is None:
                return
            self.add(part, [sources[position] for position in part.positions])
            yield part

    def add(self, annotations: Annotations, sources: Sequence[Any]) -> None:
        """Take annotations, and the source (path, bytes, pixels, `Input`) of each of their images."""
        annotations = annotations.by_confidence()
        self._failed += len(annotations.failures)
        self._failures.extend(annotations.failures[: max(0, _LISTED - len(self._failures))])
        confidence = annotations.confidence
        self._confident, self._weak = confidence is not None, annotations.weak_below
        shown = self._is_shown(annotations.positions)
        self._index.append(annotations.index)
        values = annotations.distance if confidence is None else confidence
        self._values.append(np.where(annotations.index == counts.NO_WORD, np.nan, values))
        self._positions.append(annotations.positions)
        self._shown.append(shown)
        rows = np.flatnonzero(shown)
        self._names.extend(utf8(annotations.names[row]) for row in rows)
        for start in range(0, len(rows), _AT_A_TIME):
            some = rows[start : start + _AT_A_TIME].tolist()
            names = [annotations.names[row] for row in some]
            with self.clock.measure("previews"):
                # A member of a compressed shard is read once, in its turn.
                ready = [
                    self._containers.ready(each) if isinstance(each, Input) else each for each in (sources[row] for row in some)
                ]
                self._add_previews(names, ready)
            if self._explains and annotations.index.shape[1]:
                with self.clock.measure("heatmaps"):
                    again = [each.content if isinstance(each, Loaded) else each for each in ready]
                    self._add_heatmaps(names, again, annotations.index[some])

    def _is_shown(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """``limit`` of all positions, evenly spaced."""
        if self._images <= self._limit:
            return np.ones(len(positions), dtype=bool)
        return np.asarray((positions + 1) * self._limit // self._images > positions * self._limit // self._images)

    def _add_previews(self, names: Sequence[str], sources: Sequence[Any]) -> None:
        made = self._pool.map(lambda name, source: preview(source, name, self._form), names, sources)
        for found in made:
            if isinstance(found, ImageError):
                self._unpreviewed += 1
                self._previews.append(None)
            else:
                self._previews.append(found[0])
                self._aspects.append(found[1])

    def _add_heatmaps(self, names: Sequence[str], sources: Sequence[Any], index: NDArray[np.int64]) -> None:
        assert self._annotator is not None
        explained: Sequence[Explanation | None] = self._annotator.explain(sources, k=index.shape[1], progress=False)
        if len(explained) < len(names):  # an image that could be read a moment ago, and no more
            by_name = {each.name: each for each in explained if each is not None}
            explained = [by_name.get(name) for name in names]
        for found, words in zip(explained, counts.padded(index), strict=True):
            if found is None:
                self._heat.append(None)
                continue
            self._grid = found.grid
            place = {word: row for row, word in enumerate(found.index.tolist())}
            levels = heat_levels(found.contributions)
            rows = [levels[place[word]] if word in place else np.zeros_like(levels[0]) for word in words]
            self._heat.append(b"".join(row.tobytes() for row in rows))

    def commit(self, *, run: Sequence[tuple[str, dict[str, Any]]] = ()) -> Path:
        """Write the page.

        Args:
            run: groups of named facts to list on the page, beside those that every report has.

        Raises:
            DataError: not one image was annotated.
            OSError: the file cannot be written.
        """
        data = self._data(run)
        with replacing(self.path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(render(self.title, data, iter(self._previews), iter(self._heat)))
        return self.path

    def _data(self, run: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
        if not self.annotated:
            raise DataError(f"{none_readable(self._failed, self._failures)}; there is nothing to report in {self.path}")
        index, values = np.concatenate(self._index), np.concatenate(self._values)
        positions, shown = np.concatenate(self._positions), np.concatenate(self._shown)
        labelled = np.ones(len(index), bool) if self._labelled is None else self._labelled[positions]
        truth = None if self._truth is None else self._truth[positions]
        given = counts.given_matrix(index, len(self.vocabulary))
        if truth is not None:  # what was given to images without labels is neither right nor wrong
            given, scored = given[labelled], truth[labelled]
        else:
            scored = None
        totals, rated = counts.word_totals(given, scored), self._confident and given.nnz
        sure = labelled & ~(np.isnan(values) & (index != counts.NO_WORD)).any(axis=1)  # a table may lack values of some images
        common = counts.folder_of(self._names)
        return {
            "schema": SCHEMA,
            "title": self.title,
            "words": self.vocabulary,
            "table": counts.table(totals, self._training()),
            "scores": None if truth is None else counts.scores(totals),
            "confusion": None if scored is None else counts.confusion(given, scored),
            "reliability": None if truth is None or not rated else reliability(values[sure], index[sure], truth[sure]).to_dict(),
            "measure": self._measure(),
            "learnt": False,
            "weak": self._weak_below(),
            "annotated": len(index),
            "labelled": None if truth is None else int(labelled.sum()),
            "failed": self._failed,
            "failures": [[utf8(failure.path), failure.stage, failure.reason] for failure in self._failures],
            "unpreviewed": self._unpreviewed,
            "aspect": round(float(np.median(self._aspects)), 3) if self._aspects else 1.5,
            "grid": self._grid,
            "palette": PALETTE,
            "folder": common,
            "images": {
                "names": [name[len(common) :] for name in self._names],
                "given": counts.padded(index[shown]),
                "values": counts.rounded(values[shown]),
                "truth": None if truth is None else counts.truths(truth[shown], labelled[shown]),
            },
            "run": plain_facts(self._facts(run)),
        }

    def _measure(self) -> str:
        """What the values of words are; of all but confidences, smaller is better."""
        if self._confident:
            return "confidence"
        return "negative score" if self._annotator is not None and self._annotator.config.head in REGRESSIONS else "distance"

    def _weak_below(self) -> float | None:
        """The confidence under which words are dimmed; files of annotations do not hold what a fit chose."""
        if not self._confident or self._annotator is None:
            return self._weak
        return self._annotator.words.ranker.weak_below(self._annotator.bank_)

    def _training(self) -> NDArray[np.int64] | None:
        """Training images of each word; words that the model does not know have none."""
        if self._annotator is None:
            return None
        images = self._annotator.bank_.counts
        return np.pad(images, (0, len(self.vocabulary) - len(images)))

    def _facts(self, run: Sequence[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
        seconds = {stage: round(self.clock.seconds(stage), 1) for stage in ("annotate", "previews", "heatmaps")}
        groups = [*run]
        if self._annotator is not None:
            groups += [("Model", model_facts(self._annotator)), ("Settings", self._annotator.config.to_dict())]
        spent = {
            f"seconds to make {stage}" if stage != "annotate" else "seconds to annotate": value for stage, value in seconds.items()
        }
        return [*groups, *page_facts({name: value for name, value in spent.items() if value})]

    def __enter__(self) -> ReportWriter:
        with ExitStack() as stack:
            self._containers = stack.enter_context(Containers())
            self._pool = stack.enter_context(ThreadPoolExecutor(cpus(), thread_name_prefix="gpuannot-preview"))
            self._previews, self._heat = (stack.enter_context(TextBlocks()) for _ in range(2))
            self._open = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()


def check_report_path(path: str | Path, overwrite: bool = False) -> Path:
    """The path of a report to write, checked before the work rather than after it.

    Raises:
        DataError: no folder for the file, another suffix than ``.html``, or it exists.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise DataError(f"{path.parent}: no such folder for the report")
    if path.is_dir():
        raise DataError(f"{path} is a folder; a report is one file, such as {path / 'report.html'}")
    if path.suffix.lower() not in (".html", ".htm"):
        raise DataError(f"{path}: a report is an HTML file; name it {path.with_suffix('.html')}")
    if path.exists() and not overwrite:
        raise DataError(f"{path} exists; choose another name for the report, or replace it with --overwrite")
    return path


def model_facts(annotator: Annotator) -> dict[str, Any]:
    """What tells one model from another."""
    return {
        "SHA-256": annotator.to_model_file().sha256,
        "words": len(annotator.bank_.known),
        "values of an image vector": annotator.encoder.dimension,
        "trunk weights, SHA-256": annotator.encoder.weights.sha256,
        "trunk arithmetic": annotator.encoder.trunk.arithmetic,
        "device": str(annotator.device),
    }


def page_facts(spent: dict[str, float]) -> list[tuple[str, dict[str, Any]]]:
    """When and where a page is made, in ``spent`` seconds of each stage."""
    machine = record()
    processor = machine["processor"]
    return [
        ("This page", {"made": machine["date"], **spent}),
        ("Versions", {**machine["versions"], "commit": machine["commit"]}),
        (
            "Machine",
            {
                "processor": processor["model"],
                "cores": processor["cores"],
                "GPUs": ", ".join(gpu["name"] for gpu in machine["gpus"]),
                "system": machine["platform"],
            },
        ),
    ]


def plain_facts(groups: Sequence[tuple[str, dict[str, Any]]]) -> list[Any]:
    """Groups of named facts as a page's data have them."""
    return [[title, [[name, _plain(value)] for name, value in facts.items()]] for title, facts in groups]


def _plain(value: object) -> str:
    return "none" if value is None or value == "" else str(value)
