"""The errors gpuannot raises on bad input.

Each message names the offending file or value, what was expected and what to do about it, so that the command line can print it
as it is. Any other error on the command line is a bug in gpuannot: what a user can get wrong raises one of these. What only a
program can get wrong, such as arrays of shapes that do not fit, raises ``ValueError`` or ``TypeError`` as everywhere in Python.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

Stage: TypeAlias = Literal["find", "read", "decode", "write"]


def shown(value: object, length: int = 80) -> str:
    """A value as messages quote it: its ``repr``, cut to ``length`` signs, with ``…`` where something is left out."""
    text = repr(value[: length + 1] if isinstance(value, (str, bytes)) else value)
    if len(text) <= length:
        return text
    return f"{text[: length - 2]}…{text[0]}" if isinstance(value, str) else f"{text[: length - 1]}…"


def counted(number: int, one: str, many: str = "") -> str:
    """``1 word``, ``2 words``."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def install(*extras: str) -> str:
    """How to add an extra, or one of several, as messages say it: from the sources, for no package index has gpuannot."""
    named = " or ".join(f'".[{extra}]"' for extra in extras)
    return f"pip install {named} in the folder of gpuannot"


class GpuannotError(Exception):
    """Base of every error about the user's data, files or machine."""


class InvalidArgumentError(GpuannotError, ValueError):
    """An argument or setting that a user gave is out of range, or does not suit the data; it is a ``ValueError`` too."""


class ImageError(GpuannotError):
    """One image cannot be read. ``path`` names it and ``reason`` says why.

    ``stage`` is "find" where there is no readable file of that name, "read" where reading it failed, "decode" where its content is
    not a usable image.
    """

    def __init__(self, path: str, reason: str, stage: Stage = "decode") -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason, self.stage = path, reason, stage

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str, Stage]]:
        return type(self), (self.path, self.reason, self.stage)


class DataError(GpuannotError):
    """A data set, label file or vocabulary is wrong or does not fit the images."""


class OutputError(GpuannotError):
    """Annotations cannot be written: a full disk, a folder without permission, another run at work there."""


class ClusterError(GpuannotError):
    """A Dask cluster cannot be reached, has no workers, or lost those that worked on something."""


class TooManyFailuresError(GpuannotError):
    """More inputs failed than the caller accepts."""


class WeightsError(GpuannotError):
    """A file of trunk weights is missing, incomplete or of an unstated convention."""


class ModelFileError(GpuannotError):
    """A model file is cut, edited, foreign, or of another schema."""


class DeviceError(GpuannotError):
    """The machine lacks the device, driver or package that was asked for."""


class NotFittedError(GpuannotError, ValueError, AttributeError):
    """An estimator was used before ``fit`` (same bases as scikit-learn's error of that name)."""
