"""``{command-help}``: for every command its usage, what it does, and its arguments and options, taken from the command line."""

from __future__ import annotations

import re
from typing import Any

import typer
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from gpuannot.cli.main import app as cli


class CommandHelp(SphinxDirective):
    """A section for each command."""

    def run(self) -> list[nodes.Node]:
        return [section(name, command) for name, command in commands(typer.main.get_command(cli))]


def commands(group: Any, name: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """All commands with their names, those of groups with the group's name before theirs."""
    found: list[tuple[tuple[str, ...], Any]] = []
    for part, command in sorted(group.commands.items()):
        found += commands(command, (*name, part)) if hasattr(command, "commands") else [((*name, part), command)]
    return found


def section(name: tuple[str, ...], command: Any) -> nodes.section:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and each.name != "help"]
    usage = " ".join(["gpuannot", *name, *("[OPTIONS]" if options else "").split(), *map(placed, arguments)])
    made = nodes.section(ids=[nodes.make_id("-".join(("gpuannot", *name)))], names=[" ".join(("gpuannot", *name))])
    made += nodes.title(text=f"gpuannot {' '.join(name)}")
    made += nodes.literal_block(text=usage, language="text")
    made += [nodes.paragraph("", text) for text in plain(command.help).split("\n\n")]
    if arguments:
        made += definitions([(placed(each), plain(each.help)) for each in arguments])
    made += definitions([(spelled(each), described(each)) for each in options])
    return made


def placed(argument: Any) -> str:
    name = argument.name.upper() + (" …" if argument.nargs == -1 or argument.multiple else "")
    return name if argument.required else f"[{name}]"


def spelled(option: Any) -> str:
    names = ", ".join(sorted((*option.opts, *option.secondary_opts), key=lambda name: (len(name) > 2, name.startswith("--no-"))))
    return names if option.is_flag else f"{names} {option.metavar or option.name.upper().replace('_', '-')}"


def described(option: Any) -> str:
    default = option.default
    shown = default is not None and default is not False and option.show_default and not callable(default) and default != []
    told = f" Default: {getattr(default, 'value', default)}." if shown and not option.is_flag else ""
    return plain(option.help) + told + (" Required." if option.required else "")


def definitions(rows: list[tuple[str, str]]) -> nodes.definition_list:
    made = nodes.definition_list()
    for term, text in rows:
        made += nodes.definition_list_item(
            "", nodes.term("", "", nodes.literal(text=term)), nodes.definition("", nodes.paragraph("", text))
        )
    return made


def plain(text: str | None) -> str:
    r"""Help without the ``\`` that keeps brackets from being markup."""
    return re.sub(r"\\\[", "[", text or "")


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
