"""`fittest filter` applies RIP, or a filter it was compared with, to responses that already have rewards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fittest.evo.errors import FittestError
from fittest.evo.records import METRICS, RIP_METRICS, MetricName, Range, Thresholds
from fittest.runs.cli.options import MODEL_FILTERS, MetricValues, response_options

if TYPE_CHECKING:
    from fittest.operators.policies import CutRule
    from fittest.runs.filters.scoring import Scoring
    from fittest.runs.sources.responses import Columns

_Value = TypeVar("_Value")


@click.command("filter")
@response_options
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the results.")
@click.option(
    "--quantile", type=click.FloatRange(0, 1, max_open=True), help="Share each metric may cut.  [default: 0.5]"
)
@click.option("--metrics", help="The metrics that are cut, joined by commas.  [default: m1,m2,m3]")
@click.option(
    "--percentiles",
    type=MetricValues(ranges=True),
    multiple=True,
    metavar="METRIC=LOW-HIGH",
    help="Surviving percentile range of one metric, such as m1=60-100; only the metrics named here are cut.",
)
@click.option("--thresholds", type=click.Path(path_type=Path), help="thresholds.json of an earlier run or filter.")
@click.option("--min-reward", type=float, help="Least reward of the rejected response (m1).")
@click.option("--min-length", type=float, help="Least length of the rejected response (m2).")
@click.option("--max-gap", type=float, help="Largest reward gap (m3).")
@click.option("--at-least", type=MetricValues(), multiple=True, metavar="METRIC=X", help="Least value of any metric.")
@click.option(
    "--at-most",
    type=MetricValues(),
    multiple=True,
    metavar="METRIC=X",
    help="Largest value of any metric; chosen_length=X guards against answers that grow longer and longer.",
)
@click.option(
    "--by",
    type=click.Choice(["rip", "random", "jaccard", *MODEL_FILTERS]),
    default="rip",
    show_default=True,
    help="RIP, or a filter that RIP was compared with; all but rip, random and jaccard ask --model.",
)
@click.option("--keep", metavar="LOW-HIGH", help="Surviving percentile range of what --by measures, such as 25-100.")
@click.option("--size", type=click.IntRange(min=1), help="With --by: the most prompts to keep, best scores first.")
@click.option(
    "--model",
    default="smollm2-135m",
    show_default=True,
    help="With --by: the model that it asks; vllm:MODEL runs it in vLLM.",
)
def command(
    responses: Path,
    out: Path,
    columns: Columns,
    scoring: Scoring,
    by: str,
    keep: str | None,
    size: int | None,
    model: str,
    **cuts: Any,
) -> None:
    """Keep the prompts of RESPONSES (Parquet, JSONL or CSV, one row per response) that pass rejection."""
    from fittest.runs.filters.filter import filter_by_rip, refuse_run_folder, write_filtered
    from fittest.runs.filters.scoring import score_table
    from fittest.runs.sources.responses import read_responses

    if by == "rip" and (keep or size):
        raise FittestError("--keep and --size go with --by; RIP's own cuts are --quantile, --percentiles and the like")
    if by not in ("rip", "random") and any(cut is not None and cut != () for cut in cuts.values()):
        raise FittestError(f"--by {by} has no use for RIP's cuts; it takes --keep and --size")
    refuse_run_folder(out)
    rule, metrics, fitted_n = _rule(scoring, **cuts)
    scored = score_table(read_responses(responses, columns), scoring)
    filtered = filter_by_rip(scored, rule, metrics)
    if fitted_n is not None and set(scored.rip.n[scored.has_metrics].tolist()) - {fitted_n}:
        filtered.warnings.append(
            f"the cuts were fitted to {fitted_n} responses per prompt; with another number m1 and m3 do not compare"
        )
    if by != "rip":
        from fittest.runs.filters.baselines import Workbench, filter_by_baseline

        # a random sample is a fair control only if it is as large as what RIP keeps
        if by == "random" and size is None:
            size = int(filtered.kept.sum())
        bench = Workbench(scored, model=model, journal_file=out / "journal.sqlite", seed=scoring.seed)
        filtered = filter_by_baseline(bench, by, keep=_percentiles(keep), size=size)
    summary = write_filtered(scored, filtered, out)
    for warning in summary["warnings"]:
        click.echo(f"warning: {warning}", err=True)
    for reason, count in summary["failures"].items():
        click.echo(f"missing: {count} rewards, {reason}", err=True)
    click.echo(f"{summary['survivors']} of {summary['seed_prompts']} prompts survive; results in {out}")


def _percentiles(keep: str | None) -> Range | None:
    from fittest.runs.config.selection import percentile_range

    if keep is None:
        return None
    low, _, high = keep.partition("-")
    try:
        return percentile_range("--keep", float(low), float(high))
    except ValueError as error:
        raise FittestError(f"--keep {keep}: write it as 25-100 ({error})") from None


def _rule(
    scoring: Scoring,
    *,
    quantile: float | None,
    metrics: str | None,
    percentiles: Sequence[tuple[MetricName, Range]],
    thresholds: Path | None,
    min_reward: float | None,
    min_length: float | None,
    max_gap: float | None,
    at_least: Sequence[tuple[MetricName, float]],
    at_most: Sequence[tuple[MetricName, float]],
) -> tuple[CutRule | Thresholds, list[MetricName], int | None]:
    """Return what makes the cuts, the metrics that are cut, and the number of responses that fitted a file's cuts."""
    from fittest.operators.policies import CutRule, levels_for
    from fittest.runs.config.selection import ranges_of
    from fittest.runs.output.thresholds import load_thresholds

    absolute = ranges_of({"m1": min_reward, "m2": min_length}, {"m3": max_gap})
    finite = (cut for cut in (quantile, min_reward, min_length, max_gap) if cut is not None)
    if not all(math.isfinite(cut) for cut in finite):
        raise FittestError("cuts and quantiles must be finite numbers; leave an option out where it should not cut")
    if (quantile is not None) + bool(percentiles) + (thresholds is not None) + bool(absolute) > 1:
        raise FittestError(
            "give one of --quantile, --percentiles, --thresholds, or absolute cuts"
            " (--min-reward, --min-length, --max-gap)"
        )
    if metrics is not None and (percentiles or absolute):
        raise FittestError(
            "--metrics goes with --quantile or --thresholds; the other cuts name their metrics themselves"
        )
    bounds = ranges_of(_once("--at-least", at_least), _once("--at-most", at_most))
    names = list(RIP_METRICS) if metrics is None else _names(metrics)
    if thresholds is not None:
        fitted = load_thresholds(
            thresholds, reward_id=scoring.full_reward_id, length_unit=scoring.length_unit, pairing=scoring.pairing
        )
        return Thresholds("absolute", fitted.cuts, bounds), list(fitted.cuts) if metrics is None else names, fitted.n
    if absolute:
        return Thresholds("absolute", absolute, bounds), list(absolute), None
    if percentiles:
        levels = _once("--percentiles", percentiles)
        return CutRule(levels, bounds), list(levels), None
    level = 0.5 if quantile is None else quantile
    return CutRule(levels_for(names, level), bounds, level), names, None


def _once(option: str, values: Sequence[tuple[MetricName, _Value]]) -> dict[MetricName, _Value]:
    """Return the values by metric; naming a metric twice in one option must be a mistake."""
    names = [name for name, _ in values]
    if twice := [name for name in names if names.count(name) > 1]:
        raise FittestError(f"{option} names {twice[0]} twice")
    return dict(values)


def _names(metrics: str) -> list[MetricName]:
    named = [part.strip() for part in metrics.split(",")]
    names = [name for name in METRICS if name in named]
    if unknown := [name for name in named if name not in METRICS]:
        raise FittestError(f"--metrics: {unknown[0]!r} is no metric; there are {', '.join(METRICS)}")
    return names
