"""Groups commands whose modules are imported only when they are called, so that --help answers at once."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """Finds each command in a module of its own, as the module's attribute `command`.

    Args:
        package: the import name of the package that holds the modules.
        summaries: what each command does in one line, by command; --help shows them in this order.
        **settings: further arguments of `click.Group`.
    """

    def __init__(self, *, package: str, summaries: Mapping[str, str], **settings: Any) -> None:
        super().__init__(**settings)
        self._package = package
        self._summaries = summaries

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names of all commands, in the order in which a newcomer needs them."""
        return list(self._summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports and returns the command, or returns None if there is no such command."""
        if cmd_name not in self._summaries:
            return None
        command = importlib.import_module(f"{self._package}.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes every command with its line; click's own method would import all the modules for their help."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._summaries.items()))
