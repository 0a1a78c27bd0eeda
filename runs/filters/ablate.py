"""Compares what every filter and cut keeps of one response table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from fittest.evo.records import METRICS, RIP_METRICS, MetricName, Range
from fittest.fitness.pairing import BEST_WORST
from fittest.fitness.repeatability import stabilities
from fittest.operators.policies import CutRule, levels_for
from fittest.operators.rejection import rule_that_keeps
from fittest.runs.filters.baselines import BASELINES, Workbench, filter_by_baseline
from fittest.runs.filters.filtered import filter_by_rip, table_warnings
from fittest.runs.filters.repeated import half_draws
from fittest.runs.filters.scoring import ScoredTable, Scoring, score_table
from fittest.runs.output.atomic import write_json, write_parquet, write_text
from fittest.runs.output.places import claimed
from fittest.runs.output.together import replaced_together
from fittest.runs.sources.responses import ResponseTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RIP = "RIP at 50 %"
_SWEEP = ((10, 100), (25, 100), (50, 100), (60, 100), (75, 100))
"""Surviving percentiles of the paper's single-metric sweeps (Table 20)."""
_SWEEP_FROM_ABOVE = ((0, 25), (0, 50), (50, 100))
"""The same for metrics of which small values are good."""
_PAIRINGS = ("best-random", "best-bottom:0.25", "best-bottom:0.5", "best-bottom:0.75")
_RESAMPLES = 1000
"""Bootstrap samples of prompts behind each interval."""


@dataclass(frozen=True)
class _Contender:
    """Holds one filter or cut, what it keeps, shape (prompts,), and what a reader should know about it.

    `rule` says how it fits cuts to the metrics of `scored`; without it, the filter cannot be applied to half draws.
    """

    group: str
    name: str
    kept: NDArray[np.bool_]
    warnings: Sequence[str] = ()
    scored: ScoredTable | None = None
    rule: CutRule | None = None


@dataclass(frozen=True)
class _Ablation:
    """Holds the finished comparison: `table` has one row for each filter or cut.

    `repeatability` is that of the metrics, and of RIP at 50 %.
    """

    table: pl.DataFrame
    warnings: list[str]
    repeatability: dict[str, Any]


def ablate(
    responses: ResponseTable,
    scoring: Scoring,
    out: Path,
    *,
    audit: NDArray[np.float64] | None = None,
    model_filters: Sequence[str] = (),
    model: str = "smollm2-135m",
    seed: int = 0,
) -> _Ablation:
    """Compares filters, and writes ablation.parquet, ablation.md and summary.json.

    Args:
        responses: a table with one row per response.
        scoring: how the responses become metrics.
        out: the folder; its journal.sqlite keeps a model's replies and likelihoods.
        audit: another reward of every response, which no filter sees, shape (responses,); NaN for a missing one.
        model_filters: the filters of `BASELINES` that ask the model, to be compared as well.
        model: the model that they ask.
        seed: the seed of all draws.
    """
    scored = score_table(responses, scoring)
    with claimed(out, "ablate") as claim:
        bench = Workbench(scored, model=model, journal_file=out / "journal.sqlite", seed=seed)
        ablation = _compared(scored, bench, audit, model_filters)
        claim.held.check()
        with replaced_together(out) as new:
            write_parquet(new / "ablation.parquet", ablation.table)
            write_text(new / "ablation.md", _markdown(ablation.table))
            write_json(new / "summary.json", {
                "prompts": len(responses.counts), "filters": ablation.table.height,
                "reward_id": scoring.full_reward_id, "length_unit": scoring.length_unit, "pairing": scoring.pairing,
                "seed": seed, "model": model if model_filters else None, "warnings": ablation.warnings,
                "repeatability": ablation.repeatability,
            })  # fmt: skip
    return ablation


