"""`fittest init` prints a commented configuration."""

from __future__ import annotations

from importlib.resources import files

import click

from fittest.runs.terminal import say

_PRESETS = {"defaults": "init.toml", "paper": "paper.toml"}


@click.command("init")
@click.option(
    "--preset",
    type=click.Choice(list(_PRESETS)),
    default="defaults",
    show_default=True,
    help="defaults: every key with its default; paper: Self-RIP as its paper describes it.",
)
def command(preset: str) -> None:
    """Print a configuration with every key, its default and what it does; redirect it into run.toml."""
    say(*files("fittest.runs.config").joinpath(_PRESETS[preset]).read_text(encoding="utf-8").splitlines())
