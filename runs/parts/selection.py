"""From the [selection] of a configuration to a threshold policy, and to the metrics that count."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from fittest.evo.errors import FittestError
from fittest.evo.records import RIP_METRICS, MetricName, Range, Thresholds
from fittest.evo.seeds import SeedTree, Stream
from fittest.evo.state import Settings
from fittest.fitness.pairing import BEST_WORST
from fittest.operators.policies import (
    Absolute,
    Annealed,
    CutRule,
    FrozenQuantile,
    Pareto,
    PerGeneration,
    annealed_rules,
    levels_for,
)
from fittest.runs.config.selection import percentile_range
from fittest.runs.output.thresholds import FittedThresholds, load_thresholds

if TYPE_CHECKING:
    from fittest.evo.protocols import ThresholdPolicy
    from fittest.runs.config import Config
    from fittest.runs.config.selection import SelectionSection


def policy_of(config: Config, *, reward_id: str) -> ThresholdPolicy:
    """The threshold policy of a run.

    Raises:
        FittestError: the thresholds file cannot be used, or is for another reward.
    """
    selection = config.selection
    if selects_by_rank(config):
        return Pareto(quantile=selection.quantile, bounds=selection.bounds)
    if selection.policy == "absolute":
        return Absolute(_given(config, reward_id))
    if selection.policy == "annealed":
        rules = annealed_rules(
            _fitted_metrics(selection),
            first=selection.quantile,
            last=selection.final_quantile or 0.0,
            generations=config.run.generations,
            bounds=selection.bounds,
        )
        return Annealed(rules)
    rule = CutRule(_levels(selection), selection.bounds, selection.quantile)
    return PerGeneration(rule) if selection.policy == "per-generation" else FrozenQuantile(rule)


def selects_by_rank(config: Config) -> bool:
    """Whether survival goes by Pareto rank within a generation instead of by cuts."""
    return config.selection.policy == "pareto" or config.run.arm == "best-of-n"


def settings_of(config: Config, *, pool_size: int) -> Settings:
    """What shapes the run."""
    selection = config.selection
    order = SeedTree(config.run.seed).generator(Stream.PILOT).permutation(pool_size)
    return Settings(
        generations=config.run.generations,
        offspring=config.operators.offspring,
        population=config.run.population,
        metrics=selection.metrics,
        offspring_metrics=selection.offspring_metrics or selection.metrics,
        target_survivors=config.budget.target_survivors,
        pilot=frozenset(order[: math.ceil(selection.pilot * pool_size)].tolist()),
    )


def check_selection(config: Config, *, reward_id: str) -> list[str]:
    """What a reader of the run's tables should know about its selection.

    Raises:
        FittestError: the thresholds file cannot be used here, or race_confidence has nothing to work on.
    """
    found, fitted = [], _loaded(config, reward_id)
    if reason := why_not_raced(config, reward_id=reward_id):
        if config.selection.race_confidence is not None:
            raise FittestError(f"selection.race_confidence needs racing, which is off: {reason}")
        found.append(f"racing is off: {reason}")
    n = config.engine.sampling.n
    if fitted is not None and fitted.n != n:
        was = "differing numbers of" if fitted.n is None else fitted.n
        found.append(
            f"the cuts were fitted to {was} responses per prompt, and this run draws {n}; m1 and m3 do not compare"
        )
    return found


def why_not_raced(config: Config, *, reward_id: str) -> str | None:
    """Why a configuration that asks for racing cannot have it, or None."""
    selection, n = config.selection, config.engine.sampling.n
    if not selection.race_round:
        return None
    if selection.race_round >= n:
        return f"race_round = {selection.race_round} draws all {n} responses at once"
    if selection.pairing != BEST_WORST.name:
        return f"pairing {selection.pairing} draws the rejected response when all are there"
    if selects_by_rank(config):
        return "who survives by Pareto rank is known only when a generation is sampled"
    if selection.policy == "per-generation":
        return f'policy "{selection.policy}" knows its cuts only when a generation is sampled'
    if selection.policy == "absolute":
        thresholds = _given(config, reward_id)
    else:
        thresholds = Thresholds(selection.policy, _levels(selection), selection.bounds)
    ranges = thresholds.ranges(_fitted_metrics(selection))
    if ranges.get("m1", Range()).low is None and ranges.get("m3", Range()).high is None:
        return "only a lower cut on m1 or an upper cut on m3 can be failed before all responses are there"
    return None


def _given(config: Config, reward_id: str) -> Thresholds:
    """The cuts of policy "absolute", with the bounds beside them."""
    selection, fitted = config.selection, _loaded(config, reward_id)
    if fitted is None:
        return Thresholds("absolute", selection.absolute_cuts, selection.bounds)
    foreign = [name for name in fitted.cuts if name not in (*RIP_METRICS, *_fitted_metrics(selection))]
    if foreign:
        raise FittestError(
            f"{selection.thresholds}: cuts {', '.join(foreign)}, which selection.metrics does not name; add it there"
        )
    return Thresholds("absolute", fitted.cuts, selection.bounds)


def _loaded(config: Config, reward_id: str) -> FittedThresholds | None:
    """The thresholds file, where the configuration names one."""
    selection = config.selection
    if selection.thresholds is None:
        return None
    return load_thresholds(
        Path(selection.thresholds),
        reward_id=reward_id,
        length_unit=selection.length_unit,
        pairing=selection.pairing,
    )


def _levels(selection: SelectionSection) -> dict[MetricName, Range]:
    levels = levels_for(_fitted_metrics(selection), selection.quantile)
    return levels | {name: percentile_range(name, *ends) for name, ends in selection.percentiles.items()}


def _fitted_metrics(selection: SelectionSection) -> list[MetricName]:
    """The metrics that cut in any generation."""
    return list(dict.fromkeys([*selection.metrics, *(selection.offspring_metrics or ())]))
