"""How commands are called: their help as it is written, and the next command, ready to be pasted."""

from __future__ import annotations

import inspect
import shlex
import shutil
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ..system.progress import silence
from .exit import notes
from .tables import plain

Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but results, warnings, failures and errors.")]


def add_command(app: typer.Typer, command: Callable[..., Any], name: str | None = None) -> None:
    """Add a command, with ``--quiet``.

    Its help is its docstring: brackets in it are no markup, and a paragraph is one line to be wrapped.
    """
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    app.command(name, help=plain("\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)))(_with_quiet(command))


def _with_quiet(command: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(command)
    def wrapped(*arguments: Any, quiet: bool = False, **options: Any) -> Any:
        notes.quiet = quiet
        silence(quiet)
        return command(*arguments, **options)

    asked = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet)
    signature = inspect.signature(command, eval_str=True)
    wrapped.__signature__ = signature.replace(parameters=[*signature.parameters.values(), asked])  # type: ignore[attr-defined]
    return wrapped


def command_line(*arguments: object) -> str:
    """A gpuannot command, quoted for a shell: by its name, or in an environment that is not activated by its path."""
    if shutil.which("gpuannot"):
        program = ["gpuannot"]
    else:
        program = [sys.argv[0]] if Path(sys.argv[0]).stem == "gpuannot" else ["python", "-m", "gpuannot"]
    return shlex.join([*program, *map(str, arguments)])


def tell_next(to: Console, *arguments: object) -> None:
    """Say which command comes next; what its caller has to name is in capitals."""
    to.print(f"next: {plain(command_line(*arguments))}")


def free_name(path: Path) -> Path:
    """``path``, or where that is taken the first of ``NAME-2``, ``NAME-3`` …"""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free
