"""`fittest filter` applies RIP, or a filter it was compared with, to responses that already have rewards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fittest.evo.errors import FittestError
from fittest.evo.records import METRICS, MetricName
from fittest.runs.cli.options import MODEL_FILTERS, MetricValues, response_options
from fittest.runs.cli.paths import PATH
from fittest.runs.terminal import say

if TYPE_CHECKING:
    from fittest.runs.filters.scoring import Scoring
    from fittest.runs.sources.responses import Columns

_Value = TypeVar("_Value")


@click.command("filter")
@response_options
@click.option("--out", type=PATH, required=True, help="Folder for the results.")
@click.option(
    "--quantile",
    type=click.FloatRange(0, 1, max_open=True),
    help="Share each metric may cut.  [default: 0.5, or the run's]",
)
@click.option("--metrics", help="The metrics that are cut, joined by commas.  [default: m1,m2,m3, or the run's]")
@click.option(
    "--percentiles",
    type=MetricValues(ranges=True),
    multiple=True,
    metavar="METRIC=LOW-HIGH",
    help="Surviving percentile range of one metric, such as m1=60-100; only the metrics named here are cut.",
)
@click.option("--thresholds", type=PATH, help="thresholds.json of an earlier run or filter.")
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
    "--min-probability",
    type=float,
    help="Keep the prompts that would pass these cuts again with at least this probability (keep_probability).",
)
@click.option(
    "--keep-band",
    metavar="LOW-HIGH",
    help="In place of RIP's cuts: range of the mean reward, or with --pass-at of the pass rate, such as 0.2-0.8.",
)
@click.option("--pass-at", type=float, help="With --keep-band: least reward of a response that passes.")
@click.option(
    "--keep-spread", metavar="LOW-HIGH", help="Range of the standard deviation of a prompt's rewards, such as 0.1-inf."
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
    responses: Sequence[Path],
    generations: Sequence[int],
    out: Path,
    columns: Columns,
    scoring: Scoring,
    by: str,
    min_probability: float | None,
    keep_band: str | None,
    pass_at: float | None,
    keep_spread: str | None,
    keep: str | None,
    size: int | None,
    model: str,
    metrics: str | None,
    percentiles: Sequence[tuple[MetricName, tuple[float, float]]],
    at_least: Sequence[tuple[MetricName, float]],
    at_most: Sequence[tuple[MetricName, float]],
    **cuts: Any,
) -> None:
    """Keep the prompts of RESPONSES (a run, or Parquet, JSONL or CSV, one row per response) that pass rejection."""
    from fittest.runs.filters.band import Band, ends_of
    from fittest.runs.filters.cuts import By, Cuts
    from fittest.runs.filters.filter import filter
    from fittest.runs.output.repeatability import repeatability_in_words

    if by == "rip" and (keep or size):
        raise FittestError("--keep and --size go with --by; RIP's own cuts are --quantile, --percentiles and the like")
    band = Band(
        keep=None if keep_band is None else ends_of("--keep-band", keep_band),
        pass_at=pass_at,
        spread=None if keep_spread is None else ends_of("--keep-spread", keep_spread),
    )
    result = filter(
        responses,
        out,
        columns=columns,
        scoring=scoring,
        cuts=Cuts(
            metrics=None if metrics is None else _names(metrics),
            percentiles=_once("--percentiles", percentiles),
            at_least=_once("--at-least", at_least),
            at_most=_once("--at-most", at_most),
            **cuts,
        ),
        generations=generations,
        by=None if by == "rip" else By(name=by, keep=_percentiles(keep), size=size, model=model),
        band=None if band == Band() else band,
        min_probability=min_probability,
    )
    for warning in result.summary["warnings"]:
        say(f"warning: {warning}", err=True)
    for reason, count in result.summary["failures"].items():
        say(f"missing: {count} rewards, {reason}", err=True)
    sampling = result.summary.get("dynamic_sampling")
    if sampling is not None and sampling["batch"]:
        expected = sampling["expected_prompts"]
        drawn = "find none of them" if expected is None else f"draw about {expected:.0f} prompts"
        say(f"dynamic sampling would {drawn} for a batch of {sampling['batch']} that teach something")
    for line in repeatability_in_words(result.summary):
        say(line)
    say(f"{result.summary['survivors']} of {result.summary['seed_prompts']} prompts survive; results in {out}")


def _percentiles(keep: str | None) -> tuple[float, float] | None:
    from fittest.runs.config.selection import percentile_range

    if keep is None:
        return None
    low, _, high = keep.partition("-")
    try:
        ends = float(low), float(high)
        percentile_range("--keep", *ends)
    except ValueError as error:
        raise FittestError(f"--keep {keep}: write it as 25-100 ({error})") from None
    return ends


def _once(option: str, values: Sequence[tuple[MetricName, _Value]]) -> dict[MetricName, _Value]:
    """Returns the values by metric; naming a metric twice in one option must be a mistake."""
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
