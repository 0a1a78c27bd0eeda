"""`fittest judge eval` measures the pairwise accuracy of a judge in both orders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fittest.evo.errors import FittestError
from fittest.runs.cli.judge.options import configured, likelihood_option, limit_option, out_option, reward_option
from fittest.runs.cli.paths import PATH
from fittest.runs.terminal import say

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fittest.fitness.judge.accuracy import Figures
    from fittest.runs.judge.config import JudgeConfig


@click.command("eval")
@click.argument("pairs", type=PATH)
@out_option
@configured
@click.option("--recorded", is_flag=True, help="Measure the verdicts that the file holds; no model is asked.")
@likelihood_option
@reward_option
@limit_option
def command(
    pairs: Path,
    out: Path,
    config: JudgeConfig,
    recorded: bool,
    likelihood: bool,
    reward: str | None,
    limit: int | None,
) -> None:
    """Judge PAIRS and write eval.json, with the accuracy in per cent by subset.

    It holds the accuracy in order AB, in order BA, their mean, and the share of pairs judged rightly in both orders.
    PAIRS is Parquet, JSON lines or CSV in the layout of LLMBar, PandaLM, HH-RLHF, RewardBench, MT-Bench or HelpSteer2.
    """
    from fittest.runs.judge.eval import Judged
    from fittest.runs.output.places import claimed
    from fittest.runs.sources.pair_file import read_pairs

    if (recorded + likelihood + (reward is not None)) > 1:
        raise FittestError("give one of --recorded, --likelihood and --reward")
    table = read_pairs(pairs, limit=limit)
    for warning in table.warnings:
        say(f"warning: {pairs}: {warning}", err=True)
    with claimed(out, "judge eval", inputs=[pairs]) as claim:
        judged = (
            Judged.recorded(table, pairs)
            if recorded
            else Judged.as_asked(table.pairs, config, out, likelihood=likelihood, reward=reward, held=claim.held)
        )
        claim.held.check()
        figures = judged.write_evaluation(out, table, seed=config.judge.seed)
    _show(figures)
    say(f"written: {out / 'eval.json'}, {out / 'verdicts.parquet'}")


def _show(figures: dict[str, Figures]) -> None:
    """Prints a line for each subset, as wide as necessary: a figure that is wrapped over two lines cannot be read."""
    shown = {title: key for title, key in _SHOWN.items() if all(key in row for row in figures.values())}
    titles = ("subset", *shown, "no verdict", "pairs")
    rows = [titles, *(_cells(name, row, shown.values()) for name, row in figures.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(titles))]
    for name, *cells in rows:
        line = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        say(f"{name.ljust(widths[0])}  {line}")


_SHOWN = {"AB": "ab", "BA": "ba", "mean": "mean", "both": "consistent", "averaged": "averaged"}


def _cells(name: str, row: Figures, keys: Iterable[str]) -> tuple[str, ...]:
    shares = (f"{row[key]:.1f} ({row[f'{key}_low']:.1f}–{row[f'{key}_high']:.1f})" for key in keys)
    unread = int(row["unread_ab"] or 0) + int(row["unread_ba"] or 0)
    return (name, *shares, f"{unread}", f"{row['n']}")