def _compared(
    scored: ScoredTable, bench: Workbench, audit: NDArray[np.float64] | None, model_filters: Sequence[str]
) -> _Ablation:
    rows = list(_contenders(scored, bench, model_filters))
    warnings = [*table_warnings(scored), *(warning for row in rows for warning in row.warnings)]
    rip = next(row.kept for row in rows if row.name == _RIP)
    warnings += [f"{row.name}: keeps no prompt" for row in rows if not row.kept.any()]
    # whichever pairing a filter uses, what it keeps is measured by the same one, or the rows would not compare
    plain = score_table(scored.table, replace(scored.scoring, pairing=BEST_WORST.name))
    again = _repeatabilities(rows, bench.seed)
    measured = [
        _measured(row, plain, rip, audit, bench.seed) | _survive(record)
        for row, record in zip(rows, again, strict=True)
    ]
    # the first rows may have nulls in columns that later rows fill, so all rows decide the types
    table = pl.DataFrame(measured, infer_schema_length=None)
    return _Ablation(table, warnings, next(found for row, found in zip(rows, again, strict=True) if row.name == _RIP))


def _contenders(scored: ScoredTable, bench: Workbench, model_filters: Sequence[str]) -> Iterator[_Contender]:
    yield _Contender("none", "no filter", scored.has_metrics)
    for level in (25, 50, 75):
        name = _RIP if level == 50 else f"RIP at {level} %"
        yield _by_levels("RIP", name, scored, levels_for(RIP_METRICS, level / 100))
    for two in (("m1", "m2"), ("m1", "m3"), ("m2", "m3")):
        yield _by_levels("pair", f"{two[0]}, {two[1]} at 50 %", scored, levels_for(two, 0.5))
    for metric in METRICS:
        small_is_good = levels_for([metric], 0.5)[metric].low is None
        for low, high in _SWEEP_FROM_ABOVE if small_is_good else _SWEEP:
            ends = Range(low / 100 if low else None, high / 100 if high < 100 else None)
            yield _by_levels("one metric", f"{metric} {low}–{high}", scored, {metric: ends})
    for pairing in _PAIRINGS:
        other = score_table(scored.table, replace(scored.scoring, pairing=pairing, seed=bench.seed))
        yield _by_levels("pairing", f"RIP with {pairing}", other, levels_for(RIP_METRICS, 0.5))
    if not scored.scoring.length_residual:
        other = score_table(scored.table, replace(scored.scoring, length_residual=True))
        yield _by_levels("length guard", "RIP on length residuals", other, levels_for(RIP_METRICS, 0.5))
    size = int(_by_levels("RIP", _RIP, scored, levels_for(RIP_METRICS, 0.5)).kept.sum())
    yield _Contender("baseline", "random, RIP's size", filter_by_baseline(bench, "random", size=size).kept)
    plain = [name for name, baseline in BASELINES.items() if not baseline.needs_model and name != "random"]
    for name in [*plain, *model_filters]:
        filtered = filter_by_baseline(bench, name)
        yield _Contender("baseline", name, filtered.kept, filtered.warnings)


def _by_levels(group: str, name: str, scored: ScoredTable, levels: dict[MetricName, Range]) -> _Contender:
    rule = CutRule(levels)
    return _Contender(group, name, filter_by_rip(scored, rule, tuple(levels)).kept, scored=scored, rule=rule)


def _repeatabilities(rows: Sequence[_Contender], seed: int) -> list[dict[str, Any]]:
    """Returns what summary.json says about repeatability, for each filter; those of one table share its half draws."""
    found: list[dict[str, Any]] = [{"survive": None} for _ in rows]
    # a table with other pairs or rewards has other metrics, and an order of its own
    for table in {id(row.scored): row.scored for row in rows if row.scored is not None}.values():
        places = [place for place, row in enumerate(rows) if row.scored is table]
        rules = [rule for place in places if (rule := rows[place].rule) is not None]
        metrics = {name for rule in rules for name in rule.levels}
        keeps = [rule_that_keeps(rule, tuple(rule.levels)) for rule in rules]
        for place, stability in zip(places, stabilities(half_draws(table, metrics), keeps, seed=seed), strict=True):
            found[place] = stability.repeatability
    return found


