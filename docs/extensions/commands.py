"""``{command-help}``: what ``gpuannot COMMAND -h`` prints, for every command, taken from the command line itself."""

from __future__ import annotations

from typing import Any

import typer
from docutils import nodes
from sphinx.util.docutils import SphinxDirective
from typer.testing import CliRunner

from gpuannot.cli.main import app as cli

WIDTH = {"COLUMNS": "88", "TERMINAL_WIDTH": "88", "NO_COLOR": "1"}


class CommandHelp(SphinxDirective):
    """A section with the help of each command."""

    def run(self) -> list[nodes.Node]:
        sections: list[nodes.Node] = []
        for name in commands(typer.main.get_command(cli)):
            section = nodes.section(ids=[nodes.make_id("-".join(name))], names=[" ".join(name)])
            section += nodes.title(text=f"gpuannot {' '.join(name)}")
            text = CliRunner().invoke(cli, [*name, "-h"], env=WIDTH).stdout
            section += nodes.literal_block(text=text.replace("Usage: root", "Usage: gpuannot").strip("\n"), language="text")
            sections.append(section)
        return sections


def commands(group: Any) -> list[tuple[str, ...]]:
    """The names of all commands, those of groups with the group's name before theirs."""
    found: list[tuple[str, ...]] = []
    for name, command in sorted(group.commands.items()):
        found += [(name, *below) for below in commands(command)] if hasattr(command, "commands") else [(name,)]
    return found


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
