"""`fittest init`: print a commented configuration."""

from __future__ import annotations

from importlib.resources import files

import click

PRESETS = {"defaults": "init.toml", "paper": "paper.toml"}


@click.command("init")
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="defaults",
    show_default=True,
    help="defaults: every key; paper: Self-RIP as its paper has it.",
)
def command(preset: str) -> None:
    """Print a configuration with every key, its default and what it does; redirect it into run.toml."""
    click.echo(files("fittest.runs.config").joinpath(PRESETS[preset]).read_text(encoding="utf-8"), nl=False)
