"""The page of an audit: doubtful images to review, images that are alike, words that are hardly told apart."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np

from ..annotator import Annotator
from ..datasets.label_files import LabelledImages
from ..errors import ImageError
from ..images.input import utf8
from ..model.audit import Audit, doubt_of_carried
from ..system.atomic_files import replacing
from ..system.threads import cpus
from . import counts
from .page import render
from .previews import TextBlocks, preview, preview_form
from .writer import check_report_path, model_facts, page_facts, plain_facts

#: Images that a page shows for review, the most doubtful ones.
LIMIT = 1000

_PAIRS = 200  # pairs of images that are alike, of which a page shows the first


def write_audit(
    audit: Audit,
    images: LabelledImages,
    annotator: Annotator,
    path: str | Path,
    *,
    title: str = "Audited labels",
    limit: int = LIMIT,
    overwrite: bool = False,
) -> Path:
    """Write the page.

    Args:
        audit: of these images.
        images: with the words that they were audited with.
        annotator: whose encoder it was made with.
        path: the file to write.
        title: of the page.
        limit: images shown for review, at most.
        overwrite: replace a file that exists.

    Raises:
        DataError: no folder for the file, or it exists.
    """
    path = check_report_path(path, overwrite)
    rank = _ranks(audit, images)
    alike = audit.alike[:_PAIRS]
    doubtful = sorted(rank, key=lambda image: rank[image])[:limit]
    shown = list(dict.fromkeys([*doubtful, *chain.from_iterable(pair.images for pair in alike)]))
    place = {image: number for number, image in enumerate(shown)}
    names = [utf8(str(images.paths[image].absolute())) for image in shown]
    common = counts.folder_of(names)
    carried = counts.as_lists(images.labels[shown])
    given = _words(audit, carried, shown)
    with TextBlocks() as previews, ThreadPoolExecutor(cpus(), thread_name_prefix="gpuannot-preview") as pool:
        form = preview_form(len(shown))
        for made in pool.map(lambda image: preview(images.paths[image], str(images.paths[image]), form), shown):
            previews.append(None if isinstance(made, ImageError) else made[0])
        data = {
            "schema": "gpuannot.audit-page/1",
            "title": title,
            "words": images.vocabulary,
            "table": None,
            "measure": "confidence",
            "weak": None,
            "learnt": True,
            "grid": None,
            "palette": [],
            "failed": 0,
            "failures": [],
            "unpreviewed": 0,
            "folder": common,
            "images": {
                "names": [name[len(common) :] for name in names],
                "given": given,
                "values": [[_value(audit, image, word) for word in words] for image, words in zip(shown, given, strict=True)],
                "truth": carried,
                "doubt": [-rank[image] for image in shown],
            },
            "found": {
                "images": len(images),
                "words": len(images.vocabulary),
                "probably wrong": len(audit.wrong),
                "probably missing": len(audit.missing),
                "images alike, other words": len(audit.alike),
                "images here for review": len(shown),
            },
            "alike": [{**pair._asdict(), "images": [place[image] for image in pair.images]} for pair in alike],
            "confused": [pair._asdict() for pair in audit.confused],
            "few": [{"word": word, "images": number} for word, number in audit.few],
            "run": plain_facts([("Model", model_facts(annotator)), ("Settings", annotator.config.to_dict()), *page_facts({})]),
        }
        with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(render(title, data, iter(previews), template="audit.html"))
    return path


def _ranks(audit: Audit, images: LabelledImages) -> dict[int, int]:
    """The place of each image: of those with a listed word in the better of the two lists, of the others behind them by the label
    that is the least likely beside what it is elsewhere."""
    rank: dict[int, int] = {}
    for doubts in (audit.wrong, audit.missing):
        for number, doubt in enumerate(doubts):
            rank[doubt.image] = min(number, rank.get(doubt.image, number))
    carried = images.labels.toarray() > 0
    doubt = np.where(carried, np.nan_to_num(doubt_of_carried(audit.probability, carried), nan=np.inf), np.inf).min(axis=1)
    others = [image for image in np.argsort(doubt, kind="stable").tolist() if image not in rank]
    first = max(rank.values(), default=-1) + 1
    return rank | {image: first + number for number, image in enumerate(others)}


def _words(audit: Audit, carried: Sequence[Sequence[int]], shown: Sequence[int]) -> list[list[int]]:
    """The words of each image for review: first those that are probably wrong or missing, the clearest ahead, then the others."""
    found: dict[int, dict[int, int]] = {image: {} for image in shown}
    for doubts in (audit.wrong, audit.missing):
        for number, doubt in enumerate(doubts):
            if doubt.image in found:
                found[doubt.image][doubt.word] = number
    lists = []
    for image, words in zip(shown, carried, strict=True):
        doubtful, likely = found[image], np.nan_to_num(audit.probability[image], nan=1.0)
        others = sorted(set(words) - set(doubtful), key=lambda word: float(likely[word]))
        lists.append([*sorted(doubtful, key=lambda word: doubtful[word]), *others])
    return lists


def _value(audit: Audit, image: int, word: int) -> float | None:
    value = float(audit.probability[image, word])
    return None if np.isnan(value) else float(f"{value:.4g}")