def _survive(repeatability: dict[str, Any]) -> dict[str, float | None]:
    """Returns the columns that say which share of those kept on one half is kept on the other, with its interval."""
    survive = repeatability["survive"] or {}
    return {"survive": survive.get("share"), "survive_low": survive.get("low"), "survive_high": survive.get("high")}


def _measured(
    row: _Contender, scored: ScoredTable, rip: NDArray[np.bool_], audit: NDArray[np.float64] | None, seed: int
) -> dict[str, Any]:
    """Returns how much a filter keeps, how much of it RIP keeps too, and the metrics of the kept prompts."""
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
            low, high = _bootstrap_interval(known, seed)
            found |= {name: _or_none(np.mean, known), f"{name}_low": low, f"{name}_high": high}
    return found


def _bootstrap_interval(values: NDArray[np.float64], seed: int) -> tuple[float | None, float | None]:
    """Returns the 95 % percentile bootstrap interval of the mean, or (None, None) for fewer than two values.

    Args:
        values: the sample, shape (n,).
        seed: the seed of the resampling.
    """
    if len(values) < 2:
        return None, None
    rng = np.random.default_rng(seed)
    means = [float(rng.choice(values, size=len(values)).mean()) for _ in range(_RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _averages(audit: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the mean audit reward of each prompt's responses, shape (prompts,); NaN if all are missing."""
    starts = np.cumsum(counts) - counts
    there = np.isfinite(audit)
    known = np.add.reduceat(there.astype(np.int64), starts)
    total = np.add.reduceat(np.where(there, audit, 0.0), starts)
    return np.where(known > 0, total / np.maximum(known, 1), np.nan)


def _or_none(reduce: Callable[[NDArray[Any]], Any], values: NDArray[Any]) -> float | None:
    # the mean of nothing is NaN with a warning, and warnings are errors here
    return float(reduce(values)) if len(values) else None


_SHOWN = {
    "filter": "filter", "kept": "kept", "share": "share", "overlap_with_rip": "overlap with RIP", "mean_m1": "m1",
    "mean_m2": "m2", "mean_m3": "m3", "survive": "kept again", "mean_chosen_length": "chosen length",
    "mean_prompt_chars": "prompt length", "audit_chosen": "audit, chosen", "audit_average": "audit, average",
}  # fmt: skip
"""The columns that people see, and their headings."""

_LENGTHS = ("mean_m2", "mean_chosen_length", "mean_prompt_chars")


def shown_rows(table: pl.DataFrame, *, narrow: bool = False) -> tuple[list[str], list[list[str]]]:
    """Returns headings and cells of the columns that a person looks at first.

    Args:
        table: the table of an ablation.
        narrow: whether to leave out what does not fit on a terminal of 80 columns: intervals, and all lengths
            except m2.
    """
    left_out = _LENGTHS[1:] if narrow else ()
    columns = {name: title for name, title in _SHOWN.items() if name in table.columns and name not in left_out}
    cells = [[_cell(name, row, interval=not narrow) for name in columns] for row in table.iter_rows(named=True)]
    return list(columns.values()), cells


def _cell(name: str, row: dict[str, Any], *, interval: bool) -> str:
    value = row[name]
    if value is None:
        return "–"
    if name in ("share", "overlap_with_rip", "survive"):
        return f"{value:.1%}"
    if name in _LENGTHS:
        return f"{value:.0f}"
    if interval and row.get(f"{name}_low") is not None:
        return f"{value:.3f} ({row[f'{name}_low']:.3f}–{row[f'{name}_high']:.3f})"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _markdown(table: pl.DataFrame) -> str:
    titles, rows = shown_rows(table)
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
