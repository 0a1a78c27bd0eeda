"""`fittest judge pairs` makes synthetic pairs of which the better answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fittest.runs.cli.judge.options import configured, limit_option, out_option, prompt_column_option
from fittest.runs.cli.paths import PATH
from fittest.runs.terminal import say

if TYPE_CHECKING:
    from fittest.fitness.judge.construction import Variant
    from fittest.runs.judge.config import JudgeConfig


@click.command("pairs")
@click.argument("instructions", type=PATH)
@out_option
@configured
@prompt_column_option
@click.option(
    "--variant",
    type=click.Choice(["modified", "modified-in-two-steps", "worse"]),
    default="modified",
    show_default=True,
    help="The loser answers a changed instruction, which is written in the same reply or in one before it; or the"
    " engine is asked for a worse answer.",
)
@click.option(
    "--held-out", type=click.FloatRange(0, 0.9), default=0.1, show_default=True, help="Share of pairs to hold out."
)
@click.option("--agree-reward", metavar="head|MODEL", help="Keep pairs whose winner has the higher reward.")
@click.option("--agree-judge", is_flag=True, help="Keep pairs whose winner the engine prefers in both orders.")
@limit_option
def command(
    instructions: Path,
    out: Path,
    config: JudgeConfig,
    prompt_column: str | None,
    variant: Variant,
    held_out: float,
    agree_reward: str | None,
    agree_judge: bool,
    limit: int | None,
) -> None:
    """Make one pair for each of INSTRUCTIONS: the winner answers it, the loser answers a similar instruction."""
    from fittest.runs.judge.judges import reward_named
    from fittest.runs.judge.pairs import make_pairs
    from fittest.runs.sources.instructions import read_instructions

    summary = make_pairs(
        read_instructions(instructions, column=prompt_column, limit=limit),
        config,
        out,
        variant=variant,
        held_out=held_out,
        reward=None if agree_reward is None else reward_named(agree_reward),
        judge_agrees=agree_judge,
        inputs=[instructions],
    )
    say(f"{summary['pairs']} pairs and {summary['held_out']} held out, of {summary['instructions']} instructions")
    for reason, count in summary["rejected"].items():
        say(f"  left out, {reason}: {count}")
    say(f"written: {out / 'pairs.jsonl'}, {out / 'held_out.jsonl'}; examples: {out / 'report.md'}")
