"""Says which prompts a filter keeps, and writes this as the tables that a run would write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from fittest.evo.records import RIP_METRICS, MetricName, Thresholds
from fittest.operators.policies import CutRule
from fittest.operators.rejection import failure_names, failures
from fittest.runs.filters.repeated import Repeated
from fittest.runs.filters.scoring import ScoredTable
from fittest.runs.output.atomic import write_json, write_parquet
from fittest.runs.output.card import write_card
from fittest.runs.output.survivors import SURVIVOR_SCHEMA
from fittest.runs.output.thresholds import thresholds_record
from fittest.runs.output.together import replaced_together

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOO_FEW = "fewer than two scored responses"


@dataclass(frozen=True)
class Filtered:
    """Says which prompts of a table a filter keeps, and why it rejects the others.

    Attributes:
        kept: whether each prompt is kept, shape (prompts,).
        reasons: why each prompt was rejected, in words; ignored for a prompt that is kept.
        failed: the failed metrics of each prompt; None for filters that use no metrics.
        thresholds: the cuts; None for filters without cuts.
        scores: the filter's own score of each prompt, shape (prompts,); None for filters that use the metrics.
        warnings: what a reader should know.
        band: the band of a filter that keeps one, as in thresholds.json.
        dynamic_sampling: what dynamic sampling would have drawn, as in summary.json; None for other filters.
        repeated: how far the table repeats itself under this filter; None leaves it out of the tables.
    """

    kept: NDArray[np.bool_]
    reasons: Sequence[str]
    failed: Sequence[tuple[str, ...]] | None = None
    thresholds: Thresholds | None = None
    scores: NDArray[np.float64] | None = None
    warnings: list[str] = field(default_factory=list)
    band: Mapping[str, Any] | None = None
    dynamic_sampling: Mapping[str, Any] | None = None
    repeated: Repeated | None = None


def filter_by_rip(
    scored: ScoredTable, rule: CutRule | Thresholds, metrics: Sequence[MetricName] = RIP_METRICS
) -> Filtered:
    """Keeps each prompt whose metrics lie inside their cuts (RIP, arXiv 2501.18578).

    Args:
        scored: the responses with their metrics.
        rule: a rule that fits the cuts to the prompts with metrics, or cuts that are known beforehand.
        metrics: the metrics that are cut.
    """
    values, there = scored.rip.values, scored.has_metrics
    thresholds = rule.fit(values[there], "quantile") if isinstance(rule, CutRule) else rule
    failed = failures(values, thresholds, metrics)
    names = failure_names(failed)
    reasons = [
        f"failed {', '.join(failed)}" if enough else TOO_FEW
        for enough, failed in zip(there.tolist(), names, strict=True)
    ]
    return Filtered(there & ~failed.any(axis=1), reasons, names, thresholds)


def write_filtered(scored: ScoredTable, filtered: Filtered, out: Path) -> dict[str, Any]:
    """Writes survivors.parquet, rejected.parquet, thresholds.json, summary.json and card.md.

    Args:
        scored: the responses with their metrics.
        filtered: what a filter keeps of them.
        out: the folder; files of these names in it are replaced, all of them together.

    Returns:
        The content of summary.json.
    """
    # thresholds.json of an earlier filter would be read as the cuts of this one, which may have none
    with replaced_together(out, without=["thresholds.json"]) as new:
        return _write(scored, filtered, new, title=out.resolve().name)


def _write(scored: ScoredTable, filtered: Filtered, out: Path, *, title: str) -> dict[str, Any]:
    prompts, again = _prompts(scored), _again(filtered)
    survivors = prompts.select(*SURVIVOR_SCHEMA).hstack(again).filter(filtered.kept)
    write_parquet(out / "survivors.parquet", survivors)
    write_parquet(out / "rejected.parquet", _rejected(prompts, filtered, again))
    if filtered.thresholds is not None:
        n = set(scored.rip.n[scored.has_metrics].tolist())
        record = thresholds_record(
            filtered.thresholds,
            # cuts fitted to mixed numbers of responses compare with no single number
            n=n.pop() if len(n) == 1 else None,
            length_unit=scored.scoring.length_unit,
            reward_id=scored.scoring.full_reward_id,
            pairing=scored.scoring.pairing,
        )
        write_json(out / "thresholds.json", record if filtered.band is None else {**record, "band": filtered.band})
    repeated = [] if filtered.repeated is None else filtered.repeated.warnings
    nothing = [] if survivors.height else ["no prompt survives"]
    summary = _summary(scored, survivors, [*filtered.warnings, *repeated, *nothing])
    if filtered.dynamic_sampling is not None:
        summary["dynamic_sampling"] = filtered.dynamic_sampling
    if filtered.repeated is not None:
        summary["repeatability"] = filtered.repeated.repeatability
        if filtered.repeated.min_probability is not None:
            summary["min_probability"] = filtered.repeated.min_probability
    write_json(out / "summary.json", summary)
    write_card(out, title=title)
    return summary


def _prompts(scored: ScoredTable) -> pl.DataFrame:
    """Returns one row per prompt, with its chosen and rejected response; a prompt without metrics has nulls there."""
    frame, rip = scored.table.frame, scored.rip
    first = frame[pl.Series(scored.table.starts).cast(pl.UInt32)]
    nobody = [None] * first.height
    prompts = pl.DataFrame({
        "prompt_id": scored.prompt_ids,
        "prompt": first["prompt"],
        "slot": np.arange(first.height),
        "source": first["source"] if "source" in frame.columns else nobody,
        "licence": first["licence"] if "licence" in frame.columns else nobody,
        "chosen": scored.chosen,
        "rejected": scored.rejected,
        "chosen_reward": _known(rip.of("chosen_reward")),
        "rejected_reward": _known(rip.of("m1")),
        "rejected_length": _known(rip.of("m2")).cast(pl.Int64),
        "reward_gap": _known(rip.of("m3")),
        "n": rip.n,
        "n_drawn": scored.table.counts,
        "chosen_truncated": scored.at(rip.chosen, "truncated"),
        "rejected_truncated": scored.at(rip.rejected, "truncated"),
        "reward_id": _reward_ids(scored),
    }, schema_overrides=dict.fromkeys(("source", "licence", "chosen", "rejected"), pl.String)).with_columns(
        generation=pl.lit(0, dtype=pl.Int64),
        # a table does not tell which of its responses were drawn together
        draws=pl.lit(None, dtype=pl.Int64),
        draws_passed=pl.lit(None, dtype=pl.Int64),
        operator=pl.lit("pool"),
        parents=pl.lit([], dtype=pl.List(pl.String)),
        exemplars=pl.lit([], dtype=pl.List(pl.String)),
        diversity=pl.lit(None, dtype=pl.Float64),
        in_population=pl.lit(True),
    )  # fmt: skip
    births = scored.table.births
    # of a prompt that a run has written, the run knows better
    return prompts if births is None else prompts.update(births, on="prompt", how="left")


def _reward_ids(scored: ScoredTable) -> pl.Series:
    """Returns the name of each prompt's reward, as far as the table or the user names it; of several, all names."""
    table = scored.table
    if "reward_id" not in table.frame.columns:
        return pl.Series([None] * len(table.counts), dtype=pl.String)
    named = table.frame.select("reward_id", prompt=pl.Series(np.repeat(np.arange(len(table.counts)), table.counts)))
    names = named.group_by("prompt", maintain_order=True).agg(pl.col("reward_id").drop_nulls().unique().sort())
    joined = names["reward_id"].list.join("+")
    return pl.select(pl.when(names["reward_id"].list.len() > 0).then(joined + scored.scoring.suffix)).to_series()


