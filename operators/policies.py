"""Provides the threshold policies, which decide where the cuts of each generation come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from fittest.evo.records import METRICS, SMALL_IS_GOOD, MetricName, Range, Thresholds

if TYPE_CHECKING:
    from numpy.typing import NDArray

# the ends of the surviving range of each metric, as levels in [0, 1] of its distribution
_Levels = Mapping[MetricName, Range]


def levels_for(metrics: Sequence[MetricName], quantile: float) -> dict[MetricName, Range]:
    """Returns the levels at which each metric alone cuts a share of `quantile`, from its bad side."""
    return {name: Range(high=1.0 - quantile) if name in SMALL_IS_GOOD else Range(low=quantile) for name in metrics}


@dataclass(frozen=True, slots=True)
class CutRule:
    """Says how cuts are made: levels are looked up in the prompts they are fitted to; bounds apply as they are."""

    levels: _Levels = field(default_factory=dict)
    bounds: Mapping[MetricName, Range] = field(default_factory=dict)
    quantile: float | None = None

    def fit(self, values: NDArray[np.float64], policy: str) -> Thresholds:
        """Fits cuts to prompts.

        Args:
            values: metrics of fully sampled prompts, shape (prompts, len(METRICS)); without any, only bounds cut.
            policy: the name of the policy, to be recorded.
        """
        cuts = {name: looked_up(values[:, METRICS.index(name)], ends) for name, ends in self.levels.items()}
        fitted = len(values) if self.levels else 0
        return Thresholds(policy, cuts, self.bounds, quantile=self.quantile, prompts_fitted=fitted)


class FrozenQuantile:
    """Fits cuts to generation 0 and keeps them, as the paper does.

    Offspring of survivors then pass easily (94 % in Table 10 of arXiv 2501.18578), so selection weakens.

    Args:
        rule: how cuts are made.
    """

    name = "quantile"

    def __init__(self, rule: CutRule) -> None:
        self._rule = rule
        self._fitted: Thresholds | None = None

    def known(self, generation: int) -> Thresholds | None:
        """Returns the first fit, for every generation; None before it."""
        return self._fitted

    def fit(self, generation: int, values: NDArray[np.float64]) -> Thresholds:
        """Fits cuts to the pool, or to its pilot, and keeps them."""
        # nothing can be kept while no prompt has metrics: the next fit may have some
        fitted = self._rule.fit(values, self.name)
        if len(values):
            self._fitted = fitted
        return fitted


class PerGeneration:
    """Fits cuts to each generation anew, so that selection never stops; an empty generation keeps the former cuts.

    Args:
        rule: how cuts are made.
    """

    name = "per-generation"

    def __init__(self, rule: CutRule) -> None:
        self._rule = rule
        self._previous: Thresholds | None = None

    def known(self, generation: int) -> Thresholds | None:
        """Returns None: the cuts depend on the whole generation."""
        return None

    def fit(self, generation: int, values: NDArray[np.float64]) -> Thresholds:
        """Fits cuts to this generation."""
        if len(values) or self._previous is None:
            self._previous = self._rule.fit(values, self.name)
        return self._previous


class Annealed:
    """Takes quantiles of the pool at a level that rises with each generation, so that selection does not weaken.

    Args:
        rules: the rule of each generation; the last one applies to all later generations.
    """

    name = "annealed"

    def __init__(self, rules: Sequence[CutRule]) -> None:
        self._rules = rules
        self._pool: NDArray[np.float64] | None = None

    def known(self, generation: int) -> Thresholds | None:
        """Returns cuts at the level of this generation, looked up in the pool; None before the pool is known."""
        if self._pool is None:
            return None
        return self._rules[min(generation, len(self._rules) - 1)].fit(self._pool, self.name)

    def fit(self, generation: int, values: NDArray[np.float64]) -> Thresholds:
        """Remembers the pool, or its pilot, once a prompt has metrics."""
        if len(values):
            self._pool = values
        return self._rules[0].fit(values, self.name)


class Absolute:
    """Uses cuts that are given beforehand, such as those of an earlier run.

    Args:
        given: the cuts.
    """

    name = "absolute"

    def __init__(self, given: Thresholds) -> None:
        self._given = replace(given, policy=self.name)

    def known(self, generation: int) -> Thresholds | None:
        """Returns the given cuts."""
        return self._given

    def fit(self, generation: int, values: NDArray[np.float64]) -> Thresholds:
        """Returns the given cuts, whatever the values."""
        return self._given


class Pareto:
    """Makes no cuts: prompts survive by Pareto rank within the generation (`fittest.operators.rejection.outranked`).

    Args:
        quantile: the share of a generation that may be rejected.
        bounds: ranges that apply nevertheless.
    """

    name = "pareto"

    def __init__(self, *, quantile: float, bounds: Mapping[MetricName, Range]) -> None:
        self._thresholds = Thresholds(self.name, {}, bounds, quantile=quantile)

    def known(self, generation: int) -> Thresholds | None:
        """Returns None: which prompts survive depends on the whole generation."""
        return None

    def fit(self, generation: int, values: NDArray[np.float64]) -> Thresholds:
        """Returns the bounds alone."""
        return self._thresholds


def annealed_rules(
    metrics: Sequence[MetricName],
    *,
    first: float,
    last: float,
    generations: int,
    bounds: Mapping[MetricName, Range],
) -> list[CutRule]:
    """Returns rules whose quantile goes in equal steps from one value to another.

    Args:
        metrics: the metrics that are cut.
        first: the quantile of the pool.
        last: the quantile of the last generation.
        generations: the number of generations of offspring.
        bounds: ranges that apply in every generation.
    """
    steps = np.linspace(first, last, generations + 1).tolist()
    return [CutRule(levels_for(metrics, quantile), bounds, quantile) for quantile in steps]


def looked_up(values: NDArray[np.float64], levels: Range) -> Range:
    """Returns the values at these levels of a distribution; without values, both ends are open."""
    if not len(values):
        return Range()
    low, high = (None if level is None else float(np.quantile(values, level)) for level in levels)
    return Range(low, high)
