"""From the [selection] of a configuration to a threshold policy, and to the metrics that count."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from evo.evolution import Settings
from evo.records import MetricName, Range
from evo.seeds import SeedTree, Stage
from fitness.pairing import BEST_WORST
from operators.policies import (
    Absolute,
    Annealed,
    CutRule,
    FrozenQuantile,
    Pareto,
    PerGeneration,
    annealed_rules,
    levels_for,
)
from runs.config import percentile_range
from runs.thresholds import FittedThresholds, load_thresholds

if TYPE_CHECKING:
    from evo.protocols import ThresholdPolicy
    from runs.config import Config, SelectionSection


def policy_of(config: Config, *, reward_id: str) -> ThresholdPolicy:
    """The threshold policy of a run.

    Raises:
        FittestError: the thresholds file cannot be used, or is for another reward.
    """
    selection = config.selection
    bounds = given_cuts(config, reward_id)
    if selects_by_rank(config):
        return Pareto(CutRule(bounds=bounds, quantile=selection.quantile))
    if selection.policy == "absolute":
        return Absolute(bounds)
    if selection.policy == "annealed":
        rules = annealed_rules(
            _fitted_metrics(selection),
            first=selection.quantile,
            last=selection.final_quantile or 0.0,
            generations=config.run.generations,
            bounds=bounds,
        )
        return Annealed(rules)
    rule = CutRule(_levels(selection), bounds, selection.quantile)
    return PerGeneration(rule) if selection.policy == "per-generation" else FrozenQuantile(rule)


def selects_by_rank(config: Config) -> bool:
    """Whether survival goes by Pareto rank within a generation instead of by cuts."""
    return config.selection.policy == "pareto" or config.run.arm == "best-of-n"


def settings_of(config: Config, *, pool_size: int, reward_id: str) -> Settings:
    """What shapes the run; a metric that is only bounded counts in every generation."""
    selection = config.selection
    guards = tuple(name for name in given_cuts(config, reward_id) if name not in selection.metrics)
    order = SeedTree(config.run.seed).generator(Stage.PILOT).permutation(pool_size)
    return Settings(
        generations=config.run.generations,
        offspring=config.operators.offspring,
        population=config.run.population,
        metrics=selection.metrics + guards,
        offspring_metrics=(selection.offspring_metrics or selection.metrics) + guards,
        target_survivors=config.budget.target_survivors,
        pilot=frozenset(order[: math.ceil(selection.pilot * pool_size)].tolist()),
    )


def given_cuts(config: Config, reward_id: str) -> dict[MetricName, Range]:
    """Cuts that are known before anything is sampled: bounds, and those of a thresholds file."""
    fitted, bounds = _loaded(config, reward_id), config.selection.bounds
    return bounds if fitted is None else dict(fitted.narrowed(bounds).thresholds.cuts)


def notices(config: Config, reward_id: str) -> list[str]:
    """What a reader of the run's tables should know about its selection."""
    found = []
    if reason := why_not_raced(config):
        found.append(f"racing is off: {reason}")
    fitted, n = _loaded(config, reward_id), config.engine.sampling.n
    if fitted is not None and fitted.n != n:
        was = "differing numbers of" if fitted.n is None else fitted.n
        found.append(
            f"the cuts were fitted to {was} responses per prompt, and this run draws {n}; m1 and m3 do not compare"
        )
    return found


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


def why_not_raced(config: Config) -> str | None:
    """Why a configuration that asks for racing cannot have it, or None."""
    selection = config.selection
    if not selection.race_round:
        return None
    if selection.pairing != BEST_WORST.name:
        return f"pairing {selection.pairing} draws the rejected response when all are there"
    if selects_by_rank(config):
        return "who survives by Pareto rank is known only when a generation is sampled"
    if selection.policy == "per-generation":
        return f'policy "{selection.policy}" knows its cuts only when a generation is sampled'
    levels = {} if selection.policy == "absolute" else _levels(selection)
    cuts = [levels, selection.bounds]
    from_below = any(cut.get("m1", Range()).low is not None for cut in cuts)
    from_above = any(cut.get("m3", Range()).high is not None for cut in cuts)
    if not (from_below or from_above or selection.thresholds):
        return "only a lower cut on m1 or an upper cut on m3 can be failed before all responses are there"
    return None


def _levels(selection: SelectionSection) -> dict[MetricName, Range]:
    levels = levels_for(_fitted_metrics(selection), selection.quantile)
    return levels | {name: percentile_range(name, *ends) for name, ends in selection.percentiles.items()}


def _fitted_metrics(selection: SelectionSection) -> list[MetricName]:
    """The metrics that cut in any generation."""
    return list(dict.fromkeys([*selection.metrics, *(selection.offspring_metrics or ())]))
