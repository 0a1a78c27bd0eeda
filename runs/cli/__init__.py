"""The command line: verbs, each in a module of its own that is imported when it is called."""

from __future__ import annotations

import importlib

import click

from fittest.evo.errors import FittestError

VERBS = {
    "demo": "run the whole job on the embedded model, in a few minutes",
    "init": "print a commented configuration",
    "check": "check a configuration and what it needs; a server is asked for one token",
    "plan": "predict requests, tokens, time and money of a run from a small part of it",
    "run": "evolve a pool of prompts, or go on with a run",
    "status": "how far a run is",
    "filter": "apply RIP to responses that already have rewards",
    "ablate": "compare every filter and cut on such responses",
    "export": "write survivors in a form that trainers read",
    "judge": "train a pairwise judge on pairs that a model makes itself, and measure it",
    "models": "list or fetch the embedded models",
    "doctor": "look at this machine, or try out what a configuration needs",
}


class Verbs(click.Group):
    """Loads a verb's module when it is called, so that --help answers at once, and turns our errors into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in the order in which a newcomer meets them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a verb, or None."""
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"fittest.runs.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs with a line each, without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def invoke(self, ctx: click.Context) -> object:
        """Run a verb; what the user can mend becomes one line and status 2."""
        try:
            return super().invoke(ctx)
        except FittestError as error:
            click.echo(f"fittest: {error}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("fittest: interrupted", err=True)
            ctx.exit(130)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fittest")
def main() -> None:
    """Grow instruction and preference data by evolving prompts under RIP fitness."""
