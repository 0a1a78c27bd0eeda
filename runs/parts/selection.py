"""From the [selection] of a configuration to what decides in a run which prompts survive, resolved once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from fittest.evo.errors import FittestError
from fittest.evo.records import RIP_METRICS, Range, Thresholds
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
)
from fittest.operators.tightening import Tightening
from fittest.runs.config.selection import POLICIES, AbsoluteSection, PilotSection
from fittest.runs.output.retested import NO_CUTS
from fittest.runs.output.thresholds import FittedThresholds, load_thresholds

if TYPE_CHECKING:
    from fittest.evo.protocols import ThresholdPolicy
    from fittest.runs.config import Config
    from fittest.runs.config.selection import (
        AnnealedSection,
        ParetoSection,
        PerGenerationSection,
        QuantileSection,
        SelectionSection,
        TighteningSection,
    )


@dataclass(frozen=True)
class Selection:
    """Says which prompts of a run survive; it is resolved once, with the other parts.

    Attributes:
        policy: decides the cuts.
        settings: the sizes of the run, and the metrics that count.
        by_rank: whether survival goes by Pareto rank within a generation instead of by cuts.
        raced: whether prompts are eliminated as soon as they cannot survive any more.
        warnings: what a reader of the run's tables should know.
        files: digests of the files that it was read from, by their key in the configuration.
    """

    policy: ThresholdPolicy
    settings: Settings
    by_rank: bool
    raced: bool
    warnings: tuple[str, ...]
    files: Mapping[str, str]


@dataclass(frozen=True)
class PolicyContext:
    """What a policy may build on.

    Attributes:
        generations: how many generations of offspring the run has.
        fitted: the cuts of an earlier run, if the configuration names their file.
    """

    generations: int
    fitted: FittedThresholds | None


def selection_of(config: Config, *, reward_id: str, pool_size: int) -> Selection:
    """Resolves the selection of a run; a thresholds file is read here and nowhere else.

    Args:
        config: the whole configuration.
        reward_id: the fingerprint of the reward, for which cuts of a file must have been fitted.
        pool_size: how many human prompts there are.

    Raises:
        FittestError: the thresholds file cannot be used, or race_confidence has nothing to work on.
    """
    section = config.selection
    by_rank = section.BY_RANK or config.run.arm == "best-of-n"
    fitted = _loaded(section, reward_id)
    policy = _policy(section, PolicyContext(config.run.generations, fitted), by_rank=by_rank)
    unraced = _why_not_raced(section, policy, n=config.engine.sampling.n, by_rank=by_rank)
    if unraced is not None and section.race_confidence is not None:
        raise FittestError(f"selection.race_confidence needs racing, which is off: {unraced}")
    settings = _settings(config, pool_size)
    unconfirmed = [f"confirmation is off: {NO_CUTS}"] if by_rank and settings.confirm else []
    return Selection(
        policy=policy,
        settings=replace(settings, confirm=0, retest=0.0) if by_rank else settings,
        by_rank=by_rank,
        raced=section.race_round > 0 and unraced is None,
        warnings=(*_warnings(unraced, fitted, n=config.engine.sampling.n), *unconfirmed),
        files={} if fitted is None else {"selection.thresholds": fitted.digest},
    )


def frozen_quantile(section: QuantileSection, context: PolicyContext) -> ThresholdPolicy:
    """Returns the policy that keeps the quantiles of the pool."""
    return FrozenQuantile(CutRule(section.levels, section.bounds, section.quantile))


def per_generation(section: PerGenerationSection, context: PolicyContext) -> ThresholdPolicy:
    """Returns the policy that fits quantiles to each generation."""
    return PerGeneration(CutRule(section.levels, section.bounds, section.quantile))


def annealed(section: AnnealedSection, context: PolicyContext) -> ThresholdPolicy:
    """Returns the policy that raises the level of the pool's quantiles."""
    return Annealed(
        annealed_rules(
            section.cutting_metrics,
            first=section.quantile,
            last=section.final_quantile,
            generations=context.generations,
            bounds=section.bounds,
        )
    )


