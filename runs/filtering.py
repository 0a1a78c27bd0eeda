"""RIP on responses that already have rewards: which prompts of a table survive, with no model in sight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from evo.prompt import prompt_id
from evo.records import METRICS, MetricName, Thresholds
from fitness.metrics import RipMetrics, rip_metrics
from operators.policies import fit_quantile
from operators.rejection import failures
from runs.atomic import write_json, write_parquet
from runs.card import write_card
from runs.responses import ResponseTable
from runs.survivors import SURVIVOR_SCHEMA
from runs.thresholds import thresholds_record

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOO_FEW = "fewer than two scored responses"


def filter_responses(
    table: ResponseTable,
    out: Path,
    *,
    reward_id: str,
    length_unit: str = "chars",
    metrics: Sequence[MetricName] = METRICS,
    quantile: float | None = 0.5,
    cuts: Thresholds | None = None,
    fitted_n: int | None = None,
) -> dict[str, Any]:
    """Write survivors.parquet, rejected.parquet, thresholds.json, summary.json and card.md.

    Args:
        table: the responses.
        out: the folder; files of these names in it are replaced.
        reward_id: names the reward in thresholds.json.
        length_unit: of m2, "chars" or "words".
        metrics: those that count.
        quantile: fits the cuts to this table, unless `cuts` are given.
        cuts: thresholds known beforehand.
        fitted_n: responses per prompt that the cuts were fitted to; another number here is a warning.

    Returns:
        The summary.
    """
    rip = rip_metrics(table.frame["reward"].to_numpy(), table.lengths(length_unit), table.counts)
    scored = rip.n >= 2
    if cuts is None:
        cuts = fit_quantile(rip.values[scored], 0.5 if quantile is None else quantile, "quantile")
    failed = failures(rip.values, cuts, metrics)
    survived = scored & ~failed.any(axis=1)
    prompts = _prompts(table, rip)
    survivors = prompts.filter(survived).select(*SURVIVOR_SCHEMA)
    write_parquet(out / "survivors.parquet", survivors)
    write_parquet(out / "rejected.parquet", _rejected(prompts, failed, scored).filter(~survived))
    n = set(rip.n[scored].tolist())
    record = thresholds_record(cuts, n=n.pop() if len(n) == 1 else None, length_unit=length_unit, reward_id=reward_id)
    write_json(out / "thresholds.json", record)
    summary = _summary(table, rip, survivors)
    if fitted_n is not None and set(rip.n[scored].tolist()) - {fitted_n}:
        summary["warnings"].append(
            f"the cuts were fitted to {fitted_n} responses per prompt; with another number m1 and m3 do not compare"
        )
    write_json(out / "summary.json", summary)
    write_card(out)
    return summary


def _prompts(table: ResponseTable, rip: RipMetrics) -> pl.DataFrame:
    """One row per prompt, with its chosen and rejected response; nulls where there are no metrics."""
    frame, starts = table.frame, table.starts
    chosen = pl.Series(np.where(rip.chosen >= 0, rip.chosen, 0)).cast(pl.UInt32)
    rejected = pl.Series(np.where(rip.rejected >= 0, rip.rejected, 0)).cast(pl.UInt32)
    first = frame[pl.Series(starts).cast(pl.UInt32)]
    there = rip.n >= 2
    prompts = pl.DataFrame({
        "prompt_id": [prompt_id(text) for text in first["prompt"]],
        "prompt": first["prompt"],
        "slot": np.arange(len(starts)),
        "source": first["source"] if "source" in frame.columns else [None] * len(starts),
        "licence": first["licence"] if "licence" in frame.columns else [None] * len(starts),
        "chosen": frame["response"][chosen],
        "rejected": frame["response"][rejected],
        "chosen_reward": frame["reward"][chosen],
        "rejected_reward": rip.m1,
        "rejected_length": pl.Series(rip.m2).fill_nan(None).cast(pl.Int64),
        "reward_gap": rip.m3,
        "n": rip.n,
        "n_drawn": table.counts,
        "there": there,
    }, schema_overrides={"source": pl.String, "licence": pl.String})  # fmt: skip
    of_pair = ("chosen", "rejected", "chosen_reward", "rejected_reward", "rejected_length", "reward_gap")
    nobody = pl.lit([], dtype=pl.List(pl.String))
    return prompts.with_columns(pl.when("there").then(name).alias(name) for name in of_pair).with_columns(
        generation=pl.lit(0, dtype=pl.Int64),
        operator=pl.lit("pool"),
        parents=nobody,
        exemplars=nobody,
        diversity=pl.lit(None, dtype=pl.Float64),
        in_population=pl.lit(True),
    )


def _rejected(prompts: pl.DataFrame, failed: NDArray[np.bool_], scored: NDArray[np.bool_]) -> pl.DataFrame:
    names = [[name for name, fails in zip(METRICS, row, strict=True) if fails] for row in failed.tolist()]
    reasons = [
        TOO_FEW if not enough else f"failed {', '.join(metrics)}"
        for enough, metrics in zip(scored.tolist(), names, strict=True)
    ]
    return prompts.select(
        "prompt_id", "prompt", "slot", "source", "licence", pl.col("rejected_reward").alias("m1"),
        pl.col("rejected_length").alias("m2"), pl.col("reward_gap").alias("m3"), "n", "n_drawn",
        failed_metrics=pl.Series(names, dtype=pl.List(pl.String)), reason=pl.Series(reasons, dtype=pl.String),
    )  # fmt: skip


def _summary(table: ResponseTable, rip: RipMetrics, survivors: pl.DataFrame) -> dict[str, Any]:
    numbers = Counter(rip.n.tolist())
    mixed = {str(n): count for n, count in sorted(numbers.items())}
    too_few = int((rip.n < 2).sum())
    warnings = []
    if len(mixed) > 1:
        counts = ", ".join(f"{count} with {n}" for n, count in mixed.items())
        warnings.append(f"prompts differ in their number of scored responses ({counts}); their metrics do not compare")
    if table.without_prompt:
        warnings.append(f"{table.without_prompt} rows have no prompt and were left out")
    if too_few:
        warnings.append(f"{too_few} prompts have {TOO_FEW} and did not enter the cuts")
    reasons = table.frame["reason"].drop_nulls().value_counts().sort("reason")
    return {
        "seed_prompts": len(table.counts),
        "survivors": survivors.height,
        "rejected": len(table.counts) - survivors.height,
        "pairs_skipped": survivors.filter(pl.col("chosen") == pl.col("rejected")).height,
        "rollouts": table.frame.height,
        "scored_responses": mixed,
        "failures": dict(zip(reasons["reason"].to_list(), reasons["count"].to_list(), strict=True)),
        "warnings": warnings,
    }
