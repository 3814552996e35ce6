"""Settings as the command line gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from .config import AnnotatorConfig


def config_from_options(
    preset: str, weights: str | None, convention: str | None, seed: int, settings: Sequence[str] | None
) -> AnnotatorConfig:
    """The settings that ``--preset``, ``--weights``, ``--convention``, ``--seed`` and ``--set NAME=VALUE`` ask for.

    Raises:
        ValueError: a setting that is unknown, or a value that is not one of its kind.
    """
    fields = {field.name: field for field in dataclasses.fields(AnnotatorConfig)}
    changes: dict[str, Any] = {"seed": seed}
    for setting in settings or ():
        name, equals, value = setting.partition("=")
        if not equals or name not in fields:
            raise ValueError(f"--set {setting}: expected NAME=VALUE with NAME one of {', '.join(fields)}")
        changes[name] = _value(name, value, str(fields[name].type))
    if weights is not None:
        changes["weights"] = weights
    if convention is not None:
        changes["weights_convention"] = convention
    return AnnotatorConfig.preset(preset, **changes)


def _value(name: str, text: str, kind: str) -> Any:
    if kind == "bool":
        if text.lower() not in ("true", "false"):
            raise ValueError(f"--set {name}={text}: expected true or false")
        return text.lower() == "true"
    for number, called, convert in (("int", "a whole number", int), ("float", "a number", float)):
        if kind == number:
            try:
                return convert(text)
            except ValueError:
                raise ValueError(f"--set {name}={text}: expected {called}") from None
    return text