def tightening(section: TighteningSection, context: PolicyContext) -> ThresholdPolicy:
    """Returns the policy that tightens the quantiles of the pool when too many offspring pass."""
    return Tightening(
        CutRule(section.levels, section.bounds, section.quantile),
        metrics=section.offspring_metrics or section.metrics,
        target_pass_rate=section.target_pass_rate,
    )


def absolute(section: AbsoluteSection, context: PolicyContext) -> ThresholdPolicy:
    """Returns the policy of given cuts.

    Args:
        section: holds the cuts, or names the file that does.
        context: holds the cuts of that file.

    Raises:
        FittestError: the file cuts a metric that does not count.
    """
    if context.fitted is None:
        return Absolute(Thresholds("absolute", section.cuts, section.bounds))
    foreign = [name for name in context.fitted.cuts if name not in (*RIP_METRICS, *section.cutting_metrics)]
    if foreign:
        raise FittestError(
            f"{section.thresholds}: cuts {', '.join(foreign)}, which selection.metrics does not name; add it there"
        )
    return Absolute(Thresholds("absolute", context.fitted.cuts, section.bounds))


def pareto(section: ParetoSection, context: PolicyContext) -> ThresholdPolicy:
    """Returns the policy without cuts."""
    return _by_rank(section)


def _by_rank(section: SelectionSection) -> ThresholdPolicy:
    return Pareto(quantile=section.quantile, bounds=section.bounds)


def _policy(section: SelectionSection, context: PolicyContext, *, by_rank: bool) -> ThresholdPolicy:
    # the arm "best-of-n" goes by rank whatever the policy
    return _by_rank(section) if by_rank else cast("ThresholdPolicy", POLICIES.make(section.policy, section, context))


def _settings(config: Config, pool_size: int) -> Settings:
    section = config.selection
    pilot = section.pilot if isinstance(section, PilotSection) else 0.0
    order = SeedTree(config.run.seed).generator(Stream.PILOT).permutation(pool_size)
    return Settings(
        generations=config.run.generations,
        offspring=config.operators.offspring,
        population=config.run.population,
        metrics=section.metrics,
        offspring_metrics=section.offspring_metrics or section.metrics,
        confirm=section.confirm,
        retest=section.retest,
        seed=config.run.seed,
        race_audit=section.race_audit,
        target_survivors=config.budget.target_survivors,
        pilot=frozenset(order[: math.ceil(pilot * pool_size)].tolist()),
    )


def _why_not_raced(section: SelectionSection, policy: ThresholdPolicy, *, n: int, by_rank: bool) -> str | None:
    """Returns why a configuration that asks for racing cannot have it, or None."""
    if not section.race_round:
        return None
    if section.race_round >= n:
        return f"race_round = {section.race_round} draws all {n} responses at once"
    if section.pairing != BEST_WORST.name:
        return f"pairing {section.pairing} draws the rejected response when all are there"
    if by_rank:
        return "who survives by Pareto rank is known only when a generation is sampled"
    if section.WITHIN_GENERATION:
        return f'policy "{section.policy}" knows its cuts only when a generation is sampled'
    cuts = policy.known(0)
    if cuts is None and section.levels is not None:
        # the levels stand for the cuts that will be fitted: both cut from the same sides
        cuts = Thresholds(section.policy, section.levels, section.bounds)
    if cuts is None:
        return None
    ranges = cuts.ranges(section.cutting_metrics)
    if ranges.get("m1", Range()).low is None and ranges.get("m3", Range()).high is None:
        return "only a lower cut on m1 or an upper cut on m3 can be failed before all responses are there"
    return None


def _warnings(unraced: str | None, fitted: FittedThresholds | None, *, n: int) -> list[str]:
    found = [] if unraced is None else [f"racing is off: {unraced}"]
    if fitted is not None and fitted.n != n:
        was = "differing numbers of" if fitted.n is None else fitted.n
        found.append(
            f"the cuts were fitted to {was} responses per prompt, and this run draws {n}; m1 and m3 do not compare"
        )
    return found


def _loaded(section: SelectionSection, reward_id: str) -> FittedThresholds | None:
    """Reads the thresholds file, if the configuration names one."""
    if not isinstance(section, AbsoluteSection) or section.thresholds is None:
        return None
    return load_thresholds(
        Path(section.thresholds),
        reward_id=reward_id,
        length_unit=section.length_unit,
        pairing=section.pairing,
    )
