"""`fittest ablate` compares every filter and cut on one response table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fittest.evo.errors import FittestError
from fittest.evo.visible import visible
from fittest.runs.cli.options import MODEL_FILTERS, response_options
from fittest.runs.cli.paths import PATH
from fittest.runs.terminal import say

if TYPE_CHECKING:
    from fittest.runs.filters.scoring import Scoring
    from fittest.runs.sources.responses import Columns


@click.command("ablate")
@response_options
@click.option("--out", type=PATH, required=True, help="Folder for table and figure.")
@click.option(
    "--audit-reward", metavar="COLUMN", help="Measure what was kept by another reward, which no filter sees."
)
@click.option(
    "--with",
    "model_filters",
    type=click.Choice(MODEL_FILTERS),
    multiple=True,
    help="Add a filter that asks --model; repeatable.",
)
@click.option("--model", default="smollm2-135m", show_default=True, help="The model that --with asks.")
@click.option("--limit", type=click.IntRange(min=1), help="Read only this many prompts, from the first.")
def command(
    responses: tuple[Path, ...],
    generations: tuple[int, ...],
    columns: Columns,
    scoring: Scoring,
    out: Path,
    audit_reward: str | None,
    model_filters: tuple[str, ...],
    model: str,
    limit: int | None,
) -> None:
    """Compare what every filter and cut keeps of RESPONSES (a run, or Parquet, JSONL or CSV, one row per response)."""
    from dataclasses import replace

    from fittest.runs.filters.ablate import ablate, shown_rows
    from fittest.runs.filters.ablate_figure import write_figure
    from fittest.runs.output.repeatability import repeatability_in_words
    from fittest.runs.sources.run_responses import gather_responses

    if audit_reward is not None and audit_reward in columns.rewards:
        raise FittestError(f"--audit-reward {audit_reward}: is the reward that filters; an audit needs another one")
    table, audit = gather_responses(responses, columns, generations=generations).first_prompts(limit), None
    scoring = scoring.named(table, columns)
    if audit_reward is not None:
        # read from the same files, the rows of both tables stand in the same order
        others = replace(columns, rewards={audit_reward: 1.0})
        other = gather_responses(responses, others, generations=generations).first_prompts(limit)
        audit = other.frame["reward"].to_numpy()
    found = ablate(table, scoring, out, audit=audit, model_filters=model_filters, model=model, seed=scoring.seed)
    for warning in found.warnings:
        say(f"warning: {warning}", err=True)
    for line in repeatability_in_words({"repeatability": found.repeatability}):
        say(line)
    _show(*shown_rows(found.table, narrow=True))
    say(f"table: {out / 'ablation.parquet'}, {out / 'ablation.md'}")
    write_figure(found.table, out / "ablation.html")
    say(f"figure: {out / 'ablation.html'}")


def _show(titles: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column, title in enumerate(titles):
        # on a narrow terminal the names are folded, never the figures
        widest = max(len(row[column]) for row in rows)
        table.add_column(
            Text(visible(title).replace(" ", "\n")),
            justify="right" if column else "left",
            no_wrap=column > 0,
            min_width=widest if column else None,
        )
    for row in rows:
        # plain text: in a string, rich obeys markup
        table.add_row(*(Text(visible(cell)) for cell in row))
    Console().print(table)
