"""Every filter and cut over one response table, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from fittest.evo.records import METRICS, RIP_METRICS, MetricName, Range
from fittest.fitness.pairing import BEST_WORST
from fittest.operators.policies import CutRule, levels_for
from fittest.runs.filters.baselines import BASELINES, Workbench, baseline_verdict
from fittest.runs.filters.filter import refuse_run_folder, rip_verdict, table_warnings
from fittest.runs.filters.scoring import ScoredTable, Scoring, score_table
from fittest.runs.output.atomic import write_json, write_parquet, write_text
from fittest.runs.sources.responses import ResponseTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

RIP = "RIP at 50 %"
SWEEP = ((10, 100), (25, 100), (50, 100), (60, 100), (75, 100))
"""Surviving percentiles of the paper's single-metric sweeps (Table 20)."""
SWEEP_FROM_ABOVE = ((0, 25), (0, 50), (50, 100))
"""The same for metrics of which small is good."""
PAIRINGS = ("best-random", "best-bottom:0.25", "best-bottom:0.5", "best-bottom:0.75")
RESAMPLES = 1000
"""Bootstrap samples of prompts behind each interval."""


@dataclass(frozen=True)
class Row:
    """One filter or cut, the prompts that it keeps, shape (prompts,), and what a reader should know of it."""

    group: str
    name: str
    kept: NDArray[np.bool_]
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Ablation:
    """The finished comparison, one row of `table` for each filter, in the order of `rows`."""

    table: pl.DataFrame
    warnings: list[str]


def ablate(
    responses: ResponseTable,
    scoring: Scoring,
    out: Path,
    *,
    audit: NDArray[np.float64] | None = None,
    model_filters: Sequence[str] = (),
    model: str = "smollm2-135m",
    seed: int = 0,
) -> Ablation:
    """Compare filters, and write ablation.parquet, ablation.md and summary.json.

    Args:
        responses: one row per response.
        scoring: how they become metrics.
        out: the folder; a model's replies and likelihoods are kept in its journal.sqlite.
        audit: another reward of every response, NaN where missing, which no filter sees, shape (responses,).
        model_filters: filters of `BASELINES` that ask the model.
        model: that they ask.
        seed: of all draws.
    """
    refuse_run_folder(out)
    scored = score_table(responses, scoring)
    bench = Workbench(scored, model=model, journal_file=out / "journal.sqlite", seed=seed)
    rows = list(_rows(scored, bench, model_filters))
    warnings = [*table_warnings(scored), *(warning for row in rows for warning in row.warnings)]
    rip = next(row.kept for row in rows if row.name == RIP)
    warnings += [f"{row.name}: keeps no prompt" for row in rows if not row.kept.any()]
    plain = score_table(responses, replace(scoring, pairing=BEST_WORST.name))
    measured = [_measured(row, plain, rip, audit, seed) for row in rows]
    table = pl.DataFrame(measured, infer_schema_length=None)
    ablation = Ablation(table, warnings)
    write_parquet(out / "ablation.parquet", table)
    write_text(out / "ablation.md", markdown(table))
    write_json(out / "summary.json", {
        "prompts": len(responses.counts), "filters": table.height, "reward_id": scoring.full_reward_id,
        "length_unit": scoring.length_unit, "pairing": scoring.pairing, "seed": seed,
        "model": model if model_filters else None, "warnings": ablation.warnings,
    })  # fmt: skip
    return ablation


def _rows(scored: ScoredTable, bench: Workbench, model_filters: Sequence[str]) -> Iterator[Row]:
    yield Row("none", "no filter", scored.has_metrics)
    for level in (25, 50, 75):
        name = RIP if level == 50 else f"RIP at {level} %"
        yield Row("RIP", name, _kept(scored, levels_for(RIP_METRICS, level / 100)))
    for pair in (("m1", "m2"), ("m1", "m3"), ("m2", "m3")):
        yield Row("pair", f"{pair[0]}, {pair[1]} at 50 %", _kept(scored, levels_for(pair, 0.5)))
    for metric in METRICS:
        small_is_good = levels_for([metric], 0.5)[metric].low is None
        for low, high in SWEEP_FROM_ABOVE if small_is_good else SWEEP:
            ends = Range(low / 100 if low else None, high / 100 if high < 100 else None)
            yield Row("one metric", f"{metric} {low}–{high}", _kept(scored, {metric: ends}))
    for pairing in PAIRINGS:
        other = score_table(scored.table, replace(scored.scoring, pairing=pairing, seed=bench.seed))
        yield Row("pairing", f"RIP with {pairing}", _kept(other, levels_for(RIP_METRICS, 0.5)))
    if not scored.scoring.length_residual:
        other = score_table(scored.table, replace(scored.scoring, length_residual=True))
        yield Row("length guard", "RIP on length residuals", _kept(other, levels_for(RIP_METRICS, 0.5)))
    size = int(_kept(scored, levels_for(RIP_METRICS, 0.5)).sum())
    yield Row("baseline", "random, RIP's size", baseline_verdict(bench, "random", size=size).kept)
    plain = [name for name, baseline in BASELINES.items() if not baseline.needs_model and name != "random"]
    for name in [*plain, *model_filters]:
        verdict = baseline_verdict(bench, name)
        yield Row("baseline", name, verdict.kept, verdict.warnings)


