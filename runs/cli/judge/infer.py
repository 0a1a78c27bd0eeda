"""`fittest judge infer` says which answer of each pair a judge prefers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fittest.evo.errors import FittestError
from fittest.runs.cli.judge.options import configured, likelihood_option, limit_option, out_option, reward_option
from fittest.runs.cli.paths import PATH
from fittest.runs.terminal import say

if TYPE_CHECKING:
    from fittest.runs.judge.config import JudgeConfig


@click.command("infer")
@click.argument("pairs", type=PATH)
@out_option
@configured
@likelihood_option
@reward_option
@limit_option
def command(
    pairs: Path, out: Path, config: JudgeConfig, likelihood: bool, reward: str | None, limit: int | None
) -> None:
    """Judge PAIRS in both orders and write verdicts.parquet; no label is needed.

    PAIRS has instruction, response_a and response_b, or is in any layout that `eval` reads. An answer wins when both
    orders name it; when they disagree, there is no winner.
    """
    from fittest.runs.judge.eval import Judged
    from fittest.runs.output.places import claimed
    from fittest.runs.sources.pair_file import read_pairs

    if likelihood and reward is not None:
        raise FittestError("give one of --likelihood and --reward")
    table = read_pairs(pairs, labelled=False, limit=limit)
    for warning in table.warnings:
        say(f"warning: {pairs}: {warning}", err=True)
    with claimed(out, "judge eval", inputs=[pairs]) as claim:
        judged = Judged.as_asked(table.pairs, config, out, likelihood=likelihood, reward=reward, held=claim.held)
        claim.held.check()
        found = judged.write_verdicts(out, table)
    say(
        f"of {found['pairs']} pairs A wins {found['a_wins']}, B {found['b_wins']}; the orders disagree on"
        f" {found['orders_disagree']}, {found['no_verdict']} lack a verdict"
    )
    if found["chose_first"] is not None:
        say(f"{found['chose_first']:.0f} % of the verdicts name the answer shown first")
    say(f"written: {out / 'verdicts.parquet'}, {out / 'summary.json'}")
