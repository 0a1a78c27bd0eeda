"""Says how far what a filter keeps would be kept again, from the responses that there are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fittest.evo.records import METRICS, MetricName, Thresholds
from fittest.evo.seeds import SeedTree, Stream
from fittest.fitness.halves import FEWEST_TO_HALVE, HalfDraws
from fittest.fitness.keep_probability import keep_probability, why_no_probability
from fittest.fitness.pairing import parse_pairing
from fittest.fitness.repeatability import stability
from fittest.operators.policies import CutRule
from fittest.operators.rejection import rule_that_keeps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fittest.runs.filters.scoring import ScoredTable


@dataclass(frozen=True)
class Repeated:
    """Says how far a table repeats itself under a filter.

    Attributes:
        repeatability: as in summary.json.
        keep_share: the share of half-samples on which each prompt is kept, NaN where unknown, shape (prompts,).
        keep_probability: the chance that a fresh draw of each prompt is kept, NaN where unknown, shape (prompts,).
        warnings: why some or all of these are unknown.
        min_probability: the least chance that is kept; None if the cuts decide.
    """

    repeatability: dict[str, Any]
    keep_share: NDArray[np.float64]
    keep_probability: NDArray[np.float64]
    warnings: list[str] = field(default_factory=list)
    min_probability: float | None = None


def half_draws(scored: ScoredTable, metrics: Collection[MetricName]) -> HalfDraws:
    """Returns the half draws of a table, from which these metrics can be computed."""
    return HalfDraws(
        scored.rewards,
        scored.lengths,
        scored.table.counts,
        pairing=parse_pairing(scored.scoring.pairing),
        draws=scored.draws,
        metrics=metrics,
        rng=SeedTree(scored.scoring.seed).generator(Stream.HALVES),
    )


def repeated(scored: ScoredTable, rule: CutRule | Thresholds, metrics: Sequence[MetricName]) -> Repeated:
    """Draws half-samples of a table and simulates fresh draws of it, both cut by RIP's rule.

    Args:
        scored: the responses with their metrics.
        rule: a rule that fits the cuts to the prompts with metrics, or cuts that are known beforehand.
        metrics: the metrics that are cut.
    """
    keep, looked_at = rule_that_keeps(rule, metrics), _looked_at(rule, metrics)
    found = stability(half_draws(scored, looked_at), keep, seed=scored.scoring.seed)
    reason = why_no_probability(keep, looked_at, scored.rip.n)
    probability = np.full(len(scored.rip.n), np.nan)
    if reason is None:
        probability = keep_probability(
            scored.rewards,
            scored.lengths,
            scored.table.counts,
            keep=keep,
            pairing=parse_pairing(scored.scoring.pairing),
            draws=scored.draws,
            seed=scored.scoring.seed,
        )
    return Repeated(found.repeatability, found.keep_share, probability, _warnings(found.keep_share, scored, reason))


def repeated_without_rule(scored: ScoredTable, reason: str) -> Repeated:
    """Says how far the metrics of a table repeat themselves, for a filter that is not applied to half draws.

    Args:
        scored: the responses with their metrics.
        reason: why the filter is not.
    """
    found = stability(half_draws(scored, ()), reason, seed=scored.scoring.seed)
    return Repeated(found.repeatability, found.keep_share, found.keep_share)


def _looked_at(rule: CutRule | Thresholds, metrics: Sequence[MetricName]) -> list[MetricName]:
    named = rule.levels if isinstance(rule, CutRule) else rule.cuts
    return [name for name in METRICS if (name in named and name in metrics) or name in rule.bounds]


def _warnings(share: NDArray[np.float64], scored: ScoredTable, reason: str | None) -> list[str]:
    # prompts without metrics have a warning of their own
    few = int((np.isnan(share) & scored.has_metrics).sum())
    found = [] if reason is None else [f"keep_probability is null: {reason}"]
    if few:
        found.append(f"keep_share of {few} prompts is null: fewer than {FEWEST_TO_HALVE} scored responses")
    return found