def _kept(scored: ScoredTable, levels: dict[MetricName, Range]) -> NDArray[np.bool_]:
    return rip_verdict(scored, CutRule(levels), tuple(levels)).kept


def _measured(
    row: Row, scored: ScoredTable, rip: NDArray[np.bool_], audit: NDArray[np.float64] | None, seed: int
) -> dict[str, Any]:
    """What a filter keeps: how much, how like RIP, and what the kept prompts are like by the table's own metrics."""
    kept, values = row.kept, scored.rip.values
    numbers = scored.rip.n[kept]
    either = (kept | rip).sum()
    found: dict[str, Any] = {
        "group": row.group,
        "filter": row.name,
        "kept": int(kept.sum()),
        "share": float(kept.mean()),
        "overlap_with_rip": float((kept & rip).sum() / either) if either else None,
        "n_least": int(numbers.min()) if len(numbers) else None,
        "n_most": int(numbers.max()) if len(numbers) else None,
    }
    for column, metric in enumerate(METRICS):
        found[f"mean_{metric}"] = _or_none(np.mean, values[kept, column])
        found[f"sd_{metric}"] = _or_none(np.std, values[kept, column])
    found["mean_prompt_chars"] = _or_none(np.mean, scored.prompts.str.len_chars().to_numpy()[kept])
    if audit is not None:
        chosen = np.where(scored.rip.chosen >= 0, audit[scored.rip.chosen], np.nan)
        for name, per_prompt in (("audit_chosen", chosen), ("audit_average", _averages(audit, scored.table.counts))):
            known = per_prompt[kept & np.isfinite(per_prompt)]
            low, high = bootstrap_interval(known, seed)
            found |= {name: _or_none(np.mean, known), f"{name}_low": low, f"{name}_high": high}
    return found


def bootstrap_interval(values: NDArray[np.float64], seed: int) -> tuple[float | None, float | None]:
    """95 % percentile bootstrap interval of the mean; none from fewer than two values."""
    if len(values) < 2:
        return None, None
    rng = np.random.default_rng(seed)
    means = [float(rng.choice(values, size=len(values)).mean()) for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _averages(audit: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean audit reward of each prompt's responses."""
    starts = np.cumsum(counts) - counts
    there = np.isfinite(audit)
    known = np.add.reduceat(there.astype(np.int64), starts)
    total = np.add.reduceat(np.where(there, audit, 0.0), starts)
    return np.where(known > 0, total / np.maximum(known, 1), np.nan)


def _or_none(reduce: Callable[[NDArray[Any]], Any], values: NDArray[Any]) -> float | None:
    return float(reduce(values)) if len(values) else None


SHOWN = {
    "filter": "filter", "kept": "kept", "share": "share", "overlap_with_rip": "overlap with RIP", "mean_m1": "m1",
    "mean_m2": "m2", "mean_m3": "m3", "mean_chosen_length": "chosen length", "mean_prompt_chars": "prompt length",
    "audit_chosen": "audit, chosen", "audit_average": "audit, average",
}  # fmt: skip
"""Columns for people, and what they are called."""

LENGTHS = ("mean_m2", "mean_chosen_length", "mean_prompt_chars")


def shown_rows(table: pl.DataFrame, *, narrow: bool = False) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the columns that a person looks at first.

    Args:
        table: of an ablation.
        narrow: leave out what does not fit on a terminal of 80 columns: lengths but m2, and intervals.
    """
    left_out = LENGTHS[1:] if narrow else ()
    columns = {name: title for name, title in SHOWN.items() if name in table.columns and name not in left_out}
    cells = [[_cell(name, row, interval=not narrow) for name in columns] for row in table.iter_rows(named=True)]
    return list(columns.values()), cells


def _cell(name: str, row: dict[str, Any], *, interval: bool) -> str:
    value = row[name]
    if value is None:
        return "–"
    if name in ("share", "overlap_with_rip"):
        return f"{value:.1%}"
    if name in LENGTHS:
        return f"{value:.0f}"
    if interval and row.get(f"{name}_low") is not None:
        return f"{value:.3f} ({row[f'{name}_low']:.3f}–{row[f'{name}_high']:.3f})"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def markdown(table: pl.DataFrame) -> str:
    """The table in Markdown."""
    titles, rows = shown_rows(table)
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
