"""Offers the command line: each verb has a module of its own, which is imported when the verb is called."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from fittest.evo.errors import FittestError
from fittest.evo.visible import visible
from fittest.runs.cli.lazy import LazyGroup
from fittest.runs.terminal import say, show_traceback, visible_streams

_VERBS = {
    "demo": "run the whole job on the embedded model, in a few minutes",
    "init": "print a commented configuration",
    "check": "check a configuration and what it needs; a server is asked for one token",
    "plan": "predict requests, tokens, time and money of a run from a small part of it",
    "run": "evolve a pool of prompts, or go on with a run",
    "status": "show how far a run is",
    "filter": "apply RIP to responses that already have rewards",
    "ablate": "compare every filter and cut on such responses",
    "export": "write survivors in a form that trainers read",
    "judge": "train a pairwise judge on pairs that a model makes itself, and measure it",
    "models": "list or fetch the embedded models",
    "doctor": "look at this machine, or try out what a configuration needs",
}


class _Verbs(LazyGroup):
    """Turns the errors that a user can correct into one line."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Runs the command line; whatever is printed, a traceback as well, is shown with its orders written out."""
        sys.excepthook = show_traceback
        with visible_streams():
            return super().main(*args, **extra)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Reads the arguments before the verb."""
        with _one_line():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> object:
        """Runs a verb; ends with status 2 after a user's mistake, and with status 130 after Ctrl-C."""
        try:
            with _one_line():
                return super().invoke(ctx)
        except FittestError as error:
            say(f"fittest: {error}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            say("fittest: interrupted", err=True)
            ctx.exit(130)


@contextmanager
def _one_line() -> Iterator[None]:
    """Writes out the line breaks in what click says of wrong arguments, which repeats them."""
    try:
        yield
    except click.ClickException as error:
        # click declares it final, and has no other way to say it
        vars(error)["message"] = visible(error.message)
        raise


@click.group(cls=_Verbs, package=__name__, summaries=_VERBS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fittest")
def main() -> None:
    """Grow instruction and preference data by evolving prompts under RIP fitness."""
