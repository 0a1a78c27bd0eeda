"""`fittest judge annotate` makes training judgments by rejection sampling."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fittest.runs.cli.judge.options import configured, limit_option, out_option
from fittest.runs.cli.paths import PATH
from fittest.runs.terminal import say

if TYPE_CHECKING:
    from fittest.runs.judge.config import JudgeConfig


@click.command("annotate")
@click.argument("pairs", type=PATH)
@out_option
@configured
@click.option(
    "--force", is_flag=True, help="Draw A or B, by the model's own odds, for each judgment that has no verdict."
)
@click.option(
    "--iteration",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of this annotation; it is part of the seeds, and is written to agreement.json.",
)
@limit_option
def command(pairs: Path, out: Path, config: JudgeConfig, force: bool, iteration: int, limit: int | None) -> None:
    """Sample judgments of PAIRS, and write those that agree with the labels to train.jsonl."""
    from fittest.evo.seeds import SeedTree
    from fittest.fitness.judge.annotation import evenly_placed
    from fittest.fitness.judge.likelihood import TransformersVerdicts
    from fittest.runs.asking import journal_at
    from fittest.runs.judge.annotate import annotate, summary_line
    from fittest.runs.judge.judges import transformers_engine
    from fittest.runs.output.places import claimed
    from fittest.runs.parts.engines import backend_of
    from fittest.runs.sources.pair_file import read_pairs

    table = read_pairs(pairs, limit=limit)
    # a forced verdict needs the model's own odds, which only engines of kind transformers give
    engine = transformers_engine(config.engine) if force else backend_of(config.engine)
    with (
        claimed(out, "judge annotate", inputs=[pairs]) as claim,
        journal_at(out / "journal.sqlite", claim.held) as journal,
    ):
        found = annotate(
            evenly_placed(table.pairs, SeedTree(config.judge.seed)),
            config,
            out,
            engine=engine,
            journal=journal,
            forcing=TransformersVerdicts(engine) if force else None,
            iteration=iteration,
        )
    say(summary_line(found))
    say(f"written: {out / 'train.jsonl'}, {out / 'preferences.jsonl'}, {out / 'agreement.json'}")
