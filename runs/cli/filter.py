"""`fittest filter`: RIP on responses that already have rewards."""

from __future__ import annotations

import math
from pathlib import Path

import click

from evo.errors import FittestError


@click.command("filter")
@click.argument("responses", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the results.")
@click.option("--prompt-column", default="prompt", show_default=True)
@click.option("--response-column", default="response", show_default=True)
@click.option("--reward-column", default="reward", show_default=True)
@click.option(
    "--quantile", type=click.FloatRange(0, 1, max_open=True), help="Share each metric may cut.  [default: 0.5]"
)
@click.option("--thresholds", type=click.Path(path_type=Path), help="thresholds.json of an earlier run or filter.")
@click.option("--min-reward", type=float, help="Least reward of the rejected response (m1).")
@click.option("--min-length", type=float, help="Least length of the rejected response (m2).")
@click.option("--max-gap", type=float, help="Largest reward gap (m3).")
@click.option("--length-unit", type=click.Choice(["chars", "words"]), default="chars", show_default=True)
@click.option("--reward-id", help="Name of the reward in thresholds.json.  [default: column:NAME]")
def command(
    responses: Path,
    out: Path,
    prompt_column: str,
    response_column: str,
    reward_column: str,
    quantile: float | None,
    thresholds: Path | None,
    min_reward: float | None,
    min_length: float | None,
    max_gap: float | None,
    length_unit: str,
    reward_id: str | None,
) -> None:
    """Keep the prompts of RESPONSES (Parquet, JSONL or CSV, one row per response) that pass rejection."""
    from evo.records import Thresholds
    from runs.filtering import filter_responses
    from runs.responses import Columns, read_responses
    from runs.thresholds import load_thresholds

    absolute = any(cut is not None for cut in (min_reward, min_length, max_gap))
    if (quantile is not None) + (thresholds is not None) + absolute > 1:
        raise FittestError(
            "give one of --quantile, --thresholds, or absolute cuts (--min-reward, --min-length, --max-gap)"
        )
    if not all(number is None or math.isfinite(number) for number in (quantile, min_reward, min_length, max_gap)):
        raise FittestError("cuts and quantiles must be finite numbers; leave an option out where it should not cut")
    reward_id = reward_id or f"column:{reward_column}"
    cuts, fitted_n = None, None
    if thresholds is not None:
        cuts, fitted_n = load_thresholds(thresholds, reward_id=reward_id, length_unit=length_unit)
    elif absolute:
        cuts = Thresholds("absolute", min_reward, min_length, max_gap)
    table = read_responses(responses, Columns(prompt=prompt_column, response=response_column, reward=reward_column))
    summary = filter_responses(
        table,
        out,
        reward_id=reward_id,
        length_unit=length_unit,
        quantile=0.5 if quantile is None else quantile,
        cuts=cuts,
        fitted_n=fitted_n,
    )
    for warning in summary["warnings"]:
        click.echo(f"warning: {warning}", err=True)
    for reason, count in summary["failures"].items():
        click.echo(f"missing: {count} rewards, {reason}", err=True)
    click.echo(f"{summary['survivors']} of {summary['seed_prompts']} prompts survive; results in {out}")
