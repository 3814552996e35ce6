"""Settings as the command line gives them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import CONSTRAINTS, AnnotatorConfig
from ..errors import InvalidArgumentError


def config_from_options(
    preset: str | None,
    weights: str | None,
    convention: str | None,
    seed: int | None,
    settings: Sequence[str] | None,
    file: Path | None = None,
    objective: str | None = None,
) -> AnnotatorConfig:
    """The settings that ``--preset`` or ``--config``, ``--weights``, ``--convention``, ``--seed`` and ``--set NAME=VALUE`` ask for.

    ``objective`` is that of ``--objective``, or of the command where there is no such option; None is that of the preset or file.

    Raises:
        InvalidArgumentError: both a preset and a file, a setting that is unknown, or a value that is not one of its kind.
        DataError: the file cannot be used.
    """
    if preset is not None and file is not None:
        raise InvalidArgumentError("--preset and --config both say where to start from; give one of them")
    changes: dict[str, Any] = {} if objective is None else {"objective": objective}
    if seed is not None:
        changes["seed"] = seed
    for setting in settings or ():
        name, equals, value = setting.partition("=")
        if not equals or name not in CONSTRAINTS:
            raise InvalidArgumentError(
                f"--set {setting}: expected NAME=VALUE with NAME one of {', '.join(CONSTRAINTS)}{_perhaps(name)}"
            )
        changes[name] = _value(f"--set {setting}", name, value)
    if weights is not None:
        changes["weights"] = weights
    if convention is not None:
        changes["weights_convention"] = convention
    if file is None:
        return AnnotatorConfig.preset(preset or "paper").changed(**changes)
    from ..experiments.tune import read_config

    return read_config(file).changed(**changes)


def search_space(options: Sequence[str] | None) -> dict[str, list[Any]] | None:
    """What ``--vary NAME=VALUE,VALUE`` asks for; None where nothing is.

    Raises:
        InvalidArgumentError: a setting that is unknown or named twice, or a value that is not one of its kind.
    """
    space: dict[str, list[Any]] = {}
    for option in options or ():
        name, equals, values = option.partition("=")
        if not equals or name not in CONSTRAINTS:
            raise InvalidArgumentError(
                f"--vary {option}: expected NAME=VALUE,VALUE with NAME one of {', '.join(CONSTRAINTS)}{_perhaps(name)}"
            )
        if name in space:
            raise InvalidArgumentError(f"--vary {option}: {name} is named twice; give all its values at once")
        space[name] = [_value(f"--vary {option}", name, value) for value in values.split(",")]
    return space or None


def _perhaps(name: str) -> str:
    close = difflib.get_close_matches(name, CONSTRAINTS, 1) if name not in CONSTRAINTS else ()
    return f" (is {close[0]} meant?)" if close else ""


def _value(option: str, name: str, text: str) -> Any:
    try:
        return CONSTRAINTS[name].convert(text)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{option}: {error}") from None
