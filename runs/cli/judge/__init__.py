"""`fittest judge`: steps of the self-taught evaluator, each in a module of its own."""

from __future__ import annotations

import importlib

import click

STEPS = {
    "select": "choose instructions by category, complexity and length",
    "pairs": "make pairs of answers of which one is known to be better",
    "annotate": "sample judgments of pairs, and keep those that are right",
    "train": "train a judge on its own right judgments, iteration after iteration",
    "infer": "say which answer of each pair is better",
    "eval": "how often a judge is right on a file of pairs",
}


class Steps(click.Group):
    """Loads a step's module when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All steps, in the order in which they are taken."""
        return list(STEPS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a step, or None."""
        if cmd_name not in STEPS:
            return None
        command = importlib.import_module(f"fittest.runs.cli.judge.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The steps with a line each, without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(STEPS.items()))


@click.group("judge", cls=Steps)
def command() -> None:
    """Train a pairwise judge on pairs that a model makes itself, and measure it."""
