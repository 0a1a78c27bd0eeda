"""`fittest judge` runs the steps of the self-taught evaluator; each step has a module of its own."""

from __future__ import annotations

import click

from fittest.runs.cli.lazy import LazyGroup

_STEPS = {
    "select": "choose instructions by category, complexity and length",
    "pairs": "make pairs of answers of which one is known to be better",
    "annotate": "sample judgments of pairs, and keep those that are right",
    "train": "train a judge on its own right judgments, iteration after iteration",
    "infer": "say which answer of each pair is better",
    "eval": "measure how often a judge is right on a file of pairs",
}


@click.group("judge", cls=LazyGroup, package=__name__, summaries=_STEPS)
def command() -> None:
    """Train a pairwise judge on pairs that a model makes itself, and measure it."""
