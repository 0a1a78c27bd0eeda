"""`fittest init`: print a commented configuration."""

from __future__ import annotations

from importlib.resources import files

import click


@click.command("init")
def command() -> None:
    """Print a configuration with every key, its default and what it does; redirect it into run.toml."""
    click.echo(files("runs").joinpath("init.toml").read_text(encoding="utf-8"), nl=False)
