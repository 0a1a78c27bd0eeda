"""Filters a table of responses that already have rewards: by RIP, or by a filter that RIP was compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fittest.evo.errors import FittestError
from fittest.runs.filters.band import Band, filter_by_band
from fittest.runs.filters.baselines import BASELINES, Workbench, filter_by_baseline
from fittest.runs.filters.cuts import By, Cuts
from fittest.runs.filters.filtered import TOO_FEW, Filtered, filter_by_rip, write_filtered
from fittest.runs.filters.repeated import Repeated, repeated, repeated_without_rule
from fittest.runs.filters.run_settings import RunSettings, settings_of
from fittest.runs.filters.scoring import ScoredTable, Scoring, score_table
from fittest.runs.output.places import claimed
from fittest.runs.sources.responses import Columns
from fittest.runs.sources.run_responses import gather_responses


@dataclass(frozen=True)
class FilterResult:
    """Names the folder that a filter has written, and holds its summary."""

    folder: Path
    summary: dict[str, Any]

    @property
    def survivors(self) -> pl.DataFrame:
        """Returns the prompts that were kept, as in survivors.parquet."""
        return pl.read_parquet(self.folder / "survivors.parquet")

    @property
    def rejected(self) -> pl.DataFrame:
        """Returns the prompts that were rejected, with the reason, as in rejected.parquet."""
        return pl.read_parquet(self.folder / "rejected.parquet")


def filter(
    responses: Path | str | Sequence[Path | str],
    out: Path | str,
    *,
    columns: Columns | None = None,
    scoring: Scoring | None = None,
    cuts: Cuts | None = None,
    by: By | None = None,
    band: Band | None = None,
    min_probability: float | None = None,
    generations: Sequence[int] = (0,),
) -> FilterResult:
    """Keeps the prompts of a table that pass rejection, and writes survivors, rejected, thresholds, summary and card.

    Args:
        responses: the folder of a run, or a Parquet, JSON lines or CSV file with one row for each response; or
            several of them.
        out: the folder for the results.
        columns: which column is what; None takes prompt, response and reward.
        scoring: how responses become metrics; None does what the run does, if there is one run alone.
        cuts: where RIP cuts; what is not stated is as in the run, and without one, each metric is cut at its median.
        by: another filter, in place of RIP.
        band: a band of mean reward, pass rate or spread, in place of RIP; of `cuts` it takes at_least and at_most.
        min_probability: keep the prompts whose keep_probability is at least this, in place of those that pass now.
        generations: the generations that are read of a run.

    Returns:
        The folder and its summary.

    Raises:
        FittestError: the table, the cuts or the folder cannot be used; the message says what is wrong.
    """
    columns, cuts, out = columns or Columns(), cuts or Cuts(), Path(out)
    sources = [Path(responses)] if isinstance(responses, (str, Path)) else [Path(source) for source in responses]
    run = settings_of(sources)
    scoring = scoring or (Scoring() if run is None else run.scoring)
    if by is not None:
        _check(by, cuts)
    if band is not None:
        band.check(cuts)
        if by is not None:
            raise FittestError(f"--by {by.name} and a band are two filters; give one of them")
    if min_probability is not None:
        _check_probability(min_probability, by, band)
    with claimed(out, "filter", inputs=sources) as claim:
        table = gather_responses(sources, columns, generations=generations).judged_by(scoring.reward_id)
        scored = score_table(table, scoring.named(table, columns))
        if band is not None:
            filtered = filter_by_band(scored, band, cuts)
            reason = "a band is not applied to half draws"
        else:
            filtered = _filtered_by_rip(scored, cuts, run, generations, min_probability)
        if by is not None:
            filtered = _filtered_by(by, scored, filtered, out / "journal.sqlite")
            reason = f"--by {by.name} is not applied to half draws"
        if band is not None or by is not None:
            filtered = replace(filtered, repeated=repeated_without_rule(scored, reason))
        claim.held.check()
        return FilterResult(out, write_filtered(scored, filtered, out))


def _filtered_by_rip(
    scored: ScoredTable,
    cuts: Cuts,
    run: RunSettings | None,
    generations: Sequence[int],
    min_probability: float | None,
) -> Filtered:
    rule = (cuts if run is None else run.completed(cuts, generations)).rule(scored.scoring)
    again = repeated(scored, rule.cuts, rule.metrics)
    filtered = replace(filter_by_rip(scored, rule.cuts, rule.metrics), repeated=again)
    if min_probability is not None:
        filtered = _likely(filtered, again, scored, min_probability)
    if run is not None and not (run.by_cuts or cuts):
        filtered.warnings.append("the run has no cuts that could be made again; these are quantiles of each metric")
    if run is not None and run.pilot and not cuts and 0 in generations:
        filtered.warnings.append(
            f"the run fitted its cuts to {run.pilot:.0%} of its pool (selection.pilot); these are fitted to all that"
            " was read, and --thresholds with the run's thresholds.json takes those of the run"
        )
    if run is not None and run.section.length_cap:
        filtered.warnings.append(
            f"the run counted m2 up to selection.length_cap = {run.section.length_cap}; here lengths count in full"
        )
    if rule.n is not None and set(scored.rip.n[scored.has_metrics].tolist()) - {rule.n}:
        filtered.warnings.append(
            f"the cuts were fitted to {rule.n} responses per prompt; with another number m1 and m3 do not compare"
        )
    return filtered


def _check(by: By, cuts: Cuts) -> None:
    if by.name not in BASELINES:
        raise FittestError(f"there is no filter {by.name!r}; known are {', '.join(BASELINES)}")
    # random takes them: it keeps as many prompts as RIP would with these cuts
    if by.name != "random" and cuts:
        raise FittestError(f"--by {by.name} has no use for RIP's cuts; it takes --keep and --size")


def _filtered_by(by: By, scored: ScoredTable, rip: Filtered, journal_file: Path) -> Filtered:
    # a random sample is a fair control only if it is as large as what RIP keeps
    size = int(rip.kept.sum()) if by.name == "random" and by.size is None else by.size
    bench = Workbench(scored, model=by.model, journal_file=journal_file, seed=scored.scoring.seed)
    return filter_by_baseline(bench, by.name, keep=by.range, size=size)


def _check_probability(least: float, by: By | None, band: Band | None) -> None:
    if not 0 < least <= 1:
        raise FittestError(f"--min-probability {least:g}: a probability lies above 0 and is at most 1")
    if by is not None or band is not None:
        raise FittestError("--min-probability goes with RIP's cuts, not with --by or a band")


def _likely(filtered: Filtered, again: Repeated, scored: ScoredTable, least: float) -> Filtered:
    """Keeps the prompts that a fresh draw would keep with this probability at least, whether or not they pass now."""
    chances = again.keep_probability
    if np.isnan(chances).all():
        raise FittestError(f"--min-probability: {'; '.join(again.warnings)}")
    reasons = [
        f"keep_probability {chance:.3f} is below {least:g}" if enough else TOO_FEW
        for chance, enough in zip(chances.tolist(), scored.has_metrics.tolist(), strict=True)
    ]
    return replace(filtered, kept=chances >= least, reasons=reasons, repeated=replace(again, min_probability=least))
