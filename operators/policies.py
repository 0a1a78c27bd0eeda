"""Threshold policies: where the cuts of each generation come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from fittest.evo.records import METRICS, SMALL_IS_GOOD, MetricName, Range, Thresholds

if TYPE_CHECKING:
    from numpy.typing import NDArray


def levels_for(metrics: Sequence[MetricName], quantile: float) -> dict[MetricName, Range]:
    """Returns levels at which each metric alone cuts a share of `quantile`, from the side that is bad."""
    return {name: Range(high=1.0 - quantile) if name in SMALL_IS_GOOD else Range(low=quantile) for name in metrics}


@dataclass(frozen=True, slots=True)
class CutRule:
    """Makes cuts: levels are looked up in the prompts that they are fitted to; bounds hold as they are.

    Attributes:
        levels: the ends of the surviving range of each metric, as levels in [0, 1] of its distribution.
        bounds: ranges that hold whichever metrics count.
        quantile: the share that each metric may cut; None if the levels are not of one quantile.
    """

    levels: Mapping[MetricName, Range] = field(default_factory=dict)
    bounds: Mapping[MetricName, Range] = field(default_factory=dict)
    quantile: float | None = None

    def fit(self, values: NDArray[np.float64], policy: str) -> Thresholds:
        """Returns cuts that are fitted to prompts.

        Args:
            values: metrics of fully sampled prompts, shape (prompts, len(METRICS)); without any, only bounds cut.
            policy: the name to record.
        """
        cuts = {name: looked_up(values[:, METRICS.index(name)], ends) for name, ends in self.levels.items()}
        fitted = len(values) if self.levels else 0
        return Thresholds(policy, cuts, self.bounds, quantile=self.quantile, prompts_fitted=fitted)


class FrozenQuantile:
    """Fits cuts to generation 0 and keeps them, as the paper does; offspring pass easily (94 % in its Table 10)."""

    name = "quantile"

    def __init__(self, rule: CutRule) -> None:
        self._rule = rule
        self._fitted: Thresholds | None = None

    def known(self, generation: int) -> Thresholds | None:
        """Returns the cuts of the first fit, whatever the generation."""
        return self._fitted

    def fit(self, generation: int, values: NDArray[np.float64]) -> Thresholds:
        """Fits to the pool, or to its pilot; nothing can be kept as long as no prompt has metrics."""
        fitted = self._rule.fit(values, self.name)
        if len(values):
            self._fitted = fitted
        return fitted


class PerGeneration:
    """Fits cuts to each generation, so that selection goes on; an empty generation has the cuts of the one before."""

    name = "per-generation"

    def __init__(self, rule: CutRule) -> None:
        self._rule = rule
        self._previous: Thresholds | None = None

    def known(self, generation: int) -> Thresholds | None:
        """Returns None: the cuts of a generation depend on its prompts."""
        return None

    def fit(self, generation: int, values: NDArray[np.float64]) -> Thresholds:
        """Fits to this generation."""
        if len(values) or self._previous is None:
            self._previous = self._rule.fit(values, self.name)
        return self._previous


class Annealed:
    """Looks cuts up in the pool at a level that rises by generation, so that offspring do not pass ever more easily.

    Args:
        rules: the rule of each generation; the last one goes on.
    """

    name = "annealed"

    def __init__(self, rules: Sequence[CutRule]) -> None:
        self._rules = rules
        self._pool: NDArray[np.float64] | None = None

    def known(self, generation: int) -> Thresholds | None:
        """Returns the cuts at the level of this generation."""
        if self._pool is None:
            return None
        return self._rules[min(generation, len(self._rules) - 1)].fit(self._pool, self.name)

    def fit(self, generation: int, values: NDArray[np.float64]) -> Thresholds:
        """Remembers the pool, or its pilot, once a prompt has metrics."""
        if len(values):
            self._pool = values
        return self._rules[0].fit(values, self.name)


class Absolute:
    """Has cuts that are given beforehand, such as those of an earlier run."""

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
    """Has no cuts: survival goes by Pareto rank within the generation (`fittest.operators.rejection.outranked`).

    Args:
        quantile: the share of a generation that may go.
        bounds: hold all the same.
    """

    name = "pareto"

    def __init__(self, *, quantile: float, bounds: Mapping[MetricName, Range]) -> None:
        self._thresholds = Thresholds(self.name, {}, bounds, quantile=quantile)

    def known(self, generation: int) -> Thresholds | None:
        """Returns None: who survives depends on the rest of the generation."""
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
    """Returns rules whose quantile goes in equal steps from the pool to the last generation.

    Args:
        metrics: the metrics that cut.
        first: the quantile of the pool.
        last: the quantile of the last generation.
        generations: the number of generations of offspring.
        bounds: ranges that hold in all of them.
    """
    steps = np.linspace(first, last, generations + 1).tolist()
    return [CutRule(levels_for(metrics, quantile), bounds, quantile) for quantile in steps]


def looked_up(values: NDArray[np.float64], levels: Range) -> Range:
    """Returns the values at these levels of a distribution; an open range if there are no values."""
    if not len(values):
        return Range()
    low, high = (None if level is None else float(np.quantile(values, level)) for level in levels)
    return Range(low, high)
