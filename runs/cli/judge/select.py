"""`fittest judge select` chooses the instructions that a judge learns from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fittest.fitness.judge.labels import Label, Wanted
from fittest.runs.cli.judge.options import configured, limit_option, out_option, prompt_column_option
from fittest.runs.cli.paths import PATH
from fittest.runs.terminal import say

if TYPE_CHECKING:
    from fittest.runs.judge.config import JudgeConfig


@click.command("select")
@click.argument("instructions", type=PATH)
@out_option
@configured
@prompt_column_option
@click.option(
    "--category", "categories", type=click.Choice(Label.CATEGORIES), multiple=True, help="Repeatable.  [default: all]"
)
@click.option(
    "--length",
    "lengths",
    type=click.Choice(Label.LENGTHS),
    multiple=True,
    help="Length of a good answer; repeatable.  [default: all]",
)
@click.option("--min-complexity", type=click.IntRange(1, 10), default=1, show_default=True)
@click.option("--max-complexity", type=click.IntRange(1, 10), default=10, show_default=True)
@click.option("--size", type=click.IntRange(min=1), help="The most instructions to draw from them.")
@click.option("--balance", is_flag=True, help="Draw from one category after the other.")
@limit_option
def command(
    instructions: Path,
    out: Path,
    config: JudgeConfig,
    prompt_column: str | None,
    categories: tuple[str, ...],
    lengths: tuple[str, ...],
    min_complexity: int,
    max_complexity: int,
    size: int | None,
    balance: bool,
    limit: int | None,
) -> None:
    """Have a model label INSTRUCTIONS, and write those that have the wanted labels to selected.jsonl."""
    from fittest.runs.judge.select import select
    from fittest.runs.sources.instructions import read_instructions

    summary = select(
        read_instructions(instructions, column=prompt_column, limit=limit),
        config,
        out,
        wanted=Wanted(frozenset(categories), frozenset(lengths), min_complexity, max_complexity),
        size=size,
        balance=balance,
        inputs=[instructions],
    )
    say(f"{summary['selected']} of {summary['instructions']} instructions selected")
    for reason, count in summary["left_out"].items():
        say(f"  left out, {reason}: {count}")
    say(f"written: {out / 'selected.jsonl'}, {out / 'labels.parquet'}")
