"""Options and arguments that commands share, with their help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DataError, InvalidArgumentError, counted

if TYPE_CHECKING:
    from ..datasets.label_files import LabelledImages
    from ..images.inputs import Inputs


class Format(StrEnum):
    parquet = "parquet"
    jsonl = "jsonl"
    csv = "csv"
    xmp = "xmp"
    txt = "txt"
    coco = "coco"
    label_studio = "label-studio"
    fiftyone = "fiftyone"
    imagefolder = "imagefolder"


class LabelSource(StrEnum):
    auto = "auto"
    keywords = "keywords"
    captions = "captions"


class OnError(StrEnum):
    skip = "skip"
    stop = "stop"


class Decode(StrEnum):
    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


Model = Annotated[Path, typer.Argument(help="A model written by 'gpuannot fit'.", show_default=False)]
K = Annotated[
    int | None,
    typer.Option(
        "-k",
        "--words",
        min=1,
        help="Words to give each image; by default those likely enough (--threshold), at most as many "
        "as 95% of the labelled images carry, or 5.",
    ),
]
Objective = Annotated[
    str | None,
    typer.Option(
        help="What words are ranked for: 'images' (default), those of each image by how likely they are, or 'words', "
        "every word alike, rare or frequent, as the literature scores it."
    ),
]
ScoredK = Annotated[int, typer.Option("-k", "--words", min=1, help="Words to give each image.")]
Threshold = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Of those words, only the ones of this confidence or more, but one at least (presets best and kernel); "
        "without --words, by default what the fit chose for the objective 'images'.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts, to standard output.")]
Preset = Annotated[
    str | None,
    typer.Option(
        help="Settings to start from: 'paper' (default), as the paper has it, 'best', or 'kernel', the most right but slower."
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Start from the settings in this file instead, as 'gpuannot tune' writes it.")
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Trunk weights: 'embedded' (default), a .safetensors or .pth file, 'torchvision' or 'torchvision:NAME'; "
        "of other trunks 'pretrained' or a file."
    ),
]
Convention = Annotated[
    str | None,
    typer.Option("--convention", help="'caffe' or 'torchvision', for a weights file whose metadata does not say which it follows."),
]
Device = Annotated[str, typer.Option(help="'auto' (a GPU where there is one), 'cpu', 'cuda' or 'cuda:1'.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of every random choice; by default 0, or that of --config.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Change a setting, for example --set n_centers=32; 'gpuannot info' lists them."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes on this machine that share the work, on GPUs one each; the result is the same. Needs the extra dask.",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Dask scheduler (tcp://host:8786) whose workers do it; all must see the same files under the same paths.",
    ),
]
Dashboard = Annotated[bool, typer.Option("--dashboard", help="With --workers: Dask's page of what they do, on this machine alone.")]
Progress = Annotated[
    bool | None,
    typer.Option("--progress/--no-progress", help="Progress bars; by default on terminals, elsewhere a line every 30 s."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]

FoldCase = Annotated[
    bool, typer.Option("--fold-case", help="'Dog' and 'dog' are one word, in the spelling that most images carry.")
]
MinCount = Annotated[int, typer.Option("--min-count", min=1, help="Leave out words that fewer images carry.")]

Labels = Annotated[
    LabelSource,
    typer.Option(
        help="Where words stand: 'keywords' (XMP, IPTC and sidecars of photos), 'captions' (.txt beside them), or 'auto': a label "
        "file, subfolders, or else what the photos have."
    ),
]
KeywordPaths = Annotated[
    bool, typer.Option("--hierarchy", help="Of hierarchical keywords take 'animals|dog' for a word, in place of 'dog'.")
]
MachineWords = Annotated[
    bool, typer.Option("--machine-words", help="Also keywords that gpuannot wrote, and predictions of Label Studio.")
]


def reading_again(labels: LabelSource, hierarchy: bool, machine_words: bool, fold_case: bool, min_count: int = 1) -> list[str]:
    """The options with which another command reads the same labels."""
    given = {"--hierarchy": hierarchy, "--machine-words": machine_words, "--fold-case": fold_case}
    return [
        *([] if labels is LabelSource.auto else ["--labels", labels.value]),
        *(option for option, value in given.items() if value),
        *(["--min-count", str(min_count)] if min_count > 1 else []),
    ]


# -- what to annotate --------------------------------------------------------------------------------------------------------------

Sources = Annotated[
    list[str],
    typer.Argument(
        help="Image files, folders to search, lists of paths (.txt), tables (.csv, .tsv, .jsonl, .parquet), archives (.tar, "
        ".tar.gz, .bz2, .xz, .zst, .zip), quoted patterns ('shards/*.tar'); local, or URLs that fsspec opens (s3://…).",
        show_default=False,
    ),
]
Glob = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN", help="In folders, take files that match, such as '*.tar', instead of all image files. Repeatable."
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="In folders, leave out files and subfolders that match. Repeatable."),
]
Column = Annotated[
    str | None,
    typer.Option(help="Column of tables that holds paths or, in Parquet, encoded images; by default the first of a usual name."),
]
SkipLabelled = Annotated[
    Path | None,
    typer.Option(
        metavar="LABELS", help="Leave out images that have words there: a label file or folder in the forms that 'fit' takes."
    ),
]


def search_for(
    sources: Sequence[str], glob: Sequence[str] | None, exclude: Sequence[str] | None, column: str | None, skip: Path | None
) -> Inputs:
    """The images to annotate; ``skip`` is what ``--skip-labelled`` names."""
    from ..images.inputs import Inputs

    without: Sequence[Path] = ()
    if skip is not None:
        from ..datasets.label_files import images_with_words

        without = images_with_words(skip)
    return Inputs(sources, glob=glob or (), exclude=exclude or (), column=column, skip=without)


def check_some_left(search: Inputs, sources: Sequence[Any], skip: Path | None = None) -> None:
    """Raise InvalidArgumentError where ``--skip-labelled`` left nothing of what was found, DataError where nothing was."""
    if search.skipped and not sources:
        raise InvalidArgumentError(
            f"{counted(search.skipped, 'image')} found, and each has words in {skip}; --skip-labelled leaves nothing to annotate"
        )
    if not sources:
        raise DataError(f"{', '.join(search.sources)}: no images were given; a list, table or archive that is empty names none")


def refuse(options: Mapping[str, Any], why: str) -> None:
    """Raise InvalidArgumentError for the first of these options that was given; ``why`` says what it does not go with."""
    given = next((name for name, value in options.items() if value is not None and value is not False and value != []), None)
    if given is not None:
        raise InvalidArgumentError(f"--{given} {why}")


# -- folders of parts --------------------------------------------------------------------------------------------------------------

PartSize = Annotated[int | None, typer.Option(min=1, help="Folder only: inputs of a part (default: 4096).")]
Resume = Annotated[bool, typer.Option("--resume", help="Folder only: go on where an earlier run stopped, whatever stopped it.")]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Folder only: resume, and try again what failed; rows that are there stay.")
]
Extend = Annotated[
    bool, typer.Option("--extend", help="Folder only: resume, and take in inputs that are new; rows that are there stay.")
]
OnErrorOption = Annotated[
    OnError | None, typer.Option("--on-error", help="Folder only: 'stop' at the first input that fails (default: skip).")
]
MaxFailures = Annotated[int | None, typer.Option(min=0, help="Folder only: stop when more inputs than this have failed.")]
Vectors = Annotated[bool, typer.Option("--vectors", help="Folder only: also write each image's VLAD vector.")]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, help="Folder only: threads that read and decode, by default one for each CPU, of each worker; more for slow storage."
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(
        min=0, help="Folder only: decode in so many processes instead of threads; by default only beside a GPU with 8 CPUs or more."
    ),
]
DecodeOption = Annotated[
    Decode | None,
    typer.Option("--decode", help="Folder only: where JPEGs are decoded; auto (the default) is the GPU where it has a decoder."),
]


def check_output(path: Path, overwrite: bool) -> None:
    """Raise InvalidArgumentError for a file that may not be written: before hours of work, not after them."""
    if path.exists() and not overwrite:
        raise InvalidArgumentError(f"{path} exists; choose another name with --output, or replace it with --overwrite")
    check_folder_of(path)


def check_model_output(path: Path, overwrite: bool) -> None:
    """:func:`check_output` of a model, which is one ``.safetensors`` file."""
    if path.is_dir() or path.suffix != ".safetensors":
        better = path / "model.safetensors" if path.is_dir() else path.with_suffix(".safetensors")
        raise InvalidArgumentError(f"{path}: a model is one .safetensors file; write it for example to --output {better}")
    check_output(path, overwrite)


def check_folder_of(path: Path) -> None:
    """Raise InvalidArgumentError without a folder for an output."""
    if not path.parent.is_dir():
        raise InvalidArgumentError(f"{path.parent}: no such folder for the output; make it first, or name another")


def check_carried(images: LabelledImages, data: Path, to: str, min_count: int = 1) -> None:
    """Raise InvalidArgumentError where not one image carries a word, and so there is nothing ``to`` learn from or score by."""
    if images.labels.nnz:
        return
    none = f"{data}: not one of its {counted(len(images), 'image')} carries a word"
    if images.rare:
        raise InvalidArgumentError(f"{none} that {min_count} images carry, so there is nothing to {to}; give a lower --min-count")
    raise InvalidArgumentError(f"{none}, so there is nothing to {to}; write the words of each image in its row")
