"""What is written of the words, and how: the options that ``annotate``, ``export`` and ``watch`` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvalidArgumentError
from .options import Format
from .tables import printable

if TYPE_CHECKING:
    from ..jobs.writers import Selection, TagWriter
    from ..jobs.writers.tag_file import Change

FormatOption = Annotated[
    Format | None,
    typer.Option(
        "--format",
        help="parquet, jsonl or csv: rows (in a folder of parts parquet by default, in a file by its suffix). xmp or txt: a file "
        "beside each image. coco, label-studio, fiftyone or imagefolder: one file, --output.",
    ),
]
ExcludeWords = Annotated[
    list[str] | None, typer.Option("--exclude-words", metavar="WORD", help="Never write this word. Repeatable.")
]
WordThresholds = Annotated[
    list[str] | None,
    typer.Option(
        "--word-threshold", metavar="WORD=VALUE", help="Confidence that this word needs, in place of --threshold. Repeatable."
    ),
]
Into = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="xmp and txt: put the files there, laid out as the images are, not beside them."),
]
WholeNames = Annotated[bool, typer.Option("--whole-names", help="xmp and txt: a.jpg.xmp in place of a.xmp.")]
Hierarchy = Annotated[
    bool, typer.Option("--hierarchy", help="xmp: 'animals|dog' is the keyword dog below animals, not a keyword with a bar in it.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="xmp and txt: say what would change, and change nothing.")]
RelativeTo = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="coco, label-studio and fiftyone: names start there; by default from the file's folder."),
]
Prefix = Annotated[
    str | None,
    typer.Option(metavar="URL", help="coco and label-studio: put before each name, such as '/data/local-files/?d='."),
]


@dataclass(frozen=True)
class Writing:
    """The options, checked against each other.

    Attributes:
        kind: of the format: ``rows``, ``document`` or ``tags``.
    """

    format: Format | None
    selection: Selection
    into: Path | None = None
    whole_names: bool = False
    hierarchy: bool = False
    overwrite: bool = False
    dry_run: bool = False
    relative_to: Path | None = None
    prefix: str | None = None

    def __post_init__(self) -> None:
        from ..jobs.writers import TAGS

        allowed = {
            "--into": (self.into, TAGS),
            "--whole-names": (self.whole_names, TAGS),
            "--hierarchy": (self.hierarchy, ("xmp",)),
            "--dry-run": (self.dry_run, TAGS),
            "--relative-to": (self.relative_to, ("coco", "label-studio", "fiftyone")),
            "--prefix": (self.prefix, ("coco", "label-studio")),
        }
        for option, (value, formats) in allowed.items():
            if value and self.format not in formats:
                raise InvalidArgumentError(f"{option} is for --format {' or '.join(formats)}")

    @property
    def kind(self) -> str:
        from ..jobs.writers import DOCUMENTS, TAGS

        return "tags" if self.format in TAGS else "document" if self.format in DOCUMENTS else "rows"

    def document_options(self) -> dict[str, Any]:
        """What makes an :class:`~gpuannot.jobs.writers.AnnotationWriter` write this format."""
        from ..jobs.writers import Naming

        if self.kind != "document":
            return {}
        assert self.format is not None
        return {"format": self.format.value, "naming": Naming(self.relative_to, self.prefix)}

    def tag_writer(self, model_sha256: str) -> TagWriter:
        """What writes tags; with ``--dry-run`` it prints what it would do."""
        from ..jobs.writers import TagWriter

        assert self.format is not None
        return TagWriter(
            self.format.value,
            model_sha256=model_sha256,
            into=self.into,
            whole_names=self.whole_names,
            hierarchy=self.hierarchy,
            overwrite=self.overwrite,
            dry_run=self.dry_run,
            tell=tell_change if self.dry_run else None,
        )


def selection_of(threshold: float | None, word_thresholds: Sequence[str] | None, exclude: Sequence[str] | None) -> Selection:
    """What ``--threshold``, ``--word-threshold WORD=VALUE`` and ``--exclude-words WORD`` ask for.

    Raises:
        InvalidArgumentError: no word, or no number.
    """
    from ..jobs.writers import Selection

    of_words: dict[str, float] = {}
    for option in word_thresholds or ():
        word, _, value = option.rpartition("=")
        try:
            of_words[word] = float(value)
        except ValueError:
            word = ""
        if not word:
            raise InvalidArgumentError(f"--word-threshold {option}: expected WORD=VALUE, the value in 0…1")
    return Selection(threshold, of_words, frozenset(exclude or ()))


def tell_change(path: Path, change: Change) -> None:
    """Print what becomes of a file: ``+`` and ``-`` before words, ``removed`` for the file itself."""
    words = [*(f"+{word}" for word in change.added), *(f"-{word}" for word in change.removed)]
    typer.echo(f"{printable(str(path))}\t{printable(', '.join(words))}" + ("\t(removed)" if change.content is None else ""))