def _known(values: NDArray[np.float64]) -> pl.Series:
    return pl.Series(values).fill_nan(None)


def _again(filtered: Filtered) -> list[pl.Series]:
    """Returns the columns that say how likely each prompt would be kept again; none where nobody has asked."""
    if filtered.repeated is None:
        return []
    columns = ("keep_share", "keep_probability")
    return [_known(getattr(filtered.repeated, name)).alias(name) for name in columns]


def _rejected(prompts: pl.DataFrame, filtered: Filtered, again: list[pl.Series]) -> pl.DataFrame:
    failed = filtered.failed or [()] * prompts.height
    frame = prompts.select(
        "prompt_id", "prompt", "slot", "source", "licence", pl.col("rejected_reward").alias("m1"),
        pl.col("rejected_length").alias("m2"), pl.col("reward_gap").alias("m3"), "n", "n_drawn",
        failed_metrics=pl.Series(failed, dtype=pl.List(pl.String)),
        reason=pl.Series(filtered.reasons, dtype=pl.String),
    )  # fmt: skip
    if filtered.scores is not None:
        frame = frame.with_columns(score=_known(filtered.scores))
    return frame.hstack(again).filter(~filtered.kept)


def _summary(scored: ScoredTable, survivors: pl.DataFrame, warnings: Sequence[str]) -> dict[str, Any]:
    table = scored.table
    reasons = table.frame["reason"].drop_nulls().value_counts().sort("reason")
    return {
        "seed_prompts": len(table.counts),
        "survivors": survivors.height,
        "rejected": len(table.counts) - survivors.height,
        "pairs_skipped": survivors.filter(pl.col("chosen").eq_missing(pl.col("rejected"))).height,
        "rollouts": table.frame.height,
        "scored_responses": {str(n): count for n, count in _numbers(scored).items()},
        "failures": dict(zip(reasons["reason"].to_list(), reasons["count"].to_list(), strict=True)),
        "warnings": [*table_warnings(scored), *warnings],
        **({} if table.system is None else {"system": table.system}),
    }


def table_warnings(scored: ScoredTable) -> list[str]:
    """Returns what a reader should know about the table itself, whichever filter is used."""
    said, numbers = list(scored.table.warnings), _numbers(scored)
    too_few = sum(count for n, count in numbers.items() if n < 2)
    if len(numbers) > 1:
        counts = ", ".join(f"{count} with {n}" for n, count in numbers.items())
        said.append(f"prompts differ in their number of scored responses ({counts}); their metrics do not compare")
    if scored.table.without_prompt:
        said.append(f"{scored.table.without_prompt} rows have no prompt and were left out")
    if len(ids := scored.table.reward_ids) > 1:
        said.append(
            f"the rewards are of {len(ids)} judges ({', '.join(ids)}) and do not compare; reward_id says whose each is"
        )
    if too_few:
        said.append(f"{too_few} prompts have {TOO_FEW} and did not enter the cuts")
    return said


def _numbers(scored: ScoredTable) -> dict[int, int]:
    """Returns how many prompts have each number of scored responses."""
    return dict(sorted(Counter(scored.rip.n.tolist()).items()))
